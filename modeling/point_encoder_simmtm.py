"""Point-wise representations: either encoder on groups of channels, and where its positions lie (section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .configuration_simmtm import SimMTMConfig
from .context_simmtm import take_positions
from .layers_dropout import DropoutDraws
from .layers_instance_normalization import InstanceStatistics, instance_statistics, normalize_instances
from .layers_patching import AlignedSeries, align_series
from .layers_resnet_simmtm import ConvolutionEncoder
from .layers_timestamp_transformer import TimestampTransformer


class PointFeatures(NamedTuple):
    """Point-wise representations of a batch.

    Args:
        hidden: (batch_size, num_groups, num_positions, hidden_size), zero beyond the series.
        statistics: What the values were normalised by, or None.
    """

    hidden: torch.Tensor
    statistics: InstanceStatistics | None


class PointEncoder(nn.Module):
    """Encodes every channel by itself, or all channels together.

    Args:
        config: Sizes.
    """

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__()
        self.config = config
        self.network: TimestampTransformer | ConvolutionEncoder
        if config.encoder_type == "resnet":
            self.network = ConvolutionEncoder(
                config.channels_of_a_group,
                config.hidden_size,
                config.first_kernel_size,
                config.first_stride,
                config.dropout,
            )
        else:
            self.network = TimestampTransformer(
                config.channels_of_a_group,
                config.hidden_size,
                config.num_hidden_layers,
                config.num_attention_heads,
                config.intermediate_size,
                config.dropout,
                config.attention_dropout,
            )

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
        """Encode series that begin at the first position."""
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
