"""Alarms in new series, without labels: a score a timestamp that sees nothing after it, and a threshold.

Where a method's `encode` can mask steps the score is the masked difference of TS2Vec (Yue et al., AAAI 2022, section
4.3), compared with its own moving average as published. For every other method it is the distance of the window that
ends at the timestamp to the nearest window of the reference part. The threshold is mean + 4 deviations of the
reference's scores, the published rule; distances, which are positive with a long tail, obey it in their logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluation.anomaly_scoring import (
    THRESHOLD_DEVIATIONS,
    WARM_UP_STEPS,
    anomaly_scores,
    masks_steps,
    relative_scores,
)
from ..opening import load_encoder
from .inputs import ModelInputs, model_inputs
from .provenance import answer_provenance

MASKED_DIFFERENCE = "masked difference"
DISTANCE = "distance"
SCORES = (MASKED_DIFFERENCE, DISTANCE)
FEWEST_SCORES = 10  # of the reference, for a mean and a deviation
_CONTEXT_LENGTHS = {MASKED_DIFFERENCE: 201, DISTANCE: 64}
_PAIRS_AT_ONCE = 2**24
_ROUNDING = 1e-5  # share of an embedding's length below which a distance is none: equal windows in other batches
_SMALLEST_EXCESS = 1e-4  # of a relative score; below it the score of a constant series is rounding


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
class Detection:
    """What was found in one series.

    Args:
        scores: (time,) float64, larger = more surprising; NaN where a timestamp has no score yet.
        threshold: A score above it is an alarm.
        alarms: In the order of time.
        reference_length: Number of first steps that set the threshold, in which no alarm is raised.
        timestamps: (time,) dates, or None.
        provenance: Model, revision, preparation and settings, in plain JSON types.
    """

    scores: np.ndarray
    threshold: float
    alarms: list[Alarm]
    reference_length: int
    timestamps: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_alarm(self) -> np.ndarray:
        """Which timestamps belong to an alarm: (time,) bool."""
        marked = np.zeros(len(self.scores), dtype=bool)
        for alarm in self.alarms:
            marked[alarm.start : alarm.end + 1] = True
        return marked


@dataclass(frozen=True)
class _Scored:
    """Scores of one series (time,), and those of the reference that set its threshold."""

    scores: np.ndarray
    of_reference: np.ndarray


def detect(
    model: Any,
    series: Any,
    *,
    reference: Any = 0.5,
    score: str | None = None,
    context_length: int | None = None,
    deviations: float = THRESHOLD_DEVIATIONS,
    threshold: float | None = None,
    gap: int = 7,
    timestamps: Any = None,
    layout: str | None = None,
    prepared: bool = False,
    batch_size: int = 256,
    device: Any = None,
    show_progress_bar: bool | None = None,
    **method_arguments: Any,
) -> Detection | list[Detection]:
    """Find what is unlike the reference in series; the score of a timestamp sees nothing after it.

    Args:
        model: An encoder, or its folder or Hub id. Where its `encode` can mask, the score is the masked difference,
            else a distance.
        series: One series or several, as `encode` takes them: raw where the model has a preparation.
        reference: What is normal: the share (a float below 1) or the number (int) of the first steps of every series;
            or series of their own, such as those that the model was trained on, without what is examined.
        score: "masked difference" or "distance"; None for the first where the model's `encode` can mask.
        context_length: Number of steps that a score sees, its own included; None for 201 of the masked difference, as
            published, and for 64 of the distance, but at most a quarter of the reference.
        deviations: The threshold is the mean of the reference's scores and so many deviations; see
            reference_threshold.
        threshold: The threshold itself, in place of that rule.
        gap: Alarms that are at most so many steps apart are one.
        timestamps: Dates of the steps, (time,) or one (time,) a series; None for those of a frame.
        layout: As in `encode`.
        prepared: Whether the series are model inputs already.
        batch_size: Number of windows in one forward pass.
        device: Where to compute; None: where the model is.
        show_progress_bar: As in `encode`.
        method_arguments: Further arguments of the method's `encode`, such as the domain.

    Returns:
        A Detection for one series, else a list of them.

    Raises:
        ValueError: A setting is out of its range, or the reference is too short.
    """
    _check_settings(context_length, deviations, gap)
    model = load_encoder(model)
    inputs = model_inputs(model, series, timestamps, prepared, method_arguments, layout)
    options = {
        "batch_size": batch_size,
        "device": device,
        "show_progress_bar": show_progress_bar,
        "prepared": True,
        **method_arguments,
    }
    known = None if _is_part(reference) else model_inputs(model, reference, None, prepared, method_arguments, layout)
    lengths = [0 if known is not None else reference_length(len(one), reference) for one in inputs.series]
    kind = chosen_score(model, score)
    context = context_length or _default_context(
        kind, lengths if known is None else [len(one) for one in known.series]
    )
    compute = _masked_differences if kind == MASKED_DIFFERENCE else _distances
    settings = {
        "score": kind,
        "context_length": context,
        "deviations": deviations if threshold is None else None,
        "gap": gap,
        "reference": reference if known is None else f"{len(known.series)} series",
        **method_arguments,
    }
    provenance = answer_provenance(model, settings)
    found = []
    for index, scored in enumerate(compute(model, inputs, known, lengths, context, options)):
        place = f"series {index}: " if known is None and not inputs.is_one else ""
        limit = _threshold(scored.of_reference, kind, deviations, place) if threshold is None else threshold
        dates = None if inputs.dates is None else inputs.dates[index]
        alarms = alarm_intervals(scored.scores, float(limit), lengths[index], gap, dates)
        found.append(Detection(scored.scores, float(limit), alarms, lengths[index], dates, provenance))
    return inputs.as_given(found)


def _check_settings(context_length: int | None, deviations: float, gap: int) -> None:
    if context_length is not None and context_length < 2:
        raise ValueError(f"context_length={context_length} must be at least 2: a score compares a step with others.")
    if not deviations >= 0:
        raise ValueError(f"deviations={deviations} must be at least 0.")
    if gap < 0:
        raise ValueError(f"gap={gap} must be at least 0.")


def chosen_score(model: Any, score: str | None) -> str:
    """Return which score to compute: the one asked for, else the masked difference where a model's `encode` can mask.

    Raises:
        ValueError: It is unknown, or the model's `encode` cannot mask.
    """
    kind = (score or (MASKED_DIFFERENCE if masks_steps(model) else DISTANCE)).replace("_", " ").replace("-", " ")
    if kind not in SCORES:
        raise ValueError(f"score={score!r} is unknown; choose one of {', '.join(map(repr, SCORES))}.")
    if kind == MASKED_DIFFERENCE and not masks_steps(model):
        raise ValueError(f"score={score!r}: encode of {type(model).__name__} cannot mask steps; choose {DISTANCE!r}.")
    return kind


def _is_part(reference: Any) -> bool:
    return isinstance(reference, (int, float, np.integer, np.floating)) and not isinstance(reference, bool)


def reference_length(length: int, reference: float) -> int:
    """Return the number of first steps of a series that are its reference.

    Args:
        length: Number of steps of the series.
        reference: A share below 1, or a number of steps.

    Raises:
        ValueError: The share is none, or there are fewer steps.
    """
    steps = int(reference * length) if 0 < reference < 1 else int(reference) if reference >= 1 else 0
    if not 0 < steps <= length or (reference >= 1 and steps != reference):
        raise ValueError(
            f"reference={reference} is neither a share between 0 and 1 nor a number of steps up to the {length} of "
            "the series; give one, or series of their own."
        )
    return steps


def _default_context(kind: str, lengths: Sequence[int]) -> int:
    longest = _CONTEXT_LENGTHS[kind]
    return longest if kind == MASKED_DIFFERENCE else max(2, min(longest, min(lengths, default=longest) // 4))


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
        known = np.log(np.maximum(known, known.max() * _ROUNDING))  # equal windows have no logarithm
    limit = float(known.mean() + deviations * known.std())
    return float(np.exp(limit)) if of_logarithms else limit


def _threshold(scores: np.ndarray, kind: str, deviations: float, place: str) -> float:
    try:
        limit = reference_threshold(scores, deviations, of_logarithms=kind == DISTANCE)
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error
    return limit if kind == DISTANCE else max(limit, _SMALLEST_EXCESS)


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


def _masked_differences(
    model: Any,
    inputs: ModelInputs,
    known: ModelInputs | None,
    lengths: Sequence[int],
    context: int,
    options: Mapping[str, Any],
) -> list[_Scored]:
    """Score by the masked difference, relative to its moving average; see evaluation.anomaly_scoring."""

    def relative(values: np.ndarray) -> np.ndarray:
        return relative_scores(anomaly_scores(model, values, context_length=context, **options))

    scores = [relative(values) for values in inputs.series]
    if known is None:
        return [_Scored(one, one[WARM_UP_STEPS:length]) for one, length in zip(scores, lengths, strict=True)]
    of_reference = np.concatenate([relative(values)[WARM_UP_STEPS:] for values in known.series])
    return [_Scored(one, of_reference) for one in scores]


@dataclass(frozen=True)
class _Windows:
    """Embedded windows: embeddings (windows, embedding_size), and of each its series and its first step."""

    embeddings: np.ndarray
    owners: np.ndarray
    starts: np.ndarray

    def __getitem__(self, chosen: Any) -> _Windows:
        return _Windows(self.embeddings[chosen], self.owners[chosen], self.starts[chosen])


def _distances(
    model: Any,
    inputs: ModelInputs,
    known: ModelInputs | None,
    lengths: Sequence[int],
    context: int,
    options: Mapping[str, Any],
) -> list[_Scored]:
    """Score by the distance of the window that ends at a timestamp to the nearest one of the reference."""
    scored = _embed_windows(model, inputs.series, context, options)
    if known is not None:
        reference = _embed_windows(model, known.series, context, options)
        of_reference = nearest_distances(reference, reference, context)
        foreign = _Windows(reference.embeddings, reference.owners - len(known.series), reference.starts)
        distances = nearest_distances(scored, foreign, context)
        return [
            _Scored(_at_ends(distances[scored.owners == index], len(values)), of_reference)
            for index, values in enumerate(inputs.series)
        ]
    answers = []
    for index, (values, length) in enumerate(zip(inputs.series, lengths, strict=True)):
        own = scored[scored.owners == index]
        scores = _at_ends(nearest_distances(own, own[own.starts + context <= length], context), len(values))
        answers.append(_Scored(scores, scores[:length]))
    return answers


def _embed_windows(model: Any, series: Any, context: int, options: Mapping[str, Any]) -> _Windows:
    """Embed every window of `context` steps; a series that is shorter is one window."""
    embedded = model.encode(series, level="window", window_length=context, stride=1, **options)
    owners = np.repeat(np.arange(len(series)), [len(one) for one in embedded])
    starts = np.concatenate([np.arange(len(one)) for one in embedded])
    return _Windows(np.concatenate(list(embedded)).astype(np.float64), owners, starts)


def _at_ends(distances: np.ndarray, length: int) -> np.ndarray:
    """Give the last timestamp of every window its distance: (length,), NaN before the first window has ended."""
    return np.concatenate([np.full(length - len(distances), np.nan), distances])


def nearest_distances(windows: _Windows, reference: _Windows, context: int) -> np.ndarray:
    """Return the distance of every window to the nearest one of the reference that shares no step with it.

    Distances are Euclidean.

    Args:
        windows: What is scored.
        reference: What is normal.
        context: Number of steps of a window.

    Returns:
        (windows,) float64; NaN where every window of the reference shares steps.
    """
    if not len(reference.starts):
        return np.full(len(windows.starts), np.nan)
    centre = reference.embeddings.mean(0)  # the products below cancel less
    queries, normal = windows.embeddings - centre, reference.embeddings - centre
    squares = (normal**2).sum(1)
    nearest = np.empty(len(queries))
    rows = max(1, _PAIRS_AT_ONCE // len(normal))
    for begin in range(0, len(queries), rows):
        chunk = slice(begin, begin + rows)
        squared = (queries[chunk] ** 2).sum(1)[:, None] + squares - 2 * queries[chunk] @ normal.T
        apart = np.abs(windows.starts[chunk, None] - reference.starts) >= context
        squared[~(apart | (windows.owners[chunk, None] != reference.owners))] = np.inf
        nearest[chunk] = squared.min(1)
    distances = np.sqrt(np.maximum(nearest, 0.0))
    distances[distances < _ROUNDING * np.sqrt((reference.embeddings**2).sum(1).max())] = 0.0
    return np.where(np.isinf(nearest), np.nan, distances)
