"""CrossTimeNet's heads: recovered tokens, the classes of a domain, and the future."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .backbones_crosstimenet import activation_name, normalization_epsilon
from .configuration_crosstimenet import CrossTimeNetConfig
from .heads_time_series import PredictionHead, classification_loss


class MaskedTokenHead(nn.Module):
    """Scores of all tokens, as BERT's masked language modelling has them, but with an output layer of its own.

    Args:
        config: Gives the vocabulary, the backbone and the ids that are never predicted.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__()
        backbone = cast(PreTrainedConfig, config.backbone_config)
        width = cast(int, config.embedding_size)
        self.never_predicted_ids = list(config.never_predicted_ids)
        self.dense = nn.Linear(width, width)
        self.activation = ACT2FN[activation_name(backbone)]
        self.norm = nn.LayerNorm(width, eps=normalization_epsilon(backbone))
        self.decoder = nn.Linear(width, cast(int, config.vocab_size), bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (..., embedding_size) to float32 logits (..., vocab_size).

        Ids that are never predicted have the lowest finite number, whose probability is exactly zero.
        """
        logits = self.decoder(self.norm(self.activation(self.dense(hidden)))).float()
        if self.never_predicted_ids:
            excluded = torch.tensor(self.never_predicted_ids, device=logits.device)
            logits = logits.index_fill(-1, excluded, torch.finfo(logits.dtype).min)
        return logits


class PooledClassifier(nn.Module):
    """A linear layer on the pooled embedding of a series of any length.

    Args:
        config: Gives embedding_size and classifier_dropout.
        num_labels: Number of classes.
    """

    def __init__(self, config: CrossTimeNetConfig, num_labels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.projection = nn.Linear(cast(int, config.embedding_size), num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Map pooled tokens (batch_size, embedding_size) to logits (batch_size, num_labels)."""
        return self.projection(self.dropout(pooled))


class FlattenClassifier(nn.Module):
    """The published head: all tokens beside each other, GELU, layer normalisation and a linear layer.

    Args:
        config: Gives embedding_size and classifier_dropout.
        num_labels: Number of classes.
        num_tokens: Number of tokens of every series.
    """

    def __init__(self, config: CrossTimeNetConfig, num_labels: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = num_tokens * cast(int, config.embedding_size)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, num_labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens (batch_size, num_tokens, embedding_size) to logits (batch_size, num_labels).

        Raises:
            ValueError: The number of tokens is another one.
        """
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(
                f"The series have {tokens.shape[1]} tokens, but classifier='flatten' was built for {self.num_tokens}; "
                "pad or cut them, or use classifier='pooled'."
            )
        return self.projection(self.norm(self.dropout(F.gelu(tokens.flatten(1)))))


class _ZeroGradients(torch.autograd.Function):
    """Passes logits on, and gives parameters that had no part in them a gradient of zero, whatever their values."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*parameters)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return gradient, *map(torch.zeros_like, ctx.saved_tensors)


class DomainClassifiers(nn.Module):
    """A head a domain that has `num_labels`, or one head for all where no domain has.

    In training the heads of the other domains get a gradient of zero, so that several processes may train on
    different domains at once: DistributedDataParallel waits for the gradients of all parameters.

    Args:
        config: Gives the domains, the kind of head and num_labels.

    Raises:
        ValueError: classifier="flatten" without num_tokens.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__()
        self.config = config
        described = [(place, one) for place, one in enumerate(config.domains or []) if one.get("num_labels")]
        self.places = [place for place, _ in described]
        labels = [int(one["num_labels"]) for _, one in described] or [cast(int, config.num_labels)]
        tokens = [one.get("num_tokens", config.num_tokens) for _, one in described] or [config.num_tokens]
        self.heads = nn.ModuleList(map(self._build, labels, tokens))

    def _build(self, num_labels: int, num_tokens: int | None) -> nn.Module:
        if self.config.classifier == "pooled":
            return PooledClassifier(self.config, num_labels)
        if num_tokens is None:
            raise ValueError(
                "classifier='flatten' needs num_tokens, the number of tokens of every series: ceil(length / "
                "patch_length)."
            )
        return FlattenClassifier(self.config, num_labels, num_tokens)

    def forward(
        self,
        features: torch.Tensor,
        domain: str | int | None = None,
        labels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes of a domain.

        Args:
            features: The pooled tokens (batch_size, embedding_size), or with classifier="flatten" all tokens
                (batch_size, num_tokens, embedding_size).
            domain: Name or place of the domain; None where there is one head.
            labels: (batch_size,) class indices, or None.

        Returns:
            The scalar cross-entropy or None, and the logits (batch_size, number of the domain's labels).

        Raises:
            ValueError: The domain is unknown, or has no head.
        """
        place = self.place_of(domain)
        head = self.heads[0 if place is None else self.places.index(place)]
        logits = head(features)
        if self.training:
            others = [value for other in self.heads if other is not head for value in other.parameters()]
            learning = [value for value in others if value.requires_grad]
            logits = _ZeroGradients.apply(logits, *learning) if learning else logits
        return classification_loss(logits, labels), logits

    def place_of(self, domain: str | int | torch.Tensor | None) -> int | None:
        """Return the place of the domain whose head scores; None where one head serves all domains.

        Args:
            domain: Name or place of the domain; None where there is one head.

        Raises:
            ValueError: The domain is unknown, or has no head.
        """
        if not self.places:
            return None
        place = self.config.served_domain_index(domain)
        if place not in self.places:
            domains = self.config.domains or []
            names = ", ".join(domains[one]["name"] for one in self.places)
            raise ValueError(
                f"Domain {domains[place]['name']!r} has no classification head; these have: {names}. "
                "Give it num_labels in config.domains."
            )
        return place


class ScaledPredictionHead(PredictionHead):
    """A linear layer to the future in units of `config.target_scale`: the tokens tell no units of the series.

    Args:
        config: Gives the sizes, and mean and scale of the predicted channels or None.
    """

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        self.target_mean, self.target_scale = config.target_mean, config.target_scale

    def forward(
        self,
        embedding: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict the future; see PredictionHead.forward.

        Returns:
            The loss in scaled units or None, and the prediction in the units of the series.
        """
        if self.target_mean is None or self.target_scale is None:
            return super().forward(embedding, future_values, future_observed_mask)
        known = torch.tensor([self.target_mean, self.target_scale], dtype=torch.float32, device=embedding.device)
        mean, scale = known.unbind(0)
        # Another number of channels is for PredictionHead to refuse.
        if future_values is not None and future_values.shape[-1] == len(mean):
            future_values = (future_values.float() - mean) / scale
        loss, prediction = super().forward(embedding, future_values, future_observed_mask)
        return loss, prediction.float() * scale + mean
