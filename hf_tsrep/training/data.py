"""What trainings read: the series of a pre-training, pieces and windows of them, tensors by row, numbered items."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data import WindowDataset, corpus_metadata, get_series, load_corpus, sliding_window_index
from ..data.checks import check_channel_order
from ..errors import SettingsError
from ..modeling.batching_time_series import warn_of_missing
from ..registry import get_method
from .batches import NumberedBatch, pad_with_missing
from .settings import PretrainSettings

# Fields of DataSettings that say how training items are made, and not how a corpus is read.
NOT_READING = ("max_train_length", "window_stride", "streaming", "shuffle_buffer")
Columns = Mapping[str, Any]  # tensors with one row a sample, or mappings of such


@dataclass
class TrainingSeries:
    """Series of the training parts.

    Args:
        series: Arrays (time, num_input_channels) float32.
        names: One name a series.
        metadata: `hf_tsrep.data.CorpusMetadata` of every corpus.
        corpora: The corpora, every split.
        by_channel: Whether every channel of a corpus is a series of its own, (time, 1).
    """

    series: list[np.ndarray]
    names: list[str]
    metadata: list[Any]
    corpora: list[Any]
    by_channel: bool = False

    @cached_property
    def num_input_channels(self) -> int:
        """Number of channels, time features included; of unlike corpora that are mixed by channel 1."""
        if not self.by_channel:
            return self.series[0].shape[1]
        counts = {len(one.channel_names) for one in self.metadata}
        return counts.pop() if len(counts) == 1 else 1

    @cached_property
    def num_elements(self) -> int:
        """Numbers in the training array: every series padded to the longest, time features included."""
        return len(self.series) * max(map(len, self.series)) * self.series[0].shape[1]

    def item_names(self, num_items: int, max_train_length: int | None) -> list[str]:
        """Return a name for every training item; a long series is cut into several.

        Args:
            num_items: Number of training items.
            max_train_length: See DataSettings.

        Returns:
            Series names with the piece's number; only "piece N" where pieces without a value have been left out.
        """
        pieces = max(map(len, self.series)) // max_train_length if max_train_length else 1
        pieces = max(1, pieces)
        if num_items != pieces * len(self.series):
            return [f"piece {index}" for index in range(num_items)]
        if pieces == 1:
            return list(self.names)
        return [f"{name}, piece {piece + 1} of {pieces}" for piece in range(pieces) for name in self.names]


def split_channels(series: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return every channel of series (time, num_channels) as a series of its own, (time, 1); views."""
    return [one[:, [channel]] for one in series for channel in range(one.shape[1])]


def load_training_series(settings: PretrainSettings, by_channel: bool = False) -> TrainingSeries:
    """Load the training part of every corpus of the settings.

    Args:
        settings: Names the corpora and how they are prepared.
        by_channel: Whether every channel becomes a series of its own; the corpora then may differ in their channels.

    Returns:
        The series of all corpora.

    Raises:
        SettingsError: Channels are samples, and time features are asked for.
        ValueError: A corpus has no training part, or the corpora differ in their channels or in their order.
    """
    if by_channel and settings.data.time_features:
        raise SettingsError(
            "time_features: every channel of a corpus is a training sample of its own, and calendar features are "
            "none. Leave it out."
        )
    options = {name: value for name, value in dataclasses.asdict(settings.data).items() if name not in NOT_READING}
    loaded = TrainingSeries([], [], [], [], by_channel)
    for corpus, name in zip(settings.corpus, settings.corpus_names, strict=True):
        splits = load_corpus(corpus, **options)
        if "train" not in splits:
            found = ", ".join(splits)
            raise ValueError(f"Corpus {name} has no 'train' split, which pre-training reads, only {found}.")
        train: Any = splits["train"]
        series = get_series(train)
        if not series:
            raise ValueError(f"Corpus {name} has no training series.")
        metadata = corpus_metadata(splits)
        if loaded.series and not by_channel and series[0].shape[1] != loaded.num_input_channels:
            config_class: Any = get_method(settings.method).config_class
            raise ValueError(
                f"Corpus {name} has {series[0].shape[1]} channels, but {settings.corpus_names[0]} has "
                f"{loaded.num_input_channels}. Train on them one by one, or choose equal channels with target."
                f"{config_class.mixing_advice}"
            )
        if loaded.metadata and not by_channel:
            first = loaded.metadata[0].channel_names
            check_channel_order(first, metadata.channel_names, f"Corpus {name}", settings.corpus_names[0])
        names = [f"{name}: {item}" if len(settings.corpus) > 1 else str(item) for item in train["item_id"]]
        if by_channel:
            names = [f"{item}, channel {channel}" for item in names for channel in metadata.channel_names]
        loaded.names += names
        loaded.series += split_channels(series) if by_channel else series
        loaded.metadata.append(metadata)
        loaded.corpora.append(splits)
    return loaded


