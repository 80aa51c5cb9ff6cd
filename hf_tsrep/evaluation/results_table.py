"""Results as a Markdown table: mean and spread over seeds, with the published number beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..results import EvaluationResult
from .published import PublishedValue, published_value

# What is shown of each protocol: exact metric names, or a name that is followed by `_HORIZON`.
MAIN_METRICS: dict[str, tuple[str, ...]] = {
    "forecasting": ("mse",),
    "classification": ("svm_accuracy",),
    "anomaly": ("f1",),
    "clustering": ("ari", "nmi"),
    "linear": ("accuracy", "mse"),
    "finetune": ("accuracy", "mse"),
}
HEADER = ("corpus", "protocol", "method", "metric", "result", "seeds", "published")


def results_table(
    results: Sequence[EvaluationResult], *, metrics: Mapping[str, Sequence[str]] | None = None, digits: int = 3
) -> str:
    """Returns a Markdown table with one row a corpus, protocol with its setting, and method.

    A cell holds the mean and, for several seeds, the sample standard deviation; several numbers of a row (horizons)
    are separated by slashes in the order of the metric column.

    Args:
        results: from `load_results`.
        metrics: protocol -> metric names to show, in place of `MAIN_METRICS`. `mse` shows `mse_24`, `mse_48`, ...
        digits: decimals.

    Returns:
        The table with a trailing line break, and below it a line for each note about a published number.

    Raises:
        ValueError: no results.
    """
    if not results:
        raise ValueError("There are no results to show.")
    shown = {**MAIN_METRICS, **(metrics or {})}
    groups: dict[tuple[str, ...], list[EvaluationResult]] = {}
    for result in results:
        groups.setdefault(_group(result), []).append(result)
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for key in sorted(groups, key=_natural):
        row, row_notes = _row(groups[key], shown, digits)
        if row:
            rows.append(row)
            notes.extend(note for note in row_notes if note not in notes)
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def _group(result: EvaluationResult) -> tuple[str, ...]:
    """Runs that differ in nothing but the seed (and the model trained with it) belong together; the latest counts."""
    variant = ", ".join(f"{name}={result.settings[name]}" for name in ("pooling",) if result.settings.get(name))
    return (result.protocol, result.corpus, result.setting, variant, result.method)


def _row(
    group: Sequence[EvaluationResult], shown: Mapping[str, Sequence[str]], digits: int
) -> tuple[tuple[str, ...], list[str]]:
    first = group[0]
    names = _metric_names(group, shown.get(first.protocol, ()))
    if not names:
        return (), []
    latest: dict[int | None, dict[str, float | None]] = {}
    for one in sorted(group, key=lambda one: one.date):  # runs of other horizons add theirs
        latest.setdefault(one.seed, {}).update(one.metrics)
    by_name = [[metrics[name] for metrics in latest.values() if name in metrics] for name in names]
    cells = [_mean_and_deviation([value for value in values if value is not None], digits) for values in by_name]
    published = [published_value(first.method, first.corpus, first.setting, name) for name in names]
    protocol = first.protocol + (
        f" ({', '.join(filter(None, _group(first)[2:4]))})" if any(_group(first)[2:4]) else ""
    )
    row = (
        first.corpus,
        protocol,
        first.method,
        _joined_names(names),
        " / ".join(cells),
        _seeds([len(values) for values in by_name]),
    )
    printed, notes = _published_cell(published, first.corpus)
    return (*row, printed), notes


def _metric_names(group: Sequence[EvaluationResult], wanted: Sequence[str]) -> list[str]:
    present = sorted({name for result in group for name in result.metrics}, key=lambda name: _natural((name,)))
    names: list[str] = []
    for name in wanted:
        by_horizon = [one for one in present if re.fullmatch(re.escape(name) + r"_\d+", one)]
        names += by_horizon or [one for one in present if one == name]
    return names


def _seeds(counts: Sequence[int]) -> str:
    """Returns one number where all numbers of a row are of as many seeds, else one for each of them."""
    return str(counts[0]) if len(set(counts)) == 1 else " / ".join(map(str, counts))


def _mean_and_deviation(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def _joined_names(names: Sequence[str]) -> str:
    """Returns `mse 24 / 48 / 168` for metrics of several horizons."""
    stems = {re.sub(r"_\d+$", "", name) for name in names}
    if len(stems) == 1 and names[0] != next(iter(stems)):
        return f"{next(iter(stems))} " + " / ".join(name.rsplit("_", 1)[1] for name in names)
    return " / ".join(names)


def _published_cell(published: Sequence[PublishedValue | None], corpus: str) -> tuple[str, list[str]]:
    if not any(published):
        return "-", []
    cell = " / ".join("-" if one is None else f"{one.value:g}" for one in published)
    notes = sorted({f"{corpus}: the published number is of {one.note}." for one in published if one and one.note})
    return cell + ("*" if notes else ""), [f"\\* {note}" for note in notes]


def _natural(key: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Sorts numbers in names by value, and ignores case."""
    parts = [re.split(r"(\d+)", text.lower()) for text in key]
    return [[(0, int(part), "") if part.isdigit() else (1, 0, part) for part in one] for one in parts]
