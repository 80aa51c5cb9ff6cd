"""Pre-train TimeDRL with the published settings, then train a linear head on the frozen encoder, in two stages.

Usage: python scripts/reproduce_timedrl.py ett/ETTh1 uea/PenDigits --seeds 1 2
       python scripts/reproduce_timedrl.py ett/ETTh1 --variants full without_contrastive without_predictive
       python scripts/reproduce_timedrl.py sensor/HAR --smaller hidden_size=128 num_hidden_layers=3

The epoch of the linear head is chosen on validation data (a part of train where the corpus has none), and the test
data are used once. Every run gives one file in results/timedrl; runs whose file is there are not done again.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

import hf_tsrep
from hf_tsrep.data import corpus_metadata, load_corpus
from hf_tsrep.evaluation import make_result, write_results
from hf_tsrep.training import load_recipe, recipe_for_corpus

logger = logging.getLogger("reproduce")

HOURLY, QUARTER_HOURLY = (24, 48, 168, 336, 720), (24, 48, 96, 288, 672)

# Corpus -> horizons (none: classification) and the published weight decay of the linear head.
CORPORA: dict[str, tuple[tuple[int, ...], float]] = {
    "ett/ETTh1": (HOURLY, 1.64e-5),
    "ett/ETTh2": (HOURLY, 6.44e-4),
    "ett/ETTm1": (QUARTER_HOURLY, 1.64e-5),
    "forecasting/exchange_rate": (HOURLY, 5.93e-3),
    "forecasting/weather": (HOURLY, 2.95e-4),
    "uea/FingerMovements": ((), 6.11e-5),
    "uea/PenDigits": ((), 2.64e-3),
    "sensor/HAR": ((), 1.72e-3),
    "sensor/Epilepsy_TSTCC": ((), 2.16e-3),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "without_contrastive": {"contrastive_weight": 0.0},
    "without_predictive": {"predictive_weight": 0.0},
    "normalized_target": {"prediction_target": "normalized"},
    "random_weights": {},  # no pre-training: what the head makes of an encoder that has learnt nothing
}


def linear_fields(corpus: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the linear head: ten times the rate of pre-training, patience as published.

    The rate falls to 0 along a line, which needs no choice of a schedule on test data; the published schedules of each
    corpus are in the recipes timedrl-linear-probe-CORPUS.
    """
    recipe = load_recipe("timedrl", recipe_for_corpus("timedrl", corpus))
    horizons, weight_decay = CORPORA[corpus]
    fields: dict[str, Any] = {
        "task": "forecasting" if horizons else "classification",
        "mode": "linear-probe",
        "recipe": "linear-probe",
        "learning_rate": 10 * recipe["learning_rate"],
        "weight_decay": weight_decay,
        "num_train_epochs": arguments.linear_epochs,
        "early_stopping_patience": 5 if horizons else 10,
        "per_device_train_batch_size": 32,
        "disable_tqdm": True,
    }
    if horizons:
        fields |= {"context_length": recipe["max_train_length"], "stride": arguments.stride}
    return fields


