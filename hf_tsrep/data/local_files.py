"""Which reader serves a local file, and which files of a folder are one corpus."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import near_matches
from .archive_texts import ROW_SUFFIXES, is_row_text, read_arff_files, read_row_files
from .arrays import SPLIT_ALIASES, read_array_file
from .corpus import SPLIT_ORDER, CorpusError, CorpusMetadata, RawCorpus, label_order
from .formats import read_ts_problem, read_ucr_anomaly
from .options import ReadingOptions
from .tables import TABLE_SUFFIXES, read_table
from .text_files import COMPRESSIONS, format_stem, format_suffix, has_archive_name, read_text

logger = logging.getLogger(__name__)

PACKED_SUFFIXES = (".parquet", ".npz", ".npy")  # compressed in themselves
FILE_SUFFIXES = (*TABLE_SUFFIXES, ".ts", ".arff", *PACKED_SUFFIXES)
# Endings of files that are not read: a name with one of them is a path and no id of the Hub.
FOREIGN_SUFFIXES = (
    *COMPRESSIONS,
    *(".xls", ".ods", ".json", ".jsonl", ".arrow", ".ipc", ".h5", ".hdf5", ".mat", ".pkl", ".pickle", ".zst", ".7z"),
    *(".dat", ".data", ".tsf", ".log", ".xml", ".html", ".db", ".sqlite", ".dta", ".sav", ".rds", ".avro", ".edf"),
)
ARCHIVE_SUFFIXES = (".ts", ".arff", *ROW_SUFFIXES)


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


def looks_like_path(name: str) -> bool:
    """Return whether a name can only be meant as a path: by its beginning, its ending or the folder that it is in."""
    suffix = Path(name).suffix.lower()
    if name.startswith((".", "/", "~")) or "\\" in name or suffix in (*FILE_SUFFIXES, *FOREIGN_SUFFIXES):
        return True
    if "/" not in name:  # ids of the Hub without an owner have no ending
        return re.fullmatch(r"\.[a-z][a-z0-9]{0,5}", suffix) is not None
    return name.endswith("/") or is_there(Path(name).parent.is_dir)


def is_there(look: Callable[[], bool]) -> bool:
    """Ask the file system, by `Path.is_file` or `is_dir`; a name that it cannot hold is not there."""
    try:
        return look()
    except (OSError, ValueError):
        return False


def near_files(path: Path, cutoff: float = 0.5) -> str:
    """Return the hint that names the files that a path may have meant."""
    if not is_there(path.parent.is_dir):
        return f" The folder {str(path.parent)!r} does not exist either."
    return near_matches(path.name, [file.name for file in path.parent.iterdir()], cutoff=cutoff)


def read_file(path: Path, options: ReadingOptions) -> Source:
    """Read a local file that is not Parquet.

    Raises:
        CorpusError: An unknown ending, or what the reader of the format raises.
    """
    stem = format_stem(path)
    split = "test" if stem.endswith("_TEST") else "train"
    corpus = _read_files({split: path}, options)
    other = stem.removesuffix("_TRAIN") if stem.endswith("_TRAIN") else ""
    if other and path.with_name(path.name.replace("_TRAIN", "_TEST")).is_file():
        logger.info("Its test part lies beside %s; load %s to have both.", path, path.with_name(other))
    return Source(corpus, CorpusMetadata(name=stem, task=corpus.task, source=path.name))


def read_problem(folder: Path, name: str, options: ReadingOptions) -> Source | None:
    """Read NAME_TRAIN and NAME_TEST of a folder, in the first of the archives' forms; None where they are not there.

    Args:
        folder: Where they lie.
        name: The problem's name.
        options: For the text of tables.

    Raises:
        CorpusError: What the reader of the format raises.
    """
    for suffix in ARCHIVE_SUFFIXES:
        for compression in ("", *COMPRESSIONS):
            ending = suffix + compression
            train = folder / f"{name}_TRAIN{ending}"
            if not is_there(train.is_file):
                continue
            test = folder / f"{name}_TEST{ending}"
            if not test.is_file() and (others := _files_of(folder, f"{name}_TEST", ARCHIVE_SUFFIXES)):
                raise CorpusError(
                    f"{folder}: {train.name} has no {test.name} beside it, but {others[0].name}. Give both one ending."
                )
            corpus = _read_files({"train": train, **({"test": test} if test.is_file() else {})}, options)
            return Source(corpus, CorpusMetadata(name=name, task=corpus.task, source=name))
    return None


def read_folder(folder: Path, options: ReadingOptions) -> Source | None:
    """Read the files of a folder that are one corpus; None where there are none.

    They are NAME_TRAIN and NAME_TEST, where NAME is the folder's or the only one; or `train`, `validation` (`val`,
    `valid`) and `test` with the ending of a text or a table.

    Raises:
        CorpusError: Two files are one split, the splits have several endings, the files differ in their columns, or
            what the reader raises.
    """
    names = {
        format_stem(file).removesuffix("_TRAIN")
        for file in folder.glob("*_TRAIN*")
        if format_suffix(file) in ARCHIVE_SUFFIXES and format_stem(file).endswith("_TRAIN")
    }
    chosen = folder.name if folder.name in names else next(iter(names)) if len(names) == 1 else None
    if chosen is not None:
        return read_problem(folder, chosen, options)
    files = _splits_of(folder)
    if "train" not in files or files["train"].suffix == ".parquet":  # the Hub's form
        return None
    corpus = _read_files(files, options)
    return Source(corpus, CorpusMetadata(name=folder.name, task=corpus.task, source=folder.name))


def _splits_of(folder: Path) -> dict[str, Path]:
    """Return the file of every split of a folder; a second one would be lost in silence, so it is refused."""
    named = {name: _files_of(folder, name, (*TABLE_SUFFIXES, ".ts", ".arff", ".parquet")) for name in SPLIT_ALIASES}
    found = [(SPLIT_ALIASES[name], file) for name, files in named.items() for file in files]
    for split in SPLIT_ORDER:
        same = [file.name for one, file in found if one == split]
        if len(same) > 1:
            raise CorpusError(f"{folder}: both {same[0]!r} and {same[1]!r} are the split {split!r}; keep one.")
    endings = {file.name.partition(".")[2]: file.name for _, file in found}
    if len(endings) > 1:
        told = " and ".join(map(repr, list(endings.values())[:2]))
        raise CorpusError(f"{folder}: {told} are splits with several endings; give all one.")
    files = dict(found)
    return {split: files[split] for split in SPLIT_ORDER if split in files}


def _files_of(folder: Path, stem: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of a folder with a name and one of the endings, compressed or not."""
    endings = (suffix + compression for suffix in suffixes for compression in ("", *COMPRESSIONS))
    return [file for ending in endings if (file := folder / f"{stem}{ending}").is_file()]


