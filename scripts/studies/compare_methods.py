"""Compare methods over many classification problems: accuracies, mean, average rank, wins, critical differences.

Usage: python scripts/studies/compare_methods.py --problems-of mug --output results/studies/mug/accuracy \
           --columns MUG=mug/full TS2Vec=ts2vec DTW=1nn-dtw

A column is LABEL=METHOD, or LABEL=METHOD/SETTING where results of the method have settings. Read are the results
below `--results`: of the classification protocol the accuracy of the support vector machine on the frozen encoder, of
classifiers of the series themselves their own; a cell is the mean over the seeds. Written are OUTPUT.md and, once two
problems have all columns, OUTPUT.png: the diagram of critical differences (Demsar 2006; aeon, which joins methods
that pairwise one-sided Wilcoxon tests with Holm's correction do not tell apart at --alpha). Mean, rank, wins and tests
take only the problems that have all columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rivals import problems_of
from scipy.stats import rankdata, wilcoxon

from hf_tsrep.results import EvaluationResult, load_results

ACCURACIES = ("svm_accuracy", "accuracy")
"""Metrics of which a result's first one counts."""


@dataclass(frozen=True)
class Column:
    """What stands in a column: the results of a method in one setting."""

    label: str
    method: str
    setting: str = ""

    def holds(self, result: EvaluationResult) -> bool:
        """Return whether a result belongs here."""
        return (result.protocol, result.method, result.setting) == ("classification", self.method, self.setting)


def read_column(text: str) -> Column:
    """Return the column of LABEL=METHOD or LABEL=METHOD/SETTING."""
    label, equals, rest = text.partition("=")
    method, _, setting = rest.partition("/")
    if not (label and equals and method):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=METHOD or LABEL=METHOD/SETTING")
    return Column(label, method, setting)


def collect(
    results: Sequence[EvaluationResult], columns: Sequence[Column], problems: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean accuracies over seeds, NaN where there is no result, and the numbers of seeds.

    Args:
        results: Of any methods, corpora and protocols; the latest of one seed counts.
        columns: What is compared.
        problems: Names of the corpora.

    Returns:
        Both (num_problems, num_columns).
    """
    latest: dict[tuple[str, int], dict[int, float]] = {}
    for result in sorted(results, key=lambda one: one.date):
        for position, column in enumerate(columns):
            accuracy = next((result.metrics[name] for name in ACCURACIES if name in result.metrics), None)
            if column.holds(result) and accuracy is not None:
                latest.setdefault((result.corpus, position), {})[result.seed] = accuracy
    cells = [[list(latest.get((name, place), {}).values()) for place in range(len(columns))] for name in problems]
    means = [[float(np.mean(cell)) if cell else np.nan for cell in row] for row in cells]
    return np.asarray(means), np.asarray([[len(cell) for cell in row] for row in cells])


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Return each column's mean rank over the rows of (num_problems, num_columns); 1 is best, ties share theirs."""
    return np.asarray(rankdata(-scores, axis=1).mean(axis=0))


def count_wins(scores: np.ndarray) -> np.ndarray:
    """Return on how many rows each column is the best or one of the best."""
    return np.asarray((scores == scores.max(axis=1, keepdims=True)).sum(axis=0))


def write_table(columns: Sequence[Column], problems: Sequence[str], scores: np.ndarray, seeds: np.ndarray) -> str:
    """Return the page: what the complete problems say, then every accuracy, the best of a complete row in bold."""
    complete = ~np.isnan(scores).any(axis=1)
    lines = [f"{complete.sum()} of {len(problems)} problems have all {len(columns)} columns.", ""]
    if complete.any():
        lines += [*_summary(columns, scores[complete]), ""]
    lines += _row(["problem", *(column.label for column in columns)], "|---" + "|---:" * len(columns) + "|")
    for name, row, is_complete, counts in zip(problems, scores, complete, seeds, strict=True):
        best = row.max() if is_complete else np.inf
        cells = ["-" if count == 0 else f"{value:.3f}" for value, count in zip(row, counts, strict=True)]
        bold = [f"**{cell}**" if value == best else cell for cell, value in zip(cells, row, strict=True)]
        lines += _row([name, *bold])
    lines += _row(["seeds", *(_seeds(counts[counts > 0]) for counts in seeds.T)])
    return "\n".join(lines) + "\n"


def _summary(columns: Sequence[Column], scores: np.ndarray) -> list[str]:
    """Return the rows of the complete problems' table, by rank, with the tests of the first column's method."""
    first, ranks, wins = columns[0].label, average_ranks(scores), count_wins(scores)
    header = ["", "average rank", "mean accuracy", "best or equal", f"{first} better / equal / worse", "p (Wilcoxon)"]
    lines = _row(header, "|---|---:|---:|---:|---:|---:|")
    for place in np.argsort(ranks, kind="stable"):
        differences = scores[:, 0] - scores[:, place]
        counts = [int(part.sum()) for part in (differences > 0, differences == 0, differences < 0)]
        compared, probability = " / ".join(map(str, counts)), "1.000"
        if differences.any():
            probability = f"{wilcoxon(differences).pvalue:.3f}"
        mine = place == 0
        mean = f"{scores[:, place].mean():.3f}"
        lines += _row(
            [columns[place].label, f"{ranks[place]:.2f}", mean, str(wins[place]),
             "-" if mine else compared, "-" if mine else probability]
        )  # fmt: skip
    return lines


def _row(cells: Sequence[str], ruler: str | None = None) -> list[str]:
    return ["| " + " | ".join(cells) + " |", *([ruler] if ruler else [])]


def _seeds(counts: np.ndarray) -> str:
    if not len(counts):
        return "-"
    return str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def draw(columns: Sequence[Column], scores: np.ndarray, alpha: float, file: Path) -> None:
    """Draw the diagram of critical differences of (num_problems, num_columns) accuracies."""
    import matplotlib as mpl

    mpl.use("Agg")
    from aeon.visualisation import plot_critical_difference
    from matplotlib import pyplot

    figure, _ = plot_critical_difference(scores, [column.label for column in columns], alpha=alpha, width=8)
    figure.savefig(file, dpi=150, bbox_inches="tight")
    pyplot.close(figure)  # pyplot keeps every figure that nobody closes


def main() -> None:
    """Write the table and the diagram that a command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=read_column, nargs="+", required=True, metavar="LABEL=METHOD/SETTING")
    parser.add_argument("--corpora", nargs="+", default=[])
    parser.add_argument("--problems-of", metavar="METHOD", help="the corpora that the method's grid classifies")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--output", type=Path, required=True, help="path of both files, without .md and .png")
    arguments = parser.parse_args()
    problems = arguments.corpora + (problems_of(arguments.problems_of) if arguments.problems_of else [])
    scores, seeds = collect(load_results(arguments.results), arguments.columns, problems)
    page = write_table(arguments.columns, problems, scores, seeds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_suffix(".md").write_text(page, encoding="utf-8")
    complete = scores[~np.isnan(scores).any(axis=1)]
    if len(complete) > 1 and len(arguments.columns) > 2:
        draw(arguments.columns, complete, arguments.alpha, arguments.output.with_suffix(".png"))
    print(page, end="")


if __name__ == "__main__":
    main()
