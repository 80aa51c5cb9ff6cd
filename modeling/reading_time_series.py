"""From whatever holds series to checked arrays: the one answer of `encode`, a tokenizer and the feature extractor.

`tokenization/reading_time_series.py` is a link to this file: a tokenizer that is saved alone takes it along.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


class PreparedSeries(list):
    """Series that are model inputs already: `encode` takes them as they are."""

    is_prepared = True


def is_frame(series: Any) -> bool:
    """Whether this is a table of pandas or polars."""
    return hasattr(series, "columns") and hasattr(series, "to_numpy")


def is_one_series(series: Any, num_channels: int | None = None) -> bool:
    """Whether this is one series, not a batch.

    Args:
        series: A holder of series.
        num_channels: Number of channels of a series, to tell nested lists of numbers, which a row of a dataset holds:
            one series (time, channel), but with one channel a batch of series (time,) unless every inner list has one
            number. None for nested lists that are always a batch.
    """
    if is_frame(series):
        return True
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
    if not hasattr(series, "__iter__"):
        raise ValueError(f"Give one series or a list of series, not a {type(series).__name__}.")
    # A tensor goes to the CPU as a whole: a transfer a series would cost more than all the rest.
    for index, one in enumerate(as_numbers(series, "the batch") if isinstance(series, torch.Tensor) else series):
        yield f"series {index}", one


def read_series(series: Any, num_channels: int, is_one: bool) -> Iterator[np.ndarray]:
    """Yield checked series, one by one.

    Args:
        series: One array, tensor or DataFrame (time, channel), an array (series, time, channel), or a list or datasets
            column of arrays (time, channel) of any lengths; (time,) will do for one channel. NaN or None = missing.
        num_channels: Number of channels of a series.
        is_one: What is_one_series says of it.

    Yields:
        (time, num_channels) float32, NaN = missing.

    Raises:
        ValueError: A series is empty, has another number of channels, or holds text or infinite values; or these are
            no series. The message names the series and what was expected.
    """
    for name, one in separate_series(series, is_one):
        values = _numbers_of_frame(one, name) if is_frame(one) else as_numbers(one, name)
        yield checked_series(values.astype(np.float32, copy=False), num_channels, name)


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
        array = np.asarray(values)
        holds_text = array.dtype.kind in "USM" or (
            array.dtype == object and any(isinstance(one, (str, bytes)) for one in array.flat)
        )
        if not holds_text and array.dtype.kind != "c":
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
        hint = " Transpose it." if len(shape) == 2 and shape[0] == num_channels else ""
        expected = expected or f"{num_channels} channel(s) last"
        raise ValueError(f"{name} has shape {shape}; expected (time, {num_channels}): {expected}.{hint}")


def check_finite(values: np.ndarray, name: str) -> None:
    """Refuse an infinite value of a series (time, num_channels)."""
    infinite = np.isinf(values)
    if infinite.any():
        step, channel = np.argwhere(infinite)[0]
        raise ValueError(f"{name} is infinite at timestamp {step}, channel {channel}; write NaN for a missing value.")


def check_batch(
    past_values: torch.Tensor,
    past_observed_mask: torch.Tensor | None,
    num_channels: int,
    taker: str,
    fewest_timestamps: int = 0,
) -> None:
    """Refuse a batch of a wrong shape.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        past_observed_mask: The same shape, or None.
        num_channels: Number of channels of a series.
        taker: What takes the batch, for messages.
        fewest_timestamps: Smallest sequence_length.

    Raises:
        ValueError: A shape does not fit. The message names it and what was expected.
    """
    if past_values.ndim != 3 or past_values.shape[-1] != num_channels or past_values.shape[1] < fewest_timestamps:
        length = f"sequence_length of at least {fewest_timestamps}" if fewest_timestamps else "sequence_length"
        raise ValueError(
            f"past_values has shape {tuple(past_values.shape)}; {taker} takes "
            f"(batch_size, {length}, num_input_channels={num_channels})."
        )
    if past_observed_mask is not None and past_observed_mask.shape != past_values.shape:
        raise ValueError(
            f"past_observed_mask has shape {tuple(past_observed_mask.shape)}, "
            f"but past_values {tuple(past_values.shape)}; they must be equal."
        )


def observed_values(
    past_values: torch.Tensor,
    past_observed_mask: torch.Tensor | None,
    num_channels: int,
    taker: str,
    fewest_timestamps: int = 0,
) -> torch.Tensor:
    """Return which values of a batch are observed, neither NaN nor masked out; see check_batch."""
    check_batch(past_values, past_observed_mask, num_channels, taker, fewest_timestamps)
    observed = ~past_values.isnan()
    return observed if past_observed_mask is None else observed & past_observed_mask.bool()


def _numbers_of_frame(frame: Any, name: str) -> np.ndarray:
    for column in frame.columns:
        dtype = frame[column].dtype
        numeric = dtype.is_numeric() if hasattr(dtype, "is_numeric") else getattr(dtype, "kind", "O") in "fiub"
        if not numeric:
            raise ValueError(f"Column {column!r} of {name} holds {dtype}, not numbers; drop it or make it the index.")
    return np.asarray(frame.to_numpy(), dtype=np.float32)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float, np.number))
