"""The encoders of tokens that TimeDRL can have: the paper's transformer, and those of its ablation (section V-D)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_timedrl import CAUSAL_ENCODERS, TimeDRLConfig
from .layers_attention import causal_mask
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_normalization import MaskedBatchNorm
from .layers_transformer import TransformerEncoder

TCN_KERNEL_SIZE = 3
RESNET_KERNEL_SIZES = (7, 5, 3)


@dataclass(frozen=True)
class TokenRows:
    """Tokens of a batch, a row a series or a channel.

    Args:
        tokens: (num_rows, length, width).
        seen: (num_rows, length) bool, False for tokens without an observed value and after a row; None for all.
        num_tokens: (num_rows,) number of tokens of each row; None where all have `length`.
    """

    tokens: torch.Tensor
    seen: torch.Tensor | None
    num_tokens: torch.Tensor | None

    def of(self, tokens: torch.Tensor) -> TokenRows:
        """Return other tokens in the same places."""
        return replace(self, tokens=tokens)

    @property
    def gate(self) -> torch.Tensor | float:
        """Ones, and zeros after the rows: (num_rows, length, 1), or 1.0 where there is nothing after."""
        if self.num_tokens is None:
            return 1.0
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (places < self.num_tokens.unsqueeze(1)).unsqueeze(-1).to(self.tokens.dtype)


class TransformerTokenEncoder(nn.Module):
    """The Transformer (paper, section IV-B), or one whose tokens see only those before them."""

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.is_causal = config.encoder in CAUSAL_ENCODERS
        self.transformer = TransformerEncoder(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size or 4 * config.hidden_size,
            config.dropout,
            first_site=1,
            activation=config.activation,
        )

    def forward(
        self, rows: TokenRows, draws: DropoutDraws | None = None, states: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Encode rows of tokens: (num_rows, length, hidden_size)."""
        return self.transformer(rows.tokens, self._attention_mask(rows), draws, states)

    def _attention_mask(self, rows: TokenRows) -> torch.Tensor | None:
        if not self.is_causal:
            # [CLS] is always seen, so that every token sees one.
            return None if rows.seen is None else rows.seen[:, None, None, :]
        length = rows.tokens.shape[1]
        return causal_mask(length, length, rows.tokens.device, rows.seen)


