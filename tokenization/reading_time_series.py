"""Any holder of series to checked arrays, and to padded batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

# Timestamps of a batch, padding included, and timestamps that are read before they are sorted by length.
STEPS_IN_BATCH = 65_536
STEPS_READ_AHEAD = 16 * STEPS_IN_BATCH


def series_column(corpus: Any) -> Any:
    """Return the column `series` of a dataset; anything else as it is.

    Raises:
        ValueError: It has several splits.
    """
    columns = getattr(corpus, "column_names", None)
    if isinstance(columns, dict):
        splits = ", ".join(map(repr, columns))
        raise ValueError(f"Choose a split of the corpus, such as corpus[{next(iter(columns))!r}]: {splits}.")
    return corpus["series"] if columns is not None and "series" in columns else corpus


def is_text(series: Any) -> bool:
    """Whether this is a string, or a list of strings.

    Raises:
        ValueError: Strings and series are mixed.
    """
    if isinstance(series, str):
        return True
    if isinstance(series, (np.ndarray, torch.Tensor, dict)) or is_frame(series) or not hasattr(series, "__len__"):
        return False
    if not len(series) or not isinstance(next(iter(series)), str):
        return False
    other = [index for index, one in enumerate(series) if not isinstance(one, (str, list, tuple))]
    if other:
        kind = type(series[other[0]]).__name__
        raise ValueError(f"Item 0 is a string and item {other[0]} a {kind}; give strings or series in one call.")
    return True


def is_frame(series: Any) -> bool:
    """Whether this is a table of pandas or polars."""
    return hasattr(series, "columns") and hasattr(series, "to_numpy")


def is_one_series(series: Any, num_channels: int) -> bool:
    """Whether this is one series, not a batch.

    A nested list of numbers, which is what a row of a dataset holds, is one series (time, channel); with one channel
    it is a batch of series (time,) unless every inner list has one number.

    Args:
        series: A holder of series.
        num_channels: Number of channels of a series.
    """
    if is_frame(series):
        return True
    if isinstance(series, (np.ndarray, torch.Tensor)):
        return series.ndim < 3 and getattr(series.dtype, "kind", "f") != "O"  # an array of arrays is a batch
    if not isinstance(series, (list, tuple)) or not len(series):
        return False
    if _is_number(series[0]):
        return True
    if not isinstance(series[0], (list, tuple)) or not all(map(_is_number, series[0])) or not len(series[0]):
        return False
    return num_channels > 1 or all(len(row) == 1 for row in series)


def read_series(series: Any, num_channels: int) -> Iterator[np.ndarray]:
    """Yield checked series, one by one.

    Args:
        series: One array, tensor or DataFrame (time, channel), an array (series, time, channel), or a list or datasets
            column of arrays (time, channel) of any lengths; (time,) will do for one channel. NaN or None = missing.
        num_channels: Number of channels of a series.

    Yields:
        (time, num_channels) float32, NaN = missing.

    Raises:
        ValueError: A series is empty, has another number of channels, or holds text or infinite values; or these are
            no series. The message names the series and what was expected.
    """
    if isinstance(series, dict) or hasattr(series, "column_names"):
        raise ValueError(f"Give series, not a {type(series).__name__}: its column, such as dataset['series'].")
    if is_one_series(series, num_channels):
        yield _one_series(series, num_channels, "the series")
        return
    if isinstance(series, torch.Tensor):
        series = _numbers(series, "the batch")
    if not hasattr(series, "__iter__"):
        raise ValueError(f"Give one series or a list of series, not a {type(series).__name__}.")
    for index, one in enumerate(series):
        yield _one_series(one, num_channels, f"series {index}")


def read_batches(
    series: Any, num_channels: int, shortest: int = 1, num_steps: int = STEPS_IN_BATCH
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield all series in batches of about num_steps timestamps; see read_series.

    Series of a list are read ahead and sorted by length, so that little is padding; an array (series, time, channel)
    is cut without looking at single series. However many there are, only what was read ahead is copied.

    Args:
        series: A holder of series.
        num_channels: Number of channels of a series.
        shortest: Batches are padded to at least this length.
        num_steps: Timestamps of a batch, padding included; a longer series is a batch of its own.

    Yields:
        The places (batch_size,) of the series, and (batch_size, longest, num_channels) float32, NaN behind the end.

    Raises:
        ValueError: See read_series.
    """
    if isinstance(series, (np.ndarray, torch.Tensor)) and series.ndim == 3:
        yield from _cut_array(series, num_channels, shortest, num_steps)
        return
    ahead: list[np.ndarray] = []
    num_done = num_read = 0
    for one in read_series(series, num_channels):
        ahead.append(one)
        num_read += len(one)
        if num_read >= STEPS_READ_AHEAD:
            yield from _sorted_batches(ahead, num_done, shortest, num_steps)
            num_done, num_read, ahead = num_done + len(ahead), 0, []
    yield from _sorted_batches(ahead, num_done, shortest, num_steps)


