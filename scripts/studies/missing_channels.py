"""Measure what a method that can treat missing values in two ways makes of dead channels and missing values.

Usage: python scripts/studies/missing_channels.py --corpora uea/BasicMotions uea/Epilepsy --seeds 1 2 \
           --output results/studies/missing_channels

Encoders are trained for `--steps` steps, one on the whole training part, and for each treatment (a value of the
config's `missing_values`) one on a training part of which a share of the values is missing, drawn for every channel.
A support vector machine tells the classes:

- clean: nothing is missing anywhere.
- dead channel: trained on whole series; of those to be told one channel is missing from beginning to end (the mean
  over that of each channel, of at most `MOST_CHANNELS` of them, drawn).
- missing 10 %, 30 %: in all series, those of the training included. Where a treatment leaves nothing to train on, as a
  library says that refuses it, the commonest class is the answer.

Every cell has the accuracy on the training part by cross-validation, which decides, and that on the test part, which
is looked at once. The scaler knows the whole training part. OUTPUT/CORPUS-seedN.json is a run, which is not done
again; OUTPUT.md is the table of all.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from robustness import disturb, drop_points
from sklearn.model_selection import StratifiedKFold

import hf_tsrep
from hf_tsrep.data import get_labels, get_series, load_corpus
from hf_tsrep.evaluation import fit_svm

SHARES = (0.1, 0.3)
NUM_FOLDS = 5
MOST_CHANNELS = 4  # of which one is dead in turn
logger = logging.getLogger("study")
Accuracies = dict[str, dict[str, float]]  # condition -> "validation" and "test" -> accuracy


def kill(series: Sequence[np.ndarray], channel: int) -> list[np.ndarray]:
    """Return series (time, channels) in which one channel has no value."""
    killed = [np.array(one) for one in series]
    for one in killed:
        one[:, channel] = np.nan
    return killed


def train(series: Sequence[np.ndarray], method: str, treatment: str, steps: int, seed: int) -> Any:
    """Return an encoder trained on scaled series (time, channels)."""
    arrays = hf_tsrep.data.SeriesList(series)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "max_steps": steps,
            "seed": seed,
            "missing_values": treatment,
            "layout": "ntc",
            "save_steps": steps,
        }
        result = hf_tsrep.pretrain(method, arrays, Path(folder, "run"), scaler=None, disable_tqdm=True, **settings)
    return result.model.base_model.eval()


def embed(model: Any, series: Sequence[np.ndarray]) -> np.ndarray:
    """Return (num_series, embedding_size) float64 of scaled series."""
    chosen = [np.asarray(one, dtype=np.float32) for one in series]
    return np.asarray(model.encode(chosen, prepared=True, layout="ntc"), dtype=np.float64)


def score(known: np.ndarray, labels: np.ndarray, told: np.ndarray, wanted: np.ndarray, seed: int) -> float:
    """Return the accuracy of a machine that is fitted on known embeddings."""
    return float(np.mean(fit_svm(known, labels, seed).predict(told) == wanted))


def cross_validate(known: np.ndarray, told: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return the accuracy over folds: fitted on `known` of the other folds, measured on `told` of the fold.

    Args:
        known: (num_series, embedding_size).
        told: The same series as they are when they are to be told.
        labels: (num_series,).
        seed: Of the folds.
    """
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed).split(known, labels)
    hits = [fit_svm(known[fit], labels[fit], seed).predict(told[rest]) == labels[rest] for fit, rest in folds]
    return float(np.mean(np.concatenate(hits)))


def measure(corpus: Any, method: str, treatments: Sequence[str], steps: int, seed: int) -> dict[str, Accuracies]:
    """Return the accuracies of every treatment of missing values."""
    series = list(get_series(corpus["train"]))
    model = train(series, method, treatments[0], steps, seed)
    found = {}
    for treatment in treatments:
        model.config.missing_values = treatment  # where nothing is missing they train the same encoder
        found[treatment] = measure_one(corpus, model, method, treatment, steps, seed)
    return found


