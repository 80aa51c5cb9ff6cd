"""What the models return."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class TimeSeriesModelOutput(ModelOutput):
    """Embeddings of a batch of series.

    Args:
        last_hidden_state: (batch_size, sequence_length, embedding_size), one embedding a timestamp.
        pooler_output: (batch_size, embedding_size), one embedding a series.
        hidden_states: One tensor (batch_size, sequence_length, hidden_size) for the projected input and one for each
            block's output, when asked for.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class TimeSeriesClassificationOutput(ModelOutput):
    """Class scores.

    Args:
        loss: Scalar cross-entropy, when labels are given.
        logits: (batch_size, num_labels).
        hidden_states: As in TimeSeriesModelOutput, when asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class TimeSeriesPredictionOutput(ModelOutput):
    """Predicted future.

    Args:
        loss: Scalar mean squared error over the observed future values, when future values are given.
        prediction_outputs: (batch_size, prediction_length, num_output_channels), in the units of the input.
        hidden_states: As in TimeSeriesModelOutput, when asked for.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
