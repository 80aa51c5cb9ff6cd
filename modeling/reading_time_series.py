"""From whatever holds series to checked arrays: the one answer of `encode`, a tokenizer and the feature extractor.

`tokenization/reading_time_series.py` is a link to this file: a tokenizer that is saved alone takes it along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

LAYOUTS = ("ntc", "nct")
LARGEST = float(np.finfo(np.float32).max)


class PreparedSeries(list):
    """Series (time, channel) that are model inputs already: `encode` takes them as they are."""

    is_prepared = True
    series_layout = "ntc"

    def __getitem__(self, index: Any) -> Any:
        """Return a series, or for a slice some of them, which are as prepared as all."""
        chosen = super().__getitem__(index)
        return type(self)(chosen) if isinstance(index, slice) else chosen


def is_frame(series: Any) -> bool:
    """Whether this is a table of pandas or polars."""
    return hasattr(series, "columns") and hasattr(series, "to_numpy")


def holds_cells_of_series(frame: Any) -> bool:
    """Whether this is a frame of pandas with a series in every cell, as sktime has it."""
    if not hasattr(frame, "iloc") or 0 in frame.shape or str(frame.dtypes.iloc[0]) != "object":
        return False
    first = frame.iloc[0, 0]
    return not isinstance(first, (str, bytes)) and hasattr(first, "__len__")


def is_one_series(series: Any, num_channels: int | None = None) -> bool:
    """Whether this is one series, not a batch.

    Args:
        series: A holder of series.
        num_channels: Number of channels of a series, to tell nested lists of numbers, which a row of a dataset holds:
            one series (time, channel), but with one channel a batch of series (time,) unless every inner list has one
            number. None for nested lists that are always a batch.
    """
    if is_frame(series):
        return getattr(getattr(series, "index", None), "nlevels", 1) == 1 and not holds_cells_of_series(series)
    if hasattr(series, "to_numpy"):  # a column of pandas or polars
        series = series.to_numpy()
    if isinstance(series, np.ndarray) and series.dtype == object:  # numbers and None, or arrays of several lengths
        return series.ndim < 3 and bool(series.size) and _is_number(series.flat[0])
    if isinstance(series, (np.ndarray, torch.Tensor)):
        return series.ndim < 3
    if not isinstance(series, (list, tuple)) or not len(series):
        return False
    if _is_number(series[0]):
        return True
    if num_channels is None or not isinstance(series[0], (list, tuple)) or not len(series[0]):
        return False
    return all(map(_is_number, series[0])) and (num_channels > 1 or all(len(row) == 1 for row in series))


def separate_series(series: Any, is_one: bool) -> Iterator[tuple[str, Any]]:
    """Yield single series, not read yet, each with the name that it has in messages.

    Args:
        series: A holder of series.
        is_one: What is_one_series says of it.

    Raises:
        ValueError: These are no series.
    """
    if isinstance(series, dict) or hasattr(series, "column_names"):
        raise ValueError(f"Give series, not a {type(series).__name__}: its column, such as dataset['series'].")
    if is_one:
        yield "the series", series
        return
    if not hasattr(series, "__iter__") or isinstance(series, (str, bytes)):
        raise ValueError(f"Give one series or a list of series, not a {type(series).__name__}.")
    if is_frame(series):
        yield from _series_of_frame(series)
        return
    # A tensor goes to the CPU as a whole: a transfer a series would cost more than all the rest.
    for index, one in enumerate(as_numbers(series, "the batch") if isinstance(series, torch.Tensor) else series):
        yield f"series {index}", one


def _series_of_frame(frame: Any) -> Iterator[tuple[str, Any]]:
    """Yield the series of a frame that holds several, each as a frame by time, or as an array (time, channel)."""
    if getattr(frame.index, "nlevels", 1) == 1:
        for name, cells in zip(frame.index, frame.to_numpy(), strict=True):
            columns = [as_numbers(cell, f"series {name!r}, column {index}") for index, cell in enumerate(cells)]
            lengths = [len(np.atleast_1d(column)) for column in columns]
            if len(set(lengths)) != 1 or any(column.ndim != 1 for column in columns):
                raise ValueError(f"series {name!r}: its cells are no series of one length, but of {lengths} steps.")
            yield f"series {name!r}", np.stack(columns, axis=1)
        return
    kinds = [str(level.dtype) for level in frame.index.levels]
    dates = [place for place, kind in enumerate(kinds) if kind.startswith("datetime")]
    time = dates[0] if len(dates) == 1 else frame.index.nlevels - 1
    items = [place for place in range(frame.index.nlevels) if place != time]
    for name, rows in frame.groupby(level=items if len(items) > 1 else items[0], sort=False):
        one = rows.droplevel(items)
        if not (one.index.is_monotonic_increasing and one.index.is_unique):
            raise ValueError(f"item {name!r}: its times are not in order, or one appears twice. Sort the frame.")
        yield f"item {name!r}", one


def in_layout(
    arrays: Iterable[tuple[str, np.ndarray, bool]], num_channels: int | None, layout: str | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield arrays with time before channels.

    Args:
        arrays: Name, array and whether its axes are known to lie in this order, as those of a frame are.
        num_channels: Number of channels of a series; None for any, where nothing but the layout tells time.
        layout: "ntc" for (series, time, channel), "nct" for (series, channel, time), None for "ntc" where it tells.

    Raises:
        ValueError: The layout is not said, and every array has as many steps as channels; or it contradicts a frame.
    """
    if layout not in (None, *LAYOUTS):
        raise ValueError(
            f"layout={layout!r} is unknown; 'ntc' is (series, time, channel), 'nct' (series, channel, time)."
        )
    squares = []
    for name, values, is_known in arrays:
        if is_known and layout == "nct":
            raise ValueError(f"layout='nct' does not fit {name}, which has channels last; leave layout out.")
        squares.append(not is_known and (num_channels or 1) > 1 and values.shape == (num_channels, num_channels))
        yield name, np.ascontiguousarray(values.T) if layout == "nct" and values.ndim == 2 else values
    if layout is None and squares and all(squares):
        raise ValueError(
            f"The series have as many steps as channels, {num_channels}, so that both readings fit. Say layout='ntc' "
            "where channels come last, or layout='nct' where time does, as in aeon, sktime and tsai."
        )


