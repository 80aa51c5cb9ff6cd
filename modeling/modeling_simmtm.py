"""SimMTM: A Simple Pre-Training Framework for Masked Time-Series Modeling (Dong et al., NeurIPS 2023, 2302.00861).

Section 3.1, masking (equation 1) -> geometric_mask (layers_masking.py), draw_step.
Section 3.2, representations (equation 2) -> PointEncoder (backbones_simmtm.py), SeriesProjector.
Section 3.3, similarity, aggregation and decoding (equations 3 to 5) -> cosine_similarity, aggregation_weights,
ContextDecoder. Section 3.4, losses (equations 6 and 7) -> squared_errors, constraint_losses, weigh_losses.
SimMTMForPreTraining.forward puts them together. The converter of official checkpoints is at the end.
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
from transformers.utils import ModelOutput

from .backbones_simmtm import PointEncoder, PointFeatures
from .configuration_simmtm import SimMTMConfig
from .conversion_time_series import (
    ConversionError,
    Converter,
    FieldsAndParameters,
    convert_transformer_layer,
    official_layer_names,
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
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_masking import geometric_mask_at_once, random_mask
from .layers_normalization import (
    InstanceStatistics,
    MaskedBatchNorm,
    denormalize_instances,
)
from .layers_patching import align_series, take_context
from .layers_pooling import pool_instance
from .losses_time_series import finish_scores, prediction_loss
from .modeling_time_series import TimeSeriesPreTrainedModel


def draw_masks(config: SimMTMConfig, shape: tuple[int, ...], generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw a mask for every series (equation 1).

    Args:
        config: Gives mask_rule, mask_ratio, mean_mask_length and mask_across_series.
        shape: (..., length).
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        Bool of the given shape, True = kept.
    """
    length, ratio = shape[-1], config.mask_ratio
    if config.mask_rule == "random":
        return random_mask(torch.rand(shape, generator=generator), ratio)
    if config.mask_rule != "geometric":
        return end_mask(length, ratio, config.mask_rule).expand(shape)
    if config.mask_across_series:
        # As the official code does: a masked stretch at the end of a series runs on into the next one.
        uniforms = torch.rand(1 + torch.Size(shape).numel(), generator=generator)
        return geometric_mask_at_once(uniforms, ratio, config.mean_mask_length).view(shape)
    uniforms = torch.rand(*shape[:-1], 1 + length, generator=generator)
    return geometric_mask_at_once(uniforms, ratio, config.mean_mask_length)


def end_mask(length: int, mask_ratio: float, end: str) -> torch.Tensor:
    """Mask the first steps (end="head") or the last ones ("tail"): (length,) bool, True = kept.

    Rounded as in the official code, where a step that the ratio cuts is masked at the head and kept at the tail.
    """
    steps = torch.arange(length)
    if end == "head":
        return steps >= math.ceil(length * mask_ratio)
    return steps < math.ceil(length * (1.0 - mask_ratio))


@dataclass(frozen=True)
class SimMTMDraws:
    """The random choices of one step.

    Args:
        start: First timestamp that is looked at, of series longer than the context.
        keep: (num_masked_views, batch_size, context_length, num_channels) bool, True = kept.
        dropout_seed: Seed of all dropout of a step in training; None for torch's global generator.
    """

    start: int
    keep: torch.Tensor
    dropout_seed: int | None = None

    def rows(self, start: int, stop: int) -> SimMTMDraws:
        """Return the choices for some series of the batch."""
        return SimMTMDraws(self.start, self.keep[:, start:stop], self.dropout_seed)


def draw_step(config: SimMTMConfig, batch_size: int, length: int, generator: torch.Generator) -> SimMTMDraws:
    """Draw a window of the context's length, the masks in it and the seed of dropout.

    Args:
        config: Gives context_length, num_masked_views and the masks' settings.
        batch_size: Number of series.
        length: Number of timestamps that they have.
        generator: Source of randomness, on the CPU.

    Returns:
        The choices.
    """
    start = int(torch.randint(max(length - config.context_length, 0) + 1, (), generator=generator))
    shape = (config.num_masked_views, batch_size, config.num_input_channels, config.context_length)
    # Time is the last axis here: a mask is a chain of stretches along it.
    keep = draw_masks(config, shape, generator)
    return SimMTMDraws(start, keep.transpose(2, 3), int(torch.randint(2**62, (), generator=generator)))


class RowPairs(NamedTuple):
    """Which rows are compared with which: a row is a view of a series, the original or masked.

    Args:
        compared: (num_anchors, num_rows) bool: every row but the anchor itself and those without values.
        positive: The same shape: the other views of the anchor's series.
        observed: (num_anchors,) bool, False for an anchor without any value, which nothing is asked of.
    """

    compared: torch.Tensor
    positive: torch.Tensor
    observed: torch.Tensor


def pair_views(places: torch.Tensor, num_views: int, observed: torch.Tensor) -> RowPairs:
    """Pair anchors with all rows.

    Args:
        places: (num_anchors,) place of every anchor among the rows.
        num_views: Number of views of a series, which lie side by side.
        observed: (num_rows,) bool, False for a row without any value.

    Returns:
        The pairs.
    """
    rows, own = torch.arange(len(observed), device=observed.device), observed[places]
    # An anchor without values is compared with all: softmax of an empty row is not a number.
    compared = (places.unsqueeze(1) != rows) & (observed | ~own.unsqueeze(1))
    same_series = places.unsqueeze(1) // num_views == rows // num_views
    return RowPairs(compared, compared & same_series & own.unsqueeze(1), own)


