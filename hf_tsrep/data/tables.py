"""Readers of tables: wide (one row a step) and long (one row an item and step) files and data frames."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import near_matches, one_line
from .checks import LARGEST
from .columns import STRICT_DATE_NAMES, choose_columns
from .corpus import CorpusError, RawCorpus, SeriesRecord, label_order
from .dates import localise, parse_dates, shown
from .options import ReadingOptions
from .table_forms import column_names, holds_names, read_text_table
from .text_files import check_size, format_stem, format_suffix, read_text
from .timestamps import check_order, infer_frequency

logger = logging.getLogger(__name__)

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".xlsx", ".feather", ".orc")

# (item, row numbers in file order)
Items = list[tuple[str, np.ndarray]]


def read_table(path: Path, options: ReadingOptions) -> RawCorpus:
    """Read a file that is a table.

    Args:
        path: Text (`,`, `;`, `|`, tab or blanks between cells; decimal point or comma; UTF-8, UTF-16 or Latin-1), an
            Excel workbook, Feather or ORC.
        options: See `ReadingOptions`; what they do not say is found in the file where it can be told.

    Returns:
        One split, `train`.

    Raises:
        CorpusError: See `corpus_from_frame` and `table_forms.read_text_table`.
        ImportError: A library that a format needs is not installed.
    """
    suffix = format_suffix(path)
    lines = None
    if suffix in TEXT_SUFFIXES:
        table = read_text_table(read_text(path, options.encoding), str(path), options)
        frame, lines = table.frame, table.lines
    elif suffix == ".xlsx":
        frame, lines = _read_workbook(path, options)
    else:
        frame = _read_arrow(path, suffix)
    return corpus_from_frame(frame, options, place=str(path), item_id=format_stem(path), lines=lines)


def _read_arrow(path: Path, suffix: str) -> Any:
    import pandas as pd

    try:
        return (pd.read_feather if suffix == ".feather" else pd.read_orc)(path)
    except Exception as error:  # Arrow raises many kinds for a damaged file
        raise CorpusError(f"{path}: cannot be read as a {suffix} file ({one_line(error)}). Write it again.") from error


def _read_workbook(path: Path, options: ReadingOptions) -> tuple[Any, np.ndarray]:
    """Return the table of a sheet of an Excel workbook, and the sheet's row of each of its rows."""
    import pandas as pd

    try:
        import openpyxl  # noqa: F401 - pandas imports it where it reads a workbook
    except ImportError as error:
        raise ImportError(f'{path}: Excel workbooks need openpyxl; pip install "hf-tsrep[excel]"') from error
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(sum(member.file_size for member in archive.infolist()), str(path))
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, engine="openpyxl")
    except CorpusError:
        raise
    except (
        Exception
    ) as error:  # a damaged workbook makes zipfile, the parser of XML and openpyxl raise nearly anything
        raise CorpusError(
            f"{path}: cannot be read as an Excel workbook ({type(error).__name__}: {one_line(error)})."
        ) from error
    filled = [name for name, sheet in sheets.items() if len(sheet)]
    if options.sheet is not None and options.sheet not in sheets:
        raise CorpusError(
            f"{path}: there is no sheet {options.sheet!r}.{near_matches(options.sheet, sheets, cutoff=0.5)}"
        )
    if options.sheet is None and len(filled) != 1:
        raise CorpusError(f"{path}: {len(filled)} sheets have cells ({', '.join(filled[:10])}); name one with sheet.")
    cells = sheets[options.sheet or filled[0]].iloc[options.skip_rows :]
    cells = cells[cells.notna().any(axis=1).to_numpy(dtype=bool)]
    if not len(cells):
        raise CorpusError(f"{path}: the sheet is empty.")
    text = [["" if pd.isna(cell) else str(cell) for cell in row] for row in cells.head(200).to_numpy()]
    first = int(cells.index[0]) + 1
    has_names = holds_names(text[0], text[1:], options.header, f"{path}, line {first}")
    frame = cells.iloc[1:] if has_names else cells
    lines = frame.index.to_numpy() + 1
    frame = frame.reset_index(drop=True).infer_objects()
    frame.columns = column_names(text[0], has_names, str(path))
    return frame, lines


