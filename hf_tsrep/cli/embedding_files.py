"""Embeddings as files: one row an embedding, with what it belongs to and where the numbers come from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..files import replace_file, replace_with_neighbour
from ..inference.tables import PROVENANCE

SUFFIXES = (".npz", ".parquet", ".npy", ".csv")


@dataclass
class EmbeddingTable:
    """Embeddings and what they belong to.

    Args:
        embeddings: (rows, embedding_size) float32.
        columns: What describes a row, each (rows,): item_id, split, and where they exist label, step, timestamp,
            window_start, window_end (exclusive).
        provenance: Where the numbers come from, in plain JSON types.
    """

    embeddings: np.ndarray
    columns: dict[str, np.ndarray]
    provenance: dict[str, Any] = field(default_factory=dict)


def write_embeddings(path: Path, table: EmbeddingTable) -> list[Path]:
    """Write embeddings; a reader never sees half a file.

    .npz holds `embeddings`, one array a column, and `provenance` as JSON text. .parquet has a column `embedding` of
    lists, and the provenance in the metadata of its schema. .csv has columns `embedding_0`, ... and .npy the
    embeddings alone; both get a neighbour FILE.json with the provenance, the file's sha256 and for .npy the columns.

    Args:
        path: The file; its suffix says the format.
        table: What to write.

    Returns:
        The files written.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        arrays = {
            "embeddings": table.embeddings,
            **table.columns,
            PROVENANCE: np.asarray(json.dumps(table.provenance)),
        }
        replace_file(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]  # mypy takes an array for allow_pickle
        return [path]
    if suffix == ".parquet":
        replace_file(path, lambda file: _write_parquet(file, table))
        return [path]
    described: dict[str, Any] = {PROVENANCE: table.provenance}
    if suffix == ".npy":
        described["columns"] = {name: _plain(values) for name, values in table.columns.items()}
        return [path, replace_with_neighbour(path, lambda file: np.save(file, table.embeddings), described)]
    return [path, replace_with_neighbour(path, lambda file: _write_csv(file, table), described)]


def _plain(values: np.ndarray) -> list[Any]:
    return [str(one) for one in values] if values.dtype.kind == "M" else values.tolist()


def _write_parquet(file: IO[bytes], table: EmbeddingTable) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(table.embeddings).reshape(-1))
    columns = {name: pa.array(values) for name, values in table.columns.items()}
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, table.embeddings.shape[1])
    written = pa.table(columns).replace_schema_metadata({PROVENANCE: json.dumps(table.provenance)})
    pq.write_table(written, file)


def _write_csv(file: IO[bytes], table: EmbeddingTable) -> None:
    import pyarrow as pa
    from pyarrow import csv

    columns = {name: pa.array(values) for name, values in table.columns.items()}
    width = range(table.embeddings.shape[1])
    columns |= {f"embedding_{index}": pa.array(np.ascontiguousarray(table.embeddings[:, index])) for index in width}
    csv.write_csv(pa.table(columns), file, csv.WriteOptions(quoting_style="needed"))
