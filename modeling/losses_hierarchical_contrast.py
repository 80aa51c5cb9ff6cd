"""TS2Vec's hierarchical contrast (paper, section 3.3, equations 1 to 3 and algorithm 1).

Both terms are one computation on groups of vectors: a vector's similarity to its partner in the other view against its similarity to all
others of its group. For the temporal contrast (equation 1) a group is one series and its vectors are the timestamps of both views; for
the instance-wise contrast (equation 2) a group is one timestamp and its vectors are the series of both views.

The similarities of a group form a symmetric matrix, of which a row's log-sum-exp and one entry are used. So only the tiles on and above the
diagonal are computed, each small enough to stay in cache, and the gradient is made in the forward pass while they are at hand: nothing of
the matrix survives it.
"""

from __future__ import annotations

import math

import torch
from torch.autograd.function import once_differentiable

# Side of a tile, and how much of a group's similarities is kept between the two passes (beyond that it is computed twice).
_TILE_ON_CPU, _TILE_ON_ACCELERATOR = 512, 4096
_KEPT_BYTES_ON_CPU, _KEPT_BYTES_ON_ACCELERATOR = 256 * 2**20, 2 * 2**30


def contrast_groups(
    vectors: torch.Tensor, valid: torch.Tensor | None, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sum the cross-entropies of all vectors, each against its group, and the gradient of that sum.

    Args:
        vectors: (num_groups, 2 * half, size); vector i and vector i + half of a group are partners.
        valid: (num_groups, 2 * half) bool; a vector that is not valid is neither anchor nor negative. None: all are.
        with_gradient: Whether the gradient is wanted.

    Returns:
        The sum, a scalar, and its gradient by `vectors`, or None. Both in float32 or, for float64 vectors, in float64.
    """
    num_groups, num_vectors, _ = vectors.shape
    on_cpu = vectors.device.type == "cpu"
    tile = min(num_vectors, _TILE_ON_CPU if on_cpu else _TILE_ON_ACCELERATOR)
    kept_bytes = _KEPT_BYTES_ON_CPU if on_cpu else _KEPT_BYTES_ON_ACCELERATOR
    groups_at_once = max(1, (_TILE_ON_CPU if on_cpu else _TILE_ON_ACCELERATOR) ** 2 // num_vectors**2)
    precision = _precision(vectors)
    total = torch.zeros((), dtype=precision, device=vectors.device)
    gradient = torch.empty(vectors.shape, dtype=precision, device=vectors.device) if with_gradient else None
    for start in range(0, num_groups, groups_at_once):
        chunk = slice(start, start + groups_at_once)
        similarities = _Similarities(vectors[chunk], None if valid is None else valid[chunk], tile, kept_bytes)
        log_sum = similarities.log_sum_exp()
        total += _cross_entropy(vectors[chunk], log_sum, None if valid is None else valid[chunk])
        if gradient is not None:
            similarities.write_gradient(log_sum, gradient[chunk])
    return total, gradient


def _precision(vectors: torch.Tensor) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)


def _cross_entropy(vectors: torch.Tensor, log_sum: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    half = vectors.shape[1] // 2
    precision = _precision(vectors)
    positive = (vectors[:, :half].to(precision) * vectors[:, half:].to(precision)).sum(-1)
    if valid is None:
        return log_sum.sum() - 2 * positive.sum()
    return (log_sum - torch.cat([positive, positive], dim=1)).masked_fill(~valid, 0.0).sum()


class _Similarities:
    """The tiles on and above the diagonal of a few groups' similarity matrices.

    Args:
        vectors: (num_groups, num_vectors, size).
        valid: (num_groups, num_vectors) bool or None.
        tile: Side of a tile.
        kept_bytes: How much may be kept for the second pass.
    """

    def __init__(self, vectors: torch.Tensor, valid: torch.Tensor | None, tile: int, kept_bytes: int) -> None:
        num_groups, num_vectors, _ = vectors.shape
        self.vectors, self.valid = vectors, valid
        self.spans = [slice(first, min(first + tile, num_vectors)) for first in range(0, num_vectors, tile)]
        self.keep = 2 * num_groups * num_vectors**2 <= kept_bytes  # four bytes each, half of the matrix
        self.kept: dict[tuple[int, int], torch.Tensor] = {}

    def _compute(self, row: int, column: int) -> torch.Tensor:
        rows, columns = self.spans[row], self.spans[column]
        similarity = (self.vectors[:, rows] @ self.vectors[:, columns].transpose(1, 2)).to(_precision(self.vectors))
        if row == column:
            similarity.diagonal(dim1=1, dim2=2).fill_(-math.inf)
        if self.valid is not None:
            pair = self.valid[:, rows, None] & self.valid[:, None, columns]
            similarity.masked_fill_(~pair, -math.inf)
        return similarity

    def log_sum_exp(self) -> torch.Tensor:
        """Return (num_groups, num_vectors): each vector's log-sum-exp over the others; 0 where there are no others."""
        num_groups, num_vectors, _ = self.vectors.shape
        log_sum = torch.full(
            (num_groups, num_vectors), -math.inf, dtype=_precision(self.vectors), device=self.vectors.device
        )
        for row, rows in enumerate(self.spans):
            for column in range(row, len(self.spans)):
                similarity = self._compute(row, column)
                log_sum[:, rows] = torch.logaddexp(log_sum[:, rows], similarity.logsumexp(dim=2))
                if column != row:
                    columns = self.spans[column]
                    log_sum[:, columns] = torch.logaddexp(log_sum[:, columns], similarity.logsumexp(dim=1))
                if self.keep:
                    self.kept[row, column] = similarity
        return log_sum.masked_fill_(log_sum == -math.inf, 0.0)

    def write_gradient(self, log_sum: torch.Tensor, gradient: torch.Tensor) -> None:
        """Write the gradient of the summed cross-entropies into `gradient`, (num_groups, num_vectors, size)."""
        partners = self.vectors.roll(self.vectors.shape[1] // 2, dims=1).to(gradient.dtype)
        if self.valid is not None:
            partners = partners.masked_fill(~self.valid.unsqueeze(-1), 0.0)
        torch.mul(partners, -2.0, out=gradient)
        for row, rows in enumerate(self.spans):
            for column in range(row, len(self.spans)):
                columns = self.spans[column]
                similarity = self.kept.pop((row, column), None)
                if similarity is None:
                    similarity = self._compute(row, column)
                # A pair's similarity is an entry of both vectors' rows, so both softmax probabilities weigh it.
                weight = torch.exp(similarity - log_sum[:, rows, None])
                weight += similarity.sub_(log_sum[:, None, columns]).exp_()
                weight = weight.to(self.vectors.dtype)
                _add_product(gradient[:, rows], weight, self.vectors[:, columns])
                if column != row:
                    _add_product(gradient[:, columns], weight.transpose(1, 2), self.vectors[:, rows])


def _add_product(target: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if target.shape[0] == 1 and target.dtype == right.dtype:
        target[0].addmm_(left[0], right[0])
    else:
        target += left @ right


class _ContrastLevel(torch.autograd.Function):
    """One level of the hierarchy: alpha * instance-wise + (1 - alpha) * temporal, with the gradient made in the forward pass."""

    @staticmethod
    def forward(ctx, first, second, observed, alpha, temporal, share, with_gradient):  # noqa: ANN001, ANN205, D102
        index, count = share
        batch_size, length, _ = first.shape
        gradients = (torch.zeros_like(first), torch.zeros_like(second)) if with_gradient else None
        num_valid = 2 * batch_size * length if observed is None else 2 * int(observed.sum())
        losses = []
        for grouped_by_time, weight in ((True, alpha), (False, 1.0 - alpha)):
            skip = batch_size == 1 if grouped_by_time else (length == 1 or not temporal)
            if skip or weight == 0 or num_valid == 0:
                losses.append(torch.zeros((), dtype=_precision(first), device=first.device))
                continue
            views = [view.transpose(0, 1) if grouped_by_time else view for view in (first, second)]
            views = [view[index::count] for view in views]
            valid = None
            if observed is not None:
                valid = (observed.transpose(0, 1) if grouped_by_time else observed)[index::count]
                valid = torch.cat([valid, valid], dim=1)
            total, gradient = contrast_groups(torch.cat(views, dim=1), valid, with_gradient and weight > 0)
            losses.append(total * (count / num_valid))
            if gradient is not None:
                half = gradient.shape[1] // 2
                for target, part in zip(gradients, (gradient[:, :half], gradient[:, half:]), strict=True):
                    target = (target.transpose(0, 1) if grouped_by_time else target)[index::count]
                    target.add_(part, alpha=weight * count / num_valid)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*losses)
        return alpha * losses[0] + (1.0 - alpha) * losses[1], losses[0], losses[1]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *unused):  # noqa: ANN001, ANN002, ANN205, D102
        first, second = ctx.saved_tensors
        return first * gradient, second * gradient, None, None, None, None, None


def contrast_level(
    first_view: torch.Tensor,
    second_view: torch.Tensor,
    observed: torch.Tensor | None = None,
    alpha: float = 0.5,
    temporal: bool = True,
    share: tuple[int, int] = (0, 1),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contrast two views at one level of the hierarchy.

    Args:
        first_view: (batch_size, length, embedding_size).
        second_view: The same timestamps in the other view, same shape.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.
        alpha: Weight of the instance-wise contrast.
        temporal: Whether the temporal contrast is computed.
        share: (index, count): compute the index-th of `count` equal parts, scaled so that the mean over the parts is the whole. For
            several processes that hold the same views.

    Returns:
        alpha * instance-wise + (1 - alpha) * temporal, and the two terms themselves without gradient, as scalars.

    Source:
        TS2Vec, equations 1 and 2. One series has no instance-wise term and one timestamp no temporal one: they are 0.
    """
    wanted = torch.is_grad_enabled() and (first_view.requires_grad or second_view.requires_grad)
    return _ContrastLevel.apply(first_view, second_view, observed, alpha, temporal, share, wanted)


def halve(
    view: torch.Tensor, observed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Max-pool pairs of consecutive timestamps; an odd last one is dropped.

    Args:
        view: (batch_size, length, embedding_size).
        observed: (batch_size, length) bool or None; a timestamp that is not observed never wins against one that is.

    Returns:
        (batch_size, length // 2, embedding_size), and its observed mask or None.
    """
    even_length = view.shape[1] // 2 * 2
    even, odd = view[:, 0:even_length:2], view[:, 1:even_length:2]
    choose_even = even >= odd
    if observed is None:
        return torch.where(choose_even, even, odd), None
    even_seen, odd_seen = observed[:, 0:even_length:2], observed[:, 1:even_length:2]
    choose_even = (choose_even & even_seen.unsqueeze(-1)) | ~odd_seen.unsqueeze(-1)
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
        The loss, and the means over the levels of its instance-wise and its temporal term without gradient, as scalars.
    """
    losses, instance_losses, temporal_losses = [], [], []
    level = 0
    while True:
        length = first_view.shape[1]
        temporal = length > 1 and level >= temporal_unit
        loss, instance, time = contrast_level(first_view, second_view, observed, alpha, temporal, share)
        losses.append(loss)
        instance_losses.append(instance)
        temporal_losses.append(time)
        if length == 1:
            break
        first_view, halved = halve(first_view, observed)
        second_view, observed = halve(second_view, observed)
        level += 1
    return torch.stack(losses).mean(), torch.stack(instance_losses).mean(), torch.stack(temporal_losses).mean()
