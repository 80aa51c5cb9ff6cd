"""Residual blocks of dilated convolutions, in the time-major layout (sequence_length, batch_size, channels).

In that layout a shift by one dilation is a contiguous run of rows for the whole batch, so that a convolution of three
taps is three matrix products that read their input where it lies: no padded copy, and no product with the zeros
beyond the ends (for a dilation that is longer than the series two of the three taps vanish).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.modeling_layers import GradientCheckpointingLayer


def shift_accumulate(output: torch.Tensor, rows: torch.Tensor, taps: torch.Tensor, shift: int) -> torch.Tensor:
    """Add the two outer taps of a centred convolution to `output`, in place.

    Args:
        output: (num_rows, output_channels), holding the bias and the centre tap.
        rows: (num_rows, input_channels), the input in time-major order.
        taps: (3, input_channels, output_channels).
        shift: Dilation times batch_size, in rows.

    Returns:
        `output`.
    """
    if shift < rows.shape[0]:
        output[shift:].addmm_(rows[:-shift], taps[0])
        output[:-shift].addmm_(rows[shift:], taps[2])
    return output


class _ActivatedConvolution(torch.autograd.Function):
    """GELU, gate and dilated convolution in one: only the input before the GELU is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        gate: torch.Tensor | None,
        dilation: int,
    ) -> torch.Tensor:
        length, batch_size, width = hidden.shape
        ctx.save_for_backward(hidden, weight, gate)
        ctx.shift = dilation * batch_size
        rows = F.gelu(hidden.reshape(length * batch_size, width))
        if gate is not None:
            rows.mul_(gate.view(-1, 1))
        taps = weight.permute(2, 1, 0).contiguous()
        output = shift_accumulate(torch.addmm(bias, rows, taps[1]), rows, taps, ctx.shift)
        return output.view(length, batch_size, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        hidden, weight, gate = ctx.saved_tensors
        length, batch_size, width = hidden.shape
        shift, num_rows = ctx.shift, length * batch_size
        before = hidden.reshape(num_rows, width)
        rows = F.gelu(before)
        if gate is not None:
            rows.mul_(gate.view(-1, 1))
        gradient = gradient.reshape(num_rows, -1)
        taps = weight.permute(2, 0, 1).contiguous()
        # The gradient of a shift is the opposite shift, hence the reversed taps.
        row_gradient = shift_accumulate(gradient @ taps[1], gradient, taps.flip(0), shift)
        if gate is not None:
            row_gradient.mul_(gate.view(-1, 1))
        row_gradient = torch.ops.aten.gelu_backward(row_gradient, before)
        tap_gradient = weight.new_zeros(3, width, gradient.shape[1])
        torch.mm(rows.t(), gradient, out=tap_gradient[1])
        if shift < num_rows:
            torch.mm(rows[:-shift].t(), gradient[shift:], out=tap_gradient[0])
            torch.mm(rows[shift:].t(), gradient[:-shift], out=tap_gradient[2])
        return row_gradient.view_as(hidden), tap_gradient.permute(2, 1, 0), gradient.sum(0), None, None


class DilatedConvolution(nn.Module):
    """GELU followed by a centred convolution of three taps, `dilation` timestamps apart, with zeros beyond the ends.

    Parameters have the shapes and the initialisation of `torch.nn.Conv1d`.

    Args:
        input_channels: Width of the input.
        output_channels: Width of the output.
        dilation: Distance between taps, in timestamps.
    """

    def __init__(self, input_channels: int, output_channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(output_channels, input_channels, 3))
        self.bias = nn.Parameter(torch.empty(output_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values as `torch.nn.Conv1d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1.0 / math.sqrt(self.weight.shape[1] * 3)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, hidden: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve.

        Args:
            hidden: (sequence_length, batch_size, input_channels).
            gate: (sequence_length, batch_size) of ones and, where a timestamp is padding, zeros; None for all ones.

        Returns:
            (sequence_length, batch_size, output_channels).
        """
        weight: torch.Tensor = self.weight
        bias: torch.Tensor = self.bias
        if torch.is_autocast_enabled(hidden.device.type):
            precision = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = hidden.to(precision), weight.to(precision), bias.to(precision)
        if gate is not None:
            gate = gate.to(hidden.dtype)
        if torch.compiler.is_compiling():
            rows = F.gelu(hidden) if gate is None else F.gelu(hidden) * gate.unsqueeze(-1)
            output = F.conv1d(rows.permute(1, 2, 0), weight, bias, padding=self.dilation, dilation=self.dilation)
            return output.permute(2, 0, 1)
        with torch.autocast(hidden.device.type, enabled=False):
            return _ActivatedConvolution.apply(hidden, weight, bias, gate, self.dilation)


class PointwiseConvolution(nn.Conv1d):
    """A convolution of one tap with channels last: any leading axes, as a linear layer has them."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., in_channels) to (..., out_channels)."""
        return F.linear(hidden, self.weight.squeeze(-1), self.bias)


class DilatedResidualBlock(GradientCheckpointingLayer):
    """Two dilated convolutions and a residual connection (TS2Vec, section 3.1).

    Args:
        input_channels: Width of the input.
        output_channels: Width of the output.
        dilation: Dilation of both convolutions, in timestamps.
        project_residual: Whether the residual passes through a convolution of one tap; needed where the widths differ.
    """

    def __init__(self, input_channels: int, output_channels: int, dilation: int, project_residual: bool) -> None:
        super().__init__()
        self.first_convolution = DilatedConvolution(input_channels, output_channels, dilation)
        self.second_convolution = DilatedConvolution(output_channels, output_channels, dilation)
        self.residual_projection = (
            PointwiseConvolution(input_channels, output_channels, 1) if project_residual else None
        )

    def forward(self, hidden: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """Map (sequence_length, batch_size, input_channels) to (sequence_length, batch_size, output_channels)."""
        return self.residual(hidden) + self.second_convolution(self.first_convolution(hidden, gate), gate)

    def residual(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the residual branch; any leading axes, channels last."""
        return hidden if self.residual_projection is None else self.residual_projection(hidden)
