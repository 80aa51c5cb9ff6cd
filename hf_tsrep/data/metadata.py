"""What is known about a corpus beside its values, and how it travels with the datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .errors import CorpusError
from .records import ordered_splits

METADATA_KEY = "hf_tsrep_corpus"
TASKS = ("classification", "regression", "forecasting", "anomaly", "unlabelled")


@dataclass(frozen=True)
class CorpusMetadata:
    """Facts about a corpus that its rows do not hold.

    Attributes:
        name: the name it was loaded by.
        task: `classification`, `regression`, `forecasting`, `anomaly` or `unlabelled`.
        channel_names: every input channel, the time features in front.
        num_time_features: how many of the first channels are time features (they are inputs, never targets).
        freq: pandas frequency string, empty where unknown.
        scaler: `ChannelScaler.to_dict()` of the data channels (without time features), or None for raw values.
        time_feature_scaler: the same for the time features.
        target: the column of the standard univariate protocol, where there is one.
        licence: Hub licence id, or `unknown`.
        source: where the data come from.
        url: page of the source.
        citation: how to cite it.
        notes: what was done to the values (marks of missing values, kept duplicates).
    """

    name: str
    task: str = "unlabelled"
    channel_names: tuple[str, ...] = ()
    num_time_features: int = 0
    freq: str = ""
    scaler: dict[str, Any] | None = None
    time_feature_scaler: dict[str, Any] | None = None
    target: str | None = None
    licence: str = "unknown"
    source: str = ""
    url: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise CorpusError(f"Unknown task {self.task!r}: one of {', '.join(TASKS)}.")
        object.__setattr__(self, "channel_names", tuple(self.channel_names))
        object.__setattr__(self, "notes", tuple(self.notes))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types; fields that say nothing are left out."""
        plain = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in plain.items() if value not in (None, "", [], ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CorpusMetadata:
        """Returns the metadata of `to_dict`; keys of a later version are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


def attach_metadata(corpus: Any, metadata: CorpusMetadata) -> Any:
    """Writes the metadata into the description of every split (it survives `save_to_disk`, `map` and `select`).

    Args:
        corpus: Dataset, IterableDataset or a dictionary of them. Its descriptions are replaced.
        metadata: what to write.

    Returns:
        `corpus` itself.
    """
    description = json.dumps({METADATA_KEY: metadata.to_dict()}, ensure_ascii=False)
    for split in corpus.values() if isinstance(corpus, Mapping) else (corpus,):
        split.info.description = description
    return corpus


def corpus_metadata(corpus: Any) -> CorpusMetadata:
    """Returns what is known about a corpus; for a foreign dataset, what its columns tell.

    Args:
        corpus: what `load_corpus` returned, or one split of it.

    Returns:
        CorpusMetadata.
    """
    split = next(iter(corpus.values())) if isinstance(corpus, Mapping) else corpus
    try:
        stored = json.loads(split.info.description or "")
    except json.JSONDecodeError:
        stored = None
    if isinstance(stored, dict) and METADATA_KEY in stored:
        return CorpusMetadata.from_dict(stored[METADATA_KEY])
    return _metadata_from_features(split)


def _metadata_from_features(split: Any) -> CorpusMetadata:
    from datasets import Array2D

    from .records import default_channel_names

    features = split.features or {}
    task = "classification" if "label" in features else "anomaly" if "anomaly_label" in features else "unlabelled"
    series = features.get("series")
    channel_names = default_channel_names(series.shape[1]) if isinstance(series, Array2D) else ()
    return CorpusMetadata(name=split.info.dataset_name or "corpus", task=task, channel_names=channel_names)


def corpus_fingerprint(corpus: Any) -> str:
    """Returns a sha256 over the values, labels and anomaly labels of every split, in order.

    Equal values give equal fingerprints on every machine: numbers are hashed as little-endian float32 with one
    representation of NaN, together with each series' shape. Item ids, timestamps and metadata are not part of it.

    Args:
        corpus: DatasetDict or Dataset with the columns of `load_corpus`.

    Returns:
        64 hexadecimal digits.
    """
    from .access import get_anomaly_labels, get_series

    splits = corpus if isinstance(corpus, Mapping) else {str(corpus.split or "train"): corpus}
    digest = hashlib.sha256()
    for name in ordered_splits(list(splits)):
        split = splits[name]
        digest.update(f"split {name}\n".encode())
        for series in get_series(split):
            digest.update(f"series {series.shape[0]} {series.shape[1]}\n".encode())
            digest.update(np.where(np.isnan(series), np.float32(np.nan), series).astype("<f4").tobytes())
        for column in ("label", "target_value"):
            if column in split.column_names:
                digest.update(f"{column} {json.dumps(list(split[column]))}\n".encode())
        if "anomaly_label" in split.column_names:
            for steps in get_anomaly_labels(split):
                digest.update(f"anomaly_label {len(steps)}\n".encode() + steps.astype("i1").tobytes())
    return digest.hexdigest()
