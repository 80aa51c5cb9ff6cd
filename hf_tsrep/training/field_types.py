"""Values of settings from a command line, YAML or Python, brought to the type that a field has."""

from __future__ import annotations

import enum
import json
import types
import typing
from typing import Any

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


class SettingsError(ValueError):
    """A setting is unknown or has a wrong value: the message names the field, the value, the place and the fix."""


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
