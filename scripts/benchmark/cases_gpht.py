"""The measured cases of GPHT: a step, embeddings, and futures of 96 and 720 steps, at width 128."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

CONTEXT_LENGTH, TOKEN_LENGTH, POOLING_RATES = 336, 48, [8, 4, 2, 1]
HIDDEN_SIZE, NUM_LAYERS, NUM_HEADS, INTERMEDIATE_SIZE = 128, 3, 8, 512
NUM_CHANNELS = 7


def _clock() -> float:
    """Seconds of the processor, a thread: what else the machine does at the time is not counted."""
    return time.process_time() / torch.get_num_threads()


def _model(dropout: float = 0.1) -> Any:
    from hf_tsrep.modeling.configuration_gpht import GPHTConfig
    from hf_tsrep.modeling.modeling_gpht import GPHTForPreTraining

    torch.manual_seed(0)
    config = GPHTConfig(
        num_input_channels=NUM_CHANNELS,
        context_length=CONTEXT_LENGTH,
        token_length=TOKEN_LENGTH,
        pooling_rates=POOLING_RATES,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        intermediate_size=INTERMEDIATE_SIZE,
        dropout=dropout,
    )
    return GPHTForPreTraining(config)


def _values(batch_size: int, length: int) -> torch.Tensor:
    walk = np.random.default_rng(0).standard_normal((batch_size, length, NUM_CHANNELS)).cumsum(axis=1)
    return torch.from_numpy(((walk - walk.mean()) / walk.std()).astype(np.float32))


def _operations(num_tokens: int) -> float:
    """Operations of the matrix products of one window of one channel, additions counted too; attention is little."""
    layers = NUM_LAYERS * (4 * HIDDEN_SIZE**2 + 2 * HIDDEN_SIZE * INTERMEDIATE_SIZE)
    embeddings = sum(TOKEN_LENGTH // rate for rate in POOLING_RATES) * HIDDEN_SIZE
    return 2.0 * num_tokens * (len(POOLING_RATES) * (layers + HIDDEN_SIZE * TOKEN_LENGTH) + embeddings)


def gpht_step(plain: bool, batch_size: int = 32) -> dict[str, Any]:
    """Pre-train on windows of 336 + 48 steps of 7 channels, with dropout; seconds a window of all channels."""
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_gpht import plain_loss

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    values = _values(batch_size, CONTEXT_LENGTH + TOKEN_LENGTH)
    model = _model(0.0).train()  # what is compared: the loss without dropout
    with torch.no_grad():
        loss = plain_loss(model, values) if plain else model(values).loss
    model = _model().train()
    optimizer, seconds = torch.optim.Adam(model.parameters(), lr=1e-4), []
    for _ in range(3):
        start = _clock()
        found = plain_loss(model, values) if plain else model(values).loss
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        seconds.append((_clock() - start) / batch_size)
    operations = 3.0 * NUM_CHANNELS * _operations(CONTEXT_LENGTH // TOKEN_LENGTH)
    return {"seconds": min(seconds), "sample": [loss.item()], "operations": operations}


def _timed(run: Callable[[], np.ndarray], num_windows: int, operations: float) -> dict[str, Any]:
    with torch.inference_mode():
        run()
        seconds = []
        for _ in range(3):
            start = _clock()
            found = run()
            seconds.append((_clock() - start) / num_windows)
    return {"seconds": min(seconds), "sample": found.ravel()[:5000].astype(float).tolist(), "operations": operations}


def gpht_encode(plain: bool, batch_size: int = 32) -> dict[str, Any]:
    """Encode 32 series of 336 steps of 7 channels; seconds a series."""
    from .plain_gpht import plain_stages

    model, values = _model().eval(), _values(batch_size, CONTEXT_LENGTH)

    def run() -> np.ndarray:
        if plain:
            hidden = torch.cat(plain_stages(model, values)[0], dim=-1)
            return hidden.unflatten(0, (batch_size, -1)).mean((1, 2)).numpy()
        return model.encode(values, batch_size=batch_size)

    return _timed(run, batch_size, NUM_CHANNELS * _operations(CONTEXT_LENGTH // TOKEN_LENGTH))


def _generate(plain: bool, length: int, rule: str, batch_size: int = 8) -> dict[str, Any]:
    from .plain_gpht import plain_future, plain_future_in_place

    model, values = _model().eval(), _values(batch_size, CONTEXT_LENGTH)

    def run() -> np.ndarray:
        if not plain:
            return model.generate(values, length, generation_window=rule).numpy()
        tell = plain_future if rule == "sliding" else plain_future_in_place
        return tell(model, values, length).numpy()

    steps, tokens = -(-length // TOKEN_LENGTH), CONTEXT_LENGTH // TOKEN_LENGTH
    read = steps * tokens if rule == "sliding" else tokens + steps - 1
    return _timed(run, batch_size, NUM_CHANNELS * _operations(read))


def gpht_generate_96(plain: bool) -> dict[str, Any]:
    """Tell 96 steps of 8 windows of 7 channels by the published sliding window; seconds a window."""
    return _generate(plain, 96, "sliding")


def gpht_generate_720(plain: bool) -> dict[str, Any]:
    """Tell 720 steps of 8 windows of 7 channels by the published sliding window; seconds a window."""
    return _generate(plain, 720, "sliding")


def gpht_generate_720_cached(plain: bool) -> dict[str, Any]:
    """Tell 720 steps by the fixed window, with kept keys and values beside the whole forward; seconds a window."""
    return _generate(plain, 720, "fixed")


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "gpht_step": gpht_step,
    "gpht_encode": gpht_encode,
    "gpht_generate_96": gpht_generate_96,
    "gpht_generate_720": gpht_generate_720,
    "gpht_generate_720_cached": gpht_generate_720_cached,
}
