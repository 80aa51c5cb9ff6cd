"""The post-norm Transformer encoder: every branch is added to its input, and the sum normalised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_attention import AttentionCache, SelfAttention
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_normalization import MaskedBatchNorm


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
        if torch.compiler.is_compiling():  # a slice would bind an exported program to this table's length
            return F.embedding(torch.arange(length, device=self.weight.device), self.weight)
        if length > len(self.weight):
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
    return sinusoids(torch.arange(length, device=device), hidden_size)


def sinusoids(places: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """Return the vectors of `sinusoidal_positions` for places (...) of any order: (..., hidden_size)."""
    steps = torch.arange(0, hidden_size, 2, device=places.device)
    angles = places.unsqueeze(-1) * torch.exp(steps * (-math.log(10000.0) / hidden_size))
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :hidden_size]


DROPOUT_SITES_OF_A_LAYER = 4
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class TransformerBlock(nn.Module):
    """Attention and a feed-forward network, each of which is added to its input; subclasses normalise the sums.

    Args:
        hidden_size: Width of a token.
        num_attention_heads: Number of heads.
        intermediate_size: Width inside the feed-forward network.
        dropout: Dropout probability of every linear layer's result.
        first_site: Number of the first of its DROPOUT_SITES_OF_A_LAYER dropout layers.
        attention_dropout: Dropout probability of attention weights; None for that of the rest.
        activation: "gelu" or "relu", between the two layers of the feed-forward network.
        attention_window: Bound of the attention, see SelfAttention; None for none.
    """

    norm_class: type[nn.Module] = nn.LayerNorm

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        dropout: float,
        first_site: int = 0,
        attention_dropout: float | None = None,
        activation: str = "gelu",
        attention_window: int | None = None,
    ) -> None:
        super().__init__()
        of_weights = dropout if attention_dropout is None else attention_dropout
        self.attention = SelfAttention(hidden_size, num_attention_heads, of_weights, first_site, attention_window)
        self.activate = ACTIVATIONS[activation]
        self.attention_dropout = SeededDropout(dropout, first_site + 1)
        self.attention_norm = self.norm_class(hidden_size)
        self.expansion = nn.Linear(hidden_size, intermediate_size)
        self.expansion_dropout = SeededDropout(dropout, first_site + 2)
        self.contraction = nn.Linear(intermediate_size, hidden_size)
        self.contraction_dropout = SeededDropout(dropout, first_site + 3)
        self.output_norm = self.norm_class(hidden_size)

    def add_attention(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None,
        draws: DropoutDraws | None,
        cache: AttentionCache | None = None,
    ) -> torch.Tensor:
        """Add what the tokens (num_rows, length, hidden_size) see of each other; the arguments are SelfAttention's."""
        return hidden + self.attention_dropout(self.attention(hidden, attention_mask, draws, cache), draws)

    def add_feed_forward(self, hidden: torch.Tensor, draws: DropoutDraws | None) -> torch.Tensor:
        """Add what the feed-forward network makes of every token."""
        inner = self.expansion_dropout(self.activate(self.expansion(hidden)), draws)
        return hidden + self.contraction_dropout(self.contraction(inner), draws)


class TransformerLayer(TransformerBlock, GradientCheckpointingLayer):
    """A TransformerBlock with layer normalisation; the arguments are its."""

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
        cache: AttentionCache | None = None,
    ) -> torch.Tensor:
        """Map (num_rows, length, hidden_size) to the same shape; the arguments are those of SelfAttention."""
        hidden = self.attention_norm(self.add_attention(hidden, attention_mask, draws, cache))
        return self.output_norm(self.add_feed_forward(hidden, draws))


class BatchNormTransformerLayer(TransformerBlock):
    """A TransformerBlock with batch normalisation over the tokens of all rows; the arguments are its.

    Gradient checkpointing computes the branches again, but not the normalisations, which would count a batch twice.
    """

    norm_class = MaskedBatchNorm
    gradient_checkpointing = False  # transformers sets it, and the function, on every module that has it
    _gradient_checkpointing_func: Callable[..., torch.Tensor]

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
        counted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map tokens to tokens.

        Args:
            hidden: (num_rows, length, hidden_size).
            attention_mask: See SelfAttention.
            draws: See SelfAttention.
            counted: (num_rows, length) bool, tokens that count in the statistics of a batch; None for all.

        Returns:
            (num_rows, length, hidden_size).
        """
        hidden = self._branch(self.add_attention, hidden, attention_mask, draws)
        hidden = self.attention_norm(hidden, counted).to(hidden.dtype)
        hidden = self._branch(self.add_feed_forward, hidden, draws)
        return self.output_norm(hidden, counted).to(hidden.dtype)

    def _branch(self, function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(function, *arguments)
        return function(*arguments)


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
        cache: AttentionCache | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            hidden: (num_rows, length, hidden_size).
            attention_mask: See SelfAttention.
            draws: See SelfAttention.
            states: Takes every layer's output, when given.
            cache: See SelfAttention.

        Returns:
            (num_rows, length, hidden_size).
        """
        for layer in self.layers:
            hidden = layer(hidden, attention_mask, draws, cache)
            if states is not None:
                states.append(hidden)
        return self.norm(hidden)
