"""TimeMAE's encoder and pretext step by their equations: what ours is measured against."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int, dropout: float
) -> Any:
    """Attend with all weights in memory: (num_rows, num_queries, hidden_size)."""
    query, key, value = (one.unflatten(-1, (num_heads, -1)).transpose(1, 2) for one in (query, key, value))
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
    return (F.dropout(weights, dropout) @ value).transpose(1, 2).flatten(2)


def plain_layer(layer: Any, hidden: torch.Tensor, seen: torch.Tensor, dropout: float) -> torch.Tensor:
    """Run a gated post-norm layer whose tokens look at `seen`; every projection is a product of its own."""
    attention, (weights, biases) = layer.attention, _query_key_value(layer.attention)
    parts = [F.linear(one, *both) for one, *both in zip((hidden, seen, seen), weights, biases, strict=True)]
    attended = attention.output_projection(plain_attention(*parts, attention.num_attention_heads, dropout))
    hidden = layer.attention_norm(hidden + F.dropout(layer.attention_gate * attended, dropout))
    inner = F.dropout(layer.contraction(F.gelu(layer.expansion(hidden))), dropout)
    return layer.output_norm(hidden + F.dropout(layer.output_gate * inner, dropout))


def _query_key_value(attention: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    if hasattr(attention, "input_projection"):
        joined = attention.input_projection
        return list(joined.weight.chunk(3)), list(joined.bias.chunk(3))
    first, second = attention.query_projection, attention.key_value_projection
    return [first.weight, *second.weight.chunk(2)], [first.bias, *second.bias.chunk(2)]


def plain_encode(model: Any, values: torch.Tensor) -> torch.Tensor:
    """Encode (batch_size, length, num_channels), whole windows without missing values, and average the windows."""
    hidden = _embed(model, values) + model.positions.weight[: values.shape[1] // model.config.patch_length]
    for layer in model.encoder.layers:
        hidden = plain_layer(layer, hidden, hidden, 0.0)
    return hidden.mean(1)


def _embed(model: Any, values: torch.Tensor) -> torch.Tensor:
    projection = model.window_projection
    stride = projection.kernel_size[0]
    return F.conv1d(values.transpose(1, 2), projection.weight, projection.bias, stride).transpose(1, 2)


def plain_loss(
    pretraining: Any, values: torch.Tensor, permutation: torch.Tensor, noise: torch.Tensor | None
) -> torch.Tensor:
    """Compute the loss of TimeMAEForPreTraining.

    Args:
        pretraining: Its weights and config are used.
        values: (batch_size, length, num_channels), whole windows without missing values.
        permutation: (num_windows,) places, the masked ones at the end.
        noise: Gumbel noise of the masked windows, (batch_size, num_masked, num_codewords); None to draw that of all.

    Returns:
        Scalar.
    """
    model, config = pretraining.model, pretraining.config
    windows = _embed(model, values)
    num_windows = windows.shape[1]
    masked, visible = (permutation[part] for part in _parts(num_windows, config))
    scores = pretraining.tokenizer(windows.detach())
    if noise is None:
        scores = scores - torch.rand_like(scores).clamp(min=1e-9).log().neg().log()
        codewords = scores.softmax(-1).argmax(-1)[:, masked]
    else:
        codewords = (scores[:, masked] + noise).softmax(-1).argmax(-1)
    hidden = windows + model.positions.weight[:num_windows]
    encoded, target = hidden[:, visible], hidden[:, masked].detach()
    for layer in model.encoder.layers:
        encoded = plain_layer(layer, encoded, encoded, config.dropout)
    with torch.no_grad():
        for layer in pretraining.target_encoder.layers:
            target = plain_layer(layer, target, target, config.dropout)
    queries = (pretraining.mask_token + model.positions.weight[:num_windows])[masked].expand(len(values), -1, -1)
    for layer in pretraining.regressor.layers:
        queries = plain_layer(layer, queries, encoded, config.regressor_dropout)
    alignment = (queries - target).square().mean()
    predicted = pretraining.tokenizer(queries).flatten(0, 1)
    classification = F.cross_entropy(predicted, codewords.flatten(), label_smoothing=config.label_smoothing)
    return config.alignment_weight * alignment + config.codeword_weight * classification


def _parts(num_windows: int, config: Any) -> tuple[slice, slice]:
    num_visible = num_windows - config.count_masked(num_windows)
    return slice(num_visible, None), slice(num_visible)
