"""A corpus that is read while it is trained on: windows cut on the fly, shuffled, resumed exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..data import ChannelScaler, CorpusError
from ..data.corpus import series_of_arrow
from ..errors import SettingsError
from .settings import FinetuneSettings, PretrainSettings

SHUFFLE_BUFFER = 4096  # windows
_READ_VALUES = 2**22  # numbers that are read at a time, unless one series has more


def reads_stream(settings: PretrainSettings | FinetuneSettings) -> bool:
    """Return whether a corpus is never held: it was asked for, or is given as a stream.

    Raises:
        SettingsError: A field of streams is given without one.
    """
    corpora = settings.corpus if isinstance(settings.corpus, tuple) else (settings.corpus,)
    given = any(isinstance(one, Mapping) and any(map(is_stream, one.values())) for one in corpora)
    if not (given or settings.data.streaming) and settings.data.shuffle_buffer is not None:
        raise SettingsError(
            f"shuffle_buffer={settings.data.shuffle_buffer} is of streams: give streaming=true, or leave it out "
            "(a corpus in memory is shuffled as a whole)."
        )
    return given or settings.data.streaming


def is_stream(split: Any) -> bool:
    """Return whether a split is read while iterating and has no length."""
    return not hasattr(split, "select")


class SeriesReader:
    """Series of a stream, epoch after epoch, from any position on.

    Every epoch reads the stream's shards (files) in another order. Processes share the shards where these can be dealt
    out evenly, else the rows of each, as `datasets.distributed.split_dataset_by_node` does.

    Args:
        stream: One split, a datasets.IterableDataset.
        rows: Rows to read at a time.
        seed: Of the order of the shards.
        rank: Number of this process.
        num_processes: Number of processes.
        columns: Names of the columns to read.
    """

    def __init__(
        self,
        stream: Any,
        rows: int,
        seed: int = 0,
        rank: int = 0,
        num_processes: int = 1,
        columns: Sequence[str] = ("series",),
    ) -> None:
        self._stream, self._rows, self._seed, self._columns = stream, rows, seed, list(columns)
        self._rank, self._num_processes = rank, num_processes
        self._tables: Iterator[Any] | None = None
        self.position: dict[str, Any] = {"epoch": 0, "place": 0, "shard": None}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position that the reader of an equal stream had."""
        self.position, self._tables = deepcopy(position), None

    def read(self) -> list[np.ndarray]:
        """Return the next series; none at the end of an epoch, after which the next one begins."""
        table = self.read_table()
        return [] if table is None else series_of_arrow(table.column("series"))

    def read_table(self) -> Any:
        """Return the next rows as an Arrow table; None at the end of an epoch, after which the next one begins."""
        epoch, place = self.position["epoch"], self.position["place"]
        order = self._order(epoch)
        while place < len(order):
            if self._tables is None:
                self._shard = self._open(order[place])
                if self.position["shard"] is not None:
                    self._shard.load_state_dict(deepcopy(self.position["shard"]))
                self._tables = self._shard.iter(batch_size=self._rows)
            table = next(self._tables, None)
            if table is not None:
                self.position = {"epoch": epoch, "place": place, "shard": self._shard.state_dict()}
                return table
            place += 1
            self._tables, self.position = None, {"epoch": epoch, "place": place, "shard": None}
        self._tables, self.position = None, {"epoch": epoch + 1, "place": 0, "shard": None}
        return None

    @property
    def _deals_shards(self) -> bool:
        return self._stream.num_shards % self._num_processes == 0

    def _order(self, epoch: int) -> list[int]:
        order = np.random.default_rng([self._seed, epoch]).permutation(self._stream.num_shards).tolist()
        return order[self._rank :: self._num_processes] if self._deals_shards else order

    def _open(self, number: int) -> Any:
        from datasets.distributed import split_dataset_by_node

        columns = self._stream.select_columns(self._columns) if self._stream.column_names else self._stream
        shard = columns.shard(self._stream.num_shards, number) if self._stream.num_shards > 1 else columns
        if not self._deals_shards:
            shard = split_dataset_by_node(shard, self._rank, self._num_processes)
        return shard.with_format("arrow")


