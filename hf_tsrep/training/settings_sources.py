"""Layers of settings: the command line before a YAML file, that before a recipe; fields, sources and their errors."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SettingsError, near_matches

Layers = Sequence[tuple[Mapping[str, Any], str]]


_WORDS_OF_NONE = frozenset({"none", "null", "~", ""})
_WORDS_OF_TRUTH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_NO_VALUE = object()


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
    raise SettingsError(f"Unknown field {name!r} ({where}) for {task}.{near_matches(name, fields)}")


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


def merge_domain_fields(layers: Layers, model_fields: Sequence[str]) -> list[tuple[Mapping[str, Any], str]]:
    """Put `domains` of all layers together; a field for all domains goes before the domain's own of a lower layer.

    Args:
        layers: Values by name with what to call their source; the first goes before the second, and so on.
        model_fields: Fields that can be given for all domains, or for one in `domains`.

    Returns:
        The layers, with `domains` in the first that gives it only.

    Raises:
        SettingsError: `domains` is no mapping of mappings, or has an unknown field; the message names the near match.
    """
    merged: dict[str, dict[str, Any]] = {}
    for values, where in reversed(layers):
        for fields in merged.values():
            for name in set(fields) & set(values):
                del fields[name]
        given = coerce("domains", values.get("domains") or {}, dict[str, Any], where)
        for domain, fields in given.items():
            if not isinstance(fields, Mapping):
                raise SettingsError(
                    f"domains of {domain!r} ({where}) is {fields!r}; expected fields of the domain, such as "
                    f"{{{domain}: {{patch_length: 4}}}}."
                )
            for name in fields:
                if name not in model_fields:
                    hint = near_matches(name, model_fields, count=1)
                    raise SettingsError(f"Unknown field {name!r} of domain {domain!r} ({where}).{hint}")
            merged.setdefault(str(domain), {}).update(fields)
    placed = False
    result: list[tuple[Mapping[str, Any], str]] = []
    for values, where in layers:
        rest = {name: value for name, value in values.items() if name != "domains"}
        if "domains" in values and not placed:
            rest["domains"], placed = merged, True
        result.append((rest, where))
    return result


def describe_type(annotation: Any) -> str:
    """Return the words for a type, such as "integer, or none"."""
    members = _members(annotation)
    words = [_describe_one(member) for member in members if member is not type(None)]
    unique = list(dict.fromkeys(words))
    return " or ".join(unique) + (", or none" if type(None) in members else "")


def coerce(name: str, value: Any, annotation: Any, place: str) -> Any:
    """Return a value in the type of its field.

    Text becomes what it says (`"1e-3"` a number, `"true"` a truth value, `"a,b"` a list, `"{...}"` a mapping); a
    number without a fraction may stand where an integer is needed; nothing else is converted.

    Args:
        name: Name of the field, for the message.
        value: What was given.
        annotation: Type of the field: plain types, enumerations, lists, mappings and unions of them.
        place: Where it was given, for the message.

    Returns:
        The value.

    Raises:
        SettingsError: The value has another type, or is no member of the enumeration.
    """
    members = _members(annotation)
    if type(None) in members and (value is None or (isinstance(value, str) and value.lower() in _WORDS_OF_NONE)):
        return None
    for member in sorted(members, key=_rank):
        converted = _convert(value, member)
        if converted is not _NO_VALUE:
            return converted
    raise SettingsError(f"{name}={value!r} ({place}): expected {describe_type(annotation)}.")


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union; a string beside an enumeration is only another spelling of it."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [inner for member in typing.get_args(annotation) for inner in _members(member)]
        if any(_is_enum(member) for member in members):
            members = [member for member in members if member is not str]
        return members
    return [annotation]


def _is_enum(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def _rank(member: Any) -> int:
    """Order in which members of a union are tried: what is written most narrowly first, plain text last."""
    base = typing.get_origin(member) or member
    order: list[Any] = [bool, int, float, list, dict]
    return 8 if base is str else order.index(base) if base in order else 7


def _describe_one(annotation: Any) -> str:
    if _is_enum(annotation):
        return "one of " + ", ".join(str(member.value) for member in annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(annotation)))
    base = typing.get_origin(annotation) or annotation
    words: dict[Any, str] = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
    }
    return words.get(base, getattr(base, "__name__", str(base)))


def _convert(value: Any, annotation: Any) -> Any:
    """Return the converted value, or _NO_VALUE where it does not fit."""
    if annotation is Any:
        return value
    if _is_enum(annotation):
        text = str(value.value if isinstance(value, enum.Enum) else value).lower()
        return next((member.value for member in annotation if str(member.value).lower() == text), _NO_VALUE)
    if typing.get_origin(annotation) is typing.Literal:
        return next((choice for choice in typing.get_args(annotation) if choice == value), _NO_VALUE)
    base = typing.get_origin(annotation) or annotation
    converters: dict[Any, Any] = {
        bool: _as_bool,
        int: _as_integer,
        float: _as_number,
        str: _as_text,
        dict: _as_mapping,
    }
    if base in (list, tuple):
        return _as_list(value, (typing.get_args(annotation) or (Any,))[0])
    if base in converters:
        return converters[base](value)
    return value if isinstance(base, type) and isinstance(value, base) else _NO_VALUE


def _as_bool(value: Any) -> Any:
    if isinstance(value, str):
        return _WORDS_OF_TRUTH.get(value.lower(), _NO_VALUE)
    return value if isinstance(value, bool) else _NO_VALUE


def _as_integer(value: Any) -> Any:
    number = _as_number(value)
    return int(number) if number is not _NO_VALUE and number == number // 1 else _NO_VALUE


def _as_number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            return _NO_VALUE
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _NO_VALUE


def _as_text(value: Any) -> Any:
    return value if isinstance(value, str) else _NO_VALUE


def _as_list(value: Any, item_type: Any) -> Any:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, (list, tuple)):
        return _NO_VALUE
    items = [_convert(item, item_type) for item in value]
    return _NO_VALUE if any(item is _NO_VALUE for item in items) else items


def _as_mapping(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return _NO_VALUE
    return value if isinstance(value, dict) else _NO_VALUE
