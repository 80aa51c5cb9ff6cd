"""Heads on any encoder: class scores or numbers of a series, and its future."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_time_series import TimeSeriesConfig
from .layers_pooling import pool_instance
from .losses_time_series import finish_scores, prediction_loss
from .predicting_time_series import PredictsClasses, PredictsFuture


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
    """Class scores, or numbers where `config.problem_type` is "regression".

    Args:
        loss: Scalar, when labels are given: cross-entropy, or of numbers the squared error.
        logits: (batch_size, num_labels); numbers are in the units of the labels.
        hidden_states: As in TimeSeriesModelOutput, when asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class TimeSeriesPredictionOutput(ModelOutput):
    """Predicted future.

    Args:
        loss: Scalar mean squared error over the observed future values, when future values are given; of quantiles
            their mean pinball loss.
        prediction_outputs: (batch_size, prediction_length, num_output_channels), in the units of the input; of
            quantiles the median.
        quantile_outputs: (batch_size, prediction_length, num_output_channels, num_quantiles), where the config has
            quantiles, rising along the last axis.
        hidden_states: As in TimeSeriesModelOutput, when asked for.
    """

    loss: torch.Tensor | None = None
    prediction_outputs: torch.Tensor | None = None
    quantile_outputs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class ClassificationHead(nn.Module):
    """A linear layer on the embedding of a series.

    Args:
        config: Gives embedding_size, num_labels, problem_type, the labels' mean and scale, and classifier_dropout.
        num_labels: Number of classes; None for the config's.
    """

    def __init__(self, config: TimeSeriesConfig, num_labels: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.classifier_dropout)
        # transformers has two labels where the config says nothing
        num_labels = cast(int, config.num_labels) if num_labels is None else num_labels
        self.projection = nn.Linear(config.embedding_size, num_labels)

    def forward(
        self, embedding: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes, or predict numbers.

        Args:
            embedding: (batch_size, embedding_size).
            labels: See losses_time_series.finish_scores.

        Returns:
            The scalar loss or None, and the logits (batch_size, num_labels).
        """
        return finish_scores(self.scores(embedding), labels, self.config)

    def scores(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return what the layer computes of embeddings (batch_size, embedding_size): (batch_size, num_labels)."""
        return self.projection(self.dropout(embedding))


def count_quantiles(quantiles: list[float] | None) -> int:
    """Return how many numbers a head computes for one future value."""
    return 1 if quantiles is None else len(quantiles)


def unflatten_prediction(flat: torch.Tensor, num_channels: int, quantiles: list[float] | None) -> torch.Tensor:
    """Give what the last layer of a head computed its axes.

    Quantiles are sorted, so that a lower one is never above a higher one; that brings no prediction further from the
    true quantiles (Chernozhukov, Fernandez-Val and Galichon, Econometrica 2010).

    Args:
        flat: (..., prediction_length * num_channels * num_quantiles).
        num_channels: Number of channels.
        quantiles: The quantiles, or None for one number a value.

    Returns:
        (..., prediction_length, num_channels), and with quantiles a last axis of them.
    """
    if quantiles is None:
        return flat.unflatten(-1, (-1, num_channels))
    return flat.unflatten(-1, (-1, num_channels, len(quantiles))).sort(-1).values


class PredictionHead(nn.Module):
    """A linear layer from the embedding at the last timestamp, or several embeddings, to all future values.

    Args:
        config: Gives embedding_size, prediction_length, num_output_channels and quantiles.
        num_inputs: Number of values that it reads; None for embedding_size.
    """

    def __init__(self, config: TimeSeriesConfig, num_inputs: int | None = None) -> None:
        super().__init__()
        self.num_output_channels = config.num_output_channels or config.num_input_channels
        self.quantiles = config.quantiles
        outputs = config.prediction_length * self.num_output_channels * count_quantiles(self.quantiles)
        self.projection = nn.Linear(config.embedding_size if num_inputs is None else num_inputs, outputs)

    def forward(
        self,
        embedding: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict the future.

        Args:
            embedding: (batch_size, num_inputs).
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.

        Returns:
            The scalar loss over observed values or None (see prediction_loss), and the prediction (batch_size,
            prediction_length, num_output_channels), and with quantiles a last axis of them.
        """
        prediction = unflatten_prediction(self.projection(embedding), self.num_output_channels, self.quantiles)
        return prediction_loss(prediction, future_values, future_observed_mask, self.quantiles), prediction


class EncodedForHead(NamedTuple):
    """What a head reads.

    Args:
        head_inputs: Arguments of the head's forward, tensors with one row a series.
        hidden_states: The encoder's hidden states, when asked for.
    """

    head_inputs: dict[str, torch.Tensor]
    hidden_states: tuple[torch.Tensor, ...] | None = None


class GenericWithHead:
    """The part that classification and prediction share."""

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Run the encoder; a head reads the embedding of the series, unless the method says otherwise.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            output_hidden_states: Whether to return the encoder's hidden states.

        Returns:
            What `forward` takes as head_inputs, here embedding (batch_size, embedding_size); and the hidden states.
        """
        encoded = cast(Any, self).model(past_values, past_observed_mask, output_hidden_states=output_hidden_states)
        return EncodedForHead({"embedding": encoded.pooler_output}, encoded.hidden_states)

    def fit_head(self, dataset: Any) -> None:
        """Take from training data what the head needs beside weights that learn; before training, and here nothing.

        A method whose head holds parts of its training data overrides it.

        Args:
            dataset: Items with past_values (sequence_length, num_input_channels) and the task's labels.
        """

    def _encoded(
        self,
        head_inputs: dict[str, torch.Tensor] | None,
        past_values: torch.Tensor | None,
        past_observed_mask: torch.Tensor | None,
        output_hidden_states: bool | None,
    ) -> EncodedForHead:
        if head_inputs is not None:
            return EncodedForHead(head_inputs)
        if past_values is None:
            raise ValueError(f"{type(self).__name__} got neither past_values nor head_inputs; give one of them.")
        return self.compute_head_inputs(past_values, past_observed_mask, output_hidden_states)


class GenericForTimeSeriesClassification(PredictsClasses, GenericWithHead):
    """Class scores: `self.classifier(**head_inputs, labels=labels)` returns loss and logits.

    peft trains and keeps a whole head that bears this name (`LoraConfig(task_type="SEQ_CLS")`).
    """

    # Folders of before the head bore it.
    _renamed_parameters = {r"^head\.": "classifier."}  # noqa: RUF012 - as modeling_time_series declares it

    @property
    def head(self) -> nn.Module:
        """The head."""
        return cast(Any, self).classifier

    def forward(
        self,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        head_inputs: dict[str, torch.Tensor] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesClassificationOutput | tuple[torch.Tensor, ...]:
        """Score the classes.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            labels: (batch_size,) class indices, or what config.problem_type has in their place (see
                losses_time_series.finish_scores); or None.
            head_inputs: What `compute_head_inputs` returned for the series, in place of past_values.
            output_hidden_states: Whether to return the encoder's hidden states.
            return_dict: Whether to return a TimeSeriesClassificationOutput instead of a tuple.

        Returns:
            Loss (with labels) and logits (batch_size, num_labels).

        Raises:
            ValueError: Neither past_values nor head_inputs are given, or a shape does not fit.
        """
        encoded = self._encoded(head_inputs, past_values, past_observed_mask, output_hidden_states)
        return self._score(encoded, labels, return_dict)

    def _score(
        self, encoded: EncodedForHead, labels: torch.Tensor | None, return_dict: bool | None, **head_arguments: Any
    ) -> TimeSeriesClassificationOutput | tuple[torch.Tensor, ...]:
        """Run the head on what the encoder made of the series; the rest is as in `forward`."""
        loss, logits = cast(Any, self).classifier(**encoded.head_inputs, labels=labels, **head_arguments)
        output = TimeSeriesClassificationOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output if return_dict is not False else output.to_tuple()


class GenericForTimeSeriesPrediction(PredictsFuture, GenericWithHead):
    """The future: `self.head(**head_inputs, future_values=..., future_observed_mask=...)` returns loss and values."""

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Run the encoder; a head reads the last observed timestamp, unless the method says otherwise.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            output_hidden_states: Whether to return the encoder's hidden states.

        Returns:
            embedding (batch_size, embedding_size); and the hidden states.
        """
        encoder = cast(Any, self).model
        encoded = encoder(past_values, past_observed_mask, output_hidden_states=output_hidden_states)
        observed = encoder.observed_timestamps(encoder.observed_values(past_values, past_observed_mask))
        last = pool_instance(encoded.last_hidden_state, encoder.pooled_timestamps(observed), "last")
        return EncodedForHead({"embedding": last}, encoded.hidden_states)

    def forward(
        self,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
        head_inputs: dict[str, torch.Tensor] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesPredictionOutput | tuple[torch.Tensor, ...]:
        """Predict the future.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.
            head_inputs: What `compute_head_inputs` returned for the series, in place of past_values.
            output_hidden_states: Whether to return the encoder's hidden states.
            return_dict: Whether to return a TimeSeriesPredictionOutput instead of a tuple.

        Returns:
            Loss (with future_values) and prediction_outputs (batch_size, prediction_length, num_output_channels),
            and where the config has quantiles quantile_outputs.

        Raises:
            ValueError: Neither past_values nor head_inputs are given, or a shape does not fit.
        """
        encoded = self._encoded(head_inputs, past_values, past_observed_mask, output_hidden_states)
        return self._forecast(encoded, future_values, future_observed_mask, return_dict)

    def _forecast(
        self,
        encoded: EncodedForHead,
        future_values: torch.Tensor | None,
        future_observed_mask: torch.Tensor | None,
        return_dict: bool | None,
    ) -> TimeSeriesPredictionOutput | tuple[torch.Tensor, ...]:
        """Run the head on what the encoder made of the series; the rest is as in `forward`."""
        loss, prediction = cast(Any, self).head(
            **encoded.head_inputs, future_values=future_values, future_observed_mask=future_observed_mask
        )
        levels = cast(Any, self).config.quantiles
        output = TimeSeriesPredictionOutput(
            loss=loss,
            prediction_outputs=prediction if levels is None else prediction[..., levels.index(0.5)],
            quantile_outputs=None if levels is None else prediction,
            hidden_states=encoded.hidden_states,
        )
        return output if return_dict is not False else output.to_tuple()
