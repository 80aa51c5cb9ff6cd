"""The series of a corpus as a model takes them: its channels by name, and dates where it reads them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import near_matches

if TYPE_CHECKING:
    from ..modeling.reading_time_series import PreparedSeries

logger = logging.getLogger(__name__)

_INVENTED_NAME = re.compile(r"channel_\d+")  # of files that name no channels: not a name to go by


@dataclass(frozen=True)
class InputSeries:
    """Raw series of one or several splits, ready for a model's `encode`.

    Args:
        item_ids: Name of every series.
        splits: Split of every series.
        series: Arrays (time, num_channels), those channels that the model takes.
        dates: (time,) of every series as the corpus has them; None where it has none.
        timestamps: What `encode` takes as `timestamps`: the dates where the model has calendar features, else None.
        channel_names: Names of the channels.
        labels: Class of every series by name; None where there are none.
    """

    item_ids: list[str]
    splits: list[str]
    series: list[np.ndarray]
    dates: list[np.ndarray] | None
    timestamps: list[np.ndarray] | None
    channel_names: tuple[str, ...]
    labels: list[str] | None = None

    def take(self, places: Sequence[int]) -> InputSeries:
        """Return the series at these places."""

        def taken(column: list[Any] | None) -> Any:
            return None if column is None else type(column)(column[place] for place in places)

        columns = ("item_ids", "splits", "series", "dates", "timestamps", "labels")
        return replace(self, **{name: taken(getattr(self, name)) for name in columns})


def read_input_series(
    model: Any, corpus: Any, splits: Sequence[str] | None = None, told: Mapping[str, Any] | None = None
) -> InputSeries:
    """Take the series of a corpus as a model takes them.

    Args:
        model: Its preparation tells the channels and whether it reads dates.
        corpus: From `load_corpus`, raw values.
        splits: Splits to take; None for all.
        told: Further arguments of the method's `encode`, such as the domain.

    Raises:
        ValueError: An unknown split, channels that the model does not take, or no dates where it needs them.
    """
    from ..data import SeriesList, corpus_metadata, get_series, get_timestamps

    preparation = model.preparation_for(**(told or {}))
    names = corpus_metadata(corpus).channel_names
    channels = channels_of_model(preparation, names)
    item_ids: list[str] = []
    of_splits: list[str] = []
    series: list[np.ndarray] = SeriesList()
    dates: list[np.ndarray] = []
    timestamps: list[np.ndarray] = []
    labels: list[str] = []
    for name in chosen_splits(corpus, splits):
        dataset = corpus[name]
        found = get_series(dataset)
        series += [one if channels is None else one[:, channels] for one in found]
        item_ids += [str(one) for one in dataset["item_id"]]
        of_splits += [name] * len(found)
        if "timestamp" in dataset.column_names:
            dates += [one for one in get_timestamps(dataset) if len(one)]
        timestamps += dates_of_model(preparation, dataset) or []
        labels += label_names(dataset) or []
    return InputSeries(
        item_ids,
        of_splits,
        series,
        dates if len(dates) == len(series) else None,
        timestamps or None,
        tuple(names if channels is None else (names[index] for index in channels)),
        labels if len(labels) == len(series) else None,
    )


def chosen_splits(corpus: Any, splits: Sequence[str] | None) -> list[str]:
    """Return the splits to take, all where none is named.

    Raises:
        ValueError: There is no such split.
    """
    chosen = list(splits or corpus)
    for name in chosen:
        if name not in corpus:
            raise ValueError(f"There is no split {name!r}; the corpus has {', '.join(map(str, corpus))}.")
    return chosen


def channels_of_model(preparation: Any, names: Sequence[str]) -> list[int] | None:
    """Return which channels of the corpus the model takes, by name where the names are known; None for all.

    Channels go by order only where one side has no names of its own: a file without header has `channel_0`,
    `channel_1`, ... One channel alone has no order that could be wrong; another name than the model's is warned of.

    Raises:
        ValueError: The corpus lacks channels of the model, be it that a name is spelt otherwise.
    """
    wanted = [] if preparation is None else list(preparation.channel_names or ())
    names = list(names)
    if not wanted or wanted == names:
        return None
    is_named = not _are_invented(names)
    if is_named and set(wanted) <= set(names):
        return [names.index(name) for name in wanted]
    if len(wanted) == len(names):
        if not is_named or _are_invented(wanted):
            logger.info("The channels are taken in order: %s for %s.", ", ".join(names[:10]), ", ".join(wanted[:10]))
            return None
        if len(names) == 1:
            logger.warning("The model was trained on the channel %r; %r is taken for it.", wanted[0], names[0])
            return None
    absent = [name for name in wanted if name not in names]
    unused = [name for name in names if name not in wanted]
    hints = [f"{name}.{near_matches(name, unused)}" for name in absent[:20]]
    raise ValueError(
        f"The model takes {len(wanted)} channels, {', '.join(wanted[:20])}; the input has {len(names)}, "
        f"{', '.join(names[:20])}. It lacks {' '.join(hints) if is_named else ', '.join(absent[:20]) + '.'} Name its "
        "columns as the model does, choose them with --value-columns, or train a model on this input; columns named "
        "channel_0, channel_1, ... are taken in order."
    )


def _are_invented(names: Sequence[str]) -> bool:
    """Whether these are the names that a reader gives channels without names."""
    return list(names) == ["value"] or all(_INVENTED_NAME.fullmatch(name) for name in names)


def dates_of_model(preparation: Any, split: Any) -> list[np.ndarray] | None:
    """Return the dates of every series where the model has calendar features; None where it has none.

    Raises:
        ValueError: It has, and the split has no dates.
    """
    from ..data import get_timestamps

    if preparation is None or not preparation.time_features:
        return None
    timestamps = get_timestamps(split) if "timestamp" in split.column_names else None
    if timestamps is None or any(not len(one) for one in timestamps):
        raise ValueError(
            "The model uses calendar features, but the input has no dates; name them with --timestamp-column."
        )
    return list(timestamps)


def label_names(split: Any) -> list[str] | None:
    """Return the class of every series by name; None where the split has no classes."""
    if "label" not in split.column_names:
        return None
    feature = split.features["label"]
    return [str(feature.int2str(one) if hasattr(feature, "int2str") else one) for one in split["label"]]


@dataclass(frozen=True)
class ModelInputs:
    """Series as a model's `encode` takes them without preparing them again.

    Args:
        series: Arrays (time, num_channels), prepared.
        is_one: Whether one series was given, not several.
        dates: (time,) of every series; None where they are not known.
    """

    series: PreparedSeries
    is_one: bool
    dates: list[np.ndarray] | None

    def as_given(self, answers: list[Any]) -> Any:
        """Return one answer for one series, else the list."""
        return answers[0] if self.is_one else answers


def model_inputs(
    model: Any,
    series: Any,
    timestamps: Any = None,
    prepared: bool = False,
    told: Mapping[str, Any] | None = None,
    layout: str | None = None,
) -> ModelInputs:
    """Prepare raw series once for several passes through a model.

    Args:
        model: An encoder; its preparation scales raw series.
        series: Whatever `encode` takes.
        timestamps: Dates of the steps: (time,) for one series, else one (time,) a series; None for those of a frame.
        prepared: Whether the series are model inputs already.
        told: Further arguments of the method's `encode`, such as the domain.
        layout: Whether channels come last, as in `encode`.

    Raises:
        ValueError: No series, or dates of another length.
    """
    from ..modeling.encoding_time_series import as_series_list  # imports torch
    from ..modeling.reading_time_series import PreparedSeries, is_one_series

    is_one = is_one_series(series)
    preparation = model.preparation_for(**(told or {}))
    if preparation is None or prepared or getattr(series, "is_prepared", False):
        arrays = PreparedSeries(as_series_list(series, model.channels_read(**(told or {})), layout)[0])
    else:
        arrays = preparation.transform(series, timestamps, layout)
    dates = _dates_of_frames(series, is_one) if timestamps is None else _dates_given(timestamps, is_one)
    lengths = [len(one) for one in arrays]
    if dates is not None and [len(one) for one in dates] != lengths:
        raise ValueError(f"timestamps are of {[len(one) for one in dates]} steps, the series of {lengths}.")
    return ModelInputs(arrays, is_one, dates)


def _dates_given(timestamps: Any, is_one: bool) -> list[np.ndarray]:
    return [np.asarray(one) for one in ([timestamps] if is_one else timestamps)]


def _dates_of_frames(series: Any, is_one: bool) -> list[np.ndarray] | None:
    from ..modeling.reading_time_series import is_frame  # imports torch

    frames = [series] if is_one else series if isinstance(series, (list, tuple)) else []
    indices: list[Any] = [getattr(one, "index", None) for one in frames if is_frame(one)]
    known = [one for one in indices if str(getattr(one, "dtype", "")).startswith("datetime")]
    return [one.to_numpy() for one in known] if known and len(known) == len(frames) else None
