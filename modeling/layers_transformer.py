"""The post-norm Transformer encoder: layer normalisation after every branch, and once more at the end."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .kernels_attention import attend
from .layers_dropout import DropoutDraws, SeededDropout


class CircularTokenEmbedding(nn.Module):
    """A convolution over the tokens of a series, whose last token is the neighbour of its first; no bias.

    The weight has the shape of `torch.nn.Conv1d`'s.

    Args:
        token_size: Number of numbers of a token.
        hidden_size: Width of the result.
        kernel_size: Number of tokens that one result sees, odd.
    """

    def __init__(self, token_size: int, hidden_size: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, token_size, kernel_size))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights: normal, with the variance of Kaiming's rule for leaky ReLU."""
        nn.init.normal_(self.weight, std=self.initial_deviation)

    @property
    def initial_deviation(self) -> float:
        """Standard deviation of the initial weights."""
        return math.sqrt(2.0 / (self.weight.shape[1] * self.weight.shape[2]))

    def forward(self, tokens: torch.Tensor, num_tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Embed tokens.

        Args:
            tokens: (num_rows, length, token_size).
            num_tokens: (num_rows,) number of tokens of each row, whose further tokens are padding; None for all.

        Returns:
            (num_rows, length, hidden_size).
        """
        hidden_size, token_size, kernel_size = self.weight.shape
        neighbours = [_shift(tokens, tap - kernel_size // 2, num_tokens) for tap in range(kernel_size)]
        # One matrix product over all taps: tokens are narrow beside the result.
        weight = self.weight.permute(0, 2, 1).reshape(hidden_size, kernel_size * token_size)
        return F.linear(torch.cat(neighbours, dim=-1), weight)


def _shift(tokens: torch.Tensor, shift: int, num_tokens: torch.Tensor | None) -> torch.Tensor:
    """Put at every place the token `shift` places further on, going round at the end of the row."""
    if shift == 0:
        return tokens
    if num_tokens is None:
        return torch.roll(tokens, -shift, dims=1)
    places = torch.arange(tokens.shape[1], device=tokens.device) + shift
    return tokens.gather(1, places.remainder(num_tokens.unsqueeze(1)).unsqueeze(-1).expand_as(tokens))


class LearnedPositions(nn.Module):
    """A learned vector for every place.

    Args:
        num_positions: Number of places.
        hidden_size: Width of a vector.
    """

    def __init__(self, num_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_positions, hidden_size))
        self.register_parameter("bias", None)

    def forward(self, length: int) -> torch.Tensor:
        """Return the vectors of the first places.

        Args:
            length: Number of places.

        Returns:
            (length, hidden_size).

        Raises:
            ValueError: There are fewer places.
        """
        if not torch.compiler.is_compiling() and length > len(self.weight):
            raise ValueError(
                f"The series has {length} tokens, but the model has learned {len(self.weight)} positions "
                "(max_position_embeddings). Encode with window_length, or train with more positions or "
                "position_embedding='fixed'."
            )
        return self.weight[:length]


def sinusoidal_positions(length: int, hidden_size: int, device: torch.device) -> torch.Tensor:
    """Return sines and cosines of the place at falling frequencies (Vaswani et al., NIPS 2017, section 3.5).

    Args:
        length: Number of places.
        hidden_size: Width of a vector.
        device: Where to compute.

    Returns:
        (length, hidden_size), float32: sines at even places of the vector, cosines at odd ones.
    """
    frequencies = torch.exp(torch.arange(0, hidden_size, 2, device=device) * (-math.log(10000.0) / hidden_size))
    angles = torch.arange(length, device=device).unsqueeze(1) * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :hidden_size]


DROPOUT_SITES_OF_A_LAYER = 4
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": F.gelu, "relu": F.relu}


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
            # The fused kernels draw their own dropout, and cannot take a given one.
            drop = functools.partial(self.dropout, draws=draws)
            attended = scaled_dot_product_attention(query, key, value, attention_mask, drop)
        else:
            probability = self.dropout.p if self.training else 0.0
            attended = attend(query, key, value, attention_mask, probability)
        return self.output_projection(attended.transpose(1, 2).flatten(2))


class TransformerLayer(GradientCheckpointingLayer):
    """Attention and a feed-forward network, each added to its input and then normalised.

    Args:
        hidden_size: Width of a token.
        num_attention_heads: Number of heads.
        intermediate_size: Width inside the feed-forward network.
        dropout: Dropout probability of every linear layer's result.
        first_site: Number of the first of its DROPOUT_SITES_OF_A_LAYER dropout layers.
        attention_dropout: Dropout probability of attention weights; None for that of the rest.
        activation: "gelu" or "relu", between the two layers of the feed-forward network.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        dropout: float,
        first_site: int = 0,
        attention_dropout: float | None = None,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        of_weights = dropout if attention_dropout is None else attention_dropout
        self.attention = SelfAttention(hidden_size, num_attention_heads, of_weights, first_site)
        self.activate = ACTIVATIONS[activation]
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
        inner = self.expansion_dropout(self.activate(self.expansion(hidden)), draws)
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
        activation: "gelu" or "relu", between the two layers of the feed-forward network.
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
        activation: str = "gelu",
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
                activation,
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
