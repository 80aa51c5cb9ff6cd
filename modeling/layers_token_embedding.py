"""From tokens of numbers to tokens of one width, and where they stand."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


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
