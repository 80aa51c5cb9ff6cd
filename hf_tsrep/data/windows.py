"""Windows by (series, start) index over one contiguous tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class SeriesBank:
    """All series of a corpus, one after the other in one tensor.

    Args:
        series: Arrays or tensors (time, channel) of any lengths and one number of channels.

    Attributes:
        values: (total_steps, num_channels) float32, contiguous.
        offsets: (num_series + 1,) int64; series `i` is `values[offsets[i]:offsets[i + 1]]`.

    Raises:
        ValueError: No series, or different numbers of channels.
    """

    def __init__(self, series: Sequence[np.ndarray | Tensor]) -> None:
        arrays = [np.asarray(one, dtype=np.float32) for one in series]
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(
                f"Series must be (time, channel) with one number of channels; found trailing axes {shapes}."
            )
        self.values = torch.from_numpy(np.concatenate(arrays))
        self.offsets = torch.tensor([0, *(len(array) for array in arrays)], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Tensor:
        """Return series `index`, (time, channel), as a view."""
        index = range(len(self))[index]
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def num_channels(self) -> int:
        """The number of channels of every series."""
        return self.values.shape[1]

    @property
    def lengths(self) -> Tensor:
        """(num_series,) int64 number of steps of every series."""
        return self.offsets.diff()

    def take_windows(self, positions: Tensor, window_length: int) -> Tensor:
        """Copy windows that begin at absolute positions of `values`.

        Args:
            positions: (num_windows,) int64. The caller keeps the windows inside their series.
            window_length: Steps of a window.

        Returns:
            (num_windows, window_length, num_channels): each window is one contiguous copy.
        """
        total_steps, num_channels = self.values.shape
        overlapping = self.values.as_strided(
            (total_steps - window_length + 1, window_length * num_channels), (num_channels, 1)
        )
        return overlapping.index_select(0, positions).view(-1, window_length, num_channels)


def sliding_window_index(lengths: Sequence[int] | np.ndarray | Tensor, window_length: int, stride: int = 1) -> Tensor:
    """Return every window that lies inside its series.

    Args:
        lengths: (num_series,) steps of every series.
        window_length: Steps of a window.
        stride: Steps between the starts of neighbouring windows.

    Returns:
        (num_windows, 2) int64 rows of (series, start), series by series and in time order. A series shorter than
        `window_length` has no window; steps after the last whole stride are in no window.

    Raises:
        ValueError: `window_length` or `stride` below 1.
    """
    if window_length < 1 or stride < 1:
        raise ValueError(f"window_length={window_length} and stride={stride} must be at least 1.")
    steps = torch.as_tensor(lengths, dtype=torch.int64)
    counts = torch.where(steps >= window_length, (steps - window_length) // stride + 1, 0)
    series = torch.repeat_interleave(torch.arange(len(steps)), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    starts = (torch.arange(len(series)) - first) * stride
    return torch.stack([series, starts], dim=1)


class WindowDataset(Dataset):
    """Windows of fixed length over a bank of series.

    Args:
        series: A `SeriesBank`, or the series to put into one.
        window_length: Steps of a window.
        stride: Steps between the starts of neighbouring windows.
        index: (num_windows, 2) rows of (series, start) instead of every sliding window.

    Raises:
        ValueError: No window fits, or a row of `index` leaves its series.

    Items are `{"past_values": (window_length, num_channels) float32}`. PyTorch's DataLoader calls `__getitems__`,
    which copies a whole batch at once; `batch` returns it stacked.
    """

    def __init__(
        self,
        series: SeriesBank | Sequence[np.ndarray | Tensor],
        window_length: int,
        stride: int = 1,
        index: Tensor | None = None,
    ) -> None:
        self.bank = series if isinstance(series, SeriesBank) else SeriesBank(series)
        self.window_length = window_length
        lengths = self.bank.lengths
        self.index = sliding_window_index(lengths, window_length, stride) if index is None else torch.as_tensor(index)
        if len(self.index) == 0:
            raise ValueError(
                f"No window of {window_length} steps fits: the longest series has {int(lengths.max())} steps. "
                "Choose a shorter window_length."
            )
        rows, starts = self.index[:, 0], self.index[:, 1]
        outside = (starts < 0) | (starts + window_length > lengths[rows])
        if outside.any():
            raise ValueError(f"Window {self.index[outside][0].tolist()} (series, start) leaves its series.")
        self._positions = self.bank.offsets[rows] + starts

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        position = self._positions[index]
        return {"past_values": self.bank.values[position : position + self.window_length].clone()}

    def __getitems__(self, indices: Sequence[int] | Tensor) -> list[dict[str, Tensor]]:
        """Return the items of a batch; they share one copy of their values."""
        return [{"past_values": window} for window in self.batch(indices)["past_values"].unbind(0)]

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Return `{"past_values": (num_indices, window_length, num_channels)}`."""
        positions = self._positions[torch.as_tensor(indices, dtype=torch.int64)]
        return {"past_values": self.bank.take_windows(positions, self.window_length)}
