"""TST's encoder and pretext step by their equations: what the fast ones are measured against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_tsrep.modeling.layers_transformer import sinusoidal_positions

from .plain_simmtm import plain_mask


def plain_masks(values: torch.Tensor, config: Any, generator: np.random.Generator) -> torch.Tensor:
    """Draw a geometric mask for every channel of every series: the shape of the values, bool, True = kept."""
    batch_size, length, num_channels = values.shape
    chains = [
        plain_mask(length, config.mask_ratio, config.mean_mask_length, generator)
        for _ in range(batch_size * num_channels)
    ]
    return torch.from_numpy(np.stack(chains)).view(batch_size, num_channels, length).transpose(1, 2)


def near(length: int, window: int | None) -> torch.Tensor:
    """Return which timestamps see each other: (length, length) bool."""
    steps = torch.arange(length)
    distance = (steps.unsqueeze(1) - steps).abs()
    return distance <= (length if window is None or length <= window else window // 2)


def plain_tokens(encoder: Any, values: torch.Tensor) -> torch.Tensor:
    """Encode (batch_size, length, num_channels), with all attention weights in memory, those of far timestamps too.

    Args:
        encoder: Its weights and config are used: fixed positions and a linear projection.
        values: Without missing values.

    Returns:
        (batch_size, length, hidden_size).
    """
    config = encoder.config
    hidden = encoder.projection(values) * math.sqrt(config.hidden_size)
    hidden = encoder.dropout(hidden + sinusoidal_positions(values.shape[1], config.hidden_size, values.device))
    seen = near(values.shape[1], config.attention_window)
    for layer in encoder.layers:
        attention = layer.attention
        query, key, value = (
            part.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for part in attention.input_projection(hidden).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        attended = (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2).flatten(2)
        attended = layer.attention_dropout(attention.output_projection(attended))
        hidden = layer.attention_norm(hidden + attended)
        inner = layer.expansion_dropout(F.gelu(layer.expansion(hidden)))
        hidden = layer.output_norm(hidden + layer.contraction_dropout(layer.contraction(inner)))
    return hidden


def plain_loss(model: Any, values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Compute the loss of TSTForPreTraining.

    Args:
        model: Its weights and config are used.
        values: (batch_size, context_length, num_channels), without missing values.
        keep: The same shape, bool.

    Returns:
        Scalar.
    """
    hidden = F.gelu(plain_tokens(model.model.encoder, values * keep))
    predicted = model.decoder(model.dropout(hidden))
    return (predicted - values)[~keep].square().mean()
