"""What a pre-training can be told, and how the command line, a YAML file and the recipe are put together."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .field_types import SettingsError, coerce
from .recipes import load_recipe, recipe_for_corpus

SETTINGS_FILE = "pretraining.json"

# Fields of transformers.TrainingArguments that mean nothing here, and what to do instead.
_REFUSED = {
    "push_to_hub": "publish the finished folder with `hf-tsrep push`",
    "load_best_model_at_end": "pre-training has no validation loss to choose by",
    "eval_strategy": "pre-training evaluates nothing; use `hf-tsrep evaluate` on the finished model",
    "remove_unused_columns": "the trainer names the series of a batch and takes care of the columns itself",
    "do_train": "use the other commands of hf-tsrep",
    "do_eval": "use the other commands of hf-tsrep",
    "do_predict": "use the other commands of hf-tsrep",
    "parallelism_config": "configure it with `accelerate config`",
    "auto_find_batch_size": "the batch holds the negatives, so its size is part of the method; choose it",
    "dataloader_persistent_workers": "workers that persist would keep the windows of the first epoch",
    "num_input_channels": "the corpus says how many channels there are",
}
_NOT_OFFERED = frozenset({*_REFUSED, "output_dir", "resume_from_checkpoint", "local_rank"})


@dataclass(frozen=True)
class DataSettings:
    """What is read, and how it is prepared; see `hf_tsrep.data.load_corpus` for all fields but the first.

    Args:
        max_train_length: Number of steps of the longest training input. Series that are at least twice as long are cut
            into equal pieces, other longer ones are cropped to a random window. None cuts and crops nothing.
    """

    max_train_length: int | None = 3000
    scaler: str | None = None
    time_features: bool = False
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


@dataclass(frozen=True)
class RunSettings:
    """What the library adds to `transformers.Trainer`.

    Args:
        weight_averaging: Whether the finished model has the mean of the weights after every step and of the initial
            ones, instead of the last.
        monitor_collapse: Whether the log tells the effective rank and the deviations of the embeddings.
        decay_all_parameters: Whether weight decay also applies to biases and normalisation weights.
        published_steps: Number of optimiser steps where neither max_steps nor num_train_epochs is given:
            `small_corpus_steps` for a corpus of at most `small_corpus_elements` numbers, else `steps`.
        overwrite_output_dir: Whether a finished model and checkpoints in the output folder are removed first.
    """

    weight_averaging: bool = True
    monitor_collapse: bool = True
    decay_all_parameters: bool = False
    published_steps: dict[str, int] | None = None
    overwrite_output_dir: bool = False


@dataclass(frozen=True)
class SettingsField:
    """One field that can be set: its group ("method", "model", "training", "data" or "run"), type and default."""

    name: str
    group: str
    annotation: Any
    default: Any


@dataclass(frozen=True)
class PretrainSettings:
    """Everything that decides a pre-training.

    Args:
        method: Name of the method.
        corpus: Names or paths of the corpora; series of several are trained on together.
        output_dir: Folder of the finished model and its checkpoints.
        recipe: Name of the recipe.
        model: Fields of the method's config.
        training: Fields of `transformers.TrainingArguments`.
        data: See DataSettings.
        run: See RunSettings.
        sources: Where each field was given; fields that are missing here have their default.
    """

    method: str
    corpus: tuple[Any, ...]
    output_dir: str
    recipe: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def corpus_names(self) -> list[str]:
        """What to call the corpora: their names, of a path its last part, of an object its type."""
        return [_corpus_name(one) for one in self.corpus]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without places and secrets: the record is published with the model."""
        data, run = dataclasses.asdict(self.data), dataclasses.asdict(self.run)
        del data["data_directory"], run["overwrite_output_dir"]
        plain = {
            "method": self.method,
            "corpus": self.corpus_names,
            "recipe": self.recipe,
            "model": self.model,
            "training": {name: value for name, value in self.training.items() if not _is_private(name)},
            "data": data,
            "run": run,
            "sources": {name: where for name, where in self.sources.items() if not _is_private(name)},
        }
        return json.loads(json.dumps(plain, default=str))


@cache
def pretraining_fields(method: str) -> dict[str, SettingsField]:
    """Return every field that can be given: on the command line, in a YAML file or as an argument of `pretrain`.

    Args:
        method: Name of the method.

    Returns:
        Fields by name.
    """
    from transformers import PreTrainedConfig, TrainingArguments

    from ..registry import get_method

    config_class: Any = get_method(method).config_class
    groups: list[tuple[str, Any, set[str]]] = [
        ("run", RunSettings, set()),
        ("data", DataSettings, set()),
        ("model", config_class, set(getattr(PreTrainedConfig, "__dataclass_fields__", ()))),
        ("training", TrainingArguments, set()),
    ]
    known = {
        "method": SettingsField("method", "method", str, None),
        "corpus": SettingsField("corpus", "method", str | list[str], None),
        "output_dir": SettingsField("output_dir", "method", str, None),
        "recipe": SettingsField("recipe", "method", str | None, None),
    }
    for group, owner, left_out in groups:
        hints = _type_hints(owner)
        for one in dataclasses.fields(owner):
            if one.init and one.name not in left_out | _NOT_OFFERED | set(known):
                default = one.default_factory() if callable(one.default_factory) else one.default
                known[one.name] = SettingsField(one.name, group, hints[one.name], default)
    return known