def cosine_similarity(anchors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Compare series-wise representations (equation 3).

    Args:
        anchors: (num_anchors, projection_size).
        rows: (num_rows, projection_size).

    Returns:
        (num_anchors, num_rows), float32, in [-1, 1].
    """
    # A temperature below 1 magnifies what half precision would have rounded away.
    with torch.autocast(anchors.device.type, enabled=False):
        return F.normalize(anchors.float(), dim=-1) @ F.normalize(rows.float(), dim=-1).T


def aggregation_weights(similarity: torch.Tensor, compared: torch.Tensor, temperature: float) -> torch.Tensor:
    """Weigh the other rows by their similarity (equation 4).

    Args:
        similarity: (num_anchors, num_rows).
        compared: The same shape, bool.
        temperature: Divides the similarities.

    Returns:
        (num_anchors, num_rows), every row sums to 1; 0 for what is not compared.
    """
    return (similarity / temperature).masked_fill(~compared, -torch.inf).softmax(-1)


def squared_errors(
    decoded: torch.Tensor, values: torch.Tensor, observed: torch.Tensor, keep: torch.Tensor | None
) -> torch.Tensor:
    """Compare reconstructions with the observed values (equation 6).

    Args:
        decoded: (num_reconstructions, batch_size, context_length, num_input_channels).
        values: (batch_size, context_length, num_input_channels).
        observed: The same shape, bool.
        keep: (num_masked_views, batch_size, context_length, num_input_channels) bool where the reconstructions are of
            the originals and the masked views, which are zero where they are masked; None: all are of the originals.

    Returns:
        The shape of decoded, 0 where nothing is observed.
    """
    target = torch.where(observed, values, 0.0).float()
    if keep is not None:
        target = torch.cat([target.unsqueeze(0), target * keep])
    return torch.where(observed, decoded - target, 0.0).square()


def constraint_losses(similarity: torch.Tensor, pairs: RowPairs, temperature: float) -> torch.Tensor:
    """Ask for similar views of a series and dissimilar series (equation 7).

    Args:
        similarity: (num_anchors, num_rows).
        pairs: Which of them are compared, and which should be similar.
        temperature: Divides the similarities.

    Returns:
        (num_anchors,): the sum over the other views of minus the log-probability among all compared rows; 0 for an
        anchor without values.
    """
    log_probability = (similarity / temperature).masked_fill(~pairs.compared, -torch.inf).log_softmax(-1)
    return -torch.where(pairs.positive, log_probability, 0.0).sum(-1)


def weigh_losses(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Add losses with learned weights (section 3.4; Kendall et al., CVPR 2018).

    Args:
        losses: (num_losses,).
        weights: (num_losses,) learned, 1 in the beginning.

    Returns:
        Scalar: the sum of loss / (2 weight^2) + log(1 + weight^2).
    """
    squares = weights.float().square()
    return (0.5 / squares * losses + torch.log1p(squares)).sum()


# Numbers of the dropout layers, beyond all of an encoder.
PROJECTOR_SITE, DECODER_SITE = 10_000, 10_001


class SeriesProjector(nn.Module):
    """From the point-wise representations of a row to its series-wise one (equation 2, series-wise).

    Args:
        config: Gives the widths.
        num_features: Number of numbers of a row: positions times hidden_size.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        super().__init__()
        width = config.projector_hidden_size or max(num_features // 2, 1)
        self.expansion = nn.Linear(num_features, width)
        self.norm = MaskedBatchNorm(width)
        self.projection = nn.Linear(width, config.projection_size)
        self.dropout = SeededDropout(config.head_dropout, PROJECTOR_SITE)

    def forward(
        self, rows: torch.Tensor, observed: torch.Tensor | None = None, draws: DropoutDraws | None = None
    ) -> torch.Tensor:
        """Project.

        Args:
            rows: (num_rows, num_features).
            observed: (num_rows,) bool, False for a row without any value; None for all.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, projection_size).
        """
        hidden = F.relu(self.norm(self.expansion(rows), observed)).to(rows.dtype)
        return self.dropout(self.projection(hidden), draws)


class ContextDecoder(nn.Module):
    """One linear layer from all point-wise representations of a row to its values, and dropout (equation 5).

    Args:
        num_features: Number of numbers of a row.
        length: Number of timestamps that come out.
        num_channels: Number of channels that come out.
        dropout: Dropout probability of the values.
    """

    def __init__(self, num_features: int, length: int, num_channels: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(num_features, length * num_channels)
        self.num_channels = num_channels
        self.dropout = SeededDropout(dropout, DECODER_SITE)

    def forward(self, rows: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Map (..., num_features) to (..., length, num_channels); draws are those of dropout, None for random ones."""
        return self.dropout(self.projection(rows), draws).unflatten(-1, (-1, self.num_channels))


