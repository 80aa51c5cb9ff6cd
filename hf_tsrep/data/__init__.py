"""Corpora: readers, known names, splits, scalers, windows and collators."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collator import TimeSeriesCollator
    from .corpus import (
        CorpusError,
        CorpusMetadata,
        SeriesList,
        corpus_fingerprint,
        corpus_metadata,
        get_anomaly_labels,
        get_labels,
        get_series,
        get_target_values,
        get_timestamps,
    )
    from .known_corpora import list_known_corpora
    from .loading import load_corpus
    from .publishing import prepare_corpus
    from .scaling import ChannelScaler
    from .splits import split_boundaries
    from .timestamps import time_features
    from .windows import SeriesBank, WindowDataset, sliding_window_index

_MODULE_OF_NAME = {
    "ChannelScaler": "scaling",
    "CorpusError": "corpus",
    "CorpusMetadata": "corpus",
    "SeriesBank": "windows",
    "SeriesList": "corpus",
    "TimeSeriesCollator": "collator",
    "WindowDataset": "windows",
    "corpus_fingerprint": "corpus",
    "corpus_metadata": "corpus",
    "get_anomaly_labels": "corpus",
    "get_labels": "corpus",
    "get_series": "corpus",
    "get_target_values": "corpus",
    "get_timestamps": "corpus",
    "list_known_corpora": "known_corpora",
    "load_corpus": "loading",
    "prepare_corpus": "publishing",
    "sliding_window_index": "windows",
    "split_boundaries": "splits",
    "time_features": "timestamps",
}

__all__ = [
    "ChannelScaler",
    "CorpusError",
    "CorpusMetadata",
    "SeriesBank",
    "SeriesList",
    "TimeSeriesCollator",
    "WindowDataset",
    "corpus_fingerprint",
    "corpus_metadata",
    "get_anomaly_labels",
    "get_labels",
    "get_series",
    "get_target_values",
    "get_timestamps",
    "list_known_corpora",
    "load_corpus",
    "prepare_corpus",
    "sliding_window_index",
    "split_boundaries",
    "time_features",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import hf_tsrep.data` is light."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
