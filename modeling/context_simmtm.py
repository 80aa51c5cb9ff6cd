"""Picking timestamps and positions of every series of a batch."""

from __future__ import annotations

import torch


def take_positions(hidden: torch.Tensor, places: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Pick positions of every series.

    Args:
        hidden: (batch_size, num_groups, num_positions, hidden_size).
        places: (batch_size, length) of any numbers.
        inside: (batch_size, length) bool, False for zeros.

    Returns:
        (batch_size, num_groups, length, hidden_size).
    """
    batch_size, num_groups, num_positions, hidden_size = hidden.shape
    index = places.clamp(min=0, max=num_positions - 1).view(batch_size, 1, -1, 1)
    return hidden.gather(2, index.expand(-1, num_groups, -1, hidden_size)) * inside.view(batch_size, 1, -1, 1)


def take_context(
    values: torch.Tensor, observed: torch.Tensor, context_length: int, at_end: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every series the context's length: cut off what is too long, leave missing what is too short.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool.
        context_length: Number of timestamps wanted.
        at_end: Whether the last observed timestamp of a series becomes the context's last one, instead of its first
            observed one the first.

    Returns:
        Values and observed, (batch_size, context_length, num_channels).
    """
    sequence_length = values.shape[1]
    steps = torch.arange(sequence_length, device=values.device)
    anything = observed.any(-1)
    if at_end:
        start = torch.where(anything, steps, -1).amax(1) + 1 - context_length
    else:
        start = torch.where(anything, steps, sequence_length).amin(1)
    places = start.unsqueeze(1) + torch.arange(context_length, device=values.device)
    inside = (places >= 0) & (places < sequence_length)
    index = places.clamp(min=0, max=sequence_length - 1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, index), observed.gather(1, index) & inside.unsqueeze(-1)
