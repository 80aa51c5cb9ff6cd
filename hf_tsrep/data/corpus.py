"""What a corpus is: records as readers return them, the columns of datasets, and what is known beside them.

Readers return a `RawCorpus`; `hub_layout.build_corpus` makes a DatasetDict of it; `get_series` and its siblings read
its columns straight from the Arrow buffers; `CorpusMetadata` travels in its description.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import near_matches

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)


class CorpusError(ValueError):
    """Something is wrong with a corpus: the message names the place (file, row, column), the value and the fix."""


SPLIT_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class SeriesRecord:
    """One series.

    Attributes:
        values: (time, channel) floating point, NaN = missing.
        item_id: Its name inside the corpus.
        label: Class name, or None.
        target_value: The value of a regression problem, or None.
        anomaly_label: (time,) 0 or 1, or None where nobody labelled the steps.
        timestamps: (time,) `datetime64[ms]`, or None.
        freq: pandas frequency string such as `h` or `15min`; empty where unknown.
        origin: Where it was read, for error messages (`file GunPoint_TRAIN.ts, line 12`).
    """

    values: np.ndarray
    item_id: str
    label: str | None = None
    target_value: float | None = None
    anomaly_label: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    freq: str = ""
    origin: str = ""

    def stretch(self, start: int, stop: int) -> SeriesRecord:
        """Return the steps `start` to `stop` (exclusive) as a record of the same item."""
        return replace(
            self,
            values=self.values[start:stop],
            anomaly_label=None if self.anomaly_label is None else self.anomaly_label[start:stop],
            timestamps=None if self.timestamps is None else self.timestamps[start:stop],
        )


@dataclass(frozen=True)
class RawCorpus:
    """The records of a corpus, split by split, with what its file says about them.

    Attributes:
        splits: Split name -> records, in the order of `SPLIT_ORDER`.
        channel_names: One name a channel.
        label_names: Class names in the order of their ids, or None.
        task: `classification`, `regression`, `forecasting`, `anomaly` or `unlabelled`.
    """

    splits: dict[str, list[SeriesRecord]]
    channel_names: tuple[str, ...]
    label_names: tuple[str, ...] | None = None
    task: str = "unlabelled"
    domain: str = field(default="")


def ordered_splits(names: list[str]) -> list[str]:
    """Return split names as train, validation, test and then the others by name."""
    return [name for name in SPLIT_ORDER if name in names] + sorted(set(names) - set(SPLIT_ORDER))


def label_order(name: str) -> tuple[bool, int, str]:
    """Sort class names: integers by value, then the others by name."""
    is_integer = name.removeprefix("-").isdigit()
    return (not is_integer, int(name) if is_integer else 0, name)


def default_channel_names(num_channels: int) -> tuple[str, ...]:
    """Return `value` for one channel, else `channel_0`, `channel_1`, ..."""
    return ("value",) if num_channels == 1 else tuple(f"channel_{index}" for index in range(num_channels))


class SeriesList(list):
    """Series that are known to be (time, channel), so that `encode` need not be told."""

    series_layout = "ntc"

    def __getitem__(self, index: Any) -> Any:
        """Return a series, or for a slice some of them."""
        chosen = super().__getitem__(index)
        return type(self)(chosen) if isinstance(index, slice) else chosen


def get_series(dataset: Dataset | IterableDataset, column: str = "series") -> list[np.ndarray]:
    """Return every series of a split.

    Args:
        dataset: One split. A streamed one is read to its end.
        column: An Array2D column, or nested lists of numbers.

    Returns:
        One array (time, channel) float32 a row, in a list that `encode` knows as prepared where the corpus is scaled
        or has time features. The arrays are read-only views of Arrow memory where the stored type allows it.

    Raises:
        CorpusError: A dictionary of splits, an unknown column, or one that holds no (time, channel) arrays.
    """
    _check_split(dataset, column)
    series = SeriesList(_read_column(dataset, column))
    if not (column == "series" and corpus_metadata(dataset).is_prepared):
        return series
    from ..modeling.reading_time_series import PreparedSeries  # torch is heavy, and this module is read at start-up

    return PreparedSeries(series)


def _read_column(dataset: Dataset | IterableDataset, column: str) -> list[np.ndarray]:
    if not hasattr(dataset, "select"):
        return [_two_axes(np.asarray(row[column], dtype=np.float32)) for row in dataset]
    return series_of_arrow(_arrow_column(dataset, column), column)


def series_of_arrow(values_column: Any, column: str = "series") -> list[np.ndarray]:
    """Return the series of an Arrow column, (time, channel) float32 each, as views where the stored type allows it.

    Args:
        values_column: A chunked array of lists of steps.
        column: Its name, for messages.

    Raises:
        CorpusError: It holds no (time, channel) arrays.
    """
    series: list[np.ndarray] = []
    for chunk in values_column.chunks:
        storage = getattr(chunk, "storage", chunk)
        if len(storage) == 0:
            continue
        lengths = _list_lengths(storage, column)
        inner = storage.flatten()
        num_channels = 1
        if hasattr(inner.type, "value_type"):
            widths = np.unique(_list_lengths(inner, column))
            if len(widths) > 1:
                raise CorpusError(
                    f"Column {column!r}: steps have {widths.tolist()} channels; every step needs the same."
                )
            num_channels = int(widths[0]) if len(widths) else 1
            inner = inner.flatten()
        with np.errstate(over="ignore"):  # infinite values are refused by who checks the corpus
            values = inner.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, num_channels)
        series.extend(np.split(values, np.cumsum(lengths)[:-1]))
    return series


def get_labels(dataset: Dataset | IterableDataset, column: str = "label") -> np.ndarray:
    """Return the class ids of a split, (num_series,) int64.

    Raises:
        CorpusError: No such column, or a missing label.
    """
    _check_split(dataset, column)
    if not hasattr(dataset, "select"):
        labels = [row[column] for row in dataset]
    else:
        labels = _arrow_column(dataset, column).to_pylist()
    if None in labels:
        raise CorpusError(f"Row {labels.index(None)}, column {column!r}: the label is missing.")
    if labels and isinstance(labels[0], str):
        raise CorpusError(
            f"Column {column!r} holds class names; number them with dataset.class_encode_column({column!r})."
        )
    return np.asarray(labels, dtype=np.int64)


def get_target_values(dataset: Dataset | IterableDataset) -> np.ndarray:
    """Return the target values of a split, (num_series,) float32; labels that are numbers will do.

    Raises:
        CorpusError: No such column, or a value is missing or no number.
    """
    columns = list(dataset.column_names or ())
    if "target_value" in columns:
        values, column = list(dataset["target_value"]), "target_value"
    elif "label" in columns:
        values, column = _label_texts(dataset), "label"
    else:
        raise CorpusError(
            "The corpus has no target values, which a regression needs: name the column of numbers with label_column, "
            f"one number an item. Columns: {columns}."
        )
    numbers = np.empty(len(values), dtype=np.float32)
    for row, value in enumerate(values):
        try:
            numbers[row] = np.nan if value is None else float(value)
        except ValueError:
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            raise CorpusError(f"Row {row}, column {column!r}: {value!r} is no number, which a regression needs.")
    return numbers


def _label_texts(dataset: Any) -> list[Any]:
    names = getattr(dataset.features["label"], "names", None)
    return [one if names is None or one is None else names[one] for one in dataset["label"]]


def get_timestamps(dataset: Dataset | IterableDataset, column: str = "timestamp") -> list[np.ndarray]:
    """Return the timestamps of every series, (time,) `datetime64[ms]`; empty where they are unknown."""
    return _lists(dataset, column, "datetime64[ms]")


def get_anomaly_labels(dataset: Dataset | IterableDataset, column: str = "anomaly_label") -> list[np.ndarray]:
    """Return 0 or 1 for every step of every series, (time,) int8; empty where nobody labelled them."""
    return _lists(dataset, column, "int8")


def _lists(dataset: Any, column: str, dtype: str) -> list[np.ndarray]:
    _check_split(dataset, column)
    if not hasattr(dataset, "select"):
        return [np.asarray(row[column] or [], dtype=dtype) for row in dataset]
    lists: list[np.ndarray] = []
    for chunk in _arrow_column(dataset, column).chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        if len(chunk):
            lists.extend(np.split(values, np.cumsum(_list_lengths(chunk, column))[:-1]))
    return lists


def _arrow_column(dataset: Any, column: str) -> Any:
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


def _list_lengths(array: Any, column: str) -> np.ndarray:
    if not hasattr(array.type, "value_type"):
        raise CorpusError(f"Column {column!r} holds {array.type} and no series; a row needs (time, channel) numbers.")
    lengths = array.value_lengths()
    if lengths.null_count:
        raise CorpusError(f"Column {column!r}: row {lengths.is_null().to_pylist().index(True)} is empty (null).")
    return lengths.to_numpy()


def _two_axes(values: np.ndarray) -> np.ndarray:
    return values[:, None] if values.ndim == 1 else values


def _check_split(dataset: Any, column: str) -> None:
    if isinstance(dataset, Mapping):
        raise CorpusError(f"Choose one split first: {', '.join(repr(name) for name in dataset)}.")
    columns = dataset.column_names
    if columns is not None and column not in columns:
        raise CorpusError(
            f"The dataset has no column {column!r}.{near_matches(column, columns, cutoff=0.5)} Columns: {columns}."
        )


METADATA_KEY = "hf_tsrep_corpus"
TASKS = ("classification", "regression", "forecasting", "anomaly", "unlabelled")


@dataclass(frozen=True)
class CorpusMetadata:
    """Facts about a corpus that its rows do not hold.

    Attributes:
        name: The name it was loaded by.
        task: `classification`, `regression`, `forecasting`, `anomaly` or `unlabelled`.
        channel_names: Every input channel, the time features in front.
        num_time_features: How many of the first channels are time features (they are inputs, never targets).
        freq: pandas frequency string, empty where unknown.
        scaler: `ChannelScaler.to_dict()` of the data channels (without time features), or None for raw values.
        time_feature_scaler: The same for the time features.
        target: The column of the standard univariate protocol, where there is one.
        licence: Hub licence id, or `unknown`.
        source: Where the data come from.
        url: Page of the source.
        citation: How to cite it.
        notes: What was done to the values (marks of missing values, kept duplicates).
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

    @property
    def is_prepared(self) -> bool:
        """Whether the series are scaled or have time features, as model inputs have."""
        return self.scaler is not None or self.num_time_features > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; fields that say nothing are left out."""
        plain = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in plain.items() if value not in (None, "", [], ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CorpusMetadata:
        """Return the metadata of `to_dict`; keys of a later version are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


