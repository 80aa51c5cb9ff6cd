"""Numbers of TimeDRL (arXiv 2312.04142), from files of the official repository, each that of the best test epoch."""

from __future__ import annotations

from .published_values import PublishedTable, PublishedValue, add_errors

_SOURCE = "github.com/blacksnail789521/TimeDRL, exp_settings_and_results"
_NOTE = "the best test epoch"
_SETTINGS = ("full", "linear-probe, multivariate")
_HOURLY, _QUARTER_HOURLY = (24, 48, 168, 336, 720), (24, 48, 96, 288, 672)

_MULTIVARIATE: dict[str, tuple[tuple[int, ...], tuple[tuple[float, float], ...]]] = {
    "ett/ETTh1": (_HOURLY, ((0.327, 0.378), (0.353, 0.392), (0.411, 0.427), (0.437, 0.447), (0.446, 0.461))),
    "ett/ETTh2": (_HOURLY, ((0.183, 0.279), (0.229, 0.308), (0.334, 0.377), (0.372, 0.407), (0.395, 0.428))),
    "ett/ETTm1": (_QUARTER_HOURLY, ((0.217, 0.299), (0.279, 0.340), (0.302, 0.357), (0.377, 0.398), (0.429, 0.424))),
    "forecasting/exchange_rate": (
        _HOURLY,
        ((0.026, 0.110), (0.042, 0.143), (0.154, 0.280), (0.340, 0.422), (0.679, 0.620)),
    ),
    "forecasting/weather": (
        _HOURLY,
        ((0.101, 0.145), (0.128, 0.181), (0.194, 0.244), (0.248, 0.285), (0.323, 0.341)),
    ),
}

# accuracy, macro F1, Cohen's kappa
_CLASSIFICATION: dict[str, tuple[float, float, float]] = {
    "uea/FingerMovements": (0.65, 0.6419, 0.2961),
    "uea/PenDigits": (0.98, 0.9801, 0.9778),
    "sensor/HAR": (0.8901, 0.8941, 0.8679),
    "sensor/Epilepsy_TSTCC": (0.9778, 0.9653, 0.9307),
    "sensor/WISDM": (0.9145, 0.8237, 0.8785),
}


def timedrl_values() -> PublishedTable:
    """Return all numbers by corpus, setting and metric."""
    table: PublishedTable = {}
    for corpus, (horizons, errors) in _MULTIVARIATE.items():
        add_errors(table, corpus, _SETTINGS, horizons, errors, _SOURCE, _NOTE)
    for corpus, values in _CLASSIFICATION.items():
        for metric, value in zip(("accuracy", "macro_f1", "kappa"), values, strict=True):
            for setting in ("full", "full, smaller", "linear-probe"):
                table[corpus.lower(), setting, metric] = PublishedValue(value, _SOURCE, _NOTE)
    return table
