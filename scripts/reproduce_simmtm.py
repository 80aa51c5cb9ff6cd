"""Pre-train SimMTM and fine-tune it by the paper's protocols, with the ablations that carry the paper.

Usage: python scripts/reproduce_simmtm.py ETTh1 ETTm1 ETTh2-to-ETTh1 Epilepsy --horizons 96 --seeds 1 2
       python scripts/reproduce_simmtm.py ETTh1 ETTh1-random --horizons 96 --look-back 96 --pretraining-steps 200

The epoch of a fine-tuning is chosen on validation data, or is the last one with --selection last (the 20 validation
series of Epilepsy in TF-C's split choose badly), and the model tested once. Every fine-tuning gives one file in
results/simmtm; runs whose file is there are not done again, and finished pre-trainings in the folder of runs are used
again, so an interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hf_tsrep
from hf_tsrep.data import load_corpus
from hf_tsrep.evaluation import make_result, write_results
from hf_tsrep.training import load_recipe, recipe_for_corpus

logger = logging.getLogger("reproduce")

# The published dropouts and batch sizes of fine-tuning.
FORECASTING: dict[str, dict[str, Any]] = {
    "ETTh1": {"dropout": 0.2, "head_dropout": 0.1, "per_device_train_batch_size": 16},
    "ETTh2": {"dropout": 0.4, "head_dropout": 0.2, "per_device_train_batch_size": 16},
    "ETTm1": {"dropout": 0.0, "head_dropout": 0.1, "per_device_train_batch_size": 32},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "": {},
    "-without-constraint": {"use_constraint_loss": False},
    "-masked-modelling": {"use_constraint_loss": False, "use_aggregation": False},
}
VARIANTS = {"": "full", "-without-constraint": "without constraint", "-masked-modelling": "masked modelling"}
CLASSIFICATION = {"recipe": "simmtm-classification"}
LINEAR_PROBE: dict[str, dict[str, Any]] = {
    "classification": {"mode": "linear-probe"},
    # What the frozen encoder gives of the windows is kept (ETTh1: 4 GiB), so that an epoch trains the head alone.
    "forecasting": {
        "mode": "linear-probe",
        "num_train_epochs": 10,
        "early_stopping_patience": 3,
        "feature_memory": 12.0,
    },
}


@dataclass(frozen=True)
class Job:
    """One pre-training and the fine-tunings on it.

    Args:
        source: Corpus of the pre-training; None for none, with random weights.
        target: Corpus of the fine-tuning.
        task: "forecasting" or "classification".
        variant: What tells the job from others on the target.
        pretraining: Fields of the pre-training beside the recipe's.
        finetuning: Fields of the fine-tuning beside the recipe's.
        sizes: Corpus whose recipe gives the sizes of random weights; None for the target.
    """

    source: str | None
    target: str
    task: str
    variant: str
    pretraining: dict[str, Any] = field(default_factory=dict)
    finetuning: dict[str, Any] = field(default_factory=dict)
    sizes: str | None = None


def jobs() -> dict[str, Job]:
    """Return all jobs by name."""
    found = {}
    for name, settings in FORECASTING.items():
        fields = {"recipe": "simmtm-forecasting", **settings}
        for suffix, changed in ABLATIONS.items():
            found[name + suffix] = Job(f"ett/{name}", f"ett/{name}", "forecasting", VARIANTS[suffix], changed, fields)
        found[f"{name}-random"] = Job(None, f"ett/{name}", "forecasting", "random weights", {}, fields)
    # The encoder's sizes are those of the corpus of the pre-training.
    found["ETTh2-to-ETTh1"] = Job(
        "ett/ETTh2", "ett/ETTh1", "forecasting", "pre-trained on ETTh2", {}, found["ETTh1"].finetuning
    )
    found["ETTh2-to-ETTh1-random"] = Job(
        None, "ett/ETTh1", "forecasting", "random weights, sizes of ETTh2", {}, found["ETTh1"].finetuning, "ett/ETTh2"
    )
    epilepsy = "sensor/Epilepsy_TFC"  # 60 training series, so one step an epoch
    for suffix, changed in ABLATIONS.items():
        epochs = {"num_train_epochs": 500, **changed}
        found[f"Epilepsy{suffix}"] = Job(
            epilepsy, epilepsy, "classification", VARIANTS[suffix], epochs, CLASSIFICATION
        )
    found["Epilepsy-random"] = Job(None, epilepsy, "classification", "random weights", {}, CLASSIFICATION)
    return found


def pretrained(name: str, job: Job, seed: int, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Pre-train, unless it is done; return the model's folder, or fields of one with random weights."""
    if job.source is None:
        sizes = job.sizes or job.target
        recipe = load_recipe("simmtm", recipe_for_corpus("simmtm", sizes))
        known = hf_tsrep.SimMTMConfig.__dataclass_fields__
        return "simmtm", {key: value for key, value in recipe.items() if key in known and key != "context_length"}
    folder = arguments.runs_dir / f"{_label(name, job, arguments)}-seed{seed}"
    if not (folder / "model.safetensors").exists():
        fields = {**job.pretraining, **arguments.pretraining_limit}
        if arguments.pretraining_limit:
            # Nothing is chosen by the pretext loss on validation data, which takes longer than a few hundred steps.
            fields["validation_loss"] = False
        if job.task == "forecasting":
            fields |= {"context_length": arguments.look_back, "max_train_length": arguments.look_back}
        hf_tsrep.pretrain(
            "simmtm", job.source, folder, seed=seed, save_steps=10**6, disable_tqdm=True, overwrite_output_dir=True,
            **fields,
        )  # fmt: skip
    return str(folder), {}


