"""Results files as rows of a card: the table that people read and the model-index that the Hub reads."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

logger = logging.getLogger(__name__)

HUB_TASKS = {"forecasting": "time-series-forecasting", "classification": "time-series-classification"}


@dataclass(frozen=True)
class ResultRow:
    """One number of a card.

    Args:
        task: What was evaluated, such as "forecasting".
        corpus: Name of the corpus.
        setting: Variant of the protocol, such as "multivariate"; empty where there is one only.
        metric: Name of the metric, such as "mse_24".
        values: One value a run.
        seeds: The run's seeds, None where a result does not say.
        fingerprint: Hash of the corpus's values, or None.
    """

    task: str
    corpus: str
    setting: str
    metric: str
    values: tuple[float, ...]
    seeds: tuple[int | None, ...]
    fingerprint: str | None

    @property
    def mean(self) -> float:
        """Mean over the runs; the value itself where there is one."""
        return self.values[0] if len(self.values) == 1 else statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the runs, None for one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def table_line(self) -> str:
        """The row in a Markdown table: corpus, task, metric, value, seeds."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.4g}"
        task = f"{self.task}, {self.setting}" if self.setting else self.task
        seeds = ", ".join("not recorded" if seed is None else str(seed) for seed in self.seeds)
        return f"| {self.corpus} | {task} | {self.metric} | {self.mean:.4g}{spread} | {seeds} |"


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the results objects of a file: one object, a list of them, or {"results": [...]}."""
    loaded = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(loaded, dict):
        loaded = loaded.get("results", [loaded])
    return list(loaded)


def result_rows(results: Iterable[Any]) -> list[ResultRow]:
    """Gather results objects into rows; runs of one task, corpus and setting with different seeds share their rows.

    Args:
        results: Dictionaries (or objects with to_dict) with `task`, `corpus` (a name, or a dictionary with name and
            fingerprint), `metrics` (numbers by name; nested names are joined), and, where known, `seed`,
            `corpus_fingerprint` and `settings` (whose `setting` is the variant).

    Returns:
        Rows in the order of the results.

    Raises:
        ValueError: A result has no task, corpus or metrics.
    """
    gathered: dict[tuple[str, str, str, str, str | None], list[tuple[float, int | None]]] = {}
    for number, result in enumerate(results):
        plain = result if isinstance(result, Mapping) else result.to_dict()
        for name in ("task", "corpus", "metrics"):
            if not plain.get(name):
                raise ValueError(f"Result {number} has no {name!r}; it has {', '.join(map(str, plain))}.")
        corpus, fingerprint = _corpus(plain)
        settings = plain.get("settings") or {}
        setting = str(plain.get("setting") or settings.get("setting") or "")
        for metric, value in _flat_numbers(plain["metrics"]).items():
            key = (str(plain["task"]), corpus, setting, metric, fingerprint)
            gathered.setdefault(key, []).append((value, plain.get("seed")))
    return [
        ResultRow(*key[:4], tuple(value for value, _ in runs), tuple(seed for _, seed in runs), key[4])
        for key, runs in gathered.items()
    ]


def eval_results(rows: Sequence[ResultRow]) -> list[EvalResult]:
    """Turn rows into the entries of a model-index; values that are not finite are left out, with a warning."""
    from huggingface_hub import EvalResult

    entries = []
    for row in rows:
        if not math.isfinite(row.mean):
            logger.warning("%s of %s is %s and is left out of the model-index.", row.metric, row.corpus, row.mean)
            continue
        runs = {"seeds": list(row.seeds), "standard_deviation": row.deviation}
        entries.append(
            EvalResult(
                task_type=HUB_TASKS.get(row.task, row.task.replace("_", "-")),
                task_name=row.task,
                dataset_type=row.corpus,
                dataset_name=row.corpus,
                dataset_config=row.setting or None,
                dataset_split="test",
                dataset_args=None if row.fingerprint is None else {"fingerprint": row.fingerprint},
                metric_type=row.metric,
                metric_value=row.mean,
                metric_args={name: value for name, value in runs.items() if value is not None},
            )
        )
    return entries


def _corpus(result: Mapping[str, Any]) -> tuple[str, str | None]:
    corpus = result["corpus"]
    if isinstance(corpus, Mapping):
        return public_name(str(corpus["name"])), corpus.get("fingerprint") or result.get("corpus_fingerprint")
    return public_name(str(corpus)), result.get("corpus_fingerprint")


def public_name(corpus: str) -> str:
    """Return a corpus's name as it may be published: of a path only its last part."""
    path = Path(corpus)
    return path.name if path.is_absolute() or path.exists() or corpus.startswith(("~", ".")) else corpus


def _flat_numbers(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            numbers |= _flat_numbers(value, f"{prefix}{name}_")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers
