"""TST: A Transformer-based Framework for Multivariate Time Series Representation Learning (Zerveas et al., KDD 2021).

arXiv 2010.02803. Section 3.1, base model: a projection of every timestamp, positions and a post-norm Transformer
encoder with batch normalisation -> TSTEncoder, TSTModel. Section 3.2, regression of masked values: geometric_mask
(layers_masking.py), draw_step, masked_errors -> TSTForPreTraining. Section 3.3 and the official code, a linear layer
on all timestamps -> TSTForTimeSeriesClassification (also of numbers), TSTForTimeSeriesPrediction. The converter of
official checkpoints is at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_tst import TSTConfig
from .conversion_time_series import (
    ConversionError,
    Converter,
    FieldsAndParameters,
    list_names,
    rename_hyperparameters,
    require_fields,
    require_parameters,
)
from .distributed_time_series import GlobalBatch
from .heads_time_series import (
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    TimeSeriesModelOutput,
    count_quantiles,
    unflatten_prediction,
)
from .layers_attention import AttentionProjection, begin_as_multihead_attention, key_mask
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_masking import geometric_mask_at_once, random_mask
from .layers_patching import AlignedSeries, PatchLayout, align_series, last_patches, take_context
from .layers_pooling import pool_instance
from .layers_transformer import (
    ACTIVATIONS,
    DROPOUT_SITES_OF_A_LAYER,
    BatchNormTransformerLayer,
    LearnedPositions,
    TransformerLayer,
    sinusoidal_positions,
)
from .losses_time_series import finish_scores, prediction_loss
from .modeling_time_series import TimeSeriesPreTrainedModel

# Learned positions begin uniformly in plus and minus so much, as in the official code.
POSITION_RANGE = 0.02
# Numbers of the dropout layers: the first of the encoder, and one beyond all of it.
EMBEDDING_SITE, DECODER_SITE = 0, 10_000


def transduction_mask(
    start: torch.Tensor, length: torch.Tensor, shape: tuple[int, int], config: TSTConfig
) -> torch.Tensor:
    """Mask whole channels, but for a first and a last part of the timestamps.

    Args:
        start: (batch_size,) where every series begins.
        length: (batch_size,) number of timestamps of every series.
        shape: Number of timestamps and number of channels.
        config: Gives masked_channels, start_hint and end_hint.

    Returns:
        (batch_size, sequence_length, num_input_channels) bool, True = kept.
    """
    sequence_length, num_channels = shape
    first = (config.start_hint * length.double()).floor()
    last = torch.maximum(((1.0 - config.end_hint) * length.double()).floor(), first)
    steps = torch.arange(sequence_length, device=start.device) - start.unsqueeze(1)
    inside = (steps >= first.unsqueeze(1)) & (steps < last.unsqueeze(1))
    is_masked = torch.zeros(num_channels, dtype=torch.bool, device=start.device)
    is_masked[config.masked_channels or []] = True
    return ~(inside.unsqueeze(-1) & is_masked)


def draw_masks(
    config: TSTConfig, batch_size: int, length: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw which values are kept (section 3.2).

    Args:
        config: Gives mask_rule, mask_ratio, mean_mask_length, mask_channels_together and unmasked_channels.
        batch_size: Number of series.
        length: Number of timestamps.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (batch_size, length, num_input_channels) bool, True = kept.
    """
    num_chains = 1 if config.mask_channels_together else config.num_input_channels
    if config.mask_rule == "bernoulli":
        kept = random_mask(torch.rand(batch_size, num_chains, length, generator=generator), config.mask_ratio)
    else:
        uniforms = torch.rand(batch_size, num_chains, 1 + length, generator=generator)
        kept = geometric_mask_at_once(uniforms, config.mask_ratio, config.mean_mask_length)
    kept = kept.transpose(1, 2).expand(-1, -1, config.num_input_channels)
    if not config.unmasked_channels:
        return kept
    kept = kept.clone()
    kept[..., config.unmasked_channels] = True
    return kept


@dataclass(frozen=True)
class TSTDraws:
    """The random choices of one step.

    Args:
        start: First timestamp that is looked at, of series longer than the context.
        keep: (batch_size, number of timestamps looked at, num_input_channels) bool, True = kept; None where
            "transduction" masks, which draws nothing.
        dropout_seed: Seed of all dropout of a step in training; None for torch's global generator.
    """

    start: int
    keep: torch.Tensor | None
    dropout_seed: int | None = None

    def rows(self, start: int, stop: int) -> TSTDraws:
        """Return the choices for some series of the batch."""
        return TSTDraws(self.start, None if self.keep is None else self.keep[start:stop], self.dropout_seed)


