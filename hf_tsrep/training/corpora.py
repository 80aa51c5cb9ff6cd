"""The series that a pre-training reads: one corpus or several, loaded alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from .settings import PretrainSettings


@dataclass
class TrainingSeries:
    """Series of the training parts.

    Args:
        series: Arrays (time, num_input_channels) float32.
        names: One name a series.
        metadata: `hf_tsrep.data.CorpusMetadata` of every corpus.
        corpora: The corpora, every split.
    """

    series: list[np.ndarray]
    names: list[str]
    metadata: list[Any]
    corpora: list[Any]

    @property
    def num_input_channels(self) -> int:
        """Number of channels, time features included."""
        return self.series[0].shape[1]

    @property
    def num_elements(self) -> int:
        """Numbers in the training array: every series padded to the longest, time features included."""
        return len(self.series) * max(map(len, self.series)) * self.num_input_channels

    def item_names(self, num_items: int, max_train_length: int | None) -> list[str]:
        """Return a name for every training item; a long series is cut into several.

        Args:
            num_items: Number of training items.
            max_train_length: See DataSettings.

        Returns:
            Series names with the piece's number; only "piece N" where pieces without a value have been left out.
        """
        pieces = max(map(len, self.series)) // max_train_length if max_train_length else 1
        pieces = max(1, pieces)
        if num_items != pieces * len(self.series):
            return [f"piece {index}" for index in range(num_items)]
        if pieces == 1:
            return list(self.names)
        return [f"{name}, piece {piece + 1} of {pieces}" for piece in range(pieces) for name in self.names]


def load_training_series(settings: PretrainSettings) -> TrainingSeries:
    """Load the training part of every corpus of the settings.

    Args:
        settings: Names the corpora and how they are prepared.

    Returns:
        The series of all corpora.

    Raises:
        ValueError: A corpus has no training part, or the corpora differ in their channels.
    """
    from ..data import corpus_metadata, get_series, load_corpus

    options = dataclasses.asdict(settings.data)
    for name in ("max_train_length", "window_stride"):
        options.pop(name)
    loaded = TrainingSeries([], [], [], [])
    for corpus, name in zip(settings.corpus, settings.corpus_names, strict=True):
        splits = load_corpus(corpus, **options)
        if "train" not in splits:
            found = ", ".join(splits)
            raise ValueError(f"Corpus {name} has no 'train' split, which pre-training reads, only {found}.")
        train: Any = splits["train"]
        series = get_series(train)
        if not series:
            raise ValueError(f"Corpus {name} has no training series.")
        if loaded.series and series[0].shape[1] != loaded.num_input_channels:
            raise ValueError(
                f"Corpus {name} has {series[0].shape[1]} channels, but {settings.corpus_names[0]} has "
                f"{loaded.num_input_channels}. Train on them one by one, or choose equal channels with target."
            )
        several = len(settings.corpus) > 1
        loaded.names += [f"{name}: {item}" if several else str(item) for item in train["item_id"]]
        loaded.series += series
        loaded.metadata.append(corpus_metadata(splits))
        loaded.corpora.append(splits)
    return loaded
