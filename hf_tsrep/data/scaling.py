"""What is done to the channels of a corpus: chosen, standardised on the training part, time features in front."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .corpus import CorpusError, CorpusMetadata, RawCorpus, SeriesRecord
from .tables import require_column
from .timestamps import TIME_FEATURE_NAMES, time_features

logger = logging.getLogger(__name__)


# How the targets of forecasts are scaled where the series themselves are not: a tokenizer takes raw values.
TARGET_SCALER = "standard"

# The UCR problems that the archive does not z-normalise; TS2Vec standardises these and no others
# (Yue et al., AAAI 2022, official data loader).
UCR_NOT_NORMALISED = frozenset(
    """AllGestureWiimoteX AllGestureWiimoteY AllGestureWiimoteZ BME Chinatown Crop EOGHorizontalSignal
    EOGVerticalSignal Fungi GestureMidAirD1 GestureMidAirD2 GestureMidAirD3 GesturePebbleZ1 GesturePebbleZ2
    GunPointAgeSpan GunPointMaleVersusFemale GunPointOldVersusYoung HouseTwenty InsectEPGRegularTrain
    InsectEPGSmallTrain MelbournePedestrian PickupGestureWiimoteZ PigAirwayPressure PigArtPressure PigCVP
    PLAID PowerCons Rock SemgHandGenderCh2 SemgHandMovementCh2 SemgHandSubjectCh2 ShakeGestureWiimoteZ
    SmoothSubspace UMD""".split()
)


@dataclass(frozen=True)
class ChannelScaler:
    """`(values - mean) / scale`, channel by channel, with population deviation as scale.

    Attributes:
        mean: (channel,) float64.
        scale: (channel,) float64, never 0: a constant channel has scale 1.
        kind: `standard` (each channel its own numbers) or `global` (one mean and one deviation for all values).
    """

    mean: np.ndarray
    scale: np.ndarray
    kind: str = "standard"

    @classmethod
    def fit(cls, series: Sequence[np.ndarray], *, kind: str = "standard") -> ChannelScaler:
        """Fit on training series; missing values are left out.

        Args:
            series: Arrays (time, channel) with one number of channels.
            kind: `standard` or `global`.

        Returns:
            The fitted scaler. A channel without any observed value gets mean 0 and scale 1.
        """
        values = np.concatenate([np.asarray(one, dtype=np.float64) for one in series])
        num_channels = values.shape[1]
        if kind == "global":
            values = values.reshape(-1, 1)
        elif kind != "standard":
            raise ValueError(f"Unknown scaler kind {kind!r}: 'standard' or 'global'.")
        observed = ~np.isnan(values)
        count = np.maximum(observed.sum(axis=0), 1)
        mean = np.where(observed, values, 0.0).sum(axis=0) / count
        scale = np.sqrt(np.where(observed, (values - mean) ** 2, 0.0).sum(axis=0) / count)
        lowest = np.where(observed, values, np.inf).min(axis=0)
        highest = np.where(observed, values, -np.inf).max(axis=0)
        scale = np.where((highest > lowest) & (scale > 0), scale, 1.0)
        for channel in np.flatnonzero(~observed.any(axis=0)):
            logger.warning("Channel %d has no observed value in the training part: it is not scaled.", channel)
        if kind == "global":
            mean, scale = np.repeat(mean, num_channels), np.repeat(scale, num_channels)
        return cls(mean=mean, scale=scale, kind=kind)

    @classmethod
    def fit_streamed(cls, blocks: Iterable[Sequence[np.ndarray]], *, kind: str = "standard") -> ChannelScaler:
        """Fit in one pass over series that are never all in memory: running means and squares (Welford; Chan et al.).

        Args:
            blocks: Some series at a time, arrays (time, channel).
            kind: `standard` or `global`.

        Returns:
            The scaler that `fit` finds, up to rounding.
        """
        from sklearn.preprocessing import StandardScaler

        running, num_channels = StandardScaler(), 0
        for block in blocks:
            values = np.concatenate(block).astype(np.float64)
            num_channels = values.shape[1]
            with np.errstate(invalid="ignore"):  # a channel without any observed value so far
                running.partial_fit(values.reshape(-1, 1) if kind == "global" else values)
        mean, scale = (np.nan_to_num(one, nan=other) for one, other in ((running.mean_, 0.0), (running.scale_, 1.0)))
        repeats = num_channels if kind == "global" else 1
        return cls(mean=np.repeat(mean, repeats), scale=np.repeat(scale, repeats), kind=kind)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return the scaled values, (..., channel) float64; NaN stays NaN."""
        return (np.asarray(values, dtype=np.float64) - self.mean) / self.scale

    def inverse_transform(self, values: np.ndarray) -> np.ndarray:
        """Return the raw values of scaled ones, (..., channel) float64."""
        return np.asarray(values, dtype=np.float64) * self.scale + self.mean

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"kind": self.kind, "mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChannelScaler:
        """Return the scaler of `to_dict`."""
        return cls(
            mean=np.asarray(values["mean"], dtype=np.float64),
            scale=np.asarray(values["scale"], dtype=np.float64),
            kind=values.get("kind", "standard"),
        )


SCALERS = ("standard", "global", "recommended")


def select_channels(corpus: RawCorpus, target: str | Sequence[str], metadata: CorpusMetadata) -> RawCorpus:
    """Keep the channels of `target`, in that order.

    Args:
        corpus: Any corpus.
        target: One name, several, or `univariate` for the column of the standard univariate protocol (the last one
            where the corpus names none).
        metadata: Names that column.

    Raises:
        CorpusError: Unknown column.
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
    """Return what suits a corpus that nobody described: nothing for labelled univariate series, else `standard`."""
    return None if corpus.task == "classification" and len(corpus.channel_names) == 1 else "standard"


def scale_channels(corpus: RawCorpus, kind: str) -> tuple[RawCorpus, ChannelScaler]:
    """Return the scaled corpus and the scaler, fitted on `train` only.

    Raises:
        CorpusError: The corpus has no training part.
    """
    scaler = ChannelScaler.fit([record.values for record in _training_part(corpus)], kind=kind)
    return _map_records(corpus, lambda record: replace(record, values=scaler.transform(record.values))), scaler


def prepend_time_features(corpus: RawCorpus) -> tuple[RawCorpus, ChannelScaler]:
    """Put TS2Vec's seven time features, standardised on `train`, in front of the channels.

    Raises:
        CorpusError: A series without timestamps.
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
