"""Metrics of a fine-tuning, gathered batch by batch, so that no part's predictions are kept on a device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from ...evaluation.metrics import classification_scores, multi_label_scores, regression_scores


class SampleMeter(ABC):
    """Metrics of one answer a sample, gathered batch by batch."""

    def __init__(self) -> None:
        self._predictions: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take a batch, and return the metrics of all batches since the last result.

        Args:
            prediction: predictions (batch_size, num_labels), and label_ids with one row a sample, tensors.
            compute_result: Whether this is the last batch.

        Returns:
            What `measure` says; nothing before the last batch.
        """
        self._predictions.append(_as_array(prediction.predictions))
        self._labels.append(_as_array(prediction.label_ids))
        if not compute_result:
            return {}
        gathered = np.concatenate(self._predictions), np.concatenate(self._labels)
        self._predictions, self._labels = [], []
        return self.measure(*gathered)

    @abstractmethod
    def measure(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the metrics of all samples.

        Args:
            predictions: (num_samples, num_labels).
            labels: One row a sample.
        """


class ClassificationMeter(SampleMeter):
    """Metrics of class scores."""

    def measure(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return accuracy, macro_f1, kappa and auprc of logits and of labels (num_samples,)."""
        # Log-probabilities, not logits: the area under a curve compares one class's scores over the samples.
        scores = predictions - np.logaddexp.reduce(predictions.astype(np.float64), axis=1, keepdims=True)
        return classification_scores(labels.astype(np.int64), scores.argmax(axis=1), scores)


class MultiLabelMeter(SampleMeter):
    """Metrics of several labels at once."""

    def measure(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return accuracy, macro_f1, micro_f1 and auprc of logits and of labels of 0 and 1, of one shape."""
        return multi_label_scores(labels.astype(np.int64), predictions)


class RegressionMeter(SampleMeter):
    """Metrics of numbers in the units of the targets."""

    def measure(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return rmse, mae and r2 of predictions (num_samples, 1) and of labels (num_samples,)."""
        return regression_scores(labels, predictions[:, 0])


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
