"""The measured cases. Each runs in a process of its own and returns seconds and some of what it computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .cases_crosstimenet import tokenize, tokenizer_step
from .cases_simmtm import simmtm_encode, simmtm_long_step, simmtm_short_step, simmtm_step
from .cases_timedrl import timedrl_encode, timedrl_long_step, timedrl_step

NUM_STEPS, NUM_CHANNELS, WINDOW_LENGTH = 17420, 14, 201  # ETTh1, multivariate, with time features; padding 200
HORIZONS = (24, 48, 168, 336, 720)


def _series() -> np.ndarray:
    generator = np.random.default_rng(0)
    walk = generator.standard_normal((NUM_STEPS, NUM_CHANNELS)).cumsum(axis=0)
    return ((walk - walk.mean(0)) / walk.std(0)).astype(np.float32)


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _encoder() -> Any:
    from ..modeling.configuration_ts2vec import TS2VecConfig
    from ..modeling.modeling_ts2vec import TS2VecModel

    torch.manual_seed(0)
    return TS2VecModel(TS2VecConfig(num_input_channels=NUM_CHANNELS, gate_padding=False)).eval()


def _plain_encoder() -> Any:
    from .plain_ts2vec import PlainTS2Vec

    return PlainTS2Vec(_encoder()).eval()


def _sample(embeddings: np.ndarray) -> list[float]:
    return np.asarray(embeddings, dtype=np.float64)[:: len(embeddings) // 16].ravel()[:4096].tolist()


def causal_encode(plain: bool) -> dict[str, Any]:
    """Encode causally with a window of 201 steps at every step of the series."""
    series = _series()
    if plain:
        model = _plain_encoder()
        with torch.inference_mode():
            seconds, result = _timed(
                lambda: model.slide_causally(torch.from_numpy(series), WINDOW_LENGTH, 256).numpy()
            )
    else:
        model = _encoder()
        model.encode(series[:300], level="timestamp", window_length=WINDOW_LENGTH, causal=True)
        seconds, result = _timed(
            lambda: model.encode(series, level="timestamp", window_length=WINDOW_LENGTH, causal=True)
        )
    return {"seconds": seconds, "sample": _sample(result)}


def whole_encode(plain: bool) -> dict[str, Any]:
    """Encode 64 series of 1,000 steps, 32 at a time; the plain side is our own model's bare forward pass."""
    model = _encoder()
    series = _series()[:16000].reshape(16, 1000, NUM_CHANNELS).repeat(4, axis=0)

    def bare() -> np.ndarray:
        with torch.inference_mode():
            return torch.cat(
                [model(torch.from_numpy(series[start : start + 32])).pooler_output for start in (0, 32)]
            ).numpy()

    run = bare if plain else lambda: model.encode(series, batch_size=32)
    run()
    times = [_timed(run) for _ in range(5)]
    return {"seconds": float(np.median([seconds for seconds, _ in times])), "sample": _sample(times[0][1])}


def _training_step(plain: bool, crops: str, count: int) -> dict[str, Any]:
    from ..modeling.configuration_ts2vec import TS2VecConfig
    from ..modeling.modeling_ts2vec import TS2VecForPreTraining, TS2VecViews, draw_views
    from ..training.memory import give_back_freed_blocks
    from .plain_ts2vec import PlainTS2Vec

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    torch.manual_seed(0)
    config = TS2VecConfig(num_input_channels=NUM_CHANNELS, output_dropout=0.0)
    model: Any = TS2VecForPreTraining(config).train()
    values = torch.from_numpy(_series()[: 2 * 4320].reshape(2, 4320, NUM_CHANNELS))
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
    seconds, _ = _timed(steps)
    return {"seconds": seconds / count, "sample": losses}


def training_step(plain: bool) -> dict[str, Any]:
    """Train on 2 pieces of 4,320 steps with drawn crops; seconds a step."""
    return _training_step(plain, "drawn", 20)


