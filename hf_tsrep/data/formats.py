"""Readers of the archives' `.ts` text and of the UCR anomaly archive's numbers, and how all text of series is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .corpus import CorpusError, RawCorpus, SeriesRecord, default_channel_names
from .table_forms import is_number
from .text_files import format_stem, read_text

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


def read_ts_problem(files: dict[str, Path]) -> RawCorpus:
    """Read a problem of the archives: its training file, its test file or both.

    Args:
        files: Split -> `.ts` file.

    Returns:
        The splits; `classification`, `regression` or `unlabelled`.

    Raises:
        CorpusError: See `read_ts_file`; or the two files differ in what labels them.
    """
    splits: dict[str, list[SeriesRecord]] = {}
    headers: list[TsHeader] = []
    for split, path in files.items():
        header, splits[split] = read_ts_file(path, split)
        headers.append(header)
        if (header.labelled, header.has_target) != (headers[0].labelled, headers[0].has_target):
            raise CorpusError(f"{path}: @classLabel or @targetLabel differs from that of the other file.")
    first = headers[0]
    names = dict.fromkeys(name for header in headers for name in header.label_names)
    task = "classification" if first.labelled else "regression" if first.has_target else "unlabelled"
    num_channels = next(iter(splits.values()))[0].values.shape[1]
    return RawCorpus(splits, default_channel_names(num_channels), tuple(names) if first.labelled else None, task)


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
    for number, raw_line in enumerate(read_text(path).split("\n"), start=1):
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
    key, *words = line[1:].split() or [""]
    key, first = key.lower(), words[0] if words else ""
    switched_on = first.lower() == "true"
    if key == "problemname":
        header.problem_name = " ".join(words)
    elif key == "classlabel":
        header.labelled, header.label_names = switched_on, words[1:] if switched_on else []
        check_class_names(header.label_names, place)
    elif key == "targetlabel":
        header.has_target = switched_on
    elif key == "univariate" and switched_on:
        header.num_channels = 1
    elif key in ("dimensions", "dimension"):
        if not re.fullmatch(r"[1-9][0-9]{0,6}", first):
            raise CorpusError(f"{place}: {first[:40]!r} is no number of channels.")
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
            label = check_label(last, header.label_names, place)
        else:
            target_value = parse_target(last, place)
    if header.num_channels is None:
        header.num_channels = len(parts)
    if len(parts) != header.num_channels:
        raise CorpusError(
            f"{place}: {len(parts)} channels where the file has {header.num_channels}. Every series needs the same "
            "channels, separated by colons."
        )
    channels = [parse_numbers(part.split(","), f"{place}, channel {index}") for index, part in enumerate(parts)]
    if len({len(channel) for channel in channels}) != 1:
        lengths = [len(channel) for channel in channels]
        raise CorpusError(f"{place}: unequal channels: their lengths are {lengths}. Pad the short ones with '?'.")
    return SeriesRecord(np.stack(channels, axis=1), item_id, label, target_value, origin=place)


def check_class_names(names: list[str], place: str) -> None:
    """Refuse a list of classes that names one twice."""
    repeated = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if repeated is not None:
        raise CorpusError(f"{place}: the class {repeated!r} is listed twice.")


def check_label(label: str, label_names: list[str], place: str) -> str:
    """Return the class of a series; refuse a missing one, and one that the header's list lacks where there is one."""
    if label in MISSING_TOKENS:
        raise CorpusError(f"{place}: the class label is missing.")
    if label_names and label not in label_names:
        known = ", ".join(map(repr, label_names))
        raise CorpusError(f"{place}: class {label!r} is not among those of the header: {known}.")
    return label


def parse_target(text: str, place: str) -> float:
    """Return the target of a regression problem; refuse a missing or infinite one."""
    target = float(parse_numbers([text], f"{place}, target value")[0])
    if not math.isfinite(np.float32(target)):
        raise CorpusError(f"{place}: the target value {text!r} is no finite number. Leave the series out.")
    return target


def parse_numbers(cells: list[str], place: str) -> np.ndarray:
    """Return the numbers of cells, (len(cells),) float64, NaN where one is missing.

    Raises:
        CorpusError: Another text, naming its position.
    """
    try:
        numbers = np.array(list(map(float, cells)))
    except ValueError:
        numbers = np.empty(0)
    # Python reads 1_000 as a thousand, which no other reader of tables does.
    if len(numbers) == len(cells) and not any("_" in cell for cell in cells):
        return numbers
    return np.array([_parse_number(cell, f"{place}, position {index}") for index, cell in enumerate(cells)])


def _parse_number(cell: str, place: str) -> float:
    cell = cell.strip()
    if cell in MISSING_TOKENS:
        return float("nan")
    try:
        if "_" not in cell:
            return float(cell)
    except ValueError:
        pass
    raise CorpusError(f"{place}: {cell[:40]!r} is not a number. Missing values are written as '?'.")


def read_ucr_anomaly(path: Path) -> RawCorpus:
    """Read a file of the UCR anomaly archive, `NUMBER_UCR_Anomaly_NAME_TRAINEND_BEGIN_END.txt`.

    The numbers in the name count from 1 and include both ends: steps 1..TRAINEND are for training, BEGIN..END is the
    anomaly.

    Raises:
        CorpusError: Another file name, or text in numbers.
    """
    match = re.fullmatch(r".*_([0-9]{1,12})_([0-9]{1,12})_([0-9]{1,12})", format_stem(path))
    if match is None:
        raise CorpusError(f"{path}: the name must end in _TRAINEND_BEGIN_END.txt, as in the UCR anomaly archive.")
    train_end, begin, end = (int(number) for number in match.groups())
    lines = [line.split() for line in read_text(path).split("\n")]
    cells = [cell for line in lines for cell in line]
    if not cells:
        raise CorpusError(f"{path}: the file is empty.")
    for number, line in enumerate(lines, start=1):
        wrong = next((cell for cell in line if not is_number(cell)), None)
        if wrong is not None:
            raise CorpusError(f"{path}, line {number}: {wrong[:40]!r} is not a number.")
    values = np.array(list(map(float, cells)))[:, None]
    if not 0 < train_end < begin <= end <= len(values):
        raise CorpusError(f"{path}: the numbers in the name do not fit the {len(values)} steps in the file.")
    labels = np.zeros(len(values), dtype=np.int8)
    labels[begin - 1 : end] = 1
    record = SeriesRecord(values, format_stem(path), anomaly_label=labels, origin=str(path))
    splits = {"train": [record.stretch(0, train_end)], "test": [record.stretch(train_end, len(values))]}
    return RawCorpus(splits, default_channel_names(1), None, "anomaly")
