"""The Transformer encoder of TimeDRL and SimMTM: layer normalisation behind every branch, and once more at the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_dropout import DropoutDraws, SeededDropout
from .layers_narrow_attention import attend

DROPOUT_SITES_OF_A_LAYER = 4


class SelfAttention(nn.Module):
    """Multi-head attention of the tokens of a row to each other.

    Args:
        hidden_size: Width of a token.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        dropout: Dropout probability of the attention weights.
        first_site: Number of the first dropout layer.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int, dropout: float, first_site: int = 0) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.input_projection = nn.Linear(hidden_size, 3 * hidden_size)  # queries, keys and values in one product
        self.output_projection = nn.Linear(hidden_size, hidden_size)
        self.dropout = SeededDropout(dropout, first_site)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            hidden: (num_rows, length, hidden_size).
            attention_mask: bool, broadcast to (num_rows, num_attention_heads, length, length), True = the query (third
                axis) sees the key (last axis), of which every query needs one; None for all.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, length, hidden_size).
        """
        split = self.input_projection(hidden).unflatten(-1, (3, self.num_attention_heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if draws is not None and self.dropout.p > 0:
            attended = self._attend_with_draws(query, key, value, attention_mask, draws)
        else:
            probability = self.dropout.p if self.training else 0.0
            attended = attend(query, key, value, attention_mask, probability)
        return self.output_projection(attended.transpose(1, 2).flatten(2))

    def _attend_with_draws(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        draws: DropoutDraws,
    ) -> torch.Tensor:
        """Attend with given dropout, which the fused kernels cannot take: they draw their own."""
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, -torch.inf)
        return self.dropout(scores.softmax(-1).to(value.dtype), draws) @ value


class TransformerLayer(GradientCheckpointingLayer):
    """Attention and a feed-forward network, each added to its input and then normalised.

    Args:
        hidden_size: Width of a token.
        num_attention_heads: Number of heads.
        intermediate_size: Width inside the feed-forward network.
        dropout: Dropout probability of every linear layer's result.
        first_site: Number of the first of its DROPOUT_SITES_OF_A_LAYER dropout layers.
        attention_dropout: Dropout probability of attention weights; None for that of the rest.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        dropout: float,
        first_site: int = 0,
        attention_dropout: float | None = None,
    ) -> None:
        super().__init__()
        of_weights = dropout if attention_dropout is None else attention_dropout
        self.attention = SelfAttention(hidden_size, num_attention_heads, of_weights, first_site)
        self.attention_dropout = SeededDropout(dropout, first_site + 1)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.expansion = nn.Linear(hidden_size, intermediate_size)
        self.expansion_dropout = SeededDropout(dropout, first_site + 2)
        self.contraction = nn.Linear(intermediate_size, hidden_size)
        self.contraction_dropout = SeededDropout(dropout, first_site + 3)
        self.output_norm = nn.LayerNorm(hidden_size)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Map (num_rows, length, hidden_size) to the same shape; the arguments are those of SelfAttention."""
        attended = self.attention_dropout(self.attention(hidden, attention_mask, draws), draws)
        hidden = self.attention_norm(hidden + attended)
        inner = self.expansion_dropout(F.gelu(self.expansion(hidden)), draws)
        return self.output_norm(hidden + self.contraction_dropout(self.contraction(inner), draws))


class TransformerEncoder(nn.Module):
    """Layers and a last normalisation.

    Args:
        hidden_size: Width of a token.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of heads.
        intermediate_size: Width inside the feed-forward networks.
        dropout: Dropout probability.
        first_site: Number of the first dropout layer.
        attention_dropout: Dropout probability of attention weights; None for that of the rest.
    """

    def __init__(
        self,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        dropout: float,
        first_site: int = 0,
        attention_dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(
                hidden_size,
                num_attention_heads,
                intermediate_size,
                dropout,
                first_site + index * DROPOUT_SITES_OF_A_LAYER,
                attention_dropout,
            )
            for index in range(num_hidden_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            hidden: (num_rows, length, hidden_size).
            attention_mask: See SelfAttention.
            draws: See SelfAttention.
            states: Takes every layer's output, when given.

        Returns:
            (num_rows, length, hidden_size).
        """
        for layer in self.layers:
            hidden = layer(hidden, attention_mask, draws)
            if states is not None:
                states.append(hidden)
        return self.norm(hidden)
