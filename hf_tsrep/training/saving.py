"""What a run ends with, and its finished folder: written whole or not at all, never lost for its card or picture."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.protocols import make_result
from ..hub import build_model_card, feature_extractor_of_corpus
from ..hub.evaluation_results import write_evaluation_results
from ..modeling.files_time_series import draft_of, full_disk_named, write_sums
from ..registry import get_method
from ..results import write_results
from ..visualization import plot_loss_curve
from .checkpoints import STAGING_FOLDER, WEIGHTS_FILE, write_json
from .finetuning.data import FinetuningData
from .settings import FINETUNING_FILE, SETTINGS_FILE, FinetuneSettings, PretrainSettings

logger = logging.getLogger(__name__)

LOG_FILE = "training_log.json"
FIGURE_FILE = "loss_curve.png"
PROTOCOL = "finetune"


@dataclass
class PretrainingResult:
    """What a pre-training ends with.

    Args:
        model: The model with its pretext task, in evaluation mode, with averaged weights where averaging is on.
        output_dir: Folder of the finished model.
        metrics: Last values of the log, number of steps, run time.
        history: Everything that was logged, of the steps before a resume too.
    """

    model: Any
    output_dir: Path
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class FinetuningResult:
    """What a fine-tuning ends with.

    Args:
        model: The selected model in evaluation mode.
        output_dir: Folder of the finished model.
        metrics: Test metrics of the selected model, computed once.
        validation_metrics: Those on validation data in the selected epoch; empty without a validation.
        epoch: The selected epoch.
        facts: What was found out about the run.
        history: Everything that was logged, of the steps before a resume too.
        outcome: Metrics, details, timings and settings as every protocol of `hf_tsrep.evaluation` returns them.
    """

    model: Any
    output_dir: Path
    metrics: dict[str, float] = field(default_factory=dict)
    validation_metrics: dict[str, float] = field(default_factory=dict)
    epoch: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)


@contextmanager
def staged_folder(output_dir: Path, last_file: str) -> Iterator[Path]:
    """Give a folder to write to, whose files then move to the output folder.

    Args:
        output_dir: Where the files belong; it need not exist.
        last_file: Name of the file that moves last, so that a folder that has it is complete.

    Yields:
        The folder to write to. After an error nothing of it moves, and it is gone.

    Raises:
        FullDiskError: There is no room for a file.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with draft_of(output_dir / STAGING_FOLDER, is_folder=True) as staging:
        with full_disk_named(staging):
            yield staging
        write_sums(staging)
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path.name == last_file):
            target = output_dir / path.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def save_loss_curve(folder: Path, history: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the loss where matplotlib is installed and there is something to draw.

    Args:
        folder: Where the picture goes.
        history: What was logged.
        title: Title of the picture.
    """
    try:
        plot_loss_curve(history, folder / FIGURE_FILE, title)
    except ImportError:
        logger.info("matplotlib is not installed; there is no %s.", FIGURE_FILE)
    except ValueError as error:
        logger.warning("There is no %s: %s", FIGURE_FILE, error)


def save_model_card(folder: Path, figure_caption: str, **contents: Any) -> None:
    """Write README.md, and .eval_results where a result is on a benchmark of the Hub.

    Args:
        folder: Folder of the saved model, where the card is written.
        figure_caption: What is said of the picture of the loss, where there is one.
        contents: Further arguments of `hf_tsrep.hub.build_model_card`.
    """
    try:
        figures = {figure_caption: FIGURE_FILE} if (folder / FIGURE_FILE).is_file() else None
        build_model_card(folder, figures=figures, **contents).save(folder / "README.md")
        write_evaluation_results(folder)
    except Exception:  # whatever is wrong with a card is no reason to lose hours of training
        logger.exception("The model card could not be written; the model itself is saved.")


def common_preparation(metadata: Sequence[Any]) -> Any:
    """Return what prepares raw series as the training parts were; None where the corpora were prepared differently.

    Args:
        metadata: `hf_tsrep.data.CorpusMetadata` of every corpus.
    """
    extractors = [feature_extractor_of_corpus(one) for one in metadata]
    if any(one.to_dict() != extractors[0].to_dict() for one in extractors):
        logger.warning(
            "The corpora are prepared differently, so the model has no preparation: prepare what it encodes."
        )
        return None
    return extractors[0]


def save_card(
    folder: Path,
    settings: PretrainSettings,
    result: PretrainingResult,
    facts: dict[str, Any],
    corpora: Sequence[Any],
) -> None:
    """Write README.md; an error is logged, not raised.

    Args:
        folder: Folder of the saved model, where the card is written.
        settings: What was asked for.
        result: Model, metrics and history.
        facts: What was found out about the run.
        corpora: `hf_tsrep.data.CorpusMetadata` of every corpus.
    """
    one = len(corpora) == 1
    domains = facts.get("domains") or [{"name": None}]
    save_model_card(
        folder,
        "Loss of the pre-training",
        method=settings.method,
        corpus_metadata=corpora[0] if one else {"name": " and ".join(settings.corpus_names)},
        corpus_fingerprint=facts["corpus_fingerprints"][0] if one else None,
        training=pretraining_facts(settings, result, facts),
        domain=domains[0]["name"],
    )


def pretraining_facts(settings: PretrainSettings, result: PretrainingResult, facts: dict[str, Any]) -> dict[str, Any]:
    """Return how the model was trained, in the order of a card: budget, optimiser, data, what came out.

    Args:
        settings: What was asked for.
        result: Metrics of the run.
        facts: What was found out about the run.
    """
    plain = settings.to_dict()
    data = {name: value for name, value in plain["data"].items() if value not in (None, False)}
    shown = ("loss", "effective_rank", "train_runtime")
    return {
        "recipe": f"{settings.method}/{settings.recipe}",
        "steps": result.metrics["num_steps"],
        **plain["training"],
        **({"warmup_steps": facts["warmup_steps"]} if "warmup_steps" in facts else {}),
        "per_device_train_batch_size": facts["per_device_train_batch_size"],
        "num_processes": facts["num_processes"],
        "weight_averaging": settings.run.weight_averaging,
        "num_series": facts["num_series"],
        "num_training_items": facts["num_training_items"],
        "sequence_length": facts["sequence_length"],
        **data,
        **facts.get("windows", {}),
        **{f"last {name}": result.metrics[name] for name in shown if name in result.metrics},
        **facts["versions"],
    }


def save_finetuned_model(result: FinetuningResult, settings: FinetuneSettings, data: FinetuningData) -> None:
    """Write the model folder. The weights come last, so that a folder with weights is complete.

    Args:
        result: Model, metrics and history.
        settings: What was asked for.
        data: The corpus.
    """
    log = {"metrics": result.metrics, "validation_metrics": result.validation_metrics, "history": result.history}
    title = f"{get_method(settings.method).title} on {settings.to_dict()['corpus']}: fine-tuning loss"
    with staged_folder(result.output_dir, WEIGHTS_FILE) as staging:
        result.model.preparation = feature_extractor_of_corpus(data.metadata)
        result.model.save_pretrained(staging)
        write_json(staging / FINETUNING_FILE, {**settings.to_dict(), "facts": result.facts})
        write_json(staging / LOG_FILE, log)
        write_results(staging, finetuning_record(result, settings, data))
        save_loss_curve(staging, result.history, title)
        save_model_card(
            staging,
            "Loss of the fine-tuning",
            method=settings.method,
            corpus_metadata=data.metadata,
            corpus_fingerprint=result.facts["corpus_fingerprint"],
            training=finetuning_facts(settings, result),
            domain=data.domain,
        )


def finetuning_outcome(result: FinetuningResult, settings: FinetuneSettings, data: FinetuningData) -> dict[str, Any]:
    """Return metrics, details, timings and settings as every protocol does.

    Args:
        result: Metrics and facts.
        settings: What was asked for.
        data: The corpus.
    """
    run, facts = settings.run, result.facts
    metrics = dict(result.metrics)
    if settings.task == "forecasting":  # a horizon in the name, as in the other forecasting protocol
        metrics |= {f"{name}_{facts['prediction_length']}": value for name, value in result.metrics.items()}
    budget: dict[str, Any] = {
        name: settings.training[name] for name in ("num_train_epochs", "max_steps") if name in settings.training
    }
    chosen: dict[str, Any] = {
        "setting": _setting(settings, data),
        "task": settings.task,
        "mode": run.mode,
        "pretrained": settings.is_pretrained,
        "label_fraction": settings.data.label_fraction,
        **budget,
        "selection": f"best epoch on validation data ({facts['validation']})" if settings.selects else "last epoch",
        "learning_rate": settings.training.get("learning_rate"),
        "per_device_train_batch_size": settings.training.get("per_device_train_batch_size"),
    }
    if settings.task == "forecasting":
        chosen |= {"context_length": settings.data.context_length, "prediction_length": facts["prediction_length"]}
    if "target_scaler" in facts:
        chosen["target_scaler"] = facts["target_scaler"]
    if data.domain is not None and len(result.model.config.domains) > 1:
        chosen["domain"] = data.domain
    details = {
        "pretrained_model": settings.model_name if settings.is_pretrained else None,
        "validation_metrics": result.validation_metrics,
        **{name: value for name, value in facts.items() if name.startswith(("num_", "selected_"))},
    }
    timings = {"train": facts["train_runtime"]}
    return {"metrics": metrics, "details": details, "timings": timings, "settings": chosen}


def finetuning_record(result: FinetuningResult, settings: FinetuneSettings, data: FinetuningData) -> Any:
    """Return the EvaluationResult of the run."""
    return make_result(
        result.model,
        data.corpus,
        PROTOCOL,
        result.outcome,
        seed=int(settings.training.get("seed", 42)),
        model_name=str(result.output_dir.resolve()),
        fingerprint=result.facts["corpus_fingerprint"],
    )


def _setting(settings: FinetuneSettings, data: FinetuningData) -> str:
    """Return what tells runs apart in tables: what was trained, on how much, and in forecasting how many channels."""
    words = [settings.run.mode if settings.is_pretrained else f"{settings.run.mode}, from scratch"]
    if settings.data.label_fraction < 1.0:
        words.append(f"{settings.data.label_fraction:.4g} of the labels")
    if settings.task == "forecasting":
        targets = data.num_input_channels - data.metadata.num_time_features
        words.append("univariate" if targets == 1 else "multivariate")
    return ", ".join(words)


def finetuning_facts(settings: FinetuneSettings, result: FinetuningResult) -> dict[str, Any]:
    """Return how the model was fine-tuned, in the order of a card.

    Args:
        settings: What was asked for.
        result: Facts and metrics of the run.
    """
    plain, facts = settings.to_dict(), dict(result.facts)
    versions = facts.pop("versions")
    data = {name: value for name, value in plain["data"].items() if value not in (None, False)}
    beside_the_point = ["corpus_fingerprint", "encoder_fingerprint", "validation"]
    if settings.run.mode != "lora":
        beside_the_point += ["lora_rank", "lora_alpha"]
    if settings.run.mode != "linear-probe":
        beside_the_point.append("feature_memory")
    if settings.task != "forecasting":
        beside_the_point += ["context_length", "stride", "prediction_length"]
    run, data, facts = (
        {name: value for name, value in group.items() if name not in beside_the_point}
        for group in (plain["run"], data, facts)
    )
    return {
        "what": f"{settings.task}, fine-tuned" if settings.is_pretrained else f"{settings.task}, trained from scratch",
        "pretrained model": settings.model_name if settings.is_pretrained else "none",
        "recipe": f"finetuning/{settings.recipe}",
        **run,
        **plain["training"],
        **data,
        "validation": result.facts["validation"],
        **facts,
        **{f"validation {name}": value for name, value in result.validation_metrics.items()},
        **versions,
    }


def read_training_record(name_or_path: str, revision: str | None = None) -> dict[str, Any]:
    """Return the record of a model's pre-training, or else of the fine-tuning that it comes from.

    Args:
        name_or_path: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub.

    Returns:
        What `hf-tsrep pretrain` or `finetune` wrote, empty where neither did. `corpus` is a list; `data` says with
        which scaler and time features the corpus was really read.
    """
    for file in (SETTINGS_FILE, FINETUNING_FILE):
        record = _read(name_or_path, file, revision)
        if record is None:
            continue
        if file == FINETUNING_FILE:  # its settings may leave to the run how the corpus is prepared; the facts say it
            facts = record.get("facts") or {}
            prepared = {name: facts[name] for name in ("scaler", "time_features") if name in facts}
            corpus = record.get("corpus")
            record |= {"corpus": [corpus] if corpus else [], "data": {**(record.get("data") or {}), **prepared}}
        return record
    return {}


def _read(name_or_path: str, file: str, revision: str | None) -> dict[str, Any] | None:
    from transformers.utils import cached_file

    path = cached_file(
        name_or_path,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
