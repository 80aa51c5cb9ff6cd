"""A dataset of tensors that have one row a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

Columns = Mapping[str, Any]  # tensors with one row a sample, or mappings of such


class TensorRows(Dataset):
    """Items are rows of tensors that have one row a sample.

    Args:
        columns: Tensors by name, or mappings of tensors by name; equally many rows.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        lengths: list[int] = []
        map_tensors(columns, lambda column: lengths.append(len(column)))
        self.num_rows = lengths[0]

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        return map_tensors(self.columns, lambda column: column[index])


def map_tensors(columns: Columns, function: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Return the same names with what a function makes of every tensor."""
    return {
        name: map_tensors(value, function) if isinstance(value, Mapping) else function(value)
        for name, value in columns.items()
    }
