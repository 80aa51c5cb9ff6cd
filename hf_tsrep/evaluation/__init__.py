"""Protocols that evaluate frozen representations, their metrics, and result files. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..modeling.detecting_time_series import anomaly_scores as anomaly_scores
    from ..results import EvaluationResult as EvaluationResult
    from ..results import load_results as load_results
    from ..results import read_results as read_results
    from ..results import write_results as write_results
    from .anomaly import evaluate_anomaly_detection as evaluate_anomaly_detection
    from .anomaly_scoring import prepare_anomaly_series as prepare_anomaly_series
    from .classification import classification_metrics as classification_metrics
    from .classification import evaluate_classification as evaluate_classification
    from .classification import fit_logistic_regression as fit_logistic_regression
    from .classification import fit_nearest_neighbour as fit_nearest_neighbour
    from .classification import fit_svm as fit_svm
    from .clustering import clustering_metrics as clustering_metrics
    from .clustering import evaluate_clustering as evaluate_clustering
    from .evaluate_metrics import load_metric as load_metric
    from .evaluate_metrics import save_metric as save_metric
    from .forecasting import evaluate_forecasting as evaluate_forecasting
    from .forecasting import ridge_forecast as ridge_forecast
    from .generation import evaluate_generation as evaluate_generation
    from .protocols import PROTOCOLS as PROTOCOLS
    from .protocols import make_result as make_result
    from .published import published_value as published_value
    from .result_tables import results_table as results_table
    from .volume_under_surface import vus_pr as vus_pr

_HOMES = {
    "anomaly": ("evaluate_anomaly_detection",),
    "anomaly_scoring": ("prepare_anomaly_series",),
    "classification": (
        "classification_metrics",
        "evaluate_classification",
        "fit_logistic_regression",
        "fit_nearest_neighbour",
        "fit_svm",
    ),
    "clustering": ("clustering_metrics", "evaluate_clustering"),
    "evaluate_metrics": ("load_metric", "save_metric"),
    "forecasting": ("evaluate_forecasting", "ridge_forecast"),
    "generation": ("evaluate_generation",),
    ".modeling.detecting_time_series": ("anomaly_scores",),
    "protocols": ("PROTOCOLS", "make_result"),
    "published": ("published_value",),
    ".results": ("EvaluationResult", "load_results", "read_results", "write_results"),
    "result_tables": ("results_table",),
    "volume_under_surface": ("vus_pr",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
