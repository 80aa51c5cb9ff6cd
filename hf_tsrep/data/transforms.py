"""Choosing channels, scaling on the training part and putting time features in front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .errors import CorpusError
from .metadata import CorpusMetadata
from .records import RawCorpus, SeriesRecord
from .scaling import ChannelScaler
from .tables import require_column
from .timestamps import TIME_FEATURE_NAMES, time_features

SCALERS = ("standard", "global", "recommended")


def select_channels(corpus: RawCorpus, target: str | Sequence[str], metadata: CorpusMetadata) -> RawCorpus:
    """Keeps the channels of `target`, in that order.

    Args:
        corpus: any corpus.
        target: one name, several, or `univariate` for the column of the standard univariate protocol (the last one
            where the corpus names none).
        metadata: names that column.

    Raises:
        CorpusError: unknown column.
    """
    names = corpus.channel_names
    wanted = [target] if isinstance(target, str) else list(target)
    if wanted == ["univariate"] and "univariate" not in names:
        wanted = [metadata.target if metadata.target in names else names[-1]]
    if not wanted:
        raise CorpusError(f"{metadata.name}: target is an empty list; name at least one of {list(names)}.")
    for name in wanted:
        require_column(name, names, metadata.name)
    channels = [names.index(name) for name in wanted]
    chosen = _map_records(corpus, lambda record: replace(record, values=record.values[:, channels]))
    return replace(chosen, channel_names=tuple(wanted))


def recommended_scaler(corpus: RawCorpus) -> str | None:
    """Returns what suits a corpus that nobody described: nothing for labelled univariate series, else `standard`."""
    return None if corpus.task == "classification" and len(corpus.channel_names) == 1 else "standard"


def scale_channels(corpus: RawCorpus, kind: str) -> tuple[RawCorpus, ChannelScaler]:
    """Returns the scaled corpus and the scaler, fitted on `train` only.

    Raises:
        CorpusError: the corpus has no training part.
    """
    scaler = ChannelScaler.fit([record.values for record in _training_part(corpus)], kind=kind)
    return _map_records(corpus, lambda record: replace(record, values=scaler.transform(record.values))), scaler


def prepend_time_features(corpus: RawCorpus) -> tuple[RawCorpus, ChannelScaler]:
    """Puts TS2Vec's seven time features, standardised on `train`, in front of the channels.

    Raises:
        CorpusError: a series without timestamps.
    """
    scaler = ChannelScaler.fit([_features_of(record) for record in _training_part(corpus)])

    def with_features(record: SeriesRecord) -> SeriesRecord:
        features = scaler.transform(_features_of(record))
        return replace(record, values=np.concatenate([features, record.values], axis=1))

    extended = _map_records(corpus, with_features)
    return replace(extended, channel_names=TIME_FEATURE_NAMES + corpus.channel_names), scaler


def _features_of(record: SeriesRecord) -> np.ndarray:
    if record.timestamps is None:
        raise CorpusError(
            f"{record.origin or record.item_id}: time features need timestamps, and the series has none. "
            "Name the date column with timestamp_column, or leave time_features out."
        )
    return time_features(record.timestamps)


def _training_part(corpus: RawCorpus) -> list[SeriesRecord]:
    if "train" not in corpus.splits:
        raise CorpusError(
            f"The corpus has no 'train' split to fit a scaler on, only {list(corpus.splits)}."
            " Load it without a scaler."
        )
    return corpus.splits["train"]


def _map_records(corpus: RawCorpus, change: Callable[[SeriesRecord], SeriesRecord]) -> RawCorpus:
    splits = {name: [change(record) for record in records] for name, records in corpus.splits.items()}
    return replace(corpus, splits=splits)
