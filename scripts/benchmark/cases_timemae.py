"""The measured cases of TimeMAE: the official sizes for HAR, series of 128 timestamps of 9 channels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

LENGTH, NUM_CHANNELS = 128, 9


def _model(**fields: Any) -> Any:
    from hf_tsrep.modeling.configuration_timemae import TimeMAEConfig
    from hf_tsrep.modeling.modeling_timemae import TimeMAEForPreTraining

    torch.manual_seed(0)
    config = TimeMAEConfig(num_input_channels=NUM_CHANNELS, context_length=LENGTH, **fields)
    model = TimeMAEForPreTraining(config).train()
    with torch.no_grad():  # gates of 1e-8 would hide what the branches compute
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                parameter.fill_(0.5)
    model.after_optimizer_step()
    return model


def _operations(model: Any, num_windows: int, is_training: bool) -> float:
    """Operations of the matrix products of one series, additions counted too."""
    config = model.config
    width, inner = config.hidden_size, config.feed_forward_size
    embedding = num_windows * width * NUM_CHANNELS * config.patch_length
    of_token = 4 * width**2 + 2 * width * inner
    if not is_training:
        return 2.0 * (embedding + config.num_hidden_layers * num_windows * (of_token + 2 * num_windows * width))
    num_masked = config.count_masked(num_windows)
    num_visible = num_windows - num_masked
    encoder, targets = (
        config.num_hidden_layers * count * (of_token + 2 * count * width) for count in (num_visible, num_masked)
    )
    of_query = 2 * width**2 + 2 * width * inner + 2 * num_visible * width
    regressor = config.num_regressor_layers * (num_masked * of_query + 2 * num_visible * width**2)
    codewords = num_masked * width * config.num_codewords
    # What has a gradient is computed three times as it were; the targets, and their codewords, once.
    return 2.0 * (3 * (embedding + encoder + regressor + codewords) + targets + codewords)


def timemae_step(plain: bool, batch_size: int = 128) -> dict[str, Any]:
    """Pre-train on 128 series at the official settings, dropout included; seconds a step."""
    from hf_tsrep.modeling.modeling_timemae import draw_step
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_timemae import plain_loss

    if not plain:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    values = torch.randn(batch_size, LENGTH, NUM_CHANNELS, generator=torch.Generator().manual_seed(1))
    # What is compared: the loss without dropout, on the same draws.
    model = _model(dropout=0.0, attention_dropout=0.0, regressor_dropout=0.0)
    draws = draw_step(model.config, batch_size, LENGTH, torch.Generator().manual_seed(0))
    with torch.no_grad():
        if plain:
            loss = plain_loss(model, values, draws.permutation, draws.gumbel_noise)
        else:
            loss = model(values, draws=draws).loss
    model, num_windows, seconds = _model(), len(draws.permutation), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(4):
        start = time.perf_counter()
        found = plain_loss(model, values, torch.randperm(num_windows), None) if plain else model(values).loss
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        model.after_optimizer_step()
        seconds.append(time.perf_counter() - start)
    operations = batch_size * _operations(model, num_windows, is_training=True)
    return {"seconds": min(seconds), "sample": [loss.item()], "operations": operations}


def timemae_encode(plain: bool, batch_size: int = 128) -> dict[str, Any]:
    """Encode 128 series; seconds for all."""
    from .plain_timemae import plain_encode

    model = _model().model.eval()
    values = torch.randn(batch_size, LENGTH, NUM_CHANNELS, generator=torch.Generator().manual_seed(1))

    def run() -> Any:
        return plain_encode(model, values).numpy() if plain else model.encode(values, batch_size=batch_size)

    seconds = []
    with torch.inference_mode():
        embeddings = run()
        for _ in range(3):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    num_windows = LENGTH // model.config.patch_length
    operations = batch_size * _operations(model, num_windows, is_training=False)
    return {"seconds": min(seconds), "sample": embeddings.ravel().astype(float).tolist(), "operations": operations}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {"timemae_step": timemae_step, "timemae_encode": timemae_encode}
