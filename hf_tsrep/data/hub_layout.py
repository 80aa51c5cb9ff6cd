"""Between records and `datasets`: Hub datasets and folders in their layout are read, records become Arrow buffers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import one_line
from .corpus import (
    METADATA_KEY,
    CorpusError,
    CorpusMetadata,
    RawCorpus,
    SeriesRecord,
    corpus_metadata,
    default_channel_names,
    get_anomaly_labels,
    get_labels,
    get_series,
    get_timestamps,
    label_order,
    ordered_splits,
)
from .options import ReadingOptions
from .tables import corpus_from_frame, require_column
from .timestamps import infer_frequency

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

logger = logging.getLogger(__name__)


LIST_COLUMN_NAMES = ("target", "values", "past_values", "ts")


def load_hub_layout(
    name: str, *, streaming: bool = False, revision: str | None = None, token: str | bool | None = None
) -> tuple[Any, CorpusMetadata | None]:
    """Load a dataset by its Hub id (`owner/name` or `owner/name:config`) or from a local folder.

    Args:
        name: Id, or path of a folder in Hub layout or written by `save_to_disk`.
        streaming: True reads nothing before iteration.
        revision: Branch, tag or commit of a Hub id.
        token: Access token of a Hub id.

    Returns:
        The DatasetDict or IterableDatasetDict, and the metadata in its README.md where there are any.

    Raises:
        CorpusError: It cannot be loaded; the reason is chained.
    """
    from datasets import load_dataset

    folder = Path(name)
    local = folder.is_dir()
    if local and ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
        return _load_saved(folder, streaming), None
    if local and not any(folder.rglob("*.parquet")):
        raise CorpusError(
            f"{folder}: the folder holds no corpus. Expected Parquet files (Hub layout), a dataset saved with "
            "save_to_disk, or NAME_TRAIN.ts and NAME_TEST.ts."
        )
    path, _, config = (name, "", "") if local else name.partition(":")
    try:
        loaded = load_dataset(path, config or None, streaming=streaming, revision=revision, token=token)
    except Exception as error:
        raise CorpusError(
            f"{name}: cannot be loaded as a dataset: {type(error).__name__}: {one_line(error)}"
        ) from error
    return loaded, _readme_metadata(path, local, revision, token)


def load_parquet(path: Path, *, streaming: bool = False) -> Any:
    """Load one Parquet file as the split `train`.

    Raises:
        CorpusError: Not a Parquet file, or no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from datasets import load_dataset

    try:
        num_rows = parquet.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorpusError(f"{path}: cannot be read as a Parquet file ({one_line(error)}). Write it again.") from error
    if num_rows == 0:
        raise CorpusError(f"{path}: no rows.")
    try:
        return load_dataset("parquet", data_files={"train": str(path)}, streaming=streaming)
    except Exception as error:  # datasets and Arrow raise many kinds for a file that is damaged inside
        reason = one_line(error.__cause__ or error)
        raise CorpusError(f"{path}: cannot be read as a Parquet file ({reason}). Write it again.") from error


def _load_saved(folder: Path, streaming: bool) -> Any:
    from datasets import Dataset, DatasetDict, IterableDatasetDict, load_from_disk

    try:
        saved = load_from_disk(folder)
        splits = DatasetDict({"train": saved}) if isinstance(saved, Dataset) else saved
        for rows in splits.values():
            rows.data.validate(full=True)  # what Arrow reads later, it reads without a look at where offsets point
    except Exception as error:  # JSON, datasets and Arrow raise many kinds for a file that is damaged inside
        raise CorpusError(
            f"{folder}: cannot be read as a dataset of save_to_disk ({type(error).__name__}: {one_line(error)}). Save "
            "it again."
        ) from error
    if streaming:
        return IterableDatasetDict({split: rows.to_iterable_dataset() for split, rows in splits.items()})
    return splits


