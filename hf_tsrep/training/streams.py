"""Pre-training on a corpus that is read while it is trained on: windows cut on the fly, shuffled, resumed exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ..data import ChannelScaler, CorpusError, corpus_metadata, load_corpus
from ..data.corpus import default_channel_names, series_of_arrow
from ..errors import SettingsError
from .callbacks import CollapseMonitor
from .data import NOT_READING, TrainingSeries
from .run import choose_budget
from .settings import PretrainSettings
from .stages import PretrainingStage, SeriesStage

logger = logging.getLogger(__name__)

SHUFFLE_BUFFER = 4096  # windows
_READ_VALUES = 2**22  # numbers that are read at a time, unless one series has more


def reads_stream(settings: PretrainSettings) -> bool:
    """Return whether a corpus of a pre-training is never held: it was asked for, or is given as a stream.

    Raises:
        SettingsError: A field of streams is given without one.
    """
    given = any(isinstance(one, Mapping) and any(map(is_stream, one.values())) for one in settings.corpus)
    if not (given or settings.data.streaming) and settings.data.shuffle_buffer is not None:
        raise SettingsError(
            f"shuffle_buffer={settings.data.shuffle_buffer} is of streams: give streaming=true, or leave it out "
            "(a corpus in memory is shuffled as a whole)."
        )
    return given or settings.data.streaming


def is_stream(split: Any) -> bool:
    """Return whether a split is read while iterating and has no length."""
    return not hasattr(split, "select")


def on_streams(stage_class: type[PretrainingStage], settings: PretrainSettings) -> type[PretrainingStage]:
    """Return the stage that does on streams what another does on corpora in memory.

    Raises:
        SettingsError: Its training has to see whole corpora again and again.
    """
    if stage_class is not SeriesStage:
        raise SettingsError(
            f"The stage {settings.stage!r} of {settings.method} cannot train on a stream: it goes through whole "
            "corpora before it trains (codes, tokens, domains). Load the corpus, or a part of it, without streaming."
        )
    return StreamStage


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
    """

    def __init__(self, stream: Any, rows: int, seed: int = 0, rank: int = 0, num_processes: int = 1) -> None:
        self._stream, self._rows, self._seed = stream, rows, seed
        self._rank, self._num_processes = rank, num_processes
        self._tables: Iterator[Any] | None = None
        self.position: dict[str, Any] = {"epoch": 0, "place": 0, "shard": None}

    def seek(self, position: dict[str, Any]) -> None:
        """Go on from a position that the reader of an equal stream had."""
        self.position, self._tables = deepcopy(position), None

    def read(self) -> list[np.ndarray]:
        """Return the next series; none at the end of an epoch, after which the next one begins."""
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
                return series_of_arrow(table.column("series"))
            place += 1
            self._tables, self.position = None, {"epoch": epoch, "place": place, "shard": None}
        self._tables, self.position = None, {"epoch": epoch + 1, "place": 0, "shard": None}
        return []

    @property
    def _deals_shards(self) -> bool:
        return self._stream.num_shards % self._num_processes == 0

    def _order(self, epoch: int) -> list[int]:
        order = np.random.default_rng([self._seed, epoch]).permutation(self._stream.num_shards).tolist()
        return order[self._rank :: self._num_processes] if self._deals_shards else order

    def _open(self, number: int) -> Any:
        from datasets.distributed import split_dataset_by_node

        columns = self._stream.select_columns(["series"]) if self._stream.column_names else self._stream
        shard = columns.shard(self._stream.num_shards, number) if self._stream.num_shards > 1 else columns
        if not self._deals_shards:
            shard = split_dataset_by_node(shard, self._rank, self._num_processes)
        return shard.with_format("arrow")