def _read_files(files: Mapping[str, Path], options: ReadingOptions) -> RawCorpus:
    """Read the files of one corpus, all in one form, one a split."""
    path = next(iter(files.values()))
    suffix = format_suffix(path)
    if suffix == ".ts":
        return read_ts_problem(dict(files))
    if suffix == ".arff":
        return read_arff_files(dict(files), options.encoding)
    if suffix in (".npz", ".npy") and path.suffix.lower() == suffix:
        return read_array_file(path, options.layout)
    if suffix == ".txt" and "_UCR_Anomaly_" in path.name:
        return read_ucr_anomaly(path)
    if suffix in ROW_SUFFIXES and _has_row_form(path, options):
        return read_row_files(dict(files), options.encoding)
    if suffix in TABLE_SUFFIXES:
        return _join_tables(files, {split: read_table(file, options) for split, file in files.items()})
    raise CorpusError(
        f"{path}: files ending in {path.suffix!r} are not read. Known endings: {', '.join(FILE_SUFFIXES)}; text may "
        f"be packed ({', '.join(COMPRESSIONS)})."
    )


def _has_row_form(path: Path, options: ReadingOptions) -> bool:
    """Return whether a text has a row a series, by what was said, else by its name and its first row."""
    if options.layout in ("ucr", "table"):
        return options.layout == "ucr"
    if not has_archive_name(path):
        return False
    said_table = options.header is not None or options.names_columns or options.skip_rows
    return not said_table and is_row_text(read_text(path, options.encoding))


def _join_tables(files: Mapping[str, Path], parts: Mapping[str, RawCorpus]) -> RawCorpus:
    """Return one corpus of tables, one a split, which must have the same columns."""
    (first_split, first), *_ = parts.items()
    for split, part in parts.items():
        if part.channel_names != first.channel_names:
            raise CorpusError(
                f"{files[split]}: columns {list(part.channel_names)} where {files[first_split].name} has "
                f"{list(first.channel_names)}. Give all files of the folder the same columns."
            )
        if part.task != first.task:
            raise CorpusError(f"{files[split]}: its labels are {part.task}, but {first.task} in {files[first_split]}.")
    names = {name for part in parts.values() for name in part.label_names or ()}
    return replace(
        first,
        splits={split: part.splits["train"] for split, part in parts.items()},
        label_names=tuple(sorted(names, key=label_order)) or None,
    )