def _readme_metadata(path: str, local: bool, revision: str | None, token: str | bool | None) -> CorpusMetadata | None:
    from huggingface_hub import DatasetCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        readme = (
            Path(path) / "README.md"
            if local
            else Path(hf_hub_download(path, "README.md", repo_type="dataset", revision=revision, token=token))
        )
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    if not readme.is_file():
        return None
    stored = (
        DatasetCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict().get(METADATA_KEY)
    )
    return CorpusMetadata.from_dict(stored) if isinstance(stored, Mapping) else None


def has_series_column(corpus: Any) -> bool:
    """Return whether every split has the column `series` of the corpus format."""
    return all("series" in (split.features or {}) for split in corpus.values())


def records_of_datasets(corpus: Any, metadata: CorpusMetadata) -> RawCorpus:
    """Return the records of a DatasetDict in the corpus format.

    Args:
        corpus: Splits with the column `series`; all other columns are optional.
        metadata: Names the channels.
    """
    splits = {name: _records_of_split(corpus[name], name) for name in ordered_splits(list(corpus))}
    first = corpus[next(iter(splits))]
    class_names = _class_names(list(corpus.values()))
    num_channels = next((record.values.shape[1] for records in splits.values() for record in records), 1)
    names = metadata.channel_names
    return RawCorpus(
        splits,
        names if len(names) == num_channels else default_channel_names(num_channels),
        class_names,
        metadata.task,
        first[0].get("domain") or "" if len(first) else "",
    )


def _class_names(splits: Sequence[Any]) -> tuple[str, ...] | None:
    label = splits[0].features.get("label")
    if label is None:
        return None
    if hasattr(label, "names"):
        return tuple(label.names)
    return tuple(sorted({str(name) for split in splits for name in split["label"]}, key=label_order))


def _records_of_split(split: Any, name: str) -> list[SeriesRecord]:
    columns = split.column_names
    series = get_series(split)
    names = _class_names([split])
    labels: list[str | None] = [None] * len(series)
    if names is not None:
        integral = hasattr(split.features["label"], "names")
        labels = (
            [names[label] for label in get_labels(split)] if integral else [str(label) for label in split["label"]]
        )
    anomaly_labels = get_anomaly_labels(split) if "anomaly_label" in columns else [np.empty(0)] * len(series)
    timestamps = get_timestamps(split) if "timestamp" in columns else [np.empty(0)] * len(series)
    item_ids = split["item_id"] if "item_id" in columns else [f"{name}/{row}" for row in range(len(series))]
    freqs = split["freq"] if "freq" in columns else [""] * len(series)
    targets = split["target_value"] if "target_value" in columns else [None] * len(series)
    return [
        SeriesRecord(
            values,
            str(item_id),
            label,
            target_value,
            marks if len(marks) else None,
            times if len(times) else None,
            freq or "",
            f"split {name!r}, row {row}",
        )
        for row, (values, item_id, label, target_value, marks, times, freq) in enumerate(
            zip(series, item_ids, labels, targets, anomaly_labels, timestamps, freqs, strict=True)
        )
    ]


def records_of_foreign_datasets(corpus: Any, options: ReadingOptions, name: str) -> RawCorpus:
    """Return the records of a DatasetDict with other columns.

    Rows that hold lists are series (`target` and the like, or `value_columns`); rows of single numbers are the steps
    of a wide or long table, read as `corpus_from_frame` does.

    Raises:
        CorpusError: Unknown columns, or see `corpus_from_frame`.
    """
    first = next(iter(corpus.values()))
    list_columns = [column for column, feature in first.features.items() if _is_number_list(feature)]
    if options.value_columns:
        for column in options.value_columns:
            require_column(column, first.column_names, name)
        chosen = [column for column in options.value_columns if column in list_columns]
    else:
        chosen = [column for column in LIST_COLUMN_NAMES if column in list_columns][:1] or list_columns
    if chosen:
        splits = {
            split: _records_of_lists(corpus[split], chosen, options, split) for split in ordered_splits(list(corpus))
        }
        widths = splits[next(iter(splits))][0].values.shape[1]
        return RawCorpus(splits, tuple(chosen) if widths == len(chosen) else default_channel_names(widths))
    tables = {
        split: corpus_from_frame(corpus[split].to_pandas(), options, place=f"{name}, split {split!r}", item_id=split)
        for split in ordered_splits(list(corpus))
    }
    table = next(iter(tables.values()))
    labels = tuple(sorted({label for one in tables.values() for label in one.label_names or ()})) or None
    return RawCorpus(
        {split: one.splits["train"] for split, one in tables.items()}, table.channel_names, labels, table.task
    )


