"""What a fine-tuning reads of a stream, after one pass that finds classes, lengths, counts and the scaler."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...data import ChannelScaler, corpus_metadata, load_corpus
from ...data.corpus import default_channel_names, series_of_arrow
from ...errors import SettingsError
from ...modeling.heads_time_series import GenericWithHead
from ...opening import config_of
from ..settings import FinetuneSettings
from ..streams import (
    SHUFFLE_BUFFER,
    SeriesReader,
    require_finite,
    rows_at_a_time,
    scaler_kind,
    stream_fingerprint,
)
from .data import NOT_READ, PARTS, FinetuningData, require_parts
from .labels import label_statistics
from .streamed_samples import ContextsAndFutures, LabelledSeries, LabelReader, MeasuredPart

logger = logging.getLogger(__name__)

_FIRST_ROWS = 16


@dataclass
class StreamedData(FinetuningData):
    """The datasets of a fine-tuning that holds no corpus; see FinetuningData.

    Args:
        first: The first series of the training part.
    """

    first: list[np.ndarray] = field(default_factory=list)

    @property
    def sequence_length(self) -> int:
        """Number of steps of every input."""
        return int(self.datasets["train"].context_length)

    @property
    def is_streamed(self) -> bool:
        """Always."""
        return True

    def known_series(self) -> list[np.ndarray]:
        """Return the first series of the training part."""
        return self.first

    def fingerprint(self) -> str:
        """Return a sha256 of the beginning of the training part."""
        return stream_fingerprint(self.corpus["train"], self.first)


@dataclass
class Seen:
    """What one pass over a part has found.

    Args:
        lengths: Number of steps of every series.
        labels: Labels of some rows at a time.
    """

    lengths: list[int] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)

    def look(self, reader: SeriesReader, labels: LabelReader) -> Iterator[list[np.ndarray]]:
        """Yield the series of one epoch, some at a time, and keep what is found on the way."""
        while (table := reader.read_table()) is not None:
            series = series_of_arrow(table.column("series"))
            for values in series:
                require_finite(values)
            self.lengths += map(len, series)
            if labels.column is not None:
                self.labels.append(labels.read(table))
            yield series


def load_streamed_data(
    settings: FinetuneSettings, options: Mapping[str, Any], prediction_length: int, arguments: Any
) -> StreamedData:
    """Open the streams of the settings' corpus and read each once, for what must be known before.

    Args:
        settings: Names the corpus and how it is read.
        options: Further options of `load_corpus`, which go before those of the settings.
        prediction_length: Number of steps that are predicted.
        arguments: The Trainer's arguments.

    Returns:
        The datasets. Those of training have a known number of batches an epoch, equal on every process: what is left
        at the end of the stream, less than a batch, is left out.

    Raises:
        SettingsError: A setting that needs all of the corpus at once.
        ValueError: A part or the labels are missing, or there is too little of it.
    """
    _refuse_what_needs_all(settings, arguments)
    corpus, kind = _open(settings, options)
    parts = {name: corpus[name] for name in PARTS if name in corpus and (name != "validation" or settings.selects)}
    stream, metadata = corpus["train"], corpus_metadata(corpus)
    labels = LabelReader.of_stream(settings.task, stream, settings.data.label_column)
    first = SeriesReader(stream, _FIRST_ROWS).read()
    if not first:
        raise ValueError("The stream has no training series.")
    width = first[0].shape[1]
    rows = rows_at_a_time(max(map(len, first)), width)
    seen, scaler = _read_once(parts, rows, labels, scaler_kind(kind, metadata.task, width))
    metadata = dataclasses.replace(
        metadata,
        scaler=metadata.scaler if scaler is None else scaler.to_dict(),
        channel_names=metadata.channel_names if len(metadata.channel_names) == width else default_channel_names(width),
    )
    reader = SeriesReader(
        stream, rows, arguments.seed, arguments.process_index, arguments.world_size, labels.columns_to_read
    )
    common: dict[str, Any] = {
        "batch_size": arguments.per_device_train_batch_size,
        "buffer": settings.data.shuffle_buffer or SHUFFLE_BUFFER,
        "seed": arguments.seed,
        "scaler": scaler,
        "rank": arguments.process_index,
    }
    train: LabelledSeries | ContextsAndFutures
    if settings.task == "forecasting":
        context, stride = settings.data.context_length, settings.data.stride
        window = context + prediction_length
        counts = _window_counts(seen, context, window, stride)
        train = ContextsAndFutures(context, metadata.num_time_features, reader, window, stride, **common)
    else:
        counts = {name: len(one.lengths) for name, one in seen.items()}
        longest = max(max(one.lengths) for one in seen.values())
        train = LabelledSeries(labels, reader, longest, longest, **common)
    train.num_batches = _batches_of_an_epoch(counts["train"], train.batch_size, arguments.world_size)
    datasets: dict[str, Any] = {"train": train}
    for name in list(parts)[1:]:
        before = [corpus[one] for one in PARTS[: PARTS.index(name)] if one in corpus]
        datasets[name] = MeasuredPart([*before, corpus[name]], train)
    facts: dict[str, Any] = {f"num_{name}_samples": count for name, count in counts.items()}
    facts["validation"] = "the corpus's split" if "validation" in datasets else "none"
    data = StreamedData(corpus, metadata, datasets, labels.names, facts, first=first, problem_type=labels.problem_type)
    if settings.task == "regression":
        data.label_statistics = label_statistics(np.concatenate(seen["train"].labels))
    return data


def _open(settings: FinetuneSettings, options: Mapping[str, Any]) -> tuple[Any, str | None]:
    """Return the streams of a corpus, and which scaler is wanted."""
    reading = {name: value for name, value in dataclasses.asdict(settings.data).items() if name not in NOT_READ}
    reading |= options
    kind = reading.pop("scaler")
    if reading.pop("time_features"):
        raise SettingsError("time_features cannot be had on a stream. Leave it out, or prepare the corpus with them.")
    corpus: Any = load_corpus(settings.corpus, streaming=True, **reading)
    require_parts(corpus)
    if settings.selects and "validation" not in corpus:
        raise SettingsError(
            "A stream cannot be dealt into parts by class: give the corpus a split validation, or set validation=none."
        )
    return corpus, kind


def _read_once(
    parts: Mapping[str, Any], rows: int, labels: LabelReader, kind: str | None
) -> tuple[dict[str, Seen], ChannelScaler | None]:
    """Read every part once; return what was found, and the scaler of the training part where one is wanted."""
    logger.info("The stream is read once, for classes, lengths, counts and the scaler.")
    seen, scaler = {name: Seen() for name in parts}, None
    for name, stream in parts.items():
        blocks = seen[name].look(SeriesReader(stream, rows, columns=labels.columns_to_read), labels)
        if name == "train" and kind is not None:
            scaler = ChannelScaler.fit_streamed(blocks, kind=kind)
        for _ in blocks:  # what nobody has read yet
            pass
        if not seen[name].lengths:
            raise ValueError(f"The {name} part of the stream has no series.")
    return seen, scaler


def _batches_of_an_epoch(num_samples: int, batch_size: int, num_processes: int) -> int:
    batches = num_samples // (batch_size * num_processes)
    if not batches:
        raise ValueError(
            f"The stream has {num_samples} training samples, fewer than a batch of {batch_size} for each of "
            f"{num_processes} processes. Choose a smaller per_device_train_batch_size."
        )
    return batches


def _window_counts(seen: Mapping[str, Seen], context: int, window: int, stride: int) -> dict[str, int]:
    """Return the number of windows of every part; those that are measured may begin in the part before."""
    counts = {"train": sum(max(0, (length - window) // stride + 1) for length in seen["train"].lengths)}
    for name in list(seen)[1:]:
        counts[name] = sum(max(0, length + context - window + 1) for length in seen[name].lengths)
    for name, count in counts.items():
        if not count:
            lengths = sorted(set(seen[name].lengths))[:5]
            raise ValueError(
                f"The {name} part has no window of {window} steps: its series have {lengths} steps. Choose a shorter "
                "context_length or prediction_length."
            )
    return counts


def _refuse_what_needs_all(settings: FinetuneSettings, arguments: Any) -> None:
    if config_of(settings.model).reads_tokens:
        raise SettingsError(
            f"{settings.method} reads tokens, which are made once of a whole corpus: load it without streaming."
        )
    if settings.data.label_fraction < 1:
        raise SettingsError(
            f"label_fraction={settings.data.label_fraction} is drawn by class, which a stream cannot be. Leave it out."
        )
    if arguments.dataloader_num_workers:
        raise SettingsError("dataloader_num_workers: a stream is read by the process that trains. Leave it out.")


def require_a_head_that_learns(model: Any) -> None:
    """Refuse a method whose head is made of whole training data.

    Raises:
        SettingsError: It overrides `fit_head`.
    """
    if type(model).fit_head is not GenericWithHead.fit_head:
        raise SettingsError(
            f"The head of {type(model).__name__} is made of parts of the whole training data: load the corpus without "
            "streaming."
        )


def saving_strategy(settings: FinetuneSettings) -> dict[str, tuple[Any, str]]:
    """Return the Trainer's arguments of a stream's checkpoints: every `save_steps` where these are given.

    A validation goes with every checkpoint, and of a stream an epoch may be long.
    """
    if not settings.is_given("save_steps"):
        return {}
    steps, reason = settings.training["save_steps"], "every checkpoint of a stream is validated"
    needed: dict[str, tuple[Any, str]] = {"save_strategy": ("steps", reason)}
    if settings.selects:
        needed |= {"eval_strategy": ("steps", reason), "eval_steps": (steps, reason)}
    return needed