def _type_hints(owner: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields; Any for what its module names for type checkers only."""
    hints: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        scope = vars(sys.modules[base.__module__])
        for name, annotation in vars(base).get("__annotations__", {}).items():
            try:
                holder = type("Holder", (), {"__annotations__": {name: annotation}})
                hints |= typing.get_type_hints(holder, globalns=dict(scope))
            except NameError:
                hints[name] = Any
    return hints


def read_settings_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of pre-training fields.

    Raises:
        SettingsError: There is no such file, or it holds no mapping.
    """
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"The settings file {path} is not YAML: {error}") from error
    if not isinstance(loaded or {}, dict):
        raise SettingsError(
            f"The settings file {path} holds a {type(loaded).__name__}; expected lines `field: value`."
        )
    return dict(loaded or {})


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
    layers = [({_underscored(name): value for name, value in overrides.items()}, place)]
    if yaml_path is not None:
        values = {_underscored(name): value for name, value in read_settings_file(yaml_path).items()}
        layers.append((values, f"file {Path(yaml_path).name}"))
    method, corpus, output_dir = (_require(name, layers) for name in ("method", "corpus", "output_dir"))
    corpora = tuple(corpus) if isinstance(corpus, (list, tuple)) else (corpus,)
    if not corpora:
        raise SettingsError("corpus is an empty list; name at least one corpus.")
    first = corpora[0] if isinstance(corpora[0], str) else None
    recipe = _first("recipe", layers)[0] or recipe_for_corpus(method, first)
    layers.append((load_recipe(method, recipe), f"recipe {method}/{recipe}"))

    fields = pretraining_fields(method)
    chosen: dict[str, dict[str, Any]] = {"model": {}, "training": {}, "data": {}, "run": {}}
    sources: dict[str, str] = {}
    for values, where in reversed(layers):
        for name, value in values.items():
            known = _known_field(name, where, fields, method)
            sources[name] = where
            if known.group in chosen:
                chosen[known.group][name] = coerce(name, value, known.annotation, where)
    _give_budget_precedence(chosen, sources, layers)
    return PretrainSettings(
        method=method,
        corpus=corpora,
        output_dir=str(output_dir),
        recipe=recipe,
        model=chosen["model"],
        training=chosen["training"],
        data=DataSettings(**chosen["data"]),
        run=RunSettings(**chosen["run"]),
        sources=sources,
    )


def _corpus_name(corpus: Any) -> str:
    if not isinstance(corpus, (str, Path)):
        return f"<{type(corpus).__name__}>"
    name = str(corpus)
    is_path = isinstance(corpus, Path) or Path(name).is_absolute() or name.startswith((".", "~"))
    return Path(name).name if is_path else name


def _is_private(name: str) -> bool:
    return name in ("output_dir", "data_directory", "overwrite_output_dir") or name.endswith("token")


def _underscored(name: Any) -> str:
    return str(name).strip().lstrip("-").replace("-", "_")


def _first(name: str, layers: Sequence[tuple[Mapping[str, Any], str]]) -> tuple[Any, str]:
    return next(((values[name], where) for values, where in layers if values.get(name) is not None), (None, ""))


def _require(name: str, layers: Sequence[tuple[Mapping[str, Any], str]]) -> Any:
    value, where = _first(name, layers)
    if value is None:
        raise SettingsError(f"{name} is missing: give it in the {layers[0][1]} or in the settings file.")
    if name == "method" and not isinstance(value, str):
        raise SettingsError(f"method={value!r} ({where}): expected text, got {type(value).__name__}.")
    return value


def _known_field(name: str, where: str, fields: Mapping[str, SettingsField], method: str) -> SettingsField:
    if name in fields:
        return fields[name]
    if name in _REFUSED:
        raise SettingsError(f"{name} ({where}) cannot be set for a pre-training: {_REFUSED[name]}.")
    near = difflib.get_close_matches(name, fields, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise SettingsError(f"Unknown field {name!r} ({where}) for a pre-training with {method}.{hint}")


def _give_budget_precedence(
    chosen: dict[str, dict[str, Any]], sources: dict[str, str], layers: Sequence[tuple[Mapping[str, Any], str]]
) -> None:
    """Let the higher layer's max_steps or num_train_epochs win: the Trainer would always take max_steps."""
    budget = ("max_steps", "num_train_epochs")
    for values, _ in layers:
        given = [name for name in budget if name in values]
        if given:
            for name in set(budget) - set(given):
                chosen["training"].pop(name, None)
                sources.pop(name, None)
            return