class ContextPredictionHead(ContextDecoder):
    """The future from all point-wise representations of the context; of more input than output channels the last ones.

    Args:
        config: Gives prediction_length, num_output_channels, quantiles, channel_mode and head_dropout.
        num_features: Number of numbers of a row: positions times hidden_size.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        num_output_channels = config.num_output_channels or config.num_input_channels
        is_independent = config.channel_mode == "independent"
        of_a_group = 1 if is_independent else num_output_channels
        outputs = of_a_group * count_quantiles(config.quantiles)
        super().__init__(num_features, config.prediction_length, outputs, config.head_dropout)
        self.quantiles, self.num_group_channels = config.quantiles, of_a_group
        # Time features come in front of the channels, so what is predicted comes last.
        self.predicted = slice(-num_output_channels, None)
        self.predicted_groups = self.predicted if is_independent else slice(None)
        # Only then is the predicted channels' scale known.
        self.predicts_its_input = num_output_channels <= config.num_input_channels

    def forward(  # type: ignore[override]  # it reads whole series, and compares with the future
        self,
        features: torch.Tensor,
        mean: torch.Tensor | None = None,
        deviation: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict.

        Args:
            features: (batch_size, num_groups, num_features).
            mean: (batch_size, 1, num_input_channels) of the series, None without instance normalisation.
            deviation: The same.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.

        Returns:
            The scalar loss over observed values or None (see prediction_loss), and the prediction (batch_size,
            prediction_length, num_output_channels), and with quantiles a last axis of them.
        """
        flat = super().forward(features[:, self.predicted_groups]).flatten(-2)
        of_groups = unflatten_prediction(flat, self.num_group_channels, self.quantiles)
        prediction = of_groups.transpose(1, 2).flatten(2, 3)
        if mean is not None and deviation is not None and self.predicts_its_input:
            statistics = InstanceStatistics(mean, deviation).channels(self.predicted)
            if self.quantiles is not None:
                statistics = statistics.of_quantiles()
            prediction = denormalize_instances(prediction, statistics)
        return prediction_loss(prediction, future_values, future_observed_mask, self.quantiles), prediction


class ContextClassificationHead(nn.Module):
    """Class scores from the point-wise representations of all channels: two linear layers, a sigmoid in between.

    Args:
        config: Gives the widths, num_labels, problem_type, the labels' mean and scale, and classifier_dropout.
        num_features: Number of numbers of a series.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.hidden = nn.Linear(num_features, config.classifier_hidden_size)
        self.projection = nn.Linear(config.classifier_hidden_size, cast(int, config.num_labels))

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes, or predict numbers.

        Args:
            features: (batch_size, num_features).
            labels: See losses_time_series.finish_scores.

        Returns:
            The scalar loss or None, and the logits (batch_size, num_labels).
        """
        scores = self.projection(self.hidden(self.dropout(features)).sigmoid())
        return finish_scores(scores, labels, self.config)


@dataclass
class SimMTMForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: the two terms with learned weights, or the reconstruction alone without the constraint.
        constraint_loss: Scalar without gradient, of the series-wise representations (equation 7).
        reconstruction_loss: Scalar without gradient, the mean squared error of the reconstruction (equation 6).
        reconstruction: (batch_size, context_length, num_input_channels) reconstructed originals, without gradient; the
            mean of the reconstructions from the masked views where nothing is aggregated.
    """

    loss: torch.Tensor | None = None
    constraint_loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


class SimMTMPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of SimMTM's models."""

    config: SimMTMConfig
    config_class = SimMTMConfig
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    _no_split_modules = ["TransformerLayer", "ConvolutionBlock"]  # noqa: RUF012 - declared as an instance's variable
    _keys_to_ignore_on_load_unexpected = [r"^(projector|decoder|head|classifier)\.", r"^loss_weights$"]  # noqa: RUF012 - as above

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SimMTMForPreTraining) and module.loss_weights is not None:
            nn.init.ones_(module.loss_weights)
        super()._init_weights(module)


