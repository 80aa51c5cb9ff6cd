"""Residual blocks of dilated convolutions, in the time-major layout (sequence_length, batch_size, channels).

Centred ones are TS2Vec's. Causal ones, whose output never depends on what comes later, are those of Franceschi et al.
(NeurIPS 2019).

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


def causal_convolution(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dilation: int, negative_slope: float
) -> torch.Tensor:
    """Convolve with what lies before, zeros before the beginning, and apply the leaky ReLU.

    Args:
        hidden: (sequence_length, batch_size, input_channels).
        weight: (output_channels, input_channels, kernel_size); the last tap is the timestamp itself.
        bias: (output_channels,).
        dilation: Distance between taps, in timestamps.
        negative_slope: Of the leaky ReLU.

    Returns:
        (sequence_length, batch_size, output_channels).
    """
    padded = F.pad(hidden.permute(1, 2, 0), ((weight.shape[-1] - 1) * dilation, 0))
    return F.leaky_relu(F.conv1d(padded, weight, bias, dilation=dilation), negative_slope).permute(2, 0, 1)


class _CausalConvolution(torch.autograd.Function):
    """`causal_convolution`, one matrix product a tap, in place; a tap that lies before the beginning costs nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        dilation: int,
        negative_slope: float,
    ) -> torch.Tensor:
        length, batch_size, width = hidden.shape
        rows = hidden.reshape(length * batch_size, width)
        taps = weight.permute(2, 1, 0).contiguous()
        last = len(taps) - 1
        output = torch.addmm(bias, rows, taps[last])
        for tap in range(last):
            shift = (last - tap) * dilation * batch_size
            if shift < len(rows):
                output[shift:].addmm_(rows[:-shift], taps[tap])
        output = F.leaky_relu_(output, negative_slope)
        ctx.save_for_backward(hidden, weight, output)
        ctx.step, ctx.negative_slope = dilation * batch_size, negative_slope
        return output.view(length, batch_size, -1)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, None, None]:
        hidden, weight, output = ctx.saved_tensors
        rows = hidden.reshape(len(output), -1)
        # The sign of the output is that of the input, so that the input of the leaky ReLU need not be kept.
        gradient = torch.ops.aten.leaky_relu_backward(gradient.reshape(output.shape), output, ctx.negative_slope, True)
        taps = weight.permute(2, 0, 1).contiguous()
        last = len(taps) - 1
        row_gradient = gradient @ taps[last] if ctx.needs_input_grad[0] else None
        tap_gradient = torch.zeros_like(taps.transpose(1, 2), memory_format=torch.contiguous_format)
        torch.mm(rows.t(), gradient, out=tap_gradient[last])
        for tap in range(last):
            shift = (last - tap) * ctx.step
            if shift < len(rows):
                torch.mm(rows[:-shift].t(), gradient[shift:], out=tap_gradient[tap])
                if row_gradient is not None:
                    row_gradient[:-shift].addmm_(gradient[shift:], taps[tap])
        row_gradient = None if row_gradient is None else row_gradient.view_as(hidden)
        return row_gradient, tap_gradient.permute(2, 1, 0), gradient.sum(0), None, None


