"""The metrics as `evaluate.Metric` objects, without a script on the Hub: `load_metric("macro_f1").compute(...)`.

They accumulate with `add` and `add_batch`, work in several processes and need no network. For large arrays call the
functions of `hf_tsrep.evaluation.metrics`: the accumulation of `evaluate` is a hundred times slower.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, ClassVar

import datasets
import evaluate

from . import metrics
from .volume_under_surface import vus_pr


class FunctionMetric(evaluate.Metric):
    """An `evaluate.Metric` that calls `function(references, predictions)`."""

    metric_name: ClassVar[str]
    function: ClassVar[Callable[..., Any]]
    prediction_type: ClassVar[str] = "int64"
    reference_type: ClassVar[str] = "int64"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)

    @property
    def name(self) -> str:
        """Name of the metric, the key of its result."""
        return self.metric_name

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).function.__doc__ or "").strip(),
            citation="",
            inputs_description="predictions and references, one value a sample",
            features=datasets.Features(
                {
                    "predictions": self._feature(self.prediction_type),
                    "references": self._feature(self.reference_type),
                }
            ),
        )

    @staticmethod
    def _feature(kind: str) -> Any:
        if kind == "list<float32>":
            return datasets.List(datasets.Value("float32"))
        return datasets.Value(kind)

    def _compute(self, *, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        return {self.metric_name: type(self).function(references, predictions, **settings)}


class MeanSquaredError(FunctionMetric):
    """`metrics.mean_squared_error` of numbers."""

    metric_name = "mean_squared_error"
    function = staticmethod(metrics.mean_squared_error)
    prediction_type = reference_type = "float32"


class MeanAbsoluteError(FunctionMetric):
    """`metrics.mean_absolute_error` of numbers."""

    metric_name = "mean_absolute_error"
    function = staticmethod(metrics.mean_absolute_error)
    prediction_type = reference_type = "float32"


class Accuracy(FunctionMetric):
    """`metrics.accuracy` of class ids."""

    metric_name = "accuracy"
    function = staticmethod(metrics.accuracy)


class MacroF1(FunctionMetric):
    """`metrics.macro_f1` of class ids."""

    metric_name = "macro_f1"
    function = staticmethod(metrics.macro_f1)


class CohenKappa(FunctionMetric):
    """`metrics.cohen_kappa` of class ids."""

    metric_name = "cohen_kappa"
    function = staticmethod(metrics.cohen_kappa)


class Auprc(FunctionMetric):
    """`metrics.auprc`: predictions are rows of decision values, one a class."""

    metric_name = "auprc"
    function = staticmethod(metrics.auprc)
    prediction_type = "list<float32>"


class AreaUnderPrecisionRecall(FunctionMetric):
    """`metrics.area_under_precision_recall`: predictions are scores, references 0 or 1."""

    metric_name = "area_under_precision_recall"
    function = staticmethod(metrics.area_under_precision_recall)
    prediction_type = "float32"


class VusPr(FunctionMetric):
    """`vus_pr`: predictions are scores and references 0 or 1, the steps of one series in order."""

    metric_name = "vus_pr"
    function = staticmethod(vus_pr)
    prediction_type = "float32"


class AdjustedRandIndex(FunctionMetric):
    """`metrics.adjusted_rand_index` of clusters and classes."""

    metric_name = "adjusted_rand_index"
    function = staticmethod(metrics.adjusted_rand_index)


class NormalizedMutualInformation(FunctionMetric):
    """`metrics.normalized_mutual_information` of clusters and classes."""

    metric_name = "normalized_mutual_information"
    function = staticmethod(metrics.normalized_mutual_information)


class DelayAdjustedF1(FunctionMetric):
    """`metrics.delay_adjusted_precision_recall_f1` of the steps of one series in order; `compute(delay=7)`."""

    metric_name = "delay_adjusted_f1"
    function = staticmethod(metrics.delay_adjusted_precision_recall_f1)

    def _compute(self, *, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        values = type(self).function(references, predictions, settings.get("delay", 7))
        names = ("delay_adjusted_precision", "delay_adjusted_recall", self.metric_name)
        return dict(zip(names, values, strict=True))


METRICS: dict[str, type[FunctionMetric]] = {
    metric.metric_name: metric
    for metric in (
        MeanSquaredError,
        MeanAbsoluteError,
        Accuracy,
        MacroF1,
        CohenKappa,
        Auprc,
        AreaUnderPrecisionRecall,
        VusPr,
        AdjustedRandIndex,
        NormalizedMutualInformation,
        DelayAdjustedF1,
    )
}


def load_metric(name: str, **keywords: Any) -> FunctionMetric:
    """Returns a metric by name, without a network.

    Args:
        name: a key of `METRICS`.
        **keywords: of `evaluate.Metric`, such as `num_process`, `process_id` and `experiment_id`.

    Raises:
        ValueError: unknown name; the message gives near matches.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=3, cutoff=0.3)
        raise ValueError(
            f"Unknown metric {name!r}. {'Near: ' + ', '.join(near) + '. ' if near else ''}All: {sorted(METRICS)}."
        )
    return METRICS[name](**keywords)