class StreamedWindows(IterableDataset):
    """Batches of windows of a stream, without an end.

    Windows of one length are cut out of the series as they are read; a series that is shorter is padded with NaN, and
    a window without an observed value is left out. `buffer` windows are held, shuffled, given out batch by batch, and
    then the next are read. What is left of a buffer, less than a batch, is left out.

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
    ) -> None:
        self.reader, self.scaler, self.seed, self.rank = reader, scaler, seed, rank
        self.window_length, self.stride, self.batch_size = window_length, stride, batch_size
        self.buffer = max(buffer, batch_size)
        self._state: dict[str, Any] = {"start": deepcopy(reader.position), "number": 0, "given": 0, "batches": 0}

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
        for _ in range(state["batches"]):
            yield {}
        self.reader.seek(state["start"])
        number, given, batches = state["number"], state["given"], state["batches"]
        while True:
            start = deepcopy(self.reader.position)
            windows = self._fill()
            order = np.random.default_rng([self.seed, self.rank, number]).permutation(len(windows))
            for place in range(given, len(windows) // self.batch_size):
                chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
                batches += 1
                self._state = {"start": start, "number": number, "given": place + 1, "batches": batches}
                yield {"past_values": self._stack([windows[index] for index in chosen])}
            is_whole_epoch = (start["place"], start["shard"]) == (0, None) and self.reader.position["epoch"] > start[
                "epoch"
            ]
            if is_whole_epoch and len(windows) < self.batch_size:
                raise CorpusError(
                    f"The stream has {len(windows)} windows with an observed value for this process, fewer than a "
                    f"batch of {self.batch_size}. Choose a smaller per_device_train_batch_size or fewer processes."
                )
            number, given = number + 1, 0

    def _fill(self) -> list[tuple[np.ndarray, int]]:
        """Read series until there are enough windows or the epoch ends; return (series, start) of each window."""
        windows: list[tuple[np.ndarray, int]] = []
        while len(windows) < self.buffer:
            series = self.reader.read()
            if not series:
                break
            for values in series:
                if np.isinf(values).any():
                    raise CorpusError(
                        "A series of the stream holds an infinite value. Write missing values as NaN; loading it "
                        "without streaming names the row."
                    )
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

    def _stack(self, windows: list[tuple[np.ndarray, int]]) -> torch.Tensor:
        stacked = np.full((len(windows), self.window_length, windows[0][0].shape[1]), np.nan, dtype=np.float32)
        for row, (values, start) in zip(stacked, windows, strict=True):
            part = values[start : start + self.window_length]
            row[: len(part)] = part if self.scaler is None else self.scaler.transform(part)
        return torch.from_numpy(stacked)


class StreamStage(SeriesStage):
    """Windows of a stream, in place of pieces and windows of series in memory; the model and its folder are the same.

    Nothing but the number of steps is known of a stream before it ends: what goes by epochs, or by a validation part,
    is refused where it was asked for and left out where only a recipe has it.
    """

    windows: StreamedWindows

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__(_without_epochs(settings))

    def load(self) -> None:
        """Open the stream, look at its beginning, and fit a scaler in one pass where one was asked for."""
        self.read_corpora()
        choose_budget(self.arguments, self.settings, sys.maxsize)
        if self.arguments.max_steps <= 0:
            raise SettingsError(
                "A stream has no known number of items, so that epochs cannot be counted: give max_steps."
            )
        if self.arguments.dataloader_num_workers:
            raise SettingsError("dataloader_num_workers: a stream is read by the process that trains. Leave it out.")

    def read_corpora(self) -> None:
        """Open the stream and choose the windows: as long as the longest of its first series, at most as asked for."""
        data = self.settings.data
        if len(self.settings.corpus) > 1:
            raise SettingsError(
                "Several corpora cannot be streamed together; join them in one folder of Parquet files."
            )
        options = {name: value for name, value in dataclasses.asdict(data).items() if name not in NOT_READING}
        kind = options.pop("scaler")
        if options.pop("time_features"):
            raise SettingsError(
                "time_features cannot be had on a stream. Leave it out, or prepare the corpus with them."
            )
        corpus: Any = load_corpus(self.settings.corpus[0], streaming=True, **options)
        if "train" not in corpus:
            raise ValueError(f"The stream has no 'train' split, which pre-training reads, only {', '.join(corpus)}.")
        stream, metadata = corpus["train"], corpus_metadata(corpus)
        first = SeriesReader(stream, 16).read()
        if not first:
            raise ValueError("The stream has no training series.")
        longest, width = max(map(len, first)), first[0].shape[1]
        rows = max(1, min(1024, _READ_VALUES // (longest * width)))
        self.max_train_length = min(data.max_train_length or longest, longest)
        self.window_stride = data.window_stride or self.max_train_length
        scaler = self._fit_scaler(stream, rows, kind, metadata.task, width)
        if scaler is not None:
            metadata = dataclasses.replace(metadata, scaler=scaler.to_dict())
        if len(metadata.channel_names) != width:
            metadata = dataclasses.replace(metadata, channel_names=default_channel_names(width))
        self.loaded = TrainingSeries(first, [], [metadata], [corpus])
        arguments = self.arguments
        share = {"rank": arguments.process_index, "num_processes": arguments.world_size}
        self.windows = StreamedWindows(
            SeriesReader(stream, rows, arguments.seed, **share),
            self.max_train_length,
            self.window_stride,
            arguments.per_device_train_batch_size,
            data.shuffle_buffer or SHUFFLE_BUFFER,
            arguments.seed,
            scaler,
            arguments.process_index,
        )

    def _fit_scaler(self, stream: Any, rows: int, kind: str | None, task: str, width: int) -> ChannelScaler | None:
        if kind == "recommended":
            kind = None if task == "classification" and width == 1 else "standard"
        if kind is None:
            return None
        logger.info("The stream is read once to fit its scaler.")
        reader = SeriesReader(stream, rows)
        return ChannelScaler.fit_streamed(iter(reader.read, []), kind=kind)

    def fingerprints(self) -> list[str]:
        """Return a sha256 of the first series of the stream and its number of shards: it is not read for this."""
        stream = self.loaded.corpora[0]["train"]
        digest = hashlib.sha256(f"{stream.num_shards} {stream.features}".encode())
        for series in self.loaded.series:
            digest.update(np.ascontiguousarray(series).tobytes())
        return [f"beginning of a stream: {digest.hexdigest()}"]

    def data_facts(self) -> dict[str, Any]:
        """Return the windows; how many series and windows there are is not known."""
        return {
            "windows": {"max_train_length": self.max_train_length, "window_stride": self.window_stride},
            "num_series": "a stream",
            "num_training_items": "a stream",
            "sequence_length": self.windows.window_length,
            "num_input_channels": self.loaded.num_input_channels,
            "shuffle_buffer": self.windows.buffer,
        }

    def trainer_options(self) -> dict[str, Any]:
        """Return the windows and the monitors."""
        return {
            "train_dataset": self.windows,
            "monitors": [CollapseMonitor()] if self.settings.run.monitor_collapse else [],
        }


def _without_epochs(settings: PretrainSettings) -> PretrainSettings:
    """Return the settings without what goes by epochs.

    Raises:
        SettingsError: It was asked for.
    """
    run = settings.run
    by_epochs: dict[str, Any] = {"epoch_schedule": None, "validation_loss": False}
    for name, off in by_epochs.items():
        if getattr(run, name) == off:
            continue
        if settings.is_given(name):
            raise SettingsError(f"{name} goes by epochs, which a stream does not count. Leave it out.")
        logger.warning("%s of the recipe goes by epochs and is left out: a stream does not count them.", name)
        run = dataclasses.replace(run, **{name: off})
    return dataclasses.replace(settings, run=run)