class SimMTMModel(SimMTMPreTrainedModel):
    """The encoder: a point-wise representation of every timestamp, and their mean."""

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__(config)
        self.encoder = PointEncoder(config)
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
                moved to the first position: (batch_size, num_input_channels, positions, width), or without the
                channels where they are joint.
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            last_hidden_state: the point-wise representations, (batch_size, num_input_channels, num_positions,
            hidden_size), or (batch_size, num_positions, hidden_size) where channels are joint. The positions of the
            transformer are the timestamps, those of the convolutions begin at the first observed one. pooler_output:
            (batch_size, embedding_size), pooled over the timestamps with an observed channel.
        """
        states = self._collected_states(output_hidden_states)
        observed = self.observed_values(past_values, past_observed_mask)
        aligned = align_series(past_values, observed)
        features = self.encoder(aligned, None, states)
        timestamps = self.encoder.to_timestamps(features.hidden, aligned)
        hidden = self.encoder.in_place(features.hidden, aligned)
        output = TimeSeriesModelOutput(
            last_hidden_state=self.encoder.ungroup(hidden),
            pooler_output=pool_instance(timestamps, self.pooled_timestamps(observed.any(-1)), self.config.pooling),
            hidden_states=self._shown_states(states),
        )
        return output if return_dict is not False else output.to_tuple()

    def context_features(
        self, values: torch.Tensor, observed: torch.Tensor, output_hidden_states: bool | None = None
    ) -> tuple[PointFeatures, tuple[torch.Tensor, ...] | None]:
        """Represent what the heads look at.

        Args:
            values: (batch_size, context_length, num_input_channels).
            observed: The same shape, bool.
            output_hidden_states: Whether to return the hidden states as `forward` does.

        Returns:
            The features (batch_size, num_groups, num_positions, hidden_size) with what the values were normalised by,
            and the hidden states or None.
        """
        states = self._collected_states(output_hidden_states)
        features = self.encoder.point_features(values, observed, states=states)
        return features, self._shown_states(states)

    def _collected_states(self, output_hidden_states: bool | None) -> list[torch.Tensor] | None:
        wanted = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        return [] if wanted else None

    def _shown_states(self, states: list[torch.Tensor] | None) -> tuple[torch.Tensor, ...] | None:
        return None if states is None else tuple(self.encoder.ungroup(self.encoder.group(one)) for one in states)

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed every timestamp, as the mean over independent channels.

        Missing timestamps at an end are padding, whatever `inside` says. Pooling takes those with any observed value.
        See TimeSeriesPreTrainedModel.embed_timestamps.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        aligned = align_series(past_values, observed)
        features = self.encoder(aligned)
        return self.encoder.to_timestamps(features.hidden, aligned), self.pooled_timestamps(observed.any(-1))


class SimMTMForPreTraining(SimMTMPreTrainedModel):
    """The pretext task: series are reconstructed from the masked views of themselves and of similar series.

    With several processes the masks and dropout are drawn for the global batch, every process sees all
    representations, and the mean of the processes' losses is the loss of one process on the same global batch, with
    its gradient. Only with attention_dropout every process draws dropout by itself.
    """

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__(config)
        self.model = SimMTMModel(config)
        num_features = self.model.encoder.num_context_features
        if config.use_constraint_loss or config.use_aggregation:
            self.projector: SeriesProjector | None = SeriesProjector(config, num_features)
        else:
            self.projector = None
        self.decoder = ContextDecoder(
            num_features, config.context_length, config.channels_of_a_group, config.head_dropout
        )
        self.loss_weights = nn.Parameter(torch.ones(2)) if config.use_constraint_loss else None
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        draws: SimMTMDraws | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> SimMTMForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. Of longer series than the
                context a random window is taken.
            past_observed_mask: The same shape, True = observed, or None.
            draws: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a SimMTMForPreTrainingOutput instead of a tuple.

        Returns:
            The loss, its terms and the reconstruction.
        """
        config, batch = self.config, GlobalBatch.of(self)
        observed = self.observed_values(past_values, past_observed_mask)
        if draws is None:
            length = past_values.shape[1]
            draws = batch.draw(lambda count, source: draw_step(config, count, length, source), past_values, generator)
        window = slice(draws.start, draws.start + config.context_length)
        values, observed = take_context(past_values[:, window], observed[:, window], config.context_length, False)
        keep = draws.keep.to(values.device)
        rows, statistics = self.encode_views(values, observed, keep, self._dropout(draws, batch, 1 + len(keep)))
        pairs = self.pair_views(observed, 1 + len(keep), batch)
        similarity, constraint_loss = None, rows.new_zeros((), dtype=torch.float32)
        if self.projector is not None:
            projected = self.project(rows, pairs, self._dropout(draws, batch))
            similarity = cosine_similarity(projected, batch.gather(projected))
            constraints = constraint_losses(similarity, pairs, config.temperature)
            constraint_loss = batch.mean(constraints, pairs.observed)
        aggregated = self.aggregate(rows, similarity, pairs, batch)
        decoded = self.decode(aggregated, statistics, self._dropout(draws, batch))
        errors = squared_errors(decoded, values, observed, keep if config.reconstruct_masked_views else None)
        reconstruction_loss = batch.mean(errors, observed)
        loss = reconstruction_loss
        if self.loss_weights is not None:
            loss = weigh_losses(torch.stack([constraint_loss, reconstruction_loss]), self.loss_weights)
        output = SimMTMForPreTrainingOutput(
            loss=loss,
            constraint_loss=constraint_loss.detach(),
            reconstruction_loss=reconstruction_loss.detach(),
            reconstruction=(decoded[0] if config.use_aggregation else decoded.mean(0)).detach(),
        )
        return output if return_dict is not False else output.to_tuple()

    def _dropout(self, draws: SimMTMDraws, batch: GlobalBatch, num_views: int = 1) -> DropoutDraws | None:
        """Return the choices of dropout, for rows of so many views after each other; None for random ones."""
        # The fused kernels draw the dropout of attention weights themselves.
        if not self.training or draws.dropout_seed is None or self.config.attention_dropout > 0:
            return None
        return DropoutDraws(draws.dropout_seed, num_views, batch.rank, batch.num_processes)

    def encode_views(
        self, values: torch.Tensor, observed: torch.Tensor, keep: torch.Tensor, draws: DropoutDraws | None = None
    ) -> tuple[torch.Tensor, InstanceStatistics | None]:
        """Encode the series and their masked views in one pass (equations 1 and 2).

        Args:
            values: (batch_size, context_length, num_input_channels).
            observed: The same shape, bool.
            keep: (num_masked_views, batch_size, context_length, num_input_channels) bool.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            Point-wise representations (batch_size * num_groups, 1 + num_masked_views, num_features), the original
            first, and what the views were normalised by, (1 + num_masked_views) * batch_size rows, originals first.
        """
        num_views = 1 + len(keep)
        visible = torch.cat([torch.ones_like(keep[:1]), keep]).flatten(0, 1)
        copies = (num_views, 1, 1)
        features = self.model.encoder.point_features(values.repeat(copies), observed.repeat(copies), visible, draws)
        rows = features.hidden.flatten(2).unflatten(0, (num_views, -1)).flatten(1, 2)
        return rows.transpose(0, 1).contiguous(), features.statistics

    def pair_views(self, observed: torch.Tensor, num_views: int, batch: GlobalBatch) -> RowPairs:
        """Pair this process's views with those of the global batch.

        Args:
            observed: (batch_size, context_length, num_input_channels) bool.
            num_views: Number of views of a series.
            batch: The global batch.

        Returns:
            The pairs of batch_size * num_groups * num_views anchors, views of a series side by side.
        """
        # Of the originals: a view that masks all that a series has is still one of its views.
        series_observed = self.model.encoder.rows(observed).any(-1).any(-1)
        row_observed = series_observed.repeat_interleave(num_views)
        places = batch.rank * len(row_observed) + torch.arange(len(row_observed), device=observed.device)
        return pair_views(places, num_views, batch.gather(row_observed))

    def project(self, rows: torch.Tensor, pairs: RowPairs, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Compute series-wise representations (equation 2).

        Args:
            rows: (num_series, 1 + num_masked_views, num_features) point-wise representations.
            pairs: Which rows have values: the others do not count in the batch normalisation.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_anchors, projection_size).
        """
        assert self.projector is not None, "without constraint and aggregation nothing is compared"
        # A compiled graph does not look at values: it leaves out no row of none.
        is_whole = not torch.compiler.is_compiling() and bool(pairs.observed.all())
        return self.projector(rows.flatten(0, 1), None if is_whole else pairs.observed, draws)

    def aggregate(
        self, rows: torch.Tensor, similarity: torch.Tensor | None, pairs: RowPairs, batch: GlobalBatch
    ) -> torch.Tensor:
        """Replace what is decoded by the weighted sum of all other rows of the global batch (equation 4).

        Args:
            rows: (num_series, 1 + num_masked_views, num_features) point-wise representations of this process.
            similarity: (num_anchors, num_rows); None without a projector.
            pairs: Which of them are compared.
            batch: The global batch.

        Returns:
            (num_series, num_reconstructions, num_features): of the originals, or of all views; without aggregation the
            masked views as they are.
        """
        if not self.config.use_aggregation:
            return rows[:, self._decoded_views]
        assert similarity is not None, "aggregation has a projector"
        anchors = (
            torch.arange(len(similarity), device=rows.device).view(len(rows), -1)[:, self._decoded_views].flatten()
        )
        weights = aggregation_weights(similarity[anchors], pairs.compared[anchors], self.config.temperature)
        # The neighbours are rows of all processes; their gradient flows back to the process that made them.
        everywhere = batch.gather(rows.flatten(0, 1))
        return (weights.to(everywhere.dtype) @ everywhere).unflatten(0, (len(rows), -1))

    @property
    def _decoded_views(self) -> slice:
        if not self.config.use_aggregation:
            return slice(1, None)
        return slice(None) if self.config.reconstruct_masked_views else slice(1)

    def decode(
        self, aggregated: torch.Tensor, statistics: InstanceStatistics | None, draws: DropoutDraws | None = None
    ) -> torch.Tensor:
        """Reconstruct values in the scale of each view (equation 5).

        Args:
            aggregated: (num_series, num_reconstructions, num_features).
            statistics: What all views were normalised by, originals first.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_reconstructions, batch_size, context_length, num_input_channels).
        """
        decoded = self._decode_rows(aggregated, draws)
        if statistics is None:
            return decoded.float()
        batch_size = decoded.shape[1]
        mean, deviation = (part.unflatten(0, (-1, batch_size))[self._decoded_views] for part in statistics)
        return denormalize_instances(decoded, InstanceStatistics(mean, deviation))

    def _decode_rows(self, rows: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Decode rows of `decode`, still normalised: (num_reconstructions, batch_size, context_length, channels)."""
        decoded = self.decoder(rows, draws).unflatten(0, (-1, self.config.num_groups))
        return decoded.permute(2, 0, 3, 1, 4).flatten(3)

    def reconstruct_series(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None, **method_arguments: Any
    ) -> torch.Tensor:
        """Tell the values of every timestamp from those that are observed; see TimeSeriesPreTrainedModel.

        A series is one masked view, in which missing values are masked, and is decoded as it is: it must not depend on
        the series beside it, so that nothing is aggregated.
        """
        length = past_values.shape[1]
        observed = self.observed_values(past_values, past_observed_mask)
        beyond = (0, 0, 0, self.config.context_length - length)
        values = F.pad(torch.where(observed, past_values, 0.0), beyond)
        inside, visible = F.pad(torch.ones_like(observed), beyond), F.pad(observed, beyond)
        features = self.model.encoder.point_features(values, inside, visible)
        decoded = self._decode_rows(features.hidden.flatten(2).flatten(0, 1).unsqueeze(1))[0]
        if features.statistics is not None:
            decoded = denormalize_instances(decoded, features.statistics)
        return decoded[:, :length].float()


class SimMTMForTimeSeriesClassification(GenericForTimeSeriesClassification, SimMTMPreTrainedModel):
    """The encoder with class scores on all point-wise representations of the context.

    The first observed timestamp of a series is the context's first one; of longer series the first ones are taken.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__(config)
        self.model = SimMTMModel(config)
        self.classifier = ContextClassificationHead(
            config, config.num_groups * self.model.encoder.num_context_features
        )
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Represent all positions of the context: features (batch_size, num_groups * num_positions * hidden_size)."""
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=False)
        features, states = self.model.context_features(values, observed, output_hidden_states)
        return EncodedForHead({"features": features.hidden.flatten(1)}, states)


class SimMTMForTimeSeriesPrediction(GenericForTimeSeriesPrediction, SimMTMPreTrainedModel):
    """The encoder with a linear forecast from all point-wise representations of the context.

    The last observed timestamp of a series is the context's last one; of longer series the last ones are taken.

    Args:
        config: Configuration; prediction_length and num_output_channels give the future's. Of more input than output
            channels the last ones are predicted.
    """

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__(config)
        self.model = SimMTMModel(config)
        self.head = ContextPredictionHead(config, self.model.encoder.num_context_features)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Represent all positions of the context.

        Returns:
            features (batch_size, num_groups, num_positions * hidden_size); with instance normalisation mean and
            deviation (batch_size, 1, num_input_channels) of the context.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=True)
        features, states = self.model.context_features(values, observed, output_hidden_states)
        statistics = {} if features.statistics is None else features.statistics._asdict()
        return EncodedForHead({"features": features.hidden.flatten(2), **statistics}, states)