def read_series(
    series: Any, num_channels: int | None, is_one: bool, layout: str | None = None
) -> Iterator[np.ndarray]:
    """Yield checked series, one by one.

    Args:
        series: One array, tensor or DataFrame (time, channel), an array (series, time, channel), or a list or datasets
            column of arrays (time, channel) of any lengths; (time,) will do for one channel. NaN or None = missing.
        num_channels: Number of channels of a series; None for any, the same of all.
        is_one: What is_one_series says of it.
        layout: See in_layout.

    Yields:
        (time, num_channels) float32, NaN = missing.

    Raises:
        ValueError: A series is empty, has another number of channels, or holds text or infinite values; or these are
            no series. The message names the series and what was expected.
    """
    is_known = is_frame(series) or hasattr(series, "series_layout")
    arrays = (
        (name, numbers_of_frame(one, name) if is_frame(one) else as_numbers(one, name), is_known or is_frame(one))
        for name, one in separate_series(series, is_one)
    )
    for name, values in in_layout(arrays, num_channels, layout):
        if num_channels is None:
            num_channels = values.shape[1] if values.ndim == 2 else 1
        yield checked_series(values, num_channels, name).astype(np.float32, copy=False)


def as_numbers(values: Any, name: str) -> np.ndarray:
    """Return an array of numbers of any shape, NaN where None stood.

    Args:
        values: An array, tensor or nested sequence.
        name: What it is called in messages.

    Raises:
        ValueError: There are other things than real numbers, or rows of several lengths.
    """
    if isinstance(values, torch.Tensor):
        if values.is_meta:
            raise ValueError(f"{name} is a tensor on the meta device, which holds no values.")
        if values.is_complex():
            raise ValueError(f"{name} holds complex numbers ({values.dtype}); give real ones.")
        values = values.detach().cpu()
        # NumPy has no bfloat16; a double holds every smaller number.
        return (values if values.dtype in (torch.float32, torch.float64) else values.double()).numpy()
    try:
        if isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "fiub":  # the mask means missing
            return np.ma.filled(values.astype(np.float64), np.nan)
        array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
        holds_text = array.dtype.kind in "USM" or (
            array.dtype == object and any(isinstance(one, (str, bytes)) for one in array.flat)
        )
        if not holds_text and array.dtype.kind in "fiubO":
            return array if array.dtype.kind in "fiub" else array.astype(np.float64)  # None becomes NaN
        problem = "there is text among them" if holds_text else f"they are {array.dtype}"
    except (TypeError, ValueError, OverflowError) as error:
        problem = str(error)
    raise ValueError(
        f"{name} does not hold numbers in equal rows ({problem}); give float arrays (time, channel)."
    ) from None


