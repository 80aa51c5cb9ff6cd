"""Forecasting samples cut from series: the representation at a step, and the next values of all channels.

A split is one stretch of each series. For a horizon H and a stretch of length n the samples are the steps
t = 0 .. n-H-1 with the targets `data[t+1 .. t+H]`, flattened to (H * num_channels), all of them inside the stretch.
The targets are windows into one flat array and are copied only chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Elements of one chunk of targets: small enough to stay in a processor's cache, large enough for a matrix product.
CHUNK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class ForecastSplit:
    """The stretches of one split.

    Attributes:
        name: `train`, `validation` or `test`, for error messages.
        representations: Per series (steps, embedding_size) floating point.
        targets: Per series (steps, num_channels) of the same floating type.
        history_to_skip: Steps at the start of each stretch that give no sample.
    """

    name: str
    representations: Sequence[np.ndarray]
    targets: Sequence[np.ndarray]
    history_to_skip: int = 0

    @property
    def num_channels(self) -> int:
        """Number of target channels."""
        return int(self.targets[0].shape[1])

    def num_samples(self, horizon: int) -> int:
        """Return the number of samples of a horizon over all series."""
        return sum(self.end(index, horizon) - self.history_to_skip for index in range(len(self.targets)))

    def end(self, index: int, horizon: int) -> int:
        """Return one past the last step of a series that gives a sample (at least `history_to_skip`)."""
        return max(len(self.targets[index]) - horizon, self.history_to_skip)

    def check(self, horizon: int) -> None:
        """Raise ValueError where no series is long enough for a horizon."""
        if self.num_samples(horizon) == 0:
            longest = max(len(series) for series in self.targets)
            skipped = f" of which the first {self.history_to_skip} give no sample" if self.history_to_skip else ""
            raise ValueError(
                f"Horizon {horizon} is too long for the {self.name} split: its longest series has {longest} "
                f"steps{skipped}. Use horizons below {longest - self.history_to_skip}."
            )

    def feature_mean(self) -> np.ndarray:
        """Return the mean representation over all steps, (embedding_size,) float64."""
        total = np.sum([series.sum(axis=0, dtype=np.float64) for series in self.representations], axis=0)
        return total / sum(len(series) for series in self.representations)

    def chunks(self, horizon: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the samples of a horizon as views: (rows, embedding_size) and (rows, horizon * num_channels)."""
        for index in range(len(self.targets)):
            yield from self.chunks_between(index, horizon, self.history_to_skip, self.end(index, horizon))

    def chunks_between(
        self, index: int, horizon: int, begin: int, end: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the samples of the steps `begin` to `end` (exclusive) of one series as views."""
        if begin >= end:
            return
        features, windows = self.representations[index], self._windows(index, horizon)
        rows = _rows_of_a_chunk(windows.shape[1])
        for start in range(begin, end, rows):
            stop = min(start + rows, end)
            yield features[start:stop], windows[start:stop]

    def chunks_of(self, horizon: int, samples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield chosen samples as copies.

        Args:
            horizon: Steps ahead.
            samples: (num_samples,) integers that count the samples of all series in order.
        """
        lengths = [self.end(index, horizon) - self.history_to_skip for index in range(len(self.targets))]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        ordered = np.sort(samples)
        for index in range(len(lengths)):
            left, right = np.searchsorted(ordered, starts[index : index + 2])
            steps = ordered[left:right] - starts[index] + self.history_to_skip
            if len(steps) == 0:
                continue
            features, windows = self.representations[index], self._windows(index, horizon)
            rows = _rows_of_a_chunk(windows.shape[1])
            for start in range(0, len(steps), rows):
                chosen = steps[start : start + rows]
                yield features[chosen], windows[chosen]

    def _windows(self, index: int, horizon: int) -> np.ndarray:
        """Return a view (steps - horizon, horizon * num_channels): row t holds `targets[t+1 .. t+horizon]`."""
        targets = self.targets[index]
        num_channels = targets.shape[1]
        flat = np.ascontiguousarray(targets).reshape(-1)[num_channels:]
        return np.lib.stride_tricks.sliding_window_view(flat, horizon * num_channels)[::num_channels]


def _rows_of_a_chunk(num_outputs: int) -> int:
    return int(np.clip(CHUNK_ELEMENTS // max(num_outputs, 1), 64, 8192))