def measure_one(corpus: Any, model: Any, method: str, treatment: str, steps: int, seed: int) -> Accuracies:
    """Return the accuracies of one treatment; `model` is the encoder that saw whole series."""
    series = {name: list(get_series(corpus[name])) for name in ("train", "test")}
    labels = {name: np.asarray(get_labels(corpus[name])) for name in series}

    def both(model: Any, fitted: np.ndarray, told: dict[str, list[np.ndarray]]) -> dict[str, float]:
        seen = {name: embed(model, one) for name, one in told.items()}
        return {
            "validation": cross_validate(fitted, seen["train"], labels["train"], seed),
            "test": score(fitted, labels["train"], seen["test"], labels["test"], seed),
        }

    fitted = embed(model, series["train"])
    found = {"clean": both(model, fitted, series)}
    num_channels = series["train"][0].shape[1]
    channels = np.random.default_rng(seed).permutation(num_channels)[:MOST_CHANNELS]
    dead = [both(model, fitted, {name: kill(one, index) for name, one in series.items()}) for index in channels]
    found["dead channel"] = {name: float(np.mean([one[name] for one in dead])) for name in dead[0]}
    for share in SHARES:
        drop = partial(drop_points, share=share)
        holed = {name: disturb(one, drop, seed + place) for place, (name, one) in enumerate(series.items())}
        try:
            own = train([one.astype(np.float32) for one in holed["train"]], method, treatment, steps, seed)
        except ValueError as refusal:
            if "reads no timestamp" not in str(refusal):
                raise
            found[f"missing {share:.0%}"] = guess(labels)
        else:
            found[f"missing {share:.0%}"] = both(own, embed(own, holed["train"]), holed)
    return found


def guess(labels: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the accuracies of who says the commonest class of the training part whatever he is asked."""
    classes, counts = np.unique(labels["train"], return_counts=True)
    shares = {part: float(np.mean(labels[part] == classes[counts.argmax()])) for part in ("train", "test")}
    return {"validation": shares["train"], "test": shares["test"]}


def write_table(runs: dict[str, list[dict[str, Accuracies]]]) -> str:
    """Return a Markdown table: a row a corpus and condition, two columns a treatment; and the means over the corpora.

    Args:
        runs: By corpus one entry a seed: treatment -> condition -> accuracies.
    """
    treatments = list(next(iter(runs.values()))[0])
    parts = ("validation", "test")
    heads = [f"{treatment}, {part}" for part in parts for treatment in treatments]
    lines = [f"| corpus | | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]

    def row(name: str, condition: str, seeds: Sequence[dict[str, Accuracies]]) -> str:
        means = [np.mean([one[way][condition][part] for one in seeds]) for part in parts for way in treatments]
        return f"| {name} | {condition} | {' | '.join(f'{mean:.3f}' for mean in means)} |"

    conditions = list(next(iter(runs.values()))[0][treatments[0]])
    for name, seeds in runs.items():
        lines += [row(name if place == 0 else "", one, seeds) for place, one in enumerate(conditions)]
    everything = [one for seeds in runs.values() for one in seeds]
    lines += [row("mean" if place == 0 else "", one, everything) for place, one in enumerate(conditions)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do all runs that a command line asks for and write what they say together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--method", default="ts2vec")
    parser.add_argument("--treatments", nargs="+", default=["timestamp", "value"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs; beside it the table")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    runs: dict[str, list[dict[str, Accuracies]]] = {}
    for name in arguments.corpora:
        corpus: Any = load_corpus(name, scaler="recommended")
        for seed in arguments.seeds:
            file = arguments.output / f"{name.replace('/', '-')}-seed{seed}.json"
            if not file.exists():
                found = measure(corpus, arguments.method, arguments.treatments, arguments.steps, seed)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                logger.info("%s: %s", file.stem, found)
            runs.setdefault(name, []).append(json.loads(file.read_text(encoding="utf-8")))
    seeds = f"seed{'' if len(arguments.seeds) == 1 else 's'} {' '.join(map(str, arguments.seeds))}"
    title = (
        f"Accuracy of {arguments.method} after {arguments.steps} steps, {seeds}, by the treatment of missing values."
    )
    page = f"{title}\n\n{write_table(runs)}"
    arguments.output.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page, end="")


if __name__ == "__main__":
    main()