def check_training_series(model: Any, series: Sequence[np.ndarray], channel_names: Sequence[str]) -> None:
    """Name the channels without a value; refuse to train where the model reads nothing of any series.

    Args:
        model: The model to train.
        series: Arrays (time, num_input_channels) of the training part, NaN = missing.
        channel_names: Names of the channels.

    Raises:
        ValueError: The message names the channels.
    """
    if len(warn_of_missing(model, series, channel_names)) < len(series):
        return
    known = np.any([(~np.isnan(one)).any(0) for one in series], axis=0)
    dead = [name for name, is_known in zip(channel_names, known, strict=True) if not is_known]
    fix = (
        f"{', '.join(dead)} has no value: leave it out with target"
        if dead
        else "their channels are never there at once"
    )
    raise ValueError(
        f"{type(model).__name__} reads no timestamp of any training series, because {fix}; or choose another "
        "treatment of missing values, where the method has one (see its card)."
    )


class PretrainingDataset(Dataset):
    """Series prepared as TS2Vec's training does it.

    All series are padded with NaN to the longest. If that is at least twice `max_train_length`, they are cut into
    `longest // max_train_length` pieces of equal length. If any piece is missing at the first or the last step, the
    observed span of every piece is centred. Pieces without an observed value are dropped. Pieces that are still longer
    than `max_train_length` are cropped to a random window, one start for all pieces of a batch.

    The start is a function of `seed`, the epoch (`set_epoch`) and the batch's number in the epoch, so that neither
    worker processes nor read-ahead change it, and a resumed epoch sees the same windows. The number comes with the
    indices of a NumberedBatchSampler, which gives the batches that several processes train on together one number:
    all of them then see one window, the one that a single process would see. Indices without a number are numbered by
    the first of them. Whoever trains calls `set_epoch` at the beginning of every epoch: Accelerate's data loader does
    so only while no wrapped batch sampler (several processes, skipped batches of a resume) stands in between, and
    persistent workers keep the epoch they began with.

    Args:
        series: arrays (time, channel) with one number of channels, NaN = missing.
        max_train_length: steps of the longest training input; None cuts and crops nothing.
        seed: seed of the crops.

    Raises:
        ValueError: no series, or none with an observed value.

    Items are `{"past_values": (time, channel) float32}`.
    """

    def __init__(
        self, series: Sequence[np.ndarray | Tensor], max_train_length: int | None = 3000, seed: int = 0
    ) -> None:
        if max_train_length is not None and max_train_length < 1:
            raise ValueError(f"max_train_length={max_train_length} must be at least 1, or None.")
        self.pieces = _pieces(series, max_train_length)
        self.max_train_length = max_train_length
        self.seed = seed
        self.epoch = 0

    @property
    def sequence_length(self) -> int:
        """Steps of every item."""
        return min(self.pieces.shape[1], self.max_train_length or self.pieces.shape[1])

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops of this epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the items of one batch, all cropped to the same window."""
        number = indices.number if isinstance(indices, NumberedBatch) else range(len(self))[int(indices[0])]
        start = self.crop_start(number)
        return [{"past_values": self.pieces[index, start : start + self.sequence_length]} for index in indices]

    def crop_start(self, number: int) -> int:
        """Return the start of the window of the batch of this number in this epoch."""
        num_starts = self.pieces.shape[1] - self.sequence_length + 1
        if num_starts == 1:
            return 0
        return int(np.random.default_rng([self.seed, self.epoch, number]).integers(num_starts))


def _pieces(series: Sequence[np.ndarray | Tensor], max_train_length: int | None) -> Tensor:
    """Return the padded, cut, centred and non-empty pieces, (num_pieces, time, channel)."""
    if not len(series):
        raise ValueError("There is no series to train on.")
    widths = {one.shape[1] for one in series}
    if len(widths) != 1:
        raise ValueError(f"Series have {sorted(widths)} channels; every series needs the same.")
    longest = max(len(one) for one in series)
    padded = np.full((len(series), longest, series[0].shape[1]), np.nan, dtype=np.float32)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one
    pieces = torch.from_numpy(padded)
    if max_train_length is not None and longest // max_train_length >= 2:
        pieces = split_with_missing(pieces, longest // max_train_length)
    missing_at_ends = missing_steps(pieces[:, [0, -1]])
    if missing_at_ends.any():
        pieces = centre_observed_span(pieces)
    pieces = pieces[~missing_steps(pieces).all(dim=1)]
    if not len(pieces):
        raise ValueError("Every value of every series is missing: there is nothing to train on.")
    return pieces


class PretrainingWindows(WindowDataset):
    """Every window of the series; see `hf_tsrep.data.WindowDataset`."""

    @property
    def sequence_length(self) -> int:
        """Steps of every item."""
        return self.window_length


def pretraining_dataset(
    series: Sequence[np.ndarray], max_train_length: int | None, window_stride: int | None, seed: int
) -> Any:
    """Return what a pre-training reads.

    Args:
        series: Arrays (time, num_channels).
        max_train_length: See DataSettings.
        window_stride: See DataSettings.
        seed: Seed of random crops.

    Returns:
        Windows where window_stride is given and a series is longer than one, else pieces by TS2Vec's rules.

    Raises:
        SettingsError: window_stride is given without max_train_length, or below 1.
    """
    if window_stride is None:
        return PretrainingDataset(series, max_train_length, seed=seed)
    if max_train_length is None or window_stride < 1:
        raise SettingsError(
            f"window_stride={window_stride} with max_train_length={max_train_length}: windows need a length, and a "
            "stride of at least 1."
        )
    if max(map(len, series)) < max_train_length:
        return PretrainingDataset(series, max_train_length, seed=seed)
    index = observed_windows(series, max_train_length, window_stride)
    return PretrainingWindows(series, max_train_length, index=index)


def observed_windows(series: Sequence[np.ndarray], window_length: int, stride: int) -> Tensor:
    """Return the windows that hold an observed value.

    Args:
        series: Arrays (time, num_channels), NaN = missing.
        window_length: Number of steps of a window.
        stride: Steps between the starts of neighbouring windows.

    Returns:
        (num_windows, 2) int64 rows of (series, start).

    Raises:
        ValueError: No window does.
    """
    index = sliding_window_index([len(one) for one in series], window_length, stride)
    offsets = np.cumsum([0, *(len(one) + 1 for one in series)])
    counts = [np.cumsum([0, *(~np.isnan(one).all(axis=1))]) for one in series]  # observed steps before each step
    first = torch.from_numpy(offsets)[index[:, 0]] + index[:, 1]
    before = torch.from_numpy(np.concatenate(counts))
    index = index[before[first + window_length] > before[first]]
    if not len(index):
        raise ValueError("Every value of every window is missing: there is nothing to train on.")
    return index


class TensorRows(Dataset):
    """Items are rows of tensors that have one row a sample.

    Args:
        columns: Tensors by name, or mappings of tensors by name; equally many rows.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        lengths: list[int] = []
        map_tensors(columns, lambda column: lengths.append(len(column)))
        self.num_rows = lengths[0]

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return map_tensors(self.columns, lambda column: column[index])