def _circumstances(job: Job, arguments: argparse.Namespace) -> list[str]:
    """Return what is not as published."""
    found = ["last epoch"] if arguments.selection == "last" else []
    if job.task == "forecasting" and arguments.look_back != 336:
        found.append(f"look-back {arguments.look_back}")
    if arguments.linear_probe:
        found.append("head alone")
    return found


def _label(name: str, job: Job, arguments: argparse.Namespace) -> str:
    changed = job.task == "forecasting" and arguments.look_back != 336
    return f"{name}-look-back-{arguments.look_back}" if changed else name


def run(name: str, job: Job, horizon: int | None, seed: int, arguments: argparse.Namespace) -> None:
    """Fine-tune once and write the result, unless it is there."""
    label = _label(name, job, arguments) + (f"-{horizon}" if horizon else "")
    label += "-last-epoch" if arguments.selection == "last" else ""
    label += "-linear-probe" if arguments.linear_probe else ""
    target = arguments.results_dir / f"{label}-seed{seed}.json"
    if target.exists():
        return
    model, fields = pretrained(name, job, seed, arguments)
    finetuning = LINEAR_PROBE[job.task] if arguments.linear_probe else job.finetuning
    fields = {**fields, **finetuning, **arguments.finetuning_limit}
    if arguments.selection == "last":
        fields["validation"] = "none"
    if horizon:
        fields |= {"prediction_length": horizon, "context_length": arguments.look_back}
    folder = arguments.runs_dir / f"{label}-seed{seed}-finetuned"
    shutil.rmtree(folder, ignore_errors=True)
    tuned = hf_tsrep.finetune(model, job.target, folder, task=job.task, seed=seed, disable_tqdm=True, **fields)
    settings = {
        "setting": ", ".join([job.variant, *_circumstances(job, arguments)]),
        "source": job.source,
        "pretraining": {**job.pretraining, **arguments.pretraining_limit},
        "finetuning": fields,
        "prediction_length": horizon,
        "selection": "last epoch" if arguments.selection == "last" else "best epoch on validation data",
    }
    details = {"validation_metrics": tuned.validation_metrics, "epoch": tuned.epoch, **tuned.facts}
    protocol = "linear" if arguments.linear_probe else "finetune"
    outcome = {"metrics": tuned.outcome["metrics"], "details": details, "settings": settings}
    corpus = load_corpus(job.target, scaler=tuned.facts["scaler"])
    write_results(target, make_result(tuned.model, corpus, protocol, outcome, seed=seed, corpus_name=job.target))
    shutil.rmtree(folder)
    logger.info("%s, seed %d: %s", label, seed, {key: round(value, 4) for key, value in tuned.metrics.items()})


def main() -> None:
    """Do all runs of the chosen jobs."""
    known = jobs()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="+", choices=sorted(known), metavar="JOB", help=", ".join(sorted(known)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--horizons", type=int, nargs="+", default=[96, 192, 336, 720])
    parser.add_argument("--look-back", type=int, default=336, help="steps that forecasts see; published: 336")
    parser.add_argument("--pretraining-steps", type=int, help="instead of the recipe's epochs")
    parser.add_argument("--finetuning-epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--finetuning-stride", type=int, help="steps between training windows; published: 1")
    parser.add_argument("--linear-probe", action="store_true", help="train the head alone, on the frozen encoder")
    parser.add_argument(
        "--selection", choices=("validation", "last"), default="validation", help="which epoch of the fine-tuning"
    )
    parser.add_argument("--results-dir", type=Path, default=Path("results/simmtm"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/simmtm"))
    arguments = parser.parse_args()
    steps, epochs, stride = arguments.pretraining_steps, arguments.finetuning_epochs, arguments.finetuning_stride
    arguments.pretraining_limit = {} if steps is None else {"max_steps": steps}
    arguments.finetuning_limit = ({} if epochs is None else {"num_train_epochs": epochs}) | (
        {} if stride is None else {"stride": stride}
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for seed in arguments.seeds:
        for name in arguments.jobs:
            horizons = arguments.horizons if known[name].task == "forecasting" else [None]
            for horizon in horizons:
                run(name, known[name], horizon, seed, arguments)


if __name__ == "__main__":
    main()