def draw_step(config: TSTConfig, batch_size: int, length: int, generator: torch.Generator) -> TSTDraws:
    """Draw a window of the context's length, the masks in it and the seed of dropout.

    Args:
        config: Gives context_length and the masks' settings.
        batch_size: Number of series.
        length: Number of timestamps that they have.
        generator: Source of randomness, on the CPU.

    Returns:
        The choices.
    """
    start = int(torch.randint(max(length - config.context_length, 0) + 1, (), generator=generator))
    keep = None
    if config.mask_rule != "transduction":
        keep = draw_masks(config, batch_size, min(length, config.context_length), generator)
    return TSTDraws(start, keep, int(torch.randint(2**62, (), generator=generator)))


def compensate_masking(masked: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Scale what is left of every timestamp by the number of its channels over the number of those kept.

    Args:
        masked: (batch_size, length, num_channels), 0 where it is masked.
        keep: The same shape, bool, True = kept.

    Returns:
        The same shape. A linear projection of it has the size that it had without masking, on average.
    """
    return masked * (keep.shape[-1] / keep.sum(-1, keepdim=True).clamp(min=1))


def masked_errors(predicted: torch.Tensor, values: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Compare the predictions of masked values with them.

    Args:
        predicted: (batch_size, length, num_input_channels).
        values: The same shape, the series.
        asked: The same shape, bool: masked and observed; the others are left out.

    Returns:
        The squared errors, of the same shape, 0 for what is left out. Their mean over what is asked is the loss.

    Source:
        TST, section 3.2, the masked mean squared error.
    """
    return torch.where(asked, predicted.float() - torch.where(asked, values, 0.0).float(), 0.0).square()


def penalized(loss: torch.Tensor, layer: nn.Linear, weight: float) -> torch.Tensor:
    """Add the squared norm of a layer's weights, its bias left out, to a scalar loss (the official l2_reg)."""
    return loss + weight * layer.weight.float().square().sum() if weight > 0 else loss


class ConvolutionalProjection(nn.Module):
    """A convolution over the timestamps, padded with zeros, in place of the linear projection (section 3.1).

    Token i stands for the timestamps from i * stride on, and sees the others under its kernel evenly around them.

    Args:
        num_channels: Number of channels.
        hidden_size: Width of a token.
        kernel_size: Number of timestamps under the kernel, at least the stride.
        stride: Number of timestamps from one token to the next.
    """

    def __init__(self, num_channels: int, hidden_size: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(num_channels, hidden_size, kernel_size, stride)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map (batch_size, length, num_channels) to (batch_size, length / stride rounded up, hidden_size)."""
        (kernel_size,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        before = (kernel_size - stride) // 2
        # So many zeros that a last part of a stride has a token, too.
        padded = F.pad(values.transpose(1, 2), (before, kernel_size - 1 - before))
        return self.convolution(padded).transpose(1, 2)


class EncodedTokens(NamedTuple):
    """What the encoder makes of a batch of aligned series.

    Args:
        hidden: (batch_size, num_tokens, hidden_size), with something for padding, too.
        observed: (batch_size, num_tokens) bool, tokens of timestamps with an observed value.
        num_tokens: (batch_size,) number of tokens of every series.
    """

    hidden: torch.Tensor
    observed: torch.Tensor
    num_tokens: torch.Tensor


class TSTEncoder(nn.Module):
    """The Transformer encoder over timestamps (section 3.1).

    A series is moved so that its first observed timestamp has the first position. A timestamp without an observed
    channel is attended to by none and counts in no statistics; a missing value beside observed ones is 0.
    """

    def __init__(self, config: TSTConfig) -> None:
        super().__init__()
        self.config = config
        self.projection: nn.Module = (
            ConvolutionalProjection(
                config.num_input_channels,
                config.hidden_size,
                config.projection_kernel_size,
                config.projection_stride,
            )
            if config.input_projection == "convolution"
            else nn.Linear(config.num_input_channels, config.hidden_size)
        )
        self.positions = (
            LearnedPositions(config.max_position_embeddings, config.hidden_size)
            if config.position_embedding == "learned"
            else None
        )
        dropout, of_weights = (
            0.0 if config.freeze_encoder else one for one in (config.dropout, config.attention_dropout)
        )
        self.dropout = SeededDropout(dropout, EMBEDDING_SITE)
        window = None if config.attention_window is None else -(-config.attention_window // config.token_stride)
        self.is_batch_normalized = config.normalization == "batch"
        layer_class = BatchNormTransformerLayer if self.is_batch_normalized else TransformerLayer
        self.layers = nn.ModuleList(
            layer_class(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                dropout,
                EMBEDDING_SITE + 1 + index * DROPOUT_SITES_OF_A_LAYER,
                of_weights,
                config.activation,
                window,
            )
            for index in range(config.num_hidden_layers)
        )

    def forward(
        self,
        values: torch.Tensor,
        observed: torch.Tensor,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Embed every timestamp.

        Args:
            values: (batch_size, sequence_length, num_input_channels), anything where it is not observed.
            observed: The same shape, bool.
            draws: The random choices of dropout; None for random ones in training.
            states: Takes the embedded tokens and every layer's output, of the aligned series, when given.

        Returns:
            (batch_size, sequence_length, hidden_size), zeros before the first and after the last observed timestamp.

        Raises:
            ValueError: A series has more tokens than there are learned positions.
        """
        series = align_series(values, observed)
        return self.in_place(self.encode_tokens(series, draws, states).hidden, series)

    def encode_tokens(
        self,
        series: AlignedSeries,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> EncodedTokens:
        """Encode series that begin at the first position.

        Args:
            series: Aligned series; a value that is observed but shall not be seen is 0.
            draws: As in `forward`.
            states: As in `forward`.

        Returns:
            The tokens. In evaluation there are no more of them than the longest series has.
        """
        if not torch.compiler.is_compiling() and not self.training and states is None:
            longest = int(series.length.max())
            series = AlignedSeries(
                series.values[:, :longest], series.observed[:, :longest], series.start, series.length
            )
        observed = self._observed_tokens(series.observed.any(-1))
        hidden = self._embed(torch.where(series.observed, series.values, 0.0), draws)
        attention_mask = key_mask(observed)
        counted = () if not self.is_batch_normalized else (None if self.config.normalize_over_padding else observed,)
        if states is not None:
            states.append(hidden)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask, draws, *counted)
            if states is not None:
                states.append(hidden)
        num_tokens = -(series.length.neg().div(self.config.token_stride, rounding_mode="floor"))
        return EncodedTokens(hidden, observed, num_tokens)

    def in_place(self, hidden: torch.Tensor, series: AlignedSeries) -> torch.Tensor:
        """Give every timestamp its token (batch_size, num_tokens, hidden_size), where it was before the alignment."""
        stride = self.config.token_stride
        return PatchLayout(stride, stride).to_timestamps(hidden, series)

    def _embed(self, values: torch.Tensor, draws: DropoutDraws | None) -> torch.Tensor:
        """Project, scale and add positions (equations 1 and 3)."""
        hidden = self.projection(values.to(next(self.parameters()).dtype)) * math.sqrt(self.config.hidden_size)
        length = hidden.shape[1]
        if self.positions is not None:
            positions = self.positions(length)
        else:
            positions = sinusoidal_positions(length, self.config.hidden_size, hidden.device).to(hidden.dtype)
        return self.dropout(hidden + positions, draws)

    def _observed_tokens(self, observed: torch.Tensor) -> torch.Tensor:
        """Return which tokens stand for a timestamp of (batch_size, sequence_length) that is observed."""
        stride = self.config.token_stride
        if stride == 1:
            return observed
        return F.pad(observed, (0, stride - 1)).unfold(1, stride, stride).any(-1)


@dataclass
class TSTForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: the mean squared error and, in training, the weighted norm of the output layer.
        reconstruction_loss: Scalar without gradient: the mean squared error of the masked values.
        reconstruction: (batch_size, number of timestamps looked at, num_input_channels) predictions of all values,
            without gradient; 0 beyond a series.
        is_masked: The same shape, bool: observed values that were masked, which the loss is of.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    is_masked: torch.Tensor | None = None


class TSTPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of TST's models."""

    config: TSTConfig
    config_class = TSTConfig
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    _no_split_modules = ["TransformerLayer", "BatchNormTransformerLayer"]  # noqa: RUF012 - as transformers declares it
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|head|classifier)\."]  # noqa: RUF012 - as above

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LearnedPositions):
            init.uniform_(module.weight, -POSITION_RANGE, POSITION_RANGE)
            return
        super()._init_weights(module)
        if isinstance(module, AttentionProjection):
            begin_as_multihead_attention(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model; see TimeSeriesPreTrainedModel.from_pretrained. Loading makes all parameters learn again."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_as_configured()
        return loaded

    def freeze_as_configured(self) -> None:
        """Take the encoder out of the training where the config says so."""
        if self.config.freeze_encoder:
            self.base_model.encoder.requires_grad_(False)


class TSTModel(TSTPreTrainedModel):
    """The encoder: an embedding of every timestamp, and their pooling."""

    def __init__(self, config: TSTConfig) -> None:
        super().__init__(config)
        self.encoder = TSTEncoder(config)
        self.activate = ACTIVATIONS[config.activation]
        self.freeze_as_configured()
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesModelOutput | tuple[torch.Tensor, ...]:
        """Embed a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            output_hidden_states: Whether to return the embedded tokens and every layer's output, of series that are
                moved to the first position: (batch_size, num_tokens, hidden_size).
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            last_hidden_state: (batch_size, sequence_length, hidden_size), the last layer's output at every timestamp,
            zeros beyond a series. pooler_output: (batch_size, hidden_size), pooled over the timestamps with an
            observed channel.
        """
        states = self._collected_states(output_hidden_states)
        observed = self.observed_values(past_values, past_observed_mask)
        hidden = self.encoder(past_values, observed, states=states)
        output = TimeSeriesModelOutput(
            last_hidden_state=hidden,
            pooler_output=pool_instance(hidden, self.pooled_timestamps(observed.any(-1)), self.config.pooling),
            hidden_states=None if states is None else tuple(states),
        )
        return output if return_dict is not False else output.to_tuple()

    def context_features(
        self, values: torch.Tensor, observed: torch.Tensor, output_hidden_states: bool | None = None
    ) -> tuple[EncodedTokens, tuple[torch.Tensor, ...] | None]:
        """Encode what the heads read.

        Args:
            values: (batch_size, context_length, num_input_channels).
            observed: The same shape, bool.
            output_hidden_states: Whether to return the hidden states as `forward` does.

        Returns:
            The tokens after the activation, zeros where nothing is observed; and the hidden states or None.
        """
        states = self._collected_states(output_hidden_states)
        encoded = self.encoder.encode_tokens(align_series(values, observed), states=states)
        features = self.activate(encoded.hidden) * encoded.observed.unsqueeze(-1)
        return encoded._replace(hidden=features), None if states is None else tuple(states)

    def _collected_states(self, output_hidden_states: bool | None) -> list[torch.Tensor] | None:
        wanted = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        return [] if wanted else None


class TSTForPreTraining(TSTPreTrainedModel):
    """The pretext task: masked values are predicted from those around them (section 3.2).

    With several processes the masks and dropout are drawn for the global batch, batch normalisation measures all of
    it, and the mean of the processes' losses is the loss of one process on the same global batch, with its gradient.
    """

    def __init__(self, config: TSTConfig) -> None:
        super().__init__(config)
        self.model = TSTModel(config)
        self.dropout = SeededDropout(config.head_dropout, DECODER_SITE)
        self.decoder = nn.Linear(config.hidden_size, config.token_stride * config.num_input_channels)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        draws: TSTDraws | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> TSTForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. Of longer series than the
                context a random window is taken.
            past_observed_mask: The same shape, True = observed, or None.
            draws: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a TSTForPreTrainingOutput instead of a tuple.

        Returns:
            The loss, its term and what it compares.
        """
        config, batch = self.config, GlobalBatch.of(self)
        observed = self.observed_values(past_values, past_observed_mask)
        if draws is None:
            length = past_values.shape[1]
            draws = batch.draw(lambda count, source: draw_step(config, count, length, source), past_values, generator)
        values, observed, keep = self._window(past_values, observed, draws)
        series = align_series(self.mask(values, observed, keep), observed)
        dropout = None
        if self.training and draws.dropout_seed is not None:
            dropout = DropoutDraws(draws.dropout_seed, 1, batch.rank, batch.num_processes)
        encoded = self.model.encoder.encode_tokens(series, dropout)
        reconstruction = PatchLayout(1, 1).to_timestamps(self.reconstruct(encoded.hidden, dropout), series)
        asked = observed & ~keep
        reconstruction_loss = batch.mean(masked_errors(reconstruction, values, asked), asked)
        output = TSTForPreTrainingOutput(
            loss=penalized(reconstruction_loss, self.decoder, config.output_l2_weight if self.training else 0.0),
            reconstruction_loss=reconstruction_loss.detach(),
            reconstruction=reconstruction.detach(),
            is_masked=asked,
        )
        return output if return_dict is not False else output.to_tuple()

    def reconstruct_series(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None, **method_arguments: Any
    ) -> torch.Tensor:
        """Tell the values of every timestamp from those that are observed; see TimeSeriesPreTrainedModel.

        A missing value is what a masked one is to the pretext task: 0, at a timestamp that is attended to.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        series = align_series(self.mask(past_values, observed, observed), torch.ones_like(observed))
        encoded = self.model.encoder.encode_tokens(series)
        return PatchLayout(1, 1).to_timestamps(self.reconstruct(encoded.hidden), series).float()

    def _window(
        self, values: torch.Tensor, observed: torch.Tensor, draws: TSTDraws
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cut out what is looked at: values, observed and kept, (batch_size, length, num_input_channels)."""
        window = slice(draws.start, draws.start + self.config.context_length)
        values, observed = values[:, window], observed[:, window]
        if draws.keep is None:
            aligned = align_series(observed, observed)
            keep = transduction_mask(aligned.start, aligned.length, (values.shape[1], values.shape[2]), self.config)
        else:
            keep = draws.keep.to(values.device)
        beyond = self.config.context_length - values.shape[1]
        if self.training and self.config.normalize_over_padding and beyond > 0:
            values, observed, keep = (F.pad(one, (0, 0, 0, beyond)) for one in (values, observed, keep))
        return values, observed, keep

    def mask(self, values: torch.Tensor, observed: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Return what the encoder sees: (batch_size, length, num_input_channels), 0 for what is masked or missing."""
        masked = torch.where(observed & keep, values, 0.0)
        return compensate_masking(masked, observed & keep) if self.config.compensate_masking else masked

    def reconstruct(self, hidden: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Predict the values of every timestamp.

        Args:
            hidden: (batch_size, num_tokens, hidden_size), the last layer's output.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (batch_size, num_tokens * token_stride, num_input_channels).
        """
        predicted = self.decoder(self.dropout(self.model.activate(hidden), draws))
        return predicted.unflatten(-1, (self.config.token_stride, -1)).flatten(1, 2)


class FlattenedClassificationHead(nn.Module):
    """Class scores, or numbers, from all tokens of the context beside each other (section 3.3).

    Args:
        config: Gives the widths, num_labels, problem_type, the labels' mean and scale, and classifier_dropout.
    """

    def __init__(self, config: TSTConfig) -> None:
        super().__init__()
        self.config = config
        self.output_l2_weight = config.output_l2_weight
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.projection = nn.Linear(config.num_context_tokens * config.hidden_size, cast(int, config.num_labels))

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes.

        Args:
            features: (batch_size, num_context_tokens * hidden_size).
            labels: See losses_time_series.finish_scores.

        Returns:
            The scalar loss or None, and the logits (batch_size, num_labels).
        """
        scores = self.projection(self.dropout(features))
        loss, logits = finish_scores(scores, labels, self.config)
        if loss is not None and self.training:
            loss = penalized(loss, self.projection, self.output_l2_weight)
        return loss, logits


class FlattenedPredictionHead(nn.Module):
    """A linear layer from all tokens of the context to the future.

    Args:
        config: Gives the widths, prediction_length, num_output_channels, quantiles and head_dropout.
    """

    def __init__(self, config: TSTConfig) -> None:
        super().__init__()
        self.num_channels = config.num_output_channels or config.num_input_channels
        self.output_l2_weight = config.output_l2_weight
        self.dropout = nn.Dropout(config.head_dropout)
        inputs = config.num_context_tokens * config.hidden_size
        self.quantiles = config.quantiles
        outputs = config.prediction_length * self.num_channels * count_quantiles(self.quantiles)
        self.projection = nn.Linear(inputs, outputs)

    def forward(
        self,
        features: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict.

        Args:
            features: (batch_size, num_context_tokens * hidden_size).
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.

        Returns:
            The scalar loss over observed values or None (see prediction_loss), and the prediction (batch_size,
            prediction_length, num_output_channels), and with quantiles a last axis of them.
        """
        prediction = unflatten_prediction(self.projection(self.dropout(features)), self.num_channels, self.quantiles)
        loss = prediction_loss(prediction, future_values, future_observed_mask, self.quantiles)
        if loss is not None and self.training:
            loss = penalized(loss, self.projection, self.output_l2_weight)
        return loss, prediction


class TSTForTimeSeriesClassification(GenericForTimeSeriesClassification, TSTPreTrainedModel):
    """The encoder with class scores on all timestamps of the context.

    The first observed timestamp of a series is the context's first one; of longer series the first ones are taken.
    With problem_type="regression" in the config it predicts num_labels numbers instead, as the official code does.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: TSTConfig) -> None:
        super().__init__(config)
        self.model = TSTModel(config)
        self.classifier = FlattenedClassificationHead(config)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Encode the context: features (batch_size, num_context_tokens * hidden_size)."""
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=False)
        encoded, states = self.model.context_features(values, observed, output_hidden_states)
        beyond = self.config.num_context_tokens - encoded.hidden.shape[1]
        return EncodedForHead({"features": F.pad(encoded.hidden, (0, 0, 0, beyond)).flatten(1)}, states)


class TSTForTimeSeriesPrediction(GenericForTimeSeriesPrediction, TSTPreTrainedModel):
    """The encoder with a linear prediction of the future from all timestamps of the context.

    The last observed timestamp of a series is the context's last one; of longer series the last ones are taken.

    Args:
        config: Configuration; prediction_length and num_output_channels give the future's.
    """

    def __init__(self, config: TSTConfig) -> None:
        super().__init__(config)
        self.model = TSTModel(config)
        self.head = FlattenedPredictionHead(config)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Encode the context: features (batch_size, num_context_tokens * hidden_size)."""
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=True)
        encoded, states = self.model.context_features(values, observed, output_hidden_states)
        features = last_patches(encoded.hidden, encoded.num_tokens, self.config.num_context_tokens)
        return EncodedForHead({"features": features}, states)


# Official arguments (the constructors' and the command line's) that shape the model or its task -> our fields.
_FIELDS_OF_ARGUMENTS = {
    "feat_dim": "num_input_channels",
    "max_len": "context_length",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "dim_feedforward": "intermediate_size",
    "dropout": "dropout",
    "pos_encoding": "position_embedding",
    "activation": "activation",
    "norm": "normalization",
    "normalization_layer": "normalization",
    "num_classes": "num_labels",
    "freeze": "freeze_encoder",
    "masking_ratio": "mask_ratio",
    "mean_mask_length": "mean_mask_length",
    "mask_mode": "mask_channels_together",
    "mask_distribution": "mask_rule",
    "exclude_feats": "unmasked_channels",
    "mask_feats": "masked_channels",
    "start_hint": "start_hint",
    "end_hint": "end_hint",
    "mask_compensation": "compensate_masking",
    "l2_reg": "output_l2_weight",
}
_VALUES_OF_ARGUMENTS: dict[str, dict[Any, Any]] = {
    "pos_encoding": {"learnable": "learned"},
    "norm": {"BatchNorm": "batch", "LayerNorm": "layer"},
    "normalization_layer": {"BatchNorm": "batch", "LayerNorm": "layer"},
    "mask_mode": {"separate": False, "concurrent": True},
}
# Official arguments that tell a field together with others.
_LENGTH_ARGUMENTS = ("data_window_len", "max_seq_len")  # the first goes before the second
_TASKS = ("imputation", "transduction", "classification", "regression")
# Arguments of data, training and evaluation. `harden` changes the masks between epochs of a training.
_TRAINING_ARGUMENTS = frozenset(
    {
        "config",
        "config_filepath",
        "output_dir",
        "data_dir",
        "load_model",
        "resume",
        "change_output",
        "save_all",
        "name",
    }
    | {"experiment_name", "comment", "no_timestamp", "records_file", "console", "print_interval", "gpu", "n_proc"}
    | {"num_workers", "seed", "limit_size", "test_only", "data_class", "labels", "test_from", "test_ratio"}
    | {"val_ratio", "pattern", "val_pattern", "test_pattern", "normalization", "norm_from", "subsample_factor"}
    | {"harden", "epochs", "val_interval", "optimizer", "lr", "lr_step", "lr_factor", "batch_size", "key_metric"}
    | {"extract_embeddings_only"}
)

_OFFICIAL_LAYER = re.compile(r"transformer_encoder\.layers\.(\d+)\.(.+)")
_OUR_LAYER = {
    "self_attn.in_proj_weight": "attention.input_projection.weight",
    "self_attn.in_proj_bias": "attention.input_projection.bias",
    **{f"self_attn.out_proj.{kind}": f"attention.output_projection.{kind}" for kind in ("weight", "bias")},
    **{f"linear1.{kind}": f"expansion.{kind}" for kind in ("weight", "bias")},
    **{f"linear2.{kind}": f"contraction.{kind}" for kind in ("weight", "bias")},
    **{f"norm1.{kind}": f"attention_norm.{kind}" for kind in ("weight", "bias")},
    **{f"norm2.{kind}": f"output_norm.{kind}" for kind in ("weight", "bias")},
}
_OUR_STATISTICS = {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in (("norm1", "attention_norm"), ("norm2", "output_norm"))
    for kind in ("running_mean", "running_var", "num_batches_tracked")
}
_OUTPUT_LAYER = ("output_layer.weight", "output_layer.bias")
_POSITIONS = "pos_enc.pe"


def convert_tst_state_dict(state_dict: Mapping[str, Tensor]) -> FieldsAndParameters:
    """Turn an official state dict (github.com/gzerveas/mvts_transformer) into that of our encoder.

    Args:
        state_dict: Of the official TSTransformerEncoder or TSTransformerEncoderClassiregressor.

    Returns:
        Fields for TSTConfig that the shapes tell, with the official batch statistics (normalize_over_padding=True),
        and the parameters of TSTModel.

    Raises:
        ConversionError: Parameters are missing, unknown or of shapes that tell no size.
    """
    official = {key: value for key, value in state_dict.items() if key not in _OUTPUT_LAYER}
    matches = {key: match for key in official if (match := _OFFICIAL_LAYER.fullmatch(key))}
    num_layers = len({match[1] for match in matches.values()})
    if not num_layers:
        raise ConversionError(
            f"This is no TST checkpoint: it holds {list_names(sorted(state_dict)) or 'nothing'}, and none of "
            "transformer_encoder.layers.0.linear1.weight, ..."
        )
    is_batch_normalized = any(match[2] in _OUR_STATISTICS for match in matches.values())
    names = _OUR_LAYER | (_OUR_STATISTICS if is_batch_normalized else {})
    expected = {f"transformer_encoder.layers.{index}.{name}" for index in range(num_layers) for name in names}
    normalization = "batch" if is_batch_normalized else "layer"
    require_parameters(
        official,
        {*expected, "project_inp.weight", "project_inp.bias", _POSITIONS},
        f"a TST with {num_layers} layers and {normalization} normalisation",
    )
    fields = {**_fields_of_shapes(official, num_layers), "normalization": normalization}
    ours = {f"encoder.projection.{kind}": official[f"project_inp.{kind}"] for kind in ("weight", "bias")}
    ours |= {f"encoder.layers.{match[1]}.{names[match[2]]}": official[key] for key, match in matches.items()}
    if fields["position_embedding"] == "learned":
        ours["encoder.positions.weight"] = official[_POSITIONS].squeeze(1)
    return {**fields, "normalize_over_padding": True}, ours


def _fields_of_shapes(official: Mapping[str, Tensor], num_layers: int) -> dict[str, Any]:
    projection, positions = official["project_inp.weight"], official[_POSITIONS]
    expansion = official["transformer_encoder.layers.0.linear1.weight"]
    if projection.ndim != 2 or expansion.ndim != 2 or positions.shape[1:] != (1, len(projection)):
        raise ConversionError(
            f"The sizes of the model cannot be told: project_inp.weight has shape {tuple(projection.shape)}, "
            f"{_POSITIONS} {tuple(positions.shape)} and linear1.weight {tuple(expansion.shape)}."
        )
    # The table of fixed positions is saved, too, with the same shape. Far off, rounding tells machines apart.
    first = positions[:1000].squeeze(1).float()
    fixed = sinusoidal_positions(first.shape[0], first.shape[1], first.device)
    is_fixed = torch.allclose(first, fixed, rtol=0.0, atol=1e-3)
    return {
        "num_input_channels": projection.shape[1],
        "hidden_size": projection.shape[0],
        "num_hidden_layers": num_layers,
        "intermediate_size": expansion.shape[0],
        "position_embedding": "fixed" if is_fixed else "learned",
        "max_position_embeddings": positions.shape[0],
        "context_length": positions.shape[0],
    }


def tst_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of TSTConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, of the constructors (n_heads, norm, ...) or of the command line
            (num_heads, normalization_layer, masking_ratio, ...).

    Returns:
        Fields. The one official dropout is that of attention weights and of the layer after the encoder, too.

    Raises:
        ConversionError: Two arguments contradict each other, or ask for a model that is not converted.
    """
    given = dict(hyperparameters)
    task, model = given.pop("task", None), given.pop("model", None)
    if model not in (None, "transformer"):
        raise ConversionError(f"model={model!r} is not converted: it is no Transformer. Only model='transformer' is.")
    if task not in (None, *_TASKS):
        raise ConversionError(f"task={task!r} is unknown; choose one of {', '.join(_TASKS)}.")
    lengths = [one for one in (given.pop(name, None) for name in _LENGTH_ARGUMENTS) if one is not None]
    if lengths:
        given.setdefault("max_len", lengths[0])
    if given.pop("global_reg", False):
        given.pop("l2_reg", None)  # it is the optimiser's weight decay then
    _drop_unread_masks(given, task)
    fields = rename_hyperparameters(given, _FIELDS_OF_ARGUMENTS, _TRAINING_ARGUMENTS, _VALUES_OF_ARGUMENTS)
    for name in ("freeze_encoder", "compensate_masking"):
        if name in fields:
            fields[name] = bool(fields[name])
    if task == "transduction":
        fields["mask_rule"] = "transduction"
        fields.setdefault("masked_channels", [0, 1])  # the command line's default
    if task == "regression":
        fields["problem_type"] = "regression"
    if "dropout" in fields:
        of_other_layers = ("attention_dropout", "head_dropout", "classifier_dropout")
        fields = {**dict.fromkeys(of_other_layers, fields["dropout"]), **fields}
    return fields


def _drop_unread_masks(given: dict[str, Any], task: str | None) -> None:
    """Leave out what the official code reads of no mask of this kind, so that it has no influence here either."""
    if given.get("mask_mode") == "concurrent" or given.get("mask_distribution") == "bernoulli":
        given.pop("exclude_feats", None)
    if task == "transduction":
        for name in ("exclude_feats", "mask_mode", "mask_distribution"):
            given.pop(name, None)
    else:
        for name in ("mask_feats", "start_hint", "end_hint"):
            given.pop(name, None)
    for name in ("exclude_feats", "mask_feats"):  # as the command line takes them
        if isinstance(given.get(name), str):
            given[name] = [int(one) for one in given[name].split(",")]


def complete_tst_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_tst_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config.

    Raises:
        ConversionError: The number of heads is missing.
    """
    require_fields(given, {"num_attention_heads": "n_heads"})
    return {**of_shapes, **given}


def convert_tst_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official output layer into that of our models.

    Args:
        state_dict: Official parameters; others are left out.

    Returns:
        The layer's parameters, under the names of TSTForPreTraining and of TSTForTimeSeriesClassification.
    """
    ours: dict[str, Tensor] = {}
    for name in (one for one in _OUTPUT_LAYER if one in state_dict):
        kind = name.rpartition(".")[2]
        ours |= dict.fromkeys((f"decoder.{kind}", f"classifier.projection.{kind}"), state_dict[name])
    return ours


def choose_tst_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Tell which of our models the output layer makes: one on a timestamp predicts values, one on all of them classes.

    Args:
        state_dict: Official parameters.
        fields: All fields of the config.

    Returns:
        "pretraining", "classification" or "model", and the fields of its head.

    Raises:
        ConversionError: The layer fits neither a timestamp nor the whole context.
    """
    weight = state_dict.get("output_layer.weight")
    if weight is None:
        return "model", {}
    num_outputs, num_inputs = weight.shape
    width, length = fields["hidden_size"], fields["context_length"]
    if num_inputs == width and num_outputs == fields["num_input_channels"] and "num_labels" not in fields:
        return "pretraining", {}
    if num_inputs != width * length:
        raise ConversionError(
            f"output_layer maps {num_inputs} numbers to {num_outputs}, but a timestamp has {width} and max_len="
            f"{length} timestamps have {width * length}; correct d_model or max_len."
        )
    return "classification", {"num_labels": num_outputs}


TSTPreTrainedModel.converter = Converter(
    convert=convert_tst_state_dict,
    fields_of_hyperparameters=tst_fields_of_hyperparameters,
    hyperparameter_names={
        *_FIELDS_OF_ARGUMENTS,
        *_LENGTH_ARGUMENTS,
        *_TRAINING_ARGUMENTS,
        *("task", "model", "global_reg"),
    },
    fields_of_shapes=(
        *("num_input_channels", "hidden_size", "num_hidden_layers", "intermediate_size", "normalization"),
        *("position_embedding", "max_position_embeddings", "context_length"),
    ),
    complete=complete_tst_fields,
    heads=convert_tst_heads,
    choose_model=choose_tst_model,
)