def corpus_from_frame(
    frame: Any, options: ReadingOptions, *, place: str, item_id: str, lines: np.ndarray | None = None
) -> RawCorpus:
    """Turn a pandas or polars data frame into a corpus.

    Args:
        frame: The table; an index of dates counts as its date column, an index of items and times as both columns.
        options: See `ReadingOptions`.
        place: The file, for messages.
        item_id: Name of the series where there is no item column.
        lines: (row,) line numbers, for messages; as in a CSV file where None, the header being line 1.

    Returns:
        One split, `train`. With a label column: `anomaly` for 0/1 a step, `classification` for one class an item.

    Raises:
        CorpusError: Unknown column, no rows, text in numbers, bad, duplicate or unsorted timestamps, missing label.
    """
    frame, options = _as_pandas(frame, options)
    named = (options.item_column, options.timestamp_column, options.label_column, *(options.value_columns or ()))
    for column in named:
        if column is not None:
            require_column(column, list(frame.columns), place)
    if not frame.columns.is_unique:
        raise CorpusError(
            f"{place}: column {frame.columns[frame.columns.duplicated()][0]!r} appears twice; rename one."
        )
    if len(frame) == 0:
        raise CorpusError(f"{place}: no rows below the column names.")
    lines = np.arange(len(frame)) + 2 if lines is None else lines
    frame, time_column, channels = choose_columns(frame, options, place, lines)
    columns = [_numeric_column(frame[name], name, place, lines, options.check_values) for name in channels]
    values = np.stack(columns, axis=1)
    if options.missing_mark is not None:
        values[values == options.missing_mark] = np.nan
    items = _items(frame, options, place, item_id, lines)
    freq = options.frequency or ""
    records = [
        SeriesRecord(values[rows], name, freq=freq, origin=_item_place(place, name, options)) for name, rows in items
    ]
    if time_column is not None:
        records = _with_time(records, frame[time_column], items, options, place, lines)
    corpus = RawCorpus({"train": records}, tuple(channels))
    if options.label_column is not None:
        corpus = _with_labels(corpus, frame[options.label_column], items, options, place, lines)
    return _columns_as_series(corpus) if options.one_series_per_column else corpus


def _item_place(place: str, name: str, options: ReadingOptions) -> str:
    return place if options.item_column is None else f"{place}, item {name!r}"


def _with_time(
    records: list[SeriesRecord], column: Any, items: Items, options: ReadingOptions, place: str, lines: np.ndarray
) -> list[SeriesRecord]:
    """Add timestamps and frequency, after a look at their order; plain step numbers are only looked at."""
    name = str(column.name)
    dates = parse_dates(column, name=name, place=place, lines=lines, options=options)
    order = np.empty(0) if dates is None else dates[0]
    if dates is None:
        order = _step_numbers(column, name, place, lines)
    timed = []
    for record, (_, rows) in zip(records, items, strict=True):
        steps = order[rows]
        if dates is not None and options.time_zone is not None and not dates[1]:
            steps = localise(steps, options.time_zone, record.origin, name)
        check_order(steps, lines[rows], place=record.origin, column=name, keep=options.keep_duplicates)
        freq = options.frequency or ("" if dates is None else infer_frequency(steps))
        timed.append(replace(record, timestamps=None if dates is None else steps, freq=freq))
    return timed


def _step_numbers(column: Any, name: str, place: str, lines: np.ndarray) -> np.ndarray:
    """Return the numbers of steps; refuse what is no such number in a column that is called like one of dates."""
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isfinite(numbers)
    if name.strip().lower() in STRICT_DATE_NAMES:
        wrong |= (numbers != np.floor(numbers)) | (np.abs(numbers) >= 1e4)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise CorpusError(
            f"{place}, line {lines[row]}, column {name!r}: {shown(column, row)} is neither a date nor the number of a "
            "step. Say the form with date_format (--date-format), or name the right column with timestamp_column."
        )
    return numbers if (np.abs(numbers) >= 2**53).any() or (numbers != np.floor(numbers)).any() else numbers.astype(int)


