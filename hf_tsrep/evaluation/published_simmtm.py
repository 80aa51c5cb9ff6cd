"""Numbers of SimMTM (arXiv 2302.00861), and for single horizons those that another paper (GPHT) prints of it."""

from __future__ import annotations

from .published_values import PublishedTable, PublishedValue, add_errors

_FORECASTING_SOURCE = "GPHT paper (arXiv 2402.16516), table 2, column SimMTM"
_FORECASTING_NOTE = "another paper's run of SimMTM (GPHT)"
_EPILEPSY_SOURCE = "SimMTM paper (arXiv 2302.00861), as quoted by a reproduction"
_HORIZONS = (96, 192, 336, 720)

_FINETUNED: dict[str, tuple[tuple[float, float], ...]] = {
    "ett/ETTh1": ((0.383, 0.411), (0.417, 0.432), (0.425, 0.439), (0.437, 0.456)),
    "ett/ETTh2": ((0.298, 0.350), (0.360, 0.388), (0.388, 0.410), (0.412, 0.435)),
    "ett/ETTm1": ((0.296, 0.349), (0.334, 0.373), (0.371, 0.398), (0.418, 0.425)),
    "forecasting/weather": ((0.152, 0.201), (0.198, 0.245), (0.249, 0.285), (0.324, 0.335)),
}


def simmtm_values() -> PublishedTable:
    """Return all numbers by corpus, setting and metric."""
    table: PublishedTable = {}
    for corpus, errors in _FINETUNED.items():
        settings = ("full, multivariate", "full")
        add_errors(table, corpus, settings, _HORIZONS, errors, _FORECASTING_SOURCE, _FORECASTING_NOTE)
    for setting in ("full", "full, last epoch"):
        table["sensor/epilepsy_tfc", setting, "accuracy"] = PublishedValue(0.9475, _EPILEPSY_SOURCE)
    return table
