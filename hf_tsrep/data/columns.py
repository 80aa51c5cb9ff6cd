"""Which column of a table is which: the dates, what only counts rows or repeats the dates, and the channels."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from .corpus import CorpusError
from .dates import parse_dates
from .options import ReadingOptions
from .table_forms import cell_kind

logger = logging.getLogger(__name__)

DATE_NAMES = frozenset({"date", "datetime", "date_time", "date time", "timestamp", "timestamps", "time", "ds"})
# Of these, numbers that are no dates are refused, not taken for the numbers of steps.
STRICT_DATE_NAMES = frozenset({"date", "datetime", "date_time", "date time", "ds"})
COUNTER_NAMES = frozenset({"index", "level_0", "row", "row_id", "row_number", "no", "no.", "nr", "#", "id"})
CALENDAR_NAMES = ("year", "month", "day", "hour", "minute", "second")


def choose_columns(
    frame: Any, options: ReadingOptions, place: str, lines: np.ndarray
) -> tuple[Any, str | None, list[str]]:
    """Return the table, the name of its column of dates or of step numbers, and the names of its channels.

    Channels are the columns that were asked for; else all but those of items, dates and labels, a column that counts
    the rows, the year, and what repeats the dates (month, day, hour, ... of the date). A year, with month, day and so
    on beside it, is the date where there is no other.

    Args:
        frame: pandas frame with names of text.
        options: Says which columns are which.
        place: The file, for messages.
        lines: (row,) line numbers, for messages.

    Raises:
        CorpusError: A column without a name that is no counter and no date, or no channels.
    """
    reserved = {options.item_column, options.label_column, *(options.value_columns or ())}
    free = [column for column in frame.columns if column not in reserved]
    time_column = options.timestamp_column or find_date_column(frame, free)
    assembled = False
    if time_column is None:
        frame, time_column, assembled = _assembled(frame, free)
    elif time_column not in frame.columns:
        raise CorpusError(f"{place}: unknown column {time_column!r}.")
    if options.value_columns:
        return frame, time_column, list(options.value_columns)
    channels = [column for column in free if column != time_column]
    channels = [column for column in channels if not _is_empty_without_name(frame, column)]
    left_out = {column: "counts the rows" for column in channels if _counts_rows(frame, column, options, place)}
    calendar = {column.strip().lower(): column for column in channels if column.strip().lower() in CALENDAR_NAMES}
    if assembled:
        left_out |= dict.fromkeys(_parts_of_date(frame, calendar).values(), "is part of the date")
    else:
        left_out |= _repeats_dates(frame, calendar, time_column, options, place, lines)
    for column, why in left_out.items():
        logger.info("%s: column %r %s and is no channel; value_columns takes it in.", place, column, why)
    channels = [column for column in channels if column not in left_out]
    if not channels:
        others = sorted(column for column in {*reserved, time_column, *left_out} if column)
        raise CorpusError(f"{place}: no value columns beside {others}.")
    return frame, time_column, channels


def find_date_column(frame: Any, candidates: list[str]) -> str | None:
    """Return the date column: by type, by name, or the first column where it reads as dates; else None."""
    import pandas as pd

    by_type = [
        column
        for column in candidates
        if pd.api.types.is_datetime64_any_dtype(frame[column]) or isinstance(frame[column].dtype, pd.PeriodDtype)
    ]
    by_name = [column for column in candidates if column.strip().lower() in DATE_NAMES]
    both = [column for column in by_name if column in by_type]
    for column in (*both, *by_type, *by_name):
        return column
    if candidates and not pd.api.types.is_numeric_dtype(frame[candidates[0]]):
        first_cells = frame[candidates[0]].dropna().head(5)
        if len(first_cells) and all(_reads_as_date(str(cell)) for cell in first_cells):
            return candidates[0]
    return None


def _reads_as_date(cell: str) -> bool:
    import pandas as pd

    if cell_kind(cell) == "date":
        return True
    return (
        cell_kind(cell) == "word" and any(map(str.isdigit, cell)) and pd.notna(pd.to_datetime(cell, errors="coerce"))
    )


def _is_empty_without_name(frame: Any, column: str) -> bool:
    """Whether a column is only the delimiter at the end of every line."""
    return _has_no_name(column) and bool(frame[column].isna().all())


def _has_no_name(column: str) -> bool:
    return not column.strip() or column.startswith("Unnamed: ")


def _counts_rows(frame: Any, column: str, options: ReadingOptions, place: str) -> bool:
    """Whether a column is an index that was written into the file: 0, 1, 2, ... of all rows or of each item's."""
    if not _has_no_name(column) and column.strip().lower() not in COUNTER_NAMES:
        return False
    numbers = _whole_numbers(frame[column])
    if numbers is not None:
        steps = np.diff(numbers)
        restarts = numbers[1:][steps != 1]
        if (restarts == numbers[0]).all() and (not restarts.size or options.item_column is not None):
            return True
        if _has_no_name(column) and len(np.unique(numbers)) == len(numbers) and (numbers >= 0).all():
            return True  # of rows that were chosen or sorted
    if _has_no_name(column):
        raise CorpusError(
            f"{place}: a column has no name ({column!r}), and neither dates nor numbers of rows in it. Name it in the "
            "file, or choose the channels with value_columns."
        )
    return False


