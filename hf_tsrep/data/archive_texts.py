"""Readers of the archives' other text forms: UCR's rows with the class first, and `.arff`."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .corpus import CorpusError, RawCorpus, SeriesRecord, default_channel_names, label_order
from .formats import MISSING_TOKENS, check_class_names, check_label, parse_numbers, parse_target
from .table_forms import is_number
from .text_files import read_text

ROW_SUFFIXES = (".tsv", ".txt", ".csv", "")
_TARGET_NAME = re.compile(r"(target|class|label|response)(_?(value|label|name))?|y", re.IGNORECASE)

# Text of a file, its name in messages, its split -> records, and the classes that it lists.
Reader = Callable[[str, str, str], tuple[list[SeriesRecord], list[str]]]


def is_row_text(text: str) -> bool:
    """Return whether the first row of a text has numbers behind its first cell, as a row of the UCR form has."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    values = _cells(first, _delimiter(first))[1:]
    return bool(values) and all(is_number(cell) or cell in MISSING_TOKENS for cell in values)


def read_row_files(files: dict[str, Path], encoding: str | None = None) -> RawCorpus:
    """Read the UCR form: a row a series, the class first, no line of names; tab, comma, semicolon or blanks between.

    Shorter series are padded with NaN at their end, which is cut off.

    Args:
        files: Split -> file.
        encoding: See decode_text.

    Returns:
        `classification`, one channel. A class that is a whole number is named as one: "1" of 1.0000e+00.

    Raises:
        CorpusError: Naming the line: no rows, text in numbers, a missing class, or another number of cells.
    """
    return _read_files(files, _read_rows, encoding)


def _read_rows(text: str, place: str, split: str) -> tuple[list[SeriesRecord], list[str]]:
    records: list[SeriesRecord] = []
    delimiter, width = None, 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{place}, line {number}"
        if not records:
            delimiter = _delimiter(line)
        label, *cells = _cells(line, delimiter)
        width = width or len(cells)
        if len(cells) != width or not cells:
            raise CorpusError(
                f"{where}: {len(cells) + 1} cells where the first row has {width + 1}. A row is a class and the "
                "values of one series, padded with NaN to the longest."
            )
        name = class_name(check_label(label, [], where))
        records.append(_record(parse_numbers(cells, where)[:, None], split, len(records), where, name))
    if not records:
        raise CorpusError(f"{place}: no rows.")
    return records, []


def _delimiter(line: str) -> str | None:
    return next((mark for mark in "\t,;" if mark in line), None)


def _cells(line: str, delimiter: str | None) -> list[str]:
    return [cell.strip().strip("\"'") for cell in (line.strip(" ") if delimiter else line).split(delimiter)]


def class_name(text: str) -> str:
    """Return what a class is called: a whole number without decimals, anything else as it is written."""
    if not is_number(text) or not math.isfinite(float(text)):
        return text
    number = float(text)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else text


def _record(
    values: np.ndarray, split: str, index: int, place: str, label: str | None = None, target: float | None = None
) -> SeriesRecord:
    """Return a series (time, channel) without the padding after its last value."""
    observed = np.flatnonzero(~np.isnan(values).all(axis=1))
    if not observed.size:
        raise CorpusError(f"{place}: every value is missing. Remove the series.")
    return SeriesRecord(values[: observed[-1] + 1], f"{split}/{index}", label, target, origin=place)


def _read_files(files: dict[str, Path], read: Reader, encoding: str | None) -> RawCorpus:
    """Read the files of one problem and give them one list of classes."""
    splits: dict[str, list[SeriesRecord]] = {}
    names: list[str] = []
    for split, path in files.items():
        splits[split], listed = read(read_text(path, encoding), str(path), split)
        found = listed or sorted({one.label for one in splits[split] if one.label is not None}, key=label_order)
        names += [name for name in found if name not in names]
        if not listed:
            names.sort(key=label_order)
    first = next(iter(splits.values()))[0]
    for split, path in files.items():
        for record in splits[split]:
            if _kind_of_label(record) != _kind_of_label(first):
                raise CorpusError(f"{path}: its series are labelled in another way than those of the other file.")
    task = "regression" if first.target_value is not None else "classification" if names else "unlabelled"
    return RawCorpus(splits, default_channel_names(first.values.shape[1]), tuple(names) or None, task)


def _kind_of_label(record: SeriesRecord) -> tuple[bool, bool]:
    return record.label is None, record.target_value is None


@dataclass
class ArffHeader:
    """What the lines before `@data` declare.

    Attributes:
        num_values: Numeric attributes in front: steps of a series; inside a relational attribute, of every channel.
        is_relational: Whether a series is one cell, with a line a channel.
        label_names: Classes of the nominal attribute at the end.
        has_target: Whether the last attribute is the number that a regression predicts.
    """

    num_values: int = 0
    is_relational: bool = False
    label_names: list[str] = field(default_factory=list)
    has_target: bool = False


