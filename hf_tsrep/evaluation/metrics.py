"""Metrics as plain functions of arrays. Those with a counterpart in scikit-learn return its values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def mean_squared_error(references: ArrayLike, predictions: ArrayLike) -> float:
    """Returns the mean of the squared differences over all elements.

    Args:
        references: any shape.
        predictions: the same shape.

    Raises:
        ValueError: other shapes, or no elements (so for every metric below).
    """
    references, predictions = _pair(references, predictions)
    return float(np.mean((references - predictions) ** 2, dtype=np.float64))


def mean_absolute_error(references: ArrayLike, predictions: ArrayLike) -> float:
    """Returns the mean of the absolute differences over all elements; arguments as `mean_squared_error`."""
    references, predictions = _pair(references, predictions)
    return float(np.mean(np.abs(references - predictions), dtype=np.float64))


def accuracy(references: ArrayLike, predictions: ArrayLike) -> float:
    """Returns the share of equal labels.

    Args:
        references: (num_samples,) true labels.
        predictions: (num_samples,) predicted labels.
    """
    references, predictions = _pair(references, predictions)
    return float(np.mean(references == predictions))


def macro_f1(references: ArrayLike, predictions: ArrayLike) -> float:
    """Returns the unweighted mean over classes of the F1 score.

    Classes are those of either argument; one that is never both true and predicted counts 0. Arguments as `accuracy`.
    """
    table = contingency_table(references, predictions, shared_classes=True)
    # Never 0: each class occurs in one of the arguments.
    return float(np.mean(2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))))


def cohen_kappa(references: ArrayLike, predictions: ArrayLike) -> float:
    """Returns Cohen's kappa: agreement beyond chance, `(observed - expected) / (1 - expected)`.

    NaN where both arguments hold one and the same class only. Arguments as `accuracy`.
    """
    table = contingency_table(references, predictions, shared_classes=True).astype(np.float64)
    total = table.sum()
    observed = np.trace(table) / total
    expected = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def area_under_precision_recall(references: ArrayLike, scores: ArrayLike) -> float:
    """Returns the average precision: the sum over thresholds of (recall gained) * (precision there).

    Args:
        references: (num_samples,) 0 or 1.
        scores: (num_samples,) larger = more positive; equal scores share one threshold.

    Returns:
        Value in [0, 1]; 0 without a positive sample, as in scikit-learn.
    """
    references, scores = _pair(references, scores)
    positive = _binary(references)
    _refuse_nan(scores)
    if not positive.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    true_positives = np.cumsum(positive[order])[last_of_ties]
    precision = true_positives / (last_of_ties + 1)
    recall_gain = np.diff(true_positives, prepend=0) / positive.sum()
    return float(np.sum(recall_gain * precision))


def auprc(references: ArrayLike, scores: ArrayLike) -> float:
    """Returns the area under the precision-recall curve from decision values: one-vs-rest, unweighted mean of classes.

    Args:
        references: (num_samples,) class ids 0 .. num_classes - 1.
        scores: (num_samples, num_classes) decision values; or (num_samples,) for class 1 of two.

    Returns:
        Value in [0, 1]. Classes without a test sample count 0, as in scikit-learn and the official TS2Vec code.

    Raises:
        ValueError: a class id without a column.
    """
    labels, values = np.asarray(references), np.asarray(scores, dtype=np.float64)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 1:
        return area_under_precision_recall(labels, values)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(f"references {labels.shape} and scores {values.shape}: expected (n,) and (n, num_classes).")
    if len(labels) and not 0 <= labels.min() <= labels.max() < values.shape[1]:
        raise ValueError(f"Class ids must be 0 .. {values.shape[1] - 1}; found {labels.min()} .. {labels.max()}.")
    if values.shape[1] == 2:
        # The official code binarises two classes into one column, that of class 1.
        return area_under_precision_recall(labels, values[:, 1] - values[:, 0])
    return float(
        np.mean([area_under_precision_recall(labels == index, values[:, index]) for index in range(values.shape[1])])
    )


def adjusted_rand_index(references: ArrayLike, predictions: ArrayLike) -> float:
    """Returns the Rand index adjusted for chance (Hubert and Arabie, 1985): 1 = same partition, about 0 = random.

    Args:
        references: (num_samples,) classes.
        predictions: (num_samples,) clusters, with any names.
    """
    table = contingency_table(references, predictions).astype(np.float64)
    total = table.sum()
    squares = float((table**2).sum())
    both_pairs = squares - total
    reference_pairs = float((table.sum(axis=1) ** 2).sum()) - squares
    prediction_pairs = float((table.sum(axis=0) ** 2).sum()) - squares
    neither_pairs = total**2 - reference_pairs - prediction_pairs - squares
    if reference_pairs == 0 and prediction_pairs == 0:
        return 1.0
    numerator = 2.0 * (both_pairs * neither_pairs - reference_pairs * prediction_pairs)
    return float(numerator) / (
        (both_pairs + reference_pairs) * (reference_pairs + neither_pairs)
        + (both_pairs + prediction_pairs) * (prediction_pairs + neither_pairs)
    )


def normalized_mutual_information(references: ArrayLike, predictions: ArrayLike) -> float:
    """Returns the mutual information over the mean of both entropies; arguments as `adjusted_rand_index`."""
    table = contingency_table(references, predictions) / np.size(references)
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    if len(rows) == 1 and len(columns) == 1:
        return 1.0
    filled = table > 0
    information = float(np.sum(table[filled] * np.log(table[filled] / np.outer(rows, columns)[filled])))
    mean_entropy = -float(np.sum(rows * np.log(rows)) + np.sum(columns * np.log(columns))) / 2
    return max(information, 0.0) / mean_entropy


def precision_recall_f1(references: ArrayLike, predictions: ArrayLike) -> tuple[float, float, float]:
    """Returns precision, recall and F1 of the positive class; a ratio without a denominator is 0.

    Args:
        references: (num_samples,) 0 or 1.
        predictions: (num_samples,) 0 or 1.
    """
    references, predictions = _pair(references, predictions)
    truth, found = _binary(references), _binary(predictions)
    hits = int(np.sum(truth & found))
    precision = hits / found.sum() if found.any() else 0.0
    recall = hits / truth.sum() if truth.any() else 0.0
    f1 = 2 * hits / (truth.sum() + found.sum()) if truth.any() or found.any() else 0.0
    return float(precision), float(recall), float(f1)


def delay_adjusted_predictions(references: ArrayLike, predictions: ArrayLike, delay: int) -> np.ndarray:
    """Applies the delay rule of the KPI competition (AIOps challenge 2018), as TS2Vec does.

    An anomalous segment whose first `delay + 1` steps hold a detection counts as detected at all its steps; else all
    its detections are dropped. Detections outside segments stay.

    Args:
        references: (time,) 0 or 1.
        predictions: (time,) 0 or 1.
        delay: steps; 7 for KPI, 3 for Yahoo in TS2Vec.

    Returns:
        (time,) int64 of 0 and 1.
    """
    references, predictions = _pair(references, predictions)
    if delay < 0:
        raise ValueError(f"delay must be at least 0, got {delay}.")
    truth, found = _binary(references), _binary(predictions)
    adjusted = found.astype(np.int64)
    for start, stop in segments(truth):
        adjusted[start:stop] = found[start : min(start + delay + 1, stop)].any()
    return adjusted


def delay_adjusted_precision_recall_f1(
    references: ArrayLike, predictions: ArrayLike, delay: int
) -> tuple[float, float, float]:
    """Returns precision, recall and F1 after `delay_adjusted_predictions`; same arguments."""
    return precision_recall_f1(references, delay_adjusted_predictions(references, predictions, delay))


def segments(mask: np.ndarray) -> list[tuple[int, int]]:
    """Returns the runs of True in a (time,) mask as (start, stop), stop exclusive."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask, dtype=np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def contingency_table(references: ArrayLike, predictions: ArrayLike, *, shared_classes: bool = False) -> np.ndarray:
    """Returns how often each pair of names occurs, (reference names, prediction names) int64, names sorted.

    Args:
        references: (num_samples,).
        predictions: (num_samples,).
        shared_classes: give rows and columns the same names, those of either argument.
    """
    references, predictions = _pair(references, predictions)
    if references.ndim != 1:
        raise ValueError(f"Labels have shape {references.shape}; expected (num_samples,).")
    if shared_classes:
        names, both = np.unique(np.concatenate([references, predictions]), return_inverse=True)
        rows, columns = both[: len(references)], both[len(references) :]
        shape = (len(names), len(names))
    else:
        row_names, rows = np.unique(references, return_inverse=True)
        column_names, columns = np.unique(predictions, return_inverse=True)
        shape = (len(row_names), len(column_names))
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _pair(references: ArrayLike, predictions: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(references), np.asarray(predictions)
    if first.shape != second.shape:
        raise ValueError(f"References have shape {first.shape}, predictions {second.shape}; they must be equal.")
    if first.size == 0:
        raise ValueError("A metric needs at least one sample; got none.")
    return first, second


def _binary(values: np.ndarray) -> np.ndarray:
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"Expected (num_samples,) of 0 and 1; got shape {values.shape}, values {np.unique(values)[:5]}."
        )
    return values.astype(bool)


def _refuse_nan(scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        raise ValueError(f"Score {int(np.flatnonzero(np.isnan(scores))[0])} is NaN.")
