"""Numbers that the paper of TS2Vec prints, as the sources name them."""

from __future__ import annotations

from .published_values import PublishedTable, PublishedValue

_UNIVARIATE_SOURCE = "TS2Vec paper (arXiv 2106.10466), table 7"
_MULTIVARIATE_SOURCE = "TS2Vec paper (arXiv 2106.10466), table 8"
_UCR_SOURCE = (
    "TS2Vec paper (arXiv 2106.10466), appendix, as reprinted in table 6 of the MLRC 2022 reproducibility report"
)
_KPI_SOURCE = "TS2Vec paper (arXiv 2106.10466), as reprinted in table 5 of the Floss paper"

# (corpus, setting) -> horizons, MSE, MAE
_TS2VEC_FORECASTING: dict[tuple[str, str], tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]] = {
    ("ett/ETTh1", "multivariate"): (
        (24, 48, 168, 336, 720),
        (0.599, 0.629, 0.755, 0.907, 1.048),
        (0.534, 0.555, 0.636, 0.717, 0.79),
    ),
    ("ett/ETTh1", "univariate"): (
        (24, 48, 168, 336, 720),
        (0.039, 0.062, 0.134, 0.154, 0.163),
        (0.152, 0.191, 0.282, 0.31, 0.327),
    ),
    ("ett/ETTh2", "multivariate"): (
        (24, 48, 168, 336, 720),
        (0.398, 0.58, 1.901, 2.304, 2.65),
        (0.461, 0.573, 1.065, 1.215, 1.373),
    ),
    ("ett/ETTh2", "univariate"): (
        (24, 48, 168, 336, 720),
        (0.09, 0.124, 0.208, 0.213, 0.214),
        (0.229, 0.273, 0.36, 0.369, 0.374),
    ),
    ("ett/ETTm1", "multivariate"): (
        (24, 48, 96, 288, 672),
        (0.443, 0.582, 0.622, 0.709, 0.786),
        (0.436, 0.515, 0.549, 0.609, 0.655),
    ),
    ("ett/ETTm1", "univariate"): (
        (24, 48, 96, 288, 672),
        (0.015, 0.027, 0.044, 0.103, 0.156),
        (0.092, 0.126, 0.161, 0.246, 0.307),
    ),
}

# UCR corpus -> accuracy of the SVM on frozen representations
_TS2VEC_UCR: dict[str, float] = {
    "ArrowHead": 0.857,
    "BME": 0.993,
    "BirdChicken": 0.8,
    "CBF": 1.0,
    "Car": 0.833,
    "Coffee": 1.0,
    "DistalPhalanxOutlineAgeGroup": 0.727,
    "DistalPhalanxOutlineCorrect": 0.761,
    "DistalPhalanxTW": 0.698,
    "DodgerLoopDay": 0.562,
    "DodgerLoopWeekend": 0.964,
    "ECG200": 0.92,
    "ECGFiveDays": 1.0,
    "FaceFour": 0.932,
    "FacesUCR": 0.924,
    "Fungi": 0.957,
    "GunPoint": 0.98,
    "GunPointAgeSpan": 0.987,
    "GunPointMaleVersusFemale": 1.0,
    "GunPointOldVersusYoung": 1.0,
    "Herring": 0.641,
    "InsectEPGRegularTrain": 1.0,
    "ItalyPowerDemand": 0.925,
    "Lightning7": 0.863,
    "MiddlePhalanxOutlineCorrect": 0.838,
    "MiddlePhalanxTW": 0.584,
    "OliveOil": 0.9,
    "PickupGestureWiimoteZ": 0.82,
    "Plane": 1.0,
    "ProximalPhalanxOutlineAgeGroup": 0.834,
    "ProximalPhalanxOutlineCorrect": 0.887,
    "ProximalPhalanxTW": 0.824,
    "Rock": 0.7,
    "ShakeGestureWiimoteZ": 0.94,
    "SonyAIBORobotSurface1": 0.903,
    "SonyAIBORobotSurface2": 0.871,
    "SyntheticControl": 0.997,
    "ToeSegmentation1": 0.917,
    "Trace": 1.0,
    "Wine": 0.87,
}

# setting -> F1, precision, recall on all 58 series of the KPI competition
_TS2VEC_KPI = {"normal": (0.677, 0.929, 0.533), "cold-start": (0.676, 0.907, 0.54)}


def ts2vec_values() -> PublishedTable:
    """Return all numbers by corpus, setting and metric."""
    table: PublishedTable = {}
    for (corpus, setting), (horizons, *errors) in _TS2VEC_FORECASTING.items():
        source = _UNIVARIATE_SOURCE if setting == "univariate" else _MULTIVARIATE_SOURCE
        for metric, values in zip(("mse", "mae"), errors, strict=True):
            for horizon, value in zip(horizons, values, strict=True):
                table[corpus.lower(), setting, f"{metric}_{horizon}"] = PublishedValue(value, source)
    for corpus, value in _TS2VEC_UCR.items():
        table[f"ucr/{corpus.lower()}", "", "svm_accuracy"] = PublishedValue(value, _UCR_SOURCE)
    for setting, numbers in _TS2VEC_KPI.items():
        for metric, value in zip(("f1", "precision", "recall"), numbers, strict=True):
            table["kpi", setting, metric] = PublishedValue(value, _KPI_SOURCE, "all 58 KPI series")
    return table
