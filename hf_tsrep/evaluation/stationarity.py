"""The augmented Dickey-Fuller test, and differencing until it calls a series stationary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Approximate asymptotic distribution of the statistic for a regression with a constant and no trend: the p-value is
# the normal distribution function of a polynomial in the statistic. MacKinnon, "Approximate Asymptotic Distribution
# Functions for Unit-Root and Cointegration Tests", J. Business & Economic Statistics 12(2), 1994, tables 3 and 4.
_LARGEST_STATISTIC = 2.74  # p = 1 above
_SMALLEST_STATISTIC = -18.83  # p = 0 below
_BRANCH = -1.61  # left-tail polynomial up to here
_LEFT_TAIL = (2.1659, 1.4412, 0.038269)
_RIGHT_TAIL = (1.7339, 0.93202, -0.12745, -0.010368)


@dataclass(frozen=True)
class DickeyFullerResult:
    """Result of the test; a small p-value speaks for a stationary series.

    Attributes:
        statistic: t value of the lagged level.
        p_value: approximate, asymptotic.
        used_lag: number of lagged differences in the regression.
        num_observations: rows of the regression.
    """

    statistic: float
    p_value: float
    used_lag: int
    num_observations: int


def augmented_dickey_fuller(series: np.ndarray, max_lag: int | None = None) -> DickeyFullerResult:
    """Tests the null hypothesis of a unit root (regression with a constant, number of lags by AIC).

    `difference[t] = constant + a * level[t-1] + sum_i b_i * difference[t-i]`; all numbers of lags up to `max_lag` are
    compared by AIC on the same rows, and the chosen one is fitted again on all rows it allows. Source: Said and Dickey
    (1984); lag limit of Schwert (1989), `12 * (n / 100) ** 0.25`.

    Args:
        series: (time,) finite values.
        max_lag: largest number of lags; default by the formula above.

    Returns:
        The result.

    Raises:
        ValueError: not one-dimensional, missing values, a constant series, or too few steps.
    """
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"The test needs (time,) finite values; got shape {values.shape}, or missing values.")
    if len(values) < 6:
        raise ValueError(f"The test needs at least 6 steps; got {len(values)}.")
    if np.ptp(values) == 0:
        raise ValueError("The series is constant: it has no unit root to test.")
    highest = len(values) // 2 - 2  # leaves more rows than columns
    if max_lag is None:
        max_lag = min(math.ceil(12 * (len(values) / 100) ** 0.25), highest)
    if not 0 <= max_lag <= highest:
        raise ValueError(f"max_lag {max_lag} is not in 0 .. {highest} for {len(values)} steps.")
    used_lag = _lag_by_aic(values, max_lag)
    statistic, rows = _level_t_value(values, used_lag)
    return DickeyFullerResult(statistic, mackinnon_p_value(statistic), used_lag, rows)


def mackinnon_p_value(statistic: float) -> float:
    """Returns the approximate p-value of a Dickey-Fuller statistic (constant, no trend); see the constants above."""
    if statistic > _LARGEST_STATISTIC:
        return 1.0
    if statistic < _SMALLEST_STATISTIC:
        return 0.0
    coefficients = _LEFT_TAIL if statistic <= _BRANCH else _RIGHT_TAIL
    argument = sum(coefficient * statistic**power for power, coefficient in enumerate(coefficients))
    return 0.5 * math.erfc(-argument / math.sqrt(2))


def is_stationary(series: np.ndarray, significance: float = 0.05) -> bool:
    """Returns whether the test rejects a unit root both with at most one lag and with the default limit.

    A constant series counts as stationary.
    """
    if np.ptp(series) == 0:
        return True
    return all(augmented_dickey_fuller(series, limit).p_value <= significance for limit in (1, None))


def difference_until_stationary(
    series: np.ndarray, train_length: int, significance: float = 0.05, max_order: int = 8
) -> tuple[np.ndarray, int]:
    """Takes first differences of a series until its training part is stationary (TS2Vec's KPI and Yahoo data).

    Args:
        series: (time,) finite values.
        train_length: the first steps, on which alone the test is made.
        significance: largest p-value that counts as stationary.
        max_order: most differences taken.

    Returns:
        The differenced series, (time - order,), and the order.
    """
    values = np.asarray(series, dtype=np.float64)
    for order in range(max_order):
        if is_stationary(values[:train_length], significance):
            return values, order
        values = np.diff(values)
    return values, max_order


def _lagged(values: np.ndarray, num_lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the regressors (constant, level, lagged differences) and the differences they explain."""
    differences = np.diff(values)
    rows = len(differences) - num_lags
    columns = [np.ones(rows), values[num_lags:-1]]
    columns += [differences[num_lags - lag : len(differences) - lag] for lag in range(1, num_lags + 1)]
    return np.stack(columns, axis=1), differences[num_lags:]


def _lag_by_aic(values: np.ndarray, max_lag: int) -> int:
    """Returns the number of lags with the smallest AIC; one QR decomposition gives the residuals of all of them."""
    regressors, target = _lagged(values, max_lag)
    basis, _ = np.linalg.qr(regressors)
    explained = np.cumsum((basis.T @ target) ** 2)[1:]
    residual_squares = np.maximum(target @ target - explained, np.finfo(np.float64).tiny)
    criterion = len(target) * np.log(residual_squares) + 2 * np.arange(2, max_lag + 3)
    return int(np.argmin(criterion))


def _level_t_value(values: np.ndarray, num_lags: int) -> tuple[float, int]:
    regressors, target = _lagged(values, num_lags)
    solution, *_ = np.linalg.lstsq(regressors, target, rcond=None)
    residual = target - regressors @ solution
    variance = residual @ residual / (len(target) - regressors.shape[1])
    inverse = np.linalg.pinv(regressors.T @ regressors)
    return float(solution[1] / math.sqrt(max(variance * inverse[1, 1], np.finfo(np.float64).tiny))), len(target)