# The converter of official checkpoints (github.com/thuml/SimMTM), of its forecasting and of its classification code.

_FIELDS_OF_ARGUMENTS = {
    "C": "num_input_channels",
    "enc_in": "num_input_channels",
    "input_channels": "num_input_channels",
    "seq_len": "context_length",
    "L": "context_length",
    "TSlength_aligned": "context_length",
    "pred_len": "prediction_length",
    "num_classes_target": "num_labels",
    "d_model": "hidden_size",
    "final_out_channels": "hidden_size",
    "n_heads": "num_attention_heads",
    "e_layers": "num_hidden_layers",
    "d_ff": "intermediate_size",
    "activation": "activation",
    "kernel_size": "first_kernel_size",
    "stride": "first_stride",
    "CNNoutput_channel": "num_positions",  # no field of ours: it is compared with what the others make
    "dropout": "dropout",
    "head_dropout": "head_dropout",
    "masked_rule": "mask_rule",
    "distribution": "mask_rule",
    "mask_rate": "mask_ratio",
    "masking_ratio": "mask_ratio",
    "lm": "mean_mask_length",
    "positive_nums": "num_masked_views",
    "temperature": "temperature",
}
_MASK_RULES = {f"masked{sep}{end}": end for sep in ("_", " ") for end in ("head", "tail")}
# Of the data, the optimiser and the run; the model is the same whatever they are.
_TRAINING_ARGUMENTS = frozenset(
    {"task_name", "is_training", "model_id", "training_mode", "run_description", "seed", "subset", "drop_last"}
    | {"data", "root_path", "data_path", "target", "num_classes", "pretrain_dataset", "target_dataset", "num_workers"}
    | {"checkpoints", "pretrain_checkpoints", "transfer_checkpoints", "load_checkpoints", "use_pretrain_epoch_dir"}
    | {"logs_save_dir", "home_path", "finetune_result_file_name", "log_epoch", "draw_similar_matrix", "itr", "des"}
    | {"lr", "lr_f", "pretrain_lr", "learning_rate", "lradj", "pct_start", "patience", "loss", "optimizer"}
    | {"beta1", "beta2", "train_epochs", "num_epoch", "pretrain_epoch", "finetune_epoch"}
    | {"batch_size", "target_batch_size", "use_amp", "device", "use_gpu", "gpu", "use_multi_gpu", "devices"}
)
# Of other models, or read nowhere by SimMTM's: embed and freq shape a layer that is never called, factor and
# output_attention go to an attention that computes the same with any of them.
_UNREAD_ARGUMENTS = frozenset(
    {"embed", "freq", "factor", "output_attention", "label_len", "dec_in", "c_out", "d_layers", "rbtp", "individual"}
    | {"top_k", "num_kernels", "moving_avg", "distil", "fc_dropout", "seasonal_patterns"}
    | {"increased_dim", "features_len", "features_len_f"}
)
_CHECKED_ARGUMENTS = frozenset({"model", "features", "select_channels"})

