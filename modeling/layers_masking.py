"""Masks over timestamps. True keeps a timestamp, False masks it."""

from __future__ import annotations

import torch


def binomial_mask(
    batch_size: int, length: int, mask_ratio: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Mask every timestamp independently (TS2Vec, section 3.2).

    Args:
        batch_size: Number of series.
        length: Number of timestamps.
        mask_ratio: Probability that a timestamp is masked.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (batch_size, length) bool, True = kept.
    """
    return torch.rand(batch_size, length, generator=generator) >= mask_ratio


def continuous_mask(
    batch_size: int,
    length: int,
    num_segments: int = 5,
    segment_ratio: float = 0.1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Mask a few stretches of consecutive timestamps in every series; they may overlap.

    Args:
        batch_size: Number of series.
        length: Number of timestamps.
        num_segments: Number of stretches a series.
        segment_ratio: Length of a stretch, as a part of `length`; at least one timestamp.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (batch_size, length) bool, True = kept.
    """
    segment_length = min(max(int(segment_ratio * length), 1), length)
    starts = torch.randint(0, length - segment_length + 1, (batch_size, num_segments, 1), generator=generator)
    steps = torch.arange(length)
    return ~((steps >= starts) & (steps < starts + segment_length)).any(dim=1)


def timestamp_mask(
    mode: str, batch_size: int, length: int, mask_ratio: float = 0.5, generator: torch.Generator | None = None
) -> torch.Tensor | None:
    """Draw a mask of the named mode.

    Args:
        mode: "binomial", "continuous", "all_true", "all_false" or "mask_last".
        batch_size: Number of series.
        length: Number of timestamps.
        mask_ratio: For "binomial": probability that a timestamp is masked.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (batch_size, length) bool, True = kept; None where everything is kept.

    Raises:
        ValueError: The mode is unknown.
    """
    if mode == "binomial":
        return binomial_mask(batch_size, length, mask_ratio, generator)
    if mode == "continuous":
        return continuous_mask(batch_size, length, generator=generator)
    if mode == "all_true":
        return None
    if mode == "all_false":
        return torch.zeros(batch_size, length, dtype=torch.bool)
    if mode == "mask_last":
        keep = torch.ones(batch_size, length, dtype=torch.bool)
        keep[:, -1] = False
        return keep
    raise ValueError(
        f"Unknown mask mode {mode!r}; choose one of 'binomial', 'continuous', 'all_true', 'all_false', 'mask_last'."
    )
