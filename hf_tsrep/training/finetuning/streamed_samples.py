"""Items of a fine-tuning on a stream: labelled series, contexts and futures, and parts that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ...data.corpus import series_of_arrow
from ..batches import SERIES_INDEX
from ..streams import CountedWindows
from .labels import BETWEEN_LABELS

_ROWS = 16  # that are read at a time of a part that is measured
Item = tuple[np.ndarray, int, Any]  # series, start, label


@dataclass
class LabelReader:
    """Labels of rows as a task learns them.

    Args:
        task: "classification", "multi-label", "regression" or "forecasting".
        column: Name of the column; None in forecasting.
        names: Names of the classes or labels, or of the number.
        table: For the class ids of a column (num_ids, ...) what the task learns of each; None: the ids or numbers.
    """

    task: str
    column: str | None
    names: list[str]
    table: np.ndarray | None = None

    @classmethod
    def of_stream(cls, task: str, stream: Any, label_column: str | None) -> LabelReader:
        """Return the reader of a stream's labels.

        Raises:
            ValueError: It has none that the task can learn.
        """
        if task == "forecasting":
            return cls(task, None, [])
        columns = list(stream.column_names or ())
        if task == "regression":
            column = next((one for one in ("target_value", "label") if one in columns), None)
            if column is None:
                raise ValueError(f"The stream has no target values, which task=regression needs. Columns: {columns}.")
            texts = getattr(stream.features[column], "names", None)
            table = None if texts is None else np.asarray(list(map(float, texts)), dtype=np.float32)
            return cls(task, column, [label_column or "target_value"], table)
        names = getattr((stream.features or {}).get("label"), "names", None)
        if names is None:
            raise ValueError(
                f"The stream has no column label with named classes (ClassLabel), which task={task} needs: write it "
                "with prepare_corpus, or load the corpus without streaming."
            )
        if task == "multi-label":
            sets = [{part.strip() for part in name.split(BETWEEN_LABELS) if part.strip()} for name in names]
            known = sorted(set().union(*sets))
            return cls(task, "label", known, np.asarray([[one in label for one in known] for label in sets], "f4"))
        return cls(task, "label", [str(name) for name in names])

    @property
    def problem_type(self) -> str:
        """What is told of a series, as transformers names it."""
        types = {"regression": "regression", "multi-label": "multi_label_classification"}
        return types.get(self.task, "single_label_classification")

    @property
    def columns_to_read(self) -> list[str]:
        """Names of the columns that the task reads."""
        return ["series"] if self.column is None else ["series", self.column]

    def read(self, table: Any) -> np.ndarray:
        """Return the labels of some rows.

        Raises:
            ValueError: One is missing.
        """
        values = table.column(self.column).to_numpy()
        if values.dtype == object or not np.isfinite(values).all() or (self.task != "regression" and min(values) < 0):
            raise ValueError(f"A row of the stream has no value in {self.column}; leave such rows out.")
        if self.table is not None:
            return self.table[values]
        return values.astype(np.float32 if self.task == "regression" else np.int64)


class LabelledSeries(CountedWindows):
    """Batches of whole series with their labels, padded to one length; see StreamedWindows.

    Args:
        labels: Reads the labels.
        positional: See StreamedWindows.
        arguments: See StreamedWindows.
    """

    def __init__(self, labels: LabelReader, *positional: Any, **arguments: Any) -> None:
        super().__init__(*positional, **arguments)
        self.labels = labels

    @property
    def context_length(self) -> int:
        """Number of steps of an input."""
        return self.window_length

    def cut(self, table: Any) -> list[Item]:
        """Return series, 0 and label of some rows."""
        series, labels = series_of_arrow(table.column("series")), self.labels.read(table)
        return [(values, 0, label) for values, label in zip(series, labels, strict=True)]

    def stack(self, windows: Sequence[Item]) -> dict[str, Tensor]:
        """Return a batch with labels."""
        labels = torch.from_numpy(np.stack([label for *_, label in windows]))
        return {**super().stack(windows), "labels": labels}


class ContextsAndFutures(CountedWindows):
    """Batches of contexts and the future after them, from windows that lie wholly in a series; see StreamedWindows.

    Args:
        context_length: Number of steps of a context.
        num_time_features: Number of first channels that are inputs and never predicted.
        positional: See StreamedWindows.
        arguments: See StreamedWindows.
    """

    def __init__(self, context_length: int, num_time_features: int, *positional: Any, **arguments: Any) -> None:
        super().__init__(*positional, **arguments)
        self.context_length, self.num_time_features = context_length, num_time_features

    def cut(self, table: Any) -> list[Any]:
        """Return series and start of the windows of some rows."""
        return [
            (values, start)
            for values in series_of_arrow(table.column("series"))
            for start in range(0, len(values) - self.window_length + 1, self.stride)
        ]

    def stack(self, windows: Sequence[Any]) -> dict[str, Tensor]:
        """Return a batch with future values."""
        return split_at(super().stack(windows)["past_values"], self.context_length, self.num_time_features)


def split_at(windows: Tensor, context_length: int, num_time_features: int) -> dict[str, Tensor]:
    """Return context and future of windows (..., context_length + prediction_length, num_channels)."""
    return {
        "past_values": windows[..., :context_length, :],
        "future_values": windows[..., context_length:, num_time_features:],
    }


class MeasuredPart(IterableDataset):
    """Every item of a validation or test part, in its order, read anew whenever it is iterated.

    Windows of a forecasting part may begin in the part before, so that its first step is predicted too: the parts are
    read side by side, and of those before only as many steps are kept as a context has.

    Args:
        streams: Those of all parts up to this one, in their order; the last is read, in forecasting all of them.
        like: Cuts and stacks as the training part does.
    """

    def __init__(self, streams: Sequence[Any], like: LabelledSeries | ContextsAndFutures) -> None:
        self.streams, self.like = list(streams), like

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the items."""
        windows = self._windows() if isinstance(self.like, ContextsAndFutures) else self._series(self.like)
        for number, window in enumerate(windows):
            batch = self.like.stack([window])
            yield {**{name: value[0] for name, value in batch.items()}, SERIES_INDEX: number}

    def _series(self, like: LabelledSeries) -> Iterator[Item]:
        for table in _tables(self.streams[-1], like.labels.columns_to_read):
            yield from like.cut(table)

    def _windows(self) -> Iterator[Any]:
        like: Any = self.like
        for parts in zip(*map(_series_in_order, self.streams), strict=True):
            before = np.concatenate(parts[:-1]) if len(parts) > 1 else parts[-1][:0]
            before = before[len(before) - min(like.context_length, len(before)) :]
            values = np.concatenate([before, parts[-1]])
            yield from ((values, start) for start in range(len(values) - like.window_length + 1))


def _tables(stream: Any, columns: list[str]) -> Iterator[Any]:
    return stream.select_columns(columns).with_format("arrow").iter(batch_size=_ROWS)


def _series_in_order(stream: Any) -> Iterator[np.ndarray]:
    for table in _tables(stream, ["series"]):
        yield from series_of_arrow(table.column("series"))