_LAYER = re.compile(r"encoder\.attn_layers\.(\d+)\.")
_TOKENS = "enc_embedding.value_embedding.tokenConv.weight"
_UNUSED = ("enc_embedding.position_embedding.", "enc_embedding.temporal_embedding.")
_BLOCKS = {
    f"conv_block{index + 1}.{part}": f"encoder.network.blocks.{index}.{ours}"
    for index in range(3)
    for part, ours in enumerate(("convolution", "norm"))
}
_NORM_PARAMETERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_DECODER_OF_CLASSIFICATION = "head"
# Layers after the encoder -> ours, in SimMTMForPreTraining and the models with a task's head.
_HEADS = {
    "dense.0": "projector.expansion",
    "dense.1": "projector.norm",
    "dense.3": "projector.projection",
    "pooler.pooler.1": "projector.expansion",
    "pooler.pooler.2": "projector.norm",
    "pooler.pooler.4": "projector.projection",
    "projection.linear": "decoder.projection",
    _DECODER_OF_CLASSIFICATION: "decoder.projection",
    "classifier.logits": "classifier.hidden",
    "classifier.logits_simple": "classifier.projection",
    "head.linear": "head.projection",
}
_PRETEXT_LAYERS = {
    "resnet": {"dense.0", "dense.1", "dense.3", _DECODER_OF_CLASSIFICATION, "awl"},
    "transformer": {"pooler.pooler.1", "pooler.pooler.2", "pooler.pooler.4", "projection.linear", "awl"},
}
# Linear layers on flattened features, which the classification code flattens feature by feature and we place by place.
_FLATTENED = frozenset({"dense.0", _DECODER_OF_CLASSIFICATION, "classifier.logits"})


def convert_simmtm_state_dict(state_dict: Mapping[str, Tensor]) -> FieldsAndParameters:
    """Turn an official state dict into that of our encoder.

    Args:
        state_dict: Of the official classification model (TFC) or the official forecasting model, in pre-training or
            fine-tuning; the layers after the encoder may be there.

    Returns:
        Fields for SimMTMConfig, with what the official code does otherwise than the paper; and the parameters of
        SimMTMModel.

    Raises:
        ConversionError: Parameters are missing or unknown.
    """
    official = {key: value for key, value in state_dict.items() if not _is_head(key) and not key.startswith(_UNUSED)}
    if any(key.startswith("conv_block") for key in official):
        expected = {f"conv_block{index}.0.weight" for index in (1, 2, 3)}
        expected |= {f"conv_block{index}.1.{kind}" for index in (1, 2, 3) for kind in _NORM_PARAMETERS}
        require_parameters(official, expected, "SimMTM, the classification code")
        places = {key: key.rpartition(".") for key in official}
        ours = {f"{_BLOCKS[places[key][0]]}.{places[key][2]}": value for key, value in official.items()}
        return _classification_fields(state_dict), ours
    layers = sorted({int(match[1]) for key in official if (match := _LAYER.match(key))})
    expected = {_TOKENS, "encoder.norm.weight", "encoder.norm.bias"}
    for index in range(max(len(layers), 1)):
        expected |= official_layer_names(f"encoder.attn_layers.{index}")
    require_parameters(official, expected, f"SimMTM, the forecasting code with {len(layers)} layers")
    ours = {"encoder.network.token_embedding.weight": official[_TOKENS]}
    for kind in ("weight", "bias"):
        ours[f"encoder.network.transformer.norm.{kind}"] = official[f"encoder.norm.{kind}"]
    for index in layers:
        our_prefix = f"encoder.network.transformer.layers.{index}"
        ours |= convert_transformer_layer(official, f"encoder.attn_layers.{index}", our_prefix)
    return _forecasting_fields(state_dict, len(layers)), ours


def _is_head(key: str) -> bool:
    return key == "awl.params" or key.rpartition(".")[0] in _HEADS


def _sizes(state_dict: Mapping[str, Tensor], **places: tuple[str, int]) -> dict[str, int]:
    """Return the fields whose parameter is there: the size of the named axis of the named parameter."""
    return {field: state_dict[key].shape[axis] for field, (key, axis) in places.items() if key in state_dict}


