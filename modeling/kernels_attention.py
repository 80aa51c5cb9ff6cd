"""Attention of narrow heads on CPUs, and attention to what is near.

On narrow heads PyTorch's fused kernel spends most of its time outside the products, and two thirds of all in its
backward pass. Here the softmax is a power of 2, everything else a matrix product in the cache, which the scores of a
few heads at a time fill; what a softmax subtracts and divides by, the sum over the keys and the mask are one more row
or column of the products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F

LARGEST_HEAD_SIZE = 8  # the fused kernel is as fast on wider heads
SHORTEST_LENGTH = 32  # below, the calls cost more than they save
SCORES_A_THREAD = 2**18  # 1 MiB, about the second level of a cache; the scores of a longer head leave it


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Scaled dot-product attention, by whichever way is faster here.

    Args:
        query: (num_rows, num_attention_heads, num_queries, head_size).
        key: (num_rows, num_attention_heads, num_keys, head_size).
        value: The same shape.
        attention_mask: bool, broadcast to (num_rows, num_attention_heads, num_queries, num_keys), True = the query
            (third axis) sees the key (last axis), of which every query needs one; None for all.
        dropout: Dropout probability of the attention weights.

    Returns:
        The shape of the query.
    """
    if dropout == 0 and _is_narrow(query) and key.shape == query.shape and _is_simple(attention_mask):
        return narrow_attention(query, key, value, attention_mask)
    return F.scaled_dot_product_attention(query, key, value, attention_mask, dropout_p=dropout)


