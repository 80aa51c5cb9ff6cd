"""Where settings come from: the command line before a YAML file, that before a recipe, that before the defaults."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import inspect
import json
import operator
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import InstanceOf, TypeAdapter, ValidationError, WithJsonSchema

from ..errors import SettingsError, near_matches

Layers = Sequence[tuple[Mapping[str, Any], str]]

_WORDS: dict[str, bool | None] = dict.fromkeys(("none", "null", "~", ""))
_WORDS |= dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_BUDGET = ("max_steps", "num_train_epochs")


@dataclass(frozen=True)
class Told:
    """What a field of a dataclass of settings tells of itself, beside its type and its default.

    Args:
        help: What the field does.
        task: The only task that reads it, or None.
        modes: The only modes of a fine-tuning that read it; empty for all.
    """

    help: str = ""
    task: str | None = None
    modes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SettingsField:
    """One field that can be set.

    Args:
        name: Name of the field.
        group: What it belongs to, such as "model" or "training".
        annotation: Its type, with the range where it has one.
        default: Value where no source gives one.
        told: What it tells of itself; nothing where it is one of the many fields of transformers or of a config.
    """

    name: str
    group: str
    annotation: Any = str
    default: Any = None
    told: Told = Told()


def dataclass_fields(group: str, owner: Any, left_out: Collection[str] = ()) -> dict[str, SettingsField]:
    """Return the fields of a dataclass, by name.

    Args:
        group: What the fields belong to.
        owner: The dataclass.
        left_out: Names that are not offered.
    """
    wanted = [one for one in dataclasses.fields(owner) if one.init and one.name not in left_out]
    names = {one.name for one in wanted}
    hints: dict[str, Any] = {}
    # Class by class, because the annotations of PreTrainedConfig name what only a type checker imports.
    for base in reversed(owner.__mro__):
        if names & set(vars(base).get("__annotations__", ())):
            hints |= inspect.get_annotations(base, eval_str=True)
    found = {}
    for one in wanted:
        default = one.default_factory() if callable(one.default_factory) else one.default
        told = [item for item in getattr(hints[one.name], "__metadata__", ()) if isinstance(item, Told)]
        found[one.name] = SettingsField(one.name, group, hints[one.name], default, *told)
    return found


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


def given_layers(
    overrides: Mapping[str, Any], yaml_path: str | Path | None, place: str
) -> list[tuple[Mapping[str, Any], str]]:
    """Return what a user gives, with what to call each source; the first goes before the second.

    Args:
        overrides: Fields by name; dashes may stand for underscores, in the file too.
        yaml_path: YAML file of fields, or None.
        place: What the messages call the source of the overrides.

    Raises:
        SettingsError: The file cannot be read, or holds no mapping.
    """
    layers = [(dict(overrides), place)]
    if yaml_path is not None:
        layers.append((read_settings_file(yaml_path), f"file {Path(yaml_path).name}"))
    return [
        ({str(name).strip().lstrip("-").replace("-", "_"): value for name, value in values.items()}, where)
        for values, where in layers
    ]


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


def merge_layers(
    layers: Layers, fields: Mapping[str, SettingsField], refused: Mapping[str, str], task: str
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Put layers of fields together.

    Args:
        layers: Values by name with what to call their source; the first goes before the second, and so on.
        fields: All fields by name.
        refused: Names that are no fields here, and why.
        task: What the fields are for, such as "a pre-training with ts2vec".

    Returns:
        Values by group and name in the types of their fields, and where each was given.

    Raises:
        SettingsError: A field is refused or unknown, with the near matches, or has a wrong type.
    """
    chosen: dict[str, dict[str, Any]] = {one.group: {} for one in fields.values()}
    sources: dict[str, str] = {}
    for values, where in reversed(layers):
        # transformers' Trainer would always take max_steps; here the budget of the nearer source goes before.
        if not set(_BUDGET).isdisjoint(values):
            for name in _BUDGET:
                chosen["training"].pop(name, None)
                sources.pop(name, None)
        for name, value in values.items():
            if name in refused:
                raise SettingsError(f"{name} ({where}) cannot be set for {task}: {refused[name]}.")
            if name not in fields:
                raise SettingsError(f"Unknown field {name!r} ({where}) for {task}.{near_matches(name, fields)}")
            one, sources[name] = fields[name], where
            # Models and corpora may be objects, and name the run instead of being settings of it.
            # A default is what it says, such as "none", where that word would be read as nothing in other fields.
            is_kept = one.group == "named" or (isinstance(value, str) and value == one.default)
            chosen[one.group][name] = value if is_kept else coerce(name, value, one.annotation, where)
    return chosen, sources


