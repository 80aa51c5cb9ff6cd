"""The measured cases of TimeDRL at its published ETTh1 settings: 512 x 7, patches of 16, width 128, batches of 32.

The plain side does what the official code does: a pass a view, in evaluation too, although both views are equal there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

NUM_CHANNELS, BATCH_SIZE, LENGTH, DROPOUT = 7, 32, 512, 0.2


def _model(dropout: float) -> Any:
    from hf_tsrep.modeling.configuration_timedrl import TimeDRLConfig
    from hf_tsrep.modeling.modeling_timedrl import TimeDRLForPreTraining

    torch.manual_seed(0)
    return TimeDRLForPreTraining(
        TimeDRLConfig(
            num_input_channels=NUM_CHANNELS,
            channel_mode="independent",
            position_embedding="learned",
            prediction_target="raw",
            dropout=dropout,
        )
    )


def _values(batch_size: int, length: int) -> torch.Tensor:
    return torch.randn(batch_size, length, NUM_CHANNELS, generator=torch.Generator().manual_seed(0))


def _operations(config: Any, batch_size: int, length: int) -> float:
    """Return the operations of the matrix products of one pass, additions counted too."""
    rows, tokens, width = batch_size * NUM_CHANNELS, 1 + config.layout.num_patches(length), config.hidden_size
    of_a_token = 12 * width**2 + 2 * tokens * width
    ends = config.token_kernel_size * config.patch_length * width + width * config.patch_length
    return 2.0 * rows * tokens * (config.num_hidden_layers * of_a_token + ends)


def _step(plain: bool, batch_size: int, length: int) -> dict[str, Any]:
    """Train on one batch; seconds a step with dropout, and the losses of steps without it."""
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_timedrl import PlainTimeDRL

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    values = _values(batch_size, length)
    results: dict[float, tuple[float, list[float]]] = {}
    for dropout in (0.0, DROPOUT):
        model = _model(dropout).train()
        plain_model = PlainTimeDRL(model, dropout).train()
        optimizer = torch.optim.AdamW(plain_model.parameters() if plain else model.parameters(), lr=1e-4)

        def step(ours: Any = model, theirs: PlainTimeDRL = plain_model, chosen: Any = optimizer) -> float:
            loss = theirs.loss(values) if plain else ours(values).loss
            chosen.zero_grad()
            loss.backward()
            chosen.step()
            return loss.item()

        losses = [step() for _ in range(3)]
        seconds = []
        for _ in range(5 if dropout else 0):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        results[dropout] = min(seconds, default=0.0), losses
    # Two views, and the backward pass has twice the products of the forward pass.
    operations = 2 * 3 * _operations(_model(0.0).config, batch_size, length)
    return {"seconds": results[DROPOUT][0], "sample": results[0.0][1], "operations": operations}


def timedrl_step(plain: bool) -> dict[str, Any]:
    """Train on 32 series of 512 x 7."""
    return _step(plain, BATCH_SIZE, LENGTH)


def timedrl_long_step(plain: bool) -> dict[str, Any]:
    """Train on 8 series of 2,048 x 7: as many timestamps as in timedrl_step."""
    return _step(plain, BATCH_SIZE // 4, 4 * LENGTH)


def timedrl_encode(plain: bool) -> dict[str, Any]:
    """Embed 32 series of 512 x 7."""
    from .plain_timedrl import PlainTimeDRL

    model, values = _model(DROPOUT).eval(), _values(BATCH_SIZE, LENGTH)
    plain_model = PlainTimeDRL(model, DROPOUT).eval()

    def run() -> torch.Tensor:
        if not plain:
            return model.model(values).pooler_output
        first, second = plain_model.encode(values), plain_model.encode(values)
        return ((first[:, 0] + second[:, 0]) / 2).unflatten(0, (-1, NUM_CHANNELS)).mean(1)

    with torch.inference_mode():
        run()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            result = run()
            seconds.append(time.perf_counter() - start)
    operations = _operations(model.config, BATCH_SIZE, LENGTH)
    return {"seconds": min(seconds), "sample": result.flatten().tolist(), "operations": operations}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "timedrl_step": timedrl_step,
    "timedrl_long_step": timedrl_long_step,
    "timedrl_encode": timedrl_encode,
}