def read_arff_files(files: dict[str, Path], encoding: str | None = None) -> RawCorpus:
    """Read `.arff` as the archives write it: one channel, or several as a relational attribute; the class at the end.

    Shorter series are padded with `?` at their end, which is cut off.

    Args:
        files: Split -> file.
        encoding: See decode_text.

    Returns:
        `classification` where the last attribute is nominal, `regression` where it is a number called like a target,
        else `unlabelled`.

    Raises:
        CorpusError: Naming the line: no `@data`, no rows, attributes that are no numbers, a class that is not listed,
            text in numbers, or rows of other lengths.
    """
    return _read_files(files, _read_arff, encoding)


def _read_arff(text: str, place: str, split: str) -> tuple[list[SeriesRecord], list[str]]:
    lines = _meaningful_lines(text)
    header = _read_arff_header(lines, place)
    records: list[SeriesRecord] = []
    for number, line in lines:
        where = f"{place}, line {number}"
        channels, last = (_relational_row if header.is_relational else _plain_row)(line, header, where)
        label = check_label(last, header.label_names, where) if header.label_names and last is not None else None
        target = parse_target(last, where) if header.has_target and last is not None else None
        values = np.stack([parse_numbers(cells, where) for cells in channels], axis=1)
        if records and values.shape[1] != records[0].values.shape[1]:
            raise CorpusError(
                f"{where}: {values.shape[1]} channels where the first row has {records[0].values.shape[1]}."
            )
        records.append(_record(values, split, len(records), where, label, target))
    if not records:
        raise CorpusError(f"{place}: no rows after @data.")
    return records, header.label_names


def _meaningful_lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("%"):
            yield number, line.strip()


def _read_arff_header(lines: Iterator[tuple[int, str]], place: str) -> ArffHeader:
    """Read the lines up to `@data`."""
    header = ArffHeader()
    inside = False
    for number, line in lines:
        where = f"{place}, line {number}"
        key = line.split(None, 1)[0].lower()
        if key == "@data":
            if not header.num_values or inside:
                raise CorpusError(f"{where}: no numeric attributes are declared before @data.")
            return header
        if key == "@end" and inside:
            inside = False
        elif key == "@attribute":
            inside = _read_attribute(line, header, inside, where)
        elif key != "@relation":
            raise CorpusError(f"{where}: {line[:40]!r} stands before @data but declares nothing.")
    raise CorpusError(f"{place}: no @data line. An .arff file is @attribute lines, @data, then one line a series.")


def _read_attribute(line: str, header: ArffHeader, inside: bool, place: str) -> bool:
    """Take an attribute into the header; return whether the next ones lie inside a relational attribute."""
    match = re.fullmatch(r"@attribute\s+('[^']*'|\"[^\"]*\"|[^\s{]+)\s*(\{.*\}|\S+).*", line, re.IGNORECASE)
    if match is None:
        raise CorpusError(f"{place}: {line[:60]!r} is no declaration of an attribute.")
    name, kind = match[1].strip("'\""), match[2]
    if not inside and (header.label_names or header.has_target):
        raise CorpusError(f"{place}: attribute {name!r} stands after the class; the class comes last.")
    if kind.lower() in ("numeric", "real", "integer"):
        if header.is_relational and not inside:
            header.has_target = True
        elif not inside and header.num_values and _TARGET_NAME.fullmatch(name):
            header.has_target = True
        else:
            header.num_values += 1
        return inside
    if kind.lower() == "relational" and not header.num_values and not header.is_relational:
        header.is_relational = True
        return True
    if kind.startswith("{") and header.num_values and not inside:
        header.label_names = [one.strip() for one in _split_quoted(kind[1:-1], ",")]
        check_class_names(header.label_names, place)
        return inside
    raise CorpusError(
        f"{place}: attribute {name!r} of type {kind[:40]!r} is not read. A series is numeric attributes, or one "
        "relational attribute of them, and its class at the end."
    )


def _relational_row(line: str, header: ArffHeader, place: str) -> tuple[list[list[str]], str | None]:
    match = re.fullmatch(r"(['\"])(.*)\1\s*(?:,(.*))?", line)
    expected = bool(header.label_names or header.has_target)
    if match is None or (match[3] is not None) != expected:
        raise CorpusError(f"{place}: expected a series in quotes{' and its class' if expected else ''}.")
    channels = [channel.split(",") for channel in match[2].split("\\n")]
    for index, cells in enumerate(channels):
        _check_width(len(cells), header, f"{place}, channel {index}")
    return channels, None if match[3] is None else match[3].strip().strip("'\"")


def _plain_row(line: str, header: ArffHeader, place: str) -> tuple[list[list[str]], str | None]:
    cells = _split_quoted(line, ",")
    last = cells.pop().strip() if header.label_names or header.has_target else None
    _check_width(len(cells), header, place)
    return [cells], last


def _check_width(num_values: int, header: ArffHeader, place: str) -> None:
    if num_values != header.num_values:
        raise CorpusError(f"{place}: {num_values} values where the header declares {header.num_values}.")


def _split_quoted(line: str, delimiter: str) -> list[str]:
    quote = "'" if "'" in line else '"'
    try:
        return next(csv.reader([line], delimiter=delimiter, quotechar=quote, skipinitialspace=True), [""])
    except csv.Error:  # such as a cell beyond the module's limit
        return line.split(delimiter)
