"""TimeDRL's heads: the two pretext tasks, and the prediction of the future from all patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_timedrl import TimeDRLConfig
from .heads_time_series import prediction_loss
from .layers_batch_normalization import ObservedBatchNorm
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_instance_normalization import InstanceStatistics, denormalize_instances

# Far behind the numbers of the encoder's dropout layers.
FIRST_HEAD_SITE = 10_000


class ContrastivePredictor(nn.Module):
    """From one view's instance embedding to the other's (paper, section IV-D): a bottleneck of half the width.

    Args:
        embedding_size: Length of an instance embedding.
        dropout: Dropout probability.
    """

    def __init__(self, embedding_size: int, dropout: float) -> None:
        super().__init__()
        inner = max(embedding_size // 2, 1)
        self.contraction = nn.Linear(embedding_size, inner)
        self.norm = ObservedBatchNorm(inner)
        self.dropout = SeededDropout(dropout, FIRST_HEAD_SITE)
        self.expansion = nn.Linear(inner, embedding_size)

    def forward(
        self,
        embeddings: torch.Tensor,
        observed: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Predict.

        Args:
            embeddings: (num_views * num_rows, embedding_size).
            observed: (num_views * num_rows,) bool, rows that count in batch statistics; None for all.
            draws: The random choices of dropout, which know the number of views.

        Returns:
            The same shape as `embeddings`.
        """
        hidden = self.contraction(embeddings)
        hidden = self.norm(hidden, observed, 1 if draws is None else draws.num_views).to(hidden.dtype)
        return self.expansion(self.dropout(F.relu(hidden), draws))


class TimestampPredictor(nn.Module):
    """From a patch's embedding to the patch (paper, section IV-C).

    Args:
        config: Sizes.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.dropout = SeededDropout(config.dropout, FIRST_HEAD_SITE + 1)
        self.projection = nn.Linear(config.hidden_size, config.token_size)

    def forward(self, embeddings: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Map (num_rows, num_patches, hidden_size) to (num_rows, num_patches, token_size)."""
        return self.projection(self.dropout(embeddings, draws))


def last_patches(patches: torch.Tensor, num_patches: torch.Tensor, num_context_patches: int) -> torch.Tensor:
    """Put the last patches of every series side by side.

    Args:
        patches: (batch_size, num_patches, hidden_size), with independent channels (batch_size, num_input_channels,
            num_patches, hidden_size).
        num_patches: (batch_size,) number of patches of each series, at most num_context_patches. A shorter series
            lacks the first ones, in whose place zeros stand.
        num_context_patches: Number of patches of the context.

    Returns:
        (batch_size, num_context_patches * hidden_size), with independent channels (batch_size, num_input_channels,
        num_context_patches * hidden_size).
    """
    place = torch.arange(num_context_patches, device=patches.device) - num_context_patches + num_patches.unsqueeze(1)
    shape = (len(patches), *(1,) * (patches.ndim - 3), num_context_patches, 1)
    index = place.clamp(min=0).view(shape).expand(*patches.shape[:-2], -1, patches.shape[-1])
    return (patches.gather(-2, index) * (place >= 0).view(shape)).flatten(-2)


class FlattenedPredictionHead(nn.Module):
    """A linear layer from all patches of the last context_length timestamps to the future (paper, section V-A).

    Args:
        config: Sizes. With independent channels one layer serves all of them.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.num_channels = config.num_output_channels or config.num_input_channels
        self.is_joint = config.channel_mode == "joint"
        self.dropout = nn.Dropout(config.prediction_dropout)
        outputs = config.prediction_length * (self.num_channels if self.is_joint else 1)
        self.projection = nn.Linear(config.num_context_patches * config.hidden_size, outputs)

    def forward(
        self,
        patches: torch.Tensor,
        mean: torch.Tensor,
        deviation: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict the last channels.

        Args:
            patches: See last_patches.
            mean: (batch_size, 1, num_input_channels) of the series.
            deviation: The same shape.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.

        Returns:
            The scalar mean squared error over observed values or None, and the prediction (batch_size,
            prediction_length, num_output_channels) in the units of the series.
        """
        statistics = InstanceStatistics(mean, deviation).channels(slice(-self.num_channels, None))
        normalized = self.normalized_prediction(patches)
        prediction = denormalize_instances(normalized, statistics).to(normalized.dtype)
        return prediction_loss(prediction, future_values, future_observed_mask), prediction

    def normalized_prediction(self, patches: torch.Tensor) -> torch.Tensor:
        """Predict on the scale of the instance-normalised input; shapes as in `forward`."""
        prediction = self.projection(self.dropout(patches))
        if self.is_joint:
            return prediction.unflatten(-1, (-1, self.num_channels))
        return prediction[:, -self.num_channels :].transpose(1, 2)