def _as_pandas(frame: Any, options: ReadingOptions) -> tuple[Any, ReadingOptions]:
    """Return a pandas frame with names of text and what its index says as columns."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):  # polars
        frame = pd.DataFrame({str(column): frame[column].to_numpy() for column in frame.columns})
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        return _with_index_columns(frame, options)
    if isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)):
        frame = frame.rename_axis(index.name or "date").reset_index()
    return frame.rename(columns=str), options


def _with_index_columns(frame: Any, options: ReadingOptions) -> tuple[Any, ReadingOptions]:
    """Return the frame with the levels of its index as columns: the level of dates, else the last, is the time."""
    import pandas as pd

    index = frame.index
    dates = [level for level in range(index.nlevels) if pd.api.types.is_datetime64_any_dtype(index.levels[level])]
    time = dates[0] if len(dates) == 1 else index.nlevels - 1
    levels = [level for level in range(index.nlevels) if level != time]
    time_name = str(index.names[time] or "time")
    items = index.get_level_values(levels[0]).astype(str)
    for level in levels[1:]:
        items = items + "/" + index.get_level_values(level).astype(str)
    item_name = str(index.names[levels[0]] or "item") if len(levels) == 1 else "item"
    flat = frame.reset_index(drop=True).rename(columns=str)
    if {item_name, time_name} & set(flat.columns):
        raise CorpusError(f"data frame: {item_name!r} or {time_name!r} is both a level of the index and a column.")
    flat.insert(0, time_name, index.get_level_values(time))
    flat.insert(0, item_name, items)
    item_column, timestamp_column = options.item_column or item_name, options.timestamp_column or time_name
    return flat, replace(options, item_column=item_column, timestamp_column=timestamp_column)


def require_column(column: str, columns: Sequence[str], place: str) -> None:
    """Refuse an unknown column.

    Raises:
        CorpusError: With the columns that are there and the near matches.
    """
    if column not in columns:
        shown = ", ".join(repr(name) for name in list(columns)[:20])
        raise CorpusError(
            f"{place}: unknown column {column!r}.{near_matches(column, columns, cutoff=0.5)} Columns: {shown}."
        )


def _numeric_column(column: Any, name: str, place: str, lines: np.ndarray, check_values: bool = True) -> np.ndarray:
    import pandas as pd

    kind = getattr(column.dtype, "kind", "O")
    if kind in "Mmc":
        raise CorpusError(
            f"{place}, column {name!r}: values of type {column.dtype} are no numbers; drop or convert it."
        )
    numbers = pd.to_numeric(column, errors="coerce")
    text = np.flatnonzero((numbers.isna() & column.notna()).to_numpy())
    if text.size:
        row = int(text[0])
        raise CorpusError(
            f"{place}, line {lines[row]}, column {name!r}: {shown(column, row)} is not a number. Leave missing values "
            "empty; choose the numeric columns with value_columns, or name item_column, timestamp_column and "
            "label_column."
        )
    values = np.array(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    too_large = np.flatnonzero(np.abs(values) > LARGEST)
    if check_values and too_large.size:
        row = int(too_large[0])
        what = (
            "infinite value. Leave missing values empty."
            if np.isinf(values[row])
            else f"{values[row]:g} is beyond float32, which ends at {LARGEST:g}. Divide the column by a constant."
        )
        raise CorpusError(f"{place}, line {lines[row]}, column {name!r}: {what}")
    return values


def _items(frame: Any, options: ReadingOptions, place: str, item_id: str, lines: np.ndarray) -> Items:
    """Return (item, row numbers in file order), items in order of appearance."""
    import pandas as pd

    if options.item_column is None:
        return [(item_id, np.arange(len(frame)))]
    codes, names = pd.factorize(frame[options.item_column])
    if (codes < 0).any():
        line = lines[int(np.flatnonzero(codes < 0)[0])]
        raise CorpusError(f"{place}, line {line}, column {options.item_column!r}: the item is missing.")
    order = np.argsort(codes, kind="stable")
    borders = np.flatnonzero(np.diff(codes[order])) + 1
    return [(str(name), rows) for name, rows in zip(names, np.split(order, borders), strict=True)]


def _with_labels(
    corpus: RawCorpus, column: Any, items: Items, options: ReadingOptions, place: str, lines: np.ndarray
) -> RawCorpus:
    """Add the label column: one class an item in the long form, else 0 or 1 a step."""
    if column.isna().any():
        line = lines[int(np.flatnonzero(column.isna().to_numpy())[0])]
        raise CorpusError(f"{place}, line {line}, column {options.label_column!r}: the label is missing.")
    labels = column.to_numpy()
    records = corpus.splits["train"]
    constant = all((labels[rows] == labels[rows[0]]).all() for _, rows in items)
    if options.item_column is not None and constant:
        whole = [labels[rows[0]] for _, rows in items]
        names = [str(int(label)) if isinstance(label, float) and label.is_integer() else str(label) for label in whole]
        labelled = [replace(record, label=name) for record, name in zip(records, names, strict=True)]
        return replace(
            corpus,
            splits={"train": labelled},
            label_names=tuple(sorted(set(names), key=label_order)),
            task="classification",
        )
    wrong = np.flatnonzero(~np.isin(labels, [0, 1]))
    if wrong.size:
        row = int(wrong[0])
        raise CorpusError(
            f"{place}, line {lines[row]}, column {options.label_column!r}: {labels[row]} is neither 0 nor 1. A "
            "label is one class for all rows of an item (name item_column), or 0 and 1 at every step (anomalies)."
        )
    steps = labels.astype(np.int8)
    labelled = [replace(record, anomaly_label=steps[rows]) for record, (_, rows) in zip(records, items, strict=True)]
    return replace(corpus, splits={"train": labelled}, task="anomaly")


def _columns_as_series(corpus: RawCorpus) -> RawCorpus:
    records = [
        replace(
            record, values=record.values[:, [index]], item_id=channel, origin=f"{record.origin}, column {channel!r}"
        )
        for record in corpus.splits["train"]
        for index, channel in enumerate(corpus.channel_names)
    ]
    return replace(corpus, splits={"train": records}, channel_names=("value",))
