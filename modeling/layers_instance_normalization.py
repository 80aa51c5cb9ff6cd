"""Instance normalisation: every channel of every series by its own mean and deviation (Kim et al., ICLR 2022)."""

from __future__ import annotations

from typing import NamedTuple

import torch


class InstanceStatistics(NamedTuple):
    """Mean and deviation of every channel of every series.

    Args:
        mean: (batch_size, 1, num_channels), float32.
        deviation: The same shape: square root of the population variance plus epsilon.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def channels(self, which: slice) -> InstanceStatistics:
        """Return the statistics of some channels."""
        return InstanceStatistics(self.mean[..., which], self.deviation[..., which])


def instance_statistics(values: torch.Tensor, observed: torch.Tensor, epsilon: float = 1e-5) -> InstanceStatistics:
    """Measure the observed values.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool; other values may be anything, NaN too.
        epsilon: Added to the variance.

    Returns:
        The statistics; mean 0 for a channel without an observed value.
    """
    count = observed.sum(1, keepdim=True).clamp(min=1)
    seen = torch.where(observed, values, 0.0).float()
    mean = seen.sum(1, keepdim=True) / count
    # The mean of what is left corrects the rounding of a sum of large values.
    mean = mean + torch.where(observed, seen - mean, 0.0).sum(1, keepdim=True) / count
    variance = torch.where(observed, seen - mean, 0.0).square().sum(1, keepdim=True) / count
    return InstanceStatistics(mean, (variance + epsilon).sqrt())


def normalize_instances(values: torch.Tensor, observed: torch.Tensor, statistics: InstanceStatistics) -> torch.Tensor:
    """Normalise the observed values; the others become 0, which is their channel's mean.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool.
        statistics: What to normalise by.

    Returns:
        The same shape, float32.
    """
    centred = torch.where(observed, values, 0.0).float() - statistics.mean
    return torch.where(observed, centred / statistics.deviation, 0.0)


def denormalize_instances(values: torch.Tensor, statistics: InstanceStatistics) -> torch.Tensor:
    """Undo the normalisation.

    Args:
        values: (batch_size, any number of timestamps, num_channels).
        statistics: What was normalised by.

    Returns:
        The same shape, float32.
    """
    return values.float() * statistics.deviation + statistics.mean
