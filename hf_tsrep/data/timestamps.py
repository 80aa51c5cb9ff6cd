"""Timestamps: order, frequency and TS2Vec's seven time features."""

from __future__ import annotations

import logging

import numpy as np

from .corpus import CorpusError

logger = logging.getLogger(__name__)

TIME_FEATURE_NAMES = ("minute", "hour", "weekday", "day", "day_of_year", "month", "iso_week")


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
            "where the file holds several series, name the column that tells them apart with item_column; where these "
            "are local times that repeat an hour in autumn, name their time_zone (--time-zone)."
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
