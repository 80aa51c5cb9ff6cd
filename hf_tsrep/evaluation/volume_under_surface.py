"""Volume under the precision-recall surface (VUS-PR) for anomaly scores of a series.

Source: Paparrizos et al., "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly
Detection", VLDB 2022, as computed by the TSB-AD benchmark (its default variant).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from .metrics import segments


def vus_pr(references: ArrayLike, scores: ArrayLike, *, max_buffer: int = 100, num_thresholds: int = 250) -> float:
    """Return the mean over buffer widths 0 .. `max_buffer` of the range-based area under the PR curve.

    Exactly, for a buffer width w:

    - Each anomalous segment gets a slope of `w // 2` steps on both sides with the weight `sqrt(1 - distance / w)`,
      the distance counted from the segment's border (1, 2, ...); weights add up and are cut at 1; inside it is 1.
    - Segments whose slopes touch or overlap are one range.
    - At a threshold, with `detected` the steps of at least that score: `hits` = sum of the weights of detected steps;
      `positives` = anomalous steps + half of the weight of detected slope steps; recall = min(hits / positives, 1)
      times the share of ranges that hold a detected step; precision = hits / number of detected steps.
    - The area is the sum over thresholds, from the highest, of (recall - recall before) * precision; the recall before
      the first one is 0.

    The thresholds are the scores at `num_thresholds` evenly spaced ranks.

    Args:
        references: (time,) 0 or 1 with at least one 1.
        scores: (time,) larger = more anomalous.
        max_buffer: The widest buffer, in steps; 100 is the benchmark's default where no period is known.
        num_thresholds: Points of the curve.

    Returns:
        The volume; about 0 (random) to 1.

    Raises:
        ValueError: Other shapes, NaN scores, no anomalous step.
    """
    truth, values = np.asarray(references), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"references {truth.shape} and scores {values.shape} must both be (time,).")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"references must be 0 or 1, found {np.unique(truth)[:5]}.")
    if not truth.any():
        raise ValueError("VUS-PR needs at least one anomalous step.")
    if np.isnan(values).any():
        raise ValueError(f"Score of step {int(np.flatnonzero(np.isnan(values))[0])} is NaN.")
    descending = -np.sort(-values)
    thresholds = descending[np.linspace(0, len(values) - 1, num_thresholds).astype(int)]
    first_threshold = np.searchsorted(-thresholds, -values, side="left")  # the first one that detects each step
    detected = np.cumsum(np.bincount(first_threshold, minlength=num_thresholds))
    inside_hits = np.cumsum(np.bincount(first_threshold, weights=truth, minlength=num_thresholds))
    bounds = segments(truth == 1)
    areas = []
    for width in range(max_buffer + 1):
        weights = _slope_weights(len(values), bounds, width)
        slope = np.flatnonzero((weights > 0) & (truth == 0))
        slope_hits = np.cumsum(
            np.bincount(first_threshold[slope], weights=np.minimum(weights[slope], 1), minlength=num_thresholds)
        )
        hits = inside_hits + slope_hits
        recall = np.minimum(hits / (truth.sum() + slope_hits / 2), 1)
        highest = [values[start:stop].max() for start, stop in _ranges(bounds, width // 2, len(values))]
        recall = recall * np.mean(np.asarray(highest)[:, None] >= thresholds, axis=0)
        areas.append(np.sum(np.diff(recall, prepend=0.0) * hits / detected))
    return float(np.mean(areas))


def _slope_weights(length: int, bounds: list[tuple[int, int]], width: int) -> np.ndarray:
    """Return the summed slope weights of a buffer width, (length,); steps inside segments are not meaningful."""
    weights = np.zeros(length)
    distance = np.arange(1, width // 2 + 1)
    heights = np.sqrt(1 - distance / max(width, 1))
    for start, stop in bounds:
        after = min(len(distance), length - stop)
        weights[stop : stop + after] += heights[:after]
        before = min(len(distance), start)
        weights[start - before : start] += heights[:before][::-1]
    return weights


def _ranges(bounds: list[tuple[int, int]], slope: int, length: int) -> list[tuple[int, int]]:
    """Return the segments widened by their slopes, joined where the last steps of two meet or overlap."""
    joined = [[max(bounds[0][0] - slope, 0), min(bounds[0][1] + slope, length)]]
    for (_, previous_stop), (start, stop) in pairwise(bounds):
        if previous_stop - 1 + slope < start - slope:
            joined.append([start - slope, stop + slope])
        joined[-1][1] = min(stop + slope, length)
    return [(start, stop) for start, stop in joined]
