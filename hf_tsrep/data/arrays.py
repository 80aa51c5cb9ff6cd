"""Readers of arrays: `.npz` and `.npy` files, arrays and lists of them, sktime's nested frames."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import near_matches, one_line
from .corpus import CorpusError, RawCorpus, SeriesRecord, default_channel_names, label_order, ordered_splits
from .text_files import check_size

logger = logging.getLogger(__name__)

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
ARRAY_LAYOUTS = ("ntc", "nct")


def read_array_file(path: Path, layout: str | None = None) -> RawCorpus:
    """Read series from a NumPy file.

    `.npz` has three forms: `x_train`, `y_train`, `x_val`, `x_test`, ... with arrays (series, time, channel) or
    (series, time); `train`, `test`, `test_label` with one series (time, channel) each and a 0/1 label a step; or one
    array alone, (series, time, channel), (time, channel) or (time,), which is also the form of `.npy`.

    Args:
        path: The file; pickled objects are refused.
        layout: "ntc" for (series, time, channel), "nct" for (series, channel, time). None for "ntc" where that gives
            more steps than channels.

    Returns:
        The splits of the file; a single array becomes `train`.

    Raises:
        CorpusError: Unreadable, pickled, no array or arrays of other names, labels that are no classes, or a layout
            that must be said.
    """
    arrays = _load_arrays(path)
    if not arrays:
        raise CorpusError(f"{path}: the archive is empty.")
    instances = _named_by_split(arrays, "x", path)
    if instances:
        labels = _named_by_split(arrays, "y", path)
        _tell_unread(path, set(arrays), [*instances.values(), *labels.values()])
        return _instances_by_split(
            {split: arrays[name] for split, name in instances.items()},
            {split: arrays[name] for split, name in labels.items()},
            path,
            layout,
        )
    named = _by_split({name: name for name in arrays}, path)
    if not named and len(arrays) == 1:
        named = {"train": next(iter(arrays))}
    stretches = {split: arrays[name] for split, name in named.items()}
    if not stretches:
        raise CorpusError(
            f"{path}: arrays {sorted(arrays)[:20]} are not understood. Name them x_train, y_train, x_val, x_test, ... "
            "or store one array only."
        )
    if all(array.ndim <= 2 for array in stretches.values()):
        labels_of = {split: arrays[f"{name}_label"] for split, name in named.items() if f"{name}_label" in arrays}
        _tell_unread(path, set(arrays), [*named.values(), *(f"{named[split]}_label" for split in labels_of)])
        return _one_series_a_split(stretches, labels_of, path, layout)
    _tell_unread(path, set(arrays), list(named.values()))
    return _instances_by_split(stretches, {}, path, layout)


def holds_arrays(holder: Any) -> bool:
    """Whether this holds series without a file: an array, a tensor, a list of arrays or numbers, a nested frame."""
    from ..modeling.reading_time_series import holds_cells_of_series, is_frame  # imports torch

    if isinstance(holder, (list, tuple)):
        return bool(holder) and not isinstance(holder[0], (str, bytes, Path, Mapping))
    return holds_cells_of_series(holder) if is_frame(holder) else hasattr(holder, "__array__")


def corpus_from_arrays(holder: Any, layout: str | None = None) -> RawCorpus:
    """Return the corpus of arrays: one array or tensor, a list or an array of objects of them, sktime's nested frame.

    Args:
        holder: One series (time, channel) or (time,); an array (series, time, channel); or series of any lengths.
        layout: "ntc" for (series, time, channel), "nct" for (series, channel, time), also of single series. None for
            "ntc" where lengths that differ show it, or where it gives more steps than channels.

    Returns:
        One split, `train`.

    Raises:
        CorpusError: Text, complex numbers, another number of axes, no series, or a layout that must be said.
    """
    from ..modeling.reading_time_series import as_numbers, is_frame, is_one_series, separate_series  # imports torch

    check_layout(layout, "the arrays")
    is_known = is_frame(holder)
    try:
        read = [(name, as_numbers(one, name)) for name, one in separate_series(holder, is_one_series(holder))]
    except CorpusError:
        raise
    except ValueError as error:
        raise CorpusError(str(error)) from error
    for name, values in read:
        if values.ndim not in (1, 2):
            raise CorpusError(
                f"{name} has shape {values.shape}; a series is (time, channel), or (time,) of one channel."
            )
    series = [(name, values if values.ndim == 2 else values[:, None]) for name, values in read]
    lengths, widths = ({values.shape[axis] for _, values in series} for axis in (0, 1))
    if layout is None and len(widths) == 1 < len(lengths) and all(values.ndim == 2 for _, values in read):
        is_known = True  # series of several lengths have as many channels
    flat = {name for name, values in read if values.ndim == 1}
    records = [
        SeriesRecord(
            values if is_known or name in flat else steps_before_channels(values, layout, name),
            name.removeprefix("series ").removeprefix("item ").strip("'"),
            origin=name,
        )
        for name, values in series
    ]
    num_channels = records[0].values.shape[1] if records else 1
    names = tuple(map(str, holder.columns)) if is_frame(holder) else default_channel_names(num_channels)
    return RawCorpus({"train": records}, names)


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as stream:
                _check_header(stream, path.stat().st_size, str(path))
            return {path.stem: np.load(path, allow_pickle=False)}
        with zipfile.ZipFile(path) as archive:
            check_size(sum(member.file_size for member in archive.infolist()), str(path))
            for member in archive.infolist():
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size, f"{path}, {member.filename}")
        with np.load(path, allow_pickle=False) as loaded:
            if len(set(loaded.files)) != len(loaded.files):
                raise CorpusError(f"{path}: two arrays have one name: {sorted(loaded.files)[:20]}.")
            return {name: loaded[name] for name in loaded.files}
    except CorpusError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise nearly anything
        kind = "array" if path.suffix.lower() == ".npy" else "archive of plain arrays"
        raise CorpusError(
            f"{path}: cannot be read as an {path.suffix.lower()} {kind} ({type(error).__name__}: {one_line(error)}). "
            "Write it with numpy.savez, without objects of Python."
        ) from error


def _check_header(stream: Any, num_bytes: int, place: str) -> None:
    """Refuse an array that promises more numbers than there are bytes, before memory is taken for it."""
    version = np.lib.format.read_magic(stream)
    if version > (3, 0):
        raise CorpusError(f"{place}: version {version} of NumPy's format is not known.")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("it holds objects of Python")
    if dtype.itemsize * int(np.prod(shape, dtype=object)) > num_bytes:
        raise CorpusError(f"{place}: the file ends before its array of shape {shape} does. Write it again.")


def _tell_unread(path: Path, names: set[str], read: Sequence[str]) -> None:
    unread = sorted(names - set(read))
    if unread:
        logger.warning("%s: the arrays %s are not read.", path, ", ".join(unread[:20]))


def _named_by_split(arrays: dict[str, np.ndarray], prefix: str, path: Path) -> dict[str, str]:
    """Return split -> name of the array for names such as `x_train`, `X_val` or `train_x`."""
    words = {}
    for name in arrays:
        parts = name.lower().split("_")
        if len(parts) == 2 and prefix in parts:
            words[name] = parts[1 - parts.index(prefix)]
    return _by_split(words, path)


def _by_split(words: dict[str, str], path: Path) -> dict[str, str]:
    """Return split -> name of the array, where `words` says which split a name is for."""
    found: dict[str, str] = {}
    for name, word in words.items():
        split = SPLIT_ALIASES.get(word)
        if split in found:
            raise CorpusError(f"{path}: both {found[split]!r} and {name!r} are the split {split!r}; keep one.")
        if split is not None:
            found[split] = name
    return found


def _instances_by_split(
    values: dict[str, np.ndarray], labels: dict[str, np.ndarray], path: Path, layout: str | None
) -> RawCorpus:
    num_channels = 1
    splits: dict[str, list[SeriesRecord]] = {}
    for split in ordered_splits(list(values)):
        place = f"{path}, split {split!r}"
        array = _numbers(values[split], place)
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3:
            raise CorpusError(f"{place}: shape {array.shape}; expected (series, time, channel).")
        array = steps_before_channels(array, layout, place)
        num_channels = array.shape[2]
        names: list[str | None] = [None] * len(array)
        if labels:
            names = _label_names(labels.get(split), len(array), place)
        splits[split] = [
            SeriesRecord(one, f"{split}/{row}", name, origin=f"{place}, row {row}")
            for row, (one, name) in enumerate(zip(array, names, strict=True))
        ]
    if not labels:
        return RawCorpus(splits, default_channel_names(num_channels))
    every_label = {record.label for records in splits.values() for record in records if record.label is not None}
    label_names = tuple(sorted(every_label, key=label_order))
    return RawCorpus(splits, default_channel_names(num_channels), label_names, "classification")


def steps_before_channels(array: np.ndarray, layout: str | None, place: str) -> np.ndarray:
    """Return an array (..., time, channel) of one that has them in this order or in the other.

    Args:
        array: (..., time, channel) or (..., channel, time).
        layout: See read_array_file.
        place: What it is called in messages.

    Raises:
        CorpusError: The layout is not said, and there would be no more steps than channels.
    """
    check_layout(layout, place)
    steps, channels = array.shape[-2:]
    if layout is None and 1 < channels >= steps:
        raise CorpusError(
            f"{place}: shape {array.shape} would be {steps} steps of {channels} channels. Say layout='ntc' where "
            "channels come last, or layout='nct' where time does, as in aeon, sktime and tsai. Series of one channel "
            "are an array (series, time, 1)."
        )
    return array.swapaxes(-1, -2) if layout == "nct" else array


def check_layout(layout: str | None, place: str) -> None:
    """Refuse another layout than those of arrays."""
    if layout not in (None, *ARRAY_LAYOUTS):
        hint = near_matches(layout, ARRAY_LAYOUTS, cutoff=0.5)
        raise CorpusError(
            f"{place}: layout={layout!r} is none of arrays.{hint} Write 'ntc' for (series, time, channel), or 'nct' "
            "for (series, channel, time)."
        )


def _label_names(labels: np.ndarray | None, num_series: int, place: str) -> list[str | None]:
    if labels is None:
        raise CorpusError(f"{place}: labels are missing, but another split has them. Add y_{{split}}.")
    if labels.ndim != 1 or len(labels) != num_series:
        raise CorpusError(
            f"{place}: {num_series} series but labels of shape {labels.shape}; one label a series is needed."
        )
    if labels.dtype.kind not in "iufbUS":
        raise CorpusError(f"{place}: labels of type {labels.dtype} are no classes; store integers or names.")
    if labels.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)) | (np.abs(labels) >= 2**53))
        if wrong.size:
            row = int(wrong[0])
            raise CorpusError(
                f"{place}, row {row}: label {labels[row]} is no class; store classes as integers or names."
            )
        labels = labels.astype(np.int64)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    names = [str(label).strip() for label in labels.tolist()]
    if "" in names:
        raise CorpusError(f"{place}, row {names.index('')}: the class label is missing.")
    return list(names)


def _one_series_a_split(
    stretches: dict[str, np.ndarray], labels_of: dict[str, np.ndarray], path: Path, layout: str | None
) -> RawCorpus:
    splits: dict[str, list[SeriesRecord]] = {}
    num_channels = 1
    for split in ordered_splits(list(stretches)):
        place = f"{path}, split {split!r}"
        array = _numbers(stretches[split], place)
        array = np.atleast_1d(array)[:, None] if array.ndim < 2 else steps_before_channels(array, layout, place)
        num_channels = array.shape[1]
        labels = labels_of.get(split)
        marks = None if labels is None else _anomaly_labels(labels, len(array), place)
        splits[split] = [SeriesRecord(array, path.stem, anomaly_label=marks, origin=f"{path}, {split}")]
    labelled = any(records[0].anomaly_label is not None for records in splits.values())
    return RawCorpus(splits, default_channel_names(num_channels), None, "anomaly" if labelled else "unlabelled")


def _anomaly_labels(labels: np.ndarray, num_steps: int, place: str) -> np.ndarray:
    if labels.shape != (num_steps,) or labels.dtype.kind not in "iufb":
        raise CorpusError(
            f"{place}: labels of shape {labels.shape} and type {labels.dtype} for {num_steps} steps; one "
            "number a step is needed."
        )
    wrong = np.flatnonzero(~np.isin(labels, [0, 1]))
    if wrong.size:
        step = int(wrong[0])
        raise CorpusError(f"{place}, step {step}: label {labels[step]} is neither 0 nor 1 (1 = anomaly).")
    return labels.astype(np.int8)


def _numbers(array: np.ndarray, place: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise CorpusError(f"{place}: values of type {array.dtype} are not numbers.")
    if array.size == 0:
        raise CorpusError(f"{place}: no rows (shape {array.shape}).")
    return array if array.dtype.kind == "f" else array.astype(np.float64)
