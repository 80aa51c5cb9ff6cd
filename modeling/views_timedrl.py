"""The random choices of TimeDRL's pretext task: dropout of two passes, and the augmentations of its ablation.

The paper makes two views of a series by dropout alone (section IV-D): augmentations assume what must not change.
Those of its ablation are the usual ones (Um et al., ICMI 2017), with the strengths of the official code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .layers_patching import AlignedSeries

JITTER_DEVIATION = 0.1
SCALING_DEVIATION = 1.0
MOST_SEGMENTS = 4
MASKED_PART = 0.3
SHORTEST_CROP = 0.5


@dataclass(frozen=True)
class TimeDRLViews:
    """The random choices of one pre-training step. The first axis of each tensor is that of the two views.

    Args:
        dropout_seed: Source of every dropout mask.
        noise: (2, batch_size, sequence_length, num_input_channels), added, or None.
        factor: (2, batch_size, 1 or sequence_length, num_input_channels), multiplied with, or None.
        channel_order: (2, num_input_channels), channel that takes each channel's place, or None.
        num_segments: (2, batch_size) number of stretches of equal length that change places, or None.
        segment_keys: (2, batch_size, MOST_SEGMENTS), by which these stretches are sorted, or None.
        crop: (2, batch_size, 2): length and place, between 0 and 1, of the stretch that is kept, or None.
        embedding_kept: (2, num_rows, num_tokens, hidden_size) of zeros and ones: the mask of the dropout behind the
            token embedding, or None to draw it like all others.
    """

    dropout_seed: int
    noise: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    channel_order: torch.Tensor | None = None
    num_segments: torch.Tensor | None = None
    segment_keys: torch.Tensor | None = None
    crop: torch.Tensor | None = None
    embedding_kept: torch.Tensor | None = None

    def rows(self, start: int, stop: int) -> TimeDRLViews:
        """Return the choices for some series of the batch; the seed serves all."""
        names = ("noise", "factor", "num_segments", "segment_keys", "crop")
        cut = {name: value[:, start:stop] for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **cut)

    def apply(self, series: AlignedSeries) -> AlignedSeries:
        """Make both views of instance-normalised series.

        Args:
            series: A batch, 0 where a value is not observed.

        Returns:
            A batch of twice as many series: all first views, then all second views.
        """
        device, batch_size = series.values.device, len(series.values)
        values, observed = series.values.repeat(2, 1, 1), series.observed.repeat(2, 1, 1)
        length = series.length.repeat(2)
        if self.num_segments is not None and self.segment_keys is not None:
            segments, keys = self.num_segments.flatten().to(device), self.segment_keys.flatten(0, 1).to(device)
            order = _segment_order(segments, keys, length, values.shape[1]).unsqueeze(-1).expand_as(values)
            values, observed = values.gather(1, order), observed.gather(1, order)
        if self.channel_order is not None:
            order = self.channel_order.to(device).repeat_interleave(batch_size, 0).unsqueeze(1).expand_as(values)
            values, observed = values.gather(2, order), observed.gather(2, order)
        if self.crop is not None:
            values = values * _kept_by_crop(self.crop.flatten(0, 1).to(device), length, values.shape[1])
        if self.factor is not None:
            values = values * self.factor.flatten(0, 1).to(device)
        if self.noise is not None:
            values = values + self.noise.flatten(0, 1).to(device) * observed
        return AlignedSeries(values, observed, series.start.repeat(2), length)


def draw_views(
    augmentation: str, batch_size: int, length: int, num_channels: int, generator: torch.Generator
) -> TimeDRLViews:
    """Draw the choices of one step.

    Args:
        augmentation: As in TimeDRLConfig.
        batch_size: Number of series.
        length: Number of timestamps, padding included.
        num_channels: Number of channels.
        generator: Source of randomness on the CPU.

    Returns:
        The choices.
    """
    views = TimeDRLViews(int(torch.randint(2**62, (), generator=generator)))
    if augmentation == "jitter":
        noise = torch.randn(2, batch_size, length, num_channels, generator=generator) * JITTER_DEVIATION
        return replace(views, noise=noise)
    if augmentation == "scaling":
        factor = 1.0 + SCALING_DEVIATION * torch.randn(2, batch_size, 1, num_channels, generator=generator)
        return replace(views, factor=factor)
    if augmentation == "rotation":
        signs = 2.0 * torch.randint(2, (2, batch_size, 1, num_channels), generator=generator) - 1.0
        return replace(views, factor=signs, channel_order=torch.rand(2, num_channels, generator=generator).argsort(1))
    if augmentation == "permutation":
        num_segments = torch.randint(1, MOST_SEGMENTS + 1, (2, batch_size), generator=generator)
        keys = torch.rand(2, batch_size, MOST_SEGMENTS, generator=generator)
        return replace(views, num_segments=num_segments, segment_keys=keys)
    if augmentation == "masking":
        kept = torch.rand(2, batch_size, length, num_channels, generator=generator) >= MASKED_PART
        return replace(views, factor=kept.float())
    if augmentation == "cropping":
        return replace(views, crop=torch.rand(2, batch_size, 2, generator=generator))
    return views


def _segment_order(
    num_segments: torch.Tensor, keys: torch.Tensor, length: torch.Tensor, sequence_length: int
) -> torch.Tensor:
    """Return which timestamp takes each place: (batch_size, sequence_length); what is behind a series stays there."""
    steps = torch.arange(sequence_length, device=keys.device)
    segment = (steps * num_segments.unsqueeze(1)).div(length.unsqueeze(1), rounding_mode="floor")
    step_keys = keys.gather(1, segment.clamp(max=keys.shape[1] - 1))
    return torch.where(steps < length.unsqueeze(1), step_keys, torch.inf).argsort(dim=1, stable=True)


def _kept_by_crop(crop: torch.Tensor, length: torch.Tensor, sequence_length: int) -> torch.Tensor:
    """Return ones inside the crops and zeros outside: (batch_size, sequence_length, 1)."""
    cropped = (length * (SHORTEST_CROP + (1.0 - SHORTEST_CROP) * crop[:, 0])).floor().clamp(min=1)
    first = ((length - cropped + 1) * crop[:, 1]).floor()
    steps = torch.arange(sequence_length, device=crop.device)
    inside = (steps >= first.unsqueeze(1)) & (steps < (first + cropped).unsqueeze(1))
    return inside.to(torch.float32).unsqueeze(-1)
