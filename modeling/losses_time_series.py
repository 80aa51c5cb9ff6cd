"""Losses of heads: classes, several labels at once, numbers, and the future."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .configuration_time_series import TimeSeriesConfig


def finish_scores(
    scores: torch.Tensor, labels: torch.Tensor | None, config: TimeSeriesConfig
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Compare what a head on a series computed with its labels, as `config.problem_type` says.

    A regression learns numbers of mean 0 and deviation 1 where the config knows label_mean and label_scale.

    Args:
        scores: (batch_size, num_labels), what the last layer computed.
        labels: Of classes (batch_size,) indices; of several labels at once (batch_size, num_labels) of 0 and 1; of a
            regression (batch_size, num_labels) numbers, NaN = missing, or (batch_size,) of one; or None.
        config: Gives problem_type (None for classes), label_mean and label_scale.

    Returns:
        The scalar loss or None; and the logits (batch_size, num_labels): of a regression the numbers in the units of
        the labels, else the scores.

    Raises:
        ValueError: The labels have another shape.
    """
    if config.problem_type == "regression":
        return _finish_numbers(scores, labels, config)
    if config.problem_type == "multi_label_classification":
        return multi_label_loss(scores, labels), scores
    return classification_loss(scores, labels), scores


def _finish_numbers(
    scores: torch.Tensor, labels: torch.Tensor | None, config: TimeSeriesConfig
) -> tuple[torch.Tensor | None, torch.Tensor]:
    numbers = None if labels is None else labels.view(len(scores), -1)
    if config.label_mean is None or config.label_scale is None:
        return regression_loss(scores, numbers), scores
    known = torch.tensor([config.label_mean, config.label_scale], dtype=torch.float32, device=scores.device)
    mean, scale = known.unbind(0)
    # Another number of labels is for regression_loss to refuse.
    if numbers is not None and numbers.shape == scores.shape:
        numbers = (numbers.float() - mean) / scale
    return regression_loss(scores, numbers), scores.float() * scale + mean


def classification_loss(logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Return the scalar cross-entropy of logits (batch_size, num_labels), or None without labels (batch_size,)."""
    return None if labels is None else F.cross_entropy(logits.float(), labels)


def multi_label_loss(logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Return the binary cross-entropy of every label, averaged over labels and series.

    Args:
        logits: (batch_size, num_labels).
        labels: The same shape, 1 = the series has the label, else 0; or None.

    Returns:
        Scalar, or None without labels.

    Raises:
        ValueError: The shapes differ; the message names both.
    """
    if labels is None:
        return None
    _check_labels(logits, labels)
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


def regression_loss(predicted: torch.Tensor, numbers: torch.Tensor | None) -> torch.Tensor | None:
    """Compare numbers: the sum of squared errors of a series, averaged over the series.

    Args:
        predicted: (batch_size, num_labels).
        numbers: The same shape, NaN = missing, which is left out; or None.

    Returns:
        Scalar, or None without numbers. Of one number a series it is the mean squared error.

    Raises:
        ValueError: The shapes differ; the message names both.
    """
    if numbers is None:
        return None
    _check_labels(predicted, numbers)
    given = ~numbers.isnan()
    errors = torch.where(given, predicted.float() - torch.where(given, numbers, 0.0).float(), 0.0)
    return errors.square().sum(-1).mean()


def _check_labels(predicted: torch.Tensor, labels: torch.Tensor) -> None:
    if labels.shape != predicted.shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, but the model predicts {tuple(predicted.shape)}: (batch_size, "
            "num_labels)."
        )


def prediction_loss(
    prediction: torch.Tensor,
    future_values: torch.Tensor | None,
    future_observed_mask: torch.Tensor | None = None,
    quantiles: list[float] | None = None,
) -> torch.Tensor | None:
    """Compare a prediction with the observed future.

    Args:
        prediction: (batch_size, prediction_length, num_output_channels); with quantiles (..., num_quantiles).
        future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
        future_observed_mask: The same shape, True = observed, or None.
        quantiles: What the last axis of the prediction holds; None where it has none.

    Returns:
        Over observed values the scalar mean squared error, or the mean pinball loss of the quantiles; None without
        future values.

    Raises:
        ValueError: The shapes differ; the message names both.
    """
    if future_values is None:
        return None
    expected = prediction.shape if quantiles is None else prediction.shape[:-1]
    if future_values.shape != expected:
        raise ValueError(
            f"future_values has shape {tuple(future_values.shape)}, "
            f"but the model predicts {tuple(expected)}: "
            "(batch_size, prediction_length, num_output_channels). Cut the values or set these in the config."
        )
    observed = ~future_values.isnan()
    if future_observed_mask is not None:
        observed &= future_observed_mask.bool()
    known = future_values.nan_to_num(0.0).float()
    if quantiles is not None:
        losses = pinball_loss(prediction.float(), known, quantiles).mean(-1)
        return torch.where(observed, losses, 0.0).sum() / observed.sum().clamp(min=1)
    difference = torch.where(observed, prediction.float() - known, 0.0)
    return difference.square().sum() / observed.sum().clamp(min=1)


def pinball_loss(predicted: torch.Tensor, values: torch.Tensor, quantiles: list[float]) -> torch.Tensor:
    """Return max(q * e, (q - 1) * e) of the errors e = value - prediction (Koenker and Bassett, Econometrica 1978).

    Its expectation is smallest where the prediction is the quantile q.

    Args:
        predicted: (..., num_quantiles).
        values: (...).
        quantiles: num_quantiles numbers between 0 and 1.

    Returns:
        (..., num_quantiles).
    """
    levels = torch.tensor(quantiles, dtype=predicted.dtype, device=predicted.device)
    errors = values.unsqueeze(-1) - predicted
    return torch.maximum(levels * errors, (levels - 1) * errors)
