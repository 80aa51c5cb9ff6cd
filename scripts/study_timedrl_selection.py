"""Measure what it brings TimeDRL's published accuracies that they are the best of all test epochs.

Usage: python scripts/study_timedrl_selection.py uea/FingerMovements --seeds 1 2 3 --output results/studies/FILE.json

As in the official loop, every epoch of pre-training is followed by a linear evaluation on the frozen encoder, with a
head and an optimiser that are carried over, and the test data are scored behind every one of its epochs. Printed are
the best of these test accuracies (how the published figure came about), the last one (nothing chosen), their mean, and
what validation data (a fifth of train, which the head then does not learn from) choose. Runs that the output holds are
not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import hf_tsrep
from hf_tsrep.data import get_labels, get_series, load_corpus
from hf_tsrep.training import load_recipe, recipe_for_corpus
from hf_tsrep.training.finetuning_data import hold_out, pad_series

logger = logging.getLogger("study")


class Part(NamedTuple):
    """Embeddings (num_series, embedding_size) and labels (num_series,)."""

    embeddings: torch.Tensor
    labels: torch.Tensor

    def rows(self, index: np.ndarray) -> Part:
        """Return some rows."""
        return Part(self.embeddings[index], self.labels[index])


class LinearEvaluation:
    """A linear head whose training goes on from encoder to encoder.

    Args:
        embedding_size: Length of the embeddings.
        num_labels: Number of classes.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
    """

    def __init__(self, embedding_size: int, num_labels: int, learning_rate: float, weight_decay: float) -> None:
        self.head = torch.nn.Linear(embedding_size, num_labels)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def run_epoch(self, train: Part) -> None:
        """Train on batches of 32; the last, smaller one is left out."""
        for index in torch.randperm(len(train.labels)).split(32):
            if len(index) == 32:
                loss = torch.nn.functional.cross_entropy(self.head(train.embeddings[index]), train.labels[index])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()

    @torch.no_grad()
    def accuracy(self, part: Part) -> float:
        """Return the share of right answers."""
        return float((self.head(part.embeddings).argmax(1) == part.labels).float().mean())


def embed(corpus: Any, encoder: hf_tsrep.TimeDRLModel) -> dict[str, Part]:
    """Embed train and test."""
    parts = {}
    for name in ("train", "test"):
        series = get_series(corpus[name])
        values = pad_series(series, max(map(len, series)))
        with torch.no_grad():
            embedded = [encoder(batch).pooler_output for batch in values.split(64)]
        parts[name] = Part(torch.cat(embedded), torch.from_numpy(get_labels(corpus[name])))
    return parts


def study(corpus_name: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Pre-train, probe behind every epoch, and return the accuracies of the ways to choose."""
    corpus = load_corpus(corpus_name, scaler="standard")
    labels = get_labels(corpus["train"])
    steps = len(labels) // 32
    folder = arguments.runs_dir / f"selection-{corpus_name.rpartition('/')[2]}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    limits = {} if arguments.pretraining_epochs is None else {"num_train_epochs": arguments.pretraining_epochs}
    options = {"save_steps": steps, "save_total_limit": None, "disable_tqdm": True, **limits}
    hf_tsrep.pretrain("timedrl", corpus_name, folder, seed=seed, **options)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    learning_rate = 10 * load_recipe("timedrl", recipe_for_corpus("timedrl", corpus_name))["learning_rate"]
    stays, held_out = hold_out(labels, 0.2, seed)
    torch.manual_seed(seed)
    size = hf_tsrep.TimeDRLModel.from_pretrained(checkpoints[0]).config.embedding_size
    official, chosen = (
        LinearEvaluation(size, len(set(labels)), learning_rate, arguments.weight_decay) for _ in range(2)
    )
    scores, pairs = [], []
    for checkpoint in checkpoints:
        parts = embed(corpus, hf_tsrep.TimeDRLModel.from_pretrained(checkpoint))
        for _ in range(arguments.linear_epochs):
            official.run_epoch(parts["train"])
            scores.append(official.accuracy(parts["test"]))
            chosen.run_epoch(parts["train"].rows(stays))
            pairs.append((chosen.accuracy(parts["train"].rows(held_out)), chosen.accuracy(parts["test"])))
    shutil.rmtree(folder)
    return {
        "best test epoch": max(scores),
        "best test epoch behind the last pre-training epoch": max(scores[-arguments.linear_epochs :]),
        "best validation epoch": max(pairs, key=lambda pair: pair[0])[1],
        "last epoch": scores[-1],
        "mean of all epochs": float(np.mean(scores)),
        "number of test scores": len(scores),
    }


def main() -> None:
    """Do all seeds and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--weight-decay", type=float, default=6.11e-5, help="of the head; published for the corpus")
    parser.add_argument("--pretraining-epochs", type=int, help="default: the recipe's")
    parser.add_argument("--linear-epochs", type=int, default=30, help="behind every pre-training epoch")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    done: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for seed in arguments.seeds:
        if str(seed) not in done:
            done[str(seed)] = study(arguments.corpus, seed, arguments)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(done, indent=2) + "\n")
        logger.info("seed %d: %s", seed, {name: round(value, 4) for name, value in done[str(seed)].items()})


if __name__ == "__main__":
    main()
