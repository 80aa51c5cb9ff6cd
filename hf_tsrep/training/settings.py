"""What a pre-training can be told, and how the command line, a YAML file and the recipe are put together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..errors import SettingsError
from .recipe import FINETUNING, corpus_as_known, load_recipe, recipe_for
from .settings_sources import (
    Layers,
    SettingsField,
    corpus_name,
    dataclass_fields,
    first_given,
    is_private,
    merge_domain_fields,
    merge_layers,
    read_settings_file,
    require_field,
    underscored,
)
from .stages import DEFAULT_STAGE, get_stage

SETTINGS_FILE = "pretraining.json"


@dataclass(frozen=True)
class ReadingSettings:
    """How a corpus is read; see `hf_tsrep.data.load_corpus` for the fields."""

    target: str | list[str] | None = None
    split: str | None = None
    data_directory: str | None = None
    revision: str | None = None
    item_column: str | None = None
    timestamp_column: str | None = None
    label_column: str | None = None
    value_columns: list[str] | None = None
    frequency: str | None = None
    one_series_per_column: bool = False


# Fields of transformers.TrainingArguments that mean nothing in any run, and what to do instead.
REFUSED_EVERYWHERE = {
    "push_to_hub": "publish the finished folder with `hf-tsrep push`",
    "do_train": "use the other commands of hf-tsrep",
    "do_eval": "use the other commands of hf-tsrep",
    "do_predict": "use the other commands of hf-tsrep",
    "parallelism_config": "configure it with `accelerate config`",
    "num_input_channels": "the corpus says how many channels there are",
}

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
    written = corpus_as_known(corpora[0], first_given("data_directory", layers)[0])
    recipe = first_given("recipe", layers)[0] or stage_class.default_recipe(method, written)
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


FINETUNING_FILE = "finetuning.json"
TASKS = ("classification", "forecasting")
MODES = ("full", "linear-probe", "lora")

_REFUSED_IN_FINETUNING = {
    **REFUSED_EVERYWHERE,
    "load_best_model_at_end": "the best epoch on validation data is always taken; choose with validation",
    "metric_for_best_model": "classification selects by accuracy, forecasting by mse, both on validation data",
    "greater_is_better": "classification selects by accuracy, forecasting by mse, both on validation data",
    "eval_strategy": "validation comes after every epoch; validation=none turns it off",
    "save_strategy": "a checkpoint is saved after every epoch; save_total_limit says how many stay",
    "eval_steps": "validation comes after every epoch; validation=none turns it off",
    "save_steps": "a checkpoint is saved after every epoch; save_total_limit says how many stay",
    "label_names": "the task says what the labels are",
    "batch_eval_metrics": "metrics are always computed batch by batch",
    "prediction_loss_only": "validation needs the predictions",
    "remove_unused_columns": "the trainer takes care of the columns itself",
    "num_output_channels": "the corpus says how many channels are predicted",
    "num_labels": "the corpus says which classes there are",
    "target_mean": "the training part of the corpus says it",
    "target_scale": "the training part of the corpus says it",
}
_NOT_OFFERED_IN_FINETUNING = frozenset({*_REFUSED_IN_FINETUNING, "output_dir", "resume_from_checkpoint", "local_rank"})


def is_method_name(model: Any) -> bool:
    """Return whether a method is named instead of a model; a folder of that name goes before it."""
    from ..registry import METHODS

    return isinstance(model, str) and model in METHODS and not Path(model).is_dir()


@dataclass(frozen=True)
class FinetuneDataSettings(ReadingSettings):
    """What is read, and how it is prepared; see `hf_tsrep.data.load_corpus` for the fields not explained here.

    Args:
        label_fraction: Share of the labelled training series (of the training windows in forecasting) that is used,
            drawn by class with the run's seed; at least one of every class. A part that is held out is one of it.
        validation: "auto": the corpus's validation split; where it has none, a part of train is held out. "none": no
            validation, and the last epoch is taken.
        validation_fraction: Share of train that is held out: of every class, drawn with the run's seed; in forecasting
            the last steps.
        context_length: Forecasting: number of steps that the model sees. Classification: number of first steps that
            SimMTM's head covers, where it is given; else the longest series.
        stride: Forecasting: steps between the starts of training windows. All windows are validated and tested.
        scaler: None where it is not given means: as in the model's pre-training, else "recommended". Fitted anew on
            this corpus's training part.
        time_features: None means: as in the model's pre-training.
        domain: Which of the model's domains the corpus is, for methods that have domains. None: the only one, or the
            one that is called like the corpus.
    """

    label_fraction: float = 1.0
    validation: Literal["auto", "none"] = "auto"
    validation_fraction: float = 0.2
    context_length: int = 336
    stride: int = 1
    domain: str | None = None
    scaler: str | None = None
    time_features: bool | None = None


@dataclass(frozen=True)
class FinetuneRunSettings:
    """How the pretrained weights are used, and what the library adds to `transformers.Trainer`.

    Args:
        mode: "full" trains all weights, "linear-probe" the head alone on the frozen encoder in evaluation mode, "lora"
            the head and low-rank changes of the encoder's linear layers and convolutions (needs peft), merged when the
            model is saved.
        from_scratch: Whether the encoder starts from random weights too.
        adapt_input: Whether weights whose shapes do not fit this corpus's channels start anew, instead of an error;
            they learn in all modes but linear-probe.
        feature_memory: linear-probe runs the frozen encoder once and keeps what it gives, up to so many GiB a process;
            where that is more, the encoder runs in every epoch.
        lora_rank: Rank of the changes.
        lora_alpha: Their scale is lora_alpha / lora_rank.
        warmup_ratio: Share of the steps in which the learning rate rises; warmup_steps goes before it.
        epoch_schedule: Learning rate of every epoch, as published: "constant", "halving", "late_decay" or
            "warmup_decay", see `hf_tsrep.training.epochs.epoch_factor`; None for the schedule of `lr_scheduler_type`.
        early_stopping_patience: Number of epochs without a better validation score after which training ends; None
            never ends it early.
        backbone_learning_rate_factor: The encoder learns at this times learning_rate.
        decay_all_parameters: Whether weight decay also applies to biases and normalisation weights.
        overwrite_output_dir: Whether a finished model and checkpoints in the output folder are removed first.
    """

    mode: Literal["full", "linear-probe", "lora"] = "full"
    from_scratch: bool = False
    adapt_input: bool = False
    feature_memory: float = 4.0
    lora_rank: int = 8
    lora_alpha: float = 16.0
    warmup_ratio: float = 0.0
    epoch_schedule: str | None = None
    early_stopping_patience: int | None = None
    backbone_learning_rate_factor: float = 1.0
    decay_all_parameters: bool = False
    overwrite_output_dir: bool = False


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that decides a fine-tuning.

    Args:
        model: Folder or Hub id of a pretrained model, a model, or the name of a method (random weights).
        method: Name of the model's method.
        corpus: Name or path of the corpus, or the corpus.
        output_dir: Folder of the finished model and its checkpoints.
        task: "classification" or "forecasting".
        recipe: Name of the recipe.
        config: Fields of the method's config that differ from the pretrained model's.
        training: Fields of `transformers.TrainingArguments`.
        data: See FinetuneDataSettings.
        run: See FinetuneRunSettings.
        sources: Where each field was given; fields that are missing here have their default.
    """

    model: Any
    method: str
    corpus: Any
    output_dir: str
    task: str
    recipe: str
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: FinetuneDataSettings = field(default_factory=FinetuneDataSettings)
    run: FinetuneRunSettings = field(default_factory=FinetuneRunSettings)
    sources: dict[str, str] = field(default_factory=dict)

    def is_given(self, name: str) -> bool:
        """Return whether a field was asked for, instead of coming from a recipe or a default."""
        return not self.sources.get(name, "recipe").startswith("recipe")

    @property
    def selects(self) -> bool:
        """Whether the best epoch is chosen on validation data."""
        return self.data.validation != "none"

    @property
    def model_name(self) -> str:
        """What to call the model: its Hub id, of a folder its name, of an object the name of where it comes from."""
        if isinstance(self.model, (str, Path)):
            return Path(self.model).resolve().name if Path(self.model).is_dir() else str(self.model)
        place = str(getattr(self.model, "name_or_path", "") or "")
        return Path(place).resolve().name if Path(place).is_dir() and place else place or type(self.model).__name__

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder starts from pretrained weights."""
        return not self.run.from_scratch and not is_method_name(self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without places and secrets: the record is published with the model."""
        data, run = dataclasses.asdict(self.data), dataclasses.asdict(self.run)
        del data["data_directory"], run["overwrite_output_dir"]
        plain = {
            "model": self.model_name,
            "method": self.method,
            "corpus": corpus_name(self.corpus),
            "task": self.task,
            "recipe": self.recipe,
            "config": self.config,
            "training": {name: value for name, value in self.training.items() if not is_private(name)},
            "data": data,
            "run": run,
            "sources": {name: where for name, where in self.sources.items() if not is_private(name)},
        }
        return json.loads(json.dumps(plain, default=str))