def merge_domain_fields(layers: Layers, model_fields: Collection[str]) -> list[tuple[Mapping[str, Any], str]]:
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
            for name in [one for one in fields if one not in model_fields]:
                hint = near_matches(name, model_fields, count=1)
                raise SettingsError(f"Unknown field {name!r} of domain {domain!r} ({where}).{hint}")
            merged.setdefault(str(domain), {}).update(fields)
    first = next((number for number, (values, _) in enumerate(layers) if "domains" in values), None)
    return [
        (
            {
                name: merged if name == "domains" else value
                for name, value in values.items()
                if name != "domains" or number == first
            },
            where,
        )
        for number, (values, where) in enumerate(layers)
    ]


def coerce(name: str, value: Any, annotation: Any, place: str) -> Any:
    """Return a value in the type of its field.

    Text becomes what it says (`"1e-3"` a number, `"true"` a truth value, `"a,b"` a list, `"{...}"` a mapping); a
    number without a fraction may stand where an integer is needed; nothing else is converted.

    Args:
        name: Name of the field, for the message.
        value: What was given.
        annotation: Type of the field, with its range where it has one.
        place: Where it was given, for the message.

    Raises:
        SettingsError: The value has another type, or is out of the range.
    """
    if annotation is Any:
        return value
    field_type: TypeAdapter[Any] = TypeAdapter(_plain_type(annotation))
    for meaning in _meanings(value):
        try:
            return field_type.validate_python(meaning, strict=True)
        except ValidationError:
            continue
    raise SettingsError(f"{name}={value!r} ({place}): expected {describe_type(annotation)}.")


def describe_type(annotation: Any) -> str:
    """Return the words for a type, such as "an integer, or none"."""
    schema = TypeAdapter(_plain_type(annotation)).json_schema()
    members = schema.get("anyOf", [schema])
    words = dict.fromkeys(_describe(member) for member in members if member.get("type") != "null")
    return " or ".join(words) + (", or none" if {"type": "null"} in members else "")


def _describe(schema: Mapping[str, Any]) -> str:
    """Return the words for one member of a JSON schema."""
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        return " or ".join(map(repr, choices)) if len(choices) < 4 else "one of " + ", ".join(map(str, choices))
    words = {"boolean": "true or false", "integer": "an integer", "number": "a number", "string": "text"}
    words |= {"array": "a list", "object": "a mapping"}
    bounds = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    limits = " and ".join(f"{word} {schema[bound]}" for bound, word in bounds.items() if bound in schema)
    found = " ".join(filter(None, (words.get(schema.get("type", ""), schema.get("title", "another type")), limits)))
    return found + (f" ({schema['description']})" if "description" in schema else "")


def _plain_type(annotation: Any) -> Any:
    """Return a type for pydantic: enumerations as their words, other classes of objects as they are."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        # transformers writes `SchedulerType | str`: the text is only another spelling of the enumeration.
        spelled = any(isinstance(one, type) and issubclass(one, enum.Enum) for one in arguments)
        members = [_plain_type(one) for one in arguments if not (spelled and one is str)]
        return functools.reduce(operator.or_, members)
    if typing.get_origin(annotation) is list:
        return types.GenericAlias(list, (_plain_type(arguments[0]),))
    if not isinstance(annotation, type) or annotation in (bool, int, float, str, list, dict, type(None)):
        return annotation
    if issubclass(annotation, enum.Enum):
        return Literal[tuple(member.value for member in annotation)]
    return Annotated[annotation, InstanceOf(), WithJsonSchema({"title": annotation.__name__})]


def _meanings(value: Any) -> Iterator[Any]:
    """Give what a value may mean, the narrowest first; the type of the field decides."""
    value = value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, str):
        if value.lower() in _WORDS:
            yield _WORDS[value.lower()]
        if not isinstance(_number(value), str):
            yield _number(value)
        yield from _meanings([part.strip() for part in value.split(",")])
        if value.lstrip().startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(value)
        yield value
        yield value.lower()
    elif isinstance(value, Path):
        yield from (value, str(value))
    elif isinstance(value, (list, tuple)):
        yield list(value)
        yield [_number(item) for item in value]
    else:
        yield value
        yield _number(value)


def _number(value: Any) -> Any:
    """Return the number that a text says (YAML reads 1e-3 as text), an integer where it is one; else the value."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Sourced:
    """Settings that know where each field was given."""

    sources: dict[str, str]

    def is_given(self, name: str) -> bool:
        """Return whether a field was asked for, instead of coming from a recipe or a default."""
        return not self.sources.get(name, "recipe").startswith("recipe")
