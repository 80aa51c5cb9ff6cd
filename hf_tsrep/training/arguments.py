"""What a pre-training can be told, and how the command line, a YAML file and the recipe are put together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .domains import merge_domain_fields
from .field_types import SettingsError
from .reading_settings import REFUSED_EVERYWHERE, ReadingSettings
from .recipes import load_recipe
from .settings_layers import (
    Layers,
    SettingsField,
    corpus_name,
    dataclass_fields,
    first_given,
    is_private,
    merge_layers,
    read_settings_file,
    require_field,
    underscored,
)
from .stages import DEFAULT_STAGE, get_stage

SETTINGS_FILE = "pretraining.json"

# Fields of transformers.TrainingArguments that mean nothing here, and what to do instead.
_REFUSED = {
    **REFUSED_EVERYWHERE,
    "load_best_model_at_end": "pre-training chooses nothing by its validation loss",
    "eval_strategy": "pre-training evaluates nothing; use `hf-tsrep evaluate` on the finished model",
    "remove_unused_columns": "the trainer names the series of a batch and takes care of the columns itself",
    "auto_find_batch_size": "the batch holds the negatives, so its size is part of the method; choose it",
    "dataloader_persistent_workers": "workers that persist would keep the windows of the first epoch",
}
_NOT_OFFERED = frozenset({*_REFUSED, "output_dir", "resume_from_checkpoint", "local_rank"})


@dataclass(frozen=True)
class DataSettings(ReadingSettings):
    """What is read, and how it is prepared; see `hf_tsrep.data.load_corpus` for all fields but the first.

    Args:
        max_train_length: Number of steps of the longest training input. Series that are at least twice as long are cut
            into equal pieces, other longer ones are cropped to a random window. None cuts and crops nothing.
        window_stride: Steps between the starts of training windows of max_train_length steps, which replace pieces
            and crops where a series is long enough; None for pieces and crops.
    """

    max_train_length: int | None = 3000
    window_stride: int | None = None
    scaler: str | None = None
    time_features: bool = False


@dataclass(frozen=True)
class RunSettings:
    """What the library adds to `transformers.Trainer`.

    Args:
        weight_averaging: Whether the finished model has the mean of the weights after every step and of the initial
            ones, instead of the last.
        monitor_collapse: Whether the log tells the effective rank and the deviations of the embeddings.
        decay_all_parameters: Whether weight decay also applies to biases and normalisation weights.
        coupled_weight_decay: Whether the optimiser is torch.optim.Adam, which adds weight decay to the gradient,
            instead of that of `optim`.
        learning_rate_decay: Factor by which the learning rate is multiplied after every `learning_rate_decay_steps`
            steps, in place of the schedule of `lr_scheduler_type`; None for that schedule.
        learning_rate_decay_steps: See learning_rate_decay.
        epoch_schedule: Learning rate of every epoch, as published: "constant", "halving", "late_decay" or
            "warmup_decay", see `hf_tsrep.training.epochs.epoch_factor`; None for the schedule of `lr_scheduler_type`.
        validation_loss: Whether the log tells, behind every epoch, the pretext loss on the corpus's validation part.
        published_steps: Number of optimiser steps where neither max_steps nor num_train_epochs is given:
            `small_corpus_steps` for a corpus of at most `small_corpus_elements` numbers, else `steps`.
        overwrite_output_dir: Whether a finished model and checkpoints in the output folder are removed first.
    """

    weight_averaging: bool = True
    monitor_collapse: bool = True
    decay_all_parameters: bool = False
    coupled_weight_decay: bool = False
    learning_rate_decay: float | None = None
    learning_rate_decay_steps: int = 300
    epoch_schedule: str | None = None
    validation_loss: bool = False
    published_steps: dict[str, int] | None = None
    overwrite_output_dir: bool = False


@dataclass(frozen=True)
class PretrainSettings:
    """Everything that decides a pre-training.

    Args:
        method: Name of the method.
        corpus: Names or paths of the corpora; series of several are trained on together.
        output_dir: Folder of the finished model and its checkpoints.
        recipe: Name of the recipe.
        stage: Name of the stage; see `hf_tsrep.training.stages`.
        model: Fields of the model: of the method's config, or of what the stage trains.
        options: Fields that only this stage has.
        training: Fields of `transformers.TrainingArguments`.
        data: See DataSettings.
        run: See RunSettings.
        sources: Where each field was given; fields that are missing here have their default.
    """

    method: str
    corpus: tuple[Any, ...]
    output_dir: str
    recipe: str
    stage: str = DEFAULT_STAGE
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def corpus_names(self) -> list[str]:
        """What to call the corpora: their names, of a path its last part, of an object its type."""
        return [corpus_name(one) for one in self.corpus]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without places and secrets: the record is published with the model."""
        data, run = dataclasses.asdict(self.data), dataclasses.asdict(self.run)
        del data["data_directory"], run["overwrite_output_dir"]
        plain = {
            "method": self.method,
            "corpus": self.corpus_names,
            "recipe": self.recipe,
            "stage": self.stage,
            "model": self.model,
            "options": {
                name: corpus_name(value) if isinstance(value, str) else value for name, value in self.options.items()
            },
            "training": {name: value for name, value in self.training.items() if not is_private(name)},
            "data": data,
            "run": run,
            "sources": {name: where for name, where in self.sources.items() if not is_private(name)},
        }
        return json.loads(json.dumps(plain, default=str))


