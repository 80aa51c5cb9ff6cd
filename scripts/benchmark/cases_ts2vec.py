"""The measured cases of TS2Vec on series of the length of ETTh1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .inputs import NUM_CHANNELS, etth1_like_series, timed

WINDOW_LENGTH = 201  # padding 200


def _encoder() -> Any:
    from hf_tsrep.modeling.configuration_ts2vec import TS2VecConfig
    from hf_tsrep.modeling.modeling_ts2vec import TS2VecModel

    torch.manual_seed(0)
    return TS2VecModel(TS2VecConfig(num_input_channels=NUM_CHANNELS, gate_padding=False)).eval()


def _plain_encoder() -> Any:
    from .plain_ts2vec import PlainTS2Vec

    return PlainTS2Vec(_encoder()).eval()


def _sample(embeddings: np.ndarray) -> list[float]:
    return np.asarray(embeddings, dtype=np.float64)[:: len(embeddings) // 16].ravel()[:4096].tolist()


def causal_encode(plain: bool) -> dict[str, Any]:
    """Encode causally with a window of 201 steps at every step of the series."""
    series = etth1_like_series()
    if plain:
        model = _plain_encoder()
        with torch.inference_mode():
            seconds, result = timed(lambda: model.slide_causally(torch.from_numpy(series), WINDOW_LENGTH, 256).numpy())
    else:
        model = _encoder()
        model.encode(series[:300], level="timestamp", window_length=WINDOW_LENGTH, causal=True)
        seconds, result = timed(
            lambda: model.encode(series, level="timestamp", window_length=WINDOW_LENGTH, causal=True)
        )
    return {"seconds": seconds, "sample": _sample(result)}


def whole_encode(plain: bool) -> dict[str, Any]:
    """Encode 64 series of 1,000 steps, 32 at a time; the plain side is our own model's bare forward pass."""
    model = _encoder()
    series = etth1_like_series()[:16000].reshape(16, 1000, NUM_CHANNELS).repeat(4, axis=0)

    def bare() -> np.ndarray:
        with torch.inference_mode():
            return torch.cat(
                [model(torch.from_numpy(series[start : start + 32])).pooler_output for start in (0, 32)]
            ).numpy()

    run = bare if plain else lambda: model.encode(series, batch_size=32)
    run()
    times = [timed(run) for _ in range(5)]
    return {"seconds": float(np.median([seconds for seconds, _ in times])), "sample": _sample(times[0][1])}


def _training_step(plain: bool, crops: str, count: int) -> dict[str, Any]:
    from hf_tsrep.modeling.configuration_ts2vec import TS2VecConfig
    from hf_tsrep.modeling.modeling_ts2vec import TS2VecForPreTraining, TS2VecViews, draw_views
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_ts2vec import PlainTS2Vec

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    torch.manual_seed(0)
    config = TS2VecConfig(num_input_channels=NUM_CHANNELS, output_dropout=0.0)
    model: Any = TS2VecForPreTraining(config).train()
    values = torch.from_numpy(etth1_like_series()[: 2 * 4320].reshape(2, 4320, NUM_CHANNELS))
    if plain:
        plain_model = PlainTS2Vec(model.model).train()
        parameters = list(plain_model.parameters())
    else:
        parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []

    def step(views: TS2VecViews) -> None:
        loss = plain_model.loss(values, views) if plain else model(values, views=views).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    def views() -> TS2VecViews:
        if crops == "drawn":
            return draw_views(2, 4320, config, generator)
        start = torch.zeros(2, dtype=torch.long)
        masks = [torch.rand(2, 4320, generator=generator) < 0.5 for _ in range(2)]
        return TS2VecViews(4320, start, 4320, start, 4320, *masks)

    def steps() -> None:
        for _ in range(count):
            step(views())

    step(views())
    seconds, _ = timed(steps)
    return {"seconds": seconds / count, "sample": losses}


def training_step(plain: bool) -> dict[str, Any]:
    """Train on 2 pieces of 4,320 steps with drawn crops; seconds a step."""
    return _training_step(plain, "drawn", 20)


def long_training_step(plain: bool) -> dict[str, Any]:
    """Train on 2 pieces of 4,320 steps with crops of the whole length; seconds a step."""
    return _training_step(plain, "longest", 3)


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "causal_encode": causal_encode,
    "whole_encode": whole_encode,
    "training_step": training_step,
    "long_training_step": long_training_step,
}