@cache
def finetuning_fields(method: str) -> dict[str, SettingsField]:
    """Return every field that can be given: on the command line, in a YAML file or as an argument of `finetune`.

    Args:
        method: Name of the method.

    Returns:
        Fields by name.
    """
    from transformers import PreTrainedConfig, TrainingArguments

    from ..registry import get_method

    config_class: Any = get_method(method).config_class
    known = {
        "model": SettingsField("model", "task", str, None),
        "corpus": SettingsField("corpus", "task", str, None),
        "output_dir": SettingsField("output_dir", "task", str, None),
        "task": SettingsField("task", "task", str, "classification"),
        "recipe": SettingsField("recipe", "task", str | None, None),
    }
    groups: list[tuple[str, Any, set[str]]] = [
        ("run", FinetuneRunSettings, set()),
        ("data", FinetuneDataSettings, set()),
        ("config", config_class, set(getattr(PreTrainedConfig, "__dataclass_fields__", ()))),
        ("training", TrainingArguments, set()),
    ]
    for group, owner, left_out in groups:
        known |= dataclass_fields(group, owner, left_out | _NOT_OFFERED_IN_FINETUNING | set(known))
    return known


def resolve_finetuning(
    overrides: Mapping[str, Any], yaml_path: str | Path | None = None, *, place: str = "command line"
) -> FinetuneSettings:
    """Put the settings together: overrides go before the YAML file, that before the recipe, that before the defaults.

    Args:
        overrides: Fields by name; dashes may stand for underscores.
        yaml_path: YAML file of fields, or None.
        place: What the messages call the source of the overrides.

    Returns:
        The settings.

    Raises:
        SettingsError: An unknown field (with the near match), a wrong type or range, a missing field.
        FileNotFoundError: There is no such model.
        ValueError: Unknown method, task or recipe, with the near matches.
    """
    from ..evaluation.checks import require_names
    from .finetuning_model import method_of

    layers = [({underscored(name): value for name, value in overrides.items()}, place)]
    if yaml_path is not None:
        values = {underscored(name): value for name, value in read_settings_file(yaml_path).items()}
        layers.append((values, f"file {Path(yaml_path).name}"))
    model, corpus, output_dir = (require_field(name, layers) for name in ("model", "corpus", "output_dir"))
    task = first_given("task", layers)[0] or TASKS[0]
    require_names([task], TASKS, "task")
    method = method_of(model)
    written = corpus_as_known(corpus, first_given("data_directory", layers)[0])
    recipe = first_given("recipe", layers)[0] or recipe_for(method, first_given("mode", layers)[0], task, written)
    layers.append((load_recipe(FINETUNING, recipe), f"recipe {FINETUNING}/{recipe}"))
    what = f"a fine-tuning of {method}"
    chosen, sources = merge_layers(
        layers, finetuning_fields(method), _REFUSED_IN_FINETUNING, what, ("config", "training", "data", "run")
    )
    settings = FinetuneSettings(
        model=model,
        method=method,
        corpus=corpus,
        output_dir=str(output_dir),
        task=task,
        recipe=recipe,
        config=chosen["config"],
        training=chosen["training"],
        data=FinetuneDataSettings(**chosen["data"]),
        run=FinetuneRunSettings(**chosen["run"]),
        sources=sources,
    )
    check_settings(settings)
    return settings