def checked_series(values: np.ndarray, num_channels: int, name: str, expected: str = "") -> np.ndarray:
    """Return one series with its axis of channels.

    Args:
        values: (time, num_channels), or (time,) of one channel.
        num_channels: Number of channels of a series.
        name: What it is called in messages.
        expected: Which channels are expected, in words; empty for their number.

    Raises:
        ValueError: It is empty, has another number of channels, or an infinite value.
    """
    if values.ndim == 1 and num_channels == 1:
        values = values[:, None]
    check_shape(values.shape, num_channels, name, expected)
    check_finite(values, name)
    return values


def check_shape(shape: tuple[int, ...], num_channels: int, name: str, expected: str = "") -> None:
    """Refuse a series without timestamps or with another number of channels; see checked_series."""
    if shape and shape[0] == 0:
        raise ValueError(f"{name} has no timestamps; leave it out.")
    if len(shape) != 2 or shape[1] != num_channels:
        is_turned = len(shape) == 2 and shape[0] == num_channels
        hint = " Transpose it, or say layout='nct' for (series, channel, time)." if is_turned else ""
        expected = expected or f"{num_channels} channel(s) last"
        raise ValueError(f"{name} has shape {shape}; expected (time, {num_channels}): {expected}.{hint}")


def check_finite(values: np.ndarray, name: str) -> None:
    """Refuse a value of a series (time, num_channels) that is infinite, or that float32 cannot hold."""
    too_large = np.abs(values) > LARGEST
    if too_large.any():
        step, channel = np.argwhere(too_large)[0]
        value = values[step, channel]
        if np.isinf(value):
            problem = "is infinite at timestamp {}, channel {}; write NaN for a missing value."
        else:
            problem = f"has {value:g} at timestamp {{}}, channel {{}}: beyond float32, which ends at {LARGEST:g}."
        raise ValueError(f"{name} {problem.format(step, channel)}")


def check_batch(
    past_values: torch.Tensor,
    past_observed_mask: torch.Tensor | None,
    num_channels: int | None,
    taker: str,
    fewest_timestamps: int = 0,
) -> None:
    """Refuse a batch of a wrong shape.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        past_observed_mask: The same shape, or None.
        num_channels: Number of channels of a series; None for any.
        taker: What takes the batch, for messages.
        fewest_timestamps: Smallest sequence_length.

    Raises:
        ValueError: A shape does not fit. The message names it and what was expected.
    """
    if num_channels is None and past_values.ndim == 3 and past_values.shape[-1] > 0:
        num_channels = past_values.shape[-1]
    if past_values.ndim != 3 or past_values.shape[-1] != num_channels or past_values.shape[1] < fewest_timestamps:
        length = f"sequence_length of at least {fewest_timestamps}" if fewest_timestamps else "sequence_length"
        raise ValueError(
            f"past_values has shape {tuple(past_values.shape)}; {taker} takes "
            f"(batch_size, {length}, num_input_channels={num_channels or 'any'})."
        )
    if past_observed_mask is not None and past_observed_mask.shape != past_values.shape:
        raise ValueError(
            f"past_observed_mask has shape {tuple(past_observed_mask.shape)}, "
            f"but past_values {tuple(past_values.shape)}; they must be equal."
        )


def observed_values(
    past_values: torch.Tensor,
    past_observed_mask: torch.Tensor | None,
    num_channels: int | None,
    taker: str,
    fewest_timestamps: int = 0,
) -> torch.Tensor:
    """Return which values of a batch are observed, neither NaN nor masked out; see check_batch."""
    check_batch(past_values, past_observed_mask, num_channels, taker, fewest_timestamps)
    observed = ~past_values.isnan()
    return observed if past_observed_mask is None else observed & past_observed_mask.bool()


def numbers_of_frame(frame: Any, name: str) -> np.ndarray:
    """Return (time, column) float64 of a frame, NaN = missing; refuse a column of other things than numbers."""
    columns = [
        numbers_of_column(
            frame.iloc[:, place] if hasattr(frame, "iloc") else frame[column], f"{name}, column {column!r}"
        )
        for place, column in enumerate(frame.columns)
    ]
    return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))


def numbers_of_column(column: Any, name: str) -> np.ndarray:
    """Return (time,) float64 of a column of pandas or polars, NaN = missing; refuse other things than numbers."""
    dtype = column.dtype
    if hasattr(dtype, "is_numeric"):
        is_numeric = dtype.is_numeric() or str(dtype) == "Boolean"
    else:
        is_numeric = getattr(dtype, "kind", "O") in "fiubO" and str(dtype) not in ("category", "str", "string")
    if not is_numeric:
        raise ValueError(f"{name} holds {dtype}, not numbers; drop it, convert it or make it the index.")
    if hasattr(column, "astype") and str(dtype) != "object":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)  # also of pandas' own types of numbers
    return as_numbers(column.to_numpy(), name).astype(np.float64)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, np.number))