def narrow_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute `scaled_dot_product_attention` of layers_attention.py for a few heads at a time, in cache.

    Args:
        query: (num_rows, num_attention_heads, length, head_size), float32 on a CPU.
        key: The same shape.
        value: The same shape.
        attention_mask: (num_rows, 1, 1, length) bool, True = all queries of the row see the key; or (1, 1, length,
            length), one for all rows, such as a causal one; None for all.

    Returns:
        The shape of the query.
    """
    return NarrowAttention.apply(query, key, value, attention_mask)


def _is_narrow(query: torch.Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: what follows would bind an exported program to these sizes
        and query.device.type == "cpu"
        and query.dtype == torch.float32
        and query.shape[-1] <= LARGEST_HEAD_SIZE
        and query.numel() > 0
        and SHORTEST_LENGTH**2 <= query.shape[2] ** 2 <= SCORES_A_THREAD
        and not torch.is_autocast_enabled("cpu")
    )


def _is_simple(attention_mask: torch.Tensor | None) -> bool:
    """Whether all heads and queries of a row see the same keys, or all heads and rows have one mask."""
    if attention_mask is None:
        return True
    return attention_mask.dim() == 4 and (attention_mask.shape[1:3] == (1, 1) or attention_mask.shape[:2] == (1, 1))


class NarrowAttention(torch.autograd.Function):
    """Attention whose scores exist for a few heads at a time, forward and backward."""

    @staticmethod
    def forward(
        context: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attend; see `attend` for the arguments and the result."""
        head_size = query.shape[-1]
        # Scores of base 2, because exp2 takes a third of the time of exp.
        scaled = query * (head_size**-0.5 * math.log2(math.e))
        is_square = attention_mask is not None and attention_mask.shape[2] > 1
        square = _bias(cast(torch.Tensor, attention_mask))[0, 0] if is_square else None
        biases = () if attention_mask is None or is_square else (_bias(attention_mask),)
        queries = torch.cat([scaled, *(query.new_ones(*query.shape[:3], 1) for _ in range(len(biases) + 1))], -1)
        queries, keys, values = queries.flatten(0, 1), _with_rows(key, *biases, 1.0), _with_rows(value, 1.0)
        attended = torch.empty_like(values)
        largest = query.new_empty(*queries.shape[:2], 1)
        for heads, scores in _pieces(queries):
            _products(queries[heads, :, :-1], keys[heads, :-1], square, scores)
            # Without the largest score the powers would overflow; it cancels in the division by their sum.
            torch.amax(scores, -1, keepdim=True, out=largest[heads])
            scores.sub_(largest[heads]).exp2_()
            torch.bmm(values[heads], scores.transpose(1, 2), out=attended[heads])
        sums = attended[:, -1:]
        result = attended[:, :-1] / sums
        queries[..., -1:] = -(largest + sums.transpose(1, 2).log2())  # with it, the scores are logarithms of weights
        context.save_for_backward(queries, keys, values, result, square)
        return result.transpose(1, 2).unflatten(0, query.shape[:2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Compute the weights again and return the gradients of query, key and value."""
        queries, keys, values, result, square = context.saved_tensors
        head_size = gradient.shape[-1]
        outer = gradient.flatten(0, 1)
        # The softmax's derivative takes every query's mean away; one more column lets the product do it.
        gradients = torch.cat([outer, -(outer * result.transpose(1, 2)).sum(-1, keepdim=True)], -1)
        of_query, of_key, of_value = (torch.empty_like(result) for _ in range(3))
        memory = None
        for heads, weights in _pieces(queries):
            memory = torch.empty_like(weights) if memory is None else memory
            of_scores = memory[: weights.shape[0]]
            _products(queries[heads], keys[heads], square, weights)
            weights.exp2_()
            torch.bmm(gradients[heads], values[heads], out=of_scores)
            of_scores.mul_(weights)
            torch.bmm(outer[heads].transpose(1, 2), weights, out=of_value[heads])
            torch.bmm(queries[heads, :, :head_size].transpose(1, 2), of_scores, out=of_key[heads])
            torch.bmm(keys[heads, :head_size], of_scores.transpose(1, 2), out=of_query[heads])
        # The scores are those of scaled queries; the gradient that is asked for is the plain ones'.
        of_query *= head_size**-0.5
        of_key /= math.log2(math.e)  # the queries carry the scale already
        of_query, of_key, of_value = (
            one.transpose(1, 2).unflatten(0, gradient.shape[:2]) for one in (of_query, of_key, of_value)
        )
        return of_query, of_key, of_value, None


def _bias(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return what scores get, minus infinity where a key is hidden; the shape of the mask."""
    nothing = torch.zeros(attention_mask.shape, dtype=torch.float32, device=attention_mask.device)
    return nothing.masked_fill_(~attention_mask, -torch.inf)


def _products(queries: torch.Tensor, keys: torch.Tensor, square: torch.Tensor | None, scores: torch.Tensor) -> None:
    """Write the products of (num_heads, length, size) and (num_heads, size, length), plus a bias of all heads."""
    if square is None:
        torch.bmm(queries, keys, out=scores)
    else:
        torch.baddbmm(square, queries, keys, out=scores)


def _with_rows(heads: torch.Tensor, *rows: torch.Tensor | float) -> torch.Tensor:
    """Turn (num_rows, num_heads, length, head_size) into (num_rows * num_heads, head_size + len(rows), length)."""
    num_rows, num_heads, length, size = heads.shape
    wider = heads.new_empty(num_rows, num_heads, size + len(rows), length)
    wider[:, :, :size] = heads.transpose(2, 3)
    for index, row in enumerate(rows):
        wider[:, :, size + index : size + index + 1] = row
    return wider.flatten(0, 1)


def _pieces(queries: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of the heads and the memory of their scores, which fits the cache."""
    num_heads, length = queries.shape[:2]
    together = min(num_heads, SCORES_A_THREAD * torch.get_num_threads() // length**2)
    memory = queries.new_empty(together, length, length)
    for first in range(0, num_heads, together):
        last = min(first + together, num_heads)
        yield slice(first, last), memory[: last - first]


def attend_by_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    window: int,
    drop: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Compute `windowed_attention` of layers_attention.py at a cost of length times window.

    The tokens lie in blocks of half a window, and those of a block see no others than it and its two neighbours. A row
    that is no longer than the window lies in the first two blocks, which so see all of it.

    Args:
        query: (num_rows, num_attention_heads, length, head_size).
        key: The same shape.
        value: The same shape.
        attention_mask: (num_rows, 1, 1, length) bool, as in window_mask.
        window: Number of tokens.
        drop: Dropout of the attention weights, (num_rows, num_blocks, num_attention_heads, block, 3 * block); None for
            none. It draws other weights than those of `windowed_attention`.

    Returns:
        The shape of the query.
    """
    length = query.shape[2]
    block = -(-window // 2)
    beyond = -length % block
    queries = F.pad(query, (0, 0, 0, beyond)).unflatten(2, (-1, block)).transpose(1, 2)
    around = (0, 0, block, block + beyond)
    keys, values = (
        F.pad(one, around).unfold(2, 3 * block, block).permute(0, 2, 1, 4, 3).contiguous() for one in (key, value)
    )
    mask = _window_mask_of_blocks(attention_mask[:, 0, 0], window, block)
    if drop is None:
        rows = [one.flatten(0, 1) for one in (queries, keys, values)]
        attended = F.scaled_dot_product_attention(rows[0], rows[1], rows[2], mask.flatten(0, 1))
        attended = attended.unflatten(0, (len(query), -1))
    else:
        scores = (queries * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        attended = drop(scores.masked_fill(~mask, -torch.inf).softmax(-1).to(value.dtype)) @ values
    return attended.transpose(1, 2).flatten(2, 3)[:, :, :length]


def _window_mask_of_blocks(observed: torch.Tensor, window: int, block: int) -> torch.Tensor:
    """Return which of the tokens of three blocks each token of the middle one sees, as `window_mask` says.

    Args:
        observed: (num_rows, length) bool.
        window: Number of tokens.
        block: Number of tokens of a block.

    Returns:
        (num_rows, num_blocks, 1, block, 3 * block) bool.
    """
    places = torch.arange(observed.shape[1], device=observed.device)
    row_length = torch.where(observed, places + 1, 0).amax(-1).view(-1, 1, 1, 1)
    beyond = -observed.shape[1] % block
    keys = F.pad(observed, (block, block + beyond)).unfold(1, 3 * block, block)
    place = torch.arange(3 * block, device=observed.device)
    distance = (place[block : 2 * block].unsqueeze(1) - place).abs()
    queries = torch.arange(observed.shape[1] + beyond, device=observed.device).view(1, -1, block, 1)
    near = (distance <= window // 2) | ((row_length <= window) & (queries < row_length))
    seen = keys.unsqueeze(2) & near
    return (seen | ((distance == 0) & ~seen.any(-1, keepdim=True))).unsqueeze(2)
