"""The rows of a corpus by number, read when they are asked for: how a corpus of any size is gone through in parts."""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .corpus import CorpusMetadata, attach_metadata, corpus_fingerprint, corpus_metadata, ordered_splits
from .hub_layout import has_series_column, load_hub_layout, load_parquet, metadata_or_default

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


class Rows(Protocol):
    """The rows of a split."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Dataset:
        """Return the rows from `start` to `stop` (exclusive)."""


@dataclass(frozen=True)
class StoredCorpus:
    """A corpus whose rows are read when they are asked for.

    Args:
        splits: Rows by name of split, in the order of splits.
        metadata: What is known about the corpus.
        fingerprint: Tells it from another one: of values where it is in memory or mapped, else of the footers of its
            files, which hold their sizes, counts and ranges.
    """

    splits: dict[str, Rows]
    metadata: CorpusMetadata
    fingerprint: str

    def sample(self) -> DatasetDict:
        """Return the first row of every split, for what all of them tell."""
        from datasets import DatasetDict

        first = {name: rows.read(0, 1) for name, rows in self.splits.items()}
        return attach_metadata(DatasetDict(first), self.metadata)

    def read(self, split: str, start: int, stop: int) -> DatasetDict:
        """Return some rows of a split as a corpus of that split."""
        from datasets import DatasetDict

        return attach_metadata(DatasetDict({split: self.splits[split].read(start, stop)}), self.metadata)


class DatasetRows:
    """Rows of a dataset, which lies in memory or is mapped from files.

    Args:
        dataset: One split.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, start: int, stop: int) -> Dataset:
        """Return the rows from `start` to `stop` (exclusive), without a copy."""
        return self.dataset.select(range(start, stop))


class ParquetRows:
    """Rows of Parquet files, of which one row group at a time is in memory.

    Args:
        paths: The files in their order.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        import pyarrow.parquet as parquet

        self._files = [parquet.ParquetFile(path) for path in paths]
        self._places = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        self._starts = [0]
        for file, group in self._places:
            self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
        self._last: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._starts[-1]

    def footers(self) -> list[bytes]:
        """Return the footer of every file."""
        found = []
        for file in self._files:
            footer = io.BytesIO()
            file.metadata.write_metadata_file(footer)
            found.append(footer.getvalue())
        return found

    def read(self, start: int, stop: int) -> Dataset:
        """Return the rows from `start` to `stop` (exclusive)."""
        import pyarrow as pa
        from datasets import Dataset, DatasetInfo, Features
        from datasets.table import table_cast

        features = Features.from_arrow_schema(self._files[0].schema_arrow)
        parts = []
        place = bisect_right(self._starts, start) - 1
        while place < len(self._places) and self._starts[place] < stop:
            first = self._starts[place]
            parts.append(
                self._group(place).slice(max(0, start - first), min(stop, self._starts[place + 1]) - max(start, first))
            )
            place += 1
        table = table_cast(pa.concat_tables(parts), features.arrow_schema)
        return Dataset(table, info=DatasetInfo(features=features), fingerprint=f"rows{start}to{stop}")

    def _group(self, place: int) -> Any:
        if self._last[0] != place:
            self._last = (-1, None)  # before the next one is read
            file, group = self._places[place]
            self._last = (place, file.read_row_group(group))
        return self._last[1]


def open_parquet_corpus(name: str) -> StoredCorpus | None:
    """Open a local Parquet file or a local folder in Hub layout without reading its rows.

    Args:
        name: Path.

    Returns:
        The corpus; None where the path is none of both, or its rows are no series (steps of a table).

    Raises:
        CorpusError: It cannot be loaded; the reason is chained.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() == ".parquet":
        stored, files = None, {"train": [str(path)]}
        streams = load_parquet(path, streaming=True)
    elif path.is_dir() and any(path.rglob("*.parquet")) and not list(path.glob("*state.json")):
        from datasets import load_dataset_builder

        streams, stored = load_hub_layout(str(path), streaming=True)
        files = load_dataset_builder(str(path)).config.data_files
    else:
        return None
    if not has_series_column(streams):
        return None
    splits = {split: ParquetRows(files[split]) for split in ordered_splits([str(one) for one in files])}
    digest = hashlib.sha256()
    for split, rows in splits.items():
        digest.update(f"split {split}\n".encode())
        for footer in rows.footers():
            digest.update(footer)
    return StoredCorpus(dict(splits), metadata_or_default(streams, stored, path.stem), digest.hexdigest())


def stored_corpus(corpus: Mapping[str, Any]) -> StoredCorpus:
    """Return a loaded corpus as one whose rows are asked for.

    Args:
        corpus: From `load_corpus`.
    """
    splits: dict[str, Rows] = {name: DatasetRows(split) for name, split in corpus.items()}
    return StoredCorpus(splits, corpus_metadata(corpus), corpus_fingerprint(corpus))