def _whole_numbers(column: Any) -> np.ndarray | None:
    import pandas as pd

    if not pd.api.types.is_integer_dtype(column) or column.isna().any():
        return None
    return column.to_numpy(dtype=np.int64) if str(column.dtype) != "uint64" else None


def _parts_of_date(frame: Any, calendar: dict[str, str]) -> dict[str, str]:
    """Return the columns that make a date together: the year and what follows it without a gap."""
    parts: dict[str, str] = {}
    for name in CALENDAR_NAMES:
        if name not in calendar or _whole_numbers(frame[calendar[name]]) is None:
            break
        parts[name] = calendar[name]
    return parts


def _assembled(frame: Any, free: list[str]) -> tuple[Any, str | None, bool]:
    """Return the table with a date column of its year, month, day, hour, ... where these are dates; else as it is."""
    import pandas as pd

    calendar = {column.strip().lower(): column for column in free if column.strip().lower() in CALENDAR_NAMES}
    parts = _parts_of_date(frame, calendar)
    if "year" not in parts or not frame[parts["year"]].between(1000, 2999).all():
        return frame, None, False
    numbers = {name: frame[column] for name, column in parts.items()}
    numbers.setdefault("month", 1 + 0 * numbers["year"])
    numbers.setdefault("day", 1 + 0 * numbers["year"])
    dates = pd.to_datetime(numbers, errors="coerce")
    name = next(name for name in ("date", "date of its parts", "_date") if name not in frame.columns)
    return (frame.assign(**{name: dates}), name, True) if dates.notna().all() else (frame, None, False)


def _repeats_dates(
    frame: Any,
    calendar: dict[str, str],
    time_column: str | None,
    options: ReadingOptions,
    place: str,
    lines: np.ndarray,
) -> dict[str, str]:
    """Return the columns that say the year, or what the dates say already, and why they are no channels."""
    if not calendar or time_column is None:
        return {}
    import pandas as pd

    found: dict[str, str] = {}
    dates = parse_dates(frame[time_column], name=time_column, place=place, lines=lines, options=options)
    index = None if dates is None else pd.DatetimeIndex(dates[0])
    for name, column in calendar.items():
        numbers = _whole_numbers(frame[column])
        if numbers is None:
            continue
        if index is not None and (numbers == getattr(index, name)).all():
            found[column] = "repeats the dates"
        elif name == "year" and ((numbers >= 1000) & (numbers < 3000)).all():
            found[column] = "is a year"
    return found
