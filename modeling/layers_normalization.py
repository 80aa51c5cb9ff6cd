"""Batch normalisation over what is observed, by view and over all processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .distributed_time_series import gather_rows, process_share


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

    def of_quantiles(self) -> InstanceStatistics:
        """Return the statistics for values that have an axis of quantiles after that of the channels."""
        return InstanceStatistics(self.mean.unsqueeze(-1), self.deviation.unsqueeze(-1))


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


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation whose statistics leave out rows that are not observed.

    With several processes the statistics are those of the global batch, with their gradient. Several views of a batch
    are normalised one by one, as several passes would be, and update the running statistics in their order. Parameters
    and buffers are those of `torch.nn.BatchNorm1d`.
    """

    def forward(
        self, features: torch.Tensor, observed: torch.Tensor | None = None, num_views: int = 1
    ) -> torch.Tensor:
        """Normalise.

        Args:
            features: (num_views * num_rows, ..., num_features).
            observed: The same shape without the last axis, bool; None for all.
            num_views: Number of views after each other on the first axis.

        Returns:
            The same shape as `features`, float32.
        """
        rows = features.float().reshape(num_views, -1, features.shape[-1])
        if self.training:
            seen = rows.new_ones(rows.shape[:2]) if observed is None else observed.reshape(num_views, -1).float()
            mean, variance = self._measure(rows, seen.unsqueeze(-1))
        else:
            mean, variance = self._running()
        normalized = (rows - mean) * (variance + self.eps).rsqrt() * self.weight.float() + self.bias.float()
        return normalized.view(features.shape)

    def _running(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.running_mean is not None, "the house's batch normalisations keep statistics"
        assert self.running_var is not None
        return self.running_mean.float(), self.running_var.float()

    def _measure(self, rows: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Measure every view and update the running statistics: mean and variance (num_views, 1, num_features)."""
        count = _global_sum(seen.sum(1, keepdim=True))
        some = count.clamp(min=1)
        mean = _global_sum((rows * seen).sum(1, keepdim=True)) / some
        variance = _global_sum(((rows - mean).square() * seen).sum(1, keepdim=True)) / some
        with torch.no_grad():
            unbiased = variance * some / (some - 1).clamp(min=1)
            for view in range(len(rows)):
                self._update(mean[view, 0], unbiased[view, 0], count[view, 0] > 0)
        return mean, variance

    def _update(self, mean: torch.Tensor, variance: torch.Tensor, seen: torch.Tensor) -> None:
        assert self.num_batches_tracked is not None, "the house's batch normalisations keep statistics"
        momentum = self.momentum if self.momentum is not None else 0.1
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.copy_(torch.where(seen, running.lerp(new.to(running.dtype), momentum), running))
        self.num_batches_tracked.add_(1)


def _global_sum(local: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, with the gradient."""
    return local if process_share()[1] == 1 else gather_rows(local.unsqueeze(0)).sum(0)