def _is_number_list(feature: Any) -> bool:
    inner = getattr(feature, "feature", None)
    if inner is None:
        return hasattr(feature, "shape")
    return getattr(inner, "dtype", "").startswith(("float", "int", "uint")) or _is_number_list(inner)


def _records_of_lists(split: Any, columns: list[str], options: ReadingOptions, name: str) -> list[SeriesRecord]:
    item_column = options.item_column or next((c for c in ("item_id", "id") if c in split.column_names), None)
    item_ids = split[item_column] if item_column else [f"{name}/{row}" for row in range(len(split))]
    time_column = options.timestamp_column or ("timestamp" if "timestamp" in split.column_names else None)
    times = get_timestamps(split, time_column) if time_column else _regular_times(split, options.frequency)
    channels = [get_series(split, column) for column in columns]
    records = []
    for row, (item_id, times_or_start, *values) in enumerate(zip(item_ids, times, *channels, strict=True)):
        place = f"split {name!r}, row {row}"
        if len({len(channel) for channel in values}) != 1:
            raise CorpusError(f"{place}: columns {columns} have lengths {[len(channel) for channel in values]}.")
        stacked = np.concatenate(values, axis=1)
        timestamps = times_or_start
        if np.ndim(timestamps) == 0 and timestamps is not None:
            timestamps = _count_from(timestamps, len(stacked), options.frequency)
        elif timestamps is not None and len(timestamps) != len(stacked):
            raise CorpusError(f"{place}: {len(timestamps)} timestamps for {len(stacked)} steps.")
        freq = options.frequency or ("" if timestamps is None else infer_frequency(timestamps))
        records.append(SeriesRecord(stacked, str(item_id), timestamps=timestamps, freq=freq, origin=place))
    return records


def _regular_times(split: Any, frequency: str | None) -> list[Any]:
    """Return the `start` of every row (the GluonTS form) where a frequency is given, else nothing known."""
    return list(split["start"]) if frequency and "start" in split.column_names else [None] * len(split)


def _count_from(start: Any, num_steps: int, frequency: str | None) -> np.ndarray:
    import pandas as pd

    return pd.date_range(start, periods=num_steps, freq=frequency).to_numpy().astype("datetime64[ms]")


def metadata_or_default(corpus: Any, stored: CorpusMetadata | None, name: str) -> CorpusMetadata:
    """Return the metadata of the README, else those of the datasets themselves, else what their columns tell."""
    from dataclasses import replace

    if stored is not None:
        return stored
    found = corpus_metadata(corpus)
    return found if METADATA_KEY in (next(iter(corpus.values())).info.description or "") else replace(found, name=name)


# Arrow's list offsets are 32-bit numbers: no chunk may hold more values than that.
MAX_VALUES_PER_CHUNK = 2**30


def build_corpus(corpus: RawCorpus) -> DatasetDict:
    """Return the `DatasetDict` of a corpus: one row a series, float32, NaN = missing.

    Args:
        corpus: Checked records.

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
    """Return one list a record, empty where nothing is known."""
    import pyarrow as pa

    arrays = [np.empty(0, dtype=dtype) if column is None else column.astype(dtype, copy=False) for column in columns]
    return pa.ListArray.from_arrays(_offsets([len(array) for array in arrays]), pa.array(np.concatenate(arrays)))


def _offsets(lengths: Sequence[int]) -> Any:
    import pyarrow as pa

    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