@cache
def pretraining_fields(method: str, stage: str = DEFAULT_STAGE) -> dict[str, SettingsField]:
    """Return every field that can be given: on the command line, in a YAML file or as an argument of `pretrain`.

    Args:
        method: Name of the method.
        stage: Name of the stage.

    Returns:
        Fields by name.

    Raises:
        SettingsError: The method has no such stage.
        ValueError: There is no such method.
    """
    from transformers import TrainingArguments

    from ..registry import get_method

    get_method(method)
    stage_class = get_stage(method, stage)
    groups: list[tuple[str, Any, set[str]]] = [
        ("run", RunSettings, set()),
        ("data", DataSettings, set()),
        ("model", *stage_class.model_fields(method)),
        ("training", TrainingArguments, set()),
    ]
    if stage_class.options_class is not None:
        groups.insert(0, ("options", stage_class.options_class, set()))
    known = {
        "method": SettingsField("method", "method", str, None),
        "corpus": SettingsField("corpus", "method", str | list[str], None),
        "output_dir": SettingsField("output_dir", "method", str, None),
        "recipe": SettingsField("recipe", "method", str | None, None),
        "stage": SettingsField("stage", "method", str, DEFAULT_STAGE),
    }
    for group, owner, left_out in groups:
        known |= dataclass_fields(group, owner, left_out | _NOT_OFFERED | set(stage_class.refused) | set(known))
    return known


def resolve_settings(
    overrides: Mapping[str, Any], yaml_path: str | Path | None = None, *, place: str = "command line"
) -> PretrainSettings:
    """Put the settings together: overrides go before the YAML file, that before the recipe, that before the defaults.

    Args:
        overrides: Fields by name; dashes may stand for underscores.
        yaml_path: YAML file of fields, or None.
        place: What the messages call the source of the overrides.

    Returns:
        The settings.

    Raises:
        SettingsError: An unknown field (with the near match), a wrong type, a missing method, corpus or output folder.
        ValueError: Unknown method or recipe, with the near matches.
    """
    layers: list[tuple[Mapping[str, Any], str]] = [
        ({underscored(name): value for name, value in overrides.items()}, place)
    ]
    if yaml_path is not None:
        values = {underscored(name): value for name, value in read_settings_file(yaml_path).items()}
        layers.append((values, f"file {Path(yaml_path).name}"))
    method, corpus, output_dir = (require_field(name, layers) for name in ("method", "corpus", "output_dir"))
    if not isinstance(method, str):
        _, where = first_given("method", layers)
        raise SettingsError(f"method={method!r} ({where}): expected text, got {type(method).__name__}.")
    corpora = tuple(corpus) if isinstance(corpus, (list, tuple)) else (corpus,)
    if not corpora:
        raise SettingsError("corpus is an empty list; name at least one corpus.")
    stage = _stage_of(method, layers)
    fields = pretraining_fields(method, stage)
    stage_class = get_stage(method, stage)
    recipe = first_given("recipe", layers)[0] or stage_class.default_recipe(method, _known_name(corpora[0], layers))
    layers.append((load_recipe(method, recipe), f"recipe {method}/{recipe}"))

    if "domains" in fields:
        layers = merge_domain_fields(layers, [name for name, one in fields.items() if one.group == "model"])
    refused = {**_REFUSED, **stage_class.refused}
    task = f"a pre-training with {method}" + ("" if stage == DEFAULT_STAGE else f", stage {stage}")
    groups = ("model", "options", "training", "data", "run")
    chosen, sources = merge_layers(layers, fields, refused, task, groups)
    return PretrainSettings(
        method=method,
        corpus=corpora,
        output_dir=str(output_dir),
        recipe=recipe,
        stage=stage,
        model=chosen["model"],
        options=chosen["options"],
        training=chosen["training"],
        data=DataSettings(**chosen["data"]),
        run=RunSettings(**{**stage_class.run_defaults, **chosen["run"]}),
        sources=sources,
    )


def _stage_of(method: str, layers: Layers) -> str:
    """Return the stage that is asked for, or that the named recipe is for.

    Raises:
        SettingsError: Both are given and differ.
    """
    stage, where = first_given("stage", layers)
    recipe, _ = first_given("recipe", layers)
    of_recipe = load_recipe(method, recipe).get("stage", DEFAULT_STAGE) if recipe else None
    if stage and of_recipe and stage != of_recipe:
        raise SettingsError(f"stage={stage!r} ({where}), but recipe {method}/{recipe} is for stage {of_recipe!r}.")
    return stage or of_recipe or DEFAULT_STAGE


def _known_name(corpus: Any, layers: Layers) -> str | None:
    """Return the name of a corpus with its folder where it was written without; None for what is no name."""
    from ..data.known_corpora import complete_name, list_known_corpora

    if not isinstance(corpus, str) or "/" in corpus:
        return corpus if isinstance(corpus, str) else None
    return complete_name(corpus, list_known_corpora(first_given("data_directory", layers)[0])) or corpus
