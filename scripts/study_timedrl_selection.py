"""Measure what it brings TimeDRL's published figures that they are those of the best of all test epochs.

Usage: python scripts/study_timedrl_selection.py uea/FingerMovements --seeds 1 2 3 --output FILE.json
       python scripts/study_timedrl_selection.py forecasting/exchange_rate --horizon 720 --output FILE.json

As in the official loop, every epoch of pre-training is followed by a linear evaluation on the frozen encoder, with a
head and an optimiser that are carried over, and the test data are scored behind every one of its epochs. Printed are
the best of these test scores (how the published figure came about), the last one (nothing chosen), their mean, and
what validation data choose. Where the corpus has no validation part, the official code takes the test data for it;
here a fifth of train is held out, from which a second head does not learn. Runs that the output holds are not done
again.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reproduce_timedrl import CORPORA

import hf_tsrep
from hf_tsrep.training import load_recipe, recipe_for_corpus
from hf_tsrep.training.finetuning import label_name, training_arguments
from hf_tsrep.training.finetuning_data import load_finetuning_data
from hf_tsrep.training.finetuning_inputs import prepare_inputs
from hf_tsrep.training.finetuning_model import build_model, prediction_length_of, reading_options
from hf_tsrep.training.finetuning_settings import resolve_finetuning
from hf_tsrep.training.tensor_rows import Columns, TensorRows, map_tensors

BATCH_SIZE = 32
logger = logging.getLogger("study")


def pretrain(corpus: str, seed: int, arguments: argparse.Namespace) -> list[Path]:
    """Pre-train and return the checkpoints of all epochs, in order."""
    folder = arguments.runs_dir / f"selection-{corpus.rpartition('/')[2]}-seed{seed}"
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not (folder / "model.safetensors").exists():
        shutil.rmtree(folder, ignore_errors=True)
        options: dict[str, Any] = {"save_strategy": "epoch", "save_total_limit": None, "disable_tqdm": True}
        hf_tsrep.pretrain("timedrl", corpus, folder, seed=seed, **options)
        return pretrain(corpus, seed, arguments)
    return checkpoints


class LinearEvaluation:
    """A linear head and its optimiser, carried over from encoder to encoder.

    Args:
        corpus: Name of the corpus.
        seed: Seed of the head, of the batches and of what is held out.
        validation: "auto" or "none", see `hf_tsrep.finetune`.
        arguments: Of the command line.
    """

    def __init__(self, corpus: str, seed: int, validation: str, arguments: argparse.Namespace) -> None:
        recipe = load_recipe("timedrl", recipe_for_corpus("timedrl", corpus))
        self.fields: dict[str, Any] = {
            "corpus": corpus,
            "output_dir": str(arguments.runs_dir / "unused"),
            "task": "classification" if arguments.horizon is None else "forecasting",
            "mode": "linear-probe",
            "seed": seed,
            "validation": validation,
            "disable_tqdm": True,
            "use_cpu": True,
        }
        if arguments.horizon is not None:
            self.fields |= {"prediction_length": arguments.horizon, "context_length": recipe["max_train_length"]}
        self.options = {"lr": 10 * recipe["learning_rate"], "weight_decay": CORPORA[corpus][1]}
        self.generator = torch.Generator().manual_seed(seed)
        self.model: Any = None
        self.optimizer: Any = None

    def take(self, checkpoint: Path) -> None:
        """Encode the corpus with the encoder of a checkpoint."""
        settings = resolve_finetuning({"model": str(checkpoint), **self.fields})
        arguments, length = training_arguments(settings), prediction_length_of(settings)
        data = load_finetuning_data(settings, reading_options(settings), length, self.fields["seed"])
        torch.manual_seed(self.fields["seed"])
        model = build_model(settings, data)
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(model.head.parameters(), **self.options)
        else:
            model.head = self.model.head
        self.model, self.label = model, label_name(settings)
        prepare_inputs(model, data, arguments, is_frozen=True, feature_memory=16.0)
        self.datasets: dict[str, TensorRows] = data.datasets

    def run_epoch(self) -> None:
        """Learn from every training sample once; a last, smaller batch is left out."""
        for batch in self._batches("train", torch.randperm(len(self.datasets["train"]), generator=self.generator)):
            loss = self.model(**batch).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def _batches(self, part: str, order: torch.Tensor) -> Iterator[Columns]:
        columns = self.datasets[part].columns
        for index in order.split(BATCH_SIZE):
            if part != "train" or len(index) == BATCH_SIZE:
                yield map_tensors(columns, lambda column, index=index: column[index])

    @torch.no_grad()
    def score(self, part: str) -> float:
        """Return the accuracy, or the mean squared error, on a part."""
        total = count = 0.0
        for batch in self._batches(part, torch.arange(len(self.datasets[part]))):
            labels, outputs = batch[self.label], self.model(**batch)
            if self.label == "labels":
                total, count = total + float((outputs.logits.argmax(1) == labels).sum()), count + len(labels)
            else:
                difference = outputs.prediction_outputs - labels
                total, count = total + float(difference.square().sum()), count + difference.numel()
        return total / count


def study(corpus: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Pre-train, probe behind every epoch, and return the test scores of the ways to choose."""
    checkpoints = pretrain(corpus, seed, arguments)
    has_validation = arguments.horizon is not None or "validation" in hf_tsrep.data.load_corpus(corpus)
    chosen = LinearEvaluation(corpus, seed, "auto", arguments)
    official = chosen if has_validation else LinearEvaluation(corpus, seed, "none", arguments)
    scores, pairs = [], []
    for checkpoint in checkpoints:
        for evaluation in {id(one): one for one in (chosen, official)}.values():
            evaluation.take(checkpoint)
        for _ in range(arguments.linear_epochs):
            chosen.run_epoch()
            pairs.append((chosen.score("validation"), chosen.score("test")))
            if official is not chosen:
                official.run_epoch()
            scores.append(pairs[-1][1] if official is chosen else official.score("test"))
    best: Callable[..., Any] = max if arguments.horizon is None else min
    return {
        "best test epoch": best(scores),
        "best test epoch behind the last pre-training epoch": best(scores[-arguments.linear_epochs :]),
        "best validation epoch": best(pairs, key=lambda pair: pair[0])[1],
        "last epoch": scores[-1],
        "mean of all epochs": float(np.mean(scores)),
        "number of test scores": len(scores),
    }


def main() -> None:
    """Do all seeds and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=CORPORA)
    parser.add_argument("--horizon", type=int, help="predicted steps; default: classification")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
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
