"""Which reader serves a file, a folder or a known name, and the repair of known damage in copies."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .corpus import SPLIT_ORDER, CorpusError, CorpusMetadata, RawCorpus, SeriesRecord, label_order
from .formats import read_npz, read_ts_problem, read_ucr_anomaly
from .known_corpora import (
    KnownCorpus,
    bundled_directory,
    complete_name,
    find_known_corpus,
    list_known_corpora,
    locate,
    locate_bundled,
)
from .tables import TableOptions, read_csv

logger = logging.getLogger(__name__)


FILE_SUFFIXES = (".csv", ".ts", ".npz", ".parquet", ".txt", ".tsv")


@dataclass(frozen=True)
class Source:
    """Records with everything needed to finish them.

    Attributes:
        corpus: The records as read.
        metadata: What is known beside them.
        split: How to cut them where the caller does not say; `none` leaves them.
        recommended_scaler: What the literature does, or None for no scaling; `undecided` where nobody said.
    """

    corpus: RawCorpus
    metadata: CorpusMetadata
    split: str = "none"
    recommended_scaler: str | None = "undecided"


def read_file(path: Path, options: TableOptions) -> Source:
    """Read a local file that is not Parquet.

    Raises:
        CorpusError: An unknown ending, or what the reader of the format raises.
    """
    suffix = path.suffix.lower()
    if suffix == ".ts":
        corpus = read_ts_problem(path)
        if path.stem.endswith("_TEST"):
            corpus = replace(corpus, splits={"test": corpus.splits["train"]})
    elif suffix == ".npz":
        corpus = read_npz(path)
    elif suffix == ".txt" and "_UCR_Anomaly_" in path.name:
        corpus = read_ucr_anomaly(path)
    elif suffix in (".csv", ".tsv", ".txt"):
        corpus = read_csv(path, options)
    else:
        raise CorpusError(
            f"{path}: files ending in {suffix!r} are not read. Known endings: {', '.join(FILE_SUFFIXES)}."
        )
    return Source(corpus, CorpusMetadata(name=path.stem, task=corpus.task, source=path.name))


def read_ts_folder(folder: Path) -> Source | None:
    """Read `NAME_TRAIN.ts` and `NAME_TEST.ts` of a folder, or return None where they are not there."""
    training_files = sorted(folder.glob("*_TRAIN.ts"))
    named_like_folder = [file for file in training_files if file.name == f"{folder.name}_TRAIN.ts"]
    if not named_like_folder and len(training_files) != 1:
        return None
    train = (named_like_folder or training_files)[0]
    test = train.with_name(train.name.replace("_TRAIN.ts", "_TEST.ts"))
    corpus = read_ts_problem(train, test if test.is_file() else None)
    name = train.name.removesuffix("_TRAIN.ts")
    return Source(corpus, CorpusMetadata(name=name, task=corpus.task, source=name))


def read_table_folder(folder: Path, options: TableOptions) -> Source | None:
    """Read `train.csv`, `validation.csv` and `test.csv` of a folder, or return None where there is no `train.csv`.

    Raises:
        CorpusError: The files differ in their columns, or what the reader raises.
    """
    files = {split: folder / f"{split}.csv" for split in SPLIT_ORDER}
    if not files["train"].is_file():
        return None
    parts = {split: read_csv(file, options) for split, file in files.items() if file.is_file()}
    first = parts["train"]
    for split, part in parts.items():
        if part.channel_names != first.channel_names:
            raise CorpusError(
                f"{files[split]}: columns {list(part.channel_names)} where {files['train'].name} has "
                f"{list(first.channel_names)}. Give all files of the folder the same columns."
            )
    names = {name for part in parts.values() for name in part.label_names or ()}
    corpus = replace(
        first,
        splits={split: part.splits["train"] for split, part in parts.items()},
        label_names=tuple(sorted(names, key=label_order)) or None,
    )
    return Source(corpus, CorpusMetadata(name=folder.name, task=corpus.task, source=folder.name))


def read_known(name: str, data_directory: Path | None, options: TableOptions) -> tuple[Source | None, list[str]]:
    """Read a known name from the data directory, then from aeon's bundled copies.

    Args:
        name: `family/NAME`, in any case, or `NAME` alone where that is one corpus (see `complete_name`).
        data_directory: Where the files are, or None.
        options: The caller's options for tables; those of the known corpus fill the gaps.

    Returns:
        The source, or None where it is not on this machine; and what was tried, for messages.
    """
    known = find_known_corpus(name)
    if known is None or not _is_here(known, data_directory):
        completed = complete_name(name, list_known_corpora(data_directory))
        if completed is not None and completed != name:
            logger.info("%s is read as %s.", name, completed)
            known = find_known_corpus(completed)
    if known is None:
        return None, ["it is no known name of the form family/NAME"]
    tried = []
    path = None
    if data_directory is None:
        tried.append("no data directory is set (data_directory, or the environment variable HF_TSREP_DATA)")
    else:
        path = locate(known, data_directory)
        tried.append(f"{known.files[0]} in {data_directory}")
    if path is None and known.reader == "ts":
        path = locate_bundled(known)
        tried.append(
            "the copies inside the aeon package" + ("" if bundled_directory() else " (aeon is not installed)")
        )
    return (None if path is None else _read_known_file(known, path, options)), tried


def _is_here(known: KnownCorpus, data_directory: Path | None) -> bool:
    found = None if data_directory is None else locate(known, data_directory)
    return found is not None or locate_bundled(known) is not None


def _read_known_file(known: KnownCorpus, path: Path, options: TableOptions) -> Source:
    options = replace(
        options,
        label_column=options.label_column or known.label_column,
        missing_mark=known.missing_mark,
        keep_duplicates=known.keep_duplicates,
        one_series_per_column=options.one_series_per_column or known.one_series_per_column,
    )
    if known.reader == "ts":
        source = read_ts_folder(path)
        if source is None:
            raise CorpusError(f"{path}: the folder has no {path.name}_TRAIN.ts.")
    elif known.reader == "nab":
        source = Source(_read_nab(path, options), CorpusMetadata(known.name))
    else:
        source = read_file(path, options)
    corpus, notes = replace(_restore_units(source.corpus), domain=known.domain), _notes(known)
    if known.channel_names is not None and len(known.channel_names) == len(corpus.channel_names):
        corpus = replace(corpus, channel_names=known.channel_names)
    if known.may_be_tangled:
        corpus, repaired = untangle_channels(corpus, known.name)
        notes += (TANGLED_NOTE,) if repaired else ()
    task = source.corpus.task if known.reader == "ts" else known.task
    metadata = CorpusMetadata(
        name=known.name,
        task=task,
        target=known.target,
        licence=known.licence,
        source=known.source,
        url=known.url,
        citation=known.citation,
        notes=notes,
    )
    return Source(replace(corpus, task=task), metadata, known.split or "none", known.recommended_scaler)


def _notes(known: KnownCorpus) -> tuple[str, ...]:
    notes = []
    if known.missing_mark is not None:
        notes.append(f"Values of {known.missing_mark:g} mark missing observations and are read as NaN.")
    if known.keep_duplicates:
        notes.append(
            "Rows are kept in file order also where a date appears twice or out of order; it is an index only."
        )
    return tuple(notes)


def _restore_units(corpus: RawCorpus) -> RawCorpus:
    """Give the weather columns their units back: copies in circulation lost the characters of Latin-1."""
    names = tuple(name.replace("\ufffdmol", "µmol").replace("/m\ufffd", "/m²") for name in corpus.channel_names)
    return replace(corpus, channel_names=names)


def _read_nab(path: Path, options: TableOptions) -> RawCorpus:
    """Read a series of the Numenta benchmark; the steps inside its labelled windows are anomalies."""
    corpus = read_csv(path, options)
    labels_file = path.parents[2] / "labels" / "combined_windows.json"
    if not labels_file.is_file():
        raise CorpusError(f"{labels_file}: the file of labelled windows is missing.")
    key = f"{path.parent.name}/{path.name}"
    windows = json.loads(labels_file.read_text(encoding="utf-8"))
    if key not in windows:
        raise CorpusError(f"{labels_file}: the label windows of {key!r} are missing.")
    record = corpus.splits["train"][0]
    if record.timestamps is None:
        raise CorpusError(f"{path}: the labelled windows need timestamps, and the file has none.")
    marks = np.zeros(len(record.values), dtype=np.int8)
    for start, stop in windows[key]:
        inside = (record.timestamps >= np.datetime64(start, "ms")) & (record.timestamps <= np.datetime64(stop, "ms"))
        marks[inside] = 1
    return replace(corpus, splits={"train": [replace(record, anomaly_label=marks)]}, task="anomaly")


def known_names(data_directory: Path | None) -> list[str]:
    """Return the names to offer as near matches."""
    return list_known_corpora(data_directory)


TANGLED_NOTE = "The file has channels and steps tangled; they are read in their right order."

# Values in their right order change this much less from step to step than tangled ones, at least.
_SMOOTHER = 3.0


def untangle_channels(corpus: RawCorpus, name: str) -> tuple[RawCorpus, bool]:
    """Put channels and steps back in order where a copy has tangled them.

    Such a copy was transposed twice with a change of shape in between, so that every row mixes steps and channels.
    The damage is taken for certain where the series are at least three times smoother when they are put in order.

    Args:
        corpus: Series of one length a split.
        name: What the warning calls the corpus.

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
    """Return the mean absolute difference of neighbouring steps."""
    return float(np.mean([np.nanmean(np.abs(np.diff(values, axis=1))) for values in parts.values()]))
