"""What is train, validation and test: stretches of the same series, or whole series where they have classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


def split_corpus(corpus: RawCorpus, split: str) -> RawCorpus:
    """Cut a corpus with one split into parts.

    Series with a class or a target value are dealt whole, class by class (see `deal_by_class`): with stretches of one
    series in two parts a model could recognise the series instead of its class. All others are cut along time.

    Args:
        corpus: A corpus whose only split is `train`.
        split: See `split_boundaries`; `none` leaves it whole.

    Raises:
        CorpusError: The corpus comes with its own splits, or has too few series.
    """
    is_dealt = corpus.task in ("classification", "regression") and split != "none"
    if not is_dealt or list(corpus.splits) != ["train"]:
        return split_by_time(corpus, split)
    parts, months = parse_split(split)
    records = corpus.splits["train"]
    if months:
        raise CorpusError(f"split={split!r}: series with a class are dealt whole; write shares, such as '70/10/20'.")
    names = ("train", "test") if len(parts) == 2 else ("train", "validation", "test")
    dealt = deal_by_class([record.label or "" for record in records], parts)
    splits = {name: [records[place] for place in np.flatnonzero(dealt == part)] for part, name in enumerate(names)}
    for name, chosen in splits.items():
        if not chosen:
            raise CorpusError(
                f"split={split!r} leaves {name} empty: there are {len(records)} series, which are dealt whole. Give "
                "more series, or one per item (item_column) where rows of several were read as one."
            )
    return replace(corpus, splits=splits)


def deal_by_class(labels: Sequence[str], parts: Sequence[int], seed: int = 0) -> np.ndarray:
    """Deal items to parts so that every class has its share of every part, as near as whole items allow.

    The items of a class are shuffled; the first goes to the first part, each further one to the part that lacks most.

    Args:
        labels: (num_items,) class of every item.
        parts: Shares in per cent.
        seed: Of the shuffling.

    Returns:
        (num_items,) int64, the part of every item.
    """
    generator = np.random.default_rng(seed)
    shares, counts = np.asarray(parts) / 100, np.zeros(len(parts))
    dealt, classes = np.zeros(len(labels), dtype=np.int64), np.asarray(labels)
    for label in dict.fromkeys(labels):
        for turn, place in enumerate(generator.permutation(np.flatnonzero(classes == label))):
            part = 0 if turn == 0 else int(np.argmax(shares * (counts.sum() + 1) - counts))
            dealt[place] = part
            counts[part] += 1
    return dealt


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
