"""Where train, validation and test lie on the time axis: always contiguous stretches of the same series."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from .corpus import CorpusError, RawCorpus, SeriesRecord
from .timestamps import steps_per_day

DAYS_PER_MONTH = 30
# The 70/10/20 of the forecasting literature (Autoformer and its successors) takes floor(0.7 n) and floor(0.2 n) from
# the two ends and leaves the rest to validation; every other proportion (TS2Vec's 60/20/20) is cut at floor(share n).
PROPORTIONS_FROM_BOTH_ENDS = frozenset({(70, 10, 20)})


def split_boundaries(num_steps: int, split: str, timestamps: np.ndarray | None = None) -> dict[str, tuple[int, int]]:
    """Return the stretch of every split.

    Args:
        num_steps: Length of the series.
        split: Shares in per cent such as `70/10/20` (train/validation/test) or `50/50` (train/test), or months of 30
            days such as `12/4/4 months` (what lies after them is not used).
        timestamps: (num_steps,) `datetime64[ms]`, needed for months.

    Returns:
        Split name -> (start, stop), contiguous and in time order.

    Raises:
        CorpusError: `split` cannot be read, does not add up to 100, or leaves a part empty.
    """
    parts, months = parse_split(split)
    names = ("train", "test") if len(parts) == 2 else ("train", "validation", "test")
    if months:
        if timestamps is None or len(timestamps) < 2:
            raise CorpusError(f"split={split!r} counts months, but the series has no timestamps.")
        month = round(DAYS_PER_MONTH * steps_per_day(timestamps))
        borders = [int(border) * month for border in np.cumsum(parts)]
        if borders[-1] > num_steps:
            raise CorpusError(f"split={split!r} needs {borders[-1]} steps, but the series has {num_steps}.")
    elif parts in PROPORTIONS_FROM_BOTH_ENDS:
        borders = [num_steps * parts[0] // 100, num_steps - num_steps * parts[-1] // 100, num_steps]
    else:
        borders = [num_steps * int(share) // 100 for share in np.cumsum(parts)]
    starts = [0, *borders[:-1]]
    if any(stop <= start for start, stop in zip(starts, borders, strict=True)):
        raise CorpusError(f"split={split!r} leaves a part of a series of {num_steps} steps empty.")
    return {name: (start, stop) for name, start, stop in zip(names, starts, borders, strict=True)}


def parse_split(split: str) -> tuple[tuple[int, ...], bool]:
    """Return the parts of `70/10/20` or `12/4/4 months`, and whether they are months.

    Raises:
        CorpusError: Another form, or shares that do not add up to 100.
    """
    match = re.fullmatch(r"\s*(\d+(?:/\d+){1,2})\s*(months)?\s*", split)
    if match is None:
        raise CorpusError(
            f"split={split!r} cannot be read: write shares such as '70/10/20' or '50/50', months such as "
            "'12/4/4 months', or 'none' for one split."
        )
    parts = tuple(int(part) for part in match.group(1).split("/"))
    months = match.group(2) is not None
    if not months and sum(parts) != 100:
        raise CorpusError(f"split={split!r}: the shares add up to {sum(parts)}, not 100.")
    return parts, months


def split_by_time(corpus: RawCorpus, split: str) -> RawCorpus:
    """Cut every series of a corpus with one split into contiguous stretches.

    Args:
        corpus: A corpus whose only split is `train`.
        split: See `split_boundaries`; `none` leaves it whole.

    Raises:
        CorpusError: The corpus comes with its own splits.
    """
    if split == "none":
        return corpus
    if list(corpus.splits) != ["train"]:
        raise CorpusError(
            f"split={split!r} cannot be applied: the corpus comes with its own splits {list(corpus.splits)}. "
            "Leave split out to use them."
        )
    splits: dict[str, list[SeriesRecord]] = {}
    for record in corpus.splits["train"]:
        for name, (start, stop) in split_boundaries(len(record.values), split, record.timestamps).items():
            splits.setdefault(name, []).append(record.stretch(start, stop))
    return replace(corpus, splits=splits)
