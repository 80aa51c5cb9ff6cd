"""Measure what it brings TimeDRL's published figures that they are those of the best of all test epochs.

Usage: python scripts/studies/timedrl_selection.py uea/FingerMovements --seeds 1 2 3 --output FILE
       python scripts/studies/timedrl_selection.py forecasting/exchange_rate --horizon 720 --output FILE
       python scripts/studies/timedrl_selection.py forecasting/exchange_rate --horizon 720 --published-loop \
           --output FILE

As in the official loop, every epoch of pre-training is followed by a linear evaluation on the frozen encoder, with a
head and an optimiser that are carried over, and the test data are scored behind every one of its epochs. Printed are
the best of these test scores (how the published figure came about), the last one (nothing chosen), their mean, and
what validation data choose. Where the corpus has no validation part, the official code takes the test data for it;
here a fifth of train is held out, from which a second head does not learn. The head learns at one rate for all epochs;
with --published-loop at the published schedule's, with the official code's dropout before the head in the first epoch
of every round, and once validation has not improved for the published patience, for one epoch a round. Runs that the
output holds are not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hf_tsrep
from hf_tsrep.training import load_recipe, recipe_for_corpus
from hf_tsrep.training.callbacks import epoch_factor
from hf_tsrep.training.data import Columns, TensorRows, map_tensors
from hf_tsrep.training.finetuning.data import load_finetuning_data, prepare_inputs
from hf_tsrep.training.finetuning.model import build_model, prediction_length_of, reading_options
from hf_tsrep.training.finetuning.run import label_name, training_arguments
from hf_tsrep.training.recipe_files import recipe_for
from hf_tsrep.training.resolve import resolve_finetuning

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reproduction.plan import load_grid  # it lies beside this folder, which is known only now

BATCH_SIZE = 32
JOBS = load_grid("timedrl")["jobs"]
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


@dataclass(frozen=True)
class Loop:
    """How the head learns behind an epoch of pre-training.

    Args:
        num_epochs: At most.
        schedule: See `hf_tsrep.training.callbacks.epoch_factor`; it begins anew in every round, except that the first
            epoch of a round has the rate that would have come next.
        dropout: Of the head's inputs, in the first epoch of every round.
        patience: Epochs without a better validation score after which every round has one epoch; None: never.
    """

    num_epochs: int
    schedule: str = "constant"
    dropout: float = 0.0
    patience: int | None = None


def loop_of(corpus: str, arguments: argparse.Namespace) -> Loop:
    """Return the loop that the command line asks for."""
    if not arguments.published_loop:
        return Loop(arguments.linear_epochs)
    task = "classification" if arguments.horizon is None else "forecasting"
    head = load_recipe("finetuning", recipe_for("timedrl", "linear-probe", task, corpus))
    encoder = load_recipe("timedrl", recipe_for_corpus("timedrl", corpus))
    return Loop(arguments.linear_epochs, head["epoch_schedule"], encoder["dropout"], head["early_stopping_patience"])


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
        self.loop = loop_of(corpus, arguments)
        self.best, self.num_waited, self.next_factor = -float("inf"), 0, 1.0
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
        self.options = {"lr": 10 * recipe["learning_rate"], "weight_decay": JOBS[corpus]["finetuning"]["weight_decay"]}
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

    def run_round(self) -> list[tuple[float, float]]:
        """Learn, and return the scores on validation (without such data: test) and test data behind every epoch."""
        scores = []
        watched = "validation" if "validation" in self.datasets else "test"
        for epoch in range(self.loop.num_epochs):
            factor = self.next_factor if epoch == 0 else epoch_factor(self.loop.schedule, epoch)
            self.next_factor = epoch_factor(self.loop.schedule, epoch + 1)
            self.run_epoch(factor * self.options["lr"], self.loop.dropout if epoch == 0 else 0.0)
            scores.append((self.score(watched), self.score("test")))
            if self._stops(scores[-1][0]):
                break
        return scores

    def _stops(self, score: float) -> bool:
        """Return whether the patience was at an end, now or in any epoch before."""
        if self.loop.patience is None:
            return False
        if self.num_waited < self.loop.patience:
            gain = score if self.label == "labels" else -score
            self.num_waited = 0 if gain > self.best else self.num_waited + 1
            self.best = max(self.best, gain)
        return self.num_waited >= self.loop.patience

    def run_epoch(self, learning_rate: float, dropout: float) -> None:
        """Learn from every training sample once; a last, smaller batch is left out."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.model.head.dropout.p = dropout
        self.model.head.train()
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
        self.model.eval()
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
    scores, pairs, last_round = [], [], []
    for checkpoint in checkpoints:
        chosen.take(checkpoint)
        pairs += (chosen_round := chosen.run_round())
        if official is not chosen:
            official.take(checkpoint)
        last_round = [test for _, test in (chosen_round if official is chosen else official.run_round())]
        scores += last_round
    best: Callable[..., Any] = max if arguments.horizon is None else min
    return {
        "best test epoch": best(scores),
        "best test epoch behind the last pre-training epoch": best(last_round),
        "best validation epoch": best(pairs, key=lambda pair: pair[0])[1],
        "last epoch": scores[-1],
        "mean of all epochs": float(np.mean(scores)),
        "number of test scores": len(scores),
    }


def main() -> None:
    """Do all seeds and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=JOBS)
    parser.add_argument("--horizon", type=int, help="predicted steps; default: classification")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--linear-epochs", type=int, default=30, help="behind every pre-training epoch")
    parser.add_argument("--published-loop", action="store_true", help="the published schedule, dropout and patience")
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
