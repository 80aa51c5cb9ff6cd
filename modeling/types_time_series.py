"""Values of files that people edit: of the type that their field has, and all that were written."""

from __future__ import annotations

import json
import math
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WRITTEN_FIELDS = "written_fields"
"""Key of a settings file for the names that it was written with; one that has gone since would take a default."""

LARGEST_INTEGER = 2**53  # no size is larger, and a number of JSON is exact up to here
_WORDS_OF_TYPES = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", type(None): "none"}


def is_of_type(value: Any, kind: Any) -> bool:
    """Return whether a value is of an annotated type; an integer is a number, neither is a truth value or infinite."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(is_of_type(value, one) for one in arguments)
    if origin is Sequence:  # also arrays and the names of a frame
        value = value.tolist() if hasattr(value, "tolist") else value
        is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return is_list and all(is_of_type(one, arguments[0]) for one in value)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(is_of_type(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_of_type(key, arguments[0]) and is_of_type(one, arguments[1]) for key, one in value.items()
        )
    if kind in (int, float):
        wanted = numbers.Integral if kind is int else numbers.Real
        is_number = isinstance(value, wanted) and not isinstance(value, bool)
        return is_number and (abs(int(value)) <= LARGEST_INTEGER if kind is int else _is_finite(value))
    return kind is Any or isinstance(value, origin or kind)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def type_words(kind: Any) -> list[str]:
    """Return the words for an annotated type, one an alternative."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return [word for one in arguments for word in type_words(one)]
    if origin in (list, tuple, Sequence) or kind in (list, tuple):
        return ["a list" + (f" of which each is {type_words(arguments[0])[0]}" if arguments else "")]
    if dict in (origin, kind):
        return ["a mapping"]
    return [_WORDS_OF_TYPES.get(kind, getattr(kind, "__name__", str(kind)))]


def require_types(owner: str, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of another type than its field; the message names the type that it must have.

    Args:
        owner: Whose fields they are, for the message.
        values: By name; names that are no fields are passed over.
        kinds: Annotated types by name.
    """
    for name, kind in kinds.items():
        if name in values and not is_of_type(values[name], kind):
            words = " or ".join(dict.fromkeys(type_words(kind)))
            raise ValueError(f"{owner}.{name} is {values[name]!r}; it must be {words}.")


def read_settings(path: Path) -> dict[str, Any]:
    """Return what a JSON file of settings holds.

    Raises:
        ValueError: It is no JSON, or no mapping. The message names the file and the fix.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ValueError(
            f"{path} is no JSON ({told}); it is damaged or was cut off. Save it again, or download it again."
        ) from error
    require_types(str(path.parent), {path.name: values}, {path.name: dict})
    return values


def require_written(owner: str, file: str, values: Mapping[str, Any], written: Any) -> None:
    """Raise ValueError for a field that a file was written with and lacks; files of older versions name none.

    Args:
        owner: Whose fields they are, for the message.
        file: Name of the file.
        values: What it holds.
        written: The names that it was written with.
    """
    require_types(owner, {WRITTEN_FIELDS: written}, {WRITTEN_FIELDS: list[str]})
    lacking = sorted(set(written) - set(values))
    if lacking:
        raise ValueError(
            f"{owner}: {file} lacks {', '.join(lacking)}, which it was written with ({WRITTEN_FIELDS}). Restore the "
            "file, or save it again."
        )
