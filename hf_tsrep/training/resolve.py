"""From what is given to settings: which fields there are, which recipe serves, and what cannot go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..data.known_corpora import name_in_full
from ..errors import SettingsError, near_matches
from ..opening import config_of, method_of
from ..registry import get_method
from .recipe_files import FINETUNING, load_recipe, recipe_for, recipe_for_corpus
from .settings import (
    DEFAULT_STAGE,
    TASKS,
    TRAINING_FIELDS,
    DataSettings,
    FinetuneDataSettings,
    FinetuneRunSettings,
    FinetuneSettings,
    PretrainSettings,
    RunSettings,
)
from .settings_sources import (
    Layers,
    SettingsField,
    Told,
    dataclass_fields,
    first_given,
    given_layers,
    merge_domain_fields,
    merge_layers,
    require_field,
)
from .stages import get_stage

# Fields of a config that nobody can set, because the corpus says them.
_OF_A_CORPUS = {
    "num_input_channels": "the corpus says how many channels there are",
    "prediction_context_length": "it is the context_length of a fine-tuning",
    "label_mean": "the training part of a labelled corpus says it",
    "label_scale": "the training part of a labelled corpus says it",
}
_OF_A_LABELLED_CORPUS = _OF_A_CORPUS | {
    "num_output_channels": "the corpus says how many channels are predicted",
    "num_labels": "the corpus says which classes there are",
    "target_mean": "the training part of the corpus says it",
    "target_scale": "the training part of the corpus says it",
}
_TASK_OF_CONFIG_FIELD = {
    "prediction_length": "forecasting",
    "quantiles": "forecasting",
    "classifier_dropout": "classification",
}
# A resume is asked for in the call, where the Trainer's field of that name would do nothing.
_NOT_OFFERED = frozenset({"output_dir", "resume_from_checkpoint", "local_rank"})


@cache
def pretraining_fields(method: str, stage: str = DEFAULT_STAGE) -> dict[str, SettingsField]:
    """Return every field that can be given: on the command line, in a YAML file or as an argument of `pretrain`.

    Args:
        method: Name of the method.
        stage: Name of the stage.

    Raises:
        SettingsError: The method has no such stage.
        ValueError: There is no such method.
    """
    stage_class = get_stage(method, stage)
    owner, left_out = stage_class.model_fields(method)
    named = ("method", "corpus", "output_dir", "recipe", "stage")
    groups = [("run", RunSettings, ()), ("data", DataSettings, ()), ("model", owner, left_out)]
    if stage_class.options_class is not None:
        groups.insert(0, ("options", stage_class.options_class, ()))
    return _all_fields(named, groups, {*stage_class.refused, *_OF_A_CORPUS})


@cache
def finetuning_fields(method: str) -> dict[str, SettingsField]:
    """Return every field that can be given: on the command line, in a YAML file or as an argument of `finetune`.

    Args:
        method: Name of the method.

    Raises:
        ValueError: There is no such method.
    """
    from transformers import PreTrainedConfig

    config_class: Any = get_method(method).config_class
    of_transformers = {one.name for one in dataclasses.fields(PreTrainedConfig)}
    named = ("model", "corpus", "output_dir", "task", "recipe")
    groups = [("run", FinetuneRunSettings, ()), ("data", FinetuneDataSettings, ())]
    fields = _all_fields(named, [*groups, ("config", config_class, of_transformers)], _OF_A_LABELLED_CORPUS)
    for name, task in _TASK_OF_CONFIG_FIELD.items():
        fields[name] = dataclasses.replace(fields[name], told=Told(task=task))
    return fields


def _all_fields(
    named: Collection[str], groups: Collection[tuple[str, Any, Collection[str]]], refused: Collection[str]
) -> dict[str, SettingsField]:
    """Return fields by name: those that name the run, those of the groups, and those of transformers' Trainer."""
    from transformers import TrainingArguments

    fields = {name: SettingsField(name, "named") for name in named}
    for group, owner, left_out in (*groups, ("training", TrainingArguments, ())):
        fields |= dataclass_fields(group, owner, {*left_out, *_NOT_OFFERED, *refused, *fields})
    for name in TRAINING_FIELDS.keys() & fields.keys():
        fields[name] = dataclasses.replace(fields[name], told=Told(TRAINING_FIELDS[name]))
    return fields


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
    layers = given_layers(overrides, yaml_path, place)
    method, corpus, output_dir = (require_field(name, layers) for name in ("method", "corpus", "output_dir"))
    if not isinstance(method, str):
        _, where = first_given("method", layers)
        raise SettingsError(f"method={method!r} ({where}): expected text, got {type(method).__name__}.")
    corpora = tuple(corpus) if _is_several(corpus) else (corpus,)
    if not corpora:
        raise SettingsError("corpus is an empty list; name at least one corpus.")
    stage = _stage_of(method, layers)
    fields, stage_class = pretraining_fields(method, stage), get_stage(method, stage)
    (recipe, _), (directory, _) = first_given("recipe", layers), first_given("data_directory", layers)
    recipe = recipe or stage_class.recipe or recipe_for_corpus(method, name_in_full(corpora[0], directory))
    layers.append((load_recipe(method, recipe), f"recipe {method}/{recipe}"))
    if "domains" in fields:
        layers = merge_domain_fields(layers, [name for name, one in fields.items() if one.group == "model"])
    refused = _OF_A_CORPUS | stage_class.refused
    task = f"a pre-training with {method}" + ("" if stage == DEFAULT_STAGE else f", stage {stage}")
    chosen, sources = merge_layers(layers, fields, refused, task)
    settings = PretrainSettings(
        method=method,
        corpus=corpora,
        output_dir=str(output_dir),
        recipe=recipe,
        stage=stage,
        model=chosen["model"],
        options=chosen.get("options", {}),
        training=chosen["training"],
        data=DataSettings(**chosen["data"]),
        run=RunSettings(**{**stage_class.run_defaults, **chosen["run"]}),
        sources=sources,
    )
    _refuse_two_schedules(settings)
    return settings


