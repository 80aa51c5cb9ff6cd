"""From series to point-wise representations, with the two encoders that SimMTM is published with.

A Transformer for forecasting, convolutions for classification (Dong et al., NeurIPS 2023, section 4). PointEncoder
aligns the series, normalises them, puts their channels into rows and brings what a network makes back into place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_simmtm import SimMTMConfig
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_normalization import (
    InstanceStatistics,
    MaskedBatchNorm,
    instance_statistics,
    normalize_instances,
)
from .layers_patching import AlignedSeries, align_series
from .layers_transformer import CircularTokenEmbedding, TransformerEncoder, sinusoidal_positions

# The official classification code's, which its command line does not change.
INNER_WIDTHS = (32, 64)
INNER_KERNEL_SIZE = 8


def convolved_length(length: Any, kernel_size: int, stride: int) -> Any:
    """Return the length after a convolution padded with kernel_size // 2; of numbers or of a tensor of them."""
    return (length + 2 * (kernel_size // 2) - kernel_size) // stride + 1


def pooled_length(length: Any) -> Any:
    """Return the length after a maximum over pairs, the first of which lies half before the series."""
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
        self.norm = MaskedBatchNorm(output_width)
        self.dropout = SeededDropout(dropout, site)

    def output_length(self, length: Any) -> Any:
        """Return the number of positions that a series of this length has after the block."""
        convolution = self.convolution
        return pooled_length(convolved_length(length, convolution.kernel_size[0], convolution.stride[0]))

    def forward(
        self, hidden: torch.Tensor, lengths: torch.Tensor | None = None, draws: DropoutDraws | None = None
    ) -> torch.Tensor:
        """Map (num_rows, input_width, length) to (num_rows, output_width, output_length(length)).

        Args:
            hidden: The input, zero after the end of every row.
            lengths: (num_rows,) number of positions of every row; None where all have the whole length.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            The output, zero after the end of every row.
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
    """Three blocks of convolution, the first with a wide kernel and a stride: the paper's encoder for classification.

    Dropout is in the first block alone, as in the official code.
    """

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__()
        first, second = INNER_WIDTHS
        blocks = (
            (config.channels_of_a_group, first, config.first_kernel_size, config.first_stride, config.dropout),
            (first, second, INNER_KERNEL_SIZE, 1, 0.0),
            (second, config.hidden_size, INNER_KERNEL_SIZE, 1, 0.0),
        )
        self.blocks = nn.ModuleList(ConvolutionBlock(*block, site=site) for site, block in enumerate(blocks))
        self.first_stride = config.first_stride

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
            rows: (num_rows, length, num_channels), zero where missing and after the end of every row.
            observed: Not used: a convolution sees a missing value as the zero it is.
            lengths: (num_rows,) number of timestamps of every row; None where all have the whole length.
            states: Takes every block's output (num_rows, positions, width), when given.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, output_length(length), hidden_size), zero after the end of every row.
        """
        hidden = rows.transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden, lengths, draws)
            lengths = None if lengths is None else block.output_length(lengths)  # type: ignore[operator]  # as above
            if states is not None:
                states.append(hidden.transpose(1, 2))
        return hidden.transpose(1, 2)

    def position_of_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the position whose field is centred nearest to each timestamp, which may lie after the last one.

        Position p is centred at the timestamp (8 p - 6.5) * first_stride: a maximum over pairs lies half a place, a
        convolution with an even kernel another half, before the place that it counts from.
        """
        return ((2.0 * steps / self.first_stride + 21.0) / 16.0).floor().long()


class TimestampTransformer(nn.Module):
    """A circular convolution over three timestamps, sinusoidal positions and Transformer layers: for forecasting."""

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__()
        self.token_embedding = CircularTokenEmbedding(config.channels_of_a_group, config.hidden_size, kernel_size=3)
        self.dropout = SeededDropout(config.dropout, site=0)
        self.transformer = TransformerEncoder(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.dropout,
            first_site=1,
            attention_dropout=config.attention_dropout,
            activation=config.activation,
        )

    def output_length(self, length: Any) -> Any:
        """Return the number of positions of a series: one for each of its timestamps."""
        return length

    def position_of_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the position of every timestamp: itself."""
        return steps

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
            rows: (num_rows, length, num_channels).
            observed: (num_rows, length) bool, False for timestamps that nothing attends to; None for all.
            lengths: (num_rows,) number of timestamps of every row; None where all have the whole length.
            states: Takes the embedded tokens and every layer's output, when given.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, length, hidden_size), zero after the end of every row.
        """
        length = rows.shape[1]
        hidden = self.token_embedding(rows, lengths)
        hidden = hidden + sinusoidal_positions(length, hidden.shape[-1], hidden.device).to(hidden.dtype)
        hidden = self.dropout(hidden, draws)
        if states is not None:
            states.append(hidden)
        mask = None
        if observed is not None:
            # A row without any observed timestamp attends to its first: attention to nothing is not a number.
            is_first = torch.arange(length, device=hidden.device) == 0
            mask = (observed | (is_first & ~observed.any(-1, keepdim=True)))[:, None, None, :]
        hidden = self.transformer(hidden, mask, draws, states)
        if lengths is None:
            return hidden
        inside = torch.arange(length, device=hidden.device) < lengths.unsqueeze(1)
        return hidden * inside.unsqueeze(-1)


class PointFeatures(NamedTuple):
    """Point-wise representations of a batch.

    Args:
        hidden: (batch_size, num_groups, num_positions, hidden_size), zero beyond the series.
        statistics: What the values were normalised by, or None.
    """

    hidden: torch.Tensor
    statistics: InstanceStatistics | None


class PointEncoder(nn.Module):
    """Encode every channel by itself, or all channels together (equation 2, point-wise)."""

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__()
        self.config = config
        network = ConvolutionEncoder if config.encoder_type == "resnet" else TimestampTransformer
        self.network: TimestampTransformer | ConvolutionEncoder = network(config)

    @property
    def num_context_features(self) -> int:
        """Number of numbers of one group's point-wise representations over the context."""
        return self.network.output_length(self.config.context_length) * self.config.hidden_size

    def point_features(
        self,
        values: torch.Tensor,
        observed: torch.Tensor,
        visible: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> PointFeatures:
        """Encode what the heads and the pretext task look at.

        Args:
            values: (batch_size, sequence_length, num_input_channels).
            observed: The same shape, bool.
            visible: The same shape, bool: values of the others are masked, which takes them out of the statistics and
                makes them zero, but their timestamps stay. None for all observed ones.
            draws: The random choices of dropout; None for random ones in training.
            states: List that receives every layer's output, of the aligned series; None for none.

        Returns:
            The features, in the places of `last_hidden_state`.
        """
        aligned = align_series(values, observed)
        # Positions count from the first observed value, masked or not, so the masks move as the values do.
        moved = None if visible is None else align_series(visible, observed).values
        features = self(aligned, moved, states, draws)
        return PointFeatures(self.in_place(features.hidden, aligned), features.statistics)

    def forward(
        self,
        aligned: AlignedSeries,
        visible: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        draws: DropoutDraws | None = None,
    ) -> PointFeatures:
        """Encode series that begin at the first position; the arguments are those of `point_features`."""
        config, sequence_length = self.config, aligned.values.shape[1]
        visible = aligned.observed if visible is None else aligned.observed & visible
        statistics = None
        if config.instance_normalization:
            statistics = instance_statistics(aligned.values, visible)
            values = normalize_instances(aligned.values, visible, statistics)
        else:
            values = torch.where(visible, aligned.values, 0.0)
        rows = self.rows(values.to(next(self.parameters()).dtype))
        lengths = aligned.length.unsqueeze(1).expand(-1, config.num_groups).reshape(-1)
        attended = self.rows(aligned.observed).any(-1)
        exporting = torch.compiler.is_compiling()
        hidden = self.network(
            rows,
            attended if exporting or not bool(attended.all()) else None,
            lengths if exporting or not bool((lengths == sequence_length).all()) else None,
            states,
            draws,
        )
        return PointFeatures(self.group(hidden), statistics)

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Put the groups of channels side by side on the first axis: row b * num_groups + g."""
        grouped = values.unflatten(-1, (self.config.num_groups, self.config.channels_of_a_group))
        return grouped.transpose(1, 2).flatten(0, 1)

    def group(self, rows: torch.Tensor) -> torch.Tensor:
        """Undo `rows` for (batch_size * num_groups, positions, width): (batch_size, num_groups, positions, width)."""
        return rows.unflatten(0, (-1, self.config.num_groups))

    def ungroup(self, hidden: torch.Tensor) -> torch.Tensor:
        """Drop the axis of groups where channels are joint."""
        return hidden if self.config.channel_mode == "independent" else hidden.squeeze(1)

    def in_place(self, hidden: torch.Tensor, aligned: AlignedSeries) -> torch.Tensor:
        """Move timestamps back to where they were before the series were aligned; other positions stay."""
        if self.config.encoder_type != "transformer":
            return hidden
        if not torch.compiler.is_compiling() and not bool(aligned.start.any()):
            return hidden
        steps = torch.arange(hidden.shape[2], device=hidden.device) - aligned.start.unsqueeze(1)
        return take_positions(hidden, steps, (steps >= 0) & (steps < aligned.length.unsqueeze(1)))

    def to_timestamps(self, hidden: torch.Tensor, aligned: AlignedSeries) -> torch.Tensor:
        """Give every timestamp the representation nearest to it, the mean over independent channels.

        Args:
            hidden: (batch_size, num_groups, num_positions, hidden_size) of the aligned series.
            aligned: The series.

        Returns:
            (batch_size, sequence_length, hidden_size). Channels without any observed value are left out of the mean,
            unless there are no others.
        """
        seen = self.group(self.rows(aligned.observed).any(-1).any(-1, keepdim=True)).unsqueeze(-1)
        seen = seen | ~seen.any(1, keepdim=True)
        hidden = ((hidden * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)).to(hidden.dtype)
        if self.config.encoder_type == "transformer":
            return self.in_place(hidden, aligned).squeeze(1)
        steps = torch.arange(aligned.values.shape[1], device=hidden.device) - aligned.start.unsqueeze(1)
        inside = (steps >= 0) & (steps < aligned.length.unsqueeze(1))
        last = self.network.output_length(aligned.length).unsqueeze(1) - 1
        places = torch.minimum(self.network.position_of_steps(steps), last)
        return take_positions(hidden, places, inside).squeeze(1)


def take_positions(hidden: torch.Tensor, places: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Pick positions of every series.

    Args:
        hidden: (batch_size, num_groups, num_positions, hidden_size).
        places: (batch_size, length) of any numbers.
        inside: (batch_size, length) bool, False for zeros.

    Returns:
        (batch_size, num_groups, length, hidden_size).
    """
    batch_size, num_groups, num_positions, hidden_size = hidden.shape
    index = places.clamp(min=0, max=num_positions - 1).view(batch_size, 1, -1, 1)
    return hidden.gather(2, index.expand(-1, num_groups, -1, hidden_size)) * inside.view(batch_size, 1, -1, 1)
