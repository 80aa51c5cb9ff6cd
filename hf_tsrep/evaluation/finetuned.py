"""Protocols that train on top of an encoder: a linear head on the frozen encoder, and fine-tuning of all weights."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .checks import require_names, require_splits
from .classification import classification_metrics
from .domain_choice import choose_domain
from .forecasting import evaluate_forecasting

TASKS = ("classification", "forecasting")
MODES = ("full", "linear-probe", "lora")
SOLVERS = ("gradient", "regression")


def evaluate_finetune(
    model: Any,
    corpus: Any,
    *,
    task: str | None = None,
    mode: str = "full",
    label_fraction: float = 1.0,
    validation: str | None = "auto",
    num_train_epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    early_stopping_patience: int | None = 10,
    context_length: int = 336,
    prediction_length: int = 96,
    stride: int = 1,
    adapt_input: bool = False,
    domain: str | None = None,
    seed: int = 0,
    device: Any = None,
    show_progress_bar: bool | None = None,
) -> dict[str, Any]:
    """Fine-tunes a copy of an encoder with a new head on the train split and tests it once; the model stays as it is.

    The epoch is chosen on validation data: the corpus's own, else a part of train (see `hf_tsrep.finetune`, which also
    saves the model and has every other setting).

    Args:
        model: a model of the house.
        corpus: DatasetDict with splits `train` and `test`, from `hf_tsrep.data.load_corpus`.
        task: `classification` or `forecasting`; None takes classification where the corpus has labels.
        mode: `full`, `linear-probe` or `lora`.
        label_fraction: share of the training data that is used, by class.
        validation: `auto`, or `none` (or None) for the last epoch.
        num_train_epochs: at most; None for the recipe's, as in the next two.
        learning_rate: of AdamW, with warm-up and linear decay.
        batch_size: of the training.
        early_stopping_patience: epochs without a better validation score after which training ends; None for never.
        context_length: steps that the model sees (forecasting).
        prediction_length: steps that it predicts (forecasting).
        stride: steps between training windows (forecasting).
        adapt_input: whether weights whose shapes do not fit the corpus's channels start anew, instead of an error.
        domain: which of the model's domains the corpus is (methods with domains); None for the one of its name.
        seed: of the head's weights, the order of the batches and whatever is drawn.
        device: `cpu` for the CPU, else the Trainer's choice; None for where the model is.
        show_progress_bar: False for none.

    Returns:
        `metrics`: `accuracy`, `macro_f1`, `kappa`, `auprc`, or `mse`, `mae` and both with the horizon in their name;
        `details`, `timings` (seconds) and `settings`.

    Raises:
        ValueError: a setting is out of range, or the corpus does not fit; the message names it.
    """
    chosen = task or _task_of(corpus)
    require_names([chosen], TASKS, "task")
    require_names([mode], MODES, "mode")
    fields: dict[str, Any] = {
        "mode": mode,
        "label_fraction": label_fraction,
        "validation": validation or "none",
        "early_stopping_patience": early_stopping_patience,
        "adapt_input": adapt_input,
        "domain": domain,
        "seed": seed,
    }
    chosen_budget = {
        "num_train_epochs": num_train_epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
    }
    fields |= {name: value for name, value in chosen_budget.items() if value is not None}
    if chosen == "forecasting":
        fields |= {"context_length": context_length, "prediction_length": prediction_length, "stride": stride}
    return _fine_tuned(model, corpus, chosen, fields, device, show_progress_bar)


def evaluate_linear(
    model: Any,
    corpus: Any,
    *,
    task: str | None = None,
    solver: str = "gradient",
    label_fraction: float = 1.0,
    validation: str | None = "auto",
    num_train_epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    early_stopping_patience: int | None = 20,
    context_length: int = 336,
    prediction_length: int = 96,
    stride: int = 1,
    adapt_input: bool = False,
    domain: str | None = None,
    seed: int = 0,
    device: Any = None,
    show_progress_bar: bool | None = None,
) -> dict[str, Any]:
    """Trains the task's head on the frozen encoder and tests it once.

    The head is linear for all methods but SimMTM, whose classification head has two linear layers and a sigmoid
    between them, as published; `solver="regression"` is linear for every method.

    Args:
        model: a model of the house; `regression` takes anything with `encode`.
        corpus: DatasetDict with splits `train` and `test`, from `hf_tsrep.data.load_corpus`.
        task: `classification` or `forecasting`; None takes classification where the corpus has labels.
        solver: `gradient` trains the model's own head, the epoch chosen on validation data. `regression` fits
            one-vs-rest logistic regression on standardised embeddings, or in forecasting a ridge regression whose
            penalty is chosen on validation data; it has no use for the settings of a training.
        label_fraction: share of the training data that is used, by class (forecasting: with `gradient` only).
        validation: see `evaluate_finetune`, also for the settings below; with `gradient` only.
        num_train_epochs: see there.
        learning_rate: see there.
        batch_size: of the training, or of `encode`.
        early_stopping_patience: see there.
        context_length: see there.
        prediction_length: see there.
        stride: see there.
        adapt_input: see there; with `gradient` only.
        domain: see there.
        seed: see there.
        device: see there.
        show_progress_bar: see there.

    Returns:
        As `evaluate_finetune`.

    Raises:
        ValueError: a setting is unknown or out of range, or the corpus does not fit; the message names it.
    """
    chosen = task or _task_of(corpus)
    require_names([chosen], TASKS, "task")
    require_names([solver], SOLVERS, "solver")
    if solver == "gradient":
        outcome = evaluate_finetune(
            model,
            corpus,
            task=chosen,
            mode="linear-probe",
            label_fraction=label_fraction,
            validation=validation,
            num_train_epochs=num_train_epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            early_stopping_patience=early_stopping_patience,
            context_length=context_length,
            prediction_length=prediction_length,
            stride=stride,
            adapt_input=adapt_input,
            domain=domain,
            seed=seed,
            device=device,
            show_progress_bar=show_progress_bar,
        )
        outcome["settings"]["solver"] = solver
        return outcome
    _require_channels(model, corpus, domain)
    options = {"batch_size": batch_size or 32, "device": device, "show_progress_bar": show_progress_bar}
    if chosen == "classification":
        return _regressed_classification(model, corpus, label_fraction, domain, seed, options)
    if label_fraction < 1.0:
        raise ValueError(
            f"solver='regression' of forecasts takes all of train; got label_fraction={label_fraction:g}. Use "
            "solver='gradient'."
        )
    return _regressed_forecasting(model, corpus, context_length, prediction_length, domain, seed, options)


def _require_channels(model: Any, corpus: Any, domain: str | None) -> None:
    """Refuse a corpus of another number of channels before anything is encoded."""
    from ..data import get_series

    told, _ = choose_domain(model, corpus, domain)
    given = get_series(corpus["train"])[0].shape[1]
    taken = model.num_channels_of(**told) if hasattr(model, "num_channels_of") else given
    if given != taken:
        raise ValueError(
            f"The corpus has {given} channels, and the model takes {taken}. Choose the model's channels with target, "
            "or use solver='gradient' with adapt_input=True (--adapt-input)."
        )


def _task_of(corpus: Any) -> str:
    splits = require_splits(corpus, ("train", "test"), "linear or finetune")
    return "classification" if "label" in splits["train"].column_names else "forecasting"


def _fine_tuned(
    model: Any, corpus: Any, task: str, fields: dict[str, Any], device: Any, show_progress_bar: bool | None
) -> dict[str, Any]:
    from ..training.finetuning import run_finetuning
    from ..training.resolve import resolve_finetuning

    with tempfile.TemporaryDirectory(prefix="hf-tsrep-") as folder:
        place = Path(folder) / "model"
        fields = {
            **fields,
            "scaler": None,  # the corpus is evaluated as it was loaded
            "time_features": False,
            "use_cpu": str(device or model.device) == "cpu",
            "save_total_limit": 1,
        }
        given = {"model": model, "corpus": corpus, "output_dir": str(place), "task": task, **fields}
        settings = resolve_finetuning(given, place="settings")
        result = run_finetuning(settings, saves=False, shows_progress=show_progress_bar is not False)
    return result.outcome


def _regressed_classification(
    model: Any, corpus: Any, label_fraction: float, domain: str | None, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    from ..data import get_labels, get_series
    from ..training.finetuning_data import take_fraction

    labels = {name: np.asarray(get_labels(corpus[name])) for name in ("train", "test")}
    kept = take_fraction(labels["train"], label_fraction, seed)
    series = {name: get_series(corpus[name]) for name in ("train", "test")}
    told, recorded = choose_domain(model, corpus, domain)
    options = {**options, **told}
    begin = time.perf_counter()
    train = model.encode([series["train"][index] for index in kept], level="instance", **options)
    test = model.encode(series["test"], level="instance", **options)
    timings = {"encode": time.perf_counter() - begin}
    begin = time.perf_counter()
    metrics, details = classification_metrics(
        train, labels["train"][kept], test, labels["test"], "logistic_regression", seed
    )
    timings["fit"] = time.perf_counter() - begin
    settings = {
        "setting": "regression" if label_fraction == 1.0 else f"regression, {label_fraction:.4g} of the labels",
        "task": "classification",
        "solver": "regression",
        "label_fraction": label_fraction,
        **recorded,
    }
    details = {**details, "num_train_samples": len(kept)}
    return {"metrics": metrics, "details": details, "timings": timings, "settings": settings}


def _regressed_forecasting(
    model: Any,
    corpus: Any,
    context_length: int,
    prediction_length: int,
    domain: str | None,
    seed: int,
    options: dict[str, Any],
) -> dict[str, Any]:
    horizons = (prediction_length,)
    outcome = evaluate_forecasting(
        model, corpus, horizons=horizons, context_length=context_length, domain=domain, seed=seed, **options
    )
    outcome["settings"] |= {
        "setting": f"regression, {outcome['settings']['setting']}",
        "task": "forecasting",
        "solver": "regression",
    }
    return outcome
