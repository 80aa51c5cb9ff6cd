"""The random choices of TS2Vec's pretext task: two crops of every series, each masked (Yue et al., section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .configuration_ts2vec import TS2VecConfig
from .layers_masking import timestamp_mask


@dataclass(frozen=True)
class TS2VecViews:
    """The random choices of one pre-training step: two crops of every series that overlap in `crop_length` steps.

    The last `crop_length` timestamps of the first view are the first `crop_length` of the second.

    Args:
        crop_length: Number of compared timestamps.
        first_start: (batch_size,) first timestamp of the first view.
        first_length: Number of timestamps of the first view.
        second_start: (batch_size,) first timestamp of the second view.
        second_length: Number of timestamps of the second view.
        first_mask: (batch_size, first_length) bool, True = kept, or None for all.
        second_mask: (batch_size, second_length) bool, True = kept, or None for all.
    """

    crop_length: int
    first_start: torch.Tensor
    first_length: int
    second_start: torch.Tensor
    second_length: int
    first_mask: torch.Tensor | None
    second_mask: torch.Tensor | None

    def rows(self, start: int, stop: int) -> TS2VecViews:
        """Return the choices for some series of the batch."""
        return TS2VecViews(
            self.crop_length,
            self.first_start[start:stop],
            self.first_length,
            self.second_start[start:stop],
            self.second_length,
            None if self.first_mask is None else self.first_mask[start:stop],
            None if self.second_mask is None else self.second_mask[start:stop],
        )


def _draw_integer(low: int, high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def draw_views(
    batch_size: int, length: int, config: TS2VecConfig, generator: torch.Generator | None = None
) -> TS2VecViews:
    """Draw two overlapping crops and their timestamp masks (paper, section 3.2).

    With u = temporal_unit: the overlap is uniform in 2^(u+1) .. length, its place uniform, each view reaches out
    uniformly on its own side, and each series has an offset of its own, uniform where both views stay inside. A
    series shorter than 2^(u+1) is not cropped.

    Args:
        batch_size: Number of series.
        length: Number of timestamps of a series.
        config: Gives temporal_unit, mask_mode and mask_ratio.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        The choices.
    """
    crop_length = _draw_integer(min(2 ** (config.temporal_unit + 1), length), length, generator)
    left = _draw_integer(0, length - crop_length, generator)
    right = left + crop_length
    outer_left = _draw_integer(0, left, generator)
    outer_right = _draw_integer(right, length, generator)
    offset = torch.randint(-outer_left, length - outer_right + 1, (batch_size,), generator=generator)
    lengths = right - outer_left, outer_right - left
    masks = [timestamp_mask(config.mask_mode, batch_size, view, config.mask_ratio, generator) for view in lengths]
    return TS2VecViews(crop_length, offset + outer_left, lengths[0], offset + left, lengths[1], *masks)


def take_steps(values: torch.Tensor, start: torch.Tensor, length: int) -> torch.Tensor:
    """Cut a stretch of `length` timestamps out of every series.

    Args:
        values: (batch_size, sequence_length, ...).
        start: (batch_size,) first timestamp of each.
        length: Number of timestamps.

    Returns:
        (batch_size, length, ...).
    """
    steps = start.to(values.device).unsqueeze(1) + torch.arange(length, device=values.device)
    return values[torch.arange(len(values), device=values.device).unsqueeze(1), steps]
