"""The series of a domain in training, and how they are cut and held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Where the series come from that a domain is measured on; the last were trained on.
VALIDATION_PART = "validation part"
HELD_OUT = "training series kept back"
TRAINING_SERIES = "training series"


@dataclass
class DomainSeries:
    """The series of one domain.

    Args:
        name: Name of the domain.
        names: Other names that it goes by, the domain's own first; see domain_names.
        series: Training series, arrays (time, num_input_channels) float32, each beginning at its first observed step.
        items: One name a training series.
        validation: Series to measure on, alike.
        metadata: `hf_tsrep.data.CorpusMetadata`.
        corpus: The corpus, every split.
        measured_on: What `validation` is: one of VALIDATION_PART, HELD_OUT and TRAINING_SERIES.
    """

    name: str
    names: list[str]
    series: list[np.ndarray]
    items: list[str]
    validation: list[np.ndarray]
    metadata: Any
    corpus: Any
    measured_on: str

    @property
    def num_input_channels(self) -> int:
        """Number of channels."""
        return self.series[0].shape[1]

    @property
    def num_elements(self) -> int:
        """Numbers in the training series."""
        return sum(one.size for one in self.series)


def observed_span(series: np.ndarray) -> np.ndarray:
    """Return a series (time, num_channels) from its first to its last step with an observed value; a view."""
    steps = np.flatnonzero(~np.isnan(series).all(axis=1))
    return series[steps[0] : steps[-1] + 1] if len(steps) else series[:0]


def cut_evenly(series: np.ndarray, longest: int | None) -> list[np.ndarray]:
    """Cut a series into the fewest pieces of at most `longest` steps, equal up to one step; views."""
    if longest is None or len(series) <= longest:
        return [series]
    return np.array_split(series, -(-len(series) // longest))


def hold_out(num_series: int, fraction: float, seed: int) -> np.ndarray:
    """Return which series are kept for validation: (num_series,) bool, drawn by the seed; never all of them."""
    held = np.zeros(num_series, dtype=bool)
    count = min(round(num_series * fraction), num_series - 1)
    held[np.random.default_rng(seed).permutation(num_series)[:count]] = True
    return held