# Fields that only one task, or only some modes, read.
_TASK_OF_FIELD = {
    "context_length": "forecasting",
    "stride": "forecasting",
    "prediction_length": "forecasting",
    "classifier_dropout": "classification",
}
_MODES_OF_FIELD = {
    "feature_memory": ("linear-probe",),
    "lora_rank": ("lora",),
    "lora_alpha": ("lora",),
    "backbone_learning_rate_factor": ("full", "lora"),
}


def check_settings(settings: FinetuneSettings) -> None:
    """Refuse settings that are out of range, would be ignored, or contradict each other.

    Raises:
        SettingsError: The message names the field, the value, the place and the fix.
    """
    _check_ranges(settings)
    _check_task(settings)
    _check_mode(settings)
    _check_schedules(settings)


def reads_context(settings: FinetuneSettings) -> bool:
    """Return whether a classifier of these settings depends on context_length.

    SimMTM's head covers the first context_length timestamps of a series, and so does TimeDRL's instance embedding
    "all"; TimeDRL's others embed the whole series, and other methods have no such field.
    """
    from .finetuning_model import model_config

    config = model_config(settings)
    embedding = settings.config.get("instance_embedding", getattr(config, "instance_embedding", "all"))
    return hasattr(config, "context_length") and embedding == "all"


