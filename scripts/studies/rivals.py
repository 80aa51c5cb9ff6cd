"""Classify the series of a corpus themselves, without a learned representation: what a representation is held against.

Usage: python scripts/studies/rivals.py --corpora ucr/GunPoint uea/BasicMotions --rivals 1nn-dtw minirocket
       python scripts/studies/rivals.py --problems-of mug --seeds 1 2

- `1nn-euclidean`: nearest neighbour by the Euclidean distance over all steps and channels.
- `1nn-dtw`: nearest neighbour by dynamic time warping without a window, one path for all channels (aeon).
- `minirocket`: MiniRocket's features and ridge regression (Dempster et al., KDD 2021; aeon). Its draws have a seed.

The data are those of the encoders' protocol, with the same scaler. What these classifiers cannot read is settled by
one rule for all corpora: missing values are interpolated linearly within the series (the nearest value at its ends; a
channel without a value is zero); where lengths differ, a series is stretched linearly to the longest of the training
part, except for DTW, which takes them as they are; series below MiniRocket's 9 steps are followed by zeros.

Every run is one file of `--results-dir`, and runs whose file is there are not done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aeon.classification.convolution_based import MiniRocketClassifier
from aeon.distances import dtw_pairwise_distance
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sklearn.metrics.pairwise import euclidean_distances

from hf_tsrep.data import get_labels, get_series, load_corpus
from hf_tsrep.evaluation import make_result, write_results

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reproduction.plan import load_grid  # it lies beside this folder, which is known only now

MINIROCKET_STEPS = 9  # length of its kernels
Series = Sequence[np.ndarray]
logger = logging.getLogger("study")


def fill_missing(values: np.ndarray) -> np.ndarray:
    """Interpolate missing values linearly within each channel.

    Args:
        values: (time, channels), NaN = missing.

    Returns:
        (time, channels) float64: before the first and after the last value stands that value, and zero in a channel
        without any.
    """
    steps, filled = np.arange(len(values)), np.zeros(values.shape)
    for channel, column in enumerate(values.T):
        observed = ~np.isnan(column)
        if observed.any():
            filled[:, channel] = np.interp(steps, steps[observed], column[observed])
    return filled


def stretch(values: np.ndarray, length: int) -> np.ndarray:
    """Stretch a series (time, channels) linearly to `length` steps; its first and last step stay."""
    if len(values) == length:
        return values
    places = np.linspace(0, len(values) - 1, length)
    return np.stack([np.interp(places, np.arange(len(values)), column) for column in values.T], axis=1)


def in_one_array(train: Series, test: Series) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts as (num_series, time, channels), stretched to the longest of the training part."""
    length = max(map(len, train))
    return np.stack([stretch(one, length) for one in train]), np.stack([stretch(one, length) for one in test])


def predict_by_euclidean(train: Series, labels: np.ndarray, test: Series, seed: int) -> np.ndarray:
    """Return the class of the nearest training series; the first of equally near ones."""
    known, asked = in_one_array(train, test)
    distances = euclidean_distances(asked.reshape(len(asked), -1), known.reshape(len(known), -1))
    return np.asarray(labels[distances.argmin(axis=1)])


def predict_by_dtw(train: Series, labels: np.ndarray, test: Series, seed: int) -> np.ndarray:
    """Return the class of the training series that is nearest by dynamic time warping."""
    known, asked = ([np.ascontiguousarray(one.T) for one in part] for part in (train, test))
    return np.asarray(labels[dtw_pairwise_distance(asked, known).argmin(axis=1)])


def predict_by_minirocket(train: Series, labels: np.ndarray, test: Series, seed: int) -> np.ndarray:
    """Return the classes by ridge regression on MiniRocket's features, whose penalty the training part chooses."""
    known, asked = in_one_array(train, test)
    padding = ((0, 0), (0, max(0, MINIROCKET_STEPS - known.shape[1])), (0, 0))
    known, asked = (np.pad(part, padding).transpose(0, 2, 1) for part in (known, asked))
    return np.asarray(MiniRocketClassifier(random_state=seed).fit(known, labels).predict(asked))


@dataclass(frozen=True)
class Rival:
    """A classifier of series.

    Attributes:
        predict: From training series, their class ids (num_series,), test series and a seed to class ids.
        is_drawn: Whether the seed makes a difference.
    """

    predict: Callable[[Series, np.ndarray, Series, int], np.ndarray]
    is_drawn: bool = False


RIVALS = {
    "1nn-euclidean": Rival(predict_by_euclidean),
    "1nn-dtw": Rival(predict_by_dtw),
    "minirocket": Rival(predict_by_minirocket, is_drawn=True),
}


def problems_of(method: str) -> list[str]:
    """Return the corpora that the grid of a method classifies, in its order."""
    grid = load_grid(method)
    jobs = [grid.get("common", {}) | job for job in grid["jobs"].values()]
    return list(dict.fromkeys(name for job in jobs if job["protocol"] == "classification" for name in job["corpora"]))


def evaluate(rival: str, corpus: Any, seed: int) -> dict[str, Any]:
    """Return metrics and seconds of a rival on a corpus, in the form of a protocol's outcome."""
    train, test = ([fill_missing(one) for one in get_series(corpus[part])] for part in ("train", "test"))
    labels, wanted = (np.asarray(get_labels(corpus[part])) for part in ("train", "test"))
    begin = time.perf_counter()
    predicted = RIVALS[rival].predict(train, labels, test, seed)
    metrics = {
        "accuracy": accuracy_score(wanted, predicted),
        "macro_f1": f1_score(wanted, predicted, average="macro", zero_division=0),
        "kappa": cohen_kappa_score(wanted, predicted),
    }
    metrics = {key: float(value) for key, value in metrics.items()}
    settings = {"missing_values": "interpolated", "unequal_lengths": "kept" if rival == "1nn-dtw" else "stretched"}
    return {"metrics": metrics, "settings": settings, "timings": {"classification": time.perf_counter() - begin}}


def main() -> None:
    """Do all runs that a command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[])
    parser.add_argument("--problems-of", metavar="METHOD", help="the corpora that the method's grid classifies")
    parser.add_argument("--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of rivals that draw")
    parser.add_argument("--results-dir", type=Path, default=Path("results/rivals"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in arguments.corpora + (problems_of(arguments.problems_of) if arguments.problems_of else []):
        corpus = load_corpus(name, scaler="recommended")
        for rival in arguments.rivals:
            for seed in arguments.seeds if RIVALS[rival].is_drawn else [0]:
                suffix = f"-seed{seed}" if RIVALS[rival].is_drawn else ""
                file = arguments.results_dir / f"{name.replace('/', '-')}-{rival}{suffix}.json"
                if file.exists():
                    continue
                outcome = evaluate(rival, corpus, seed)
                result = make_result(None, corpus, "classification", outcome, seed=seed)
                write_results(file, dataclasses.replace(result, method=rival))
                logger.info("%s: %.4f", file.stem, outcome["metrics"]["accuracy"])


if __name__ == "__main__":
    main()
