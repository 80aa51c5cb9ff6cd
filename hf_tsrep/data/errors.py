"""The one error of this folder, and the near matches it offers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CorpusError(ValueError):
    """Something is wrong with a corpus: the message names the place (file, row, column), the value and the fix."""


def near_matches(name: str, candidates: Iterable[str], *, count: int = 3) -> str:
    """Returns a sentence with the candidates closest to `name`, or an empty string where none is close.

    Args:
        name: what the user wrote.
        candidates: the names that exist.
        count: how many to offer at most.

    Returns:
        Text that begins with a space, to be put behind a sentence: ` Near matches: OT.`
    """
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), list(by_lower_case), n=count, cutoff=0.5)
    if not close:
        return ""
    return " Near matches: " + ", ".join(repr(by_lower_case[match]) for match in close) + "."
