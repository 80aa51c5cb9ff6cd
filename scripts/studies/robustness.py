"""Measure how accuracy falls as test series are disturbed: noise, missing values, warped time.

Usage: python scripts/studies/robustness.py --corpora ucr/ECG200 uea/Epilepsy --seeds 1 \
           --methods MUG=mug/full TS2Vec=ts2vec DTW=1nn-dtw --output results/studies/mug/robustness

Encoder and support vector machine (for the classifiers of `rivals.py`: their training part) see clean training data
only; what is disturbed are the test series, in the same way for every method. A method is LABEL=METHOD or
LABEL=METHOD/VARIANT, of `rivals.py` or with a grid, whose pre-training is done or gone on with in `--runs-dir`.

- noise: white noise of a channel's own power less so many dB; the power is that of the deviations from its mean.
- missing points: single values that are missing, drawn for every channel.
- missing stretches: one stretch in every channel that is missing. Encoders take missing values as they are; for
  classifiers of the series themselves they are interpolated.
- warped: the time of the whole series is bent by a smooth, rising map, which moves steps by up to that share of the
  length.

OUTPUT/METHOD-CORPUS-seedN.json has the accuracies of a run, which is not done again; OUTPUT.md and OUTPUT.png have the
means over problems and seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from compare_methods import Column, read_column
from reproduction.plan import build_parser, load_grid, plan
from reproduction.work import complete
from rivals import RIVALS, fill_missing
from scipy.interpolate import PchipInterpolator

import hf_tsrep
from hf_tsrep.data import get_labels, get_series, load_corpus
from hf_tsrep.evaluation import fit_svm

NUM_KNOTS = 3  # inner points of a bent time axis
Disturbance = Callable[[np.ndarray, np.random.Generator], np.ndarray]
logger = logging.getLogger("study")


def add_noise(values: np.ndarray, generator: np.random.Generator, decibels: float) -> np.ndarray:
    """Add white noise to (time, channels), in each channel its signal-to-noise ratio in decibels."""
    power = np.nanvar(values, axis=0) / 10 ** (decibels / 10)
    return values + generator.standard_normal(values.shape) * np.sqrt(power)


def drop_points(values: np.ndarray, generator: np.random.Generator, share: float) -> np.ndarray:
    """Make a share of each channel's values missing, drawn one by one; one value of a channel stays at least."""
    dropped, num_steps = values.copy(), len(values)
    for channel in range(values.shape[1]):
        count = min(round(share * num_steps), num_steps - 1)
        dropped[generator.choice(num_steps, count, replace=False), channel] = np.nan
    return dropped


def drop_stretch(values: np.ndarray, generator: np.random.Generator, share: float) -> np.ndarray:
    """Make one stretch of each channel missing, a share of the length; one value of a channel stays at least."""
    dropped, num_steps = values.copy(), len(values)
    for channel in range(values.shape[1]):
        count = min(round(share * num_steps), num_steps - 1)
        start = generator.integers(num_steps - count + 1)
        dropped[start : start + count, channel] = np.nan
    return dropped


def warp(values: np.ndarray, generator: np.random.Generator, share: float) -> np.ndarray:
    """Bend the time axis of (time, channels): step t shows what was at g(t), g smooth and rising, ends kept.

    The largest move of a knot of g is `share` of the length. Up to a tenth, g never runs slower than a fifth of time.
    """
    last = len(values) - 1
    knots = np.linspace(0, last, NUM_KNOTS + 2)
    moves = np.pad(generator.uniform(-1, 1, NUM_KNOTS), 1)
    moves *= share * last / np.abs(moves).max()
    places = PchipInterpolator(knots, knots + moves)(np.arange(len(values))) if last else np.zeros(1)
    return np.stack([np.interp(places, np.arange(len(values)), one) for one in values.T], axis=1)


DISTURBANCES: dict[str, dict[str, Disturbance]] = {
    "noise": {f"{decibels} dB": partial(add_noise, decibels=decibels) for decibels in (20, 10, 0)},
    "missing points": {f"{share:.0%}": partial(drop_points, share=share) for share in (0.1, 0.3, 0.5)},
    "missing stretches": {f"{share:.0%}": partial(drop_stretch, share=share) for share in (0.1, 0.3, 0.5)},
    "warped": {f"{share:.0%}": partial(warp, share=share) for share in (0.02, 0.05, 0.1)},
}
"""Kind -> severity, rising, -> what is done to a series (time, channels)."""


def disturb(series: Sequence[np.ndarray], disturbance: Disturbance, seed: int) -> list[np.ndarray]:
    """Return every series (time, channels) disturbed, by draws of the seed alone."""
    generator = np.random.default_rng(seed)
    return [disturbance(np.asarray(one, dtype=np.float64), generator) for one in series]


