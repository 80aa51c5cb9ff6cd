"""Alarms in new series, without labels; how they are scored is told in `modeling/detecting_time_series.py`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..evaluation.anomaly_scoring import difference_until_stationary
from ..modeling.detecting_time_series import (
    MASKED_DIFFERENCE,
    THRESHOLD_DEVIATIONS,
    WARM_UP_STEPS,
    ScoredSeries,
    chosen_score,
    is_part,
    reference_length,
    score_series,
)
from ..opening import load_encoder
from .inputs import model_inputs
from .provenance import answer_provenance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detection(ScoredSeries):
    """What was found in one series, and where the answer comes from.

    Args:
        scores: See ScoredSeries.
        threshold: See there.
        alarms: See there.
        reference_length: See there.
        timestamps: (time,) dates, or None.
        difference_order: How often the series was differenced before it was scored.
        provenance: Model, revision, preparation and settings, in plain JSON types.
    """

    timestamps: np.ndarray | None = None
    difference_order: int = 0
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)


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
    difference: bool | None = None,
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
            `detecting_time_series.reference_threshold`.
        threshold: The threshold itself, in place of that rule.
        gap: Alarms that are at most so many steps apart are one.
        difference: Whether a masked difference is taken of a series that is differenced until its reference is
            stationary by the augmented Dickey-Fuller test, and standardised by it, as published. None: where that can
            be done, for one channel without missing values and with statsmodels; True: it has to be; False: never.
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
        ValueError: A setting is out of its range, the reference is too short, or a series cannot be differenced.
        ModuleNotFoundError: difference=True without statsmodels.
    """
    model = load_encoder(model)
    inputs = model_inputs(model, series, timestamps, prepared, method_arguments, layout)
    if not is_part(reference):
        reference = model_inputs(model, reference, None, prepared, method_arguments, layout).series
    arrays, reference, orders = _differenced(inputs.series, reference, difference, chosen_score(model, score))
    dates: list[Any] = [None] * len(arrays) if inputs.dates is None else list(inputs.dates)
    names = [f"series {index}" for index in range(len(arrays))]
    options: dict[str, Any] = {
        "score": score,
        "context_length": context_length,
        "deviations": deviations,
        "threshold": threshold,
        "gap": gap,
        "batch_size": batch_size,
        "device": device,
        "show_progress_bar": show_progress_bar,
        **method_arguments,
    }
    found: list[ScoredSeries] = []
    # Series whose reference ends elsewhere once they are differenced are scored alone.
    is_alone = is_part(reference) and any(orders)
    for places in [[place] for place in range(len(arrays))] if is_alone else [list(range(len(arrays)))]:
        order = orders[places[0]] if places else 0
        steps = reference_length(len(inputs.series[places[0]]), reference) - order if is_alone else reference
        scored, taken = score_series(
            model,
            [arrays[place] for place in places],
            reference=steps,
            dates=None if inputs.dates is None else [dates[place][order:] for place in places],
            names=None if inputs.is_one or not is_part(reference) else [names[place] for place in places],
            **options,
        )
        found += [_at_timestamps(one, order) for one in scored]
    settings = {
        **taken,
        "deviations": deviations if threshold is None else None,
        "gap": gap,
        "reference": reference if is_part(reference) else f"{len(reference)} series",
        "difference": sorted(set(orders)),
        **method_arguments,
    }
    provenance = answer_provenance(model, settings)
    return inputs.as_given(
        [
            Detection(one.scores, one.threshold, one.alarms, one.reference_length, moments, order, provenance)
            for one, moments, order in zip(found, dates, orders, strict=True)
        ]
    )


def _differenced(
    series: Sequence[np.ndarray], reference: Any, difference: bool | None, kind: str
) -> tuple[list[np.ndarray], Any, list[int]]:
    """Difference series until their reference is stationary; one that is so already stays as it is.

    Returns:
        The series (time - order, num_channels); the reference, differenced where it is series of its own; the orders.
    """
    normal = list(series) if is_part(reference) else [*series, *reference]
    refusal = _refusal_of_differences(normal, kind)
    if difference and refusal:
        raise ValueError(f"difference=True: {refusal}")
    arrays, unchanged = list(series), [0] * len(series)
    if difference is False or refusal or not arrays:
        return arrays, reference, unchanged
    try:
        if is_part(reference):
            lengths = [reference_length(len(one), reference) for one in arrays]
            orders = [_order(one, length) for one, length in zip(arrays, lengths, strict=True)]
            own = [[one[:length]] for one, length in zip(arrays, lengths, strict=True)]
        else:
            orders = [max(_order(one, len(one)) for one in reference)] * len(arrays)
            own = [list(reference)] * len(arrays)
    except ModuleNotFoundError as error:
        if difference:
            raise
        logger.warning("The series are scored without differences: %s", error)
        return arrays, reference, unchanged
    for index, order in enumerate(orders):
        if order:
            logger.info("Series %d is differenced %d times: its reference is not stationary.", index, order)
            arrays[index] = _standardised_difference(arrays[index], order, own[index])
    if not is_part(reference) and any(orders):
        reference = [_standardised_difference(one, orders[0], list(reference)) for one in reference]
    return arrays, reference, orders


def _refusal_of_differences(series: Sequence[np.ndarray], kind: str) -> str | None:
    """Return why these series are not differenced; None where they can be."""
    if kind != MASKED_DIFFERENCE:
        return f"only a {MASKED_DIFFERENCE} is taken of differences, and the score is {kind!r}. Leave it out."
    if any(one.shape[1] != 1 for one in series):
        return f"differencing needs one channel; the series have {series[0].shape[1]}. Leave it out."
    missing = sum(int((~np.isfinite(one)).sum()) for one in series)
    return f"differencing needs series without missing values; there are {missing}. Fill them." if missing else None


def _order(values: np.ndarray, length: int) -> int:
    """Return how often a series (time, 1) is differenced until its first steps are stationary."""
    if length <= 2 * WARM_UP_STEPS:
        return 0  # too few for a test that means something, and for a threshold of what is left
    return difference_until_stationary(values[:length, 0], length)[1]


def _standardised_difference(values: np.ndarray, order: int, normal: Sequence[np.ndarray]) -> np.ndarray:
    """Return differences (time - order, 1), with mean 0 and deviation 1 in the reference."""
    of_reference = np.concatenate([np.diff(one.astype(np.float64), order, axis=0) for one in normal])
    deviation = of_reference.std() or 1.0
    differences = np.diff(values.astype(np.float64), order, axis=0)
    return ((differences - of_reference.mean()) / deviation).astype(np.float32)


def _at_timestamps(found: ScoredSeries, order: int) -> ScoredSeries:
    """Put scores of differences at the later one of their timestamps; the first ones have none."""
    if not order:
        return found
    scores = np.concatenate([np.full(order, np.nan), found.scores])
    alarms = [
        replace(one, start=one.start + order, end=one.end + order, peak=one.peak + order) for one in found.alarms
    ]
    length = found.reference_length
    return ScoredSeries(scores, found.threshold, alarms, length + order if length else 0)
