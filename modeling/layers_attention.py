"""Attention of the tokens of a row to each other, to those near to them, or to those of another row."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import is_flash_attention_requested

from .kernels_attention import attend, attend_by_blocks
from .layers_dropout import DropoutDraws, SeededDropout

LARGEST_WEIGHTS = 2**34  # of one row, 64 GiB: no batch is small enough for more


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    drop: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attend: softmax(query key^T / sqrt(head_size)) value (Vaswani et al., NIPS 2017, equation 1).

    `attend` in kernels_attention.py gives the same by faster ways, which draw the dropout of the weights themselves.

    Args:
        query: (num_rows, num_attention_heads, length, head_size).
        key: The same shape.
        value: The same shape.
        attention_mask: bool, broadcast to (num_rows, num_attention_heads, length, length), True = the query (third
            axis) sees the key (last axis), of which every query needs one; None for all.
        drop: Dropout of the attention weights; None for none.

    Returns:
        The shape of the query.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    weights = scores.softmax(-1).to(value.dtype)
    return (weights if drop is None else drop(weights)) @ value


def key_mask(observed: torch.Tensor) -> torch.Tensor | None:
    """Hide tokens from all others.

    Args:
        observed: (num_rows, length) bool, False for tokens that nothing attends to.

    Returns:
        (num_rows, 1, 1, length) bool, True = all queries of the row see the key; None where all see all. In a row
        without an observed token all see the first one: attention to nothing is not a number.
    """
    if not torch.compiler.is_compiling() and bool(observed.all()):
        return None
    is_first = torch.arange(observed.shape[1], device=observed.device) == 0
    return (observed | (is_first & ~observed.any(-1, keepdim=True)))[:, None, None, :]


def causal_mask(
    num_queries: int,
    num_keys: int,
    device: torch.device,
    seen: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Let every token see those before it and itself.

    Args:
        num_queries: Number of tokens that ask, the last ones of the row.
        num_keys: Number of tokens of the row.
        device: Where the tokens are.
        seen: (num_rows, num_keys) bool, False for tokens that no other attends to; None for all.
        window: Number of tokens that a token sees at most, itself the last; None for no bound.

    Returns:
        bool, True = the query (third axis) sees the key (last axis): (num_rows, 1, num_queries, num_keys), or with
        seen=None (num_queries, num_keys).
    """
    places = torch.arange(num_keys, device=device)
    queries = places[num_keys - num_queries :].unsqueeze(1)
    if seen is None:
        distance = queries - places
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)
    # Every comparison has all three axes, and the fourth comes last: torch.export cannot tell the strides of two axes
    # of one length from each other.
    keys = places.expand_as(seen).unsqueeze(1)
    visible = queries >= torch.where(seen, places, num_keys).unsqueeze(1)
    if window is not None:
        visible = visible & (queries - keys < window)
    return (visible | (queries == keys)).unsqueeze(1)


