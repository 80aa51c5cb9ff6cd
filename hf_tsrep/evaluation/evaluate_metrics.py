"""Metrics as `evaluate.Metric` objects: `load_metric("macro_f1").compute(...)`, without a network.

They accumulate with `add` and `add_batch` and work in several processes. `save_metric` writes one as a folder for the
Hub, from which everybody has it by `evaluate.load("NAME/macro_f1")`. For large arrays call scikit-learn: the
accumulation of `evaluate` is a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import datasets
import evaluate
import sklearn.metrics

from ..errors import near_matches
from . import metrics
from .volume_under_surface import vus_pr


class FunctionMetric(evaluate.Metric):
    """An `evaluate.Metric` that is one function of references and predictions.

    A subclass says `metric_name`, the key of the result, `function(references, predictions)`, and the types of one
    sample; its docstring is the description that users read.
    """

    metric_name: ClassVar[str]
    function: ClassVar[Callable[..., Any]]
    prediction_type: ClassVar[str] = "int64"
    reference_type: ClassVar[str] = "int64"

    # `evaluate` finds the constructor of a loaded script by its signature.
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)

    @property
    def name(self) -> str:
        """Name of the metric, the key of its result."""
        return self.metric_name

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation="",
            inputs_description="predictions and references, one value a sample",
            features=datasets.Features(
                {"predictions": _feature(self.prediction_type), "references": _feature(self.reference_type)}
            ),
        )

    def _compute(self, *, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        return {self.metric_name: float(type(self).function(references, predictions, **settings))}


def _feature(kind: str) -> Any:
    return datasets.List(datasets.Value("float32")) if kind == "list<float32>" else datasets.Value(kind)


class MeanSquaredError(FunctionMetric):
    """Mean of the squared differences of numbers."""

    metric_name = "mean_squared_error"
    function = staticmethod(sklearn.metrics.mean_squared_error)
    prediction_type = reference_type = "float32"


class MeanAbsoluteError(FunctionMetric):
    """Mean of the absolute differences of numbers."""

    metric_name = "mean_absolute_error"
    function = staticmethod(sklearn.metrics.mean_absolute_error)
    prediction_type = reference_type = "float32"


class Accuracy(FunctionMetric):
    """Share of equal class ids."""

    metric_name = "accuracy"
    function = staticmethod(sklearn.metrics.accuracy_score)


class MacroF1(FunctionMetric):
    """Unweighted mean over classes of the F1 score."""

    metric_name = "macro_f1"

    @staticmethod
    def function(references: Any, predictions: Any) -> float:
        """Return the macro F1 of class ids; a class that is never both true and predicted counts 0."""
        return float(sklearn.metrics.f1_score(references, predictions, average="macro", zero_division=0))


class CohenKappa(FunctionMetric):
    """Agreement of class ids beyond chance."""

    metric_name = "cohen_kappa"
    function = staticmethod(sklearn.metrics.cohen_kappa_score)


class Auprc(FunctionMetric):
    """Mean over classes of the average precision; predictions are rows of decision values, one a class."""

    metric_name = "auprc"
    function = staticmethod(metrics.auprc)
    prediction_type = "list<float32>"


class AreaUnderPrecisionRecall(FunctionMetric):
    """Average precision; predictions are scores, references 0 or 1."""

    metric_name = "area_under_precision_recall"
    function = staticmethod(sklearn.metrics.average_precision_score)
    prediction_type = "float32"


class VusPr(FunctionMetric):
    """Volume under the precision-recall surface; scores and 0 or 1 of the steps of one series in order."""

    metric_name = "vus_pr"
    function = staticmethod(vus_pr)
    prediction_type = "float32"


class AdjustedRandIndex(FunctionMetric):
    """Rand index of clusters and classes, adjusted for chance."""

    metric_name = "adjusted_rand_index"
    function = staticmethod(sklearn.metrics.adjusted_rand_score)


class NormalizedMutualInformation(FunctionMetric):
    """Mutual information of clusters and classes over the mean of both entropies."""

    metric_name = "normalized_mutual_information"
    function = staticmethod(sklearn.metrics.normalized_mutual_info_score)


class DelayAdjustedF1(FunctionMetric):
    """Precision, recall and F1 after the delay rule; the steps of one series in order, `compute(delay=7)`."""

    metric_name = "delay_adjusted_f1"
    function = staticmethod(metrics.delay_adjusted_predictions)

    def _compute(self, *, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        adjusted = metrics.delay_adjusted_predictions(references, predictions, settings.get("delay", 7))
        names = ("delay_adjusted_precision", "delay_adjusted_recall", self.metric_name)
        return dict(zip(names, metrics.precision_recall_f1(references, adjusted), strict=True))


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
    """Return a metric by name.

    Args:
        name: A key of `METRICS`.
        **keywords: Of `evaluate.Metric`, such as `num_process`, `process_id` and `experiment_id`.

    Raises:
        ValueError: Unknown name; the message gives near matches.
    """
    return _metric_class(name)(**keywords)


def save_metric(name: str, folder: str | Path) -> Path:
    """Write a metric as a folder that can be pushed to the Hub as a Space, or loaded by `evaluate.load`.

    `huggingface_hub.upload_folder(repo_id="NAME/macro_f1", folder_path=folder, repo_type="space")` publishes it, once
    the Space exists (`create_repo(..., repo_type="space", space_sdk="static")`). Whoever loads it needs this package.

    Args:
        name: A key of `METRICS`.
        folder: Where to; its last part should be the metric's name, by which `evaluate` finds the script.

    Returns:
        The script, `folder/NAME.py`.

    Raises:
        ValueError: Unknown name; the message gives near matches.
    """
    metric = _metric_class(name)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    script = place / f"{name}.py"
    description = (metric.__doc__ or "").strip()
    # A class of the script's own: `evaluate` takes the first metric class that it finds there.
    script.write_text(
        f'"""{description}"""\n\n'
        f"import hf_tsrep.evaluation.evaluate_metrics\n\n\n"
        f"class {metric.__name__}(hf_tsrep.evaluation.evaluate_metrics.{metric.__name__}):\n"
        f'    """{description}"""\n',
        encoding="utf-8",
    )
    (place / "requirements.txt").write_text("hf-tsrep\n", encoding="utf-8")
    (place / "README.md").write_text(
        f"---\ntitle: {name}\nsdk: static\ntags: [evaluate, metric]\ndescription: {description}\n---\n\n"
        f"# {name}\n\n{description}\n\n"
        f'```python\nimport evaluate\n\nmetric = evaluate.load("OWNER/{name}")\n```\n',
        encoding="utf-8",
    )
    return script


def _metric_class(name: str) -> type[FunctionMetric]:
    if name not in METRICS:
        raise ValueError(f"Unknown metric {name!r}.{near_matches(name, METRICS, cutoff=0.3)} All: {sorted(METRICS)}.")
    return METRICS[name]
