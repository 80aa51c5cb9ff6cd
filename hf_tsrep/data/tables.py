"""Readers of tables: wide (one row a step) and long (one row an item and step) CSV files and data frames."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import near_matches
from .corpus import CorpusError, RawCorpus, SeriesRecord, label_order
from .timestamps import check_order, infer_frequency, parse_timestamps

DATE_COLUMN_NAMES = frozenset(
    {"date", "datetime", "date_time", "timestamp", "timestamps", "time", "ds", "unnamed: 0", ""}
)

# (item, row numbers in file order)
Items = list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    Attributes:
        item_column: The column that tells series apart (long form); None means one series.
        timestamp_column: The column of dates; found by itself where None.
        label_column: Class of an item, or 0/1 a step (anomaly).
        value_columns: The channels; every other column where None.
        frequency: pandas frequency string; inferred where None.
        missing_mark: A number that stands for a missing value, such as -9999.
        keep_duplicates: Keep duplicate or unsorted timestamps as rows in file order (published corpora only).
        one_series_per_column: Every value column becomes its own series with one channel (TS2Vec's Electricity).
    """

    item_column: str | None = None
    timestamp_column: str | None = None
    label_column: str | None = None
    value_columns: Sequence[str] | None = None
    frequency: str | None = None
    missing_mark: float | None = None
    keep_duplicates: bool = False
    one_series_per_column: bool = False


def read_csv(path: Path, options: TableOptions) -> RawCorpus:
    """Read a CSV file: `,`, `;` or tab between cells, decimal point or (with `;`) comma, UTF-8 or Latin-1.

    Args:
        path: The file, with a line of column names.
        options: See `TableOptions`.

    Returns:
        One split, `train`.

    Raises:
        CorpusError: See `corpus_from_frame`; or an empty file, or a row with too few or too many cells.
    """
    import pandas as pd

    text = _decode(path)
    first_line, _, rest = text.partition("\n")
    if not first_line.strip():
        raise CorpusError(f"{path}: the file is empty, or its first line is. It needs a line of column names.")
    separator = max(",;\t", key=first_line.count)
    _check_cells(text, separator, path)
    decimal = "," if separator == ";" and re.search(r"\d,\d", rest[:10_000]) else "."
    try:
        frame = pd.read_csv(io.StringIO(text), sep=separator, decimal=decimal, na_values=["?"], low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CorpusError(f"{path}: cannot be read as a table: {error}") from error
    return corpus_from_frame(frame, options, place=str(path), item_id=path.stem)


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _check_cells(text: str, separator: str, path: Path) -> None:
    """Refuse short and long rows, which a reader of tables would fill up silently."""
    lines = text.splitlines()
    if '"' in text:
        reader = csv.reader(lines, delimiter=separator)
        counts = ((reader.line_num, len(cells)) for cells in reader if cells)
    else:
        counts = ((number, line.count(separator) + 1) for number, line in enumerate(lines, start=1) if line.strip())
    _, expected = next(counts)
    for number, count in counts:
        if count != expected:
            raise CorpusError(
                f"{path}, line {number}: {count} cells where the header has {expected}"
                " columns. Leave a cell empty to mark a missing value."
            )


def corpus_from_frame(frame: Any, options: TableOptions, *, place: str, item_id: str) -> RawCorpus:
    """Turn a pandas or polars data frame into a corpus.

    Args:
        frame: The table; a pandas DatetimeIndex counts as its date column.
        options: See `TableOptions`.
        place: The file, for messages; lines are counted as in a CSV file, the header being line 1.
        item_id: Name of the series where there is no item column.

    Returns:
        One split, `train`. With a label column: `anomaly` for 0/1 a step, `classification` for one class an item.

    Raises:
        CorpusError: Unknown column, no rows, text in numbers, bad, duplicate or unsorted timestamps, missing label.
    """
    frame = _as_pandas(frame)
    for column in (
        options.item_column,
        options.timestamp_column,
        options.label_column,
        *(options.value_columns or ()),
    ):
        if column is not None:
            require_column(column, list(frame.columns), place)
    if not frame.columns.is_unique:
        raise CorpusError(
            f"{place}: column {frame.columns[frame.columns.duplicated()][0]!r} appears twice; rename one."
        )
    if len(frame) == 0:
        raise CorpusError(f"{place}: no rows below the column names.")
    time_column = options.timestamp_column or find_date_column(frame, options)
    reserved = {options.item_column, time_column, options.label_column}
    channels = tuple(options.value_columns or (column for column in frame.columns if column not in reserved))
    if not channels:
        raise CorpusError(f"{place}: no value columns beside {sorted(column for column in reserved if column)}.")
    values = np.stack([_numeric_column(frame[channel], channel, place) for channel in channels], axis=1)
    if options.missing_mark is not None:
        values[values == options.missing_mark] = np.nan
    items = _items(frame, options, place, item_id)
    freq = options.frequency or ""
    records = [
        SeriesRecord(values[rows], name, freq=freq, origin=_item_place(place, name, options)) for name, rows in items
    ]
    if time_column is not None:
        records = _with_time(records, frame[time_column], items, options, place)
    corpus = RawCorpus({"train": records}, channels)
    if options.label_column is not None:
        corpus = _with_labels(corpus, frame[options.label_column], items, options, place)
    return _columns_as_series(corpus) if options.one_series_per_column else corpus


def _item_place(place: str, name: str, options: TableOptions) -> str:
    return place if options.item_column is None else f"{place}, item {name!r}"


def _with_time(
    records: list[SeriesRecord], column: Any, items: Items, options: TableOptions, place: str
) -> list[SeriesRecord]:
    """Add timestamps and frequency, after a look at their order; plain step numbers are only looked at."""
    name = str(column.name)
    timestamps = parse_timestamps(column, name=name, place=place)
    order = timestamps if timestamps is not None else column.to_numpy()
    timed = []
    for record, (_, rows) in zip(records, items, strict=True):
        check_order(order[rows], rows + 2, place=record.origin, column=name, keep=options.keep_duplicates)
        steps = None if timestamps is None else timestamps[rows]
        freq = options.frequency or ("" if steps is None else infer_frequency(steps))
        timed.append(replace(record, timestamps=steps, freq=freq))
    return timed


def _as_pandas(frame: Any) -> Any:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):  # polars
        return pd.DataFrame({str(column): frame[column].to_numpy() for column in frame.columns})
    if isinstance(frame.index, pd.DatetimeIndex):
        frame = frame.rename_axis(frame.index.name or "date").reset_index()
    return frame.rename(columns=str)


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


