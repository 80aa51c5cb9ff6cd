"""What a run does: its stages, unless they are done, its fine-tunings or evaluation, and its result's file."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict, concatenate_datasets

import hf_tsrep
from hf_tsrep.data import corpus_metadata, load_corpus
from hf_tsrep.errors import SettingsError
from hf_tsrep.evaluation import make_result, write_results
from hf_tsrep.training import find_last_checkpoint, load_recipe, recipe_for_corpus

from .plan import RANDOM_WEIGHTS, Run, Stage, config_fields

LOG_FILE = "training_log.json"
logger = logging.getLogger("reproduce")


def carry_out(run: Run) -> None:
    """Do what is not done of the stages, train and test, and write the result."""
    for stage in run.stages:
        complete(run.method, stage)
    encoder = run.stages[-1].folder if run.stages else None
    if run.finetuning is None:
        model, corpus, outcome = _evaluate(run, encoder)
    else:
        model, corpus, outcome = _finetune(run, encoder)
    outcome["settings"] = {**outcome.get("settings", {}), **run.settings}
    result = make_result(model, corpus, run.protocol, outcome, seed=run.seed, corpus_name=run.corpus)
    if run.stages and not run.stages[-1].shared:
        result = dataclasses.replace(result, model="")  # the folder that it names goes
    write_results(run.result, result)
    for folder in (run.output, *(stage.folder for stage in run.stages if not stage.shared)):
        shutil.rmtree(folder, ignore_errors=True)
        record_file(folder).unlink(missing_ok=True)
    numbers = {key: round(value, 4) for key, value in list(outcome["metrics"].items())[:10]}
    logger.info("%s: %s", run.result.stem, numbers)


def complete(method: str, stage: Stage) -> None:
    """Make a stage's folder, or go on with it from its newest checkpoint, unless it is finished.

    Raises:
        SettingsError: The folder was begun with other settings; the message names them.
    """
    wanted = json.loads(json.dumps({"start": stage.start, "corpora": stage.corpora, **stage.fields}, default=str))
    record, folder = record_file(stage.folder), stage.folder
    if folder.exists():
        begun = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        other = [key for key in {**begun, **wanted} if begun.get(key) != wanted.get(key)]
        if other:
            was = ", ".join(f"{key}={begun.get(key)!r}, not {wanted.get(key)!r}" for key in other)
            raise SettingsError(f"{folder} was begun with {was}. Remove it or choose another --runs-dir.")
    if (folder / stage.weights_file).is_file():
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    if stage.start is None:
        resumes = find_last_checkpoint(folder) is not None
        corpora: Any = stage.corpora if len(stage.corpora) > 1 else stage.corpora[0]
        hf_tsrep.pretrain(
            method, corpora, folder, resume_from_checkpoint=resumes, overwrite_output_dir=not resumes,
            disable_tqdm=True, **stage.fields,
        )  # fmt: skip
    elif stage.start == RANDOM_WEIGHTS:
        save_random_weights(method, stage)
    else:
        own_function(method, stage.start)(folder, **stage.fields)


def record_file(folder: Path) -> Path:
    """Return the file beside a stage's folder that says with which settings it was begun."""
    return folder.with_name(f"{folder.name}.json")


def own_function(method: str, name: str) -> Any:
    """Return a function of the method's own, from `grids/METHOD.py`."""
    return getattr(importlib.import_module(f"grids.{method}"), name)


def save_random_weights(method: str, stage: Stage) -> None:
    """Save an encoder with random weights, of the recipe's sizes or the stage's own."""
    (corpus,), fields = stage.corpora, dict(stage.fields)
    seed = fields.pop("seed")
    recipe = load_recipe(method, recipe_for_corpus(method, corpus)) | fields
    num_channels = len(corpus_metadata(load_corpus(corpus)).channel_names)
    described = hf_tsrep.get_method(method)
    torch.manual_seed(seed)
    config = described.config_class(num_input_channels=num_channels, **config_fields(method, recipe))
    described.model_class(config).save_pretrained(stage.folder)


