"""`load_corpus`: one call for frames, files, folders, known names and the Hub."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import near_matches, one_line
from .arrays import corpus_from_arrays, holds_arrays
from .checks import check_corpus, check_datasets
from .corpus import CorpusError, CorpusMetadata, RawCorpus, attach_metadata
from .hub_layout import (
    build_corpus,
    has_series_column,
    load_hub_layout,
    load_parquet,
    metadata_or_default,
    records_of_datasets,
    records_of_foreign_datasets,
)
from .known_corpora import find_known_corpus
from .local_files import Source, is_there, looks_like_path, near_files, read_file, read_folder, read_problem
from .options import ReadingOptions
from .scaling import SCALERS, prepend_time_features, recommended_scaler, scale_channels, select_channels
from .sources import known_names, read_known
from .splits import split_corpus
from .tables import corpus_from_frame

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

logger = logging.getLogger(__name__)


def load_corpus(
    name_or_path: Any,
    *,
    data_directory: str | Path | None = None,
    split: str | None = None,
    target: str | Sequence[str] | None = None,
    scaler: str | None = None,
    time_features: bool = False,
    streaming: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    item_column: str | None = None,
    timestamp_column: str | None = None,
    label_column: str | None = None,
    value_columns: Sequence[str] | None = None,
    frequency: str | None = None,
    one_series_per_column: bool = False,
    layout: str | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    skip_rows: int = 0,
    sheet: str | None = None,
    date_format: str | None = None,
    day_first: bool | None = None,
    time_zone: str | None = None,
    check_values: bool = True,
) -> DatasetDict | IterableDatasetDict:
    """Load a corpus: one row a series, with standard splits.

    Names are looked up in this order: a pandas or polars data frame (with items as levels of its index, too), an array
    or a list of arrays, or a DatasetDict; a local folder (Hub layout,
    `save_to_disk`, `NAME_TRAIN` and `NAME_TEST` with .ts, .arff, .tsv, .txt or .csv, or `train.csv`, `validation.csv`
    and `test.csv`), file (.csv, .tsv and .txt, packed or not, .xlsx, .feather, .orc, .parquet, .ts, .arff, .npz, .npy)
    or `folder/NAME` for NAME_TRAIN and NAME_TEST in it; a known name such as `ett/ETTh1`, `ucr/GunPoint` or
    `uea/BasicMotions` in the data directory, then among the problems that the aeon package carries, in any case, and
    without its folder where that is unique (`har` is `sensor/HAR`); then the Hub, as a dataset id (`owner/name` or
    `owner/name:config`). What looks like a path is none but a path.

    Args:
        name_or_path: See above.
        data_directory: Where known names are looked up; by default the environment variable `HF_TSREP_DATA`.
        split: How to cut long series into contiguous stretches: `70/10/20`, `50/50`, `12/4/4 months` (of 30 days) or
            `none`. Series with a class or a target value are dealt whole, each class in these shares. By default the
            corpus' standard: 12/4/4 months for ETT, 70/10/20 for other forecasting sets, halves for KPI and NAB, the
            files' own splits elsewhere, one split `train` for other people's tables.
        target: Value columns to keep; `univariate` for that of the standard univariate protocol (`OT`, or the last).
        scaler: None (raw values), `standard` (each channel its own mean and deviation), `global` (one for all values)
            or `recommended` (what the literature does for this corpus). Fitted on the training part only.
        time_features: True puts seven calendar features, standardised on the training part, in front of the channels.
        streaming: True returns an IterableDatasetDict. Hub datasets are then read while iterating and cannot be cut,
            scaled or extended.
        revision: Branch, tag or commit of a Hub id.
        token: Access token of a Hub id.
        item_column: Tables: the column that tells series apart (one row an item and step).
        timestamp_column: Tables: the column of dates; found by itself where None.
        label_column: Tables: one class an item, or 0/1 a step (anomalies).
        value_columns: Tables: the columns to read as channels; all others where None.
        frequency: Tables: pandas frequency string; inferred where None.
        one_series_per_column: Tables: every column becomes a series of one channel (Electricity in TS2Vec's protocol).
        layout: Arrays: `ntc` for (series, time, channel), which is taken where it gives more steps than channels, or
            `nct` for (series, channel, time). Text: `ucr` for a row a series with its class first, which is taken for
            NAME_TRAIN and NAME_TEST without a line of names, or `table` for a row a timestamp.
        header: Tables: whether the first line names the columns; None: it does where words stand over numbers.
        delimiter: Tables: the character between cells; None: found in the first lines.
        decimal: Tables: `.` or `,`; None: what fits all numbers.
        thousands: Tables: what stands between thousands, such as `.` or a blank; None: found together with decimal.
        encoding: Text: its name; None: UTF-8 or UTF-16, else Latin-1.
        skip_rows: Tables: lines before the line of names.
        sheet: Excel: name of the sheet, where several have cells.
        date_format: Tables: form of the dates, such as `%d.%m.%Y`; None: the one that fits all rows.
        day_first: Tables: whether 01/02/2024 is the first of February; None: by the rows, where they tell.
        time_zone: Tables: where dates without an offset are local times, such as `Europe/Berlin`; they become
            universal time, as dates with an offset do.
        check_values: False leaves series in that no encoder can use, with infinite values or none at all, for whoever
            sorts them out row by row (`hf-tsrep encode --shard-size`); it goes with scaler=None.

    Returns:
        Splits with the columns `series` Array2D((None, num_channels), float32), `item_id`, `label` (ClassLabel),
        `target_value` or `anomaly_label` (one 0/1 a step, empty where unknown) where there are any, `timestamp` (list
        of milliseconds, empty where unknown), `freq` and `domain`. NaN = missing. `corpus_metadata` tells the rest.

    Raises:
        CorpusError: Unknown name (with what was tried and the near matches), missing or broken file, bad values.
    """
    if scaler is not None and scaler not in SCALERS:
        hint = near_matches(scaler, SCALERS, cutoff=0.5)
        raise CorpusError(f"Unknown scaler {scaler!r}: None, {', '.join(map(repr, SCALERS))}.{hint}")
    options = ReadingOptions(
        item_column=item_column,
        timestamp_column=timestamp_column,
        label_column=label_column,
        value_columns=tuple(value_columns) if value_columns is not None else None,
        frequency=frequency,
        one_series_per_column=one_series_per_column,
        layout=layout,
        header=header,
        delimiter=delimiter,
        decimal=decimal,
        thousands=thousands,
        encoding=encoding,
        skip_rows=skip_rows,
        sheet=sheet,
        date_format=date_format,
        day_first=day_first,
        time_zone=time_zone,
        check_values=check_values,
    )
    changed = any((split not in (None, "none"), target is not None, scaler is not None, time_features))
    found = _find(name_or_path, data_directory, options, streaming, revision, token)
    if not isinstance(found, Source):
        datasets, metadata = found
        if not streaming and any(not hasattr(split, "select") for split in datasets.values()):
            raise CorpusError(
                f"{metadata.name} is a stream, which has neither a length nor rows by number. `pretrain` and "
                "`finetune` train on streams; for everything else load the corpus without streaming."
            )
        if not changed and has_series_column(datasets):
            if not streaming and check_values:
                check_datasets(datasets, metadata.channel_names, metadata.name)
            return attach_metadata(datasets, metadata)
        if streaming:
            raise CorpusError(
                f"{metadata.name}: a stream cannot be cut, scaled, extended or put into the corpus format, because "
                "that needs all of it. Load it without streaming, or prepare it once with prepare_corpus."
            )
        found = _source_of_datasets(datasets, metadata, options)
    corpus, metadata = _finish(found, split, target, scaler, time_features, check_values)
    built = attach_metadata(build_corpus(corpus), metadata)
    return _as_stream(built, metadata) if streaming else built


def _find(
    name_or_path: Any,
    data_directory: str | Path | None,
    options: ReadingOptions,
    streaming: bool,
    revision: str | None,
    token: str | bool | None,
) -> Source | tuple[Any, CorpusMetadata]:
    """Return records, or datasets that are already in Arrow files."""
    if not isinstance(name_or_path, (str, os.PathLike, Mapping)):
        return _read_object(name_or_path, options)
    if isinstance(name_or_path, Mapping):
        return name_or_path, metadata_or_default(name_or_path, None, "datasets")
    name = os.fspath(name_or_path)
    local = _find_on_disk(name, options, streaming)
    if local is not None:
        return local
    directory = data_directory or os.environ.get("HF_TSREP_DATA") or None
    known, tried = read_known(name, Path(directory) if directory else None, options)
    if known is not None:
        return known
    if find_known_corpus(name) is None and looks_like_path(name):
        raise CorpusError(f"{name}: there is no such file or folder.{near_files(Path(name).expanduser())}")
    return _find_on_hub(name, directory, tried, streaming, revision, token)


def _read_object(holder: Any, options: ReadingOptions) -> Source:
    if holds_arrays(holder):
        return Source(corpus_from_arrays(holder, options.layout), CorpusMetadata("arrays"))
    if hasattr(holder, "columns"):
        corpus = corpus_from_frame(holder, options, place="data frame", item_id="series")
        return Source(corpus, CorpusMetadata("data frame", task=corpus.task))
    raise CorpusError(
        f"A corpus is a name, a path, a data frame, arrays or a DatasetDict, not {type(holder).__name__}."
    )


def _find_on_disk(name: str, options: ReadingOptions, streaming: bool) -> Source | tuple[Any, CorpusMetadata] | None:
    """Return what a file, a folder or NAME_TRAIN and NAME_TEST in a folder hold; None where they are not there."""
    path = Path(name).expanduser()
    if is_there(path.is_file):
        if path.suffix.lower() == ".parquet":
            loaded = load_parquet(path, streaming=streaming)
            return loaded, metadata_or_default(loaded, None, path.stem)
        return read_file(path, options)
    if is_there(path.is_dir):
        source = read_folder(path, options)
        if source is not None:
            return source
        loaded, stored = load_hub_layout(str(path), streaming=streaming)
        return loaded, metadata_or_default(loaded, stored, path.name)
    return read_problem(path.parent, path.name, options) if is_there(path.parent.is_dir) else None


def _near_names(name: str, known: list[str]) -> str:
    """Return the near matches of a name; one without its folder is compared with names without theirs."""
    if "/" in name:
        return near_matches(name, known, cutoff=0.5)
    whole_names: dict[str, list[str]] = {}
    for one in known:
        whole_names.setdefault(one.lower().rpartition("/")[2], []).append(one)
    return near_matches(name, whole_names, spell=lambda last: " or ".join(map(repr, whole_names[last])))


def _find_on_hub(
    name: str,
    directory: str | Path | None,
    tried: list[str],
    streaming: bool,
    revision: str | None,
    token: str | bool | None,
) -> tuple[Any, CorpusMetadata]:
    reason: CorpusError | None = None
    near = _near_names(name, known_names(Path(directory) if directory else None))
    near_file = near_files(Path(name), cutoff=0.8) if Path(name).parent.is_dir() else ""
    # A slip in one of our own names (uea/BasicMotion, gunpiont) should not wait for the network; ids have an owner.
    # Nor should one in the name of a file (mine.cvs).
    mistyped = bool(near_file) or (bool(near) and (find_known_corpus(name) is not None or "/" not in name))
    if not mistyped and re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", name):
        try:
            loaded, stored = load_hub_layout(name, streaming=streaming, revision=revision, token=token)
            logger.info("%s was loaded from the Hub.", name)
            return loaded, metadata_or_default(loaded, stored, name)
        except CorpusError as error:
            reason = error
            tried = [*tried, f"the Hub ({one_line(error)})"]
    raise CorpusError(f"Unknown corpus {name!r}.{near_file or near} Tried: {'; '.join(tried)}.") from reason


def _source_of_datasets(datasets: Any, metadata: CorpusMetadata, options: ReadingOptions) -> Source:
    if not has_series_column(datasets):
        corpus = records_of_foreign_datasets(datasets, options, metadata.name)
        return Source(corpus, replace(metadata, task=corpus.task))
    return Source(records_of_datasets(datasets, metadata), metadata)


def _finish(
    source: Source,
    split: str | None,
    target: str | Sequence[str] | None,
    scaler: str | None,
    time_features: bool,
    check_values: bool,
) -> tuple[RawCorpus, CorpusMetadata]:
    """Check, cut, choose channels, scale and add time features, in this order."""
    corpus, metadata = source.corpus, source.metadata
    if (scaler and metadata.scaler) or (time_features and metadata.num_time_features):
        raise CorpusError(
            f"{metadata.name}: the stored values are already scaled or carry time features; load them as is."
        )
    check_corpus(corpus, metadata.name, check_values)
    cut = split if split is not None else source.split
    if cut != "none":
        corpus = split_corpus(corpus, cut)
    if target is not None:
        corpus = select_channels(corpus, target, metadata)
    if scaler == "recommended":
        undecided = source.recommended_scaler == "undecided"
        scaler = recommended_scaler(corpus) if undecided else source.recommended_scaler
    first = next(iter(corpus.splits.values()))[0]
    if scaler is not None:
        corpus, fitted = scale_channels(corpus, scaler)
        check_corpus(corpus, f"{metadata.name}, scaled")
        metadata = replace(metadata, scaler=fitted.to_dict())
    if time_features:
        corpus, fitted = prepend_time_features(corpus)
        metadata = replace(metadata, num_time_features=len(fitted.mean), time_feature_scaler=fitted.to_dict())
    return corpus, replace(metadata, channel_names=corpus.channel_names, freq=first.freq)


def _as_stream(corpus: DatasetDict, metadata: CorpusMetadata) -> IterableDatasetDict:
    from datasets import IterableDatasetDict

    streams = IterableDatasetDict({name: split.to_iterable_dataset() for name, split in corpus.items()})
    return attach_metadata(streams, metadata)
