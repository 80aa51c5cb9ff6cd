"""Heads on any encoder: class scores of a series, and its future."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_time_series import TimeSeriesConfig


class ClassificationHead(nn.Module):
    """A linear layer on the embedding of a series.

    Args:
        config: Gives embedding_size, num_labels and classifier_dropout.
    """

    def __init__(self, config: TimeSeriesConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        num_labels = cast(int, config.num_labels)  # transformers has two labels where the config says nothing
        self.projection = nn.Linear(config.embedding_size, num_labels)

    def forward(
        self, embedding: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes.

        Args:
            embedding: (batch_size, embedding_size).
            labels: (batch_size,) class indices, or None.

        Returns:
            The scalar cross-entropy or None, and the logits (batch_size, num_labels).
        """
        logits = self.projection(self.dropout(embedding))
        return classification_loss(logits, labels), logits


class PredictionHead(nn.Module):
    """A linear layer from the embedding at the last timestamp to all future values.

    Args:
        config: Gives embedding_size, prediction_length and num_output_channels.
    """

    def __init__(self, config: TimeSeriesConfig) -> None:
        super().__init__()
        self.num_output_channels = config.num_output_channels or config.num_input_channels
        self.projection = nn.Linear(config.embedding_size, config.prediction_length * self.num_output_channels)

    def forward(
        self,
        embedding: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict the future.

        Args:
            embedding: (batch_size, embedding_size).
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.

        Returns:
            The scalar mean squared error over observed values or None, and the prediction
            (batch_size, prediction_length, num_output_channels).
        """
        prediction = self.projection(embedding).unflatten(-1, (-1, self.num_output_channels))
        return prediction_loss(prediction, future_values, future_observed_mask), prediction


def classification_loss(logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Return the scalar cross-entropy of logits (batch_size, num_labels), or None without labels (batch_size,)."""
    return None if labels is None else F.cross_entropy(logits.float(), labels)


def prediction_loss(
    prediction: torch.Tensor,
    future_values: torch.Tensor | None,
    future_observed_mask: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Compare a prediction with the observed future.

    Args:
        prediction: (batch_size, prediction_length, num_output_channels).
        future_values: The same shape, NaN = missing, or None.
        future_observed_mask: The same shape, True = observed, or None.

    Returns:
        The scalar mean squared error over observed values, or None without future values.

    Raises:
        ValueError: The shapes differ; the message names both.
    """
    if future_values is None:
        return None
    if future_values.shape != prediction.shape:
        raise ValueError(
            f"future_values has shape {tuple(future_values.shape)}, "
            f"but the model predicts {tuple(prediction.shape)}: "
            "(batch_size, prediction_length, num_output_channels). Cut the values or set these in the config."
        )
    observed = ~future_values.isnan()
    if future_observed_mask is not None:
        observed &= future_observed_mask.bool()
    difference = torch.where(observed, prediction.float() - future_values.nan_to_num(0.0).float(), 0.0)
    return difference.square().sum() / observed.sum().clamp(min=1)
