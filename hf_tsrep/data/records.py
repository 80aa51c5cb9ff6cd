"""What every reader returns: series as plain arrays, before they become a `datasets.DatasetDict`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

import numpy as np

from .errors import CorpusError

logger = logging.getLogger(__name__)

SPLIT_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class SeriesRecord:
    """One series.

    Attributes:
        values: (time, channel) floating point, NaN = missing.
        item_id: its name inside the corpus.
        label: class name, or None.
        target_value: the value of a regression problem, or None.
        anomaly_label: (time,) 0 or 1, or None where nobody labelled the steps.
        timestamps: (time,) `datetime64[ms]`, or None.
        freq: pandas frequency string such as `h` or `15min`; empty where unknown.
        origin: where it was read, for error messages (`file GunPoint_TRAIN.ts, line 12`).
    """

    values: np.ndarray
    item_id: str
    label: str | None = None
    target_value: float | None = None
    anomaly_label: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    freq: str = ""
    origin: str = ""

    def stretch(self, start: int, stop: int) -> SeriesRecord:
        """Returns the steps `start` to `stop` (exclusive) as a record of the same item."""
        return replace(
            self,
            values=self.values[start:stop],
            anomaly_label=None if self.anomaly_label is None else self.anomaly_label[start:stop],
            timestamps=None if self.timestamps is None else self.timestamps[start:stop],
        )


@dataclass(frozen=True)
class RawCorpus:
    """The records of a corpus, split by split, with what its file says about them.

    Attributes:
        splits: split name -> records, in the order of `SPLIT_ORDER`.
        channel_names: one name a channel.
        label_names: class names in the order of their ids, or None.
        task: `classification`, `regression`, `forecasting`, `anomaly` or `unlabelled`.
    """

    splits: dict[str, list[SeriesRecord]]
    channel_names: tuple[str, ...]
    label_names: tuple[str, ...] | None = None
    task: str = "unlabelled"
    domain: str = field(default="")


def ordered_splits(names: list[str]) -> list[str]:
    """Returns split names as train, validation, test and then the others by name."""
    return [name for name in SPLIT_ORDER if name in names] + sorted(set(names) - set(SPLIT_ORDER))


def label_order(name: str) -> tuple[bool, int, str]:
    """Sorts class names: integers by value, then the others by name."""
    is_integer = name.removeprefix("-").isdigit()
    return (not is_integer, int(name) if is_integer else 0, name)


def default_channel_names(num_channels: int) -> tuple[str, ...]:
    """Returns `value` for one channel, else `channel_0`, `channel_1`, ..."""
    return ("value",) if num_channels == 1 else tuple(f"channel_{index}" for index in range(num_channels))


def check_record(record: SeriesRecord, channel_names: tuple[str, ...]) -> None:
    """Refuses a series that no encoder can use.

    Raises:
        CorpusError: no steps, another number of channels than `channel_names`, infinite values, or nothing observed.
    """
    place = record.origin or f"series {record.item_id!r}"
    values = record.values
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] == 0:
        raise CorpusError(f"{place}: the series has shape {values.shape}; it needs at least one step and one channel.")
    if values.shape[1] != len(channel_names):
        raise CorpusError(
            f"{place}: {values.shape[1]} channels where the corpus has {len(channel_names)}. "
            "Every series needs the same channels; split the corpus or fill the absent ones with NaN."
        )
    infinite = np.isinf(values)
    if infinite.any():
        step, channel = (int(index) for index in np.argwhere(infinite)[0])
        raise CorpusError(
            f"{place}, step {step}, column {channel_names[channel]!r}: infinite value. "
            "Write missing values as NaN or an empty cell."
        )
    if np.isnan(values).all():
        raise CorpusError(
            f"{place}: every value is missing. Remove the series, or check how missing values are marked."
        )


def check_corpus(corpus: RawCorpus, name: str) -> None:
    """Checks every record and that there is at least one.

    Raises:
        CorpusError: see `check_record`; or no split, or an empty split.
    """
    if not corpus.splits:
        raise CorpusError(f"{name}: no series were found.")
    for split, records in corpus.splits.items():
        if not records:
            raise CorpusError(f"{name}, split {split!r}: no rows. Remove the split or give it series.")
        for record in records:
            check_record(record, corpus.channel_names)
