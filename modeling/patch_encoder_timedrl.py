"""From aligned series to embeddings of patches and of whole rows (paper, section IV-B)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .configuration_timedrl import CAUSAL_ENCODERS, TimeDRLConfig
from .encoders_timedrl import TOKEN_ENCODERS, TokenRows
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_instance_normalization import InstanceStatistics, instance_statistics, normalize_instances
from .layers_patching import AlignedSeries
from .layers_token_embedding import CircularTokenEmbedding, LearnedPositions, sinusoidal_positions


@dataclass(frozen=True)
class EncodedRows:
    """What the encoder makes of a batch. A row is a series, with independent channels a channel of one.

    Args:
        instances: (num_rows, embedding_size).
        patches: (num_rows, num_patches, hidden_size), zeros behind a row.
        seen: (num_rows,) bool, rows with an observed value.
    """

    instances: torch.Tensor
    patches: torch.Tensor
    seen: torch.Tensor


def normalize_series(raw: AlignedSeries) -> tuple[AlignedSeries, InstanceStatistics]:
    """Normalise every channel by what is observed of it; what is missing becomes 0, the channel's mean."""
    statistics = instance_statistics(raw.values, raw.observed)
    values = normalize_instances(raw.values, raw.observed, statistics)
    return AlignedSeries(values, raw.observed, raw.start, raw.length), statistics


class PatchEncoder(nn.Module):
    """Patches and a [CLS] token, embedded and encoded.

    The [CLS] token stands in front of the patches, or behind them where the encoder looks back only: it sees the whole
    series either way.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.config = config
        independent = config.channel_mode == "independent"
        self.cls_token = nn.Parameter(
            torch.randn(1, config.num_input_channels if independent else 1, config.token_size)
        )
        self.token_embedding: nn.Module = (
            CircularTokenEmbedding(config.token_size, config.hidden_size, config.token_kernel_size)
            if config.token_embedding == "convolution"
            else nn.Linear(config.token_size, config.hidden_size, bias=False)
        )
        self.positions = (
            LearnedPositions(config.max_position_embeddings, config.hidden_size)
            if config.position_embedding == "learned"
            else None
        )
        self.dropout = SeededDropout(config.dropout, site=0)
        self.encoder = TOKEN_ENCODERS[config.encoder](config)

    def forward(
        self,
        series: AlignedSeries,
        draws: DropoutDraws | None = None,
        embedding_kept: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> EncodedRows:
        """Encode.

        Args:
            series: Aligned, normalised series; what is not observed is 0.
            draws: The random choices of dropout; None for none in evaluation and random ones in training.
            embedding_kept: (num_rows, num_tokens, hidden_size) of zeros and ones: the mask of the first dropout, or
                None to draw it like all others.
            states: Takes the embedded tokens and every layer's output, [CLS] included, when given.

        Returns:
            The embeddings.
        """
        patches = self.cut(series.values, series.length).to(self.cls_token.dtype)
        num_patches, inside = self._inside(series.length, patches)
        seen = self.cut(series.observed, series.length).any(-1) & inside
        rows = self._with_cls(patches, seen, num_patches)
        hidden = self._embed(rows, draws, embedding_kept)
        if states is not None:
            states.append(hidden)
        cls, hidden = self._without_cls(self.encoder(rows.of(hidden), draws, states), num_patches)
        if rows.num_tokens is not None:
            hidden = hidden * inside.unsqueeze(-1)
        return EncodedRows(self._instances(cls, hidden, seen, num_patches), hidden, seen.any(1))

    def target(self, series: AlignedSeries) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut series into the patches that the predictive task predicts.

        Args:
            series: Aligned series.

        Returns:
            The patches, 0 where nothing is observed, and which of their values count:
            both (num_rows, num_patches, token_size).
        """
        counted = self.cut(series.observed, series.length)
        _, inside = self._inside(series.length, counted)
        counted = counted & inside.unsqueeze(-1)
        return torch.where(counted, self.cut(series.values, series.length), 0.0), counted

    def cut(self, values: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Cut aligned series into rows of patches: (num_rows, num_patches, token_size), channel by channel."""
        patches = self.config.layout.cut(values, length)
        if self.config.channel_mode == "independent":
            return patches.permute(0, 3, 1, 2).flatten(0, 1)
        return patches.transpose(2, 3).flatten(2)

    def _inside(self, length: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the number of patches of every row, (num_rows,), and which are: (num_rows, num_patches) bool."""
        num_patches = self.config.layout.num_patches_of_rows(length)
        if self.config.channel_mode == "independent":
            num_patches = num_patches.repeat_interleave(self.config.num_input_channels)
        return num_patches, torch.arange(patches.shape[1], device=patches.device) < num_patches.unsqueeze(1)

    def _with_cls(self, patches: torch.Tensor, seen: torch.Tensor, num_patches: torch.Tensor) -> TokenRows:
        """Add the [CLS] token to every row."""
        cls = self.cls_token.expand(patches.shape[0] // self.cls_token.shape[1], -1, -1)
        cls = cls.reshape(patches.shape[0], 1, patches.shape[2])
        if self.config.encoder in CAUSAL_ENCODERS:
            is_cls = torch.arange(patches.shape[1] + 1, device=patches.device) == num_patches.unsqueeze(1)
            tokens = torch.where(is_cls.unsqueeze(-1), cls, nn.functional.pad(patches, (0, 0, 0, 1)))
            seen = nn.functional.pad(seen, (0, 1)) | is_cls
        else:
            tokens = torch.cat((cls, patches), dim=1)
            seen = nn.functional.pad(seen, (1, 0), value=True)
        if not torch.compiler.is_compiling() and bool(seen.all()):
            return TokenRows(tokens, None, None)
        return TokenRows(tokens, seen, num_patches + 1)

    def _embed(self, rows: TokenRows, draws: DropoutDraws | None, embedding_kept: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self.token_embedding, CircularTokenEmbedding):
            hidden = self.token_embedding(rows.tokens, rows.num_tokens)
        else:
            hidden = self.token_embedding(rows.tokens)
        length = rows.tokens.shape[1]
        if self.positions is not None:
            hidden = hidden + self.positions(length)
        elif self.config.position_embedding == "fixed":
            hidden = hidden + sinusoidal_positions(length, self.config.hidden_size, hidden.device).to(hidden.dtype)
        if embedding_kept is None:
            return self.dropout(hidden, draws)
        return hidden * embedding_kept.to(hidden) / (1.0 - self.config.dropout)

    def _without_cls(self, hidden: torch.Tensor, num_patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the [CLS] token's embedding (num_rows, hidden_size) and the patches'."""
        if self.config.encoder not in CAUSAL_ENCODERS:
            return hidden[:, 0], hidden[:, 1:]
        place = num_patches.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, place).squeeze(1), hidden[:, :-1]

    def _instances(
        self, cls: torch.Tensor, patches: torch.Tensor, seen: torch.Tensor, num_patches: torch.Tensor
    ) -> torch.Tensor:
        """Embed whole rows as `instance_embedding` says: (num_rows, embedding_size)."""
        kind = self.config.instance_embedding
        if kind == "cls":
            return cls
        if kind == "gap":
            counted = seen.unsqueeze(-1)
            return (patches * counted).sum(1) / counted.sum(1).clamp(min=1)
        if kind == "last":
            return patches.gather(1, (num_patches - 1).view(-1, 1, 1).expand(-1, 1, patches.shape[-1])).squeeze(1)
        kept = patches[:, : self.config.num_context_patches].flatten(1)
        return nn.functional.pad(kept, (0, self.config.embedding_size - kept.shape[1]))