def find_date_column(frame: Any, options: TableOptions) -> str | None:
    """Return the date column: by type, by name, or the first column where it reads as dates; else None."""
    import pandas as pd

    candidates = [column for column in frame.columns if column not in (options.item_column, options.label_column)]
    candidates = [column for column in candidates if column not in (options.value_columns or ())]
    for column in candidates:
        if pd.api.types.is_datetime64_any_dtype(frame[column]):
            return str(column)
    for column in candidates:
        if column.strip().lower() in DATE_COLUMN_NAMES:
            return str(column)
    if candidates and not pd.api.types.is_numeric_dtype(frame[candidates[0]]):
        first_cells = frame[candidates[0]].head(5)
        if pd.to_datetime(first_cells, errors="coerce", format="mixed").notna().all():
            return str(candidates[0])
    return None


def _numeric_column(column: Any, name: str, place: str) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    text = np.flatnonzero((numbers.isna() & column.notna()).to_numpy())
    if text.size:
        row = int(text[0])
        raise CorpusError(
            f"{place}, line {row + 2}, column {name!r}: {column.iloc[row]!r} is not a number. Leave missing"
            " values empty; choose the numeric columns with value_columns, or name item_column, timestamp_column and"
            " label_column."
        )
    values = np.array(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    infinite = np.flatnonzero(np.isinf(values))
    if infinite.size:
        raise CorpusError(
            f"{place}, line {int(infinite[0]) + 2}, column {name!r}: infinite value. Leave missing values empty."
        )
    return values


def _items(frame: Any, options: TableOptions, place: str, item_id: str) -> Items:
    """Return (item, row numbers in file order), items in order of appearance."""
    import pandas as pd

    if options.item_column is None:
        return [(item_id, np.arange(len(frame)))]
    codes, names = pd.factorize(frame[options.item_column])
    if (codes < 0).any():
        line = int(np.flatnonzero(codes < 0)[0]) + 2
        raise CorpusError(f"{place}, line {line}, column {options.item_column!r}: the item is missing.")
    order = np.argsort(codes, kind="stable")
    borders = np.flatnonzero(np.diff(codes[order])) + 1
    return [(str(name), rows) for name, rows in zip(names, np.split(order, borders), strict=True)]


def _with_labels(corpus: RawCorpus, column: Any, items: Items, options: TableOptions, place: str) -> RawCorpus:
    """Add the label column: one class an item in the long form, else 0 or 1 a step."""
    if column.isna().any():
        line = int(np.flatnonzero(column.isna().to_numpy())[0]) + 2
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
            f"{place}, line {row + 2}, column {options.label_column!r}: {labels[row]} is neither 0 nor 1. A label is"
            " either one class for all rows of an item (name item_column), or 0 and 1 at every step (anomalies)."
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