class CausalConvolutionBlock(GradientCheckpointingLayer):
    """Two dilated convolutions that look back, and a residual connection (Bai et al., 2018).

    Args:
        hidden_size: Width.
        dilation: Distance between taps, in tokens.
        dropout: Dropout probability after each convolution.
        first_site: Number of the first of its two dropout layers.
    """

    def __init__(self, hidden_size: int, dilation: int, dropout: float, first_site: int) -> None:
        super().__init__()
        self.padding = (TCN_KERNEL_SIZE - 1) * dilation
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden_size, hidden_size, TCN_KERNEL_SIZE, dilation=dilation) for _ in range(2)
        )
        self.dropouts = nn.ModuleList(SeededDropout(dropout, first_site + index) for index in range(2))

    def forward(self, hidden: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Map (num_rows, length, hidden_size) to the same shape."""
        branch = hidden
        for convolution, dropout in zip(self.convolutions, self.dropouts, strict=True):
            padded = F.pad(branch.transpose(1, 2), (self.padding, 0))
            branch = dropout(F.relu(convolution(padded)).transpose(1, 2), draws)
        return F.relu(hidden + branch)


class ConvolutionTokenEncoder(nn.Module):
    """A temporal convolution network: block i has dilation 2^i."""

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            CausalConvolutionBlock(config.hidden_size, 2**index, config.dropout, first_site=1 + 2 * index)
            for index in range(config.num_hidden_layers)
        )

    def forward(
        self, rows: TokenRows, draws: DropoutDraws | None = None, states: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Encode rows of tokens: (num_rows, length, hidden_size)."""
        hidden = rows.tokens
        for block in self.blocks:
            hidden = block(hidden, draws)
            if states is not None:
                states.append(hidden)
        return hidden


class ResidualTokenEncoder(nn.Module):
    """A residual network: blocks of three convolutions with batch normalisation (Wang et al., IJCNN 2017)."""

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(width, width, size, padding=size // 2, bias=False) for size in RESNET_KERNEL_SIZES)
            for _ in range(config.num_hidden_layers)
        )
        self.norms = nn.ModuleList(
            nn.ModuleList(MaskedBatchNorm(width) for _ in RESNET_KERNEL_SIZES) for _ in range(config.num_hidden_layers)
        )
        self.dropouts = nn.ModuleList(
            SeededDropout(config.dropout, 1 + index) for index in range(config.num_hidden_layers)
        )

    def forward(
        self, rows: TokenRows, draws: DropoutDraws | None = None, states: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Encode rows of tokens: (num_rows, length, hidden_size)."""
        hidden = rows.tokens
        for block, norms, dropout in zip(self.blocks, self.norms, self.dropouts, strict=True):
            layers = zip(cast(nn.ModuleList, block), cast(nn.ModuleList, norms), strict=True)
            branch = self._branch(rows.of(hidden), list(layers), draws)
            hidden = dropout(F.relu(hidden + branch), draws)
            if states is not None:
                states.append(hidden)
        return hidden

    def _branch(
        self, rows: TokenRows, layers: list[tuple[nn.Module, nn.Module]], draws: DropoutDraws | None
    ) -> torch.Tensor:
        gate = rows.gate
        counted = gate.squeeze(-1) > 0 if isinstance(gate, torch.Tensor) else None
        branch = rows.tokens
        for index, (convolution, norm) in enumerate(layers):
            convolved = convolution((branch * gate).transpose(1, 2)).transpose(1, 2)
            branch = norm(convolved, counted, 1 if draws is None else draws.num_views).to(convolved.dtype)
            if index < len(layers) - 1:
                branch = F.relu(branch)
        return branch


class RecurrentTokenEncoder(nn.Module):
    """LSTM layers, in one direction or in two, and a projection back to the width of a token.

    The official code's, which has one layer and no dropout inside.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        inner, layers = config.recurrent_hidden_size, config.num_hidden_layers
        self.is_bidirectional = config.encoder == "bilstm"
        outer = 2 * inner if self.is_bidirectional else inner
        widths = [config.hidden_size] + [outer] * (layers - 1)
        self.forward_layers = nn.ModuleList(nn.LSTM(width, inner, batch_first=True) for width in widths)
        backward = widths if self.is_bidirectional else []
        self.backward_layers = nn.ModuleList(nn.LSTM(width, inner, batch_first=True) for width in backward)
        self.projection = nn.Linear(outer, config.hidden_size)

    def forward(
        self, rows: TokenRows, draws: DropoutDraws | None = None, states: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Encode rows of tokens: (num_rows, length, hidden_size)."""
        hidden = rows.tokens
        for index, layer in enumerate(self.forward_layers):
            output, _ = layer(hidden)
            if self.is_bidirectional:
                # PyTorch's own second direction would begin with the padding of shorter rows.
                backward, _ = self.backward_layers[index](_reversed(hidden, rows.num_tokens))
                output = torch.cat((output, _reversed(backward, rows.num_tokens)), dim=-1)
            hidden = output
            if states is not None and index < len(self.forward_layers) - 1:
                states.append(hidden)
        hidden = self.projection(hidden)
        if states is not None:
            states.append(hidden)
        return hidden


def _reversed(hidden: torch.Tensor, num_tokens: torch.Tensor | None) -> torch.Tensor:
    """Turn every row round; what is after it stays there."""
    if num_tokens is None:
        return hidden.flip(1)
    places = torch.arange(hidden.shape[1], device=hidden.device)
    last = num_tokens.unsqueeze(1) - 1
    origin = torch.where(places <= last, last - places, places)
    return hidden.gather(1, origin.unsqueeze(-1).expand_as(hidden))


TOKEN_ENCODERS: dict[str, type[nn.Module]] = {
    "transformer": TransformerTokenEncoder,
    "causal_transformer": TransformerTokenEncoder,
    "tcn": ConvolutionTokenEncoder,
    "resnet": ResidualTokenEncoder,
    "lstm": RecurrentTokenEncoder,
    "bilstm": RecurrentTokenEncoder,
}