def _check_ranges(settings: FinetuneSettings) -> None:
    from .epochs import EPOCH_SCHEDULES

    data, run = settings.data, settings.run
    allowed: dict[str, tuple[Any, bool, str]] = {
        "label_fraction": (data.label_fraction, 0.0 < data.label_fraction <= 1.0, "above 0 and at most 1"),
        "validation_fraction": (
            data.validation_fraction,
            0.0 < data.validation_fraction < 1.0,
            "between 0 and 1; validation=none turns the validation off",
        ),
        "context_length": (data.context_length, data.context_length >= 1, "at least 1"),
        "stride": (data.stride, data.stride >= 1, "at least 1"),
        "warmup_ratio": (run.warmup_ratio, 0.0 <= run.warmup_ratio < 1.0, "at least 0 and below 1"),
        "feature_memory": (run.feature_memory, run.feature_memory >= 0.0, "at least 0, in GiB"),
        "lora_rank": (run.lora_rank, run.lora_rank >= 1, "at least 1"),
        "backbone_learning_rate_factor": (
            run.backbone_learning_rate_factor,
            run.backbone_learning_rate_factor > 0.0,
            "above 0; mode=linear-probe freezes the encoder",
        ),
        "epoch_schedule": (
            run.epoch_schedule,
            run.epoch_schedule in (None, *EPOCH_SCHEDULES),
            f"one of {', '.join(EPOCH_SCHEDULES)}, or none",
        ),
        "early_stopping_patience": (
            run.early_stopping_patience,
            run.early_stopping_patience is None or run.early_stopping_patience >= 1,
            "at least 1, or none",
        ),
    }
    for name, (value, is_right, words) in allowed.items():
        if not is_right:
            where = settings.sources.get(name, "default")
            raise SettingsError(f"{name}={value!r} ({where}): must be {words}.")


def _check_task(settings: FinetuneSettings) -> None:
    for name, task in _TASK_OF_FIELD.items():
        if task == settings.task or not settings.is_given(name):
            continue
        if name == "context_length" and reads_context(settings):
            continue
        raise SettingsError(
            f"{name}={_value(settings, name)!r} ({settings.sources[name]}) has no meaning for task={settings.task} "
            f"with this model; leave it out, or set task={task}."
        )


def _check_mode(settings: FinetuneSettings) -> None:
    for name, modes in _MODES_OF_FIELD.items():
        if settings.run.mode not in modes and settings.is_given(name):
            raise SettingsError(
                f"{name}={_value(settings, name)!r} ({settings.sources[name]}) has no meaning for mode="
                f"{settings.run.mode}; leave it out, or set mode={' or mode='.join(modes)}."
            )


def _value(settings: FinetuneSettings, name: str) -> Any:
    return {**vars(settings.data), **vars(settings.run), **settings.config}[name]


def _check_schedules(settings: FinetuneSettings) -> None:
    """Refuse an epoch_schedule beside another schedule; a recipe's warm-up is no contradiction, and left out."""
    from .epochs import refuse_other_schedules

    if settings.run.epoch_schedule is None:
        return
    training, others = settings.training, {}
    kind = training.get("lr_scheduler_type", "linear")
    if kind != "constant":
        where = settings.sources.get("lr_scheduler_type", "default")
        others[f"lr_scheduler_type={kind!r} ({where})"] = "lr_scheduler_type=constant"
    for name, value in (("warmup_ratio", settings.run.warmup_ratio), ("warmup_steps", training.get("warmup_steps"))):
        if value and settings.is_given(name):
            others[f"{name}={value!r} ({settings.sources[name]})"] = f"no {name}"
    refuse_other_schedules(settings.run.epoch_schedule, others)
