"""Timestamps: parsing, order, frequency and TS2Vec's seven time features."""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np

from .corpus import CorpusError

logger = logging.getLogger(__name__)

TIME_FEATURE_NAMES = ("minute", "hour", "weekday", "day", "day_of_year", "month", "iso_week")
# Numbers at least this large are seconds, milliseconds, microseconds or nanoseconds since 1970 (from March 1973 on).
EPOCH_UNITS = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))


def time_features(timestamps: np.ndarray) -> np.ndarray:
    """Return TS2Vec's seven calendar features, not scaled.

    Args:
        timestamps: (time,) anything `pandas.DatetimeIndex` reads, such as `datetime64[ms]`.

    Returns:
        (time, 7) float64: minute, hour, weekday (Monday = 0), day of the month, day of the year, month, ISO week.

    Source: Yue et al., "TS2Vec: Towards Universal Representation of Time Series", AAAI 2022, forecasting protocol.
    """
    import pandas as pd

    index = pd.DatetimeIndex(timestamps)
    if index.hasnans:
        raise CorpusError("Time features need a timestamp at every step, but some are missing.")
    columns = (index.minute, index.hour, index.dayofweek, index.day, index.dayofyear, index.month)
    week = index.isocalendar().week
    return np.stack([np.asarray(column, dtype=np.float64) for column in (*columns, week)], axis=1)


def parse_timestamps(column: Any, *, name: str, place: str, first_line: int = 2) -> np.ndarray | None:
    """Read a column of dates, or of seconds to nanoseconds since 1970.

    Args:
        column: pandas Series.
        name: Its name, for messages.
        place: The file, for messages.
        first_line: The line number of the first row, for messages.

    Returns:
        (time,) `datetime64[ms]`, or None where the numbers are plain step counts.

    Raises:
        CorpusError: A cell that is no date, naming its line.
    """
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        largest = float(np.nanmax(np.abs(column.to_numpy(dtype=np.float64)))) if len(column) else 0.0
        unit = next((unit for bound, unit in EPOCH_UNITS if largest >= bound), None)
        if unit is None:
            return None
        parsed = pd.to_datetime(column, unit=unit, errors="coerce")
    else:
        parsed = pd.to_datetime(column, errors="coerce", utc=_has_time_zone(column))
        if parsed.isna().any():  # several spellings in one column: slow, but right
            parsed = pd.to_datetime(column, errors="coerce", format="mixed", utc=_has_time_zone(column))
    if getattr(parsed.dt, "tz", None) is not None:
        parsed = parsed.dt.tz_convert("UTC").dt.tz_localize(None)
    bad = np.flatnonzero(parsed.isna().to_numpy())
    if bad.size:
        row = int(bad[0])
        raise CorpusError(
            f"{place}, line {row + first_line}, column {name!r}: {column.iloc[row]!r} is not a date. "
            "Write dates as 2016-07-01 00:00:00, or name the right column with timestamp_column."
        )
    return parsed.to_numpy().astype("datetime64[ms]")


def _has_time_zone(column: Any) -> bool:
    if getattr(column.dtype, "tz", None) is not None:
        return True
    first = str(column.iloc[0]) if len(column) else ""
    return re.search(r"(Z|[+-]\d\d:?\d\d)$", first[10:]) is not None


def check_order(timestamps: np.ndarray, lines: np.ndarray, *, place: str, column: str, keep: bool) -> str | None:
    """Refuse duplicate or unsorted timestamps, or keep them with a warning.

    Args:
        timestamps: (time,) `datetime64[ms]`, or plain step numbers.
        lines: (time,) line numbers, for messages.
        place: The file or item, for messages.
        column: The name of the column, for messages.
        keep: True for corpora whose published use keeps the rows as they are.

    Returns:
        A note about what was kept, or None.

    Raises:
        CorpusError: Duplicate or unsorted timestamps while `keep` is False.
    """
    not_later = np.flatnonzero(timestamps[1:] <= timestamps[:-1]) + 1
    if not not_later.size:
        return None
    row = int(not_later[0])
    duplicate = timestamps[row] == timestamps[row - 1]
    what = "the same timestamp as the line before" if duplicate else "earlier than the line before"
    message = f"{place}, line {int(lines[row])}, column {column!r}: {timestamps[row]} is {what}"
    if not keep:
        raise CorpusError(
            f"{message} ({not_later.size} such rows). Sort the rows by time and keep one row a timestamp; "
            "where the file holds several series, name the column that tells them apart with item_column."
        )
    note = f"{message}; {not_later.size} such rows are kept in file order, as in the literature."
    logger.warning("%s The date is used as an index only.", note)
    return note


def infer_frequency(timestamps: np.ndarray) -> str:
    """Return the pandas frequency string of the steps, empty for fewer than two.

    A regular calendar frequency (days, months, business days) is found first; otherwise the most common distance
    between neighbours counts, so that gaps and a duplicate do not hide it.
    """
    import pandas as pd

    if len(timestamps) < 2:
        return ""
    if len(timestamps) >= 3:
        try:
            inferred = pd.infer_freq(pd.DatetimeIndex(timestamps))
        except ValueError:
            inferred = None
        if inferred is not None:
            return str(inferred)
    distances, counts = np.unique(np.diff(timestamps), return_counts=True)
    distances, counts = distances[distances > np.timedelta64(0, "ms")], counts[distances > np.timedelta64(0, "ms")]
    if not distances.size:
        return ""
    return str(pd.tseries.frequencies.to_offset(pd.Timedelta(distances[counts.argmax()])).freqstr)


def steps_per_day(timestamps: np.ndarray) -> float:
    """Return how many steps the most common distance between neighbours puts into a day."""
    distances, counts = np.unique(np.diff(timestamps), return_counts=True)
    return float(np.timedelta64(1, "D") / distances[counts.argmax()])
