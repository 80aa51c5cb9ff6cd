"""Scores of timestamps without labels, and the alarms that they give; each score sees nothing after its timestamp.

Where a method's `encode` can mask steps the score is the masked difference of TS2Vec (Yue et al., AAAI 2022, section
4.3), compared with its own moving average as published. For every other method it is the distance of the window that
ends at the timestamp to the nearest window of the reference part. What follows from scores: alarms_time_series.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .alarms_time_series import (
    ROUNDING,
    THRESHOLD_DEVIATIONS,
    WARM_UP_STEPS,
    ScoredSeries,
    alarm_intervals,
    reference_threshold,
)

MOVING_AVERAGE_STEPS = 21
_SMALLEST_AVERAGE = 1e-12  # keeps a relative score finite where a model gives no difference at all

MASKED_DIFFERENCE = "masked difference"
DISTANCE = "distance"
SCORES = (MASKED_DIFFERENCE, DISTANCE)
_CONTEXT_LENGTHS = {MASKED_DIFFERENCE: 201, DISTANCE: 64}
_PAIRS_AT_ONCE = 2**24
_SMALLEST_EXCESS = 1e-4  # of a relative score; below it the score of a constant series is rounding


@dataclass(frozen=True)
class _Scored:
    """Scores of one series (time,), and those of the reference that set its threshold."""

    scores: np.ndarray
    of_reference: np.ndarray


def score_series(
    model: Any,
    series: Sequence[np.ndarray],
    *,
    reference: Any = 0.5,
    score: str | None = None,
    context_length: int | None = None,
    deviations: float = THRESHOLD_DEVIATIONS,
    threshold: float | None = None,
    gap: int = 7,
    dates: Sequence[np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    **encode_arguments: Any,
) -> tuple[list[ScoredSeries], dict[str, Any]]:
    """Find what is unlike the reference in prepared series; see `hf_tsrep.detect`.

    Args:
        model: An encoder.
        series: Model inputs (time, num_input_channels).
        reference: The share (a float below 1) or the number (int) of the first steps of every series, or model inputs
            of their own.
        score: "masked difference" or "distance"; None for the first where the model's `encode` can mask.
        context_length: Number of steps that a score sees; None for 201 of the masked difference, as published, and for
            64 of the distance, but at most a quarter of the reference.
        deviations: See reference_threshold.
        threshold: The threshold itself, in place of that rule.
        gap: See alarm_intervals.
        dates: (time,) of every series, or None.
        names: What the series are called in messages; None for no name.
        encode_arguments: Further arguments of `encode`.

    Returns:
        One answer a series; and the score and the context length that were taken.

    Raises:
        ValueError: A setting is out of its range, or the reference is too short.
    """
    _check_settings(context_length, deviations, gap)
    known = None if is_part(reference) else list(reference)
    lengths = [0 if known is not None else reference_length(len(one), reference) for one in series]
    kind = chosen_score(model, score)
    context = context_length or _default_context(kind, lengths if known is None else [len(one) for one in known])
    compute = _masked_differences if kind == MASKED_DIFFERENCE else _distances
    found = []
    options = {**encode_arguments, "prepared": True}
    for index, scored in enumerate(compute(model, series, known, lengths, context, options)):
        place = f"{names[index]}: " if names is not None else ""
        limit = _threshold(scored.of_reference, kind, deviations, place) if threshold is None else threshold
        begin, moments = lengths[index], None if dates is None else dates[index]
        alarms = alarm_intervals(scored.scores, float(limit), begin, gap, moments)
        found.append(ScoredSeries(scored.scores, float(limit), alarms, begin))
    return found, {"score": kind, "context_length": context}


def is_part(reference: Any) -> bool:
    """Whether a reference is a share or a number of the first steps, not series of their own."""
    return isinstance(reference, (int, float, np.integer, np.floating)) and not isinstance(reference, bool)


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


def masks_steps(model: Any) -> bool:
    """Return whether a model's `encode` can mask steps, so that the masked difference can be computed."""
    parameters = inspect.signature(model.encode).parameters.values()
    return any(one.name == "mask" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


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


def _threshold(scores: np.ndarray, kind: str, deviations: float, place: str) -> float:
    try:
        limit = reference_threshold(scores, deviations, of_logarithms=kind == DISTANCE)
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error
    return limit if kind == DISTANCE else max(limit, _SMALLEST_EXCESS)


def anomaly_scores(
    model: Any,
    series: np.ndarray,
    *,
    context_length: int = 201,
    batch_size: int = 256,
    **encode_arguments: Any,
) -> np.ndarray:
    """Return the masked-difference score of every step; a step sees nothing after itself.

    Args:
        model: Its `encode` takes `mask="mask_last"`.
        series: (time, channel).
        context_length: Steps of a window, the scored one included.
        batch_size: Windows encoded at once.
        encode_arguments: Passed to `encode`: device, show_progress_bar, and the domain where the model has domains.

    Returns:
        (time,) float64, larger = more surprising.

    Raises:
        ValueError: A model whose `encode` has no argument `mask`.
    """
    if not masks_steps(model):
        raise ValueError(
            f"{type(model).__name__}.encode has no argument 'mask': the anomaly protocol compares representations "
            "with and without the last step masked, which needs a method whose encode masks steps."
        )
    settings = {
        "level": "timestamp",
        "window_length": context_length,
        "stride": 1,
        "causal": True,
        "batch_size": batch_size,
        **encode_arguments,
    }
    series = np.asarray(series, dtype=np.float32)
    difference = model.encode(series, **settings) - model.encode(series, mask="mask_last", **settings)
    return np.abs(difference, out=difference).sum(axis=1, dtype=np.float64)


def relative_scores(scores: np.ndarray) -> np.ndarray:
    """Return `(score - average) / average` with the mean of the 21 scores before each step.

    Args:
        scores: (time,) scores, not negative.

    Returns:
        (time,) float64; NaN for the first 21 steps.
    """
    scores = np.asarray(scores, dtype=np.float64)
    relative = np.full(len(scores), np.nan)
    if len(scores) <= MOVING_AVERAGE_STEPS:
        return relative
    windows = np.lib.stride_tricks.sliding_window_view(scores[:-1], MOVING_AVERAGE_STEPS)
    average = np.maximum(windows.mean(axis=1), _SMALLEST_AVERAGE)
    relative[MOVING_AVERAGE_STEPS:] = (scores[MOVING_AVERAGE_STEPS:] - average) / average
    return relative


def _masked_differences(
    model: Any,
    series: Sequence[np.ndarray],
    known: list[np.ndarray] | None,
    lengths: Sequence[int],
    context: int,
    options: Mapping[str, Any],
) -> list[_Scored]:
    """Score by the masked difference, relative to its moving average."""

    def relative(values: np.ndarray) -> np.ndarray:
        return relative_scores(anomaly_scores(model, values, context_length=context, **options))

    scores = [relative(values) for values in series]
    if known is None:
        return [_Scored(one, one[WARM_UP_STEPS:length]) for one, length in zip(scores, lengths, strict=True)]
    of_reference = np.concatenate([relative(values)[WARM_UP_STEPS:] for values in known])
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
    series: Sequence[np.ndarray],
    known: list[np.ndarray] | None,
    lengths: Sequence[int],
    context: int,
    options: Mapping[str, Any],
) -> list[_Scored]:
    """Score by the distance of the window that ends at a timestamp to the nearest one of the reference."""
    scored = _embed_windows(model, series, context, options)
    if known is not None:
        reference = _embed_windows(model, known, context, options)
        of_reference = nearest_distances(reference, reference, context)
        foreign = _Windows(reference.embeddings, reference.owners - len(known), reference.starts)
        distances = nearest_distances(scored, foreign, context)
        return [
            _Scored(_at_ends(distances[scored.owners == index], len(values)), of_reference)
            for index, values in enumerate(series)
        ]
    answers = []
    for index, (values, length) in enumerate(zip(series, lengths, strict=True)):
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
    distances[distances < ROUNDING * np.sqrt((reference.embeddings**2).sum(1).max())] = 0.0
    return np.where(np.isinf(nearest), np.nan, distances)
