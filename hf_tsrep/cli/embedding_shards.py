"""Embeddings of a corpus of any size: a Parquet file a shard, by one process or several, gone on with when killed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..data.checks import faulty_rows
from ..data.corpus import corpus_fingerprint, default_channel_names
from ..data.stored_rows import StoredCorpus
from ..errors import SettingsError
from ..files import replace_file
from ..inference.quantization import quantize_embeddings
from ..inference.tables import PROVENANCE
from ..processes import Processes
from .embedding_files import EmbeddingTable

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "float16", "int8")
RECORD_FILE = "encoding.json"
ERRORS_FILE = "errors.parquet"
_CALIBRATION_PLACES, _CALIBRATION_ROWS = 8, 128  # stretches of the corpus that tell the ranges, and rows of each
Encode = Callable[[Any], EmbeddingTable]


@dataclass(frozen=True)
class Shard:
    """Some neighbouring rows of a split, whose embeddings are one file.

    Args:
        number: Place among all shards.
        split: The split.
        start: First row.
        stop: Row after the last one.
    """

    number: int
    split: str
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """Name of the file; the order of names is that of the rows."""
        return f"shard-{self.number:06d}.parquet"


def list_shards(corpus: StoredCorpus, splits: list[str], shard_size: int) -> list[Shard]:
    """Return the shards of some splits, in the order of their rows.

    Args:
        corpus: The corpus.
        splits: The splits to encode.
        shard_size: Rows of a shard; the last one of a split has the rest.
    """
    stretches = [(name, first) for name in splits for first in range(0, len(corpus.splits[name]), shard_size)]
    return [
        Shard(number, name, first, min(first + shard_size, len(corpus.splits[name])))
        for number, (name, first) in enumerate(stretches)
    ]


def encode_shards(
    corpus: StoredCorpus,
    splits: list[str],
    encode: Encode,
    output: Path,
    *,
    shard_size: int,
    precision: str,
    provenance: dict[str, Any],
    processes: Processes,
) -> list[Shard]:
    """Encode a corpus shard by shard into a folder.

    `shard-NNNNNN.parquet` have what describes a row and `embedding`; the provenance lies in their schema.
    `encoding.json` says what the folder holds, and `errors.parquet` which rows could not be encoded and why. Shards
    are dealt out to the processes in turn. One that is there is whole and is not made again: a run that was killed
    goes on, and ends with the bytes of one that was not.

    Args:
        corpus: The corpus.
        splits: The splits to encode.
        encode: From some rows as a corpus to their embeddings.
        output: The folder; it is made.
        shard_size: Rows of a shard.
        precision: float32, float16 or int8.
        provenance: Where the numbers come from, in plain JSON types, the same whenever it is asked for.
        processes: Which of how many processes this is.

    Returns:
        The shards of all processes.

    Raises:
        SettingsError: The folder holds something else, or the embeddings of another model, corpus or setting.
        ValueError: No row can be encoded.
    """
    output.mkdir(parents=True, exist_ok=True)
    shards = list_shards(corpus, splits, shard_size)
    template = _first_embedding(corpus, shards, encode)
    record: dict[str, Any] = {
        PROVENANCE: {**provenance, "embedding_size": template.embeddings.shape[1]},
        "precision": precision,
        "shard_size": shard_size,
        "splits": {name: len(corpus.splits[name]) for name in splits},
        "num_shards": len(shards),
    }
    record = _agree(output, record, lambda: _calibrate(corpus, splits, encode) if precision == "int8" else None)
    own = shards[processes.rank :: processes.count]
    todo = [shard for shard in own if not _is_whole(output / shard.file_name)]
    if len(todo) < len(own):
        logger.info("%d of %d shards are there already.", len(own) - len(todo), len(own))
    for shard in todo:
        _write_shard(output, shard, corpus, encode, template, record)
        logger.info("%s: rows %d to %d of %s.", shard.file_name, shard.start, shard.stop, shard.split)
    if all(_is_whole(output / shard.file_name) for shard in shards):
        _finish(output, shards)
    return shards


def _ranges(calibration: dict[str, list[float]] | None) -> np.ndarray | None:
    return None if calibration is None else np.asarray([calibration["minimum"], calibration["maximum"]])


def _agree(output: Path, record: dict[str, Any], calibrate: Callable[[], Any]) -> dict[str, Any]:
    """Return the record that the folder has, or write this one; ranges that are there are those of all shards."""
    place = output / RECORD_FILE
    if not place.exists():
        strange = [path.name for path in output.iterdir() if not path.name.startswith(".")]
        if strange and not place.exists():
            raise SettingsError(
                f"--output {output} holds other files ({', '.join(sorted(strange)[:3])}) and no {RECORD_FILE}. Name a "
                "new folder."
            )
        whole = {**record, "calibration": calibrate()}
        replace_file(place, lambda file: file.write((json.dumps(whole, indent=1) + "\n").encode()))
    found = json.loads(place.read_text(encoding="utf-8"))
    flat, wanted = ({**one[PROVENANCE], **one} for one in (found, record))
    for name, value in json.loads(json.dumps(wanted)).items():
        if name != PROVENANCE and flat.get(name) != value:
            raise SettingsError(
                f"--output {output} was begun with {name} {_short(flat.get(name))}, and this run has {_short(value)}. "
                "Give the same model, corpus and settings, or name a new folder."
            )
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + "..."


def _is_whole(path: Path) -> bool:
    """Return whether a shard is there to its end: a file that was cut has no footer."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def _first_embedding(corpus: StoredCorpus, shards: list[Shard], encode: Encode) -> EmbeddingTable:
    """Return the embeddings of the first row that can be encoded: they tell columns and size."""
    reasons: list[str] = []
    for shard in shards:
        for first in range(shard.start, shard.stop):
            table, faults = _encode_rows(corpus, Shard(0, shard.split, first, first + 1), encode)
            if table is not None:
                return table
            reasons += faults.values()
    raise ValueError(f"No series can be encoded. The first: {reasons[0] if reasons else 'there are no rows.'}")


