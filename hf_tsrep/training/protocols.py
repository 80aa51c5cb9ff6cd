"""Protocols that train on an encoder: `linear`, its head alone, and `finetune`; and all protocols by name."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import SeriesList, get_labels, get_series
from ..evaluation import protocols as frozen
from ..evaluation.checks import check_channels, choose_domain, preparation_arguments, require_names, require_splits
from ..evaluation.classification import classification_metrics
from ..evaluation.forecasting import evaluate_forecasting
from .finetuning.data import take_fraction
from .finetuning.run import run_finetuning
from .resolve import resolve_finetuning
from .settings import MODES, TASKS

SOLVERS = ("gradient", "regression")

Protocol = Callable[..., dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings:
    """What both protocols can be told.

    Args:
        task: "classification", "multi-label", "regression" or "forecasting"; None takes classification where the
            corpus has labels, and regression where it has target values.
        label_fraction: Share of the training data that is used, by class.
        validation: "auto", or "none" (or None) for the last epoch; see `hf_tsrep.finetune`.
        num_train_epochs: At most; None for the recipe's, as in the next two.
        learning_rate: Of AdamW, with warm-up and linear decay.
        batch_size: Of the training, or of `encode`.
        early_stopping_patience: Epochs without a better validation score after which training ends; None for never.
        context_length: Steps that the model sees (forecasting).
        prediction_length: Steps that it predicts (forecasting).
        stride: Steps between training windows (forecasting).
        adapt_input: Whether weights whose shapes do not fit the corpus's channels start anew, instead of an error.
        domain: Which of the model's domains the corpus is (methods with domains); None for the one of its name.
        seed: Of the head's weights, the order of the batches and whatever is drawn.
        device: "cpu" for the CPU, else the Trainer's choice; None for where the model is.
        show_progress_bar: False for none.
    """

    task: str | None = None
    label_fraction: float = 1.0
    validation: str | None = "auto"
    num_train_epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    early_stopping_patience: int | None = 10
    context_length: int = 336
    prediction_length: int = 96
    stride: int = 1
    adapt_input: bool = False
    domain: str | None = None
    seed: int = 0
    device: Any = None
    show_progress_bar: bool | None = None


@dataclass(frozen=True, kw_only=True)
class FinetuneProtocol(ProtocolSettings):
    """What the protocol `finetune` can be told.

    Args:
        mode: "full", "linear-probe" or "lora".
    """

    mode: str = "full"


@dataclass(frozen=True, kw_only=True)
class LinearProtocol(ProtocolSettings):
    """What the protocol `linear` can be told.

    Args:
        solver: "gradient" trains the model's own head, the epoch chosen on validation data. "regression" fits
            one-vs-rest logistic regression on standardised embeddings, or in forecasting a ridge regression whose
            penalty is chosen on validation data; it has no use for the settings of a training, and takes anything
            with `encode`.
        early_stopping_patience: See ProtocolSettings.
    """

    solver: str = "gradient"
    early_stopping_patience: int | None = 20


def told_by(settings_class: type[ProtocolSettings]) -> Callable[[Protocol], Protocol]:
    """Give a protocol the signature of its settings, so that help, near matches and editors know them by name."""

    def told(protocol: Protocol) -> Protocol:
        places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("model", "corpus")]
        signature = inspect.signature(settings_class)
        protocol.__signature__ = signature.replace(  # type: ignore[attr-defined]  # functions take any attribute
            parameters=[*places, *signature.parameters.values()], return_annotation=dict[str, Any]
        )
        return protocol

    return told


@told_by(FinetuneProtocol)
def evaluate_finetune(model: Any, corpus: Any, **settings: Any) -> dict[str, Any]:
    """Fine-tune a copy of an encoder with a new head on the train split and test it once; the model stays as it is.

    The epoch is chosen on validation data: the corpus's own, else a part of train (see `hf_tsrep.finetune`, which also
    saves the model and has every other setting).

    Args:
        model: A model of the house.
        corpus: DatasetDict with splits train and test, from `hf_tsrep.data.load_corpus`.
        settings: Fields of FinetuneProtocol.

    Returns:
        `metrics`: accuracy, macro_f1, kappa and auprc, of a regression rmse, mae and r2, of forecasts mse, mae and
        both with the horizon in their name; `details`, `timings` (seconds) and `settings`.

    Raises:
        ValueError: A setting is out of range, or the corpus does not fit; the message names it.
    """
    chosen = FinetuneProtocol(**settings)
    require_names([chosen.mode], MODES, "mode")
    return _fine_tuned(model, corpus, chosen, chosen.mode)


@told_by(LinearProtocol)
def evaluate_linear(model: Any, corpus: Any, **settings: Any) -> dict[str, Any]:
    """Train the task's head on the frozen encoder and test it once.

    The head is the method's own, which most methods have linear; solver="regression" is linear for every method.

    Args:
        model: A model of the house; solver="regression" takes anything with `encode`.
        corpus: DatasetDict with splits train and test, from `hf_tsrep.data.load_corpus`.
        settings: Fields of LinearProtocol.

    Returns:
        As `evaluate_finetune`.

    Raises:
        ValueError: A setting is unknown or out of range, or the corpus does not fit; the message names it.
    """
    chosen = LinearProtocol(**settings)
    require_names([chosen.solver], SOLVERS, "solver")
    if chosen.solver == "gradient":
        outcome = _fine_tuned(model, corpus, chosen, "linear-probe")
        outcome["settings"]["solver"] = chosen.solver
        return outcome
    task = _task_of(corpus, chosen)
    _require_channels(model, corpus, chosen.domain)
    options = {
        "batch_size": chosen.batch_size or 32,
        "device": chosen.device,
        "show_progress_bar": chosen.show_progress_bar,
    }
    if task in ("multi-label", "regression"):
        raise ValueError(f"solver='regression' is of classes and forecasts; use solver='gradient' for task={task!r}.")
    if task == "classification":
        return _regressed_classification(model, corpus, chosen, options)
    if chosen.label_fraction < 1.0:
        raise ValueError(
            f"solver='regression' of forecasts takes all of train; got label_fraction={chosen.label_fraction:g}. Use "
            "solver='gradient'."
        )
    return _regressed_forecasting(model, corpus, chosen, options)


PROTOCOLS: dict[str, Protocol] = {**frozen.PROTOCOLS, "linear": evaluate_linear, "finetune": evaluate_finetune}


def protocol_settings(protocol: str) -> dict[str, Any]:
    """Return the settings of a protocol and their defaults.

    Raises:
        ValueError: Unknown protocol, with near matches.
    """
    return frozen.settings_of(protocol, PROTOCOLS)


def evaluate(model: Any, corpus: Any, protocol: str, **settings: Any) -> dict[str, Any]:
    """Evaluate a model on a corpus.

    Args:
        model: Anything with `encode`; the protocols that train take a model of the house.
        corpus: From `hf_tsrep.data.load_corpus`.
        protocol: "forecasting", "classification", "anomaly", "clustering", "linear" or "finetune".
        settings: Settings of the protocol; see `protocol_settings`.

    Returns:
        `metrics` (flat name -> number), `details`, `timings` (seconds) and `settings`;
        `hf_tsrep.evaluation.make_result` turns it into a record for `write_results`.

    Raises:
        ValueError: Unknown protocol or setting; the message gives near matches.
    """
    return frozen.run_protocol(protocol, PROTOCOLS, model, corpus, settings)


def _task_of(corpus: Any, chosen: ProtocolSettings) -> str:
    if chosen.task is not None:
        require_names([chosen.task], TASKS, "task")
        return chosen.task
    splits = require_splits(corpus, ("train", "test"), "linear or finetune")
    columns = splits["train"].column_names
    known = {"label": "classification", "target_value": "regression"}
    return next((task for column, task in known.items() if column in columns), "forecasting")


def _fine_tuned(model: Any, corpus: Any, chosen: ProtocolSettings, mode: str) -> dict[str, Any]:
    task = _task_of(corpus, chosen)
    same = ("label_fraction", "early_stopping_patience", "adapt_input", "domain", "seed")
    given = dataclasses.asdict(dataclasses.replace(chosen, device=None))
    fields: dict[str, Any] = {name: given[name] for name in same}
    budget = {"num_train_epochs": "num_train_epochs", "learning_rate": "learning_rate"}
    budget["batch_size"] = "per_device_train_batch_size"
    fields |= {theirs: given[ours] for ours, theirs in budget.items() if given[ours] is not None}
    if task == "forecasting":
        fields |= {name: given[name] for name in ("context_length", "prediction_length", "stride")}
    fields |= {
        "mode": mode,
        "validation": chosen.validation or "none",
        "scaler": None,  # the corpus is evaluated as it was loaded
        "time_features": False,
        "use_cpu": str(chosen.device or model.device) == "cpu",
        "save_total_limit": 1,
    }
    with tempfile.TemporaryDirectory(prefix="hf-tsrep-") as folder:
        place = {"model": model, "corpus": corpus, "output_dir": str(Path(folder) / "model"), "task": task}
        settings = resolve_finetuning({**place, **fields}, place="settings")
        result = run_finetuning(settings, saves=False, shows_progress=chosen.show_progress_bar is not False)
    return result.outcome


def _require_channels(model: Any, corpus: Any, domain: str | None) -> None:
    """Refuse a corpus of another number of channels before anything is encoded."""
    told, _ = choose_domain(model, corpus, domain)
    check_channels(model, corpus, told)
    given = get_series(corpus["train"])[0].shape[1]
    taken = model.channels_read(**told) if hasattr(model, "channels_read") else None
    if taken is not None and given != taken:
        raise ValueError(
            f"The corpus has {given} channels, and the model takes {taken}. Choose the model's channels with target, "
            "or use solver='gradient' with adapt_input=True (--adapt-input)."
        )


def _regressed_classification(
    model: Any, corpus: Any, chosen: ProtocolSettings, options: dict[str, Any]
) -> dict[str, Any]:
    fraction = chosen.label_fraction
    labels = {name: np.asarray(get_labels(corpus[name])) for name in ("train", "test")}
    kept = take_fraction(labels["train"], fraction, chosen.seed)
    series = {name: get_series(corpus[name]) for name in ("train", "test")}
    told, recorded = choose_domain(model, corpus, chosen.domain)
    options = {**options, **told, **preparation_arguments(model, corpus)}
    begin = time.perf_counter()
    train = model.encode(SeriesList(series["train"][index] for index in kept), level="instance", **options)
    test = model.encode(series["test"], level="instance", **options)
    timings = {"encode": time.perf_counter() - begin}
    begin = time.perf_counter()
    metrics, details = classification_metrics(
        train, labels["train"][kept], test, labels["test"], "logistic_regression", chosen.seed
    )
    timings["fit"] = time.perf_counter() - begin
    settings = {
        "setting": "regression" if fraction == 1.0 else f"regression, {fraction:.4g} of the labels",
        "task": "classification",
        "solver": "regression",
        "label_fraction": fraction,
        **recorded,
    }
    details = {**details, "num_train_samples": len(kept)}
    return {"metrics": metrics, "details": details, "timings": timings, "settings": settings}


def _regressed_forecasting(
    model: Any, corpus: Any, chosen: ProtocolSettings, options: dict[str, Any]
) -> dict[str, Any]:
    outcome = evaluate_forecasting(
        model,
        corpus,
        horizons=(chosen.prediction_length,),
        context_length=chosen.context_length,
        domain=chosen.domain,
        seed=chosen.seed,
        **options,
    )
    outcome["settings"] |= {
        "setting": f"regression, {outcome['settings']['setting']}",
        "task": "forecasting",
        "solver": "regression",
    }
    return outcome
