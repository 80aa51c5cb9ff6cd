"""MUG's parts as they are usually written: attention of all to all under a mask, one ranking at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class PlainAttention(nn.Module):
    """Attention whose weights are held for all pairs of timestamps; beyond the window they are masked.

    Args:
        attention: Our SelfAttention, whose parameters it shares.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.input_projection, self.output_projection = attention.input_projection, attention.output_projection
        self.num_heads, self.window = attention.num_attention_heads, attention.window

    def forward(
        self, hidden: torch.Tensor, attention_mask: Any = None, draws: Any = None, cache: Any = None
    ) -> torch.Tensor:
        """Attend in complete series, without dropout: (num_rows, length, hidden_size) to the same shape."""
        parts = (one.unflatten(-1, (self.num_heads, -1)) for one in self.input_projection(hidden).chunk(3, -1))
        query, key, value = parts
        scores = torch.einsum("nqhd,nkhd->nhqk", query, key) / query.shape[-1] ** 0.5
        length = hidden.shape[1]
        if self.window is not None and length > self.window:
            steps = torch.arange(length)
            far = (steps.unsqueeze(1) - steps).abs() > self.window // 2
            scores = scores.masked_fill(far, -torch.inf)
        return self.output_projection(torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), value).flatten(2))


def make_plain(model: Any) -> Any:
    """Put plain attention in the place of a MUGForPreTraining's fine branch and fusion; return the model."""
    for layer in model.model.fine.layers:
        layer.attention = PlainAttention(layer.attention)
    model.model.fusion.mixing = PlainAttention(model.model.fusion.mixing)
    return model


def plain_soft_rank(values: torch.Tensor) -> torch.Tensor:
    """Rank rows softly with regularization 1: blocks found one value after the other, averaged one after the other."""
    rows = []
    for row in values:
        order = row.argsort(descending=True)
        target = row[order] - torch.arange(len(row), 0, -1, dtype=row.dtype)
        blocks: list[tuple[float, int]] = []
        for number in target.tolist():
            total, count = number, 1
            while blocks and blocks[-1][0] * count < total * blocks[-1][1]:
                before = blocks.pop()
                total, count = total + before[0], count + before[1]
            blocks.append((total, count))
        means = [part.mean().expand(len(part)) for part in target.split([count for _, count in blocks])]
        rows.append((row[order] - torch.cat(means))[order.argsort()])
    return torch.stack(rows)


def plain_soft_spearman(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Correlate soft ranks with the ranks of targets, rows one by one: (num_rows,)."""
    found = []
    for ranks, row in zip(plain_soft_rank(predicted), target, strict=True):
        _, places, counts = row.unique(return_inverse=True, return_counts=True)
        wanted = (counts.cumsum(0) - (counts - 1) / 2.0)[places]
        found.append(F.cosine_similarity(ranks - ranks.mean(), (wanted - wanted.mean()).to(ranks.dtype), dim=0))
    return torch.stack(found)
