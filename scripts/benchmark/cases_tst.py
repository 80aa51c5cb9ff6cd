"""The measured cases of TST: the official sizes, at 144 timestamps of 9 channels, and long series with a window."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

HIDDEN_SIZE, NUM_LAYERS, INTERMEDIATE_SIZE = 64, 3, 256


def _model(length: int, num_channels: int, window: int | None, dropout: float) -> Any:
    from hf_tsrep.modeling.configuration_tst import TSTConfig
    from hf_tsrep.modeling.modeling_tst import TSTForPreTraining

    torch.manual_seed(0)
    config = TSTConfig(
        num_input_channels=num_channels,
        context_length=length,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        intermediate_size=INTERMEDIATE_SIZE,
        attention_window=window,
        dropout=dropout,
        head_dropout=dropout,
    )
    return TSTForPreTraining(config).train()


def _values(batch_size: int, length: int, num_channels: int) -> torch.Tensor:
    walk = np.random.default_rng(0).standard_normal((batch_size, length, num_channels)).cumsum(axis=1)
    return torch.from_numpy(((walk - walk.mean()) / walk.std()).astype(np.float32))


def _operations(length: int, num_channels: int, window: int | None) -> float:
    """Operations of the matrix products of one series' forward pass, additions counted too."""
    seen = length if window is None or length <= window else 1.5 * window
    layer = length * (4 * HIDDEN_SIZE**2 + 2 * HIDDEN_SIZE * INTERMEDIATE_SIZE) + 2 * length * seen * HIDDEN_SIZE
    return 2.0 * (NUM_LAYERS * layer + 2 * length * HIDDEN_SIZE * num_channels)


def _step(
    plain: bool, length: int, num_channels: int, window: int | None, batch_size: int, plain_batch_size: int
) -> dict[str, Any]:
    from hf_tsrep.modeling.modeling_tst import TSTDraws, draw_step
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_tst import plain_loss, plain_masks

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    # What is compared: the loss without dropout, on the same masks.
    model = _model(length, num_channels, window, 0.0)
    values = _values(plain_batch_size, length, num_channels)
    keep = draw_step(model.config, plain_batch_size, length, torch.Generator().manual_seed(0)).keep
    with torch.no_grad():
        loss = plain_loss(model, values, keep) if plain else model(values, draws=TSTDraws(0, keep)).loss
    del model
    model = _model(length, num_channels, window, 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = _values(plain_batch_size if plain else batch_size, length, num_channels)
    numpy_generator, seconds = np.random.default_rng(0), []
    for _ in range(3):
        start = time.perf_counter()
        if plain:
            found = plain_loss(model, values, plain_masks(values, model.config, numpy_generator))
        else:
            found = model(values).loss
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        seconds.append((time.perf_counter() - start) / len(values))
    operations = 3.0 * _operations(length, num_channels, window)
    return {"seconds": min(seconds), "sample": [loss.item()], "operations": operations}


def tst_step(plain: bool, length: int = 144, batch_size: int = 32) -> dict[str, Any]:
    """Pre-train on series of 144 x 9 at the published batch of 32; seconds a SERIES, no dropout of attention."""
    return _step(plain, length, 9, None, batch_size, min(batch_size, 8))


def tst_long_step(plain: bool, length: int = 2048, batch_size: int = 4) -> dict[str, Any]:
    """Pre-train on series of 2,048 x 4 with a window of 128 timestamps; seconds a series."""
    return _step(plain, length, 4, 128, batch_size, 1)


def tst_encode(plain: bool, length: int = 144, batch_size: int = 32) -> dict[str, Any]:
    """Encode 32 series of 144 x 9; seconds a series."""
    from .plain_tst import plain_tokens

    model = _model(length, 9, None, 0.1).model.eval()
    values = _values(batch_size, length, 9)

    def run() -> np.ndarray:
        if plain:
            return plain_tokens(model.encoder, values).mean(1).numpy()
        return model.encode(values, batch_size=batch_size)

    with torch.inference_mode():
        run()
        start = time.perf_counter()
        embeddings = run()
        seconds = (time.perf_counter() - start) / len(values)
    operations = _operations(length, 9, None)
    return {"seconds": seconds, "sample": embeddings.ravel().astype(float).tolist(), "operations": operations}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "tst_step": tst_step,
    "tst_long_step": tst_long_step,
    "tst_encode": tst_encode,
}
