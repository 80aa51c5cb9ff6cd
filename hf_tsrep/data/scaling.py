"""Standardisation, fitted on the training part only."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
        """Fits on training series; missing values are left out.

        Args:
            series: arrays (time, channel) with one number of channels.
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

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Returns the scaled values, (..., channel) float64; NaN stays NaN."""
        return (np.asarray(values, dtype=np.float64) - self.mean) / self.scale

    def inverse_transform(self, values: np.ndarray) -> np.ndarray:
        """Returns the raw values of scaled ones, (..., channel) float64."""
        return np.asarray(values, dtype=np.float64) * self.scale + self.mean

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return {"kind": self.kind, "mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChannelScaler:
        """Returns the scaler of `to_dict`."""
        return cls(
            mean=np.asarray(values["mean"], dtype=np.float64),
            scale=np.asarray(values["scale"], dtype=np.float64),
            kind=values.get("kind", "standard"),
        )
