"""TS2Vec written down plainly: `torch.nn.Conv1d`, whole similarity matrices, and every window encoded by itself.

It is what the equations say and what the published code computes, without any of the ideas that make ours fast, and
serves as the other side of the measured ratios. It takes its weights from our model, so that both sides also compute
the same numbers.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from hf_tsrep.modeling.layers_convolution import DilatedConvolution, DilatedResidualBlock
from hf_tsrep.modeling.modeling_ts2vec import TS2VecModel, TS2VecViews, take_steps


class _PlainBlock(nn.Module):
    def __init__(self, first: DilatedConvolution, second: DilatedConvolution, residual: nn.Conv1d | None) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        for source in (first, second):
            out_channels, in_channels, _ = source.weight.shape
            dilation = source.dilation
            convolution = nn.Conv1d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
            convolution.load_state_dict(source.state_dict())
            self.convolutions.append(convolution)
        self.residual = residual

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = hidden if self.residual is None else F.conv1d(hidden, self.residual.weight, self.residual.bias)
        for convolution in self.convolutions:
            hidden = convolution(F.gelu(hidden))
        return hidden + residual


class PlainTS2Vec(nn.Module):
    """The encoder with PyTorch's own layers.

    Args:
        model: Gives the weights.
    """

    def __init__(self, model: TS2VecModel) -> None:
        super().__init__()
        self.input_projection = model.input_projection
        blocks = cast(list[DilatedResidualBlock], list(model.blocks))
        self.blocks = nn.Sequential(
            *(
                _PlainBlock(block.first_convolution, block.second_convolution, block.residual_projection)
                for block in blocks
            )
        )
        self.dropout = nn.Dropout(model.config.output_dropout)

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embed (batch_size, length, num_input_channels) as (batch_size, length, embedding_size)."""
        missing = values.isnan().any(-1)
        hidden = self.input_projection(values.masked_fill(missing.unsqueeze(-1), 0.0))
        kept = ~missing if mask is None else ~missing & mask
        hidden = hidden.masked_fill(~kept.unsqueeze(-1), 0.0)
        return self.dropout(self.blocks(hidden.transpose(1, 2))).transpose(1, 2)

    def loss(self, values: torch.Tensor, views: TS2VecViews) -> torch.Tensor:
        """Compute the pre-training loss for the given views."""
        first = self(take_steps(values, views.first_start, views.first_length), views.first_mask)
        second = self(take_steps(values, views.second_start, views.second_length), views.second_mask)
        return plain_hierarchical_loss(first[:, -views.crop_length :], second[:, : views.crop_length])

    def slide_causally(self, values: torch.Tensor, window_length: int, batch_size: int) -> torch.Tensor:
        """Encode every causal window by itself and keep its last embedding: (length, embedding_size)."""
        padded = F.pad(values, (0, 0, window_length - 1, 0), value=torch.nan)
        windows = padded.unfold(0, window_length, 1).transpose(1, 2)
        kept = [
            self(windows[start : start + batch_size])[:, -1].clone() for start in range(0, len(values), batch_size)
        ]
        return torch.cat(kept)


def _plain_contrast(groups: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of (num_groups, 2 * half, size), with the logits beside the diagonal copied as two triangles."""
    half = groups.shape[1] // 2
    similarity = torch.matmul(groups, groups.transpose(1, 2))
    logits = torch.tril(similarity, diagonal=-1)[:, :, :-1]
    logits = logits + torch.triu(similarity, diagonal=1)[:, :, 1:]
    logits = -F.log_softmax(logits, dim=-1)
    index = torch.arange(half)
    return (logits[:, index, half + index - 1].mean() + logits[:, half + index, index].mean()) / 2


def plain_hierarchical_loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compute the hierarchical contrast with alpha 0.5 of two views (batch_size, length, embedding_size)."""
    loss, levels = first.new_zeros(()), 0
    while True:
        if first.shape[0] > 1:
            loss = loss + 0.5 * _plain_contrast(torch.cat([first, second]).transpose(0, 1))
        if first.shape[1] > 1:
            loss = loss + 0.5 * _plain_contrast(torch.cat([first, second], dim=1))
        levels += 1
        if first.shape[1] == 1:
            return loss / levels
        first, second = (F.max_pool1d(view.transpose(1, 2), 2).transpose(1, 2) for view in (first, second))
