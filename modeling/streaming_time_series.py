"""A series that is embedded as it comes: what is kept between its steps, and the direct way of it for every method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from .encoding_time_series import embed_windows


class SeriesStream(ABC):
    """One series on its way: what the steps to come need of those that were."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the series: the next step is the first of another one."""

    @abstractmethod
    def push(self, values: torch.Tensor) -> torch.Tensor:
        """Embed further steps, each from the window that ends with it.

        Args:
            values: (num_steps, num_input_channels) model inputs, at least one step, NaN = missing.

        Returns:
            (num_steps, embedding_size).
        """


class WindowStream(SeriesStream):
    """The direct way: the last window is kept, and every window is encoded whole.

    Args:
        model: The encoder.
        window_length: Number of steps of a window.
        batch_size: Number of windows in one forward pass.
        pooling: As for pool_timestamps, inside a window.
        method_arguments: Further arguments of the method's `embed_timestamps`.
    """

    def __init__(
        self,
        model: Any,
        window_length: int,
        batch_size: int,
        pooling: int | str | None = None,
        **method_arguments: Any,
    ) -> None:
        self.model, self.window_length, self.batch_size = model, window_length, batch_size
        self.pooling, self.method_arguments = pooling, method_arguments
        self.reset()

    def reset(self) -> None:
        """Forget the series: before its first step all are missing."""
        self._values: torch.Tensor | None = None  # (window_length - 1, num_input_channels), the end of the series
        self._inside: torch.Tensor | None = None  # (window_length - 1,), whether the series had begun
        self._has_begun = False

    @torch.no_grad()
    def push(self, values: torch.Tensor) -> torch.Tensor:
        """Embed further steps; see SeriesStream."""
        before = self.window_length - 1
        if self._values is None or self._inside is None:
            self._values = values.new_full((before, values.shape[1]), torch.nan)
            self._inside = torch.zeros(before, dtype=torch.bool, device=values.device)
        observed = self.model.observed_timestamps(~values.isnan())
        has_begun = torch.ones_like(observed) if self._has_begun else observed.cumsum(0) > 0
        values = torch.cat([self._values, values])
        inside = torch.cat([self._inside, has_begun])
        kept = range(before, before + 1)
        embeddings = embed_windows(
            self.model, values, inside, kept, 0, self.batch_size, self.pooling, **self.method_arguments
        )
        self._values, self._inside = values[len(values) - before :].clone(), inside[len(inside) - before :].clone()
        self._has_begun = bool(has_begun[-1])
        return embeddings