class CausalConvolution(nn.Module):
    """A causal dilated convolution with weight normalisation, and the leaky ReLU after it (Franceschi et al., 2019).

    Args:
        input_channels: Width of the input.
        output_channels: Width of the output.
        kernel_size: Number of taps.
        dilation: Distance between taps, in timestamps.
        negative_slope: Of the leaky ReLU.
    """

    def __init__(
        self, input_channels: int, output_channels: int, kernel_size: int, dilation: int, negative_slope: float = 0.01
    ) -> None:
        super().__init__()
        self.dilation = dilation
        self.negative_slope = negative_slope
        self.direction = nn.Parameter(torch.empty(output_channels, input_channels, kernel_size))
        self.magnitude = nn.Parameter(torch.empty(output_channels))
        self.bias = nn.Parameter(torch.empty(output_channels))

    @property
    def weight(self) -> torch.Tensor:
        """The direction of every filter, of length `magnitude`: (output_channels, input_channels, kernel_size)."""
        scale = self.magnitude / self.direction.square().sum((1, 2)).sqrt()
        return self.direction * scale[:, None, None]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (sequence_length, batch_size, input_channels) to (sequence_length, batch_size, output_channels)."""
        weight: torch.Tensor = self.weight
        bias: torch.Tensor = self.bias
        if torch.is_autocast_enabled(hidden.device.type):
            precision = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight, bias = hidden.to(precision), weight.to(precision), bias.to(precision)
        if torch.compiler.is_compiling():
            return causal_convolution(hidden, weight, bias, self.dilation, self.negative_slope)
        with torch.autocast(hidden.device.type, enabled=False):
            return _CausalConvolution.apply(hidden, weight, bias, self.dilation, self.negative_slope)


class CausalResidualBlock(GradientCheckpointingLayer):
    """Two causal convolutions and a residual connection, with no activation after the sum (Franceschi et al., 2019).

    Args:
        input_channels: Width of the input.
        output_channels: Width of the output; where it differs, the residual passes through a convolution of one tap.
        kernel_size: Number of taps.
        dilation: Of both convolutions, in timestamps.
        residual_bias: Whether that convolution of one tap has a bias.
    """

    def __init__(
        self, input_channels: int, output_channels: int, kernel_size: int, dilation: int, residual_bias: bool = True
    ) -> None:
        super().__init__()
        self.first_convolution = CausalConvolution(input_channels, output_channels, kernel_size, dilation)
        self.second_convolution = CausalConvolution(output_channels, output_channels, kernel_size, dilation)
        self.residual_projection = (
            PointwiseConvolution(input_channels, output_channels, 1, bias=residual_bias)
            if input_channels != output_channels
            else None
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (sequence_length, batch_size, input_channels) to (sequence_length, batch_size, output_channels)."""
        residual = hidden if self.residual_projection is None else self.residual_projection(hidden)
        return residual + self.second_convolution(self.first_convolution(hidden))


class CausalEncoder(nn.Module):
    """Causal residual blocks whose dilation doubles, the maximum over time, and a linear layer.

    The encoder of Franceschi et al. (NeurIPS 2019). It takes a series of any length. What lies after the last observed
    timestamp changes nothing.

    Args:
        input_channels: Number of channels of a series.
        hidden_size: Width of all blocks but the last.
        num_layers: Number of blocks; block i has dilation 2^i.
        reduced_size: Width of the last block, over which the maximum is taken.
        output_size: Width of the result.
        kernel_size: Number of taps.
        output_bias: Whether the last residual projection and the linear layer have biases. Where only distances
            between results are compared these shift all alike and no loss can teach them.
    """

    def __init__(
        self,
        input_channels: int,
        hidden_size: int,
        num_layers: int,
        reduced_size: int,
        output_size: int,
        kernel_size: int,
        output_bias: bool = True,
    ) -> None:
        super().__init__()
        widths = [input_channels, *[hidden_size] * (num_layers - 1), reduced_size]
        self.blocks = nn.ModuleList(
            CausalResidualBlock(
                widths[index],
                widths[index + 1],
                kernel_size,
                2**index,
                residual_bias=output_bias or index < num_layers - 1,
            )
            for index in range(num_layers)
        )
        self.output_projection = nn.Linear(reduced_size, output_size, bias=output_bias)

    def forward(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Embed series.

        Args:
            values: (num_series, length, input_channels), anything where not observed.
            observed: (num_series, length) bool. A timestamp that is not observed enters as zero, and its output takes
                no part in the maximum.

        Returns:
            (num_series, output_size); zeros for a series without an observed timestamp.
        """
        hidden = torch.where(observed.unsqueeze(-1), values, 0.0).to(self.output_projection.weight.dtype)
        hidden = hidden.transpose(0, 1).contiguous()
        for block in self.blocks:
            hidden = block(hidden)
        seen = observed.any(1, keepdim=True)
        return torch.where(seen, self.output_projection(max_over_time(hidden, observed)), 0.0)


def max_over_time(hidden: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Take the maximum over the observed timestamps.

    Args:
        hidden: (length, num_series, width).
        observed: (num_series, length) bool.

    Returns:
        (num_series, width); zeros for a series without an observed timestamp.
    """
    if not torch.compiler.is_compiling() and bool(observed.all()):
        return hidden.amax(0)
    seen = observed.t().unsqueeze(-1)
    return hidden.masked_fill(~seen, -torch.inf).amax(0).masked_fill(~seen.any(0), 0.0)