def _classification_fields(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    fields: dict[str, Any] = _sizes(
        state_dict,
        num_input_channels=("conv_block1.0.weight", 1),
        first_kernel_size=("conv_block1.0.weight", 2),
        hidden_size=("conv_block3.0.weight", 0),
        context_length=("head.bias", 0),
        projector_hidden_size=("dense.0.weight", 0),
        projection_size=("dense.3.weight", 0),
        classifier_hidden_size=("classifier.logits.weight", 0),
    )
    if "context_length" in fields:
        fields["context_length"] //= fields["num_input_channels"]
    return {
        **fields,
        "encoder_type": "resnet",
        "channel_mode": "joint",
        "instance_normalization": False,
        "head_dropout": 0.0,
        "mask_across_series": True,
        "reconstruct_masked_views": True,
    }


def _forecasting_fields(state_dict: Mapping[str, Tensor], num_layers: int) -> dict[str, Any]:
    fields: dict[str, Any] = _sizes(
        state_dict,
        hidden_size=("encoder.norm.weight", 0),
        intermediate_size=("encoder.attn_layers.0.conv1.weight", 0),
        prediction_length=("head.linear.bias", 0),
        projector_hidden_size=("pooler.pooler.1.weight", 0),
        projection_size=("pooler.pooler.4.weight", 0),
    )
    for key in ("head.linear.weight", "projection.linear.weight"):
        if key in state_dict:
            fields["context_length"] = state_dict[key].shape[1] // fields["hidden_size"]
    return {
        **fields,
        "encoder_type": "transformer",
        "channel_mode": "independent",
        "num_hidden_layers": num_layers,
        "instance_normalization": True,
        "mask_across_series": True,
    }


def convert_simmtm_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official layers after the encoder into those of our models with heads.

    Args:
        state_dict: Official parameters; others than of these layers are left out.

    Returns:
        Parameters and buffers named as in SimMTMForPreTraining (projector, decoder, loss_weights) and in the models
        for classification and prediction (head).
    """
    first_block, last_block = (state_dict.get(f"conv_block{index}.0.weight") for index in (1, 3))
    ours = {}
    for key, value in state_dict.items():
        layer, _, kind = key.rpartition(".")
        if layer in _FLATTENED and kind == "weight" and last_block is not None:
            value = value.unflatten(1, (last_block.shape[0], -1)).transpose(1, 2).flatten(1)
        if layer == _DECODER_OF_CLASSIFICATION and first_block is not None:
            # The same of the values that it reconstructs: channel by channel there, timestamp by timestamp here.
            value = value.unflatten(0, (first_block.shape[1], -1)).transpose(0, 1).flatten(0, 1)
        if key == "awl.params":
            ours["loss_weights"] = value
        elif layer in _HEADS:
            ours[f"{_HEADS[layer]}.{kind}"] = value
    return ours


def choose_simmtm_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Tell which of our models the layers after the encoder make.

    Args:
        state_dict: Official parameters.
        fields: All fields of the config.

    Returns:
        "prediction", "classification", "pretraining" or "model", and the fields of its head.

    Raises:
        ConversionError: The forecasting head is there, which serves any number of channels, and nothing tells theirs.
    """
    layers = {key.rpartition(".")[0] for key in state_dict}
    if "head.linear" in layers:
        require_fields(fields, {"num_input_channels": "enc_in"})
        return "prediction", {"prediction_length": state_dict["head.linear.weight"].shape[0]}
    if "classifier.logits_simple" in layers:
        return "classification", {"num_labels": state_dict["classifier.logits_simple.weight"].shape[0]}
    return ("pretraining" if _PRETEXT_LAYERS[fields["encoder_type"]] <= layers else "model"), {}


def simmtm_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of SimMTMConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, such as seq_len, n_heads, positive_nums.

    Returns:
        Fields, and num_positions, which `complete_simmtm_fields` compares.

    Raises:
        ConversionError: Two arguments contradict each other, or one is not supported.
    """
    ignored = _TRAINING_ARGUMENTS | _UNREAD_ARGUMENTS | _CHECKED_ARGUMENTS
    values = {"masked_rule": _MASK_RULES, "distribution": _MASK_RULES}
    fields = rename_hyperparameters(hyperparameters, _FIELDS_OF_ARGUMENTS, ignored, values)
    model, share = hyperparameters.get("model") or "SimMTM", hyperparameters.get("select_channels")
    if model != "SimMTM":
        raise ConversionError(f"model={model!r} is another method of the official code; only 'SimMTM' is converted.")
    if share is not None and share != 1:
        raise ConversionError(
            f"select_channels={share!r} trains every step on some of the channels, and ours sees all. It does not "
            "shape the model: leave it out to convert the parameters."
        )
    if hyperparameters.get("features") == "MS":
        fields.setdefault("num_output_channels", 1)  # the last channel alone is predicted
    return fields


def complete_simmtm_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_simmtm_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config.

    Raises:
        ConversionError: A field is missing that neither tells, or they contradict each other.
    """
    fields = {**of_shapes, **given}
    positions = fields.pop("num_positions", None)
    required = {"context_length": "seq_len or L"}
    if fields["encoder_type"] == "transformer":
        required["num_attention_heads"] = "n_heads"
        if "dropout" in fields:  # one probability serves both there
            fields.setdefault("attention_dropout", fields["dropout"])
    require_fields(fields, required)
    if positions is not None:
        found = PointEncoder(SimMTMConfig(**fields)).network.output_length(fields["context_length"])
        if positions != found:
            raise ConversionError(
                f"CNNoutput_channel={positions!r} was given, but the encoder makes {found} positions of "
                f"context_length={fields['context_length']} timestamps; correct it, stride, kernel_size or the length."
            )
    return fields


SimMTMPreTrainedModel.converter = Converter(
    convert=convert_simmtm_state_dict,
    fields_of_hyperparameters=simmtm_fields_of_hyperparameters,
    hyperparameter_names={*_FIELDS_OF_ARGUMENTS, *_TRAINING_ARGUMENTS, *_UNREAD_ARGUMENTS, *_CHECKED_ARGUMENTS},
    fields_of_shapes=(
        *("encoder_type", "channel_mode", "hidden_size", "num_hidden_layers", "intermediate_size"),
        *("first_kernel_size", "num_input_channels", "context_length", "prediction_length"),
        *("projector_hidden_size", "projection_size", "classifier_hidden_size"),
    ),
    complete=complete_simmtm_fields,
    heads=convert_simmtm_heads,
    choose_model=choose_simmtm_model,
)
