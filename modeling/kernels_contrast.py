"""TS2Vec's contrasts by tiles that stay in cache: the fast path of `dual_loss` in modeling_ts2vec.py.

The equations there hold every group's matrix of similarities, 2 * length rows and columns a series, in memory several
times over. At 4,320 timestamps a training step with these tiles is several times as fast (scripts/benchmark.py, case
long_training_step).

The similarities of a group form a symmetric matrix, of which a row's log-sum-exp and one entry are used. So only the
tiles on and above the diagonal are computed, one at a time in a buffer that stays in cache, once for the log-sum-exp
and once more for the gradient, which is made in the forward pass: nothing of the matrix ever reaches memory. (Keeping
the tiles for the second pass is slower than their product.)

Both views are held in one tensor (batch_size, 2, length, embedding_size), which is the temporal contrast's layout
without a copy.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Side of a tile: a buffer of it is 1 MiB in float32 on a CPU.
_TILE_ON_CPU, _TILE_ON_ACCELERATOR = 512, 4096


def contrast_groups(
    vectors: torch.Tensor, valid: torch.Tensor | None, gradient: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Sum the cross-entropies of all vectors, each against its group.

    Args:
        vectors: (num_groups, 2 * half, size); vector i and vector i + half of a group are partners.
        valid: (num_groups, 2 * half) bool; a vector that is not valid is neither anchor nor negative. None: all are.
        gradient: Shaped as `vectors`; `scale` times the gradient of the sum is written here. None if not wanted.
        scale: See `gradient`.

    Returns:
        The sum, a scalar in float32 or, for float64 vectors, in float64.
    """
    num_groups, num_vectors, _ = vectors.shape
    largest = _TILE_ON_CPU if vectors.device.type == "cpu" else _TILE_ON_ACCELERATOR
    # Many small matrices fill one buffer: a call a group would cost more than its products.
    groups_at_once = max(1, largest**2 // num_vectors**2)
    total = torch.zeros((), dtype=_precision(vectors), device=vectors.device)
    for start in range(0, num_groups, groups_at_once):
        chunk = slice(start, start + groups_at_once)
        chosen = None if valid is None else valid[chunk]
        similarities = _Similarities(vectors[chunk], chosen, min(num_vectors, largest))
        log_sum = similarities.log_sum_exp()
        total += _cross_entropy(vectors[chunk], log_sum, chosen)
        if gradient is not None:
            similarities.write_gradient(log_sum, gradient[chunk], scale)
    return total


def _precision(vectors: torch.Tensor) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)


