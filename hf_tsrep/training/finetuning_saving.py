"""The finished folder of a fine-tuning: weights, code, config, preprocessing, results, card, log and picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..registry import get_method
from .checkpoints import WEIGHTS_FILE
from .finetuning_data import FinetuningData
from .model_folder import LOG_FILE, save_loss_curve, save_model_card, staged_folder, write_json
from .settings import FINETUNING_FILE, FinetuneSettings

if TYPE_CHECKING:
    from .finetuning import FinetuningResult

PROTOCOL = "finetune"


def save_finetuned_model(result: FinetuningResult, settings: FinetuneSettings, data: FinetuningData) -> None:
    """Write the model folder. The weights come last, so that a folder with weights is complete.

    Args:
        result: Model, metrics and history.
        settings: What was asked for.
        data: The corpus.
    """
    from ..hub import feature_extractor_of_corpus
    from ..results import write_results

    log = {"metrics": result.metrics, "validation_metrics": result.validation_metrics, "history": result.history}
    title = f"{get_method(settings.method).title} on {settings.to_dict()['corpus']}: fine-tuning loss"
    with staged_folder(result.output_dir, WEIGHTS_FILE) as staging:
        result.model.save_pretrained(staging)
        feature_extractor_of_corpus(data.metadata).save_pretrained(staging)
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
            training=training_facts(settings, result),
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
    from ..evaluation.protocols import make_result

    return make_result(
        result.model,
        data.corpus,
        PROTOCOL,
        result.outcome,
        seed=int(settings.training.get("seed", 42)),
        model_name=str(result.output_dir.resolve()),
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


def training_facts(settings: FinetuneSettings, result: FinetuningResult) -> dict[str, Any]:
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
    if settings.task == "classification":
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
