"""Residual blocks of causal dilated convolutions, in the time-major layout (time, batch_size, channels).

In that layout a shift by one dilation is a contiguous run of rows for the whole batch: a causal convolution is one
matrix product a tap that reads its input where it lies, without a padded or gathered copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from .layers_dropout import SixteenBitDropout


class CausalConvolutionNetwork(nn.Module):
    """Residual blocks of several dilations, repeated, and a linear map.

    Args:
        channels: Width.
        num_blocks: How often the blocks of all dilations follow each other.
        dropout: Dropout probability in the blocks.
        dilations: Dilation of the first convolution of every block.
        kernel_size: Number of taps.
        gated: Whether what a block adds is multiplied with a learnt number.
    """

    def __init__(
        self,
        channels: int,
        num_blocks: int,
        dropout: float,
        dilations: Sequence[int] = (1, 4),
        kernel_size: int = 3,
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            GatedResidualBlock(channels, dilation, dropout, kernel_size, gated)
            for _ in range(num_blocks)
            for dilation in dilations
        )
        self.output_projection = nn.Linear(channels, channels)

    @property
    def num_past_steps(self) -> int:
        """How many timestamps before its own an output depends on."""
        blocks = cast(list[GatedResidualBlock], list(self.blocks))
        return sum((one.kernel_size - 1) * one.dilation for block in blocks for one, _ in block.stages)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (time, batch_size, channels) to the same shape."""
        if self._may_work_in_place(hidden):
            length, batch_size, channels = hidden.shape
            rows = hidden.reshape(length * batch_size, channels).clone()
            first, second = torch.empty_like(rows), torch.empty_like(rows)
            for block in self.blocks:
                cast(GatedResidualBlock, block).add_to(rows, batch_size, first, second)
            return self.output_projection(rows).view_as(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.output_projection(hidden)

    def _may_work_in_place(self, hidden: torch.Tensor) -> bool:
        return not (
            self.training
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled(hidden.device.type)
            or torch.compiler.is_compiling()
        )


class GatedResidualBlock(nn.Module):
    """Two causal convolutions, each with layer normalisation and ReLU, added with a learnt gate that starts near 0.

    Args:
        channels: Width.
        dilation: Dilation of the first convolution; the second has twice as much.
        dropout: Dropout probability after each convolution.
        kernel_size: Number of taps.
        gated: Whether there is the gate.
    """

    def __init__(self, channels: int, dilation: int, dropout: float, kernel_size: int = 3, gated: bool = True) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [CausalConvolution(channels, dilation * factor, kernel_size) for factor in (1, 2)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(channels, eps=1e-8) for _ in range(2)])
        self.dropout = SixteenBitDropout(dropout)
        self.gate = nn.Parameter(torch.full((), 1e-8)) if gated else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (time, batch_size, channels) to the same shape."""
        branch = hidden
        for convolution, norm in self.stages:
            branch = F.relu(norm(self.dropout(convolution(branch))))
        return hidden + branch if self.gate is None else hidden + self.gate * branch

    @property
    def stages(self) -> list[tuple[CausalConvolution, nn.LayerNorm]]:
        """The convolutions in their order, each with the normalisation after it."""
        return [
            (cast(CausalConvolution, convolution), cast(nn.LayerNorm, norm))
            for convolution, norm in zip(self.convolutions, self.norms, strict=True)
        ]

    def add_to(self, rows: torch.Tensor, batch_size: int, first: torch.Tensor, second: torch.Tensor) -> None:
        """Add the block's branch to rows in place: the forward pass of inference, without a new array.

        Layer normalisation takes the mean over the channels away, which the convolution's weights can do beforehand.

        Args:
            rows: (time * batch_size, channels), time-major.
            batch_size: Number of series.
            first: Workspace of the same shape.
            second: Workspace of the same shape.
        """
        source = rows
        for (convolution, norm), output in zip(self.stages, (first, second), strict=True):
            _convolve_rows(source, *_centred(convolution), convolution.dilation * batch_size, output)
            _normalise_centred(output, norm)
            source = output
        if self.gate is None:
            rows.add_(second)
        else:
            rows.addcmul_(second, self.gate)


def _centred(convolution: CausalConvolution) -> tuple[torch.Tensor, torch.Tensor]:
    """Return taps and bias (see _convolve_rows) of a convolution whose outputs have mean 0 over the channels."""
    taps = (convolution.weight - convolution.weight.mean(0, keepdim=True)).permute(2, 1, 0).contiguous()
    return taps, convolution.bias - convolution.bias.mean()


def _normalise_centred(rows: torch.Tensor, norm: nn.LayerNorm) -> None:
    """Apply layer normalisation and ReLU, in place, to rows (num_rows, channels) with mean 0."""
    channels = rows.shape[1]
    scale = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rows.mul_(scale.square_().add_(channels * norm.eps).rsqrt_())
    torch.addcmul(norm.bias, rows, norm.weight * channels**0.5, out=rows).clamp_min_(0)


class CausalConvolution(nn.Module):
    """Convolution of taps that lie `dilation` timestamps apart and see no future; zeros before the beginning.

    Parameters have the shapes of `torch.nn.Conv1d`.

    Args:
        channels: Width of input and output.
        dilation: Distance between taps, in timestamps.
        kernel_size: Number of taps.
    """

    def __init__(self, channels: int, dilation: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.dilation, self.kernel_size = dilation, kernel_size
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (time, batch_size, channels) to the same shape."""
        weight: torch.Tensor = self.weight
        bias: torch.Tensor = self.bias
        if torch.is_autocast_enabled(hidden.device.type):
            precision = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = hidden.to(precision), weight.to(precision), bias.to(precision)
        # A compiler sees into a convolution, not into the autograd function below.
        if torch.compiler.is_compiling():
            padded = F.pad(hidden.permute(1, 2, 0), ((self.kernel_size - 1) * self.dilation, 0))
            return F.conv1d(padded, weight, bias, dilation=self.dilation).permute(2, 0, 1)
        length, batch_size, width = hidden.shape
        rows = hidden.reshape(length * batch_size, width)
        with torch.autocast(hidden.device.type, enabled=False):
            return _CausalConvolution.apply(rows, weight, bias, self.dilation * batch_size).view_as(hidden)


def _convolve_rows(
    rows: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor, shift: int, output: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolve (num_rows, input_channels) with taps (kernel_size, input_channels, output_channels).

    Args:
        rows: The input in time-major order.
        taps: Weights, the oldest timestamp first; the last tap is the present.
        bias: (output_channels,).
        shift: Dilation times batch_size, in rows.
        output: Where to write; None for a new tensor.
    """
    output = torch.addmm(bias, rows, taps[-1], out=output)
    for index, back in _past_taps(len(taps), shift, len(rows)):
        output[back:].addmm_(rows[:-back], taps[index])
    return output


def _past_taps(kernel_size: int, shift: int, num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield the taps of the past that reach any row, the latest first, and how many rows they look back."""
    for past in range(1, kernel_size):
        if past * shift < num_rows:
            yield kernel_size - 1 - past, past * shift


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
        row_gradient = gradient @ taps[-1]
        tap_gradient = weight.new_zeros(len(taps), weight.shape[1], weight.shape[0])
        torch.mm(rows.t(), gradient, out=tap_gradient[-1])
        for index, back in _past_taps(len(taps), ctx.shift, len(rows)):
            row_gradient[:-back].addmm_(gradient[back:], taps[index])
            torch.mm(rows[:-back].t(), gradient[back:], out=tap_gradient[index])
        return row_gradient, tap_gradient.permute(2, 1, 0), gradient.sum(0), None
