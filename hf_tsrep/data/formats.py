"""Readers of files that are no tables: the archives' `.ts` text, `.npz` arrays, the UCR anomaly archive's numbers."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .corpus import CorpusError, RawCorpus, SeriesRecord, default_channel_names, label_order, ordered_splits

MISSING_TOKENS = frozenset({"?", "nan", "NaN", "NA", ""})


@dataclass
class TsHeader:
    """What the lines before `@data` say.

    Attributes:
        problem_name: `@problemName`, empty where absent.
        labelled: `@classLabel true`.
        label_names: The names after it, in order.
        has_target: `@targetLabel true` (regression).
        num_channels: `@dimensions`, or 1 for `@univariate true`; None where the header does not say.
    """

    problem_name: str = ""
    labelled: bool = False
    label_names: list[str] = field(default_factory=list)
    has_target: bool = False
    num_channels: int | None = None


def read_ts_problem(train: Path, test: Path | None = None) -> RawCorpus:
    """Read a problem of the archives: its training file and, where given, its test file.

    Args:
        train: A `.ts` file.
        test: The other one.

    Returns:
        Splits `train` and `test`; `classification`, `regression` or `unlabelled`.

    Raises:
        CorpusError: See `read_ts_file`; or the two files differ in their channels.
    """
    header, records = read_ts_file(train, "train")
    splits = {"train": records}
    if test is not None:
        test_header, splits["test"] = read_ts_file(test, "test")
        unseen = [name for name in test_header.label_names if name not in header.label_names]
        header.label_names.extend(unseen)
    num_channels = records[0].values.shape[1]
    task = "classification" if header.labelled else "regression" if header.has_target else "unlabelled"
    names = tuple(header.label_names) if header.labelled else None
    return RawCorpus(splits, default_channel_names(num_channels), names, task)


def read_ts_file(path: Path, split: str = "train") -> tuple[TsHeader, list[SeriesRecord]]:
    """Read one `.ts` file: univariate or multivariate, equal or unequal lengths, `?` or NaN for missing values.

    Args:
        path: The file.
        split: Goes into the item ids (`train/0`, ...).

    Returns:
        The header and the records, values (time, channel) float64.

    Raises:
        CorpusError: Naming the line: no `@data`, no rows, text in numbers, channels of different length or number,
            a class that the header does not list, or the (timestamp, value) form.
    """
    header = TsHeader()
    records: list[SeriesRecord] = []
    in_data = False
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, raw_line in enumerate(lines, start=1):
            line = raw_line.strip()
            if not line or line[0] in "#%":
                continue
            if in_data:
                records.append(_parse_row(line, header, f"{path}, line {number}", f"{split}/{len(records)}"))
            elif line.lower() == "@data":
                in_data = True
            else:
                _parse_header_line(line, header, f"{path}, line {number}")
    if not in_data:
        raise CorpusError(f"{path}: no @data line. A .ts file is a header of @ lines, @data, then one line a series.")
    if not records:
        raise CorpusError(f"{path}: no rows after @data.")
    if header.labelled and not header.label_names:
        header.label_names = sorted({record.label for record in records if record.label is not None})
    return header, records


def _parse_header_line(line: str, header: TsHeader, place: str) -> None:
    if not line.startswith("@"):
        raise CorpusError(f"{place}: {line[:40]!r} stands before @data but is no @ line.")
    key, *words = line[1:].split()
    key, first = key.lower(), words[0] if words else ""
    switched_on = first.lower() == "true"
    if key == "problemname":
        header.problem_name = " ".join(words)
    elif key == "classlabel":
        header.labelled, header.label_names = switched_on, words[1:] if switched_on else []
    elif key == "targetlabel":
        header.has_target = switched_on
    elif key == "univariate" and switched_on:
        header.num_channels = 1
    elif key in ("dimensions", "dimension") and first.isdigit():
        header.num_channels = int(first)
    elif key == "timestamps" and switched_on:
        raise CorpusError(
            f"{place}: (timestamp, value) pairs are not supported; write @timestamps false and values only."
        )


def _parse_row(line: str, header: TsHeader, place: str, item_id: str) -> SeriesRecord:
    parts = line.split(":")
    label = target_value = None
    if header.labelled or header.has_target:
        if len(parts) < 2:
            raise CorpusError(f"{place}: the label is missing; the header promises one after the last colon.")
        last = parts.pop().strip()
        if header.labelled:
            label = _check_label(last, header, place)
        else:
            target_value = float(_parse_numbers(last, f"{place}, target value")[0])
    if header.num_channels is None:
        header.num_channels = len(parts)
    if len(parts) != header.num_channels:
        raise CorpusError(
            f"{place}: {len(parts)} channels where the file has {header.num_channels}. Every series needs the same "
            "channels, separated by colons."
        )
    channels = [_parse_numbers(part, f"{place}, channel {index}") for index, part in enumerate(parts)]
    if len({len(channel) for channel in channels}) != 1:
        lengths = [len(channel) for channel in channels]
        raise CorpusError(f"{place}: unequal channels: their lengths are {lengths}. Pad the short ones with '?'.")
    return SeriesRecord(np.stack(channels, axis=1), item_id, label, target_value, origin=place)


def _check_label(label: str, header: TsHeader, place: str) -> str:
    if not label or label in MISSING_TOKENS:
        raise CorpusError(f"{place}: the class label is missing.")
    if header.label_names and label not in header.label_names:
        raise CorpusError(
            f"{place}: class {label!r} is not among those of @classLabel: {' '.join(header.label_names)}."
        )
    return label


def _parse_numbers(text: str, place: str) -> np.ndarray:
    tokens = text.split(",")
    try:
        return np.array(list(map(float, tokens)))
    except ValueError:
        return np.array([_parse_number(token, f"{place}, position {index}") for index, token in enumerate(tokens)])


def _parse_number(token: str, place: str) -> float:
    token = token.strip()
    if token in MISSING_TOKENS:
        return float("nan")
    try:
        return float(token)
    except ValueError as error:
        raise CorpusError(f"{place}: {token!r} is not a number. Missing values are written as '?'.") from error


SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def read_npz(path: Path) -> RawCorpus:
    """Read series from a NumPy archive.

    Three layouts: `x_train`, `y_train`, `x_val`, `x_test`, ... with arrays (series, time, channel) or (series, time);
    `train`, `test`, `test_label` with one series (time, channel) each and a 0/1 label a step; or one single array,
    (series, time, channel), (time, channel) or (time,).

    Args:
        path: The file; pickled objects are refused.

    Returns:
        The splits of the file; a single array becomes `train`.

    Raises:
        CorpusError: Unreadable, pickled, no array or arrays of other names.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CorpusError(
            f"{path}: cannot be read as an .npz archive of plain arrays ({error}). Write it with numpy.savez, without "
            "objects of Python."
        ) from error
    if not arrays:
        raise CorpusError(f"{path}: the archive is empty.")
    instances = _named_by_split(arrays, "x")
    if instances:
        return _instances_by_split(instances, _named_by_split(arrays, "y"), path)
    stretches = {SPLIT_ALIASES[name]: array for name, array in arrays.items() if name in SPLIT_ALIASES}
    if stretches and all(array.ndim <= 2 for array in stretches.values()):
        return _one_series_a_split(stretches, arrays, path)
    if stretches:
        return _instances_by_split(stretches, {}, path)
    if len(arrays) == 1:
        array = next(iter(arrays.values()))
        if array.ndim <= 2:
            return _one_series_a_split({"train": array}, {}, path)
        return _instances_by_split({"train": array}, {}, path)
    raise CorpusError(
        f"{path}: arrays {sorted(arrays)} are not understood. Name them x_train, y_train, x_val, x_test, ... or store "
        "one array only."
    )