def fit(method: Column, name: str, corpus: Any, seed: int, runs_dir: Path) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Return what a method makes of clean training data: from test series to class ids."""
    train, labels = get_series(corpus["train"]), np.asarray(get_labels(corpus["train"]))
    if method.method in RIVALS:
        known = [fill_missing(one) for one in train]
        predict = RIVALS[method.method].predict
        return lambda test: predict(known, labels, [fill_missing(one) for one in test], seed)
    model = pretrained(method, name, seed, runs_dir)

    def embed(series: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(model.encode(list(series), level="instance", show_progress_bar=False), dtype=np.float64)

    machine = fit_svm(embed(train), labels, seed)
    return lambda test: machine.predict(embed([one.astype(np.float32) for one in test]))


def pretrained(method: Column, name: str, seed: int, runs_dir: Path) -> Any:
    """Return the encoder of the grid's run on a corpus, trained where its folder is not finished."""
    grid = load_grid(method.method)
    words = [*_jobs(grid, name), "--seeds", str(seed), "--runs-dir", str(runs_dir / method.method)]
    words += ["--variants", method.setting] if method.setting else []
    (run,) = plan(grid, build_parser(grid).parse_args(words))
    for stage in run.stages:
        complete(method.method, stage)
    return hf_tsrep.get_method(method.method).model_class.from_pretrained(run.stages[-1].folder)


def _jobs(grid: dict[str, Any], corpus: str) -> list[str]:
    return [name for name, job in grid["jobs"].items() if job.get("corpora") == [corpus]]


def measure(predict: Callable[[list[np.ndarray]], np.ndarray], test: Any, seed: int) -> dict[str, dict[str, float]]:
    """Return the accuracies by kind and severity; a kind's first one, `none`, is that of the clean test series."""
    series, wanted = get_series(test), np.asarray(get_labels(test))
    clean = float(np.mean(predict(disturb(series, lambda values, _: values, seed)) == wanted))
    accuracies = {kind: {"none": clean} for kind in DISTURBANCES}
    for kind, severities in DISTURBANCES.items():
        for severity, disturbance in severities.items():
            predicted = predict(disturb(series, disturbance, seed))
            accuracies[kind][severity] = float(np.mean(predicted == wanted))
    return accuracies


def average(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the mean of each accuracy over runs."""
    return {
        kind: {severity: float(np.mean([one[kind][severity] for one in runs])) for severity in runs[0][kind]}
        for kind in runs[0]
    }


def write_table(means: dict[str, dict[str, dict[str, float]]], num_problems: int, seeds: Sequence[int]) -> str:
    """Return a Markdown table: a row a kind and severity, a column a method."""
    labels = list(means)
    plural = "" if num_problems == 1 else "s"
    of_what = f"{num_problems} problem{plural}, seeds {' '.join(map(str, seeds))}"
    told = f"Mean accuracy over {of_what}; test series disturbed."
    lines = [told, "", f"| | | {' | '.join(labels)} |", "|---|---|" + "---:|" * len(labels)]
    for kind, severities in means[labels[0]].items():
        for severity in severities:
            cells = " | ".join(f"{means[label][kind][severity]:.3f}" for label in labels)
            lines.append(f"| {kind if severity == 'none' else ''} | {severity} | {cells} |")
    return "\n".join(lines) + "\n"


def draw(means: dict[str, dict[str, dict[str, float]]], file: Path) -> None:
    """Draw one panel a kind: accuracy over severity, a line a method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    kinds = list(DISTURBANCES)
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(3.2 * len(kinds), 3.4), sharey=True)
    for kind, panel in zip(kinds, panels, strict=True):
        for (label, accuracies), marker in zip(means.items(), "osD^vPX*<>", strict=False):
            panel.plot(list(accuracies[kind]), list(accuracies[kind].values()), marker=marker, label=label)
        panel.set_title(kind)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on disturbed test series")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(file, dpi=150)
    pyplot.close(figure)  # pyplot keeps every figure that nobody closes


def main() -> None:
    """Do all runs that a command line asks for and write what they say together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", required=True)
    parser.add_argument("--methods", type=read_column, nargs="+", required=True, metavar="LABEL=METHOD/VARIANT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/robustness"), help="folder of the encoders")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs; beside it the files of all")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    done: dict[str, list[dict[str, dict[str, float]]]] = {}
    for name in arguments.corpora:
        corpus = load_corpus(name, scaler="recommended")
        for method in arguments.methods:
            for seed in arguments.seeds:
                words = [method.method, method.setting, name.replace("/", "-"), f"seed{seed}"]
                file = arguments.output / f"{'-'.join(filter(None, words))}.json"
                if not file.exists():
                    predict = fit(method, name, corpus, seed, arguments.runs_dir)
                    accuracies = measure(predict, corpus["test"], seed)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(accuracies, indent=1) + "\n", encoding="utf-8")
                    logger.info("%s: %s", file.stem, accuracies)
                done.setdefault(method.label, []).append(json.loads(file.read_text(encoding="utf-8")))
    means = {label: average(runs) for label, runs in done.items()}
    page = write_table(means, len(arguments.corpora), arguments.seeds)
    arguments.output.with_suffix(".md").write_text(page, encoding="utf-8")
    draw(means, arguments.output.with_suffix(".png"))
    print(page, end="")


if __name__ == "__main__":
    main()
