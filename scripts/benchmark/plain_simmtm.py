"""SimMTM's pretext step by its equations, one after the other: what the fast one is measured against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_tsrep.modeling.layers_transformer import sinusoidal_positions


def plain_mask(length: int, mask_ratio: float, mean_mask_length: float, generator: np.random.Generator) -> np.ndarray:
    """Draw a geometric mask step by step: (length,) bool, True = kept."""
    leaves_mask = 1.0 / mean_mask_length
    leaves_kept = leaves_mask * mask_ratio / (1.0 - mask_ratio)
    kept, mask = bool(generator.random() > mask_ratio), np.empty(length, dtype=bool)
    for step in range(length):
        mask[step] = kept
        if generator.random() < (leaves_kept if kept else leaves_mask):
            kept = not kept
    return mask


def plain_points(encoder: Any, rows: torch.Tensor) -> torch.Tensor:
    """Encode (num_rows, length), with all attention weights in memory: (num_rows, length, hidden_size)."""
    network = encoder.network
    padded = F.pad(rows.unsqueeze(1), (1, 1), mode="circular")
    hidden = F.conv1d(padded, network.token_embedding.weight).transpose(1, 2)
    hidden = network.dropout(hidden + sinusoidal_positions(rows.shape[1], hidden.shape[-1], rows.device))
    for layer in network.transformer.layers:
        attention = layer.attention
        query, key, value = (
            part.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for part in attention.input_projection(hidden).chunk(3, dim=-1)
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        attended = attention.output_projection((weights @ value).transpose(1, 2).flatten(2))
        hidden = layer.attention_norm(hidden + layer.attention_dropout(attended))
        inner = layer.expansion_dropout(F.gelu(layer.expansion(hidden)))
        hidden = layer.output_norm(hidden + layer.contraction_dropout(layer.contraction(inner)))
    return network.transformer.norm(hidden)


def plain_normalize(values: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise (num_series, length, num_channels) by what is visible; values, means and deviations."""
    count = visible.sum(1, keepdim=True)
    mean = (values * visible).sum(1, keepdim=True) / count
    centred = (values - mean) * visible
    deviation = (centred.square().sum(1, keepdim=True) / count + 1e-5).sqrt()
    return centred / deviation, mean, deviation


def plain_loss(model: Any, values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Compute the loss of SimMTMForPreTraining with independent channels.

    Args:
        model: Its weights and config are used.
        values: (batch_size, context_length, num_channels).
        keep: (num_masked_views, batch_size, context_length, num_channels) bool.

    Returns:
        Scalar.
    """
    batch_size, length, num_channels = values.shape
    views = values.repeat(1 + len(keep), 1, 1)
    visible = torch.cat([torch.ones_like(keep[:1]), keep]).flatten(0, 1)
    normalised, mean, deviation = plain_normalize(views, visible)
    points = plain_points(model.model.encoder, normalised.transpose(1, 2).reshape(-1, length))
    series = model.projector(points.flatten(1))
    similarity = F.cosine_similarity(series.unsqueeze(1), series.unsqueeze(0), dim=-1) / model.config.temperature
    itself = torch.eye(len(series), dtype=torch.bool)
    index = torch.arange(len(series)) % (batch_size * num_channels)
    positive = (index.unsqueeze(1) == index) & ~itself
    logarithms = similarity.masked_fill(itself, -torch.inf).log_softmax(-1)
    constraint = -logarithms[positive].sum() / len(series)
    weights = logarithms.exp()
    # The official code multiplies the whole array of points, row by row, for all views.
    aggregated = (weights @ points.flatten(1)).unflatten(1, (length, -1))
    decoded = model.decoder(aggregated.flatten(1)).squeeze(-1).unflatten(0, (-1, num_channels)).transpose(1, 2)
    reconstruction = (decoded * deviation + mean)[:batch_size]
    first, second = model.loss_weights.square()
    error = (reconstruction - values).square().mean()
    return 0.5 / first * constraint + torch.log1p(first) + 0.5 / second * error + torch.log1p(second)
