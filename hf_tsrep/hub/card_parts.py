"""Results as rows of a card: the table that people read and the model-index that the Hub reads."""

from __future__ import annotations

import json
import logging
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tsrep.evaluation.published import published_value
from hf_tsrep.results import EvaluationResult

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


WINDOW_LENGTH = 50
LICENCE_OF_WEIGHTS = "apache-2.0"
UNKNOWN_LICENCE = "unknown"
# Licences that ask for no more of what is made of a work than to name it.
_PERMISSIVE = re.compile(r"apache-2\.0|mit|isc|bsd(-.+)?|cc0-1\.0|cc-by-\d\.\d|odc-by|pddl|cdla-permissive-\d\.\d")
_USUAL_LENGTH = 200


def licence_of_weights(licences: Sequence[str | None]) -> str:
    """Return the Hub licence id of weights: apache-2.0 where every corpus is known to allow it, else unknown.

    Args:
        licences: Hub licence id of every corpus that the weights learned from; None where it is not known.
    """
    allowed = [bool(_PERMISSIVE.fullmatch((one or UNKNOWN_LICENCE).lower())) for one in licences]
    return LICENCE_OF_WEIGHTS if allowed and all(allowed) else UNKNOWN_LICENCE


@dataclass(frozen=True)
class ShownSeries:
    """The series of a card's lines of code.

    Args:
        num_channels: Number of raw channels.
        length: Number of steps.
        domain: Name of the domain that it is of; None for a model without domains.
        argument: What the lines tell the model besides the series: `, domain="..."` where it has several domains.
    """

    num_channels: int
    length: int
    domain: str | None
    argument: str

    @property
    def num_windows(self) -> int:
        """Number of windows of WINDOW_LENGTH steps."""
        return -(-self.length // WINDOW_LENGTH)


def shown_series(config: Any, extractor: Mapping[str, Any] | None, domain: str | None) -> ShownSeries:
    """Choose the series of a card's lines of code.

    Args:
        config: The model's.
        extractor: Content of preprocessor_config.json, or None.
        domain: Domain that the model was trained for last, or None where that is not known.

    Returns:
        Its domain is the one given, else the one with a head, else the first.

    Raises:
        ValueError: The model has no such domain.
    """
    domains = config.domain_entries
    if not domains:
        channels = extractor["num_channels"] if extractor else config.num_input_channels
        return ShownSeries(channels, _USUAL_LENGTH, None, "")
    with_head = [one for one in domains if "num_labels" in one]
    described = domains[config.domain_index(domain)] if domain is not None else (with_head or domains)[0]
    length = config.classifier_length(described["name"]) or _USUAL_LENGTH
    argument = f', domain="{described["name"]}"' if len(domains) > 1 else ""
    return ShownSeries(described["num_input_channels"], length, described["name"], argument)


def describe_input(config: Any) -> str:
    """Return the words for what a model takes, such as "a series of 3 input channels"."""
    domains = config.domain_entries
    if len(domains) > 1:
        channels = ", ".join(f"{one['name']} with {_channels(one['num_input_channels'])}" for one in domains)
        return f"a series of one of its {len(domains)} domains ({channels})"
    if config.takes_any_channels:
        return "a series of any number of input channels"
    return f"a series of {_channels(config.num_input_channels, 'input ')}"


def _channels(number: int, which: str = "") -> str:
    return f"{number} {which}channel{'' if number == 1 else 's'}"


HUB_TASKS = {
    "anomaly": "time-series-anomaly-detection",
    "classification": "time-series-classification",
    "clustering": "time-series-clustering",
    "forecasting": "time-series-forecasting",
    "multi-label": "time-series-classification",
    "regression": "time-series-regression",
}
# Names that the Hub has for metrics, of those that are called otherwise here; a horizon at the end is a setting.
_HUB_METRICS = {"macro_f1": "f1", "micro_f1": "f1", "r2": "r_squared", "auprc": "average_precision"}
_HORIZON = re.compile(r"_\d+$")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultRow:
    """One number of a card: a metric of runs that differ in the seed only.

    Args:
        results: The runs.
        metric: Name of the metric, such as "mse_24".
        variant: Settings that tell these runs from others in the card, such as "multivariate"; may be empty.
    """

    results: tuple[EvaluationResult, ...]
    metric: str
    variant: str

    @property
    def corpus(self) -> str:
        """Name of the corpus as it may be published."""
        return public_name(self.results[0].corpus)

    @property
    def values(self) -> list[float]:
        """The defined values, one a run."""
        return [value for one in self.results if (value := one.metrics.get(self.metric)) is not None]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs whose values are defined."""
        return [one.seed for one in self.results if one.metrics.get(self.metric) is not None]

    @property
    def mean(self) -> float | None:
        """Mean over the runs; the value itself where there is one, None where none is defined."""
        return self.values[0] if len(self.values) == 1 else statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the runs, None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def table_line(self) -> str:
        """The row in a Markdown table: corpus, protocol, metric, value, seeds, published value."""
        first = self.results[0]
        protocol = f"{first.protocol}, {self.variant}" if self.variant else first.protocol
        value = "undefined" if self.mean is None else f"{self.mean:.4g}"
        spread = "" if self.deviation is None else f" ± {self.deviation:.2g}"
        seeds = ", ".join(map(str, self.seeds or [one.seed for one in self.results]))
        published = published_value(first.method, self.corpus, first.setting, self.metric)
        note = "" if published is None else f"{published.value:g}{f' ({published.note})' if published.note else ''}"
        return f"| {self.corpus} | {protocol} | {self.metric} | {value}{spread} | {seeds} | {note} |"


def result_rows(results: Iterable[EvaluationResult | Mapping[str, Any]]) -> list[ResultRow]:
    """Gather results into rows; runs that differ in nothing but the seed (and the model trained with it) share theirs.

    Args:
        results: EvaluationResult objects, or their dictionaries as results.json has them.

    Returns:
        Rows in the order of the results.

    Raises:
        ValueError: A dictionary is no result; the message names its place and what is missing.
    """
    runs: dict[tuple[str, ...], list[EvaluationResult]] = {}
    for number, given in enumerate(results):
        result = given if isinstance(given, EvaluationResult) else _read(number, given)
        settings = json.dumps(result.to_dict().get("settings", {}), sort_keys=True)
        key = (result.protocol, result.corpus, result.corpus_fingerprint or "", result.method, settings)
        runs.setdefault(key, []).append(result)
    variants = _variants([group[0] for group in runs.values()])
    return [
        ResultRow(group, metric, variant)
        for group, variant in zip(map(tuple, runs.values()), variants, strict=True)
        for metric in dict.fromkeys(metric for one in group for metric in one.metrics)
    ]


def eval_results(rows: Sequence[ResultRow]) -> list[EvalResult]:
    """Turn rows into the entries of a model-index; undefined values are left out."""
    from huggingface_hub import EvalResult

    entries = []
    for row in rows:
        if row.mean is None:
            logger.info("%s on %s is undefined and left out of the model-index.", row.metric, row.corpus)
            continue
        first = row.results[0]
        runs = {"seeds": row.seeds, "standard_deviation": row.deviation}
        fingerprint = first.corpus_fingerprint
        entries.append(
            EvalResult(
                task_type=HUB_TASKS.get(str(first.settings.get("task", first.protocol)), first.protocol),
                task_name=first.protocol,
                dataset_type=row.corpus,
                dataset_name=row.corpus,
                dataset_config=row.variant or None,
                dataset_split="test",
                dataset_args=None if fingerprint is None else {"fingerprint": fingerprint},
                metric_type=hub_metric(row.metric),
                metric_name=row.metric,
                metric_value=row.mean,
                metric_args={name: value for name, value in runs.items() if value is not None},
            )
        )
    return entries


def hub_metric(metric: str) -> str:
    """Return the Hub's name of a metric, such as "mse" for "mse_24" and "f1" for "macro_f1"."""
    plain = _HORIZON.sub("", metric)
    return _HUB_METRICS.get(plain, plain)


def public_name(corpus: str) -> str:
    """Return a corpus's name as it may be published: of a path only its last part."""
    path = Path(corpus)
    return path.name if path.is_absolute() or path.exists() or corpus.startswith(("~", ".")) else corpus


def _read(number: int, values: Mapping[str, Any]) -> EvaluationResult:
    try:
        return EvaluationResult.from_dict(values)
    except ValueError as error:
        raise ValueError(f"Result {number}: {error}.") from error


def _variants(results: Sequence[EvaluationResult]) -> list[str]:
    """Tell results of one protocol and corpus apart: by their setting, and by the settings in which they differ."""
    variants = []
    for result in results:
        rivals = [one for one in results if (one.protocol, one.corpus) == (result.protocol, result.corpus)]
        rivals = [one for one in rivals if one.setting == result.setting]
        differing = [
            f"{name}={value}"
            for name, value in result.settings.items()
            if any(one.settings.get(name) != value for one in rivals)
        ]
        variants.append(", ".join(filter(None, (result.setting, *differing))))
    return variants
