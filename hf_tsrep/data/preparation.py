"""TS2Vec's preparation of series as pure functions: nothing is ever changed in place.

Missing values are NaN; a step is missing where every channel is. Source: Yue et al., "TS2Vec: Towards Universal
Representation of Time Series", AAAI 2022, official implementation.
"""

from __future__ import annotations

import torch
from torch import Tensor


def missing_steps(past_values: Tensor) -> Tensor:
    """Returns where every channel is missing: (..., time, channel) float -> (..., time) bool."""
    return past_values.isnan().all(dim=-1)


def centre_observed_span(past_values: Tensor) -> Tensor:
    """Moves the span between each series' first and last observed step to the middle of the time axis.

    Args:
        past_values: (batch_size, sequence_length, num_channels).

    Returns:
        The same shape. Of an odd number of missing steps outside the span the larger half goes behind it. A series
        without an observed step is returned as it is.
    """
    sequence_length = past_values.shape[1]
    missing = missing_steps(past_values)
    observed = (~missing).long()
    leading = observed.argmax(dim=1)
    trailing = observed.flip(1).argmax(dim=1)
    shift = (leading + trailing) // 2 - leading
    shift = torch.where(missing.all(dim=1), 0, shift)
    # Only missing steps are carried around the ends.
    source = (torch.arange(sequence_length, device=past_values.device) - shift[:, None]) % sequence_length
    return past_values.gather(1, source[:, :, None].expand_as(past_values))


def split_with_missing(past_values: Tensor, num_sections: int) -> Tensor:
    """Cuts the time axis into sections of equal length and stacks them along the batch axis.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        num_sections: how many; the first `sequence_length % num_sections` are one step longer.

    Returns:
        (num_sections * batch_size, ceil(sequence_length / num_sections), num_channels): all series of section 0 first,
        shorter sections padded with NaN at the end.

    Raises:
        ValueError: `num_sections` is not between 1 and `sequence_length`.
    """
    sequence_length = past_values.shape[1]
    if not 1 <= num_sections <= sequence_length:
        raise ValueError(f"num_sections={num_sections} must lie between 1 and the {sequence_length} steps.")
    section_length = -(-sequence_length // num_sections)
    sections = past_values.tensor_split(num_sections, dim=1)
    return torch.cat([pad_with_missing(section, section_length) for section in sections])


def pad_with_missing(past_values: Tensor, target_length: int, both_sides: bool = False) -> Tensor:
    """Pads the time axis with NaN to `target_length`; longer series are returned as they are.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        target_length: steps to reach.
        both_sides: False pads at the end; True pads both ends, the larger half of an odd number at the end.

    Returns:
        (batch_size, max(sequence_length, target_length), num_channels).
    """
    num_steps = max(target_length - past_values.shape[1], 0)
    left = num_steps // 2 if both_sides else 0
    return pad_with_missing_steps(past_values, left, num_steps - left)


def pad_with_missing_steps(past_values: Tensor, left: int = 0, right: int = 0) -> Tensor:
    """Adds `left` missing steps in front and `right` behind.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        left: steps in front.
        right: steps behind.

    Returns:
        (batch_size, left + sequence_length + right, num_channels).
    """
    if left == 0 and right == 0:
        return past_values
    return torch.nn.functional.pad(past_values, (0, 0, left, right), value=float("nan"))


def take_per_row(past_values: Tensor, starts: Tensor, num_steps: int) -> Tensor:
    """Takes a stretch of `num_steps` from each series, beginning at the series' own start.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        starts: (batch_size,) integers.
        num_steps: length of every stretch.

    Returns:
        (batch_size, num_steps, num_channels).
    """
    steps = starts[:, None] + torch.arange(num_steps, device=past_values.device)
    rows = torch.arange(past_values.shape[0], device=past_values.device)[:, None]
    return past_values[rows, steps]