def _encode_rows(
    corpus: StoredCorpus, shard: Shard, encode: Encode, rows: Any = None
) -> tuple[EmbeddingTable | None, dict[int, str]]:
    """Encode those rows of a shard that can be; return the embeddings, and the reasons of the others by row."""
    if rows is None:
        rows = corpus.read(shard.split, shard.start, shard.stop)
    split = rows[shard.split]
    names = corpus.metadata.channel_names
    width = split.features["series"].shape[1] if hasattr(split.features["series"], "shape") else len(names)
    faults = faulty_rows(split, names if len(names) == width else default_channel_names(width), shard.start)
    good = [place for place in range(len(split)) if place not in faults]
    tables: list[EmbeddingTable] = []
    if good:
        try:
            tables = [encode(_chosen(rows, shard.split, good))]
        except ValueError:  # of one of them, to be found
            for place in good:
                try:
                    tables.append(encode(_chosen(rows, shard.split, [place])))
                except ValueError as error:
                    faults[place] = str(error)
    reasons = {shard.start + place: faults[place] for place in sorted(faults)}
    return (_joined(tables) if tables else None), reasons


def _chosen(rows: Any, split: str, places: list[int]) -> Any:
    """Return some rows of a corpus of one split."""
    if len(places) == len(rows[split]):
        return rows
    return type(rows)({split: rows[split].select(places)})


def _joined(tables: list[EmbeddingTable]) -> EmbeddingTable:
    if len(tables) == 1:
        return tables[0]
    columns = {name: np.concatenate([one.columns[name] for one in tables]) for name in tables[0].columns}
    return EmbeddingTable(np.concatenate([one.embeddings for one in tables]), columns)


