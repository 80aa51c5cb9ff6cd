"""The main job from end to end: train, encode, evaluate, save, reload in a new process, draw."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .hub.card_updates import add_figure, refresh_results
from .registry import METHODS, Method
from .visualization import plot_embedding_map

logger = logging.getLogger(__name__)

CORPUS = "uea/JapaneseVowels"
MODEL_FOLDER = "model"
MAP_FILE = "embedding_map.png"
CURVE_FILE = "loss_curve.png"
EMBEDDINGS_FILE = "embeddings.npz"


def run_demo(
    output_dir: str | Path = "demo",
    *,
    max_steps: int | None = None,
    quiet: bool = False,
    say: Callable[[str], Any] = print,
) -> dict[str, float]:
    """Carry a method from raw series to a reloaded encoder, on a corpus of unequal lengths that aeon's package holds.

    Writes `model/` (with its card), `embeddings.npz`, `embedding_map.png` and `loss_curve.png`. Every step names the
    command that does the same. The method is the first one whose card says `demo: true`.

    Args:
        output_dir: Folder to write; what an earlier demo left there is replaced.
        max_steps: Training steps; None for the published number.
        quiet: Whether to show no progress bars.
        say: Takes the lines of the report.

    Returns:
        The metrics of the evaluation.

    Raises:
        RuntimeError: The model that another process loaded gives other embeddings.
    """
    with _one_thread():
        return _run(Path(output_dir), max_steps, quiet, say)


def _run(folder: Path, max_steps: int | None, quiet: bool, say: Callable[[str], Any]) -> dict[str, float]:
    from transformers import AutoModel

    from . import evaluate, load_corpus, pretrain
    from .data import get_labels, get_series

    method = _shown_method()
    model_folder = folder / MODEL_FOLDER
    begin = time.perf_counter()
    if (model_folder / "pretraining.json").is_file():
        shutil.rmtree(model_folder)

    say(f"1. Load the corpus {CORPUS}\n   $ hf-tsrep data info {CORPUS}")
    corpus = load_corpus(CORPUS)
    for line in describe(corpus):
        say(f"   {line}")

    say(
        f"\n2. Pre-train {method.name}, without labels, with the published hyper-parameters\n"
        f"   $ hf-tsrep pretrain --method {method.name} --corpus {CORPUS} --output-dir {model_folder}"
    )
    fields: dict[str, Any] = {} if max_steps is None else {"max_steps": max_steps}
    with _timed(say):
        trained = pretrain(method.name, CORPUS, model_folder, logging_steps=2, save_strategy="no", **fields)
    say(f"   loss {_first_loss(trained.history):.3f} -> {trained.metrics['loss']:.3f} (last steps)")

    say(
        "\n3. Encode train and test: one vector a series, whatever its length\n"
        f"   $ hf-tsrep encode --model {model_folder} --input {CORPUS} --output {folder / EMBEDDINGS_FILE}"
    )
    model = AutoModel.from_pretrained(model_folder)
    with _timed(say):
        series = [one for split in corpus.values() for one in get_series(split)]
        embeddings = model.encode(series, show_progress_bar=not quiet)
    say(f"   {len(embeddings)} series -> array {embeddings.shape} {embeddings.dtype}")

    say(
        "\n4. Evaluate: classifiers of the embeddings, fitted on train, scored on test\n"
        f"   $ hf-tsrep evaluate --model {model_folder} --corpus {CORPUS} --protocol classification"
    )
    with _timed(say):
        scaled = load_corpus(CORPUS, scaler="standard")
        outcome = evaluate(model, scaled, "classification", show_progress_bar=False)
    _save_results(model, scaled, outcome, model_folder)

    say("\n5. Reload the saved model in a new process, by the command of step 3, and compare")
    with _timed(say):
        reloaded = encode_in_new_process(model_folder, folder / EMBEDDINGS_FILE)
    difference = compare(embeddings, reloaded)
    say(f"   {len(reloaded)} embeddings, largest difference {difference:g}: equal")

    say("\n6. Draw the embeddings and write the card")
    labels = np.concatenate([get_labels(split) for split in corpus.values()])
    splits = np.concatenate([[name] * len(split) for name, split in corpus.items()])
    class_names = [f"speaker {name}" for name in corpus["train"].features["label"].names]
    _draw(embeddings, labels, splits, class_names, method.title, folder)
    refresh_results(model_folder)

    say("\n" + result_table(outcome["metrics"], method.name))
    say(f"\n{time.perf_counter() - begin:.0f} s in all. Written:")
    for path, what in (
        (model_folder, "the model: weights, code, feature extractor"),
        (model_folder / "README.md", "its card"),
        (folder / EMBEDDINGS_FILE, "the embeddings, with ids, labels and provenance"),
        (folder / MAP_FILE, "map of the embeddings"),
        (folder / CURVE_FILE, "the loss"),
    ):
        say(f"   {path!s:<28} {what}")
    return outcome["metrics"]


def _shown_method() -> Method:
    shown = [method for method in METHODS.values() if method.facts.get("demo")]
    if not shown:
        raise ValueError("No card says `demo: true` in its front matter: the demo has no method to show.")
    return shown[0]


def describe(corpus: Any) -> Iterator[str]:
    """Yield a line for each split."""
    from .data import get_series

    for name, split in corpus.items():
        series = get_series(split)
        lengths = [len(one) for one in series]
        yield (
            f"{name:<6} {len(series)} series of {min(lengths)} to {max(lengths)} steps, "
            f"{series[0].shape[1]} channels, {split.features['label'].num_classes} classes"
        )


def encode_in_new_process(model_folder: Path, output: Path) -> np.ndarray:
    """Return the embeddings of the corpus that `hf-tsrep encode` writes in a process of its own.

    Raises:
        RuntimeError: The command failed.
    """
    command = [sys.executable, "-m", "hf_tsrep", "encode", "--quiet"]
    command += ["--model", str(model_folder), "--input", CORPUS, "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"The new process could not encode: {done.stderr.strip()}")
    with np.load(output) as stored:
        return stored["embeddings"]


def compare(before: np.ndarray, after: np.ndarray) -> float:
    """Return the largest absolute difference.

    Raises:
        RuntimeError: It is more than rounding.
    """
    if before.shape != after.shape:
        raise RuntimeError(f"The reloaded model gives embeddings {after.shape} instead of {before.shape}.")
    difference = float(np.abs(before - after).max())
    if not difference <= 1e-5:
        raise RuntimeError(f"The reloaded model gives other embeddings: they differ by {difference:g}.")
    return difference


def result_table(metrics: dict[str, float], method: str) -> str:
    """Return the accuracies of the classifiers beside the published one."""
    from .evaluation import published_value

    published = published_value(method, CORPUS, "", "svm_accuracy")
    names = {
        "svm": "RBF-SVM (the paper's)",
        "logistic_regression": "logistic regression",
        "nearest_neighbour": "1-nearest neighbour",
    }
    lines = [f"{'classifier':<22} accuracy  macro-F1", "-" * 41]
    for name, title in names.items():
        note = f"  (published: {published.value:.3f})" if published is not None and name == "svm" else ""
        lines.append(f"{title:<22} {metrics[f'{name}_accuracy']:8.3f}  {metrics[f'{name}_macro_f1']:8.3f}{note}")
    return "\n".join(lines)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the arrays of this corpus are too small to share, and waiting is dear."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _timed(say: Callable[[str], Any]) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    say(f"   {time.perf_counter() - begin:.1f} s")


def _first_loss(history: list[dict[str, Any]]) -> float:
    return next(entry["loss"] for entry in history if "loss" in entry)


def _save_results(model: Any, corpus: Any, outcome: dict[str, Any], model_folder: Path) -> None:
    import json

    from .evaluation import make_result, write_results

    record = json.loads((model_folder / "pretraining.json").read_text(encoding="utf-8"))
    seed = int(record["training"].get("seed", 42))
    result = make_result(model, corpus, "classification", outcome, seed=seed, model_name=str(model_folder))
    write_results(model_folder, result)


def _draw(
    embeddings: np.ndarray, labels: np.ndarray, splits: np.ndarray, class_names: list[str], method: str, folder: Path
) -> None:
    try:
        plot_embedding_map(
            embeddings,
            labels,
            folder / MODEL_FOLDER / MAP_FILE,
            splits=splits,
            class_names=class_names,
            class_title="class",
            title=f"{method} embeddings of JapaneseVowels",
            subtitle="One point an utterance, coloured by its speaker; trained without labels",
        )
    except ImportError:
        logger.warning('There are no pictures without matplotlib: pip install "hf-tsrep[viz]".')
        return
    add_figure(folder / MODEL_FOLDER, MAP_FILE, "Embeddings of train and test, coloured by class (t-SNE)")
    for name in (MAP_FILE, CURVE_FILE):
        shutil.copyfile(folder / MODEL_FOLDER / name, folder / name)
