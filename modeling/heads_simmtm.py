"""SimMTM's layers on the point-wise representations of a whole context: projector, decoder and heads."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_simmtm import SimMTMConfig
from .layers_batch_normalization import ObservedBatchNorm
from .layers_dropout import DropoutDraws, SeededDropout

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
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return loss, logits
