"""Pre-training on a stream: a stage that reads its corpus while it trains."""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import Any

from ..data import ChannelScaler, corpus_metadata, load_corpus
from ..data.corpus import default_channel_names
from ..errors import SettingsError
from .arguments import choose_budget
from .callbacks import CodebookMonitor, CollapseMonitor
from .data import NOT_READING, TrainingSeries
from .series_stage import SeriesStage
from .settings import PretrainSettings
from .stages import PretrainingStage
from .streams import SHUFFLE_BUFFER, SeriesReader, StreamedWindows, rows_at_a_time, scaler_kind, stream_fingerprint

logger = logging.getLogger(__name__)


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
        rows = rows_at_a_time(longest, width)
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
        kind = scaler_kind(kind, task, width)
        if kind is None:
            return None
        logger.info("The stream is read once to fit its scaler.")
        reader = SeriesReader(stream, rows)
        return ChannelScaler.fit_streamed(iter(reader.read, []), kind=kind)

    def fingerprints(self) -> list[str]:
        """Return a sha256 of the beginning of the stream."""
        return [stream_fingerprint(self.loaded.corpora[0]["train"], self.loaded.series)]

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
            "monitors": [CollapseMonitor(), CodebookMonitor()] if self.settings.run.monitor_collapse else [],
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