def attach_metadata(corpus: Any, metadata: CorpusMetadata) -> Any:
    """Write the metadata into the description of every split (it survives `save_to_disk`, `map` and `select`).

    Args:
        corpus: Dataset, IterableDataset or a dictionary of them. Its descriptions are replaced.
        metadata: What to write.

    Returns:
        `corpus` itself.
    """
    description = json.dumps({METADATA_KEY: metadata.to_dict()}, ensure_ascii=False)
    for split in corpus.values() if isinstance(corpus, Mapping) else (corpus,):
        split.info.description = description
    return corpus


def corpus_metadata(corpus: Any) -> CorpusMetadata:
    """Return what is known about a corpus; for a foreign dataset, what its columns tell.

    Args:
        corpus: What `load_corpus` returned, or one split of it.

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

    features = split.features or {}
    task = "classification" if "label" in features else "anomaly" if "anomaly_label" in features else "unlabelled"
    series = features.get("series")
    channel_names = default_channel_names(series.shape[1]) if isinstance(series, Array2D) else ()
    return CorpusMetadata(name=split.info.dataset_name or "corpus", task=task, channel_names=channel_names)


def corpus_fingerprint(corpus: Any) -> str:
    """Return a sha256 over the values, labels and anomaly labels of every split, in order.

    Equal values give equal fingerprints on every machine: numbers are hashed as little-endian float32 with one
    representation of NaN, together with each series' shape. Item ids, timestamps and metadata are not part of it.

    Args:
        corpus: DatasetDict or Dataset with the columns of `load_corpus`.

    Returns:
        64 hexadecimal digits.
    """
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
