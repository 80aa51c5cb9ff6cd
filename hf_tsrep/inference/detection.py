"""Alarms in new series, without labels; how they are scored is told in `modeling/detecting_time_series.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..modeling.detecting_time_series import THRESHOLD_DEVIATIONS, ScoredSeries, is_part, score_series
from ..opening import load_encoder
from .inputs import model_inputs
from .provenance import answer_provenance


@dataclass(frozen=True)
class Detection(ScoredSeries):
    """What was found in one series, and where the answer comes from.

    Args:
        scores: See ScoredSeries.
        threshold: See there.
        alarms: See there.
        reference_length: See there.
        timestamps: (time,) dates, or None.
        provenance: Model, revision, preparation and settings, in plain JSON types.
    """

    timestamps: np.ndarray | None = None
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
    model = load_encoder(model)
    inputs = model_inputs(model, series, timestamps, prepared, method_arguments, layout)
    if not is_part(reference):
        reference = model_inputs(model, reference, None, prepared, method_arguments, layout).series
    found, taken = score_series(
        model,
        inputs.series,
        reference=reference,
        score=score,
        context_length=context_length,
        deviations=deviations,
        threshold=threshold,
        gap=gap,
        dates=inputs.dates,
        names=None if inputs.is_one or not is_part(reference) else [f"series {i}" for i in range(len(inputs.series))],
        batch_size=batch_size,
        device=device,
        show_progress_bar=show_progress_bar,
        **method_arguments,
    )
    settings = {
        **taken,
        "deviations": deviations if threshold is None else None,
        "gap": gap,
        "reference": reference if is_part(reference) else f"{len(reference)} series",
        **method_arguments,
    }
    provenance = answer_provenance(model, settings)
    dates: list[Any] = [None] * len(found) if inputs.dates is None else list(inputs.dates)
    return inputs.as_given(
        [
            Detection(one.scores, one.threshold, one.alarms, one.reference_length, moments, provenance)
            for one, moments in zip(found, dates, strict=True)
        ]
    )
