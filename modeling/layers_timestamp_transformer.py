"""SimMTM's forecasting encoder: a Transformer with one token a timestamp."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .layers_dropout import DropoutDraws, SeededDropout
from .layers_token_embedding import CircularTokenEmbedding, sinusoidal_positions
from .layers_transformer import TransformerEncoder


class TimestampTransformer(nn.Module):
    """A circular convolution over three timestamps, sinusoidal positions and Transformer layers.

    Args:
        num_channels: Number of channels of the input.
        hidden_size: Width of a token.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of heads.
        intermediate_size: Width inside the feed-forward networks.
        dropout: Dropout probability of the embedded tokens and of every linear layer's result.
        attention_dropout: Dropout probability of attention weights.
    """

    def __init__(
        self,
        num_channels: int,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.token_embedding = CircularTokenEmbedding(num_channels, hidden_size, kernel_size=3)
        self.dropout = SeededDropout(dropout, site=0)
        self.transformer = TransformerEncoder(
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            intermediate_size,
            dropout,
            first_site=1,
            attention_dropout=attention_dropout,
        )

    def output_length(self, length: Any) -> Any:
        """Return the number of positions of a series: one for each of its timestamps."""
        return length

    def position_of_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the position of every timestamp: itself."""
        return steps

    def forward(
        self,
        rows: torch.Tensor,
        observed: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            rows: (num_rows, length, num_channels).
            observed: (num_rows, length) bool, False for timestamps that nothing attends to; None for all.
            lengths: (num_rows,) number of timestamps of every row; None where all have the whole length.
            states: Takes the embedded tokens and every layer's output, when given.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, length, hidden_size), zero behind the end of every row.
        """
        length = rows.shape[1]
        hidden = self.token_embedding(rows, lengths)
        hidden = hidden + sinusoidal_positions(length, hidden.shape[-1], hidden.device).to(hidden.dtype)
        hidden = self.dropout(hidden, draws)
        if states is not None:
            states.append(hidden)
        mask = None
        if observed is not None:
            # A row without any observed timestamp attends to all: attention to nothing is not a number.
            mask = (observed | ~observed.any(-1, keepdim=True))[:, None, None, :]
        hidden = self.transformer(hidden, mask, draws, states)
        if lengths is None:
            return hidden
        inside = torch.arange(length, device=hidden.device) < lengths.unsqueeze(1)
        return hidden * inside.unsqueeze(-1)