def _cut_array(
    series: np.ndarray | torch.Tensor, num_channels: int, shortest: int, num_steps: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    _check_shape(tuple(series.shape[1:]), num_channels, "every series of the batch")
    rows = max(1, num_steps // series.shape[1])
    for start in range(0, len(series), rows):
        # A copy of this part only: the array may be read-only, of another type or on another device.
        part = np.array(_numbers(series[start : start + rows], "the batch"), dtype=np.float32)
        places = np.arange(start, start + len(part))
        _check_finite(part, places)
        yield places, _padded(list(part), shortest) if shortest > part.shape[1] else torch.from_numpy(part)


def _sorted_batches(
    series: list[np.ndarray], first_place: int, shortest: int, num_steps: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    order = np.argsort([len(one) for one in series], kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or (stop + 1 - start) * len(series[order[stop]]) > num_steps:
            chosen = order[start:stop]
            yield chosen + first_place, _padded([series[index] for index in chosen], shortest)
            start = stop


def _padded(series: list[np.ndarray], shortest: int) -> torch.Tensor:
    longest = max(shortest, *(len(one) for one in series))
    batch = np.full((len(series), longest, series[0].shape[1]), np.nan, dtype=np.float32)
    for row, one in zip(batch, series, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(batch)


def _one_series(values: Any, num_channels: int, name: str) -> np.ndarray:
    array = _frame_values(values, name) if is_frame(values) else _numbers(values, name)
    if array.ndim == 1 and num_channels == 1:
        array = array[:, None]
    _check_shape(array.shape, num_channels, name)
    array = array.astype(np.float32, copy=False)
    infinite = np.isinf(array)
    if infinite.any():
        step, channel = np.argwhere(infinite)[0]
        raise ValueError(_infinite(name, step, channel))
    return array


def _check_shape(shape: tuple[int, ...], num_channels: int, name: str) -> None:
    if shape and shape[0] == 0:
        raise ValueError(f"{name} has no timestamps; leave it out.")
    if len(shape) != 2 or shape[1] != num_channels:
        hint = " Transpose it." if len(shape) == 2 and shape[0] == num_channels else ""
        plural = "" if num_channels == 1 else "s"
        raise ValueError(f"{name} has shape {shape}; expected (time, {num_channels} channel{plural}).{hint}")


def _check_finite(batch: np.ndarray, places: np.ndarray) -> None:
    infinite = np.isinf(batch)
    if infinite.any():
        row, step, channel = np.argwhere(infinite)[0]
        raise ValueError(_infinite(f"series {places[row]}", step, channel))


def _infinite(name: str, step: int, channel: int) -> str:
    return f"{name} is infinite at timestamp {step}, channel {channel}; write NaN for a missing value."


def _numbers(values: Any, name: str) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().float().numpy()
    try:
        array = np.asarray(values)
        holds_text = array.dtype.kind in "USM" or (
            array.dtype == object and any(isinstance(one, (str, bytes)) for one in array.flat)
        )
        if not holds_text and array.dtype.kind != "c":
            return array if array.dtype.kind in "fiub" else array.astype(np.float32)  # None becomes NaN
        problem = "there is text among them" if holds_text else f"they are {array.dtype}"
    except (TypeError, ValueError) as error:
        problem = str(error)
    raise ValueError(
        f"{name} does not hold numbers in equal rows ({problem}); give float arrays (time, channel)."
    ) from None


def _frame_values(frame: Any, name: str) -> np.ndarray:
    for column in frame.columns:
        dtype = frame[column].dtype
        numeric = dtype.is_numeric() if hasattr(dtype, "is_numeric") else getattr(dtype, "kind", "O") in "fiub"
        if not numeric:
            raise ValueError(f"{name}, column {column!r} holds {dtype}, not numbers; drop it or make it the index.")
    return np.asarray(frame.to_numpy(), dtype=np.float32)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, np.number))