def long_training_step(plain: bool) -> dict[str, Any]:
    """Train on 2 pieces of 4,320 steps with crops of the whole length; seconds a step."""
    return _training_step(plain, "longest", 3)


def ridge_protocol(plain: bool) -> dict[str, Any]:
    """Choose alpha and fit the ridge for all horizons; representations of 320 dimensions, 7 target channels."""
    from ..evaluation.forecasting import ridge_forecast

    generator = np.random.default_rng(0)
    targets = _series()[:14400, :7]
    mixing = generator.standard_normal((7, 320))
    noise = generator.standard_normal((14400, 320))
    representations = np.tanh(targets @ mixing + 0.3 * noise).astype(np.float32)
    bounds = {"train": (0, 8640), "validation": (8640, 11520), "test": (11520, 14400)}
    run = _plain_ridge if plain else ridge_forecast
    seconds, result = _timed(lambda: run(representations, targets, bounds, HORIZONS))
    return {"seconds": seconds, "sample": _ridge_numbers(result)}


def _ridge_numbers(result: Any) -> list[float]:
    numbers: list[float] = []
    for horizon in HORIZONS:
        numbers += [result[horizon].alpha, result[horizon].mse, result[horizon].mae]
    return numbers


def _plain_ridge(representations: np.ndarray, targets: np.ndarray, bounds: dict, horizons: tuple[int, ...]) -> dict:
    from sklearn.linear_model import Ridge

    from ..evaluation.forecasting import HorizonResult

    def samples(split: str, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        start, stop = bounds[split]
        rows, values = representations[start:stop], targets[start:stop]
        future = np.stack([values[1 + step : len(values) - horizon + 1 + step] for step in range(horizon)], axis=1)
        skip = 200 if split == "train" else 0
        return rows[: len(future)][skip:], future.reshape(len(future), -1)[skip:]

    results = {}
    for horizon in horizons:
        train, validation, test = (samples(split, horizon) for split in ("train", "validation", "test"))
        scores = {}
        for alpha in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
            difference = Ridge(alpha=alpha).fit(*train).predict(validation[0]) - validation[1]
            scores[alpha] = np.sqrt((difference**2).mean()) + np.abs(difference).mean()
        chosen = min(scores, key=scores.__getitem__)
        difference = Ridge(alpha=chosen).fit(*train).predict(test[0]) - test[1]
        errors = float((difference**2).mean()), float(np.abs(difference).mean())
        results[horizon] = HorizonResult(horizon, chosen, scores[chosen], *errors, None, None, len(test[0]))
    return results


def windows(plain: bool) -> dict[str, Any]:
    """Cut 100,000 windows of 200 x 7 in batches of 64; the plain side slices and stacks them one by one."""
    from ..data import SeriesBank, WindowDataset

    series = [_series()[:, :7].copy()]
    dataset = WindowDataset(SeriesBank(series), window_length=200)
    order = np.random.default_rng(0).integers(0, len(dataset), 100_000)
    total = 0.0

    def cut() -> None:
        nonlocal total
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            if plain:
                batch = torch.from_numpy(np.stack([series[0][index : index + 200] for index in chosen]))
            else:
                batch = dataset.batch(chosen.tolist())["past_values"]
            total += float(batch[0, 0, 0])

    cut()
    total = 0.0
    seconds, _ = _timed(cut)
    return {"seconds": seconds, "sample": [total]}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "causal_encode": causal_encode,
    "whole_encode": whole_encode,
    "training_step": training_step,
    "long_training_step": long_training_step,
    "ridge_protocol": ridge_protocol,
    "windows": windows,
    "tokenize": tokenize,
    "tokenizer_step": tokenizer_step,
    "simmtm_step": simmtm_step,
    "simmtm_short_step": simmtm_short_step,
    "simmtm_long_step": simmtm_long_step,
    "simmtm_encode": simmtm_encode,
    "timedrl_step": timedrl_step,
    "timedrl_long_step": timedrl_long_step,
    "timedrl_encode": timedrl_encode,
}
