"""Overlapping windows of the training series, for methods that are trained on windows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data import PretrainingDataset, WindowDataset
from ..errors import SettingsError


class PretrainingWindows(WindowDataset):
    """Every window of the series; see `hf_tsrep.data.WindowDataset`."""

    @property
    def sequence_length(self) -> int:
        """Steps of every item."""
        return self.window_length


def pretraining_dataset(
    series: Sequence[np.ndarray], max_train_length: int | None, window_stride: int | None, seed: int
) -> Any:
    """Return what a pre-training reads.

    Args:
        series: Arrays (time, num_channels).
        max_train_length: See DataSettings.
        window_stride: See DataSettings.
        seed: Seed of random crops.

    Returns:
        Windows where window_stride is given and a series is longer than one, else pieces by TS2Vec's rules.

    Raises:
        SettingsError: window_stride is given without max_train_length, or below 1.
    """
    if window_stride is None:
        return PretrainingDataset(series, max_train_length, seed=seed)
    if max_train_length is None or window_stride < 1:
        raise SettingsError(
            f"window_stride={window_stride} with max_train_length={max_train_length}: windows need a length, and a "
            "stride of at least 1."
        )
    if max(map(len, series)) < max_train_length:
        return PretrainingDataset(series, max_train_length, seed=seed)
    return PretrainingWindows(series, max_train_length, window_stride)
