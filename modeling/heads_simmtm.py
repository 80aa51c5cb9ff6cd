"""SimMTM's layers on the point-wise representations of a whole context: projector, decoder and heads."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_simmtm import SimMTMConfig
from .heads_time_series import classification_loss, prediction_loss
from .layers_batch_normalization import ObservedBatchNorm
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_instance_normalization import InstanceStatistics, denormalize_instances

# Numbers of the dropout layers, beyond all of an encoder.
PROJECTOR_SITE, DECODER_SITE = 10_000, 10_001


class SeriesProjector(nn.Module):
    """From the point-wise representations of a row to its series-wise one (section 3.2).

    Args:
        config: Gives the widths.
        num_features: Number of numbers of a row: positions times hidden_size.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        super().__init__()
        width = config.projector_hidden_size or max(num_features // 2, 1)
        self.expansion = nn.Linear(num_features, width)
        self.norm = ObservedBatchNorm(width)
        self.projection = nn.Linear(width, config.projection_size)
        self.dropout = SeededDropout(config.head_dropout, PROJECTOR_SITE)

    def forward(
        self, rows: torch.Tensor, observed: torch.Tensor | None = None, draws: DropoutDraws | None = None
    ) -> torch.Tensor:
        """Project.

        Args:
            rows: (num_rows, num_features).
            observed: (num_rows,) bool, False for a row without any value; None for all.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, projection_size).
        """
        hidden = F.relu(self.norm(self.expansion(rows), observed)).to(rows.dtype)
        return self.dropout(self.projection(hidden), draws)


class ContextDecoder(nn.Module):
    """One linear layer from all point-wise representations of a row to its values; dropout behind it.

    Args:
        num_features: Number of numbers of a row.
        length: Number of timestamps that come out.
        num_channels: Number of channels that come out.
        dropout: Dropout probability of the values.
    """

    def __init__(self, num_features: int, length: int, num_channels: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(num_features, length * num_channels)
        self.num_channels = num_channels
        self.dropout = SeededDropout(dropout, DECODER_SITE)

    def forward(self, rows: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Map (..., num_features) to (..., length, num_channels); draws are those of dropout, None for random ones."""
        return self.dropout(self.projection(rows), draws).unflatten(-1, (-1, self.num_channels))


class ContextPredictionHead(ContextDecoder):
    """The future from all point-wise representations of the context; of more input than output channels the last ones.

    Args:
        config: Gives prediction_length, num_output_channels, channel_mode and head_dropout.
        num_features: Number of numbers of a row: positions times hidden_size.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        num_output_channels = config.num_output_channels or config.num_input_channels
        is_independent = config.channel_mode == "independent"
        of_a_group = 1 if is_independent else num_output_channels
        super().__init__(num_features, config.prediction_length, of_a_group, config.head_dropout)
        self.predicted = slice(-num_output_channels, None)
        self.predicted_groups = self.predicted if is_independent else slice(None)
        # Only then is the predicted channels' scale known.
        self.predicts_its_input = num_output_channels <= config.num_input_channels

    def forward(  # type: ignore[override]  # it reads whole series, and compares with the future
        self,
        features: torch.Tensor,
        mean: torch.Tensor | None = None,
        deviation: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict.

        Args:
            features: (batch_size, num_groups, num_features).
            mean: (batch_size, 1, num_input_channels) of the series, None without instance normalisation.
            deviation: The same.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.

        Returns:
            The scalar mean squared error over observed values or None, and the prediction (batch_size,
            prediction_length, num_output_channels).
        """
        prediction = super().forward(features[:, self.predicted_groups]).transpose(1, 2).flatten(2)
        if mean is not None and deviation is not None and self.predicts_its_input:
            statistics = InstanceStatistics(mean, deviation).channels(self.predicted)
            prediction = denormalize_instances(prediction, statistics)
        return prediction_loss(prediction, future_values, future_observed_mask), prediction


class ContextClassificationHead(nn.Module):
    """Class scores from the point-wise representations of all channels: two linear layers, a sigmoid in between.

    Args:
        config: Gives the widths, num_labels and classifier_dropout.
        num_features: Number of numbers of a series.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.hidden = nn.Linear(num_features, config.classifier_hidden_size)
        self.projection = nn.Linear(config.classifier_hidden_size, cast(int, config.num_labels))

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes.

        Args:
            features: (batch_size, num_features).
            labels: (batch_size,) class indices, or None.

        Returns:
            The scalar cross-entropy or None, and the logits (batch_size, num_labels).
        """
        logits = self.projection(self.hidden(self.dropout(features)).sigmoid())
        return classification_loss(logits, labels), logits
