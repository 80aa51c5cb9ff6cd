"""The measured cases of SimMTM, at its published ETTh1 settings: 336 x 7, width 32, 16 heads, 3 layers, 3 views."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

NUM_CHANNELS, NUM_VIEWS, HIDDEN_SIZE, NUM_LAYERS, INTERMEDIATE_SIZE = 7, 4, 32, 3, 64


def _model(context_length: int, dropout: float) -> Any:
    from hf_tsrep.modeling.configuration_simmtm import SimMTMConfig
    from hf_tsrep.modeling.modeling_simmtm import SimMTMForPreTraining

    torch.manual_seed(0)
    config = SimMTMConfig(
        num_input_channels=NUM_CHANNELS,
        context_length=context_length,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=16,
        intermediate_size=INTERMEDIATE_SIZE,
        num_masked_views=NUM_VIEWS - 1,
        dropout=dropout,
        head_dropout=dropout,
    )
    return SimMTMForPreTraining(config).train()


def _values(batch_size: int, length: int) -> torch.Tensor:
    walk = np.random.default_rng(0).standard_normal((batch_size, length, NUM_CHANNELS)).cumsum(axis=1)
    return torch.from_numpy(((walk - walk.mean()) / walk.std()).astype(np.float32))


def _operations(length: int, with_pretext: bool) -> float:
    """Operations of the matrix products of one channel's forward pass, additions counted too."""
    layer = length * (4 * HIDDEN_SIZE**2 + 2 * HIDDEN_SIZE * INTERMEDIATE_SIZE) + 2 * length**2 * HIDDEN_SIZE
    features = length * HIDDEN_SIZE
    projector = features**2 / 2 + features / 2 * 128 + features * length / NUM_VIEWS
    return 2.0 * (NUM_LAYERS * layer + length * 3 * HIDDEN_SIZE + (projector if with_pretext else 0.0))


def _step(plain: bool, length: int, batch_size: int, plain_batch_size: int) -> dict[str, Any]:
    from hf_tsrep.modeling.modeling_simmtm import SimMTMDraws, draw_step
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_simmtm import plain_loss, plain_mask

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    numpy_generator = np.random.default_rng(0)

    def plain_masks(num_series: int) -> torch.Tensor:
        masks = [
            plain_mask(length, 0.5, 3.0, numpy_generator) for _ in range((NUM_VIEWS - 1) * num_series * NUM_CHANNELS)
        ]
        stacked = torch.from_numpy(np.stack(masks)).view(NUM_VIEWS - 1, num_series, NUM_CHANNELS, length)
        return stacked.transpose(2, 3)

    # What is compared: the loss without dropout, on the same masks.
    model = _model(length, 0.0)
    values = _values(plain_batch_size, length)
    keep = draw_step(model.config, plain_batch_size, length, torch.Generator().manual_seed(0)).keep
    with torch.no_grad():
        loss = plain_loss(model, values, keep) if plain else model(values, draws=SimMTMDraws(0, keep)).loss
    del model
    model = _model(length, 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = _values(plain_batch_size if plain else batch_size, length)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = plain_loss(model, values, plain_masks(len(values))) if plain else model(values).loss
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        seconds.append((time.perf_counter() - start) / len(values))
    operations = 3.0 * NUM_VIEWS * NUM_CHANNELS * _operations(length, True)
    return {"seconds": min(seconds), "sample": [loss.item()], "operations": operations}


def simmtm_step(plain: bool) -> dict[str, Any]:
    """Pre-train at the published batch of 16, the plain side at 4; seconds a SERIES, dropout of attention left out."""
    return _step(plain, 336, 16, 4)


def simmtm_short_step(plain: bool) -> dict[str, Any]:
    """Pre-train on series of half the length; seconds a series."""
    return _step(plain, 168, 16, 4)


def simmtm_long_step(plain: bool) -> dict[str, Any]:
    """Pre-train on series of 504 steps; seconds a series."""
    return _step(plain, 504, 8, 1)


def simmtm_encode(plain: bool) -> dict[str, Any]:
    """Encode 16 series of 336 x 7; seconds a series."""
    from .plain_simmtm import plain_normalize, plain_points

    model = _model(336, 0.1).model.eval()
    values = _values(16, 336)

    def run() -> np.ndarray:
        if not plain:
            return model.encode(values, batch_size=16)
        normalised, _, _ = plain_normalize(values, torch.ones_like(values, dtype=torch.bool))
        points = [plain_points(model.encoder, one.T) for one in normalised]
        return torch.stack([point.mean((0, 1)) for point in points]).numpy()

    with torch.inference_mode():
        run()
        start = time.perf_counter()
        embeddings = run()
        seconds = (time.perf_counter() - start) / len(values)
    operations = NUM_CHANNELS * _operations(336, False)
    return {"seconds": seconds, "sample": embeddings.ravel().astype(float).tolist(), "operations": operations}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "simmtm_step": simmtm_step,
    "simmtm_short_step": simmtm_short_step,
    "simmtm_long_step": simmtm_long_step,
    "simmtm_encode": simmtm_encode,
}