def map_tensors(columns: Columns, function: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Return the same names with what a function makes of every tensor."""
    return {
        name: map_tensors(value, function) if isinstance(value, Mapping) else function(value)
        for name, value in columns.items()
    }


def missing_steps(past_values: Tensor) -> Tensor:
    """Return where every channel is missing: (..., time, channel) float -> (..., time) bool."""
    return past_values.isnan().all(dim=-1)


def centre_observed_span(past_values: Tensor) -> Tensor:
    """Move the span between each series' first and last observed step to the middle of the time axis.

    Args:
        past_values: (batch_size, sequence_length, num_channels).

    Returns:
        The same shape. Of an odd number of missing steps outside the span the larger half goes after it. A series
        without an observed step is returned as it is.
    """
    sequence_length = past_values.shape[1]
    missing = missing_steps(past_values)
    observed = (~missing).long()
    leading = observed.argmax(dim=1)
    trailing = observed.flip(1).argmax(dim=1)
    shift = (leading + trailing) // 2 - leading
    shift = torch.where(missing.all(dim=1), 0, shift)
    # Only missing steps are carried around the ends.
    source = (torch.arange(sequence_length, device=past_values.device) - shift[:, None]) % sequence_length
    return past_values.gather(1, source[:, :, None].expand_as(past_values))


def split_with_missing(past_values: Tensor, num_sections: int) -> Tensor:
    """Cut the time axis into sections of equal length and stack them along the batch axis.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        num_sections: how many; the first `sequence_length % num_sections` are one step longer.

    Returns:
        (num_sections * batch_size, ceil(sequence_length / num_sections), num_channels): all series of section 0 first,
        shorter sections padded with NaN at the end.

    Raises:
        ValueError: `num_sections` is not between 1 and `sequence_length`.
    """
    sequence_length = past_values.shape[1]
    if not 1 <= num_sections <= sequence_length:
        raise ValueError(f"num_sections={num_sections} must lie between 1 and the {sequence_length} steps.")
    section_length = -(-sequence_length // num_sections)
    sections = past_values.tensor_split(num_sections, dim=1)
    return torch.cat([pad_with_missing(section, section_length) for section in sections])
