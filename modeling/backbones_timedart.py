"""The two Transformers of TimeDART: the encoder of patches, and the layers of the decoder that denoises them."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_timedart import TimeDARTConfig
from .layers_attention import AttentionCache, SelfAttention, key_mask
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_patching import AlignedSeries, PatchLayout
from .layers_transformer import TransformerEncoder, sinusoidal_positions


def causal_mask(num_tokens: int, device: torch.device) -> torch.Tensor:
    """Let every token see itself and those before it: (num_tokens, num_tokens) bool, True = the row's token sees."""
    places = torch.arange(num_tokens, device=device)
    return places.unsqueeze(1) >= places


def itself_mask(num_tokens: int, device: torch.device) -> torch.Tensor:
    """Let every token see itself alone; see causal_mask."""
    places = torch.arange(num_tokens, device=device)
    return places.unsqueeze(1) == places


def partial_mask(order: torch.Tensor, num_tokens: int, mask_ratio: float) -> torch.Tensor:
    """Hide a share of the earlier tokens from each token.

    Args:
        order: (num_tokens * (num_tokens - 1) / 2,) int64, the pairs of a token and one before it in a random order, by
            their number in the rows of the triangle.
        num_tokens: Number of tokens.
        mask_ratio: Share of the pairs that are hidden: the first ones in that order.

    Returns:
        (num_tokens, num_tokens) bool, True = the row's token sees the column's.
    """
    mask = causal_mask(num_tokens, order.device)
    rows, columns = torch.tril_indices(num_tokens, num_tokens, offset=-1, device=order.device)
    hidden = order[: int(len(order) * mask_ratio)]
    mask[rows[hidden], columns[hidden]] = False
    return mask


def visible_tokens(mask: torch.Tensor | None, seen: torch.Tensor | None) -> torch.Tensor | None:
    """Put together which tokens see each other and which tokens there are.

    Args:
        mask: (num_queries, num_keys) bool, True = the query sees the key, itself among them; None for all.
        seen: (num_rows, num_keys) bool, False for keys without an observed value; None for all.

    Returns:
        What SelfAttention takes; None for all. A query that so would see nothing sees itself or the first key.
    """
    if seen is None:
        return None if mask is None else mask[None, None]
    if mask is not None:
        return ((mask & seen.unsqueeze(1)) | itself_mask(mask.shape[0], mask.device)).unsqueeze(1)
    return key_mask(seen)


class PatchTokens(NamedTuple):
    """Patches of a batch of series. A row is a series, with independent channels a channel of one.

    Args:
        patches: (num_rows, num_patches, token_size), 0 where nothing is observed.
        observed: The same shape, bool.
        seen: (num_rows, num_patches) bool, patches that are attended to: with an observed value, or made of zeros.
    """

    patches: torch.Tensor
    observed: torch.Tensor
    seen: torch.Tensor

    @property
    def all_or_seen(self) -> torch.Tensor | None:
        """`seen`, or None where all are."""
        return None if not torch.compiler.is_compiling() and bool(self.seen.all()) else self.seen


