"""The alarms that scores of timestamps give: a threshold from the scores of a reference, and the stretches above it.

The threshold is mean + 4 deviations of the reference's scores, the published rule (TS2Vec: Yue et al., AAAI 2022,
section 4.3); distances, which are positive with a long tail, obey it in their logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLD_DEVIATIONS = 4.0
WARM_UP_STEPS = 22  # training scores dropped from the threshold
FEWEST_SCORES = 10  # of the reference, for a mean and a deviation
ROUNDING = 1e-5  # share of an embedding's length below which a distance is none: equal windows in other batches


@dataclass(frozen=True)
class Alarm:
    """A stretch of timestamps with scores above the threshold.

    Args:
        start: Its first step.
        end: Its last step.
        peak: The step of the largest score.
        score: That score.
        start_time: Date of the first step; None where dates are not known.
        end_time: Date of the last step, alike.
    """

    start: int
    end: int
    peak: int
    score: float
    start_time: Any = None
    end_time: Any = None


@dataclass(frozen=True)
class ScoredSeries:
    """What was found in one series.

    Args:
        scores: (time,) float64, larger = more surprising; NaN where a timestamp has no score yet.
        threshold: A score above it is an alarm.
        alarms: In the order of time.
        reference_length: Number of first steps that set the threshold, in which no alarm is raised.
    """

    scores: np.ndarray
    threshold: float
    alarms: list[Alarm]
    reference_length: int

    @property
    def is_alarm(self) -> np.ndarray:
        """Which timestamps belong to an alarm: (time,) bool."""
        marked = np.zeros(len(self.scores), dtype=bool)
        for alarm in self.alarms:
            marked[alarm.start : alarm.end + 1] = True
        return marked


def reference_threshold(
    scores: np.ndarray, deviations: float = THRESHOLD_DEVIATIONS, of_logarithms: bool = False
) -> float:
    """Return the mean of the reference's scores and so many deviations.

    Args:
        scores: (steps,) NaN where there is none.
        deviations: Their number; 4 as published.
        of_logarithms: Whether mean and deviation are those of the logarithms of positive scores.

    Raises:
        ValueError: There are too few scores.
    """
    known = scores[np.isfinite(scores)]
    if len(known) < FEWEST_SCORES:
        raise ValueError(
            f"The reference has {len(known)} scores, and a threshold needs {FEWEST_SCORES}: the first {WARM_UP_STEPS} "
            "steps of a masked difference have none, and a distance needs windows that share no step. Give a longer "
            "reference, a smaller context_length, or a threshold."
        )
    if of_logarithms:
        if known.max() == 0:
            return 0.0
        known = np.log(np.maximum(known, known.max() * ROUNDING))  # equal windows have no logarithm
    limit = float(known.mean() + deviations * known.std())
    return float(np.exp(limit)) if of_logarithms else limit


def alarm_intervals(
    scores: np.ndarray, threshold: float, begin: int = 0, gap: int = 0, timestamps: np.ndarray | None = None
) -> list[Alarm]:
    """Join the timestamps above a threshold to intervals.

    Args:
        scores: (time,) NaN where there is none.
        threshold: A score above it is an alarm.
        begin: First step that can be in an alarm.
        gap: Alarms at most so many steps apart are one.
        timestamps: (time,) dates, or None.
    """
    steps = np.flatnonzero(scores[begin:] > threshold) + begin  # NaN is above nothing
    if not len(steps):
        return []
    alarms = []
    for group in np.split(steps, np.flatnonzero(np.diff(steps) > gap + 1) + 1):
        start, end, peak = int(group[0]), int(group[-1]), int(group[np.argmax(scores[group])])
        times = (None, None) if timestamps is None else (timestamps[start], timestamps[end])
        alarms.append(Alarm(start, end, peak, float(scores[peak]), *times))
    return alarms
