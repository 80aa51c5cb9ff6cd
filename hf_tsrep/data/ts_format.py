"""Reader of the UCR/UEA archives' `.ts` text format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import CorpusError
from .records import RawCorpus, SeriesRecord, default_channel_names

MISSING_TOKENS = frozenset({"?", "nan", "NaN", "NA", ""})


@dataclass
class TsHeader:
    """What the lines before `@data` say.

    Attributes:
        problem_name: `@problemName`, empty where absent.
        labelled: `@classLabel true`.
        label_names: the names behind it, in order.
        has_target: `@targetLabel true` (regression).
        num_channels: `@dimensions`, or 1 for `@univariate true`; None where the header does not say.
    """

    problem_name: str = ""
    labelled: bool = False
    label_names: list[str] = field(default_factory=list)
    has_target: bool = False
    num_channels: int | None = None


def read_ts_problem(train: Path, test: Path | None = None) -> RawCorpus:
    """Reads a problem of the archives: its training file and, where given, its test file.

    Args:
        train: a `.ts` file.
        test: the other one.

    Returns:
        Splits `train` and `test`; `classification`, `regression` or `unlabelled`.

    Raises:
        CorpusError: see `read_ts_file`; or the two files differ in their channels.
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
    """Reads one `.ts` file: univariate or multivariate, equal or unequal lengths, `?` or NaN for missing values.

    Args:
        path: the file.
        split: goes into the item ids (`train/0`, ...).

    Returns:
        The header and the records, values (time, channel) float64.

    Raises:
        CorpusError: naming the line: no `@data`, no rows, text in numbers, channels of different length or number,
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
        raise CorpusError(f"{path}: no rows behind @data.")
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
            raise CorpusError(f"{place}: the label is missing; the header promises one behind the last colon.")
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
