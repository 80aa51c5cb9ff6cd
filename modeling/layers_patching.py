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


def whole_series(values: torch.Tensor, observed: torch.Tensor) -> AlignedSeries:
    """Take every timestamp of a batch for a part of its series, missing ones at an end too.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool.

    Returns:
        The series, all of the same length.
    """
    start = torch.zeros(values.shape[0], dtype=torch.long, device=values.device)
    return AlignedSeries(values, observed, start, start + values.shape[1])


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
        rest: What becomes of timestamps that fill no patch. "further": there is always one patch more than are full,
            as in TimeDRL and PatchTST. "repeat": there is one where timestamps remain. "drop": there is none, but in a
            series shorter than a patch. A patch that is not full repeats the last timestamp. "zeros": zeros stand
            before and after a series, so many that its length becomes a multiple of the stride, at least a stride of
            them, as in TimeDART's classification model.
    """

    patch_length: int
    patch_stride: int
    rest: str = "further"

    def num_patches(self, sequence_length: int) -> int:
        """Return the number of patches of a series, at least 1; see `rest`."""
        if self.rest == "zeros":
            full = torch.sym_max(sequence_length - self.patch_length, 0) // self.patch_stride + 2
            zeros = torch.sym_max(full * self.patch_stride - sequence_length, 0)
            count = (sequence_length + 2 * zeros - self.patch_length) // self.patch_stride + 1
        else:
            count = (sequence_length + self._further - self.patch_length) // self.patch_stride + 1
        # A traced graph would be another one for a single patch; a second one after the series changes nothing.
        return torch.sym_max(count, 2) if torch.compiler.is_compiling() else max(count, 1)

    @property
    def _further(self) -> int:
        """Return how many timestamps later a series might end without having a patch more."""
        return {"further": self.patch_stride, "repeat": self.patch_stride - 1, "drop": 0}[self.rest]

    def num_patches_of_rows(self, length: torch.Tensor) -> torch.Tensor:
        """Return the number of patches of every series: (batch_size,), given their lengths (batch_size,)."""
        further = 2 * self.zeros_before(length) if self.rest == "zeros" else self._further
        beyond = length + further - self.patch_length
        return (beyond.div(self.patch_stride, rounding_mode="floor") + 1).clamp(min=1)

    def zeros_before(self, length: torch.Tensor) -> torch.Tensor:
        """Return the number of zeros before every series, and after it: (batch_size,)."""
        if self.rest != "zeros":
            return torch.zeros_like(length)
        full = (length - self.patch_length).clamp(min=0).div(self.patch_stride, rounding_mode="floor") + 2
        return (full * self.patch_stride - length).clamp(min=0)

    def places(self, length: torch.Tensor, sequence_length: int) -> torch.Tensor:
        """Return the timestamp of every position of every patch.

        Args:
            length: (batch_size,) number of timestamps of each.
            sequence_length: Largest number of timestamps.

        Returns:
            (batch_size, num_patches, patch_length); below 0 before a series, and from its length on after it.
        """
        num_patches = self.num_patches(sequence_length)
        if self.rest == "zeros":  # a shorter series may have more patches, which begin with more zeros
            num_patches = torch.sym_max((sequence_length + 4 * self.patch_stride) // self.patch_stride, 2)
            if not torch.compiler.is_compiling():
                num_patches = int(self.num_patches_of_rows(length).max())
        first = torch.arange(num_patches, device=length.device) * self.patch_stride
        steps = first.unsqueeze(1) + torch.arange(self.patch_length, device=length.device)
        return steps - self.zeros_before(length).view(-1, 1, 1)

    def cut(self, values: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Cut aligned series into patches; positions after a series hold its last timestamp, or 0 (see `rest`).

        Args:
            values: (batch_size, sequence_length, num_channels).
            length: (batch_size,) number of timestamps of each.

        Returns:
            (batch_size, num_patches, patch_length, num_channels); a shorter series has further patches, which hold
            nothing but its last timestamp.
        """
        batch_size, sequence_length, num_channels = values.shape
        places = self.places(length, sequence_length)
        num_patches, last = places.shape[1], length.view(-1, 1, 1) - 1
        steps = torch.minimum(places.clamp(min=0), last).view(batch_size, -1, 1).expand(-1, -1, num_channels)
        patches = values.gather(1, steps).view(batch_size, num_patches, self.patch_length, num_channels)
        if self.rest != "zeros":
            return patches
        return patches.masked_fill(((places < 0) | (places > last)).unsqueeze(-1), 0)

    def to_timestamps(self, embeddings: torch.Tensor, aligned: AlignedSeries) -> torch.Tensor:
        """Give every timestamp the mean of the patches that hold it; one in none has the last patch.

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
        steps = steps + self.zeros_before(aligned.length).unsqueeze(1)
        num_patches = self.num_patches_of_rows(aligned.length).unsqueeze(1)
        newest = torch.minimum(steps.div(self.patch_stride, rounding_mode="floor"), num_patches - 1)
        total = embeddings.new_zeros(embeddings.shape[0], sequence_length, embeddings.shape[-1])
        count = embeddings.new_zeros(embeddings.shape[0], sequence_length, 1)
        for back in range(-(-self.patch_length // self.patch_stride)):
            patch = newest - back
            holds = inside & (patch >= 0)
            if back > 0:  # the newest patch is the nearest one of a timestamp in none
                holds = holds & (patch * self.patch_stride + self.patch_length > steps)
            place = patch.clamp(min=0, max=embeddings.shape[1] - 1).unsqueeze(-1)
            total = total + embeddings.gather(1, place.expand(-1, -1, embeddings.shape[-1])) * holds.unsqueeze(-1)
            count = count + holds.unsqueeze(-1)
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
