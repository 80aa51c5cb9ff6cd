"""The measured cases of ShapeNet at its default sizes: series of three channels, 60 segments a series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .inputs import timed

NUM_CHANNELS, BATCH_SIZE, LENGTH = 3, 10, 500


def _model() -> Any:
    from hf_tsrep.modeling.configuration_shapenet import ShapeNetConfig
    from hf_tsrep.modeling.modeling_shapenet import ShapeNetForPreTraining

    torch.manual_seed(0)
    return ShapeNetForPreTraining(ShapeNetConfig(num_input_channels=NUM_CHANNELS))


def _values(batch_size: int, length: int) -> torch.Tensor:
    values = torch.randn(batch_size, length, NUM_CHANNELS, generator=torch.Generator().manual_seed(0)).cumsum(1)
    return (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True)


def shapenet_step(plain: bool, batch_size: int = BATCH_SIZE, length: int = LENGTH) -> dict[str, Any]:
    """Train on 10 series of 500 x 3; seconds a step."""
    from hf_tsrep.modeling.modeling_shapenet import draw_choices
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_shapenet import make_plain

    model = _model().train()
    if plain:
        make_plain(model.model)
    else:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    values, generator = _values(batch_size, length), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []

    def step() -> None:
        loss = model(values, draws=draw_choices(batch_size, model.config, generator)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    step()
    seconds = [timed(step)[0] for _ in range(4)]
    return {"seconds": min(seconds), "sample": losses}


def shapenet_encode(plain: bool, batch_size: int = BATCH_SIZE, length: int = LENGTH) -> dict[str, Any]:
    """Embed 10 series of 500 x 3, all 60 segments of each."""
    from .plain_shapenet import make_plain

    model, values = _model().model.eval(), _values(batch_size, length)
    if plain:
        make_plain(model)
    with torch.inference_mode():
        model(values)
        times = [timed(lambda: model(values).pooler_output) for _ in range(3)]
    return {"seconds": min(seconds for seconds, _ in times), "sample": times[0][1].flatten().tolist()}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "shapenet_step": shapenet_step,
    "shapenet_encode": shapenet_encode,
}
