"""What scikit-learn's metrics lack: the scores of a classifier in one go, the delay rule of anomaly detection.

Everything else is called where it is needed: accuracy, F1, kappa, average precision, Rand index and mutual information
are scikit-learn's.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    root_mean_squared_error,
)


def classification_scores(labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return the four metrics that every classification of this package reports.

    Args:
        labels: (num_samples,) class ids 0 .. num_classes - 1.
        predicted: (num_samples,) class ids.
        scores: (num_samples, num_classes) decision values, larger = more likely.

    Returns:
        `accuracy`; `macro_f1`, in which a class that is never both true and predicted counts 0; Cohen's `kappa`, NaN
        where labels and predictions hold one and the same class only; `auprc`, see there.
    """
    with warnings.catch_warnings():
        # A kappa without chance is NaN, which scikit-learn also says in words.
        warnings.filterwarnings("ignore", module="sklearn", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*(single label|cohen_kappa_score|undefined)")
        kappa = float(cohen_kappa_score(labels, predicted))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "kappa": kappa,
        "auprc": auprc(labels, scores),
    }


def multi_label_scores(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return the metrics that every classification with several labels at once reports.

    Args:
        labels: (num_samples, num_labels) of 0 and 1.
        scores: The same shape; a label is predicted where its score is at least 0, a probability of 1/2.

    Returns:
        `accuracy`, the share of samples whose labels are all right; `macro_f1` and `micro_f1`, in which a label that
        is never both true and predicted counts 0; `auprc`, the mean average precision of a label, 0 of one without a
        sample.
    """
    predicted = (scores >= 0).astype(np.int64)
    columns = zip(labels.T, scores.T, strict=True)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "micro_f1": float(f1_score(labels, predicted, average="micro", zero_division=0)),
        "auprc": float(np.mean([_average_precision(truth, column) for truth, column in columns])),
    }


def regression_scores(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the metrics that every regression of this package reports.

    Args:
        targets: (num_samples,) true numbers.
        predicted: (num_samples,) predicted numbers.

    Returns:
        `rmse` and `mae` in the units of the targets; the coefficient of determination `r2`, NaN of fewer than two
        samples.
    """
    targets, predicted = np.asarray(targets, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    return {
        "rmse": float(root_mean_squared_error(targets, predicted)),
        "mae": float(mean_absolute_error(targets, predicted)),
        "r2": float(r2_score(targets, predicted)) if len(targets) > 1 else float("nan"),
    }


def auprc(references: ArrayLike, scores: ArrayLike) -> float:
    """Return the mean over classes of the average precision of one class against the rest.

    Args:
        references: (num_samples,) class ids 0 .. num_classes - 1.
        scores: (num_samples, num_classes) decision values; or (num_samples,) for class 1 of two.

    Returns:
        Value in [0, 1]. Classes without a sample count 0, and two classes are one column, that of class 1, as in the
        official code of TS2Vec (Yue et al., AAAI 2022).

    Raises:
        ValueError: A class id without a column, other shapes, or scores that are not finite.
    """
    labels, values = np.asarray(references), np.asarray(scores, dtype=np.float64)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 1:
        return _average_precision(labels, values)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(f"references {labels.shape} and scores {values.shape}: expected (n,) and (n, num_classes).")
    if len(labels) and not 0 <= labels.min() <= labels.max() < values.shape[1]:
        raise ValueError(f"Class ids must be 0 .. {values.shape[1] - 1}; found {labels.min()} .. {labels.max()}.")
    if values.shape[1] == 2:
        return _average_precision(labels, values[:, 1] - values[:, 0])
    return float(np.mean([_average_precision(labels == index, column) for index, column in enumerate(values.T)]))


def _average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    # Asked first, because scikit-learn warns of a class without a sample; the value is the same.
    return float(average_precision_score(positive, scores)) if positive.any() else 0.0


def precision_recall_f1(references: ArrayLike, predictions: ArrayLike) -> tuple[float, float, float]:
    """Return precision, recall and F1 of the steps marked 1; a ratio without a denominator is 0.

    Args:
        references: (time,) 0 or 1.
        predictions: (time,) 0 or 1.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(
        references, predictions, average="binary", zero_division=0
    )
    return float(precision), float(recall), float(f1)


def delay_adjusted_predictions(references: ArrayLike, predictions: ArrayLike, delay: int) -> np.ndarray:
    """Apply the delay rule of the KPI competition (AIOps challenge 2018), as TS2Vec does.

    An anomalous segment whose first `delay + 1` steps hold a detection counts as detected at all its steps; else all
    its detections are dropped. Detections outside segments stay.

    Args:
        references: (time,) 0 or 1.
        predictions: (time,) 0 or 1.
        delay: Steps; 7 for KPI, 3 for Yahoo in TS2Vec.

    Returns:
        (time,) int64 of 0 and 1.

    Raises:
        ValueError: A negative delay, other shapes, or values that are not 0 or 1.
    """
    if delay < 0:
        raise ValueError(f"delay must be at least 0, got {delay}.")
    truth, found = np.asarray(references), np.asarray(predictions)
    if truth.ndim != 1 or truth.shape != found.shape:
        raise ValueError(f"References have shape {truth.shape}, predictions {found.shape}; both must be (time,).")
    for name, values in (("references", truth), ("predictions", found)):
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"{name} must be 0 or 1, found {np.unique(values)[:5]}.")
    adjusted = found.astype(np.int64)
    for start, stop in segments(truth == 1):
        adjusted[start:stop] = adjusted[start : min(start + delay + 1, stop)].any()
    return adjusted


def segments(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of True in a (time,) mask as (start, stop), stop exclusive."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, dtype=np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
