"""What a text says of its own form as a table: delimiter, line of names, decimal mark; pandas then reads it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import one_line
from .corpus import CorpusError
from .options import ReadingOptions

DELIMITERS = ("\t", ";", "|", ",")
MISSING_CELLS = ["?"]  # beside those that pandas knows
_SAMPLE = 200  # rows that a look at the form takes

_EXPONENT = r"(?:[eE][+-]?\d+)?"
_LOOKS_NUMERIC = re.compile(r"[+-]?[\d.,' \u00a0\u202f]*\d[\d.,' \u00a0\u202f]*" + _EXPONENT)
_LOOKS_LIKE_DATE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T,].*)?|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?|\d{4}-\d{2}"
    r"|\d{1,2}[- /][A-Za-z]{3,9}[- /,]+\d{2,4}.*"
)
# (decimal, thousands): the ways to write a number, the usual one first.
NUMBER_FORMS: tuple[tuple[str, str | None], ...] = (
    (".", None),
    (",", None),
    (".", ","),
    (",", "."),
    *((decimal, blank) for blank in (" ", "\u00a0", "\u202f", "'") for decimal in (".", ",")),
)


@dataclass(frozen=True)
class TextTable:
    """A table as text has it.

    Attributes:
        frame: The table as pandas reads it.
        lines: (row,) number of the line that a row begins on, from 1.
    """

    frame: Any
    lines: np.ndarray


def read_text_table(text: str, place: str, options: ReadingOptions) -> TextTable:
    """Read the text of a table.

    Args:
        text: All of it; lines end in a line feed.
        place: The file, for messages.
        options: Delimiter, header, skip_rows, decimal and thousands, where they were said.

    Raises:
        CorpusError: Empty, rows of several lengths, a first line that may be names or values, a name that appears
            twice, or numbers that can be read in two ways.
    """
    all_lines = text.split("\n")
    skipped = options.skip_rows
    while skipped < len(all_lines) and not all_lines[skipped].strip(" "):
        skipped += 1
    if skipped >= len(all_lines):
        after = f" after the {options.skip_rows} lines that are skipped" if options.skip_rows else ""
        raise CorpusError(f"{place}: the file is empty{after}. It needs a line of column names.")
    body = all_lines[skipped:]
    delimiter = options.delimiter or find_delimiter(body)
    rows = _count_rows(body, delimiter, skipped, place)
    if not rows.starts:
        raise CorpusError(f"{place}: the file has blanks only. It needs a line of column names.")
    spans = list(zip(rows.starts, rows.ends, strict=True))[: _SAMPLE + 1]
    sample = _cells_of((line for start, end in spans for line in body[start - skipped - 1 : end]), delimiter)
    has_names = holds_names(sample[0], sample[1:], options.header, f"{place}, line {rows.starts[0]}")
    names = column_names(sample[0], has_names, place)
    rest = "\n".join(body[rows.ends[0] :]) if has_names else "\n".join(body)
    lines = np.asarray(rows.starts[1:] if has_names else rows.starts)
    if not lines.size:
        raise CorpusError(f"{place}: no rows below the column names.")
    frame = _read(rest, delimiter, names, place)
    if len(frame) != len(lines):
        raise CorpusError(f"{place}: {len(lines)} rows by its lines, but {len(frame)} by its quotes. Write it again.")
    if _needs_number_form(frame, delimiter, options):
        raw = _read(rest, delimiter, names, place, dtype=str)
        frame = with_numbers_of_text(frame, raw, delimiter, options, lines, place)
    return TextTable(frame, lines)


def _read(text: str, delimiter: str, names: list[str], place: str, **arguments: Any) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(
            io.StringIO(text),
            sep=r"\s+" if delimiter == " " else delimiter,
            header=None,
            names=names,
            index_col=False,
            na_values=MISSING_CELLS,
            low_memory=False,
            **arguments,
        )
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors, too
        raise CorpusError(f"{place}: cannot be read as a table: {one_line(error)}") from error


def find_delimiter(lines: Sequence[str]) -> str:
    """Return what stands between the cells: what divides all of the first lines into equally many, else the header."""
    sample = [line for line in lines[:_SAMPLE] if line.strip()][:50]
    for delimiter in (*DELIMITERS, " "):
        counts = {len(cells) for cells in _cells_of(sample, delimiter)}
        if len(counts) == 1 and counts.pop() > 1:
            return delimiter
    return max(reversed(DELIMITERS), key=sample[0].count) if sample else ","


def _cells_of(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    if delimiter == " ":
        return [line.split() for line in lines if line.strip()]
    try:
        reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter)
        return [[cell.removesuffix("\n") for cell in cells] for cells in reader if cells]
    except csv.Error:
        return [line.split(delimiter) for line in lines if line.strip()]


@dataclass(frozen=True)
class _Rows:
    """Where rows are: numbers of the lines that they begin on, from 1; lines of the body up to where they end."""

    starts: list[int]
    ends: list[int]


def _count_rows(body: Sequence[str], delimiter: str, skipped: int, place: str) -> _Rows:
    """Find the rows, and refuse short and long ones, which a reader of tables would fill up silently."""
    starts: list[int] = []
    ends: list[int] = []
    counts: list[int] = []
    for start, end, count in _rows_of(body, delimiter, place):
        starts.append(skipped + start + 1)
        ends.append(end)
        counts.append(count)
    wrong = next((row for row, count in enumerate(counts) if count != counts[0]), None)
    if wrong is not None:
        raise CorpusError(
            f"{place}, line {starts[wrong]}: {counts[wrong]} cells where the header has {counts[0]} columns."
            f"{_preamble_hint(starts, counts)} Leave a cell empty to mark a missing value."
        )
    blank = next((end for end, start in zip(ends, starts[1:], strict=False) if start != skipped + end + 1), None)
    if counts and counts[0] == 1 and blank is not None:
        raise CorpusError(
            f"{place}, line {skipped + blank + 1}: the line is empty. In a table of one column, write NaN for a "
            "missing value, or leave the line out."
        )
    return _Rows(starts, ends)


def _rows_of(body: Sequence[str], delimiter: str, place: str) -> Iterable[tuple[int, int, int]]:
    """Yield the first line, the line after the last, and the number of cells of every row; blank lines are none."""
    blanks = " " if delimiter == "\t" else " \t"
    if delimiter == " " or not any('"' in line for line in body):
        for number, line in enumerate(body):
            if line.strip(blanks):
                yield number, number + 1, len(line.split()) if delimiter == " " else line.count(delimiter) + 1
        return
    reader = csv.reader((line + "\n" for line in body), delimiter=delimiter)
    end = 0
    try:
        for cells in reader:
            start, end = end, reader.line_num
            if cells and (len(cells) > 1 or end > start + 1 or body[start].strip(blanks)):
                yield start, end, len(cells)
    except csv.Error as error:
        raise CorpusError(f"{place}: cannot be told into cells ({one_line(error)}); check its quotes.") from error


def _preamble_hint(starts: Sequence[int], counts: Sequence[int]) -> str:
    """Return what to do where the lines before a table are of another form than the table."""
    usual, _ = Counter(counts).most_common(1)[0]
    first = next(row for row, count in enumerate(counts) if count == usual)
    if first == 0 or usual == 1 or any(count != usual for count in counts[first:]):
        return ""
    return (
        f" From line {starts[first]} on every line has {usual}: where the table begins there, say "
        f"skip_rows={starts[first] - 1} (--skip-rows {starts[first] - 1})."
    )


def holds_names(first: Sequence[str], below: Sequence[Sequence[str]], said: bool | None, place: str) -> bool:
    """Return whether the first row of a table holds the names of its columns.

    It does where it has a word over numbers or dates. Numbers are no names: the first series would be lost.

    Args:
        first: Cells of the first row.
        below: Rows below it.
        said: What the user says, or None.
        place: The line, for messages.

    Raises:
        CorpusError: It cannot be told.
    """
    if said is not None:
        return said
    kinds = [cell_kind(cell) for cell in first]
    kinds_below = [{cell_kind(row[index]) for row in below if index < len(row)} for index in range(len(first))]
    pairs = list(zip(kinds, kinds_below, strict=True))
    is_row = any(kind == "date" and "date" in others for kind, others in pairs)
    is_named = any(kind == "word" and others & {"number", "date"} for kind, others in pairs)
    if is_named and not is_row and _numbers_are_names(first, kinds):
        return True
    if all(kind == "word" for kind in kinds) and not is_row:
        return True  # words over words, or over nothing: whatever they are, they are no values
    shown = ", ".join(repr(cell) for cell in first[:5])
    raise CorpusError(
        f"{place}: {shown}{', ...' if len(first) > 5 else ''} stand where the names of the columns are expected. Say "
        "header=False (--no-header) where they are values, header=True (--header) where they are names, or "
        "layout='ucr' (--layout ucr) where a row is a series with its class first."
    )


def _numbers_are_names(first: Sequence[str], kinds: Sequence[str]) -> bool:
    """Return whether the numbers of a first row may be names: years, places or quantiles, after a word."""
    if "number" not in kinds:
        return True
    numbers = [cell.strip() for cell, kind in zip(first, kinds, strict=True) if kind == "number"]
    if not all(number.isdecimal() or re.fullmatch(r"0?\.\d+", number) for number in numbers):
        return False
    values = [float(number) for number in numbers]
    return kinds[0] == "word" and all(one < following for one, following in pairwise(values))


def cell_kind(cell: str) -> str:
    """Return `missing`, `number`, `date` or `word`."""
    text = cell.strip()
    if not text or text.lower() in ("?", "nan", "na", "n/a", "null", "none", "-"):
        return "missing"
    if is_number(text) or (_LOOKS_NUMERIC.fullmatch(text) and not _LOOKS_LIKE_DATE.fullmatch(text)):
        return "number"
    return "date" if _LOOKS_LIKE_DATE.fullmatch(text) else "word"


def is_number(cell: str) -> bool:
    """Return whether a cell of a table is a number; a missing value is none."""
    try:
        return "_" not in cell and not math.isnan(float(cell))
    except ValueError:
        return False


def column_names(first: Sequence[str], has_names: bool, place: str) -> list[str]:
    """Return the names of the columns: those of the first row, or `channel_0`, `channel_1`, ... of their places.

    Raises:
        CorpusError: A name appears twice.
    """
    if not has_names:
        return [f"channel_{index}" for index in range(len(first))]
    names = [name if name.strip() else f"Unnamed: {index}" for index, name in enumerate(first)]
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise CorpusError(f"{place}: column {repeated!r} appears twice; rename one.")
    return names


def _needs_number_form(frame: Any, delimiter: str, options: ReadingOptions) -> bool:
    """Whether numbers may be written in another way than with a decimal point."""
    if delimiter == ";" or options.decimal == "," or options.thousands is not None:
        return True
    return any(_marked_cells(frame[column]) for column in _value_columns(frame, options) if _is_text(frame[column]))


def _is_text(column: Any) -> bool:
    import pandas as pd

    return pd.api.types.is_string_dtype(column) or column.dtype == object


def _value_columns(frame: Any, options: ReadingOptions) -> list[str]:
    reserved = (options.item_column, options.timestamp_column, options.label_column)
    return [column for column in frame.columns if column not in reserved]


def _marked_cells(column: Any) -> list[str]:
    """Return the distinct cells that are written with a mark that may be one of numbers; none of a column of dates."""
    cells = [cell.strip() for cell in map(str, column.dropna().unique())]
    marked = [cell for cell in cells if _LOOKS_NUMERIC.fullmatch(cell) and not cell.lstrip("+-").isdigit()]
    return [] if marked and all(map(_LOOKS_LIKE_DATE.fullmatch, cells)) else marked


def with_numbers_of_text(
    frame: Any, raw: Any, delimiter: str, options: ReadingOptions, lines: np.ndarray, place: str
) -> Any:
    """Return the table with the numbers that its text writes in the one form that fits all of them.

    Args:
        frame: The table with decimal points read.
        raw: The same with all cells as text.
        delimiter: Between the cells; with a semicolon, a point may stand between thousands.
        options: Decimal and thousands, where they were said.
        lines: (row,) line numbers, for messages.
        place: The file, for messages.

    Raises:
        CorpusError: Numbers can be read in two ways, or two columns in different ones only.
    """
    marked = {column: _marked_cells(raw[column]) for column in _value_columns(raw, options)}
    form = _find_number_form({name: cells for name, cells in marked.items() if cells}, delimiter, options, place)
    if form == (".", None):
        return frame
    pattern = re.compile(_pattern(form))
    changed = {}
    for column, cells in marked.items():
        fits = [bool(pattern.fullmatch(cell)) for cell in cells]
        is_number = not _is_text(frame[column])  # with a decimal point, which another form forbids
        if not cells or (not any(fits) and not is_number):
            continue
        if not all(fits):
            wrong = cells[fits.index(False)]
            row = int(np.flatnonzero((raw[column].str.strip() == wrong).to_numpy(dtype=bool))[0])
            raise CorpusError(
                f"{place}, line {lines[row]}, column {column!r}: {wrong!r} is not a number with decimal={form[0]!r}"
                f"{'' if form[1] is None else f' and thousands={form[1]!r}'}, as the others are."
            )
        changed[column] = _converted(raw[column], form)
    return frame.assign(**changed)


def _converted(column: Any, form: tuple[str, str | None]) -> Any:
    """Return numbers, and cells that are none as they are: whoever needs numbers names them."""
    import pandas as pd

    decimal, thousands = form
    text = column.str.strip()
    fits = text.str.fullmatch(_pattern(form)).eq(True)
    if thousands is not None:
        text = text.str.replace(thousands, "", regex=False)
    if decimal != ".":
        text = text.str.replace(decimal, ".", regex=False)
    numbers = pd.to_numeric(text, errors="coerce").where(fits)
    wrong = numbers.isna() & column.notna()
    return numbers.astype(object).where(~wrong, column) if wrong.any() else numbers


def _pattern(form: tuple[str, str | None]) -> str:
    decimal, thousands = re.escape(form[0]), form[1]
    whole = r"\d+" if thousands is None else rf"(?:[1-9]\d{{0,2}}(?:{re.escape(thousands)}\d{{3}})+|\d+)"
    return rf"[+-]?(?:{whole}(?:{decimal}\d*)?|{decimal}\d+){_EXPONENT}"


def _value(cell: str, form: tuple[str, str | None]) -> float:
    plain = cell if form[1] is None else cell.replace(form[1], "")
    return float(plain.replace(form[0], "."))


def _find_number_form(
    marked: dict[str, list[str]], delimiter: str, options: ReadingOptions, place: str
) -> tuple[str, str | None]:
    """Return (decimal, thousands) of the marked cells of all columns."""
    if options.decimal is not None and options.thousands is not None:
        return options.decimal, options.thousands
    forms = [form for form in NUMBER_FORMS if options.decimal in (None, form[0])]
    if options.thousands is not None:
        decimals = [options.decimal or "."] if options.thousands != "." else [","]
        return decimals[0], options.thousands
    fitting = {
        name: [form for form in forms if all(re.fullmatch(_pattern(form), cell) for cell in cells)]
        for name, cells in marked.items()
    }
    # A column that no form fits is no column of numbers, or has a wrong cell that its reader names.
    fitting = {name: fits for name, fits in fitting.items() if fits}
    shared = [form for form in forms if all(form in fits for fits in fitting.values())]
    if not fitting:
        return options.decimal or ".", None
    if not shared:
        (first, one), *others = fitting.items()
        second, _ = next((item for item in others if not set(item[1]) & set(one)), others[-1])
        raise CorpusError(
            f"{place}: column {first!r} has numbers such as {marked[first][0]!r}, column {second!r} such as "
            f"{marked[second][0]!r}: no decimal mark fits both. Say decimal and thousands (--decimal, --thousands)."
        )
    if shared[0] == (".", None) and delimiter != ";":
        return shared[0]
    cells = [cell for name in fitting for cell in marked[name]]
    for form in shared[1:]:
        cell = next((cell for cell in cells if _value(cell, form) != _value(cell, shared[0])), None)
        if cell is not None:
            raise CorpusError(
                f"{place}: numbers such as {cell!r} can be {_value(cell, shared[0]):g} or {_value(cell, form):g}. Say "
                "decimal='.' or decimal=',' (--decimal), or what stands between thousands (--thousands)."
            )
    return shared[0]