class RowLayout(NamedTuple):
    """How timestamps are cut into rows of patches.

    Args:
        layout: Which timestamps each patch holds.
        is_joint: Whether a patch holds all channels.
    """

    layout: PatchLayout
    is_joint: bool

    def rows(self, patches: torch.Tensor) -> torch.Tensor:
        """Turn (batch_size, num_patches, patch_length, num_channels) into (num_rows, num_patches, token_size)."""
        if self.is_joint:
            return patches.transpose(2, 3).flatten(2)
        return patches.permute(0, 3, 1, 2).flatten(0, 1)

    def patches(self, rows: torch.Tensor, num_channels: int) -> torch.Tensor:
        """Undo `rows`; further axes after token_size stay where they are."""
        if self.is_joint:
            return rows.unflatten(2, (num_channels, -1)).transpose(2, 3)
        return rows.unflatten(0, (-1, num_channels)).movedim(1, 3)

    def cut(self, series: AlignedSeries) -> PatchTokens:
        """Cut series, whose values are 0 where nothing is observed."""
        places = self.layout.places(series.length, series.values.shape[1])
        is_real = (places >= 0) & (places < series.length.view(-1, 1, 1))
        patches, observed = (self.layout.cut(one, series.length) for one in (series.values, series.observed))
        inside = torch.arange(places.shape[1], device=places.device) < self.layout.num_patches_of_rows(
            series.length
        ).unsqueeze(1)
        is_zeros = (~is_real.any(-1) & inside).view(*inside.shape, 1, 1).expand_as(observed)
        rows, values = self.rows(observed), self.rows(patches)
        seen = (rows | self.rows(is_zeros)).any(-1)
        of_row = inside if self.is_joint else inside.repeat_interleave(series.values.shape[-1], 0)
        return PatchTokens(values, rows, seen & of_row)


