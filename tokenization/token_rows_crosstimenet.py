"""Rows of ids to rows of one domain's codes, checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from .vocabulary_crosstimenet import CodeVocabulary


def as_id_rows(token_ids: Any) -> tuple[list[np.ndarray], bool]:
    """Turn any holder of ids into one array (num_tokens,) int64 a series, and tell whether it was one series.

    Raises:
        ValueError: There are other things than whole numbers.
    """
    if isinstance(token_ids, (torch.Tensor, np.ndarray)):
        is_one = token_ids.ndim < 2
    else:
        is_one = not isinstance(token_ids, (list, tuple)) or not any(hasattr(one, "__len__") for one in token_ids)
        is_one = is_one or any(getattr(one, "ndim", 1) == 0 for one in token_ids)
    rows = [token_ids] if is_one else list(token_ids)
    return [_ids(row, index) for index, row in enumerate(rows)], is_one


def _ids(row: Any, index: int) -> np.ndarray:
    array = np.atleast_1d(row.detach().cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"Row {index} holds {array.dtype} of shape {array.shape}; ids are whole numbers (num_tokens,)."
        )
    return array.astype(np.int64)


def codes_of_rows(
    vocabulary: CodeVocabulary,
    rows: Sequence[np.ndarray],
    without_values: Collection[int],
    mask_id: int,
    place: int | None,
) -> tuple[int | None, list[np.ndarray]]:
    """Turn ids into codes of one domain.

    Args:
        vocabulary: The vocabulary.
        rows: Ids (num_tokens,) of every series.
        without_values: Ids of tokens that stand for no timestamps.
        mask_id: Id of a patch of which nothing is known.
        place: Place of the domain; None for that of the codes.

    Returns:
        Place of the domain, None if no code tells it; and codes (num_patches,) of every series, -1 for mask_id.

    Raises:
        ValueError: An id is out of range, or the codes are of several domains.
    """
    ids = np.concatenate([*rows, np.empty(0, dtype=np.int64)])
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    is_silent = np.isin(ids, np.fromiter(without_values, dtype=np.int64))
    places, codes = vocabulary.codes_of(ids)
    wrong = np.flatnonzero((places < 0) & ~is_silent & (ids != mask_id))
    if wrong.size:
        raise ValueError(
            f"Id {ids[wrong[0]]} of series {owners[wrong[0]]} stands for no token. {vocabulary.describe_ids()}"
        )
    found = np.unique(places[places >= 0])
    names = [vocabulary.domains[one].name for one in found]
    if len(found) > 1:
        raise ValueError(f"The ids are of the domains {', '.join(names)}; decode one domain a call.")
    if place is not None and len(found) and found[0] != place:
        raise ValueError(
            f"The ids are of domain {names[0]!r}, but domain={vocabulary.domains[place].name!r} was given; leave it "
            "out."
        )
    kept = [row[~silent] for row, silent in zip(_split(codes, rows), _split(is_silent, rows), strict=True)]
    return (int(found[0]) if len(found) else place), kept


def _split(flat: np.ndarray, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum([len(row) for row in rows])[:-1]) if rows else []


def lengths_of_rows(rows: Sequence[np.ndarray], patch_length: int, length: int | Sequence[int] | None) -> list[int]:
    """Return the number of timestamps of every series, which may end inside the last token.

    Raises:
        ValueError: There are not as many lengths as series, or one is no whole number or longer than the tokens.
    """
    most = [len(row) * patch_length for row in rows]
    if length is None:
        return most
    given = np.asarray(length)
    if given.size and given.dtype.kind not in "iu":
        raise ValueError(f"length={length!r} must be a number of timestamps: a whole number, or one for each series.")
    lengths = given.tolist() if given.ndim else [int(given)] * len(rows)
    if len(lengths) != len(rows):
        raise ValueError(
            f"There are {len(lengths)} lengths for {len(rows)} series; give one for each, or one for all."
        )
    for index, (wanted, possible) in enumerate(zip(lengths, most, strict=True)):
        if not 0 <= wanted <= possible:
            raise ValueError(
                f"length={wanted} does not fit series {index}: its {possible // patch_length} tokens are {possible} "
                "timestamps."
            )
    return lengths
