"""TimeDRL written as it is usually written: a pass a view, attention by hand, PyTorch's own dropout and batch norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class PlainTimeDRL(nn.Module):
    """The pretext step and the embeddings of complete series with independent channels.

    Args:
        model: Our TimeDRLForPreTraining, whose parameters it shares.
        dropout: Dropout probability.
    """

    def __init__(self, model: Any, dropout: float) -> None:
        super().__init__()
        self.config, self.dropout = model.config, nn.Dropout(dropout)
        self.patch_encoder = model.model.patch_encoder
        self.timestamp_predictor, self.predictor = model.timestamp_predictor, model.contrastive_predictor
        self.norm = nn.BatchNorm1d(self.predictor.norm.num_features)

    def patches(self, values: torch.Tensor) -> torch.Tensor:
        """Cut (batch_size, time, channel) into rows of patches: (rows, num_patches, patch_length)."""
        rows = values.transpose(1, 2).flatten(0, 1)
        rows = F.pad(rows.unsqueeze(1), (0, self.config.patch_stride), mode="replicate").squeeze(1)
        return rows.unfold(1, self.config.patch_length, self.config.patch_stride)

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Return [CLS] and patch embeddings: (rows, 1 + num_patches, hidden_size)."""
        mean = values.mean(1, keepdim=True)
        deviation = (values.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        patches = self.patches((values - mean) / deviation)
        encoder: Any = self.patch_encoder
        cls = encoder.cls_token.expand(len(values), -1, -1).reshape(len(patches), 1, -1)
        tokens = torch.cat((cls, patches), 1).transpose(1, 2)
        weight = encoder.token_embedding.weight
        side = weight.shape[2] // 2
        hidden = F.conv1d(F.pad(tokens, (side, side), mode="circular"), weight).transpose(1, 2)
        hidden = self.dropout(hidden + encoder.positions.weight[: hidden.shape[1]])
        for layer in encoder.encoder.transformer.layers:
            hidden = layer.attention_norm(hidden + self.dropout(self._attend(layer.attention, hidden)))
            inner = self.dropout(F.gelu(layer.expansion(hidden)))
            hidden = layer.output_norm(hidden + self.dropout(layer.contraction(inner)))
        return encoder.encoder.transformer.norm(hidden)

    def _attend(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        heads = attention.num_attention_heads
        parts = (part.unflatten(-1, (heads, -1)) for part in attention.input_projection(hidden).chunk(3, -1))
        query, key, value = parts
        scores = torch.einsum("nqhd,nkhd->nhqk", query, key) / query.shape[-1] ** 0.5
        weights = self.dropout(scores.softmax(-1))
        return attention.output_projection(torch.einsum("nhqk,nkhd->nqhd", weights, value).flatten(2))

    def loss(self, values: torch.Tensor) -> torch.Tensor:
        """Return the pretext loss of a batch, by two passes."""
        target = self.patches(values)
        views = [self.encode(values) for _ in range(2)]
        predicted = [self._predict(view[:, 0]) for view in views]
        predictive = sum(F.mse_loss(self.timestamp_predictor.projection(view[:, 1:]), target) for view in views) / 2
        cosines = [F.cosine_similarity(views[i][:, 0].detach(), predicted[1 - i]).mean() for i in range(2)]
        return predictive - self.config.contrastive_weight * sum(cosines) / 2

    def _predict(self, instances: torch.Tensor) -> torch.Tensor:
        inner = self.dropout(F.relu(self.norm(self.predictor.contraction(instances))))
        return self.predictor.expansion(inner)
