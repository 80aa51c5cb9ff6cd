"""Which values of a series are masked, from uniform numbers, in stretches or one by one; and what fills gaps."""

from __future__ import annotations

import torch

from .encoding_time_series import observed_span

FILLINGS = ("zero", "interpolate")


def geometric_mask(uniforms: torch.Tensor, mask_ratio: float, mean_mask_length: float) -> torch.Tensor:
    """Let a chain of two states, masked and kept, walk over the timestamps.

    Source: Zerveas et al., KDD 2021, section 3.2; Dong et al., NeurIPS 2023, equation 1.

    Masked stretches so have the given mean length, kept ones mean_mask_length * (1 - mask_ratio) / mask_ratio.

    Args:
        uniforms: (..., 1 + length) in [0, 1): the first number draws the state of the first step, number i + 1
            whether the state changes after step i.
        mask_ratio: Expected share of masked steps; above 0 and below 1.
        mean_mask_length: Expected length of a masked stretch; at least 1.

    Returns:
        (..., length) bool, True = kept.
    """
    leaves_mask = 1.0 / mean_mask_length
    leaves_kept = leaves_mask * mask_ratio / (1.0 - mask_ratio)
    kept, steps = uniforms[..., 0] > mask_ratio, []
    for number in uniforms[..., 1:].unbind(-1):
        steps.append(kept)
        kept = kept ^ torch.where(kept, number < leaves_kept, number < leaves_mask)
    return torch.stack(steps, dim=-1)


def geometric_mask_at_once(uniforms: torch.Tensor, mask_ratio: float, mean_mask_length: float) -> torch.Tensor:
    """Compute what geometric_mask does, for all steps together: the chain of a batch can have 100,000 steps.

    A number below both probabilities changes the state, whichever it is; one between them leads to the same state from
    both, which is where counting the changes can begin anew; a higher one changes nothing.

    Args:
        uniforms: As in geometric_mask.
        mask_ratio: As in geometric_mask.
        mean_mask_length: As in geometric_mask.

    Returns:
        (..., length) bool, True = kept.
    """
    length = uniforms.shape[-1] - 1
    leaves_mask = 1.0 / mean_mask_length
    leaves_kept = leaves_mask * mask_ratio / (1.0 - mask_ratio)
    first, numbers = uniforms[..., :1] > mask_ratio, uniforms[..., 1:length]
    changes = numbers < min(leaves_mask, leaves_kept)
    settles = (numbers < max(leaves_mask, leaves_kept)) & ~changes
    num_changes = torch.cat([torch.zeros_like(first), changes], dim=-1).cumsum(-1)
    steps = torch.arange(length, device=uniforms.device)
    anchors = torch.cat([torch.ones_like(first), settles], dim=-1)
    last_anchor = torch.where(anchors, steps, 0).cummax(-1).values
    settled = leaves_mask > leaves_kept  # True = kept: the state that is left less often
    state_there = torch.where(last_anchor == 0, first, settled)
    changed_since = (num_changes - num_changes.gather(-1, last_anchor)) % 2 == 1
    return state_there ^ changed_since


def random_mask(uniforms: torch.Tensor, mask_ratio: float) -> torch.Tensor:
    """Mask every step by itself: uniforms in [0, 1) of any shape to bool of the same shape, True = kept."""
    return uniforms < 1.0 - mask_ratio


def observed_neighbours(observed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the observed timestamps nearest to each one, itself where it is observed.

    Counted and looked up, because ONNX has no cumulative maximum.

    Args:
        observed: (batch_size, sequence_length, num_channels) bool.

    Returns:
        Of the same shape, int64: the last one before, -1 where there is none; the first one after, sequence_length
        where there is none.
    """
    length = observed.shape[1]
    steps = torch.arange(length, device=observed.device).view(1, -1, 1).expand(observed.shape)
    count = observed.long().cumsum(1)
    places = torch.where(observed, count, length + 1)  # the last place is for those that nobody looks up
    empty = torch.zeros_like(observed[:, :1], dtype=torch.long)
    table = torch.cat((empty - 1, torch.full_like(steps, length), empty), 1).scatter(1, places, steps)
    return table.gather(1, count), table.gather(1, count + (~observed).long())


def nearest_values(values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Fill gaps of every channel with its last value before them, at the begin with its first; 0 where it has none.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool.

    Returns:
        The same shape.
    """
    steps = torch.arange(values.shape[1], device=values.device).view(1, -1, 1).expand_as(values)
    last, _ = observed_neighbours(observed)
    first = torch.where(observed, steps, values.shape[1] - 1).amin(1, keepdim=True)
    return torch.where(observed, values, 0.0).gather(1, torch.where(last < 0, first, last))


def interpolated_values(values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Fill gaps of every channel linearly, before its first and after its last value with that; 0 where it has none.

    Args:
        values: (batch_size, sequence_length, num_channels), anything where not observed.
        observed: The same shape, bool.

    Returns:
        The same shape; what is observed is exactly what it was.
    """
    length = values.shape[1]
    steps = torch.arange(length, device=values.device).view(1, -1, 1).expand_as(values)
    before, after = observed_neighbours(observed)
    left = torch.where(before < 0, after, before).clamp(max=length - 1)
    right = torch.where(after == length, before, after).clamp(min=0)
    known = torch.where(observed, values, 0.0)
    share = (steps - left) / (right - left).clamp(min=1)
    return known.gather(1, left).lerp(known.gather(1, right), share.to(values.dtype))


def fill_missing(values: torch.Tensor, observed: torch.Tensor, filling: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill what is missing inside a series, as a method's `missing_values` says.

    Args:
        values: (batch_size, sequence_length, num_channels), anything where not observed.
        observed: The same shape, bool.
        filling: "zero": a missing value is 0 and stays missing. "interpolate": from the first to the last timestamp
            with any observed value, every channel that has a value has one everywhere (see interpolated_values), and
            counts as observed.

    Returns:
        The values, 0 where they are still missing, and which of them there are now.
    """
    if filling == "zero" or (not torch.compiler.is_compiling() and bool(observed.all())):
        return torch.where(observed, values, 0.0), observed
    inside = observed_span(observed.any(-1)).unsqueeze(-1) & observed.any(1, keepdim=True)
    return torch.where(inside, interpolated_values(values, observed), 0.0), inside
