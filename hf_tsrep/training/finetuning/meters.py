"""Metrics of a fine-tuning, gathered batch by batch, so that no part's predictions are kept on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from ...evaluation.metrics import classification_scores, multi_label_scores, regression_scores


class ClassificationMeter:
    """Metrics of class scores, gathered batch by batch."""

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take a batch, and return the metrics of all batches since the last result.

        Args:
            prediction: predictions (batch_size, num_labels) and label_ids (batch_size,), tensors.
            compute_result: Whether this is the last batch.

        Returns:
            accuracy, macro_f1, kappa and auprc; nothing before the last batch.
        """
        self._scores.append(_as_array(prediction.predictions))
        self._labels.append(_as_array(prediction.label_ids))
        if not compute_result:
            return {}
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels).astype(np.int64)
        self._scores, self._labels = [], []
        # Log-probabilities, not logits: the area under a curve compares one class's scores over the samples.
        scores = scores - np.logaddexp.reduce(scores.astype(np.float64), axis=1, keepdims=True)
        return classification_scores(labels, scores.argmax(axis=1), scores)


class MultiLabelMeter:
    """Metrics of several labels at once, gathered batch by batch."""

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take a batch, and return the metrics of all batches since the last result.

        Args:
            prediction: predictions (batch_size, num_labels) logits, and label_ids of 0 and 1, tensors of one shape.
            compute_result: Whether this is the last batch.

        Returns:
            accuracy, macro_f1, micro_f1 and auprc; nothing before the last batch.
        """
        self._scores.append(_as_array(prediction.predictions))
        self._labels.append(_as_array(prediction.label_ids))
        if not compute_result:
            return {}
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels).astype(np.int64)
        self._scores, self._labels = [], []
        return multi_label_scores(labels, scores)


class RegressionMeter:
    """Metrics of numbers in the units of the targets, gathered batch by batch."""

    def __init__(self) -> None:
        self._predicted: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take a batch, and return the metrics of all batches since the last result.

        Args:
            prediction: predictions (batch_size, 1) and label_ids (batch_size,), tensors.
            compute_result: Whether this is the last batch.

        Returns:
            rmse, mae and r2; nothing before the last batch.
        """
        self._predicted.append(_as_array(prediction.predictions)[:, 0])
        self._targets.append(_as_array(prediction.label_ids))
        if not compute_result:
            return {}
        targets, predicted = np.concatenate(self._targets), np.concatenate(self._predicted)
        self._targets, self._predicted = [], []
        return regression_scores(targets, predicted)


class ForecastMeter:
    """Squared and absolute errors over all observed values, gathered batch by batch.

    Args:
        target_scale: (num_output_channels,) what the errors are divided by; None for nothing.
    """

    def __init__(self, target_scale: Sequence[float] | None = None) -> None:
        self._scale = np.asarray(1.0 if target_scale is None else target_scale, dtype=np.float64)
        self._squared = self._absolute = 0.0
        self._count = 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take a batch, and return the metrics of all batches since the last result.

        Args:
            prediction: predictions and label_ids (batch_size, prediction_length, num_output_channels), tensors; NaN
                among the labels = missing.
            compute_result: Whether this is the last batch.

        Returns:
            mse and mae; nothing before the last batch.
        """
        difference = _as_array(prediction.predictions).astype(np.float64) - _as_array(prediction.label_ids)
        observed = ~np.isnan(_as_array(prediction.label_ids))
        difference = (difference / self._scale)[observed]
        self._squared += float(np.square(difference).sum())
        self._absolute += float(np.abs(difference).sum())
        self._count += difference.size
        if not compute_result:
            return {}
        count = self._count or math.nan
        metrics = {"mse": self._squared / count, "mae": self._absolute / count}
        self._squared = self._absolute = 0.0
        self._count = 0
        return metrics


def _as_array(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