def _cross_entropy(vectors: torch.Tensor, log_sum: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    half = vectors.shape[1] // 2
    positive = torch.linalg.vecdot(vectors[:, :half].to(log_sum.dtype), vectors[:, half:].to(log_sum.dtype))
    if valid is None:
        return log_sum.sum() - 2 * positive.sum()
    return (log_sum - torch.cat([positive, positive], dim=1)).masked_fill(~valid, 0.0).sum()


class _Similarities:
    """The tiles on and above the diagonal of a few groups' similarity matrices.

    Args:
        vectors: (num_groups, num_vectors, size).
        valid: (num_groups, num_vectors) bool or None.
        tile: Side of a tile.
    """

    def __init__(self, vectors: torch.Tensor, valid: torch.Tensor | None, tile: int) -> None:
        num_groups, num_vectors, _ = vectors.shape
        self.vectors, self.valid = vectors, valid
        self.spans = [slice(first, min(first + tile, num_vectors)) for first in range(0, num_vectors, tile)]
        self.pairs = [(row, column) for row in range(len(self.spans)) for column in range(row, len(self.spans))]
        self.precision = _precision(vectors)
        self.buffers = torch.empty(2, num_groups * tile * tile, dtype=self.precision, device=vectors.device)

    def _buffer(self, index: int, row: int, column: int) -> torch.Tensor:
        sides = [span.stop - span.start for span in (self.spans[row], self.spans[column])]
        shape = (len(self.vectors), *sides)
        return self.buffers[index, : math.prod(shape)].view(shape)

    def _compute(self, row: int, column: int) -> torch.Tensor:
        rows, columns = self.spans[row], self.spans[column]
        similarity = self._buffer(0, row, column)
        left, right = self.vectors[:, rows], self.vectors[:, columns].transpose(1, 2)
        if left.dtype != self.precision:
            similarity.copy_(left @ right)
        elif len(left) == 1:
            torch.mm(left[0], right[0], out=similarity[0])
        else:
            torch.bmm(left, right, out=similarity)
        # A vector is compared with the others, not with itself.
        if row == column:
            similarity.diagonal(dim1=1, dim2=2).fill_(-math.inf)
        if self.valid is not None:
            similarity.masked_fill_(~(self.valid[:, rows, None] & self.valid[:, None, columns]), -math.inf)
        return similarity

    def log_sum_exp(self) -> torch.Tensor:
        """Return (num_groups, num_vectors): each vector's log-sum-exp over the others; 0 where there are no others."""
        num_groups, num_vectors, _ = self.vectors.shape
        log_sum = self.vectors.new_full((num_groups, num_vectors), -math.inf, dtype=self.precision)
        for row, column in self.pairs:
            similarity = self._compute(row, column)
            rows, columns = self.spans[row], self.spans[column]
            log_sum[:, rows] = torch.logaddexp(log_sum[:, rows], similarity.logsumexp(dim=2))
            if column != row:
                log_sum[:, columns] = torch.logaddexp(log_sum[:, columns], similarity.logsumexp(dim=1))
        return log_sum.masked_fill_(log_sum == -math.inf, 0.0)

    def write_gradient(self, log_sum: torch.Tensor, gradient: torch.Tensor, scale: float) -> None:
        """Write `scale` times the gradient of the summed cross-entropies into `gradient`, of the vectors' shape."""
        half = self.vectors.shape[1] // 2
        for own, partner in ((slice(half), slice(half, None)), (slice(half, None), slice(half))):
            # Twice, because a pair is the positive of both its vectors.
            torch.mul(self.vectors[:, partner], -2.0 * scale, out=gradient[:, own])
        if self.valid is not None:
            gradient.masked_fill_(~self.valid.unsqueeze(-1), 0.0)
        for row, column in self.pairs:
            rows, columns = self.spans[row], self.spans[column]
            similarity = self._compute(row, column)
            # A pair's similarity is an entry of both vectors' rows, so both softmax probabilities weigh it.
            weight = torch.sub(similarity, log_sum[:, rows, None], out=self._buffer(1, row, column)).exp_()
            weight += similarity.sub_(log_sum[:, None, columns]).exp_()
            weight = weight.to(self.vectors.dtype)
            _add_product(gradient[:, rows], weight, self.vectors[:, columns], scale)
            if column != row:
                _add_product(gradient[:, columns], weight.transpose(1, 2), self.vectors[:, rows], scale)


def _add_product(target: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> None:
    if target.shape[0] == 1 and target.dtype == right.dtype:
        target[0].addmm_(left[0], right[0], alpha=scale)
    else:
        target.add_(left @ right, alpha=scale)


def _temporal_contrast(
    views: torch.Tensor, observed: torch.Tensor | None, part: slice, gradient: torch.Tensor | None, weight: float
) -> torch.Tensor:
    """Sum equation 1 over a part of the series, and write `weight` times its gradient into `gradient`."""
    # A group is one series: the timestamps of both views, which lie after each other in memory.
    vectors = views.reshape(len(views), -1, views.shape[-1])[part]
    valid = None if observed is None else torch.cat([observed, observed], dim=1)[part]
    target = None if gradient is None else gradient.view(len(views), -1, views.shape[-1])[part]
    return contrast_groups(vectors, valid, target, weight)


def _instance_contrast(
    views: torch.Tensor, observed: torch.Tensor | None, part: slice, gradient: torch.Tensor | None, weight: float
) -> torch.Tensor:
    """Sum equation 2 over a part of the timestamps, and add `weight` times its gradient to `gradient`."""
    batch_size, _, _, size = views.shape
    # A group is one timestamp: the series of both views, which have to be copied beside each other.
    vectors = views[:, :, part].permute(2, 1, 0, 3).reshape(-1, 2 * batch_size, size)
    valid = None if observed is None else torch.cat([observed, observed])[:, part].transpose(0, 1)
    target = None if gradient is None else torch.empty_like(vectors, dtype=gradient.dtype)
    total = contrast_groups(vectors, valid, target, weight)
    if gradient is not None and target is not None:
        gradient[:, :, part] += target.view(-1, 2, batch_size, size).permute(2, 1, 0, 3)
    return total


class _DualLoss(torch.autograd.Function):
    """Both contrasts of one level, with the gradient made in the forward pass: the tiles are in cache only then."""

    @staticmethod
    def forward(
        ctx: Any,
        views: torch.Tensor,
        alpha: float,
        temporal: bool,
        observed: torch.Tensor | None,
        share: tuple[int, int],
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index, count = share
        batch_size, _, length, _ = views.shape
        # Every count-th group: the parts differ by one group at the most, whatever the number is.
        part = slice(index, None, count)
        num_vectors = 2 * batch_size * length if observed is None else 2 * int(observed.sum())
        scale = count / max(num_vectors, 1)  # the mean over the parts is then the mean over all vectors
        gradient = torch.zeros(views.shape, dtype=_precision(views), device=views.device) if with_gradient else None
        temporal_loss = instance_loss = torch.zeros((), dtype=_precision(views), device=views.device)
        if temporal and length > 1 and alpha < 1:
            temporal_loss = scale * _temporal_contrast(views, observed, part, gradient, (1.0 - alpha) * scale)
        if batch_size > 1 and alpha > 0:
            instance_loss = scale * _instance_contrast(views, observed, part, gradient, alpha * scale)
        if gradient is not None:
            ctx.save_for_backward(gradient.to(views.dtype))
        ctx.mark_non_differentiable(instance_loss, temporal_loss)
        return alpha * instance_loss + (1.0 - alpha) * temporal_loss, instance_loss, temporal_loss

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor, *unused: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None, None, None]:
        return ctx.saved_tensors[0] * gradient, None, None, None, None, None


def dual_loss(
    views: torch.Tensor,
    alpha: float = 0.5,
    temporal: bool = True,
    observed: torch.Tensor | None = None,
    share: tuple[int, int] = (0, 1),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contrast two views at one level of the hierarchy, as `dual_loss` of modeling_ts2vec.py does.

    Args:
        views: (batch_size, 2, length, embedding_size), the same timestamps in both views.
        alpha: Weight of the instance-wise contrast.
        temporal: Whether there is a temporal contrast.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.
        share: (index, count): compute the index-th of `count` equal parts, scaled so that the mean over the parts is
            the whole. For several processes that hold the same views.

    Returns:
        alpha * instance-wise + (1 - alpha) * temporal, and the two terms themselves without gradient, as scalars. A
        term with weight 0 is not computed and 0.
    """
    wanted = torch.is_grad_enabled() and views.requires_grad
    return _DualLoss.apply(views, alpha, temporal, observed, share, wanted)
