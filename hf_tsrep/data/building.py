"""From plain records to `datasets`, through Arrow buffers (never row by row)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .records import RawCorpus, SeriesRecord

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

# Arrow's list offsets are 32-bit numbers: no chunk may hold more values than that.
MAX_VALUES_PER_CHUNK = 2**30


def build_corpus(corpus: RawCorpus) -> DatasetDict:
    """Returns the `DatasetDict` of a corpus: one row a series, float32, NaN = missing.

    Args:
        corpus: checked records.

    Returns:
        Splits with the columns `series`, `item_id`, `label` / `target_value` / `anomaly_label` where known,
        `timestamp` (an empty list where unknown), `freq` and `domain`.
    """
    from datasets import DatasetDict

    features = _features(corpus)
    return DatasetDict({name: _build_split(records, corpus, features) for name, records in corpus.splits.items()})


def _features(corpus: RawCorpus) -> Features:
    from datasets import Array2D, ClassLabel, Features, List, Value

    records = [record for split in corpus.splits.values() for record in split]
    columns: dict[str, Any] = {
        "series": Array2D((None, len(corpus.channel_names)), "float32"),
        "item_id": Value("string"),
    }
    if corpus.label_names is not None:
        columns["label"] = ClassLabel(names=list(corpus.label_names))
    if any(record.target_value is not None for record in records):
        columns["target_value"] = Value("float32")
    if any(record.anomaly_label is not None for record in records):
        columns["anomaly_label"] = List(Value("int8"))
    columns |= {"timestamp": List(Value("timestamp[ms]")), "freq": Value("string"), "domain": Value("string")}
    return Features(columns)


def _build_split(records: Sequence[SeriesRecord], corpus: RawCorpus, features: Features) -> Dataset:
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo

    digest = hashlib.sha256(repr(features).encode())
    schema = features.arrow_schema
    tables = []
    for chunk in _chunks(records, len(corpus.channel_names)):
        columns: dict[str, Any] = {
            "series": _series_array(chunk, len(corpus.channel_names), schema.field("series").type, digest),
            "item_id": [record.item_id for record in chunk],
            "timestamp": _list_array([record.timestamps for record in chunk], "datetime64[ms]"),
            "freq": [record.freq for record in chunk],
            "domain": [corpus.domain] * len(chunk),
        }
        if "label" in features:
            ids = {name: index for index, name in enumerate(corpus.label_names or ())}
            columns["label"] = [None if record.label is None else ids[record.label] for record in chunk]
        if "target_value" in features:
            columns["target_value"] = [record.target_value for record in chunk]
        if "anomaly_label" in features:
            columns["anomaly_label"] = _list_array([record.anomaly_label for record in chunk], "int8")
        tables.append(pa.table({name: columns[name] for name in schema.names}, schema=schema))
        digest.update(repr([columns["item_id"], columns["freq"], columns.get("label")]).encode())
    return Dataset(pa.concat_tables(tables), info=DatasetInfo(features=features), fingerprint=digest.hexdigest()[:16])


def _chunks(records: Sequence[SeriesRecord], num_channels: int) -> list[list[SeriesRecord]]:
    chunks: list[list[SeriesRecord]] = [[]]
    num_values = 0
    for record in records:
        num_values += len(record.values) * num_channels
        if num_values > MAX_VALUES_PER_CHUNK and chunks[-1]:
            chunks.append([])
            num_values = len(record.values) * num_channels
        chunks[-1].append(record)
    return chunks


def _series_array(records: Sequence[SeriesRecord], num_channels: int, extension_type: Any, digest: Any) -> Any:
    import pyarrow as pa

    values = np.concatenate([record.values.astype(np.float32, copy=False) for record in records])
    digest.update(np.ascontiguousarray(values))
    steps = np.arange(0, values.size + 1, num_channels, dtype=np.int32)
    inner = pa.ListArray.from_arrays(pa.array(steps), pa.array(values.reshape(-1)))
    offsets = _offsets([len(record.values) for record in records])
    return pa.ExtensionArray.from_storage(extension_type, pa.ListArray.from_arrays(offsets, inner))


def _list_array(columns: Sequence[np.ndarray | None], dtype: str) -> Any:
    """Returns one list a record, empty where nothing is known."""
    import pyarrow as pa

    arrays = [np.empty(0, dtype=dtype) if column is None else column.astype(dtype, copy=False) for column in columns]
    return pa.ListArray.from_arrays(_offsets([len(array) for array in arrays]), pa.array(np.concatenate(arrays)))


def _offsets(lengths: Sequence[int]) -> Any:
    import pyarrow as pa

    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
