"""Answers as files: a table, and beside it where its numbers come from. A reader never sees half a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..files import replace_with_neighbour

ANSWER_SUFFIXES = (".csv", ".parquet", ".json")
FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
PROVENANCE = "provenance"


def check_output(path: Path, suffixes: Sequence[str] = ANSWER_SUFFIXES, option: str = "--output") -> None:
    """Refuse a place that cannot be written, before anything is computed.

    Args:
        path: The file to write.
        suffixes: Those that there are.
        option: The option that named it, for messages.

    Raises:
        ValueError: The suffix is unknown, or it is a folder.
        FileNotFoundError: The folder does not exist.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path}: the suffix says the format; choose one of {', '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: the folder {path.parent} does not exist.")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name a file.")


def write_answers(path: Path, columns: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> list[Path]:
    """Write a table of answers, and FILE.json with its provenance beside it; .parquet holds the provenance too.

    Args:
        path: The file, .csv, .parquet or .json (one object a row).
        columns: One array (rows,) a column; NaN is written as an empty cell, in .json as null.
        provenance: Plain JSON types.

    Returns:
        The files written.
    """
    write = {".parquet": _write_parquet, ".json": _write_json}.get(path.suffix.lower(), _write_csv)
    neighbour = replace_with_neighbour(
        path, lambda file: write(file, columns, provenance), {PROVENANCE: dict(provenance)}
    )
    return [path, neighbour]


def _arrow_table(columns: Mapping[str, np.ndarray]) -> Any:
    import pyarrow as pa

    return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})


def _write_parquet(file: IO[bytes], columns: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_arrow_table(columns).replace_schema_metadata({PROVENANCE: json.dumps(provenance)}), file)


def _write_csv(file: IO[bytes], columns: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> None:
    from pyarrow import csv

    csv.write_csv(_arrow_table(columns), file, csv.WriteOptions(quoting_style="needed"))


def _write_json(file: IO[bytes], columns: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> None:
    rows = _arrow_table(columns).to_pylist()
    file.write((json.dumps(rows, indent=1, default=str, ensure_ascii=False) + "\n").encode())