class PatchEncoder(nn.Module):
    """Patches, their embedding with positions, and the Transformer."""

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = RowLayout(config.layout, config.channel_mode == "joint")
        self.embedding = nn.Linear(config.token_size, config.hidden_size)
        self.dropout = SeededDropout(config.dropout, 0)
        self.transformer = TransformerEncoder(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.dropout,
            1,
            config.attention_dropout,
        )

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
        """Embed (num_rows, num_patches, token_size), without positions: (num_rows, num_patches, hidden_size)."""
        return self.embedding(patches.to(next(self.parameters()).dtype))

    def forward(
        self,
        tokens: PatchTokens,
        is_causal: bool,
        start_token: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            tokens: The patches.
            is_causal: Whether a patch sees those before it alone.
            start_token: (1, 1, hidden_size), which then comes first, and the last patch is left out.
            draws: The random choices of dropout; None for random ones in training.
            states: Takes the embedded tokens and every layer's output, when given.

        Returns:
            (num_rows, num_patches, hidden_size).
        """
        hidden, seen = self.embed(tokens.patches), tokens.all_or_seen
        if start_token is not None:
            hidden = after_start(hidden, start_token)
            seen = None if seen is None else F.pad(seen[:, :-1], (1, 0), value=True)
        hidden = self.dropout(with_positions(hidden), draws)
        if is_causal and torch.compiler.is_compiling():
            # A further token, which no other sees: of a square mask alone torch.export would bound the length.
            hidden, seen = F.pad(hidden, (0, 0, 0, 1)), F.pad(cast(torch.Tensor, seen), (0, 1))
        mask = causal_mask(hidden.shape[1], hidden.device) if is_causal else None
        if states is not None:
            states.append(hidden)
        hidden = self.transformer(hidden, visible_tokens(mask, seen), draws, states)
        return hidden[:, : tokens.patches.shape[1]]


def after_start(hidden: torch.Tensor, start_token: torch.Tensor) -> torch.Tensor:
    """Move tokens (num_rows, num_tokens, hidden_size) one place on, the start token before them, the last one gone."""
    return torch.cat((start_token.to(hidden.dtype).expand(hidden.shape[0], -1, -1), hidden[:, :-1]), dim=1)


def with_positions(hidden: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Add sines and cosines of the place of every token, counted from `first`; the same shape."""
    _, length, width = hidden.shape
    return hidden + sinusoidal_positions(first + length, width, hidden.device)[first:].to(hidden.dtype)


class KeysAndValues(NamedTuple):
    """What was attended to, each (num_rows, num_attention_heads, length, head_size)."""

    keys: torch.Tensor
    values: torch.Tensor


class DecoderAttention(SelfAttention):
    """Attention of tokens to others by the one layer of SelfAttention, as torch.nn.MultiheadAttention has it.

    Where a token sees its own place alone, queries and keys learn nothing; a layer of their own would be without use.
    """

    def project(self, memory: torch.Tensor) -> KeysAndValues:
        """Return the keys and values of what is attended to, (num_rows, length, hidden_size)."""
        split = self.input_projection(memory).unflatten(-1, (3, self.num_attention_heads, -1))
        _, keys, values = split.permute(2, 0, 3, 1, 4)
        return KeysAndValues(keys, values)

    def attend_to(
        self,
        hidden: torch.Tensor,
        memory: KeysAndValues,
        attention_mask: torch.Tensor | None = None,
        only_itself: bool = False,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            hidden: (num_rows, num_queries, hidden_size).
            memory: Keys and values.
            attention_mask: bool, broadcast to (num_rows, num_attention_heads, num_queries, length), True = the query
                sees the key; None for all.
            only_itself: Whether every query sees the key of its own place alone, whatever the mask says.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, num_queries, hidden_size).
        """
        drops = self.dropout.p > 0 and (draws is not None or self.training)
        if only_itself and not drops:
            # The softmax of one score is 1.
            return self.output_projection(memory.values.transpose(1, 2).flatten(2))
        if only_itself:
            attention_mask = itself_mask(hidden.shape[1], hidden.device)[None, None]
        query = self.input_projection(hidden).chunk(3, -1)[0].unflatten(-1, (self.num_attention_heads, -1))
        return self.attend_heads(query.transpose(1, 2), *memory, attention_mask, draws)


class DecoderMasks(NamedTuple):
    """What a token of the decoder sees, see DecoderAttention.attend_to.

    Args:
        of_itself: Of the decoder's tokens.
        of_memory: Of the encoder's.
        only_itself: Whether it sees its own place alone, in both.
    """

    of_itself: torch.Tensor | None = None
    of_memory: torch.Tensor | None = None
    only_itself: bool = False


class DenoisingLayer(GradientCheckpointingLayer):
    """Attention to the decoder's tokens, to the encoder's, and a feed-forward network; every sum is normalised.

    Args:
        config: Gives the widths and dropout probabilities.
        first_site: Number of the first dropout layer.
    """

    def __init__(self, config: TimeDARTConfig, first_site: int) -> None:
        super().__init__()
        sizes = (config.hidden_size, config.num_attention_heads, config.attention_dropout)
        self.self_attention = DecoderAttention(*sizes, first_site)
        self.cross_attention = DecoderAttention(*sizes, first_site + 1)
        self.expansion = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contraction = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropouts = nn.ModuleList(SeededDropout(config.dropout, first_site + 2 + index) for index in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size) for _ in range(3))

    def forward(
        self,
        hidden: torch.Tensor,
        memory: KeysAndValues,
        masks: DecoderMasks,
        draws: DropoutDraws | None = None,
        cache: AttentionCache | None = None,
    ) -> torch.Tensor:
        """Decode.

        Args:
            hidden: (num_rows, num_tokens, hidden_size).
            memory: The encoder's tokens, as `cross_attention` projects them.
            masks: Who sees whom.
            draws: The random choices of dropout; None for random ones in training.
            cache: Keys and values of earlier tokens, where they come one by one.

        Returns:
            The shape of `hidden`.
        """
        itself = self.self_attention.project(hidden)
        if cache is not None:
            itself = KeysAndValues(*cache.extend(self.self_attention.dropout.site, *itself))
        attended = self.self_attention.attend_to(hidden, itself, masks.of_itself, masks.only_itself, draws)
        hidden = self.norms[0](hidden + self.dropouts[0](attended, draws))
        attended = self.cross_attention.attend_to(hidden, memory, masks.of_memory, masks.only_itself, draws)
        hidden = self.norms[1](hidden + self.dropouts[1](attended, draws))
        inner = self.dropouts[2](F.gelu(self.expansion(hidden)), draws)
        return self.norms[2](hidden + self.dropouts[3](self.contraction(inner), draws))
