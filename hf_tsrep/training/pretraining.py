"""`pretrain`: from a corpus and a recipe to a finished model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .resolve import resolve_settings
from .run import train
from .saving import PretrainingResult
from .settings import PretrainSettings
from .stages import get_stage
from .streamed_stage import on_streams
from .streams import reads_stream


def pretrain(
    method: str,
    corpus: Any,
    output_dir: str | Path,
    *,
    config_file: str | Path | None = None,
    resume_from_checkpoint: bool | str | None = None,
    **fields: Any,
) -> PretrainingResult:
    """Pre-train a method on the training part of a corpus and save a complete model folder.

    Args:
        method: Name of the method, such as "ts2vec".
        corpus: What `hf_tsrep.data.load_corpus` takes, or a list of them; with equal channels, unless the method has
            domains.
        output_dir: Folder of the finished model; checkpoints go to `checkpoint-N` inside.
        config_file: YAML file of further fields; the arguments go before it, and it goes before the recipe.
        resume_from_checkpoint: True to go on from the newest whole checkpoint of output_dir, or a checkpoint's folder.
        fields: Any of `pretraining_fields(method, stage)`: fields of the method's config, of DataSettings, of
            RunSettings and of `transformers.TrainingArguments`, `recipe`, and `stage` of a method that is trained in
            several ("tokenizer", then "model").

    Returns:
        The model and what was logged.

    Raises:
        SettingsError: An unknown field (with the near match) or a wrong type.
        FileExistsError: output_dir holds a model or checkpoints, and neither resuming nor overwriting was asked for.
        NonFiniteLossError: The loss is NaN or infinite; the error names the step and the series of the batch.
        ValueError: A corpus cannot be used, or the run cannot be resumed.
    """
    overrides = {"method": method, "corpus": corpus, "output_dir": str(output_dir), **fields}
    settings = resolve_settings(overrides, config_file, place="arguments")
    return run_pretraining(settings, resume_from_checkpoint=resume_from_checkpoint)


def run_pretraining(
    settings: PretrainSettings,
    *,
    resume_from_checkpoint: bool | str | None = None,
    shows_progress: bool = True,
) -> PretrainingResult:
    """Pre-train as settings say; see `pretrain`.

    Args:
        settings: What to do.
        resume_from_checkpoint: See `pretrain`.
        shows_progress: Whether the Trainer prints anything or has a progress bar.

    Returns:
        The model and what was logged.
    """
    stage_class = get_stage(settings.method, settings.stage)
    if reads_stream(settings):
        stage_class = on_streams(stage_class, settings)
    stage = stage_class(settings)
    stage.shows_progress = shows_progress
    return train(stage, resume_from_checkpoint)
