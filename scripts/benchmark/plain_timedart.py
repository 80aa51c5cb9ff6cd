"""TimeDART written as it is usually written: attention by hand, all weights in memory, masks as numbers of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from hf_tsrep.modeling.layers_transformer import sinusoidal_positions


def attend(attention: Any, hidden: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Attend with one projection of queries, keys and values, under a mask (num_queries, num_keys)."""
    heads = attention.num_attention_heads
    weight, bias = attention.input_projection.weight.chunk(3), attention.input_projection.bias.chunk(3)
    query, key, value = (
        F.linear(one, weight[index], bias[index]).unflatten(-1, (heads, -1)).transpose(1, 2)
        for index, one in enumerate((hidden, memory, memory))
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return attention.output_projection((weights @ value).transpose(1, 2).flatten(2))


class PlainTimeDART:
    """The pretext step and the embeddings of complete series with independent channels.

    Args:
        model: Our TimeDARTForPreTraining, whose parameters it shares.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def patches(self, values: torch.Tensor) -> torch.Tensor:
        """Cut (batch_size, time, channel) into rows of patches: (rows, num_patches, patch_length)."""
        rows = values.transpose(1, 2).flatten(0, 1)
        return rows.unfold(1, self.config.patch_length, self.config.patch_stride)

    def with_positions(self, hidden: torch.Tensor) -> torch.Tensor:
        """Add the places."""
        return hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden.device)

    def encode(self, patches: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        """Encode causally: (rows, num_patches, hidden_size)."""
        encoder = self.model.model.encoder
        hidden = encoder.embedding(patches)
        if start is not None:
            hidden = torch.cat((start.expand(len(hidden), -1, -1), hidden[:, :-1]), 1)
        hidden = self.with_positions(hidden)
        seen = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()
        for layer in encoder.transformer.layers:
            hidden = layer.attention_norm(hidden + attend(layer.attention, hidden, hidden, seen))
            hidden = layer.output_norm(hidden + layer.contraction(F.gelu(layer.expansion(hidden))))
        return encoder.transformer.norm(hidden)

    def normalize(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return normalised series, mean and deviation."""
        mean = values.mean(1, keepdim=True)
        deviation = (values.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        return (values - mean) / deviation, mean, deviation

    def loss(self, values: torch.Tensor, levels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the pretext loss of the causal head; levels and noise are those of every patch, by rows."""
        normalized, mean, deviation = self.normalize(values)
        patches, decoder = self.patches(normalized), self.model.denoiser
        encoded = self.encode(patches, decoder.start_token)
        noised = levels.sqrt() * patches + (1 - levels).sqrt() * noise
        hidden = self.with_positions(self.model.model.encoder.embedding(noised))
        itself = torch.eye(hidden.shape[1], dtype=torch.bool)
        for layer in decoder.layers:
            hidden = layer.norms[0](hidden + attend(layer.self_attention, hidden, hidden, itself))
            hidden = layer.norms[1](hidden + attend(layer.cross_attention, hidden, encoded, itself))
            hidden = layer.norms[2](hidden + layer.contraction(F.gelu(layer.expansion(hidden))))
        told = decoder.projection(decoder.norm(hidden)).flatten(1)
        told = told.unflatten(0, (len(values), -1)).transpose(1, 2) * deviation + mean
        return (told - values).square().mean()

    def embed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of series: (batch_size, hidden_size)."""
        hidden = self.encode(self.patches(self.normalize(values)[0]), None)
        return hidden.amax(1).unflatten(0, (len(values), -1)).mean(1)
