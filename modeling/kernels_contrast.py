"""TS2Vec's hierarchical contrast (paper, section 3.3, equations 1 to 3 and algorithm 1).

Both terms are one computation on groups of vectors: a vector's similarity to its partner in the other view against
its similarity to all others of its group. For the temporal contrast (equation 1) a group is one series and its
vectors are the timestamps of both views; for the instance-wise contrast (equation 2) a group is one timestamp and its
vectors are the series of both views.

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


class _ContrastLevel(torch.autograd.Function):
    """One level of the hierarchy, with the gradient made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        views: torch.Tensor,
        observed: torch.Tensor | None,
        alpha: float,
        temporal: bool,
        share: tuple[int, int],
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        index, count = share
        batch_size, _, length, size = views.shape
        gradient = torch.zeros(views.shape, dtype=_precision(views), device=views.device) if with_gradient else None
        num_valid = 2 * batch_size * length if observed is None else 2 * int(observed.sum())
        scale = count / max(num_valid, 1)
        zero = torch.zeros((), dtype=_precision(views), device=views.device)
        temporal_loss = instance_loss = zero
        if temporal and length > 1 and alpha < 1:
            part = slice(index, None, count)
            target = None if gradient is None else gradient.view(batch_size, 2 * length, size)[part]
            valid = None if observed is None else torch.cat([observed, observed], dim=1)[part]
            vectors = views.reshape(batch_size, 2 * length, size)[part]
            temporal_loss = scale * contrast_groups(vectors, valid, target, (1.0 - alpha) * scale)
        if batch_size > 1 and alpha > 0:
            part = slice(index, None, count)
            vectors = views[:, :, part].permute(2, 1, 0, 3).reshape(-1, 2 * batch_size, size)
            valid = None if observed is None else torch.cat([observed, observed])[:, part].transpose(0, 1)
            target = None if gradient is None else torch.empty_like(vectors, dtype=gradient.dtype)
            instance_loss = scale * contrast_groups(vectors, valid, target, alpha * scale)
            if gradient is not None and target is not None:
                gradient[:, :, part] += target.view(-1, 2, batch_size, size).permute(2, 1, 0, 3)
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


def contrast_level(
    views: torch.Tensor,
    observed: torch.Tensor | None = None,
    alpha: float = 0.5,
    temporal: bool = True,
    share: tuple[int, int] = (0, 1),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contrast two views at one level of the hierarchy.

    Args:
        views: (batch_size, 2, length, embedding_size), the same timestamps in both views.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.
        alpha: Weight of the instance-wise contrast.
        temporal: Whether the temporal contrast is computed.
        share: (index, count): compute the index-th of `count` equal parts, scaled so that the mean over the parts is
            the whole. For several processes that hold the same views.

    Returns:
        alpha * instance-wise + (1 - alpha) * temporal, and the two terms themselves without gradient, as scalars. A
        term with weight 0 is not computed and 0.

    Source:
        TS2Vec, equations 1 and 2. One series has no instance-wise term and one timestamp no temporal one: they are 0.
    """
    wanted = torch.is_grad_enabled() and views.requires_grad
    return _ContrastLevel.apply(views, observed, alpha, temporal, share, wanted)


def halve(views: torch.Tensor, observed: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Max-pool pairs of consecutive timestamps; an odd last one is dropped.

    Args:
        views: (batch_size, 2, length, embedding_size).
        observed: (batch_size, length) bool or None; a timestamp that is not observed never wins against one that is.

    Returns:
        (batch_size, 2, length // 2, embedding_size), and its observed mask (batch_size, length // 2) or None.
    """
    even_length = views.shape[2] // 2 * 2
    even, odd = views[:, :, 0:even_length:2], views[:, :, 1:even_length:2]
    choose_even = even >= odd
    if observed is None:
        return torch.where(choose_even, even, odd), None
    even_seen, odd_seen = observed[:, 0:even_length:2], observed[:, 1:even_length:2]
    choose_even = (choose_even & even_seen[:, None, :, None]) | ~odd_seen[:, None, :, None]
    return torch.where(choose_even, even, odd), even_seen | odd_seen


def hierarchical_contrastive_loss(
    first_view: torch.Tensor,
    second_view: torch.Tensor,
    alpha: float = 0.5,
    temporal_unit: int = 0,
    observed: torch.Tensor | None = None,
    share: tuple[int, int] = (0, 1),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contrast two views at all levels of the hierarchy (TS2Vec, algorithm 1).

    Args:
        first_view: (batch_size, length, embedding_size), the compared timestamps in the first view.
        second_view: The same timestamps in the second view, same shape.
        alpha: Weight of the instance-wise contrast; 1 - alpha is the temporal one's.
        temporal_unit: First level that has a temporal contrast; levels below still count in the mean.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.
        share: See contrast_level.

    Returns:
        Scalars: the loss, and, without gradient, the means over the levels of its instance-wise and temporal terms.
    """
    views = torch.stack([first_view, second_view], dim=1)
    levels: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    while True:
        levels.append(contrast_level(views, observed, alpha, len(levels) >= temporal_unit, share))
        if views.shape[2] == 1:
            break
        views, observed = halve(views, observed)
    losses, instance_losses, temporal_losses = (torch.stack(terms).mean() for terms in zip(*levels, strict=True))
    return losses, instance_losses, temporal_losses
