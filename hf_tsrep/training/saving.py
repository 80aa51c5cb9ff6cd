"""The finished model folder: weights, code, config, preprocessing, card, log and picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..registry import get_method
from .model_folder import LOG_FILE, save_loss_curve, save_model_card, staged_folder, write_json
from .settings import DEFAULT_STAGE, SETTINGS_FILE, PretrainSettings

if TYPE_CHECKING:
    from .pretraining import PretrainingResult
    from .stages import PretrainingStage

logger = logging.getLogger(__name__)


def save_finished_stage(stage: PretrainingStage, result: PretrainingResult, facts: dict[str, Any]) -> None:
    """Write the finished folder. The weights come last, so that a folder with weights is complete.

    Args:
        stage: What was trained; it writes its own files.
        result: Model, metrics and history.
        facts: What was found out about the run.
    """
    settings = stage.settings
    with staged_folder(result.output_dir, stage.weights_file) as staging:
        write_json(staging / SETTINGS_FILE, {**settings.to_dict(), "facts": facts})
        write_json(staging / LOG_FILE, {"metrics": result.metrics, "history": result.history})
        what = "pre-training loss" if settings.stage == DEFAULT_STAGE else f"loss of the {settings.stage}"
        title = f"{get_method(settings.method).title} on {', '.join(settings.corpus_names)}: {what}"
        save_loss_curve(staging, result.history, title)
        stage.save(staging, result, facts)


def save_preprocessing(folder: Path, metadata: Sequence[Any]) -> None:
    """Write preprocessor_config.json with the statistics of the training part, which several corpora may not share.

    Args:
        folder: Where to write.
        metadata: `hf_tsrep.data.CorpusMetadata` of every corpus.
    """
    from ..hub import feature_extractor_of_corpus

    extractors = [feature_extractor_of_corpus(one) for one in metadata]
    if any(one.to_dict() != extractors[0].to_dict() for one in extractors):
        logger.warning("The corpora are prepared differently; the model folder has no preprocessor_config.json.")
        return
    extractors[0].save_pretrained(folder)


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
        training=training_facts(settings, result, facts),
        domain=domains[0]["name"],
    )


def training_facts(settings: PretrainSettings, result: PretrainingResult, facts: dict[str, Any]) -> dict[str, Any]:
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
        **{f"last {name}": result.metrics[name] for name in shown if name in result.metrics},
        **facts["versions"],
    }