class StreamedWindows(IterableDataset):
    """Batches of windows of a stream.

    Windows of one length are cut out of the series as they are read; a series that is shorter is padded with NaN, and
    a window without an observed value is left out. `buffer` windows are held, shuffled, given out batch by batch, and
    then the next are read. What is left at the end of the stream, less than a batch, is left out, and the stream is
    read again.

    The position is where the buffer at hand begins and how many of its batches were given: a resumed training reads it
    again and shuffles it as before.

    Args:
        reader: Gives the series.
        window_length: Steps of a window.
        stride: Steps between the starts of two.
        batch_size: Windows of a batch.
        buffer: Windows that are held.
        seed: Of the order.
        scaler: What the values are scaled by, or None.
        rank: Number of this process, whose order is its own.
        num_batches: Batches of an epoch, after which iterating ends and the next iterating goes on; None: no end.
    """

    def __init__(
        self,
        reader: SeriesReader,
        window_length: int,
        stride: int,
        batch_size: int,
        buffer: int = SHUFFLE_BUFFER,
        seed: int = 0,
        scaler: ChannelScaler | None = None,
        rank: int = 0,
        num_batches: int | None = None,
    ) -> None:
        self.reader, self.scaler, self.seed, self.rank = reader, scaler, seed, rank
        self.window_length, self.stride, self.batch_size = window_length, stride, batch_size
        self.buffer = -(-buffer // batch_size) * batch_size
        self.num_batches = num_batches
        self._state: dict[str, Any] = {"start": deepcopy(reader.position), "used": 0, "number": 0}
        self._state |= {"given": 0, "batches": 0}

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches that were given, in plain JSON types."""
        return deepcopy(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that had been given."""
        self._state = deepcopy(state)

    def loader(self) -> DataLoader:
        """Return a loader that reads nothing ahead: the position is that of the batch that is trained on."""
        return DataLoader(self, batch_size=None)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Give the batches; those before the position are passed by as empty ones, which a resumed Trainer skips."""
        state = self._state
        batches = 0 if state["batches"] == self.num_batches else state["batches"]
        for _ in range(batches):
            yield {}
        number, given = state["number"], state["given"]
        for place, windows, is_whole_epoch in self._buffers(state["start"], state["used"]):
            order = np.random.default_rng([self.seed, self.rank, number]).permutation(len(windows))
            for which in range(given, len(windows) // self.batch_size):
                if batches == self.num_batches:
                    return
                chosen = order[which * self.batch_size : (which + 1) * self.batch_size]
                batches += 1
                self._state = {**place, "number": number, "given": which + 1, "batches": batches}
                yield self.stack([windows[index] for index in chosen])
            if is_whole_epoch and len(windows) < self.batch_size:
                raise CorpusError(
                    f"The stream has {len(windows)} windows with an observed value for this process, fewer than a "
                    f"batch of {self.batch_size}. Choose a smaller per_device_train_batch_size or fewer processes."
                )
            number, given = number + 1, 0

    def _buffers(self, start: dict[str, Any], used: int) -> Iterator[tuple[dict[str, Any], list[Any], bool]]:
        """Yield where a buffer begins, its windows, and whether it is all of an epoch.

        Args:
            start: Position of the reader before the rows in which the first buffer begins.
            used: How many windows of these rows come before it.
        """
        self.reader.seek(start)
        ahead = self._next_windows()
        while True:
            place = {"start": deepcopy(start), "used": used}
            windows: list[Any] = []
            while ahead is not None and len(windows) < self.buffer:
                taken = ahead[used : used + self.buffer - len(windows)]
                windows += taken
                used += len(taken)
                if used == len(ahead):
                    start, used = deepcopy(self.reader.position), 0
                    ahead = self._next_windows()
            begins: Any = place["start"]
            is_first = (begins["place"], begins["shard"], place["used"]) == (0, None, 0)
            yield place, windows, is_first and ahead is None
            if ahead is None:
                start, used = deepcopy(self.reader.position), 0
                ahead = self._next_windows()

    def _next_windows(self) -> list[Any] | None:
        table = self.reader.read_table()
        return None if table is None else self.cut(table)

    def cut(self, table: Any) -> list[Any]:
        """Return the windows of some rows, (series, start) each; a hook.

        Args:
            table: Rows of the stream, an Arrow table.
        """
        windows: list[Any] = []
        for values in series_of_arrow(table.column("series")):
            require_finite(values)
            windows += [(values, start) for start in self._starts(values)]
        return windows

    def _starts(self, values: np.ndarray) -> Iterable[int]:
        starts = range(0, max(len(values) - self.window_length, 0) + 1, self.stride)
        missing = np.isnan(values)
        if not missing.any():
            return starts
        observed = np.concatenate([[0], np.cumsum(~missing.all(axis=1))])
        ends = [min(start + self.window_length, len(values)) for start in starts]
        return [start for start, end in zip(starts, ends, strict=True) if observed[end] > observed[start]]

    def stack(self, windows: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Return the batch of some windows, scaled and padded to one length; a hook."""
        stacked = np.full((len(windows), self.window_length, windows[0][0].shape[1]), np.nan, dtype=np.float32)
        for row, (values, start, *_) in zip(stacked, windows, strict=True):
            part = values[start : start + self.window_length]
            row[: len(part)] = part if self.scaler is None else self.scaler.transform(part)
        return {"past_values": torch.from_numpy(stacked)}


class CountedWindows(StreamedWindows):
    """StreamedWindows with a known number of batches an epoch (num_batches), by which the Trainer counts epochs."""

    def __len__(self) -> int:
        return int(self.num_batches or 0)


def require_finite(values: np.ndarray) -> None:
    """Refuse a series of a stream with an infinite value.

    Raises:
        CorpusError: It has one.
    """
    if np.isinf(values).any():
        raise CorpusError(
            "A series of the stream holds an infinite value. Write missing values as NaN; loading it "
            "without streaming names the row."
        )


def rows_at_a_time(longest: int, width: int) -> int:
    """Return how many rows of a stream are read at a time, for series of so many steps and channels."""
    return max(1, min(1024, _READ_VALUES // (longest * width)))


def scaler_kind(kind: str | None, task: str, width: int) -> str | None:
    """Return which scaler is fitted: the recommended one is that of the archives for one channel, none."""
    if kind == "recommended":
        return None if task == "classification" and width == 1 else "standard"
    return kind


def stream_fingerprint(stream: Any, first: Iterable[np.ndarray]) -> str:
    """Return a sha256 of the first series of a stream and its number of shards: it is not read for this."""
    digest = hashlib.sha256(f"{stream.num_shards} {stream.features}".encode())
    for series in first:
        digest.update(np.ascontiguousarray(series).tobytes())
    return f"beginning of a stream: {digest.hexdigest()}"