def _named_by_split(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return split name -> array for names such as `x_train`, `X_val` or `train_x`."""
    found = {}
    for name, array in arrays.items():
        words = name.lower().split("_")
        if len(words) == 2 and prefix in words:
            word = words[1 - words.index(prefix)]
            if word in SPLIT_ALIASES:
                found[SPLIT_ALIASES[word]] = array
    return found


def _instances_by_split(values: dict[str, np.ndarray], labels: dict[str, np.ndarray], path: Path) -> RawCorpus:
    num_channels = 1
    splits: dict[str, list[SeriesRecord]] = {}
    for split in ordered_splits(list(values)):
        array = _numbers(values[split], f"{path}, split {split!r}")
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3:
            raise CorpusError(f"{path}, split {split!r}: shape {array.shape}; expected (series, time, channel).")
        num_channels = array.shape[2]
        names: list[str | None] = [None] * len(array)
        if labels:
            names = _label_names(labels.get(split), len(array), f"{path}, split {split!r}")
        splits[split] = [
            SeriesRecord(one, f"{split}/{row}", name, origin=f"{path}, split {split!r}, row {row}")
            for row, (one, name) in enumerate(zip(array, names, strict=True))
        ]
    if not labels:
        return RawCorpus(splits, default_channel_names(num_channels))
    every_label = {record.label for records in splits.values() for record in records if record.label is not None}
    label_names = tuple(sorted(every_label, key=label_order))
    return RawCorpus(splits, default_channel_names(num_channels), label_names, "classification")


def _label_names(labels: np.ndarray | None, num_series: int, place: str) -> list[str | None]:
    if labels is None:
        raise CorpusError(f"{place}: labels are missing, but another split has them. Add y_{{split}}.")
    if labels.ndim != 1 or len(labels) != num_series:
        raise CorpusError(
            f"{place}: {num_series} series but labels of shape {labels.shape}; one label a series is needed."
        )
    if labels.dtype.kind == "f":
        if not np.array_equal(labels, np.floor(labels)):
            row = int(np.flatnonzero(labels != np.floor(labels))[0])
            raise CorpusError(
                f"{place}, row {row}: label {labels[row]} is no class; store classes as integers or names."
            )
        labels = labels.astype(np.int64)
    return [str(label) for label in labels.tolist()]


def _one_series_a_split(stretches: dict[str, np.ndarray], arrays: dict[str, np.ndarray], path: Path) -> RawCorpus:
    splits: dict[str, list[SeriesRecord]] = {}
    num_channels = 1
    for split in ordered_splits(list(stretches)):
        array = _numbers(stretches[split], f"{path}, split {split!r}")
        array = array[:, None] if array.ndim == 1 else array
        num_channels = array.shape[1]
        labels = arrays.get(f"{split}_label")
        if labels is not None and labels.shape != array.shape[:1]:
            raise CorpusError(f"{path}: {split}_label has shape {labels.shape}, but {split} has {len(array)} steps.")
        splits[split] = [
            SeriesRecord(
                array,
                path.stem,
                anomaly_label=None if labels is None else labels.astype(np.int8),
                origin=f"{path}, {split}",
            )
        ]
    labelled = any(records[0].anomaly_label is not None for records in splits.values())
    return RawCorpus(splits, default_channel_names(num_channels), None, "anomaly" if labelled else "unlabelled")


def _numbers(array: np.ndarray, place: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise CorpusError(f"{place}: values of type {array.dtype} are not numbers.")
    if array.size == 0:
        raise CorpusError(f"{place}: no rows (shape {array.shape}).")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def read_ucr_anomaly(path: Path) -> RawCorpus:
    """Read a file of the UCR anomaly archive, `NUMBER_UCR_Anomaly_NAME_TRAINEND_BEGIN_END.txt`.

    The numbers in the name count from 1 and include both ends: steps 1..TRAINEND are for training, BEGIN..END is the
    anomaly.

    Raises:
        CorpusError: Another file name, or text in numbers.
    """
    match = re.fullmatch(r".*_(\d+)_(\d+)_(\d+)", path.stem)
    if match is None:
        raise CorpusError(f"{path}: the name must end in _TRAINEND_BEGIN_END.txt, as in the UCR anomaly archive.")
    train_end, begin, end = (int(number) for number in match.groups())
    tokens = path.read_text(encoding="utf-8").split()
    if not tokens:
        raise CorpusError(f"{path}: the file is empty.")
    try:
        values = np.array(list(map(float, tokens)))[:, None]
    except ValueError as error:
        row = next(index for index, token in enumerate(tokens) if not _is_number(token))
        raise CorpusError(f"{path}, line {row + 1}: {tokens[row]!r} is not a number.") from error
    if not 0 < train_end < begin <= end <= len(values):
        raise CorpusError(f"{path}: the numbers in the name do not fit the {len(values)} steps in the file.")
    labels = np.zeros(len(values), dtype=np.int8)
    labels[begin - 1 : end] = 1
    record = SeriesRecord(values, path.stem, anomaly_label=labels, origin=str(path))
    splits = {"train": [record.stretch(0, train_end)], "test": [record.stretch(train_end, len(values))]}
    return RawCorpus(splits, default_channel_names(1), None, "anomaly")


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True
