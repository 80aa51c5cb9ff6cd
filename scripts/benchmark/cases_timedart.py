"""The measured cases of TimeDART at its published ETTh1 settings: 336 x 7, patches of 2, width 32, batches of 16.

Without dropout, which both sides have in the same places. The plain side holds all attention weights, as the official
code does, and so takes a part of the batch at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

NUM_CHANNELS, BATCH_SIZE, LENGTH = 7, 16, 336


def _model() -> Any:
    from hf_tsrep.modeling.configuration_timedart import TimeDARTConfig
    from hf_tsrep.modeling.modeling_timedart import TimeDARTForPreTraining

    torch.manual_seed(0)
    sizes = {"num_input_channels": NUM_CHANNELS, "num_attention_heads": 16}
    return TimeDARTForPreTraining(TimeDARTConfig(**sizes, dropout=0.0, head_dropout=0.0))


def _values(batch_size: int) -> torch.Tensor:
    return torch.randn(batch_size, LENGTH, NUM_CHANNELS, generator=torch.Generator().manual_seed(0))


def _operations(config: Any, num_layers: int) -> float:
    """Return the operations of the matrix products of one series' forward pass, additions counted too."""
    tokens, width = config.num_context_patches, config.hidden_size
    of_a_token = 4 * width**2 + 2 * width * config.intermediate_size + 2 * tokens * width
    return 2.0 * NUM_CHANNELS * tokens * num_layers * of_a_token


def timedart_step(plain: bool, batch_size: int = BATCH_SIZE) -> dict[str, Any]:
    """Train on series of 336 x 7; seconds a SERIES, and the losses of the first steps."""
    from hf_tsrep.modeling.modeling_timedart import draw_step, noise_levels
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_timedart import PlainTimeDART

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    model = _model().train()
    plain_model, levels = PlainTimeDART(model), noise_levels(model.config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    num_series = min(batch_size, 4)  # what is compared, and a step of the plain side
    generator, losses, seconds = torch.Generator().manual_seed(0), [], []
    for step in range(5):
        is_compared = step < 2
        values = _values(num_series if plain or is_compared else batch_size)
        start = time.perf_counter()
        draws = draw_step(model.config, len(values), LENGTH, generator)
        if plain:
            level = levels[draws.time_steps].flatten(0, 1).unsqueeze(-1)
            loss = plain_model.loss(values, level, draws.noise.flatten(0, 1))
        else:
            loss = model(values, draws=draws).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if is_compared:
            losses.append(loss.item())
        else:
            seconds.append((time.perf_counter() - start) / len(values))
    operations = 3 * _operations(model.config, 2)  # the decoder's products are few
    return {"seconds": min(seconds), "sample": losses, "operations": operations}


def timedart_encode(plain: bool, batch_size: int = BATCH_SIZE) -> dict[str, Any]:
    """Embed 16 series of 336 x 7; seconds a series."""
    from .plain_timedart import PlainTimeDART

    model, values = _model().eval(), _values(batch_size)
    plain_model = PlainTimeDART(model)

    def run() -> torch.Tensor:
        if plain:
            return torch.cat([plain_model.embed(part) for part in values.split(4)])
        return torch.from_numpy(model.encode(values, layout="ntc"))

    with torch.inference_mode():
        run()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            result = run()
            seconds.append((time.perf_counter() - start) / len(values))
    operations = _operations(model.config, 2)
    return {"seconds": min(seconds), "sample": result.flatten().tolist(), "operations": operations}


def timedart_forecast(plain: bool, batch_size: int = 4, prediction_length: int = 96) -> dict[str, Any]:
    """Forecast 96 steps of 4 series of 336 x 7 patch by patch; the plain side decodes all earlier patches again."""
    from hf_tsrep.modeling.backbones_timedart import DecoderMasks, causal_mask
    from hf_tsrep.modeling.configuration_timedart import TimeDARTConfig
    from hf_tsrep.modeling.modeling_timedart import TimeDARTForTimeSeriesPrediction

    torch.manual_seed(0)
    sizes = {"num_input_channels": NUM_CHANNELS, "num_attention_heads": 16, "prediction_length": prediction_length}
    model = TimeDARTForTimeSeriesPrediction(TimeDARTConfig(**sizes)).eval()
    values, head, encoder = _values(batch_size), model.head, model.model.encoder

    def run() -> torch.Tensor:
        if not plain:
            return model(values).prediction_outputs
        inputs = model.compute_head_inputs(values).head_inputs
        memory = inputs["patches"].flatten(0, 1)
        start = head.denoiser.start_token.expand(memory.shape[0], -1, -1)
        told: list[torch.Tensor] = []
        for index in range(head.num_patches):
            hidden = torch.cat([start, *(encoder.embed(one) for one in told)], dim=1)
            masks = DecoderMasks(causal_mask(index + 1, memory.device)[None, None])
            told.append(head.denoiser.project(head.denoiser.decode(hidden, head.denoiser.read(memory), masks)[:, -1:]))
        return head.by_timestamps(torch.cat(told, dim=1)) * inputs["deviation"] + inputs["mean"]

    with torch.inference_mode():
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            result = run()
            seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "sample": result.flatten().tolist()}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "timedart_step": timedart_step,
    "timedart_encode": timedart_encode,
    "timedart_forecast": timedart_forecast,
}
