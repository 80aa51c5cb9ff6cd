"""Results as Markdown tables: mean and spread over seeds, the published number and how it was chosen beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..results import EvaluationResult
from .published import PublishedValue, published_value

# What is shown of each protocol: exact metric names, or a name that is followed by `_HORIZON`.
MAIN_METRICS: dict[str, tuple[str, ...]] = {
    "forecasting": ("mse",),
    "classification": ("svm_accuracy", "accuracy"),  # the latter of classifiers of the series themselves
    "anomaly": ("f1",),
    "clustering": ("ari", "nmi"),
    "generation": ("mse",),
    "linear": ("accuracy", "mse"),
    "finetune": ("accuracy", "mse"),
}
TASKS = {
    "forecasting": "Forecasting",
    "classification": "Classification",
    "anomaly": "Anomaly detection",
    "clustering": "Clustering",
}
"""Heading of each task, in the order of the tables."""
HEADER = ("corpus", "method", "protocol", "metric", "result", "seeds", "published")
_METRICS_OF_FORECASTS = ("mse", "mae")


def results_table(
    results: Sequence[EvaluationResult], *, metrics: Mapping[str, Sequence[str]] | None = None, digits: int = 3
) -> str:
    """Return a Markdown table for each task, with one row a corpus, method, and protocol with its setting.

    A cell holds the mean and, for several seeds, the sample standard deviation; several numbers of a row (horizons)
    are separated by slashes in the order of the metric column. The corpus stands in the first of its rows. A number
    in brackets after what is published leads to the line below the table that says where it is printed, how it was
    chosen, and what differs from the run beside it.

    Args:
        results: From `load_results`.
        metrics: Protocol -> metric names to show, in place of `MAIN_METRICS`. `mse` shows `mse_24`, `mse_48`, ...
        digits: Decimals.

    Returns:
        The tables with their headings and a trailing line break.

    Raises:
        ValueError: There are no results.
    """
    if not results:
        raise ValueError("There are no results to show.")
    shown = {**MAIN_METRICS, **(metrics or {})}
    sections: dict[str, dict[tuple[str, ...], list[EvaluationResult]]] = {}
    for result in results:
        sections.setdefault(task_of(result), {}).setdefault(_group(result), []).append(result)
    order = [*TASKS, *sorted(set(sections) - set(TASKS))]
    tables = {task: _table(sections[task], shown, digits) for task in order if task in sections}
    return "\n".join(f"## {TASKS.get(task, task)}\n\n{table}" for task, table in tables.items() if table)


def task_of(result: EvaluationResult) -> str:
    """Return what a result measures: the protocol's task or, of a protocol for several, that of its settings."""
    named = str(result.settings.get("task") or result.protocol)
    if named in TASKS or not result.metrics:
        return named
    # Early records of training protocols do not tell their task.
    forecasts = any(name.partition("_")[0] in _METRICS_OF_FORECASTS for name in result.metrics)
    return "forecasting" if forecasts else "classification"


def _table(
    groups: Mapping[tuple[str, ...], Sequence[EvaluationResult]], shown: Mapping[str, Sequence[str]], digits: int
) -> str:
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    previous = ""
    for key in sorted(groups, key=_natural):
        row = _row(groups[key], shown, digits, notes)
        if row:
            corpus = key[0]
            rows.append(("" if corpus == previous else corpus, *row))
            previous = corpus
    if not rows:
        return ""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"- ({number}) {note}" for number, note in enumerate(notes, 1))] if notes else []
    return "\n".join(lines) + "\n"


def _group(result: EvaluationResult) -> tuple[str, ...]:
    """Runs that differ in nothing but the seed (and the model trained with it) belong together; the latest counts."""
    variant = ", ".join(f"{name}={result.settings[name]}" for name in ("pooling",) if result.settings.get(name))
    return (result.corpus, result.method, result.protocol, result.setting, variant)


def _row(
    group: Sequence[EvaluationResult], shown: Mapping[str, Sequence[str]], digits: int, notes: list[str]
) -> tuple[str, ...]:
    """Return the cells after the corpus; what is to be said of the published numbers is added to the notes."""
    first = group[0]
    names = _metric_names(group, shown.get(first.protocol, ()))
    if not names:
        return ()
    latest: dict[int | None, dict[str, float | None]] = {}
    for one in sorted(group, key=lambda one: one.date):  # runs of other horizons add theirs
        latest.setdefault(one.seed, {}).update(one.metrics)
    by_name = [[metrics[name] for metrics in latest.values() if name in metrics] for name in names]
    cells = [_mean_and_deviation([value for value in values if value is not None], digits) for values in by_name]
    published = [published_value(first.method, first.corpus, first.setting, name) for name in names]
    variant = ", ".join(filter(None, _group(first)[3:]))
    return (
        first.method,
        f"{first.protocol} ({variant})" if variant else first.protocol,
        _joined_names(names),
        " / ".join(cells),
        _seeds([len(values) for values in by_name]),
        _published_cell(published, notes),
    )


def _metric_names(group: Sequence[EvaluationResult], wanted: Sequence[str]) -> list[str]:
    present = sorted({name for result in group for name in result.metrics}, key=lambda name: _natural((name,)))
    names: list[str] = []
    for name in wanted:
        by_horizon = [one for one in present if re.fullmatch(re.escape(name) + r"_\d+", one)]
        names += by_horizon or [one for one in present if one == name]
    return names


def _seeds(counts: Sequence[int]) -> str:
    """Return one number where all numbers of a row are of as many seeds, else one for each of them."""
    return str(counts[0]) if len(set(counts)) == 1 else " / ".join(map(str, counts))


def _mean_and_deviation(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def _joined_names(names: Sequence[str]) -> str:
    """Return `mse 24 / 48 / 168` for metrics of several horizons."""
    stems = {re.sub(r"_\d+$", "", name) for name in names}
    if len(stems) == 1 and names[0] != next(iter(stems)):
        return f"{next(iter(stems))} " + " / ".join(name.rsplit("_", 1)[1] for name in names)
    return " / ".join(names)


def _published_cell(published: Sequence[PublishedValue | None], notes: list[str]) -> str:
    if not any(published):
        return "-"
    told = list(dict.fromkeys(_note(one) for one in published if one))
    notes += [note for note in told if note not in notes]
    numbers = ", ".join(str(notes.index(note) + 1) for note in told)
    return " / ".join("-" if one is None else f"{one.value:g}" for one in published) + f" ({numbers})"


def _note(published: PublishedValue) -> str:
    of_what = f" The number is of {published.note}." if published.note else ""
    return f"{published.source}. Selection: {published.selection or 'not told'}.{of_what}"


def _natural(key: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Sort numbers in names by value, and ignores case."""
    parts = [re.split(r"(\d+)", text.lower()) for text in key]
    return [[(0, int(part), "") if part.isdigit() else (1, 0, part) for part in one] for one in parts]