def _calibrate(corpus: StoredCorpus, splits: list[str], encode: Encode) -> dict[str, list[float]]:
    """Return the least and the greatest number of every dimension, over rows that lie all over the corpus."""
    total = sum(len(corpus.splits[name]) for name in splits)
    starts = np.unique(np.linspace(0, max(0, total - _CALIBRATION_ROWS), _CALIBRATION_PLACES).astype(int))
    lowest, highest = [], []
    for shard in _stretches(corpus, splits, starts.tolist()):
        table, _ = _encode_rows(corpus, shard, encode)
        if table is not None:
            lowest.append(table.embeddings.min(axis=0))
            highest.append(table.embeddings.max(axis=0))
    if not lowest:
        raise ValueError(
            "int8 needs ranges, and no series of those that they are taken from can be encoded. Choose float16."
        )
    return {"minimum": np.min(lowest, axis=0).tolist(), "maximum": np.max(highest, axis=0).tolist()}


def _stretches(corpus: StoredCorpus, splits: list[str], starts: list[int]) -> Iterator[Shard]:
    """Yield the rows from each start on, where all splits lie one after the other."""
    for start in starts:
        first = 0
        for name in splits:
            size = len(corpus.splits[name])
            begin, end = max(0, start - first), min(size, start + _CALIBRATION_ROWS - first)
            if begin < end:
                yield Shard(0, name, begin, end)
            first += size


def _write_shard(
    output: Path, shard: Shard, corpus: StoredCorpus, encode: Encode, template: EmbeddingTable, record: dict[str, Any]
) -> None:
    rows = corpus.read(shard.split, shard.start, shard.stop)
    table, faults = _encode_rows(corpus, shard, encode, rows)
    if table is None:
        table = EmbeddingTable(template.embeddings[:0], {name: one[:0] for name, one in template.columns.items()})
    size = record[PROVENANCE]["embedding_size"]
    if table.embeddings.shape[1] != size:
        raise ValueError(
            f"{shard.file_name}: the embeddings have {table.embeddings.shape[1]} numbers, those before it {size}. "
            "pooling='multiscale' has more scales for longer series: choose a number of steps."
        )
    numbers = quantize_embeddings(table.embeddings, record["precision"], _ranges(record["calibration"]))
    told = {
        PROVENANCE: record[PROVENANCE],
        "precision": record["precision"],
        "calibration": record["calibration"],
        "shard": {"number": shard.number, "split": shard.split, "start": shard.start, "stop": shard.stop},
        "rows_fingerprint": corpus_fingerprint(rows) if not faults else None,
        "errors": [[row, _item_of(rows[shard.split], row - shard.start), faults[row]] for row in faults],
    }
    replace_file(output / shard.file_name, partial(_write_parquet, numbers=numbers, columns=table.columns, told=told))


def _item_of(split: Any, place: int) -> str:
    return str(split[place : place + 1]["item_id"][0]) if "item_id" in split.column_names else ""


def _write_parquet(file: IO[bytes], numbers: np.ndarray, columns: dict[str, np.ndarray], told: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    arrays = {name: pa.array(values) for name, values in columns.items()}
    flat = pa.array(np.ascontiguousarray(numbers).reshape(-1))
    arrays["embedding"] = pa.FixedSizeListArray.from_arrays(flat, numbers.shape[1])
    metadata = {name: json.dumps(value) for name, value in told.items()}
    parquet.write_table(pa.table(arrays).replace_schema_metadata(metadata), file)


def _finish(output: Path, shards: list[Shard]) -> None:
    """Gather what could not be encoded; whoever finds all shards there does so, and all would write the same."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    found: dict[str, list[Any]] = {"split": [], "row": [], "item_id": [], "reason": []}
    for shard in shards:
        metadata = parquet.read_schema(output / shard.file_name).metadata
        for error in json.loads(metadata[b"errors"]):
            for name, value in zip(found, (shard.split, *error), strict=True):
                found[name].append(value)
    kinds = {"split": pa.string(), "row": pa.int64(), "item_id": pa.string(), "reason": pa.string()}
    table = pa.table({name: pa.array(values, kinds[name]) for name, values in found.items()})
    replace_file(output / ERRORS_FILE, lambda file: parquet.write_table(table, file))
    for draft in output.glob(".shard-*"):  # of processes that were killed
        with suppress(OSError):
            os.unlink(draft)