def probe(corpus: str, model: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and test the linear head, for every horizon, and return an outcome as of a protocol."""
    fields = linear_fields(corpus, arguments)
    metrics: dict[str, float] = {}
    details: dict[str, Any] = {}
    timings: dict[str, float] = {}
    horizons = [one for one in CORPORA[corpus][0] if not arguments.horizons or one in arguments.horizons]
    for horizon in horizons or [None]:
        lengths = {} if horizon is None else {"prediction_length": horizon}
        result = hf_tsrep.finetune(model, corpus, model / "probe", seed=seed, **fields, **lengths)
        name = "linear" if horizon is None else f"linear_{horizon}"
        chosen = ("accuracy", "macro_f1", "kappa") if horizon is None else ("mse", "mae")
        metrics |= {key if horizon is None else f"{key}_{horizon}": result.metrics[key] for key in chosen}
        details[name] = {"epoch": result.epoch, "validation": result.validation_metrics}
        timings[name] = result.facts["train_runtime"]
        shutil.rmtree(model / "probe")
        logger.info("%s, seed %d, %s: %s", corpus, seed, name, {key: round(metrics[key], 4) for key in metrics})
    if horizons:
        metrics |= {key: statistics.mean(metrics[f"{key}_{one}"] for one in horizons) for key in ("mse", "mae")}
    return {"metrics": metrics, "details": details, "timings": timings, "settings": fields}


def pretrain(
    corpus: str, variant: str, folder: Path, seed: int, arguments: argparse.Namespace
) -> tuple[Any, dict[str, Any], list[float], float]:
    """Pre-train, and return the model, its fields, the validation losses and the seconds that it took."""
    fields = VARIANTS[variant] | arguments.smaller
    if variant == "random_weights":
        recipe = load_recipe("timedrl", recipe_for_corpus("timedrl", corpus)) | fields
        known = {name: value for name, value in recipe.items() if name in hf_tsrep.TimeDRLConfig.__dataclass_fields__}
        num_channels = len(corpus_metadata(load_corpus(corpus)).channel_names)
        torch.manual_seed(seed)
        model = hf_tsrep.TimeDRLModel(hf_tsrep.TimeDRLConfig(num_input_channels=num_channels, **known))
        model.save_pretrained(folder)
        return model, fields, [], 0.0
    if arguments.pretraining_epochs is not None:
        fields["num_train_epochs"] = arguments.pretraining_epochs
    if CORPORA[corpus][0]:
        fields["window_stride"] = arguments.stride
    trained = hf_tsrep.pretrain("timedrl", corpus, folder, seed=seed, save_steps=10**6, disable_tqdm=True, **fields)
    losses = [entry["validation_loss"] for entry in trained.history if "validation_loss" in entry]
    return trained.model, fields, losses, trained.metrics["train_runtime"]


def run(corpus: str, variant: str, seed: int, arguments: argparse.Namespace) -> None:
    """Do one run and write its result, unless it is there."""
    name = corpus.rpartition("/")[2] + ("" if variant == "full" else f"-{variant}")
    name += "".join(f"-{field.removeprefix('num_')}-{number}" for field, number in arguments.smaller.items())
    target = arguments.results_dir / f"{name}-seed{seed}.json"
    if target.exists():
        return
    folder = arguments.runs_dir / f"timedrl-{name}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    model, fields, losses, seconds = pretrain(corpus, variant, folder, seed, arguments)
    outcome = probe(corpus, folder, seed, arguments)
    outcome["timings"]["pretraining"] = seconds
    outcome["details"]["pretraining"] = {"variant": variant, "validation_losses": losses}
    outcome["settings"]["setting"] = ", ".join(
        [variant.replace("_", " "), *(f"{field} {number}" for field, number in arguments.smaller.items())]
    )
    outcome["settings"]["pretraining"] = fields
    loaded = load_corpus(corpus, scaler="standard")
    result = make_result(model, loaded, "linear", outcome, seed=seed, model_name="", corpus_name=corpus)
    write_results(target, result)
    shutil.rmtree(folder)


def main() -> None:
    """Do all runs of the chosen corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", choices=CORPORA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["full"])
    parser.add_argument("--horizons", type=int, nargs="+", help="some of the corpus's horizons; default all")
    parser.add_argument("--stride", type=int, default=1, help="steps between training windows (published: 1)")
    parser.add_argument("--pretraining-epochs", type=int, help="default: the recipe's")
    parser.add_argument("--smaller", nargs="+", default=[], metavar="FIELD=NUMBER", help="fields of a smaller model")
    parser.add_argument("--linear-epochs", type=int, default=30)
    parser.add_argument("--results-dir", type=Path, default=Path("results/timedrl"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    arguments.smaller = {name: int(number) for name, number in (one.split("=") for one in arguments.smaller)}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for seed in arguments.seeds:
        for corpus in arguments.corpora:
            for variant in arguments.variants:
                run(corpus, variant, seed, arguments)


if __name__ == "__main__":
    main()
