"""From a model to anomaly scores and detections, as TS2Vec does it (Yue et al., AAAI 2022, section 4.3).

Score of a step: L1 distance between the representations of the causal window that ends there, with and without the
last step masked. It is compared with the mean of the 21 scores before; the threshold comes from the training part.
All functions take one series and plain arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..modeling.detecting_time_series import THRESHOLD_DEVIATIONS, WARM_UP_STEPS


@dataclass(frozen=True)
class PreparedSeries:
    """A series as the model sees it.

    Attributes:
        values: (time - order, channel) float32, differenced and standardised by its training part.
        train_length: Steps of the training part.
        order: How often it was differenced.
    """

    values: np.ndarray
    train_length: int
    order: int


def prepare_anomaly_series(values: np.ndarray, train_length: int, difference: bool = True) -> PreparedSeries:
    """Difference a series until its training part is stationary, and standardise it by the training part.

    Use the same preparation for the series that an anomaly model is trained on.

    Args:
        values: (time, channel).
        train_length: Steps of the training part, the first ones.
        difference: Whether to difference; only series of one channel without missing values can be.

    Returns:
        The prepared series.

    Raises:
        ValueError: Differencing of several channels or missing values; a training part that is too short.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not 0 < train_length <= len(values):
        raise ValueError(f"values {values.shape} with {train_length} training steps: expected (time, channel).")
    order = 0
    if difference:
        if values.shape[1] != 1 or not np.isfinite(values).all():
            raise ValueError(
                f"Differencing needs one channel without missing values; the series has {values.shape[1]} channels "
                f"and {int((~np.isfinite(values)).sum())} missing values. Set difference=False or fill them."
            )
        differenced, order = difference_until_stationary(values[:, 0], train_length)
        values = differenced[:, None]
    train = values[: train_length - order]
    if len(train) <= WARM_UP_STEPS:
        raise ValueError(
            f"The training part has {len(train)} steps after differencing; it needs more than {WARM_UP_STEPS}."
        )
    deviation = np.nanstd(train, axis=0)
    scaled = (values - np.nanmean(train, axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return PreparedSeries(scaled.astype(np.float32), train_length - order, order)


def difference_until_stationary(
    series: np.ndarray, train_length: int, significance: float = 0.05, max_order: int = 8
) -> tuple[np.ndarray, int]:
    """Take first differences of a series until its training part is stationary (TS2Vec's KPI and Yahoo data).

    Args:
        series: (time,) finite values.
        train_length: The first steps, on which alone the test is made.
        significance: Largest p-value that counts as stationary.
        max_order: Most differences taken.

    Returns:
        The differenced series, (time - order,), and the order.

    Raises:
        ModuleNotFoundError: statsmodels, which has the test, is not installed.
    """
    values = np.asarray(series, dtype=np.float64)
    for order in range(max_order):
        if is_stationary(values[:train_length], significance):
            return values, order
        values = np.diff(values)
    return values, max_order


def is_stationary(series: np.ndarray, significance: float = 0.05) -> bool:
    """Return whether the augmented Dickey-Fuller test rejects a unit root.

    It has to with at most one lag and with the default limit, `12 * (n / 100) ** 0.25` (Schwert, 1989); the number of
    lags below the limit is chosen by AIC. A constant series counts as stationary. The search over lags takes about
    3 seconds for 20,000 steps.

    Args:
        series: (time,) finite values.
        significance: Largest p-value that counts as stationary.
    """
    if np.ptp(series) == 0:
        return True
    try:
        from statsmodels.tsa.stattools import adfuller
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Differencing until a series is stationary needs statsmodels: pip install 'hf-tsrep[anomaly]'. Without it "
            "set difference=False."
        ) from error
    return all(adfuller(series, maxlag=limit, result_object=True).pvalue <= significance for limit in (1, None))


def train_threshold(relative: np.ndarray, train_length: int) -> float:
    """Return mean + 4 deviations of the training part of relative scores, its first 22 steps dropped."""
    train = relative[WARM_UP_STEPS:train_length]
    return float(train.mean() + THRESHOLD_DEVIATIONS * train.std())


def expanding_thresholds(relative: np.ndarray, min_count: int) -> np.ndarray:
    """Return mean + 4 deviations of all relative scores up to and including each step (cold start).

    Args:
        relative: (time,) with NaN where unknown.
        min_count: Known scores needed; NaN before.

    Returns:
        (time,) float64.
    """
    known = ~np.isnan(relative)
    centre = np.mean(relative[known]) if known.any() else 0.0
    shifted = np.where(known, relative - centre, 0.0)
    count = np.cumsum(known)
    safe_count = np.maximum(count, 1)
    mean = np.cumsum(shifted) / safe_count
    variance = np.maximum(np.cumsum(shifted**2) / safe_count - mean**2, 0.0)
    thresholds = centre + mean + THRESHOLD_DEVIATIONS * np.sqrt(variance)
    return np.where(count >= max(min_count, 1), thresholds, np.nan)


def suppress_repeats(detections: np.ndarray, delay: int) -> np.ndarray:
    """Drop detections that follow a kept one within `delay` steps.

    As in the official code, the first `delay` steps of the series are never dropped.

    Args:
        detections: (time,) bool.
        delay: Steps.

    Returns:
        (time,) bool.
    """
    kept = np.zeros(len(detections), dtype=bool)
    last = -delay - 1
    for step in np.flatnonzero(detections):
        if step < delay or step - last > delay:
            kept[step] = True
            last = int(step)
    return kept


def on_regular_grid(timestamps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Put a value a step on the regular grid of its timestamps; steps that are missing in between get 0.

    The delay rule counts steps of time, so that a gap in the records is time that passes.

    Args:
        timestamps: (time,) `datetime64` or numbers, in any order, without duplicates.
        values: (time,).

    Returns:
        (grid,) of the values' type; the grid step is the smallest difference of timestamps.

    Raises:
        ValueError: Duplicate timestamps; the message names the first.
    """
    ticks = np.asarray(timestamps).astype(np.int64)
    if len(ticks) < 2:
        return np.asarray(values)
    order = np.argsort(ticks, kind="stable")
    ticks, ordered = ticks[order], np.asarray(values)[order]
    step = int(np.diff(ticks).min())
    if step == 0:
        first = int(np.flatnonzero(np.diff(ticks) == 0)[0])
        raise ValueError(f"Timestamp {np.asarray(timestamps)[order[first]]} occurs twice; keep one row of it.")
    position = (ticks - ticks[0]) // step
    grid = np.zeros(int(position[-1]) + 1, dtype=ordered.dtype)
    grid[position] = ordered
    return grid