def _evaluate(run: Run, encoder: Path | None) -> tuple[Any, Any, dict[str, Any]]:
    """Evaluate the frozen encoder; return it, the corpus and the protocol's outcome."""
    model = hf_tsrep.get_method(run.method).model_class.from_pretrained(encoder)
    loaded = [load_corpus(corpus, **run.loading) for corpus in run.corpora]
    corpus = DatasetDict({split: concatenate_datasets([one[split] for one in loaded]) for split in loaded[0]})
    outcome = hf_tsrep.evaluate(model, corpus, run.protocol, seed=run.seed, **run.evaluation)
    outcome["timings"]["pretraining"] = read_log(encoder)["metrics"]["train_runtime"]
    return model, corpus, outcome


def _finetune(run: Run, encoder: Path | None) -> tuple[Any, Any, dict[str, Any]]:
    """Fine-tune once a horizon; return what the result names as model and corpus, and the outcome."""
    (corpus,), loading = run.corpora, run.loading
    if run.trained_by:
        shutil.rmtree(run.output, ignore_errors=True)
        outcome = own_function(run.method, run.trained_by)(
            encoder, corpus, run.output, seed=run.seed, **run.finetuning
        )
        tuned = []
    else:
        tuned = [_finetune_once(run, encoder, corpus, horizon) for horizon in run.horizons]
        outcome = tuned[0].outcome
    if run.outcome == "horizons":
        outcome = {**outcome_of_horizons(run.protocol, run.horizons, tuned), "settings": run.finetuning}
        log = read_log(encoder)
        losses = [entry["validation_loss"] for entry in log["history"] if "validation_loss" in entry]
        outcome["details"]["pretraining"] = {"variant": run.variant, "validation_losses": losses}
        outcome["timings"]["pretraining"] = log["metrics"]["train_runtime"]
    elif run.outcome == "facts":
        (one,) = tuned
        details = {"validation_metrics": one.validation_metrics, "epoch": one.epoch, **one.facts}
        outcome, loading = {"metrics": outcome["metrics"], "details": details}, {"scaler": one.facts["scaler"]}
    model_class = hf_tsrep.get_method(run.method).model_class
    model = tuned[0].model if encoder is None else model_class.from_pretrained(encoder)
    return model, load_corpus(corpus, **loading), outcome


def _finetune_once(run: Run, encoder: Path | None, corpus: str, horizon: int | None) -> Any:
    shutil.rmtree(run.output, ignore_errors=True)
    lengths = {} if horizon is None else {"prediction_length": horizon}
    fields = {"task": run.task, "seed": run.seed, "disable_tqdm": True, **(run.finetuning or {}), **lengths}
    tuned = hf_tsrep.finetune(run.method if encoder is None else str(encoder), corpus, run.output, **fields)
    if len(run.horizons) > 1:
        logger.info("%s, %s steps: %s", run.result.stem, horizon, tuned.metrics)
    return tuned


def outcome_of_horizons(protocol: str, horizons: Sequence[int | None], tuned: Sequence[Any]) -> dict[str, Any]:
    """Return one outcome of the fine-tunings of several horizons, as of a protocol.

    Args:
        protocol: Its name, by which details and timings go.
        horizons: Steps to predict; one None for a classification.
        tuned: Results of the fine-tunings, one a horizon.

    Returns:
        metrics with the horizon in their names and their means, details and timings in seconds.
    """
    outcome: dict[str, Any] = {"metrics": {}, "details": {}, "timings": {}}
    for horizon, result in zip(horizons, tuned, strict=True):
        suffix = "" if horizon is None else f"_{horizon}"
        chosen = ("accuracy", "macro_f1", "kappa") if horizon is None else ("mse", "mae")
        outcome["metrics"] |= {f"{key}{suffix}": result.metrics[key] for key in chosen}
        outcome["details"][f"{protocol}{suffix}"] = {"epoch": result.epoch, "validation": result.validation_metrics}
        outcome["timings"][f"{protocol}{suffix}"] = result.facts["train_runtime"]
    if horizons[0] is not None:
        means = {key: statistics.mean(one.metrics[key] for one in tuned) for key in ("mse", "mae")}
        outcome["metrics"] |= means
    return outcome


def read_log(encoder: Path | None) -> dict[str, Any]:
    """Return what a pre-training logged; nothing where there was none."""
    file = None if encoder is None else encoder / LOG_FILE
    if file is None or not file.is_file():
        return {"metrics": {"train_runtime": 0.0}, "history": []}
    return dict(json.loads(file.read_text(encoding="utf-8")))
