"""GPHT's stages, loss and sliding window by their equations: what the fast ones are measured against."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from hf_tsrep.modeling.layers_transformer import sinusoidal_positions


def plain_stage(stage: Any, rows: torch.Tensor, token_length: int) -> torch.Tensor:
    """Pool, embed and encode (num_rows, length): (num_rows, num_tokens, hidden_size)."""
    pooled = F.max_pool1d(rows.unsqueeze(1), stage.rate).squeeze(1)
    patches = pooled.unfold(-1, token_length // stage.rate, token_length // stage.rate)
    hidden = stage.embedding(patches)
    hidden = stage.dropout(hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], rows.device))
    later = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).triu(1)
    for layer in stage.encoder.layers:
        attention = layer.attention
        size = hidden.shape[-1]
        # Query, key and value by a layer each, as the official code has them.
        query, key, value = (
            F.linear(hidden, weight, bias).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for weight, bias in zip(
                attention.input_projection.weight.split(size), attention.input_projection.bias.split(size), strict=True
            )
        )
        scores = (query @ key.transpose(-1, -2)).masked_fill(later, -torch.inf) / math.sqrt(query.shape[-1])
        weights = attention.dropout(scores.softmax(-1))
        attended = attention.output_projection((weights @ value).transpose(1, 2).flatten(2))
        hidden = layer.attention_norm(hidden + layer.attention_dropout(attended))
        inner = layer.expansion_dropout(F.gelu(layer.expansion(hidden)))
        hidden = layer.output_norm(hidden + layer.contraction_dropout(layer.contraction(inner)))
    return stage.encoder.norm(hidden)


def plain_stages(model: Any, values: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Go through the stages.

    Args:
        model: A model with a head of forecasts; its weights and config are used.
        values: (batch_size, context_length, num_channels), without missing values.

    Returns:
        The embeddings, one (num_rows, num_tokens, hidden_size) a stage; and what every token predicts, in the units of
        the values, (batch_size, context_length, num_channels).
    """
    token_length = model.config.token_length
    mean = values.mean(1, keepdim=True)
    deviation = (values.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    rows = ((values - mean) / deviation).transpose(1, 2).flatten(0, 1)
    heads = [one.projection for one in (*model.model.forecasts, model.head)]
    hidden, prediction = list[torch.Tensor](), torch.zeros_like(rows)
    for stage, head in zip(model.model.stages, heads, strict=True):
        hidden.append(plain_stage(stage, rows, token_length))
        output = head(hidden[-1]).flatten(1)
        prediction = prediction + output
        rows = rows - torch.cat((torch.zeros_like(output[:, :token_length]), output[:, :-token_length]), dim=1)
    prediction = prediction.unflatten(0, (len(values), -1)).transpose(1, 2)
    return hidden, prediction * deviation + mean


def plain_loss(model: Any, values: torch.Tensor) -> torch.Tensor:
    """Compute the loss of GPHTForPreTraining of windows of the context and the token after it; a scalar."""
    token_length = model.config.token_length
    return F.mse_loss(plain_stages(model, values[:, :-token_length])[1], values[:, token_length:])


def plain_future(model: Any, values: torch.Tensor, length: int) -> torch.Tensor:
    """Tell the future by the sliding window, as the official test does: (batch_size, length, num_channels)."""
    parts: list[torch.Tensor] = []
    for _ in range(-(-length // model.config.token_length)):
        parts.append(plain_stages(model, values)[1][:, -model.config.token_length :])
        values = torch.cat((values, parts[-1]), dim=1)[:, -model.config.context_length :]
    return torch.cat(parts, dim=1)[:, :length]


def plain_future_in_place(model: Any, values: torch.Tensor, length: int) -> torch.Tensor:
    """Tell the future by the fixed window without a cache: every step reads all tokens so far."""
    return model.generate(values, length, generation_window="fixed", use_cache=False)
