"""From timestamps to patches and back, for series of several lengths in one batch.

Every series is moved so that its first observed timestamp comes first: padding before it and after it then
changes no patch. The last value is repeated after the series, as TimeDRL and PatchTST do, so that the last timestamps
fill a patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AlignedSeries:
    """A batch of series that begin at the first position.

    Args:
        values: (batch_size, sequence_length, num_channels); anything where it is not observed.
        observed: The same shape, bool; False after a series.
        start: (batch_size,) where each series began.
        length: (batch_size,) number of timestamps from the first to the last observed one, at least 1.
    """

    values: torch.Tensor
    observed: torch.Tensor
    start: torch.Tensor
    length: torch.Tensor


def align_series(values: torch.Tensor, observed: torch.Tensor) -> AlignedSeries:
    """Move every series to the first position.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool. A timestamp belongs to the series from the first to the last one at which any
            channel is observed.

    Returns:
        The aligned series.
    """
    sequence_length = values.shape[1]
    steps = torch.arange(sequence_length, device=values.device)
    anything = observed.any(-1)
    start = torch.where(anything, steps, sequence_length).amin(1).clamp(max=sequence_length - 1)
    stop = torch.where(anything, steps, -1).amax(1) + 1
    length = (stop - start).clamp(min=1)
    if not torch.compiler.is_compiling() and not bool(start.any()):
        return AlignedSeries(values, observed, start, length)
    origin = (start.unsqueeze(1) + steps).clamp(max=sequence_length - 1).unsqueeze(-1).expand_as(values)
    inside = (steps < length.unsqueeze(1)).unsqueeze(-1)
    return AlignedSeries(values.gather(1, origin), observed.gather(1, origin) & inside, start, length)


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


@dataclass(frozen=True)
class PatchLayout:
    """Which timestamps of an aligned series each patch holds.

    Args:
        patch_length: Number of timestamps of a patch.
        patch_stride: Number of timestamps from one patch to the next, at most patch_length.
    """

    patch_length: int
    patch_stride: int

    def num_patches(self, sequence_length: int) -> int:
        """Return the number of patches of a series: floor((length - patch_length) / patch_stride) + 2, at least 1."""
        count = (sequence_length + self.patch_stride - self.patch_length) // self.patch_stride + 1
        # A traced graph would be another one for a single patch; a second one after the series changes nothing.
        return torch.sym_max(count, 2) if torch.compiler.is_compiling() else max(count, 1)

    def num_patches_of_rows(self, length: torch.Tensor) -> torch.Tensor:
        """Return the number of patches of every series: (batch_size,), given their lengths (batch_size,)."""
        beyond = length + self.patch_stride - self.patch_length
        return (beyond.div(self.patch_stride, rounding_mode="floor") + 1).clamp(min=1)

    def cut(self, values: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Cut aligned series into patches; positions after a series hold its last timestamp.

        Args:
            values: (batch_size, sequence_length, num_channels).
            length: (batch_size,) number of timestamps of each.

        Returns:
            (batch_size, num_patches, patch_length, num_channels); a shorter series has further patches, which hold
            nothing but its last timestamp.
        """
        batch_size, sequence_length, num_channels = values.shape
        num_patches = self.num_patches(sequence_length)
        first = torch.arange(num_patches, device=values.device) * self.patch_stride
        steps = (first.unsqueeze(1) + torch.arange(self.patch_length, device=values.device)).view(1, -1, 1)
        steps = torch.minimum(steps, length.view(-1, 1, 1) - 1).expand(batch_size, -1, num_channels)
        return values.gather(1, steps).view(batch_size, num_patches, self.patch_length, num_channels)

    def to_timestamps(self, embeddings: torch.Tensor, aligned: AlignedSeries) -> torch.Tensor:
        """Give every timestamp the mean of the patches that hold it.

        Args:
            embeddings: (batch_size, num_patches, hidden_size).
            aligned: The series whose patches they are.

        Returns:
            (batch_size, sequence_length, hidden_size), timestamps where they were before the series was aligned; zeros
            beyond the series.
        """
        sequence_length = aligned.values.shape[1]
        steps = torch.arange(sequence_length, device=embeddings.device) - aligned.start.unsqueeze(1)
        inside = (steps >= 0) & (steps < aligned.length.unsqueeze(1))
        num_patches = self.num_patches_of_rows(aligned.length).unsqueeze(1)
        newest = steps.div(self.patch_stride, rounding_mode="floor")
        total = embeddings.new_zeros(embeddings.shape[0], sequence_length, embeddings.shape[-1])
        count = embeddings.new_zeros(embeddings.shape[0], sequence_length, 1)
        for back in range(-(-self.patch_length // self.patch_stride)):
            patch = newest - back
            holds = inside & (patch >= 0) & (patch < num_patches)
            holds = (holds & (patch * self.patch_stride + self.patch_length > steps)).unsqueeze(-1)
            place = patch.clamp(min=0, max=embeddings.shape[1] - 1).unsqueeze(-1)
            total = total + embeddings.gather(1, place.expand(-1, -1, embeddings.shape[-1])) * holds
            count = count + holds
        return total / count.clamp(min=1)


def last_patches(patches: torch.Tensor, num_patches: torch.Tensor, num_context_patches: int) -> torch.Tensor:
    """Put the last patches of every series side by side.

    Args:
        patches: (batch_size, num_patches, hidden_size), with independent channels (batch_size, num_input_channels,
            num_patches, hidden_size).
        num_patches: (batch_size,) number of patches of each series, at most num_context_patches. A shorter series
            lacks the first ones, in whose place zeros stand.
        num_context_patches: Number of patches of the context.

    Returns:
        (batch_size, num_context_patches * hidden_size), with independent channels (batch_size, num_input_channels,
        num_context_patches * hidden_size).
    """
    place = torch.arange(num_context_patches, device=patches.device) - num_context_patches + num_patches.unsqueeze(1)
    shape = (len(patches), *(1,) * (patches.ndim - 3), num_context_patches, 1)
    index = place.clamp(min=0).view(shape).expand(*patches.shape[:-2], -1, patches.shape[-1])
    return (patches.gather(-2, index) * (place >= 0).view(shape)).flatten(-2)
