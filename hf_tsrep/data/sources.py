"""Which file a known name stands for, and the repair of known damage in copies."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from .corpus import CorpusError, CorpusMetadata, RawCorpus, SeriesRecord
from .known_corpora import (
    KnownCorpus,
    bundled_directory,
    complete_name,
    find_known_corpus,
    list_known_corpora,
    locate,
    locate_bundled,
)
from .local_files import Source, read_file, read_problem
from .options import ReadingOptions
from .tables import read_table

logger = logging.getLogger(__name__)


def read_known(name: str, data_directory: Path | None, options: ReadingOptions) -> tuple[Source | None, list[str]]:
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


def _read_known_file(known: KnownCorpus, path: Path, options: ReadingOptions) -> Source:
    options = replace(
        options,
        label_column=options.label_column or known.label_column,
        missing_mark=known.missing_mark,
        keep_duplicates=known.keep_duplicates,
        one_series_per_column=options.one_series_per_column or known.one_series_per_column,
        layout=options.layout or ("ntc" if known.reader == "npz" else None),
    )
    if known.reader == "ts":
        source = read_problem(path, path.name, options)
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


def _read_nab(path: Path, options: ReadingOptions) -> RawCorpus:
    """Read a series of the Numenta benchmark; the steps inside its labelled windows are anomalies."""
    corpus = read_table(path, options)
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
