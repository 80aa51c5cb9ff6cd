"""Signs of collapse: how many directions the embeddings use, and how much they vary in each dimension."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)


def effective_rank(matrix: torch.Tensor) -> float:
    """Return the effective rank: exp of the entropy of the singular values, normalised to sum 1.

    Args:
        matrix: (rows, columns), finite.

    Returns:
        Between 1 (all rows are multiples of one) and the rank; 0 for a zero matrix.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    rows, columns = matrix.shape
    values = matrix.double()
    # The squared singular values are the eigenvalues of the smaller Gram matrix, which is far cheaper than an SVD.
    gram = values.T @ values if rows >= columns else values @ values.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()
    largest = singular.max()
    if largest == 0:
        return 0.0
    singular = singular[singular > largest * 1e-7]  # below it only rounding of the Gram matrix is left
    shares = singular / singular.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


class CollapseMonitor:
    """Measures the embeddings of observed timestamps of a batch; `TimeSeriesTrainer` asks it at logging steps only.

    The encoder is run in evaluation mode on a part of the batch: what the pretext task returns carries dropout, whose
    noise has a high rank even where every timestamp has the same embedding.

    Args:
        num_timestamps: Number of timestamps that are embedded, over all series.
        minimum_rank: Effective rank below which a warning is logged, once for every fall below it.
    """

    def __init__(self, num_timestamps: int = 1024, minimum_rank: float = 2.0) -> None:
        self.num_timestamps = num_timestamps
        self.minimum_rank = minimum_rank
        self._below = False

    def measure(self, model: nn.Module, inputs: Mapping[str, Any], step: int = 0) -> dict[str, float]:
        """Measure a batch.

        Args:
            model: A model of the house, or its encoder.
            inputs: past_values (batch_size, sequence_length, num_input_channels) and optionally past_observed_mask.
            step: Number of the step, for the warning.

        Returns:
            effective_rank of the centred embeddings, and embedding_std_mean and embedding_std_min over the dimensions;
            nothing where the batch has fewer than two observed timestamps.
        """
        embeddings = self._embed(model, inputs)
        if len(embeddings) < 2:
            return {}
        deviations = embeddings.std(dim=0, correction=0)
        centred = embeddings - embeddings.mean(dim=0)
        constant = bool(centred.norm() <= 1e-5 * embeddings.norm())  # what varies is rounding
        rank = 1.0 if constant else effective_rank(centred)
        self._warn(rank, step)
        return {
            "effective_rank": rank,
            "embedding_std_mean": float(deviations.mean()),
            "embedding_std_min": float(deviations.min()),
        }

    @torch.no_grad()
    def _embed(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return (timestamps, embedding_size) float32 of observed timestamps."""
        encoder: Any = getattr(model, "base_model", model)
        values = inputs["past_values"]
        length = max(2, self.num_timestamps // len(values))
        start = max(0, (values.shape[1] - length) // 2)
        values = values[: self.num_timestamps, start : start + length]
        mask = inputs.get("past_observed_mask")
        mask = None if mask is None else mask[: self.num_timestamps, start : start + length]
        was_training = encoder.training
        encoder.eval()
        try:
            embeddings, pooled = encoder.embed_timestamps(values, mask)
        finally:
            encoder.train(was_training)
        embeddings = embeddings.float()
        if embeddings.ndim == 3 and pooled is not None:
            return embeddings[pooled]
        return embeddings.reshape(-1, embeddings.shape[-1])

    def _warn(self, rank: float, step: int) -> None:
        if rank < self.minimum_rank and not self._below:
            logger.warning(
                "Step %d: the embeddings have an effective rank of %.2f, below %.1f: they may be collapsing. "
                "Try a lower learning rate, a larger batch or another seed.",
                step,
                rank,
                self.minimum_rank,
            )
        self._below = rank < self.minimum_rank


class TokenCollapseMonitor(CollapseMonitor):
    """A CollapseMonitor for models that read `input_ids`: it measures the embeddings of tokens that are no padding."""

    @torch.no_grad()
    def _embed(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return (tokens, embedding_size) float32."""
        encoder: Any = getattr(model, "base_model", model)
        num_rows = max(1, self.num_timestamps // inputs["input_ids"].shape[1])
        ids, attention = inputs["input_ids"][:num_rows], inputs["attention_mask"][:num_rows].bool()
        was_training = encoder.training
        encoder.eval()
        try:
            embeddings = encoder(input_ids=ids, attention_mask=attention).last_hidden_state
        finally:
            encoder.train(was_training)
        return embeddings[attention].float()