def window_mask(attention_mask: torch.Tensor, window: int) -> torch.Tensor:
    """Let every token see those near to it, in rows that are longer than the window.

    Args:
        attention_mask: (num_rows, 1, 1, length) bool, False for tokens that nothing attends to. The last one that is
            True ends the row.
        window: Number of tokens. A row of at most so many sees all of itself; in a longer one a token sees those at a
            distance of at most window // 2.

    Returns:
        (num_rows, 1, length, length) bool, True = the query (third axis) sees the key (last axis). A token that sees
        nothing, because all near to it are hidden, sees itself.
    """
    places = torch.arange(attention_mask.shape[-1], device=attention_mask.device)
    row_length = torch.where(attention_mask, places + 1, 0).amax(-1, keepdim=True)
    distance = (places.unsqueeze(1) - places).abs()
    sees_row = (row_length <= window) & (places.unsqueeze(1) < row_length)
    seen = attention_mask & ((distance <= window // 2) | sees_row)
    return seen | ((distance == 0) & ~seen.any(-1, keepdim=True))


def windowed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    window: int,
    drop: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attend to what is near: `scaled_dot_product_attention` under `window_mask`.

    `attend_by_blocks` in kernels_attention.py gives the same at a cost that grows with the length, not its square.

    Args:
        query: (num_rows, num_attention_heads, length, head_size).
        key: The same shape.
        value: The same shape.
        attention_mask: (num_rows, 1, 1, length) bool, as in window_mask.
        window: Number of tokens.
        drop: Dropout of the attention weights; None for none.

    Returns:
        The shape of the query.
    """
    return scaled_dot_product_attention(query, key, value, window_mask(attention_mask, window), drop)


def _added_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to the scores in place of a mask (num_rows, 1, number of queries or 1, number of keys).

    The fused attention would make it itself, by an operation on four axes, two of one length, whose strides
    torch.export cannot tell from each other.
    """
    return (
        torch.zeros_like(attention_mask[:, 0], dtype=dtype).masked_fill(~attention_mask[:, 0], -torch.inf).unsqueeze(1)
    )


class AttentionCache:
    """Keys and values of the last tokens of every attention layer, for rows whose tokens come one after the other.

    A new token then costs its own products and those with the kept tokens, however many came before. (transformers'
    sliding cache keeps all tokens where the window is one.)

    Args:
        window: Number of tokens that a token sees, itself the last.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def extend(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new tokens after those that a layer keeps.

        Args:
            layer: Number of the layer, unique in its model.
            key: (num_rows, num_attention_heads, number of new tokens, head_size).
            value: The same shape.

        Returns:
            Keys and values of the kept tokens and the new ones; of these the last window - 1 are kept.
        """
        if layer in self._kept:
            key, value = (torch.cat(pair, dim=2) for pair in zip(self._kept[layer], (key, value), strict=True))
        first = max(key.shape[2] - self.window + 1, 0)
        self._kept[layer] = (key[:, :, first:], value[:, :, first:])
        return key, value


class AttentionProjection(nn.Linear):
    """A linear layer before or after attention, which some methods begin otherwise than other linear layers."""


def begin_as_multihead_attention(projection: AttentionProjection) -> None:
    """Draw the initial weights as torch.nn.MultiheadAttention does: Xavier's rule before attention, and no bias.

    Args:
        projection: A layer whose weights are drawn as those of any linear layer already.
    """
    init.zeros_(projection.bias)
    if projection.out_features > projection.in_features:
        init.xavier_uniform_(projection.weight)


class MultiHeadAttention(nn.Module):
    """What all attention of several heads has; subclasses have the projections.

    Args:
        num_attention_heads: Number of heads, a divisor of hidden_size.
        dropout: Dropout probability of the attention weights.
        first_site: Number of the first dropout layer.
        window: Number of tokens up to which all see each other, and about which the tokens of a longer row see; None
            for no bound. See window_mask.
    """

    output_projection: AttentionProjection

    def __init__(
        self, num_attention_heads: int, dropout: float, first_site: int = 0, window: int | None = None
    ) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.window = window
        self.config: PreTrainedConfig | None = None  # the model's; its attn_implementation is followed
        self.is_causal = False  # functions of transformers ask for it
        self.dropout = SeededDropout(dropout, first_site)

    def attend_heads(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        draws: DropoutDraws | None,
    ) -> torch.Tensor:
        """Attend, and join the heads.

        Args:
            query: (num_rows, num_attention_heads, num_queries, head_size).
            key: (num_rows, num_attention_heads, num_keys, head_size).
            value: The same shape.
            attention_mask: bool, broadcast to (num_rows, num_attention_heads, num_queries, num_keys), as in
                SelfAttention.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, num_queries, hidden_size).
        """
        drop = None
        if self.dropout.p > 0 and (draws is not None or self.training):
            drop = functools.partial(self.dropout, draws=draws)
        attended = self._attend(query, key, value, attention_mask, drop, is_given=draws is not None)
        return self.output_projection(attended.transpose(1, 2).flatten(2))

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        drop: Callable[[torch.Tensor], torch.Tensor] | None,
        is_given: bool,
    ) -> torch.Tensor:
        """Attend as was asked for, else by whichever way is faster; only the plain one takes a given dropout."""
        is_exporting, length = torch.compiler.is_compiling(), query.shape[2]
        implementation = getattr(self.config, "_attn_implementation", None) or "sdpa"
        if self.window is not None and (is_exporting or length > self.window):
            if attention_mask is None:
                attention_mask = query.new_ones(len(query), 1, 1, length, dtype=torch.bool)
            if not is_exporting and implementation != "eager":
                return attend_by_blocks(query, key, value, attention_mask, self.window, drop)
            attention_mask = window_mask(attention_mask, self.window)  # one program serves all lengths
        is_eager = implementation == "eager"
        if is_eager and not is_exporting and self.num_attention_heads * length**2 > LARGEST_WEIGHTS:
            raise ValueError(
                f'attn_implementation="eager" would hold all {self.num_attention_heads} x {length} x {length} weights '
                f'of a row of {length} tokens. Load the model with attn_implementation="sdpa", which holds none, or '
                "give shorter series (encode with window_length)."
            )
        if is_eager or (drop is not None and is_given):
            return scaled_dot_product_attention(query, key, value, attention_mask, drop)
        dropout = 0.0 if drop is None else self.dropout.p
        if is_exporting and attention_mask is not None and attention_mask.dim() == 4 and attention_mask.shape[1] == 1:
            attention_mask = _added_mask(attention_mask, query.dtype)
        if implementation == "sdpa":
            return attend(query, key, value, attention_mask, dropout)
        return self._attend_as_asked(implementation, (query, key, value), attention_mask, dropout)

    def _attend_as_asked(
        self,
        implementation: str,
        query_key_value: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        dropout: float,
    ) -> torch.Tensor:
        """Attend by a function of transformers' registry, such as "flash_attention_2"; the shape of the query."""
        if attention_mask is not None and is_flash_attention_requested(self.config):
            if attention_mask.shape[1:3] != (1, 1):
                raise ValueError(
                    f"attn_implementation={implementation!r} cannot hide other tokens from each query, as the "
                    'attention window of this model does; load it with attn_implementation="sdpa".'
                )
            attention_mask = attention_mask[:, 0, 0]
        function = ALL_ATTENTION_FUNCTIONS[implementation]
        scaling = query_key_value[0].shape[-1] ** -0.5
        attended, _ = function(self, *query_key_value, attention_mask, dropout=dropout, scaling=scaling)
        return attended.transpose(1, 2)


class SelfAttention(MultiHeadAttention):
    """Multi-head attention of the tokens of a row to each other.

    Args:
        hidden_size: Width of a token.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        dropout: See MultiHeadAttention.
        first_site: See MultiHeadAttention.
        window: See MultiHeadAttention.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        dropout: float,
        first_site: int = 0,
        window: int | None = None,
    ) -> None:
        super().__init__(num_attention_heads, dropout, first_site, window)
        # Queries, keys and values in one product.
        self.input_projection = AttentionProjection(hidden_size, 3 * hidden_size)
        self.output_projection = AttentionProjection(hidden_size, hidden_size)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
        cache: AttentionCache | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            hidden: (num_rows, length, hidden_size).
            attention_mask: bool, broadcast to (num_rows, num_attention_heads, length, length), True = the query (third
                axis) sees the key (last axis), of which every query needs one; None for all. With a window it hides
                keys from all queries: (num_rows, 1, 1, length).
            draws: The random choices of dropout; None for random ones in training.
            cache: Holds earlier tokens, which the mask's last axis then has before these; takes these. None for none.

        Returns:
            (num_rows, length, hidden_size).
        """
        split = self.input_projection(hidden).unflatten(-1, (3, self.num_attention_heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.extend(self.dropout.site, key, value)
        return self.attend_heads(query, key, value, attention_mask, draws)


class CrossAttention(MultiHeadAttention):
    """Multi-head attention of the tokens of one row to those of another.

    Args:
        hidden_size: Width of a token.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        dropout: See MultiHeadAttention.
        first_site: See MultiHeadAttention.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int, dropout: float, first_site: int = 0) -> None:
        super().__init__(num_attention_heads, dropout, first_site)
        self.query_projection = AttentionProjection(hidden_size, hidden_size)
        self.key_value_projection = AttentionProjection(hidden_size, 2 * hidden_size)
        self.output_projection = AttentionProjection(hidden_size, hidden_size)

    def forward(
        self,
        hidden: torch.Tensor,
        seen: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            hidden: (num_rows, num_queries, hidden_size), the tokens that ask.
            seen: (num_rows, num_keys, hidden_size), the tokens that they see.
            attention_mask: bool, broadcast to (num_rows, num_attention_heads, num_queries, num_keys), True = the query
                sees the key, of which every query needs one; None for all.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, num_queries, hidden_size).
        """
        query = self.query_projection(hidden).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
        split = self.key_value_projection(seen).unflatten(-1, (2, self.num_attention_heads, -1))
        key, value = split.permute(2, 0, 3, 1, 4)
        return self.attend_heads(query, key, value, attention_mask, draws)
