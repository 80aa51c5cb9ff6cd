"""Anomaly detection in streams, the protocol of TS2Vec (Yue et al., AAAI 2022, section 4.3 and official code)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from ..data import get_anomaly_labels, get_series, get_timestamps
from ..modeling.detecting_time_series import anomaly_scores, relative_scores
from .anomaly_scoring import (
    expanding_thresholds,
    on_regular_grid,
    prepare_anomaly_series,
    suppress_repeats,
    train_threshold,
)
from .checks import check_channels, choose_domain, preparation_arguments, require_splits
from .metrics import delay_adjusted_predictions, precision_recall_f1
from .volume_under_surface import vus_pr


@dataclass(frozen=True)
class LabelledSeries:
    """One series with its training part in front.

    Attributes:
        item_id: Its name.
        values: (time, channel), raw.
        labels: (time,) 0 or 1.
        train_length: Steps of the training part.
        timestamps: (time,) or None.
    """

    item_id: str
    values: np.ndarray
    labels: np.ndarray
    train_length: int
    timestamps: np.ndarray | None = None


@dataclass(frozen=True)
class Detections:
    """What was found in the evaluated part of one series.

    Attributes:
        labels: (steps,) 0 or 1.
        found: (steps,) 0 or 1, repeats suppressed.
        scores: (steps,) relative scores.
        timestamps: (steps,) or None.
    """

    labels: np.ndarray
    found: np.ndarray
    scores: np.ndarray
    timestamps: np.ndarray | None = None


@dataclass(frozen=True)
class SeriesReport:
    """Numbers about one series, for the details of a result.

    Attributes:
        item_id: Its name.
        order: How often it was differenced.
        num_steps: Evaluated steps.
        num_anomalous: How many of them are anomalous.
        num_detections: Detections after suppression of repeats.
        threshold: Of the relative score; None where it grows with the series (cold start).
        auc_pr, vus_pr: Of the relative score; None without an anomalous step.
    """

    item_id: str
    order: int
    num_steps: int
    num_anomalous: int
    num_detections: int
    threshold: float | None
    auc_pr: float | None
    vus_pr: float | None


def detect(
    scores: np.ndarray,
    labels: np.ndarray,
    train_length: int,
    *,
    delay: int = 7,
    cold_start: bool = False,
    timestamps: np.ndarray | None = None,
) -> tuple[Detections, float | None]:
    """Turn the scores of one series into detections on its evaluated part.

    Args:
        scores: (time,) from `anomaly_scores`.
        labels: (time,) 0 or 1.
        train_length: Steps of the training part, which set the threshold and are not evaluated.
        delay: Further detections within this many steps are suppressed.
        cold_start: Use all scores so far for the threshold, and evaluate all but the first tenth of the series.
        timestamps: (time,) or None.

    Returns:
        The detections and the threshold (None for a cold start).
    """
    relative = relative_scores(scores)
    threshold = None
    if cold_start:
        begin = len(relative) // 10
        with np.errstate(invalid="ignore"):
            found = suppress_repeats(relative > expanding_thresholds(relative, begin), delay)[begin:]
    else:
        begin, threshold = train_length, train_threshold(relative, train_length)
        found = suppress_repeats(relative[begin:] > threshold, delay)
    evaluated = relative[begin:]
    known = evaluated[~np.isnan(evaluated)]
    lowest = float(known.min()) if len(known) else 0.0
    detections = Detections(
        labels=np.asarray(labels)[begin:].astype(np.int64),
        found=found.astype(np.int64),
        scores=np.where(np.isnan(evaluated), lowest, evaluated),
        timestamps=None if timestamps is None else timestamps[begin:],
    )
    return detections, threshold


def delay_adjusted_metrics(detections: list[Detections], delay: int = 7) -> dict[str, float]:
    """Return `f1`, `precision` and `recall` of all series together, after the segment-wise delay rule.

    Args:
        detections: One entry a series; with timestamps, gaps count as time that passes.
        delay: See `delay_adjusted_predictions`.

    Raises:
        ValueError: No series.
    """
    if not detections:
        raise ValueError("There is no series to evaluate.")
    truths, predictions = [], []
    for one in detections:
        labels, found = one.labels, one.found
        if one.timestamps is not None:
            labels, found = on_regular_grid(one.timestamps, labels), on_regular_grid(one.timestamps, found)
        truths.append(labels)
        predictions.append(delay_adjusted_predictions(labels, found, delay))
    precision, recall, f1 = precision_recall_f1(np.concatenate(truths), np.concatenate(predictions))
    return {"f1": f1, "precision": precision, "recall": recall}


def evaluate_anomaly_detection(
    model: Any,
    corpus: Any,
    *,
    delay: int = 7,
    cold_start: bool = False,
    difference: bool | None = None,
    context_length: int = 201,
    max_buffer: int = 100,
    batch_size: int = 256,
    domain: str | None = None,
    seed: int = 0,
    device: Any = None,
    show_progress_bar: bool | None = None,
) -> dict[str, Any]:
    """Evaluate a model by the masked-difference score, causally, series by series.

    Args:
        model: Its `encode` takes `mask="mask_last"`.
        corpus: DatasetDict with splits `train` and `test`, consecutive stretches of the same series (matched by
            `item_id`), and a column `anomaly_label`.
        delay: Of the delay rule and of the suppression; 7 for KPI, 3 for Yahoo.
        cold_start: See `detect`.
        difference: Whether series are differenced until stationary; None: those of one channel without missing values.
        context_length: Steps a score sees.
        max_buffer: Widest buffer of VUS-PR.
        batch_size: Windows encoded at once.
        domain: Which of the model's domains the corpus is (methods with domains); None for the one of its name.
        seed: Not used (nothing is drawn); every protocol takes one.
        device: Where the model runs.
        show_progress_bar: Passed to `encode`.

    Returns:
        `metrics`: `f1`, `precision`, `recall` by the delay rule over all series, and `auc_pr`, `vus_pr` (means over
        the series with an anomaly in the evaluated part); `details`: a SeriesReport a series; `timings` in seconds;
        `settings`.
    """
    all_series = labelled_series(corpus)
    told, recorded = choose_domain(model, corpus, domain)
    check_channels(model, corpus, told)
    detections, reports = [], []
    encoding_time, begin = 0.0, time.perf_counter()
    for series in all_series:
        plain = series.values.shape[1] == 1 and bool(np.isfinite(series.values).all())
        prepared = prepare_anomaly_series(
            series.values, series.train_length, plain if difference is None else difference
        )
        start = time.perf_counter()
        scores = anomaly_scores(
            model,
            prepared.values,
            context_length=context_length,
            batch_size=batch_size,
            device=device,
            show_progress_bar=show_progress_bar,
            **told,
            **preparation_arguments(model),  # the series are, in the protocol's own way
        )
        encoding_time += time.perf_counter() - start
        found, threshold = detect(
            scores,
            series.labels[prepared.order :],
            prepared.train_length,
            delay=delay,
            cold_start=cold_start,
            timestamps=None if series.timestamps is None else series.timestamps[prepared.order :],
        )
        detections.append(found)
        reports.append(_report(series.item_id, prepared.order, found, threshold, max_buffer))
    metrics = delay_adjusted_metrics(detections, delay)
    for name in ("auc_pr", "vus_pr"):
        values = [getattr(report, name) for report in reports if getattr(report, name) is not None]
        if values:
            metrics[name] = float(np.mean(values))
    return {
        "metrics": metrics,
        "details": [asdict(report) for report in reports],
        "timings": {"encode": encoding_time, "total": time.perf_counter() - begin},
        "settings": {
            "setting": "cold-start" if cold_start else "normal",
            "delay": delay,
            "difference": difference,
            "context_length": context_length,
            "max_buffer": max_buffer,
            **recorded,
        },
    }


def labelled_series(corpus: Any) -> list[LabelledSeries]:
    """Return the series of a corpus, train and test joined.

    Raises:
        ValueError: A missing split or column, or series that occur in one split only.
    """
    splits = require_splits(corpus, ("train", "test"), "anomaly")
    parts: dict[str, dict[str, Any]] = {}
    for name in ("train", "test"):
        split = splits[name]
        if "anomaly_label" not in split.column_names:
            raise ValueError(f"Split {name} has no column 'anomaly_label'; it has {', '.join(split.column_names)}.")
        series = get_series(split)
        names = list(split["item_id"]) if "item_id" in split.column_names else [str(i) for i in range(len(series))]
        stamps = get_timestamps(split) if "timestamp" in split.column_names else [np.empty(0)] * len(series)
        parts[name] = dict(zip(names, zip(series, get_anomaly_labels(split), stamps, strict=True), strict=True))
    _same_items(parts)
    joined = []
    for item_id, (values, labels, stamps) in parts["train"].items():
        test_values, test_labels, test_stamps = parts["test"][item_id]
        if len(labels) != len(values) or len(test_labels) != len(test_values):
            raise ValueError(f"Series {item_id!r}: anomaly_label needs one 0 or 1 for each of its steps.")
        has_stamps = len(stamps) == len(values) and len(test_stamps) == len(test_values)
        joined.append(
            LabelledSeries(
                item_id=item_id,
                values=np.concatenate([values, test_values]),
                labels=np.concatenate([labels, test_labels]),
                train_length=len(values),
                timestamps=np.concatenate([stamps, test_stamps]) if has_stamps else None,
            )
        )
    return joined


def _same_items(parts: Mapping[str, Mapping[str, Any]]) -> None:
    different = sorted(set(parts["train"]) ^ set(parts["test"]))
    if different:
        raise ValueError(
            f"Series {different[0]!r} is in one split only ({len(different)} such). The protocol needs the train and "
            "the test part of every series, with one item_id."
        )


def _report(item_id: str, order: int, found: Detections, threshold: float | None, max_buffer: int) -> SeriesReport:
    anomalous = bool(found.labels.any())
    return SeriesReport(
        item_id=item_id,
        order=order,
        num_steps=len(found.labels),
        num_anomalous=int(found.labels.sum()),
        num_detections=int(found.found.sum()),
        threshold=threshold,
        auc_pr=float(average_precision_score(found.labels, found.scores)) if anomalous else None,
        vus_pr=vus_pr(found.labels, found.scores, max_buffer=max_buffer) if anomalous else None,
    )
