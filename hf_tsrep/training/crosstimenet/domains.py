"""The domains of a pre-training: the series of each, read from its corpus."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data import corpus_metadata, get_series, load_corpus
from ...data.domains import domain_names
from ...errors import SettingsError
from ..data import NOT_READING
from ..settings import PretrainSettings

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


def load_domains(settings: PretrainSettings, validation_fraction: float, seed: int) -> list[DomainSeries]:
    """Load the training and validation parts of every corpus of the settings, one domain each.

    Args:
        settings: Names the corpora and how they are prepared. Longer series than max_train_length are cut.
        validation_fraction: Share of the training series that is kept for validation where a corpus has no such part.
        seed: Chooses them.

    Returns:
        The domains, in the order of the corpora. Where there is nothing else to measure a domain on, `validation` is
        its training series, and `measured_on` says so.

    Raises:
        SettingsError: Two corpora are one domain, or a setting changes the scale.
        ValueError: A corpus has no training part, or no observed value in it.
    """
    domains: list[DomainSeries] = []
    for corpus, written in zip(settings.corpus, settings.corpus_names, strict=True):
        domain = _load_domain(corpus, written, settings, validation_fraction, seed)
        for other in domains:
            if other.name == domain.name:
                raise SettingsError(
                    f"Two corpora are the domain {domain.name!r}: {other.metadata.name} and {domain.metadata.name}. "
                    "Name each corpus once; of files with one name, rename one."
                )
        domains.append(domain)
    return domains


def _load_domain(
    corpus: Any, written: str, settings: PretrainSettings, validation_fraction: float, seed: int
) -> DomainSeries:
    options = {name: value for name, value in dataclasses.asdict(settings.data).items() if name not in NOT_READING}
    longest = settings.data.max_train_length
    splits = load_corpus(corpus, **options)
    if "train" not in splits:
        raise ValueError(f"Corpus {written} has no 'train' split, which pre-training reads, only {', '.join(splits)}.")
    train: Any = splits["train"]
    names = [str(item) for item in train["item_id"]]
    pieces, items = _pieces(get_series(train), names, longest)
    if not pieces:
        raise ValueError(f"Corpus {written} has no observed value in its training series.")
    if "validation" in splits:
        source = VALIDATION_PART
        held, _ = _pieces(get_series(splits["validation"]), None, longest)
    else:
        source = HELD_OUT
        kept_back = hold_out(len(pieces), validation_fraction, seed)
        held = [piece for piece, back in zip(pieces, kept_back, strict=True) if back]
        items = [item for item, back in zip(items, kept_back, strict=True) if not back]
        pieces = [piece for piece, back in zip(pieces, kept_back, strict=True) if not back]
    metadata = corpus_metadata(splits)
    known = domain_names(written if isinstance(corpus, str) else "", metadata.name)
    if not held:
        held, source = pieces, TRAINING_SERIES
    return DomainSeries(known[0], known, pieces, items, held, metadata, splits, source)


def _pieces(
    series: list[np.ndarray], names: list[str] | None, longest: int | None
) -> tuple[list[np.ndarray], list[str]]:
    """Cut series to their observed span and into pieces; what has no observed value is left out."""
    pieces: list[np.ndarray] = []
    items: list[str] = []
    for index, one in enumerate(series):
        parts = [observed_span(part) for part in cut_evenly(observed_span(one), longest)]
        parts = [part for part in parts if len(part)]
        pieces += parts
        name = str(index) if names is None else names[index]
        items += [name if len(parts) == 1 else f"{name}, piece {place + 1}" for place in range(len(parts))]
    return pieces, items
