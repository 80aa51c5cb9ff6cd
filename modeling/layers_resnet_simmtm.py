"""The convolutional encoder of SimMTM's classification experiments: three blocks that shorten the series.

The paper calls it a 1D-ResNet; the official code, whose sizes these are, has no residual branch. Positions behind the
end of a shorter series are kept at zero, which is what a convolution sees behind the end of a series alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .layers_batch_normalization import ObservedBatchNorm
from .layers_dropout import DropoutDraws, SeededDropout

INNER_WIDTHS = (32, 64)
INNER_KERNEL_SIZE = 8


def convolved_length(length: Any, kernel_size: int, stride: int) -> Any:
    """Return the length behind a convolution padded with kernel_size // 2; of numbers or of a tensor of them."""
    return (length + 2 * (kernel_size // 2) - kernel_size) // stride + 1


def pooled_length(length: Any) -> Any:
    """Return the length behind a maximum over pairs, the first of which lies half before the series."""
    return length // 2 + 1


class ConvolutionBlock(nn.Module):
    """Convolution, batch normalisation, ReLU, maximum over pairs and dropout.

    Args:
        input_width: Number of input features.
        output_width: Number of output features.
        kernel_size: Number of positions under the convolution.
        stride: Distance of its positions.
        dropout: Dropout probability.
        site: Number of the dropout layer.
    """

    def __init__(
        self, input_width: int, output_width: int, kernel_size: int, stride: int, dropout: float, site: int
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            input_width, output_width, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.norm = ObservedBatchNorm(output_width)
        self.dropout = SeededDropout(dropout, site)

    def output_length(self, length: Any) -> Any:
        """Return the number of positions that a series of this length has behind the block."""
        convolution = self.convolution
        return pooled_length(convolved_length(length, convolution.kernel_size[0], convolution.stride[0]))

    def forward(
        self, hidden: torch.Tensor, lengths: torch.Tensor | None = None, draws: DropoutDraws | None = None
    ) -> torch.Tensor:
        """Map (num_rows, input_width, length) to (num_rows, output_width, output_length(length)).

        Args:
            hidden: The input, zero behind the end of every row.
            lengths: (num_rows,) number of positions of every row; None where all have the whole length.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            The output, zero behind the end of every row.
        """
        hidden = self.convolution(hidden)
        if lengths is None:
            return self.dropout(F.max_pool1d(F.relu(self._normalize(hidden)), 2, 2, padding=1), draws)
        convolution = self.convolution
        inside = _inside(hidden, convolved_length(lengths, convolution.kernel_size[0], convolution.stride[0]))
        # ReLU leaves nothing below zero, so that zeros do not change a maximum.
        hidden = F.max_pool1d(F.relu(self._normalize(hidden, inside)) * inside, 2, 2, padding=1)
        return self.dropout(hidden * _inside(hidden, self.output_length(lengths)), draws)

    def _normalize(self, hidden: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise (num_rows, width, length) over the positions inside: (num_rows, 1, length) bool, None for all."""
        observed = None if inside is None else inside.squeeze(1)
        return self.norm(hidden.transpose(1, 2), observed).transpose(1, 2).to(hidden.dtype)


def _inside(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mark the positions before the end of every row: (num_rows, 1, length) bool."""
    return (torch.arange(hidden.shape[-1], device=hidden.device) < lengths.unsqueeze(1)).unsqueeze(1)


class ConvolutionEncoder(nn.Module):
    """Three blocks, the first with a wide kernel and a stride.

    Args:
        num_channels: Number of channels of the input.
        hidden_size: Number of output features.
        first_kernel_size: Kernel of the first convolution.
        first_stride: Its stride.
        dropout: Dropout probability of the first block; the others have none, as in the official code.
    """

    def __init__(
        self, num_channels: int, hidden_size: int, first_kernel_size: int, first_stride: int, dropout: float
    ) -> None:
        super().__init__()
        first, second = INNER_WIDTHS
        self.blocks = nn.ModuleList(
            [
                ConvolutionBlock(num_channels, first, first_kernel_size, first_stride, dropout, site=0),
                ConvolutionBlock(first, second, INNER_KERNEL_SIZE, 1, 0.0, site=1),
                ConvolutionBlock(second, hidden_size, INNER_KERNEL_SIZE, 1, 0.0, site=2),
            ]
        )
        self.first_stride = first_stride

    def output_length(self, length: Any) -> Any:
        """Return the number of positions of a series of this length."""
        for block in self.blocks:
            length = block.output_length(length)  # type: ignore[operator]  # ModuleList forgets the class
        return length

    def forward(
        self,
        rows: torch.Tensor,
        observed: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            rows: (num_rows, length, num_channels), zero where missing and behind the end of every row.
            observed: Taken as TimestampTransformer takes it; a convolution sees a missing value as the zero it is.
            lengths: (num_rows,) number of timestamps of every row; None where all have the whole length.
            states: Takes every block's output (num_rows, positions, width), when given.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, output_length(length), hidden_size), zero behind the end of every row.
        """
        hidden = rows.transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden, lengths, draws)
            lengths = None if lengths is None else block.output_length(lengths)  # type: ignore[operator]  # as above
            if states is not None:
                states.append(hidden.transpose(1, 2))
        return hidden.transpose(1, 2)

    def position_of_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the position whose field is centred nearest to each timestamp, which may lie behind the last one.

        Position p is centred at the timestamp (8 p - 6.5) * first_stride: a maximum over pairs lies half a place, a
        convolution with an even kernel another half, before the place that it counts from.
        """
        return ((2.0 * steps / self.first_stride + 21.0) / 16.0).floor().long()
