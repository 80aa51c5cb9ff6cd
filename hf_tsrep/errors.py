"""What every room raises: the error of a setting, and the hint that names what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class SettingsError(ValueError):
    """A setting is unknown or has a wrong value: the message names the field, the value, the place and the fix."""


def one_line(error: object) -> str:
    """Return what an error of somebody else says, in one line, to be quoted in a message of ours."""
    return " ".join(str(error).split())


def near_matches(
    name: object,
    known: Iterable[object],
    *,
    count: int = 3,
    cutoff: float = 0.6,
    spell: Callable[[str], str] = repr,
) -> str:
    """Return the hint to put after "Unknown ...": " Did you mean 'x' or 'y'?", or nothing where no name is near.

    Args:
        name: What was written; capitals make no difference.
        known: The names that there are.
        count: Number of names to offer at most.
        cutoff: Least similarity, from 0 to 1.
        spell: How a name is written in the hint, such as "--{}".format for the options of a command.
    """
    by_lower_case: dict[str, str] = {}
    for one in known:
        by_lower_case.setdefault(str(one).lower(), str(one))
    near = difflib.get_close_matches(str(name).lower(), list(by_lower_case), n=count, cutoff=cutoff)
    return f" Did you mean {' or '.join(spell(by_lower_case[one]) for one in near)}?" if near else ""
