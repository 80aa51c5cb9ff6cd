"""Layers of settings: the command line before a YAML file, that before a recipe; fields, sources and their errors."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .field_types import SettingsError, coerce

Layers = Sequence[tuple[Mapping[str, Any], str]]


@dataclass(frozen=True)
class SettingsField:
    """One field that can be set: its group, such as "model" or "training", type and default."""

    name: str
    group: str
    annotation: Any
    default: Any


def dataclass_fields(group: str, owner: Any, left_out: Collection[str]) -> dict[str, SettingsField]:
    """Return the fields of a dataclass, by name.

    Args:
        group: What the fields belong to.
        owner: The dataclass.
        left_out: Names that are not offered.
    """
    hints = type_hints(owner)
    found = {}
    for one in dataclasses.fields(owner):
        if one.init and one.name not in left_out:
            default = one.default_factory() if callable(one.default_factory) else one.default
            found[one.name] = SettingsField(one.name, group, hints[one.name], default)
    return found


def type_hints(owner: type) -> dict[str, Any]:
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
    """Read a YAML file of fields.

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


def merge_layers(
    layers: Layers, fields: Mapping[str, SettingsField], refused: Mapping[str, str], task: str, groups: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Put layers of fields together.

    Args:
        layers: Values by name with what to call their source; the first goes before the second, and so on.
        fields: All fields by name.
        refused: See known_field.
        task: See known_field.
        groups: Groups whose values are wanted.

    Returns:
        Values by group and name in the types of their fields, and where each was given.

    Raises:
        SettingsError: An unknown field or a wrong type.
    """
    chosen: dict[str, dict[str, Any]] = {group: {} for group in groups}
    sources: dict[str, str] = {}
    for values, where in reversed(layers):
        for name, value in values.items():
            known = known_field(name, where, fields, refused, task)
            sources[name] = where
            if known.group in chosen:
                chosen[known.group][name] = coerce(name, value, known.annotation, where)
    give_budget_precedence(chosen, sources, layers)
    return chosen, sources


def corpus_name(corpus: Any) -> str:
    """Return what to call a corpus: its name, of a path its last part, of an object its type."""
    if not isinstance(corpus, (str, Path)):
        return f"<{type(corpus).__name__}>"
    name = str(corpus)
    is_path = isinstance(corpus, Path) or Path(name).is_absolute() or name.startswith((".", "~"))
    return Path(name).name if is_path else name


def is_private(name: str) -> bool:
    """Return whether a field holds a place on this machine or a secret, which no published record has."""
    return name in ("output_dir", "data_directory", "overwrite_output_dir") or name.endswith("token")


def underscored(name: Any) -> str:
    """Return the name of a field that was written with dashes."""
    return str(name).strip().lstrip("-").replace("-", "_")


def first_given(name: str, layers: Layers) -> tuple[Any, str]:
    """Return the value of the first layer that gives a field, and the layer's name; None and "" where none does."""
    return next(((values[name], where) for values, where in layers if values.get(name) is not None), (None, ""))


def require_field(name: str, layers: Layers) -> Any:
    """Return the value of the first layer that gives a field.

    Raises:
        SettingsError: None does.
    """
    value, _ = first_given(name, layers)
    if value is None:
        raise SettingsError(f"{name} is missing: give it in the {layers[0][1]} or in the settings file.")
    return value


def known_field(
    name: str, where: str, fields: Mapping[str, SettingsField], refused: Mapping[str, str], task: str
) -> SettingsField:
    """Return the field of this name.

    Args:
        name: Name of the field.
        where: Where it was given, for the message.
        fields: All fields by name.
        refused: Why some others cannot be set.
        task: What the fields are for, such as "a pre-training with ts2vec".

    Raises:
        SettingsError: It is refused, or unknown; the message names the near matches.
    """
    if name in fields:
        return fields[name]
    if name in refused:
        raise SettingsError(f"{name} ({where}) cannot be set for {task}: {refused[name]}.")
    near = difflib.get_close_matches(name, fields, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise SettingsError(f"Unknown field {name!r} ({where}) for {task}.{hint}")


def give_budget_precedence(chosen: dict[str, dict[str, Any]], sources: dict[str, str], layers: Layers) -> None:
    """Let the higher layer's max_steps or num_train_epochs win: the Trainer would always take max_steps."""
    budget = ("max_steps", "num_train_epochs")
    for values, _ in layers:
        given = [name for name in budget if name in values]
        if given:
            for name in set(budget) - set(given):
                chosen["training"].pop(name, None)
                sources.pop(name, None)
            return