def _is_several(corpus: Any) -> bool:
    """Whether this is a list of corpora; a list of arrays is one corpus, as for `load_corpus`."""
    return isinstance(corpus, (list, tuple)) and not any(
        isinstance(one, (list, tuple, float, int)) or type(one).__name__ in ("ndarray", "Tensor") for one in corpus[:1]
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
        SettingsError: An unknown field (with the near match), a wrong type or range, a missing field, a field that
            this task or mode does not read, or two schedules at once.
        FileNotFoundError: There is no such model.
        ValueError: Unknown method, task or recipe, with the near matches.
    """
    layers = given_layers(overrides, yaml_path, place)
    model, corpus, output_dir = (require_field(name, layers) for name in ("model", "corpus", "output_dir"))
    task = first_given("task", layers)[0] or TASKS[0]
    if task not in TASKS:
        raise ValueError(f"Unknown task {task!r}.{near_matches(task, TASKS, cutoff=0.5)} Known: {', '.join(TASKS)}.")
    method = method_of(model)
    written = name_in_full(corpus, first_given("data_directory", layers)[0])
    recipe = first_given("recipe", layers)[0] or recipe_for(method, first_given("mode", layers)[0], task, written)
    layers.append((load_recipe(FINETUNING, recipe), f"recipe {FINETUNING}/{recipe}"))
    what = f"a fine-tuning of {method}"
    chosen, sources = merge_layers(layers, finetuning_fields(method), _OF_A_LABELLED_CORPUS, what)
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
    _refuse_what_is_not_read(settings)
    _refuse_two_schedules(settings)
    return settings


def head_reads_context(settings: FinetuneSettings) -> bool:
    """Return whether the head of a classifier of these settings depends on context_length."""
    config = config_of(settings.model)
    for name, value in settings.config.items():
        setattr(config, name, value)
    return config.head_reads_context


def _refuse_what_is_not_read(settings: FinetuneSettings) -> None:
    """Refuse a field that this task or mode does not read; a recipe may carry it for another.

    Raises:
        SettingsError: The message names the field, the value, the place and the fix.
    """
    values = {**vars(settings.data), **vars(settings.run), **settings.config}
    for name, where in settings.sources.items():
        told = finetuning_fields(settings.method)[name].told
        if not settings.is_given(name):
            continue
        if told.task not in (None, settings.head):
            if name == "context_length" and head_reads_context(settings):
                continue
            what, fix = f"task={settings.task} with this model", f"task={told.task}"
        elif told.modes and settings.run.mode not in told.modes:
            what, fix = f"mode={settings.run.mode}", " or ".join(f"mode={mode}" for mode in told.modes)
        else:
            continue
        raise SettingsError(
            f"{name}={values[name]!r} ({where}) has no meaning for {what}; leave it out, or set {fix}."
        )


def _refuse_two_schedules(settings: PretrainSettings | FinetuneSettings) -> None:
    """Refuse an epoch_schedule beside another schedule; a recipe's warm-up is no contradiction, and left out.

    Raises:
        SettingsError: The message names the other schedules, their places and the fix.
    """
    if settings.run.epoch_schedule is None:
        return
    values = {"lr_scheduler_type": "linear", **vars(settings.run), **settings.training}
    fixes = {}
    if values["lr_scheduler_type"] != "constant":
        fixes["lr_scheduler_type"] = "lr_scheduler_type=constant"
    if values.get("learning_rate_decay") is not None:
        fixes["learning_rate_decay"] = "learning_rate_decay=none"
    fixes |= {
        one: f"no {one}" for one in ("warmup_ratio", "warmup_steps") if values.get(one) and settings.is_given(one)
    }
    if fixes:
        others = [f"{name}={values[name]!r} ({settings.sources.get(name, 'default')})" for name in fixes]
        raise SettingsError(
            f"epoch_schedule={settings.run.epoch_schedule!r} sets the learning rate of every epoch, and so does "
            f"{' and '.join(others)}. Give {' and '.join(fixes.values())}, or epoch_schedule=none."
        )
