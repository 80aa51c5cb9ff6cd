"""Measure how near `impute` comes to hidden values, beside interpolation and the last value.

Usage: python scripts/studies/imputation.py --corpora ucr/ECG200 ett/ETTh1 --seeds 1 \
           --output results/studies/imputation

Each method that reconstructs is pre-trained for `--steps` steps on the training part. Of series of the test part, cut
into stretches of at most `--length` timestamps (at most `--most` of them, evenly spaced), points or a stretch are
hidden; the mean absolute error of the hidden values is in units of the scaled series, whose training part has mean 0
and deviation 1 in every channel. OUTPUT/CORPUS-METHOD-seedN.json is a run, which is not done again; OUTPUT.md is the
table of all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from robustness import drop_points, drop_stretch

import hf_tsrep
from hf_tsrep.data import get_series, load_corpus

Fill = Callable[[list[np.ndarray]], list[np.ndarray]]
GAPS: dict[str, tuple[Callable[..., np.ndarray], float]] = {
    "points 10 %": (drop_points, 0.1),
    "points 30 %": (drop_points, 0.3),
    "stretch 10 %": (drop_stretch, 0.1),
    "stretch 30 %": (drop_stretch, 0.3),
}


def interpolated(series: np.ndarray) -> np.ndarray:
    """Fill gaps of every channel linearly, at the ends with the nearest value."""
    steps = np.arange(len(series))
    return np.stack([np.interp(steps, steps[~np.isnan(one)], one[~np.isnan(one)]) for one in series.T], 1)


def last_value(series: np.ndarray) -> np.ndarray:
    """Fill gaps of every channel with the value before them, at the begin with the first one."""
    steps = np.arange(len(series))[:, None]
    last = np.maximum.accumulate(np.where(np.isnan(series), -1, steps), axis=0)
    first = np.argmax(~np.isnan(series), axis=0)
    return np.take_along_axis(series, np.where(last < 0, first, last), axis=0)


PLAIN = {"interpolation": interpolated, "last value": last_value}


def test_stretches(corpus: Any, length: int, most: int) -> list[np.ndarray]:
    """Return stretches of the test part that have no gaps of their own."""
    whole = [
        one[start : start + length]
        for one in get_series(corpus["test"])
        for start in range(0, max(len(one) - length, 0) + 1, length)
    ]
    whole = [np.asarray(one, dtype=np.float64) for one in whole if not np.isnan(one).any()]
    return [whole[place] for place in np.linspace(0, len(whole) - 1, min(most, len(whole))).astype(int)]


def errors(
    fill: Callable[[list[np.ndarray]], list[np.ndarray]], series: list[np.ndarray], seed: int
) -> dict[str, float]:
    """Return the mean absolute error of the hidden values by kind of gap."""
    found = {}
    for name, (hide, share) in GAPS.items():
        generator = np.random.default_rng(seed)
        given = [hide(one, generator, share) for one in series]
        differences = [
            np.abs(filled - one)[np.isnan(gaps)] for one, gaps, filled in zip(series, given, fill(given), strict=True)
        ]
        found[name] = float(np.concatenate(differences).mean())
    return found


def measure(corpus: Any, method: str, arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Return the errors of a method that is trained here, or of a plain way."""
    series = test_stretches(corpus, arguments.length, arguments.most)
    if method in PLAIN:
        return errors(lambda given: [PLAIN[method](one) for one in given], series, seed)
    with tempfile.TemporaryDirectory() as place:
        options = {"max_steps": arguments.steps, "seed": seed, "max_train_length": arguments.length}
        hf_tsrep.pretrain(method, corpus, Path(place) / "run", disable_tqdm=True, scaler=None, **options)
        model = hf_tsrep.get_method(method).model_classes["pretraining"].from_pretrained(Path(place) / "run")
        model.preparation = None  # the corpus is scaled
        return errors(lambda given: [one.values for one in hf_tsrep.impute(model, given, layout="ntc")], series, seed)


def main() -> None:
    """Do all runs that a command line asks for and write what they say together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", default=["tst", "simmtm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--most", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs; beside it the table")
    arguments = parser.parse_args()
    lines = [f"| corpus | filled by | {' | '.join(GAPS)} |", "|---|---|" + "---|" * len(GAPS)]
    for name in arguments.corpora:
        corpus = load_corpus(name, scaler="recommended")
        for method in [*arguments.methods, *PLAIN]:
            runs = []
            for seed in arguments.seeds:
                file = arguments.output / f"{name}-{method}-seed{seed}.json".replace("/", "-").replace(" ", "_")
                if not file.exists():
                    found = measure(corpus, method, arguments, seed)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                runs.append(json.loads(file.read_text(encoding="utf-8")))
            cells = " | ".join(f"{np.mean([run[gap] for run in runs]):.3f}" for gap in GAPS)
            lines.append(f"| {name} | {method} | {cells} |")
    seeds = f"seed{'' if len(arguments.seeds) == 1 else 's'} {' '.join(map(str, arguments.seeds))}"
    title = (
        f"Mean absolute error of hidden values, in deviations of the training part; {arguments.steps} steps of "
        f"pre-training, stretches of {arguments.length} timestamps, {seeds}."
    )
    page = title + "\n\n" + "\n".join(lines) + "\n"
    arguments.output.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page, end="")


if __name__ == "__main__":
    main()
