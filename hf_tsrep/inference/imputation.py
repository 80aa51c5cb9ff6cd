"""Missing values of series filled in by what a method's pretext task has learnt: values from those around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..modeling.batching_time_series import warn_of_missing
from ..opening import local_folder
from ..registry import METHODS
from .inputs import model_inputs
from .provenance import answer_provenance

_UNKNOWN = 1e-6  # weight of a window without any value, which counts only where there is no other


@dataclass(frozen=True)
class Imputed:
    """A series without gaps.

    Args:
        values: (time, num_channels) float32 in the series' own units; what was observed is what it was.
        is_filled: The same shape, bool: which values were missing.
        provenance: Model, revision, preparation and settings, in plain JSON types.
    """

    values: np.ndarray
    is_filled: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)


class _Window(NamedTuple):
    """A stretch of a series."""

    series: int
    start: int
    stop: int


def impute(
    model: Any,
    series: Any,
    *,
    window_length: int | None = None,
    timestamps: Any = None,
    layout: str | None = None,
    batch_size: int = 32,
    device: Any = None,
    **method_arguments: Any,
) -> Imputed | list[Imputed]:
    """Fill in the missing values of series, in their own units.

    A series longer than the window is cut into windows that overlap by half, whose estimates are averaged.

    Args:
        model: A pre-training model whose config `reconstructs`, or its folder or Hub id.
        series: One series or several, as `encode` takes them: raw where the model has a preparation. NaN = missing.
        window_length: Number of timestamps that are looked at together; None for what the model takes at most
            (`config.reconstruction_length`), else for whole series.
        timestamps: Dates of the steps, for a model with calendar features; see `encode`.
        layout: As in `encode`.
        batch_size: Number of windows in one forward pass.
        device: Where to compute; None: where the model is.
        method_arguments: Further arguments of the method's `encode`, such as the domain.

    Returns:
        An Imputed for one series, else a list of them.

    Raises:
        ValueError: The model cannot reconstruct series or was saved without the layers that do, or a series has no
            value.
    """
    model = load_pretraining_model(model)
    longest = model.config.reconstruction_length
    if window_length is not None and not 1 <= window_length <= (longest or window_length):
        limit = "" if longest is None else f" and at most {longest}, what the model reconstructs at once"
        raise ValueError(f"window_length={window_length} must be at least 1{limit}.")
    inputs = model_inputs(model, series, timestamps, told=method_arguments, layout=layout)
    raw = raw_values(model, series, layout, method_arguments)
    for index, values in enumerate(raw):
        if np.isnan(values).all():
            raise ValueError(f"series {index} has no value, so that nothing tells what is missing; leave it out.")
    warn_of_missing(model, inputs.series, model.channel_names_for(**method_arguments))
    if device is not None:
        model.to(device)
    length = window_length or longest
    estimates = reconstruct(model, list(inputs.series), length, batch_size, method_arguments)
    preparation = model.preparation_for(**method_arguments)
    provenance = answer_provenance(model, {"window_length": length, **method_arguments})
    found = []
    for values, estimate in zip(raw, estimates, strict=True):
        missing = np.isnan(values)
        restored = estimate if preparation is None else preparation.inverse_transform(estimate)
        found.append(Imputed(np.where(missing, restored, values).astype(np.float32), missing, provenance))
    return inputs.as_given(found)


def load_pretraining_model(model: Any, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Return the pre-training model that is named, or the one that is given, if it can reconstruct series.

    Args:
        model: Folder or Hub id of a model, or a model.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code of the repository may run.

    Raises:
        ValueError: It cannot, or was saved without the layers of its pretext task.
    """
    from transformers import AutoConfig, AutoModelForPreTraining

    if not isinstance(model, (str, Path)):
        require_reconstruction(model.config, type(model).__name__)
        return model
    local_folder(str(model))
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **({"revision": revision} if revision else {})}
    config = AutoConfig.from_pretrained(str(model), **options)
    require_reconstruction(config, str(model))
    options["output_loading_info"] = True
    opened, told = AutoModelForPreTraining.from_pretrained(str(model), config=config, **options)
    if told["missing_keys"]:
        raise ValueError(
            f"{model} was saved without the layers of its pretext task ({', '.join(sorted(told['missing_keys'])[:3])}"
            "), which reconstruct series; give the folder of its pre-training."
        )
    return opened.eval()


def require_reconstruction(config: Any, name: str) -> None:
    """Refuse a model of a method whose pretext task does not recover hidden values.

    Raises:
        ValueError: The message names the capability and the methods that have it.
    """
    if not getattr(config, "reconstructs", False):
        able = [one.name for one in METHODS.values() if getattr(one.config_class, "reconstructs", False)]
        raise ValueError(
            f"{name} is a {getattr(config, 'model_type', 'model')}, whose pretext task does not recover hidden values "
            f"(config.reconstructs). Methods that do: {', '.join(able)}."
        )


def raw_values(model: Any, series: Any, layout: str | None, told: dict[str, Any]) -> Sequence[np.ndarray]:
    """Return series (time, num_channels) float32 as they are, with the channels that the model takes, by name."""
    from ..tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor

    preparation = model.preparation_for(**told)
    if preparation is None:
        reader = TimeSeriesFeatureExtractor(num_channels=model.num_channels_of(**told))
    else:
        reader = TimeSeriesFeatureExtractor(
            num_channels=preparation.num_channels, channel_names=preparation.channel_names
        )
    return reader.transform(series, layout=layout)


def window_starts(length: int, window_length: int | None) -> list[int]:
    """Return where windows begin that overlap by half and end with the series."""
    if window_length is None or length <= window_length:
        return [0]
    last = length - window_length
    return [*range(0, last, max(1, window_length // 2)), last]


def reconstruct(
    model: Any,
    series: Sequence[np.ndarray],
    window_length: int | None,
    batch_size: int,
    method_arguments: dict[str, Any],
) -> list[np.ndarray]:
    """Estimate every value of prepared series: the mean over the windows that hold it.

    Args:
        model: Its `reconstruct_series` takes windows.
        series: Arrays (time, num_channels), NaN = missing.
        window_length: Number of timestamps of a window; None for whole series.
        batch_size: Number of windows in one forward pass.
        method_arguments: Further arguments of the method.

    Returns:
        Arrays (time, num_channels) float64.
    """
    import torch

    from ..modeling.batching_time_series import equal_length_batches, evaluating

    windows = [
        _Window(index, start, min(len(values), start + (window_length or len(values))))
        for index, values in enumerate(series)
        for start in window_starts(len(values), window_length)
    ]
    sums = [np.zeros(values.shape) for values in series]
    weights = [np.zeros((len(values), 1)) for values in series]
    ready = evaluating(model)
    with torch.inference_mode():
        for places in equal_length_batches([one.stop - one.start for one in windows], batch_size):
            chosen = [windows[place] for place in places]
            batch = np.stack([series[one.series][one.start : one.stop] for one in chosen])
            told = torch.from_numpy(batch).to(model.device)
            found = ready.reconstruct_series(told, **method_arguments).double().cpu().numpy()
            for one, given, estimate in zip(chosen, batch, found, strict=True):
                weight = _UNKNOWN if np.isnan(given).all() else 1.0
                sums[one.series][one.start : one.stop] += weight * estimate
                weights[one.series][one.start : one.stop] += weight
    return [total / weight for total, weight in zip(sums, weights, strict=True)]
