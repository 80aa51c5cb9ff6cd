"""Checks of the arrays and corpora that protocols are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import near_matches


def check_finite(arrays: Sequence[np.ndarray], what: str, begin: int = 0, end: int | None = None) -> None:
    """Raise ValueError that names the first missing or infinite value.

    Args:
        arrays: per series (time, columns).
        what: what a value is, for the message.
        begin: first step to look at.
        end: one past the last step to look at; default all.
    """
    for index, array in enumerate(arrays):
        finite = np.isfinite(array[begin:end])
        if finite.all():
            continue
        step, column = (int(position) for position in np.argwhere(~finite)[0])
        rows = int((~finite).any(axis=1).sum())
        raise ValueError(
            f"Series {index}, step {begin + step}, column {column}: {what} is {array[begin + step, column]}; "
            f"{rows} steps have missing or infinite values. Fill or drop them before the evaluation."
        )


def require_splits(corpus: Any, names: Sequence[str], protocol: str) -> Any:
    """Return the corpus if it has the splits.

    Raises:
        ValueError: it is not a mapping of splits, or one is absent.
    """
    if not isinstance(corpus, Mapping):
        raise ValueError(f"The {protocol} protocol needs a DatasetDict with splits {', '.join(names)}.")
    absent = [name for name in names if name not in corpus]
    if absent:
        raise ValueError(
            f"The {protocol} protocol needs splits {', '.join(names)}; the corpus has {', '.join(map(str, corpus))}."
        )
    return corpus


def require_names(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise ValueError with near matches for a name that is not known, or if there are no names."""
    if len(names) == 0:
        raise ValueError(f"No {what} was chosen; known: {', '.join(known)}.")
    for name in names:
        if name not in known:
            hint = near_matches(name, known, cutoff=0.5)
            raise ValueError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(known)}.")
