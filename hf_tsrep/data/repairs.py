"""Known damage of copies in circulation, found by what the values say and not by the file's name."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from .records import RawCorpus, SeriesRecord

logger = logging.getLogger(__name__)

TANGLED_NOTE = "The file has channels and steps tangled; they are read in their right order."

# Values in their right order change this much less from step to step than tangled ones, at least.
_SMOOTHER = 3.0


def untangle_channels(corpus: RawCorpus, name: str) -> tuple[RawCorpus, bool]:
    """Puts channels and steps back in order where a copy has tangled them.

    Such a copy was transposed twice with a change of shape in between, so that every row mixes steps and channels.
    The damage is taken for certain where the series are at least three times smoother when they are put in order.

    Args:
        corpus: series of one length a split.
        name: what the warning calls the corpus.

    Returns:
        The corpus, and whether it had to be repaired.
    """
    given = {split: np.stack([record.values for record in records]) for split, records in corpus.splits.items()}
    ordered = {split: _ordered(values) for split, values in given.items()}
    if _roughness(given) < _SMOOTHER * _roughness(ordered):
        return corpus, False
    logger.warning("%s: the file has channels and steps tangled; they are put back in order.", name)
    splits: dict[str, list[SeriesRecord]] = {
        split: [replace(record, values=one) for record, one in zip(records, ordered[split], strict=True)]
        for split, records in corpus.splits.items()
    }
    return replace(corpus, splits=splits), True


def _ordered(values: np.ndarray) -> np.ndarray:
    num_series, length, num_channels = values.shape
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(num_series, length, num_channels)


def _roughness(parts: dict[str, np.ndarray]) -> float:
    """Returns the mean absolute difference of neighbouring steps."""
    return float(np.mean([np.nanmean(np.abs(np.diff(values, axis=1))) for values in parts.values()]))
