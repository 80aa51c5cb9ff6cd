"""The columns of a corpus as NumPy arrays, straight from the Arrow buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CorpusError, near_matches

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def get_series(dataset: Dataset | IterableDataset, column: str = "series") -> list[np.ndarray]:
    """Returns every series of a split.

    Args:
        dataset: one split. A streamed one is read to its end.
        column: an Array2D column, or nested lists of numbers.

    Returns:
        One array (time, channel) float32 a row. The arrays are read-only views of Arrow memory where the stored type
        allows it.

    Raises:
        CorpusError: a dictionary of splits, an unknown column, or one that holds no (time, channel) arrays.
    """
    _check_split(dataset, column)
    if not hasattr(dataset, "select"):
        return [_two_axes(np.asarray(row[column], dtype=np.float32)) for row in dataset]
    series: list[np.ndarray] = []
    for chunk in _arrow_column(dataset, column).chunks:
        storage = getattr(chunk, "storage", chunk)
        if len(storage) == 0:
            continue
        lengths = _list_lengths(storage, column)
        inner = storage.flatten()
        num_channels = 1
        if hasattr(inner.type, "value_type"):
            widths = np.unique(_list_lengths(inner, column))
            if len(widths) > 1:
                raise CorpusError(
                    f"Column {column!r}: steps have {widths.tolist()} channels; every step needs the same."
                )
            num_channels = int(widths[0]) if len(widths) else 1
            inner = inner.flatten()
        values = inner.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, num_channels)
        series.extend(np.split(values, np.cumsum(lengths)[:-1]))
    return series


def get_labels(dataset: Dataset | IterableDataset, column: str = "label") -> np.ndarray:
    """Returns the class ids of a split, (num_series,) int64.

    Raises:
        CorpusError: no such column, or a missing label.
    """
    _check_split(dataset, column)
    if not hasattr(dataset, "select"):
        labels = [row[column] for row in dataset]
    else:
        labels = _arrow_column(dataset, column).to_pylist()
    if None in labels:
        raise CorpusError(f"Row {labels.index(None)}, column {column!r}: the label is missing.")
    if labels and isinstance(labels[0], str):
        raise CorpusError(
            f"Column {column!r} holds class names; number them with dataset.class_encode_column({column!r})."
        )
    return np.asarray(labels, dtype=np.int64)


def get_timestamps(dataset: Dataset | IterableDataset, column: str = "timestamp") -> list[np.ndarray]:
    """Returns the timestamps of every series, (time,) `datetime64[ms]`; empty where they are unknown."""
    return _lists(dataset, column, "datetime64[ms]")


def get_anomaly_labels(dataset: Dataset | IterableDataset, column: str = "anomaly_label") -> list[np.ndarray]:
    """Returns 0 or 1 for every step of every series, (time,) int8; empty where nobody labelled them."""
    return _lists(dataset, column, "int8")


def _lists(dataset: Any, column: str, dtype: str) -> list[np.ndarray]:
    _check_split(dataset, column)
    if not hasattr(dataset, "select"):
        return [np.asarray(row[column] or [], dtype=dtype) for row in dataset]
    lists: list[np.ndarray] = []
    for chunk in _arrow_column(dataset, column).chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        if len(chunk):
            lists.extend(np.split(values, np.cumsum(_list_lengths(chunk, column))[:-1]))
    return lists


def _arrow_column(dataset: Any, column: str) -> Any:
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


def _list_lengths(array: Any, column: str) -> np.ndarray:
    if not hasattr(array.type, "value_type"):
        raise CorpusError(f"Column {column!r} holds {array.type} and no series; a row needs (time, channel) numbers.")
    lengths = array.value_lengths()
    if lengths.null_count:
        raise CorpusError(f"Column {column!r}: row {lengths.is_null().to_pylist().index(True)} is empty (null).")
    return lengths.to_numpy()


def _two_axes(values: np.ndarray) -> np.ndarray:
    return values[:, None] if values.ndim == 1 else values


def _check_split(dataset: Any, column: str) -> None:
    if isinstance(dataset, Mapping):
        raise CorpusError(f"Choose one split first: {', '.join(repr(name) for name in dataset)}.")
    columns = dataset.column_names
    if columns is not None and column not in columns:
        raise CorpusError(f"The dataset has no column {column!r}.{near_matches(column, columns)} Columns: {columns}.")
