"""The other side of tokens: the same transformer on a linear map of the raw patches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
from hf_tsrep.modeling.heads_time_series import TimeSeriesClassificationOutput
from hf_tsrep.modeling.modeling_crosstimenet import CrossTimeNetForTimeSeriesClassification


class RawPatchClassifier(CrossTimeNetForTimeSeriesClassification):
    """CrossTimeNet's classifier with patches of the series, standardised as for the tokenizer, in place of tokens.

    Args:
        config: One domain and the backbone.
    """

    main_input_name = "past_values"
    _auto_class = None  # it is saved in checkpoints only, without its code
    channel_mean: torch.Tensor
    channel_scale: torch.Tensor

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        (domain,) = config.domains or []
        self.patch_length, num_channels = domain["patch_length"], domain["num_input_channels"]
        self.register_buffer("channel_mean", torch.zeros(num_channels))
        self.register_buffer("channel_scale", torch.ones(num_channels))
        self.patch_projection = nn.Linear(self.patch_length * num_channels, int(config.embedding_size or 0))
        self.model.get_input_embeddings().requires_grad_(False)

    def forward(  # type: ignore[override]  # it reads values, the model's own forward tokens
        self, past_values: torch.Tensor, labels: torch.Tensor | None = None, **ignored: Any
    ) -> TimeSeriesClassificationOutput:
        """Score the classes of series (batch_size, sequence_length, num_input_channels) without missing values."""
        values = (past_values - self.channel_mean) / self.channel_scale
        values = F.pad(values, (0, 0, 0, -values.shape[1] % self.patch_length))
        embedded = self.patch_projection(values.reshape(len(values), -1, self.patch_projection.in_features))
        hidden = self.model.backbone(inputs_embeds=embedded).last_hidden_state
        loss, logits = self.head(hidden.mean(1), labels=labels)
        return TimeSeriesClassificationOutput(loss=loss, logits=logits)
