"""Residual blocks of causal dilated convolutions, in the time-major layout (time, batch_size, channels).

In that layout a shift by one dilation is a contiguous run of rows for the whole batch: a causal convolution of three
taps is three matrix products that read their input where it lies, without a padded or gathered copy.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

KERNEL_SIZE = 3
DILATIONS = (1, 4)


def _convolve_rows(rows: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor, shift: int) -> torch.Tensor:
    """Convolve (num_rows, input_channels) with taps (3, input_channels, output_channels); the last tap is the present.

    Args:
        rows: The input in time-major order.
        taps: Weights, the oldest timestamp first.
        bias: (output_channels,).
        shift: Dilation times batch_size, in rows.
    """
    output = torch.addmm(bias, rows, taps[2])
    for tap, back in ((taps[1], shift), (taps[0], 2 * shift)):
        if back < len(rows):
            output[back:].addmm_(rows[:-back], tap)
    return output


class _CausalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, shift: int) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.shift = shift
        return _convolve_rows(rows, weight.permute(2, 1, 0).contiguous(), bias, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        rows, weight = ctx.saved_tensors
        taps = weight.permute(2, 0, 1).contiguous()
        gradient = gradient.contiguous()
        row_gradient = gradient @ taps[2]
        tap_gradient = weight.new_zeros(KERNEL_SIZE, weight.shape[1], weight.shape[0])
        torch.mm(rows.t(), gradient, out=tap_gradient[2])
        for index, back in ((1, ctx.shift), (0, 2 * ctx.shift)):
            if back < len(rows):
                row_gradient[:-back].addmm_(gradient[back:], taps[index])
                torch.mm(rows[:-back].t(), gradient[back:], out=tap_gradient[index])
        return row_gradient, tap_gradient.permute(2, 1, 0), gradient.sum(0), None


class CausalConvolution(nn.Module):
    """Convolution of three taps, `dilation` timestamps apart, that sees no future; zeros before the beginning.

    Parameters have the shapes of `torch.nn.Conv1d`.

    Args:
        channels: Width of input and output.
        dilation: Distance between taps, in timestamps.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(channels, channels, KERNEL_SIZE))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (time, batch_size, channels) to the same shape."""
        weight: torch.Tensor = self.weight
        bias: torch.Tensor = self.bias
        if torch.is_autocast_enabled(hidden.device.type):
            precision = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = hidden.to(precision), weight.to(precision), bias.to(precision)
        if torch.compiler.is_compiling():
            padded = F.pad(hidden.permute(1, 2, 0), (2 * self.dilation, 0))
            return F.conv1d(padded, weight, bias, dilation=self.dilation).permute(2, 0, 1)
        length, batch_size, width = hidden.shape
        rows = hidden.reshape(length * batch_size, width)
        with torch.autocast(hidden.device.type, enabled=False):
            return _CausalConvolution.apply(rows, weight, bias, self.dilation * batch_size).view_as(hidden)


class GatedResidualBlock(nn.Module):
    """Two causal convolutions, each with layer normalisation and ReLU, added with a learnt gate that starts near 0.

    Args:
        channels: Width.
        dilation: Dilation of the first convolution; the second has twice as much.
        dropout: Dropout probability behind each convolution.
    """

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([CausalConvolution(channels, dilation * factor) for factor in (1, 2)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels, eps=1e-8) for _ in range(2)])
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Parameter(torch.full((), 1e-8))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (time, batch_size, channels) to the same shape."""
        branch = hidden
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            branch = F.relu(norm(self.dropout(convolution(branch))))
        return hidden + self.gate * branch


class CausalConvolutionNetwork(nn.Module):
    """Pairs of residual blocks with dilations 1 and 4, and a linear map.

    Args:
        channels: Width.
        num_blocks: Number of pairs.
        dropout: Dropout probability in the blocks.
    """

    def __init__(self, channels: int, num_blocks: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            GatedResidualBlock(channels, dilation, dropout) for _ in range(num_blocks) for dilation in DILATIONS
        )
        self.output_projection = nn.Linear(channels, channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (time, batch_size, channels) to the same shape."""
        for block in self.blocks:
            hidden = block(hidden)
        return self.output_projection(hidden)
