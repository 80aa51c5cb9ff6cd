"""Choose among values of a method's fields by cross-validation on training parts; test parts are never read.

Usage: python scripts/studies/choices.py mug --corpora ucr/ECG200 uea/Libras --steps 0 100 \
           --choices "" num_regions=1 num_regions=2 num_regions=4,segment_size=64 --output results/studies/mug/choices

A choice is FIELD=VALUE,... beside the recipe of each corpus, "" the recipe itself. An encoder is pre-trained for so
many steps on the training part without labels, with the seed given (0 steps: its random weights); a cell is the
accuracy of the support vector machine on its embeddings, each feature scaled to deviation 1 over the training part, in
5 stratified folds of three shuffles, with the best penalty. With fewer than 5 series a class or 50 in all the penalty
is the greatest, as in the protocol. Corpora of more than 200 series give 200.

OUTPUT/*.json has a cell each, which is not done again; OUTPUT.md the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.model_selection import train_test_split

import hf_tsrep
from hf_tsrep.data import get_labels, get_series, load_corpus
from hf_tsrep.evaluation.classification import SVM_PENALTIES, svm_cross_validation
from hf_tsrep.training import load_recipe, recipe_for_corpus

MOST_SERIES, NUM_SHUFFLES = 200, 3
logger = logging.getLogger("study")


def read_choice(text: str) -> dict[str, Any]:
    """Return the fields of FIELD=VALUE,...; values as YAML has them."""
    pairs = (one.partition("=") for one in text.split(",") if one)
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def embed_training_part(method: str, name: str, fields: dict[str, Any], steps: int, seed: int) -> tuple[Any, Any]:
    """Pre-train on a corpus's training part and embed it: (num_series, embedding_size) and labels (num_series,)."""
    recipe = load_recipe(method, recipe_for_corpus(method, name))
    corpus = load_corpus(name, scaler=recipe["scaler"])["train"]
    series, labels = get_series(corpus), np.asarray(get_labels(corpus))
    rows = np.arange(len(labels))
    if len(rows) > MOST_SERIES:
        rows, _ = train_test_split(rows, train_size=MOST_SERIES, random_state=0, stratify=labels)
    if steps:
        with tempfile.TemporaryDirectory() as folder:
            hf_tsrep.pretrain(
                method, name, folder, max_steps=steps, seed=seed, save_strategy="no", disable_tqdm=True, **fields
            )
            model = hf_tsrep.get_method(method).model_class.from_pretrained(folder)
    else:
        config_class = hf_tsrep.get_method(method).config_class
        known = {key: value for key, value in recipe.items() if key in config_class.field_names()}
        torch.manual_seed(seed)
        model = hf_tsrep.get_method(method).model_class(
            config_class(**{**known, **fields, "num_input_channels": series[0].shape[1]})
        )
    embeddings = model.eval().encode([series[row] for row in rows], prepared=True, show_progress_bar=False)
    return np.asarray(embeddings, dtype=np.float64), labels[rows]


def cross_validate(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Return the accuracy in folds of several shuffles, of the best penalty or, of few series, the greatest."""
    features = (embeddings - embeddings.mean(0)) / np.maximum(embeddings.std(0), 1e-6)
    enough = len(labels) >= 50 and len(labels) // len(np.unique(labels)) >= 5
    scores = []
    for shuffle in range(NUM_SHUFFLES):
        order = np.random.default_rng(shuffle).permutation(len(labels))
        penalties = SVM_PENALTIES if enough else SVM_PENALTIES[-1:]
        scores.append(svm_cross_validation(features[order], labels[order], penalties))
    return float(np.mean(scores, axis=0).max())


def write_table(cells: dict[tuple[int, str], list[float]], corpora: Sequence[str]) -> str:
    """Return a Markdown table: a row a number of steps and choice, a column a corpus, then their mean."""
    lines = [
        "Accuracy by cross-validation on training parts; no test part is read.",
        "",
        f"| steps | choice | {' | '.join(corpora)} | mean |",
        "|---:|---|" + "---:|" * (len(corpora) + 1),
    ]
    for (steps, choice), values in cells.items():
        numbers = " | ".join(f"{value:.3f}" for value in [*values, float(np.mean(values))])
        lines.append(f"| {steps} | {choice or 'the recipe'} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cells that a command line asks for and write their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--corpora", nargs="+", required=True)
    parser.add_argument("--choices", nargs="+", default=[""], metavar="FIELD=VALUE,...")
    parser.add_argument("--steps", type=int, nargs="+", default=[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells; beside it the table")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    warnings.filterwarnings("ignore", message="The least populated class")
    arguments.output.mkdir(parents=True, exist_ok=True)
    cells: dict[tuple[int, str], list[float]] = {}
    for steps in arguments.steps:
        for choice in arguments.choices:
            for name in arguments.corpora:
                file = arguments.output / f"{choice or 'recipe'}-{name.replace('/', '-')}-steps{steps}.json"
                if not file.exists():
                    found = embed_training_part(arguments.method, name, read_choice(choice), steps, arguments.seed)
                    file.write_text(json.dumps({"accuracy": cross_validate(*found)}) + "\n", encoding="utf-8")
                    logger.info("%s %s", file.stem, file.read_text(encoding="utf-8").strip())
                cells.setdefault((steps, choice), []).append(json.loads(file.read_text(encoding="utf-8"))["accuracy"])
    page = write_table(cells, arguments.corpora)
    arguments.output.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page, end="")


if __name__ == "__main__":
    main()
