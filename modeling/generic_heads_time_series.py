"""Models with a head, written once for all methods: what the encoder made of a series, then the head.

A method gives the head (`self.head`) and, where it is not the embedding of the series, what it reads
(`compute_head_inputs`). The two steps can be taken
apart, as `encoder_outputs` does in transformers: a frozen encoder then runs once for all epochs of a linear probe.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch

from .outputs_time_series import TimeSeriesClassificationOutput, TimeSeriesPredictionOutput


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


class GenericForTimeSeriesClassification(GenericWithHead):
    """Class scores: `self.head(**head_inputs, labels=labels)` returns loss and logits."""

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
            labels: (batch_size,) class indices, or None.
            head_inputs: What `compute_head_inputs` returned for the series, in place of past_values.
            output_hidden_states: Whether to return the encoder's hidden states.
            return_dict: Whether to return a TimeSeriesClassificationOutput instead of a tuple.

        Returns:
            Loss (with labels) and logits (batch_size, num_labels).

        Raises:
            ValueError: Neither past_values nor head_inputs are given, or a shape does not fit.
        """
        encoded = self._encoded(head_inputs, past_values, past_observed_mask, output_hidden_states)
        return self.score(encoded, labels, return_dict)

    def score(
        self, encoded: EncodedForHead, labels: torch.Tensor | None, return_dict: bool | None, **head_arguments: Any
    ) -> TimeSeriesClassificationOutput | tuple[torch.Tensor, ...]:
        """Run the head on what the encoder made of the series; the rest is as in `forward`."""
        loss, logits = cast(Any, self).head(**encoded.head_inputs, labels=labels, **head_arguments)
        output = TimeSeriesClassificationOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output if return_dict is not False else output.to_tuple()


class GenericForTimeSeriesPrediction(GenericWithHead):
    """The future: `self.head(**head_inputs, future_values=..., future_observed_mask=...)` returns loss and values."""

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
            Loss (with future_values) and prediction_outputs (batch_size, prediction_length, num_output_channels).

        Raises:
            ValueError: Neither past_values nor head_inputs are given, or a shape does not fit.
        """
        encoded = self._encoded(head_inputs, past_values, past_observed_mask, output_hidden_states)
        return self.predict(encoded, future_values, future_observed_mask, return_dict)

    def predict(
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
        output = TimeSeriesPredictionOutput(
            loss=loss, prediction_outputs=prediction, hidden_states=encoded.hidden_states
        )
        return output if return_dict is not False else output.to_tuple()
