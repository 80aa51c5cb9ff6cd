"""TimeDRL: Disentangled Representation Learning for Multivariate Time Series (Chang et al., ICDE 2024).

arXiv 2312.04142. Section IV-B, two-level embeddings: patches and a [CLS] token -> PatchEncoder, TimeDRLModel.
Section IV-C, timestamp-predictive task, and IV-D, instance-contrastive task -> TimeDRLForPreTraining.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .backbones_timedrl import TOKEN_ENCODERS, TokenRows
from .configuration_timedrl import TimeDRLConfig
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
    ClassificationHead,
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    TimeSeriesModelOutput,
    count_quantiles,
    unflatten_prediction,
)
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_normalization import (
    InstanceStatistics,
    MaskedBatchNorm,
    denormalize_instances,
    instance_statistics,
    normalize_instances,
)
from .layers_patching import AlignedSeries, PatchLayout, align_series, last_patches
from .layers_pooling import pool_channels
from .layers_transformer import (
    CircularTokenEmbedding,
    LearnedPositions,
    sinusoidal_positions,
)
from .losses_time_series import prediction_loss
from .modeling_time_series import TimeSeriesPreTrainedModel

JITTER_DEVIATION = 0.1
SCALING_DEVIATION = 1.0
MOST_SEGMENTS = 4
MASKED_PART = 0.3
SHORTEST_CROP = 0.5


@dataclass(frozen=True)
class TimeDRLViews:
    """The random choices of one pre-training step. The first axis of each tensor is that of the two views.

    Args:
        dropout_seed: Source of every dropout mask.
        noise: (2, batch_size, sequence_length, num_input_channels), added, or None.
        factor: (2, batch_size, 1 or sequence_length, num_input_channels), multiplied with, or None.
        channel_order: (2, num_input_channels), channel that takes each channel's place, or None.
        num_segments: (2, batch_size) number of stretches of equal length that change places, or None.
        segment_keys: (2, batch_size, MOST_SEGMENTS), by which these stretches are sorted, or None.
        crop: (2, batch_size, 2): length and place, between 0 and 1, of the stretch that is kept, or None.
        embedding_kept: (2, num_rows, num_tokens, hidden_size) of zeros and ones: the mask of the dropout after the
            token embedding, or None to draw it like all others.
    """

    dropout_seed: int
    noise: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    channel_order: torch.Tensor | None = None
    num_segments: torch.Tensor | None = None
    segment_keys: torch.Tensor | None = None
    crop: torch.Tensor | None = None
    embedding_kept: torch.Tensor | None = None

    def rows(self, start: int, stop: int) -> TimeDRLViews:
        """Return the choices for some series of the batch; the seed serves all."""
        names = ("noise", "factor", "num_segments", "segment_keys", "crop")
        cut = {name: value[:, start:stop] for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **cut)

    def apply(self, series: AlignedSeries) -> AlignedSeries:
        """Make both views of instance-normalised series.

        Args:
            series: A batch, 0 where a value is not observed.

        Returns:
            A batch of twice as many series: all first views, then all second views.
        """
        device, batch_size = series.values.device, len(series.values)
        values, observed = series.values.repeat(2, 1, 1), series.observed.repeat(2, 1, 1)
        length = series.length.repeat(2)
        if self.num_segments is not None and self.segment_keys is not None:
            segments, keys = self.num_segments.flatten().to(device), self.segment_keys.flatten(0, 1).to(device)
            order = _segment_order(segments, keys, length, values.shape[1]).unsqueeze(-1).expand_as(values)
            values, observed = values.gather(1, order), observed.gather(1, order)
        if self.channel_order is not None:
            order = self.channel_order.to(device).repeat_interleave(batch_size, 0).unsqueeze(1).expand_as(values)
            values, observed = values.gather(2, order), observed.gather(2, order)
        if self.crop is not None:
            values = values * _kept_by_crop(self.crop.flatten(0, 1).to(device), length, values.shape[1])
        if self.factor is not None:
            values = values * self.factor.flatten(0, 1).to(device)
        if self.noise is not None:
            values = values + self.noise.flatten(0, 1).to(device) * observed
        return AlignedSeries(values, observed, series.start.repeat(2), length)


def draw_views(
    augmentation: str, batch_size: int, length: int, num_channels: int, generator: torch.Generator
) -> TimeDRLViews:
    """Draw the choices of one step.

    Args:
        augmentation: As in TimeDRLConfig.
        batch_size: Number of series.
        length: Number of timestamps, padding included.
        num_channels: Number of channels.
        generator: Source of randomness on the CPU.

    Returns:
        The choices.
    """
    views = TimeDRLViews(int(torch.randint(2**62, (), generator=generator)))
    if augmentation == "jitter":
        noise = torch.randn(2, batch_size, length, num_channels, generator=generator) * JITTER_DEVIATION
        return replace(views, noise=noise)
    if augmentation == "scaling":
        factor = 1.0 + SCALING_DEVIATION * torch.randn(2, batch_size, 1, num_channels, generator=generator)
        return replace(views, factor=factor)
    if augmentation == "rotation":
        signs = 2.0 * torch.randint(2, (2, batch_size, 1, num_channels), generator=generator) - 1.0
        return replace(views, factor=signs, channel_order=torch.rand(2, num_channels, generator=generator).argsort(1))
    if augmentation == "permutation":
        num_segments = torch.randint(1, MOST_SEGMENTS + 1, (2, batch_size), generator=generator)
        keys = torch.rand(2, batch_size, MOST_SEGMENTS, generator=generator)
        return replace(views, num_segments=num_segments, segment_keys=keys)
    if augmentation == "masking":
        kept = torch.rand(2, batch_size, length, num_channels, generator=generator) >= MASKED_PART
        return replace(views, factor=kept.float())
    if augmentation == "cropping":
        return replace(views, crop=torch.rand(2, batch_size, 2, generator=generator))
    return views


def _segment_order(
    num_segments: torch.Tensor, keys: torch.Tensor, length: torch.Tensor, sequence_length: int
) -> torch.Tensor:
    """Return which timestamp takes each place: (batch_size, sequence_length); what is after a series stays there."""
    steps = torch.arange(sequence_length, device=keys.device)
    segment = (steps * num_segments.unsqueeze(1)).div(length.unsqueeze(1), rounding_mode="floor")
    step_keys = keys.gather(1, segment.clamp(max=keys.shape[1] - 1))
    return torch.where(steps < length.unsqueeze(1), step_keys, torch.inf).argsort(dim=1, stable=True)


def _kept_by_crop(crop: torch.Tensor, length: torch.Tensor, sequence_length: int) -> torch.Tensor:
    """Return ones inside the crops and zeros outside: (batch_size, sequence_length, 1)."""
    cropped = (length * (SHORTEST_CROP + (1.0 - SHORTEST_CROP) * crop[:, 0])).floor().clamp(min=1)
    first = ((length - cropped + 1) * crop[:, 1]).floor()
    steps = torch.arange(sequence_length, device=crop.device)
    inside = (steps >= first.unsqueeze(1)) & (steps < (first + cropped).unsqueeze(1))
    return inside.to(torch.float32).unsqueeze(-1)


def predictive_errors(predicted: torch.Tensor, target: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Compare the patches that both views' timestamp embeddings predict with the series' patches.

    Args:
        predicted: (num_views, num_rows, num_patches, token_size).
        target: (num_rows, num_patches, token_size).
        observed: The same shape as `target`, bool; the others are left out.

    Returns:
        The squared errors, of the shape of `predicted`, 0 where nothing is observed. Their mean over what is observed
        is the predictive loss.

    Source:
        TimeDRL, equations 8 to 10.
    """
    return torch.where(observed, predicted.float() - target.float(), 0.0).square()


def negative_cosine(embeddings: torch.Tensor, predicted: torch.Tensor, stop_gradient: bool = True) -> torch.Tensor:
    """Compare each view's instance embedding with what the other view's predicts it to be.

    Args:
        embeddings: (2, num_rows, embedding_size).
        predicted: The same shape: what each view's embedding predicts the other's to be.
        stop_gradient: Whether the embeddings are constants; the predictions never are.

    Returns:
        (2, num_rows), between -1 and 1. The mean over rows with an observed value is the contrastive loss.

    Source:
        TimeDRL, equations 11 to 13.
    """
    compared = embeddings.detach() if stop_gradient else embeddings
    return -F.cosine_similarity(compared.float(), predicted.flip(0).float(), dim=-1)


@dataclass(frozen=True)
class EncodedRows:
    """What the encoder makes of a batch. A row is a series, with independent channels a channel of one.

    Args:
        instances: (num_rows, embedding_size).
        patches: (num_rows, num_patches, hidden_size), zeros after a row.
        seen: (num_rows,) bool, rows with an observed value.
    """

    instances: torch.Tensor
    patches: torch.Tensor
    seen: torch.Tensor


def normalize_series(raw: AlignedSeries) -> tuple[AlignedSeries, InstanceStatistics]:
    """Normalise every channel by what is observed of it; what is missing becomes 0, the channel's mean."""
    statistics = instance_statistics(raw.values, raw.observed)
    values = normalize_instances(raw.values, raw.observed, statistics)
    return AlignedSeries(values, raw.observed, raw.start, raw.length), statistics


class PatchEncoder(nn.Module):
    """Patches and a [CLS] token, embedded and encoded.

    The [CLS] token stands before the patches, or after them where the encoder looks back only, so that it sees the
    whole series either way (`cls_position` says otherwise).
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.config = config
        independent = config.channel_mode == "independent"
        self.cls_token = nn.Parameter(
            torch.randn(1, config.num_input_channels if independent else 1, config.token_size)
        )
        self.token_embedding: nn.Module = (
            CircularTokenEmbedding(config.token_size, config.hidden_size, config.token_kernel_size)
            if config.token_embedding == "convolution"
            else nn.Linear(config.token_size, config.hidden_size, bias=False)
        )
        self.positions = (
            LearnedPositions(config.max_position_embeddings, config.hidden_size)
            if config.position_embedding == "learned"
            else None
        )
        self.dropout = SeededDropout(config.dropout, site=0)
        self.encoder = TOKEN_ENCODERS[config.encoder](config)

    def forward(
        self,
        series: AlignedSeries,
        draws: DropoutDraws | None = None,
        embedding_kept: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> EncodedRows:
        """Encode.

        Args:
            series: Aligned, normalised series; what is not observed is 0.
            draws: The random choices of dropout; None for none in evaluation and random ones in training.
            embedding_kept: (num_rows, num_tokens, hidden_size) of zeros and ones: the mask of the first dropout, or
                None to draw it like all others.
            states: Takes the embedded tokens and every layer's output, [CLS] included, when given.

        Returns:
            The embeddings.
        """
        patches = self.cut(series.values, series.length).to(self.cls_token.dtype)
        num_patches, inside = self._inside(series.length, patches)
        seen = self.cut(series.observed, series.length).any(-1) & inside
        rows = self._with_cls(patches, seen, num_patches)
        hidden = self._embed(rows, draws, embedding_kept)
        if states is not None:
            states.append(hidden)
        cls, hidden = self._without_cls(self.encoder(rows.of(hidden), draws, states), num_patches)
        if rows.num_tokens is not None:
            hidden = hidden * inside.unsqueeze(-1)
        return EncodedRows(self._instances(cls, hidden, seen, num_patches), hidden, seen.any(1))

    def target(self, series: AlignedSeries) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut series into the patches that the predictive task predicts.

        Args:
            series: Aligned series.

        Returns:
            The patches, 0 where nothing is observed, and which of their values count:
            both (num_rows, num_patches, token_size).
        """
        counted = self.cut(series.observed, series.length)
        _, inside = self._inside(series.length, counted)
        counted = counted & inside.unsqueeze(-1)
        return torch.where(counted, self.cut(series.values, series.length), 0.0), counted

    def cut(self, values: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Cut aligned series into rows of patches: (num_rows, num_patches, token_size), channel by channel."""
        patches = self.config.layout.cut(values, length)
        if self.config.channel_mode == "independent":
            return patches.permute(0, 3, 1, 2).flatten(0, 1)
        return patches.transpose(2, 3).flatten(2)

    def _inside(self, length: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the number of patches of every row, (num_rows,), and which are: (num_rows, num_patches) bool."""
        num_patches = self.config.layout.num_patches_of_rows(length)
        if self.config.channel_mode == "independent":
            num_patches = num_patches.repeat_interleave(self.config.num_input_channels)
        return num_patches, torch.arange(patches.shape[1], device=patches.device) < num_patches.unsqueeze(1)

    def _with_cls(self, patches: torch.Tensor, seen: torch.Tensor, num_patches: torch.Tensor) -> TokenRows:
        """Add the [CLS] token to every row."""
        cls = self.cls_token.expand(patches.shape[0] // self.cls_token.shape[1], -1, -1)
        cls = cls.reshape(patches.shape[0], 1, patches.shape[2])
        if self.config.cls_is_last:
            is_cls = torch.arange(patches.shape[1] + 1, device=patches.device) == num_patches.unsqueeze(1)
            tokens = torch.where(is_cls.unsqueeze(-1), cls, nn.functional.pad(patches, (0, 0, 0, 1)))
            seen = nn.functional.pad(seen, (0, 1)) | is_cls
        else:
            tokens = torch.cat((cls, patches), dim=1)
            seen = nn.functional.pad(seen, (1, 0), value=True)
        if not torch.compiler.is_compiling() and bool(seen.all()):
            return TokenRows(tokens, None, None)
        return TokenRows(tokens, seen, num_patches + 1)

    def _embed(self, rows: TokenRows, draws: DropoutDraws | None, embedding_kept: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self.token_embedding, CircularTokenEmbedding):
            hidden = self.token_embedding(rows.tokens, rows.num_tokens)
        else:
            hidden = self.token_embedding(rows.tokens)
        length = rows.tokens.shape[1]
        if self.positions is not None:
            hidden = hidden + self.positions(length)
        elif self.config.position_embedding == "fixed":
            hidden = hidden + sinusoidal_positions(length, self.config.hidden_size, hidden.device).to(hidden.dtype)
        if embedding_kept is None:
            return self.dropout(hidden, draws)
        return hidden * embedding_kept.to(hidden) / (1.0 - self.config.dropout)

    def _without_cls(self, hidden: torch.Tensor, num_patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the [CLS] token's embedding (num_rows, hidden_size) and the patches'."""
        if not self.config.cls_is_last:
            return hidden[:, 0], hidden[:, 1:]
        place = num_patches.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, place).squeeze(1), hidden[:, :-1]

    def _instances(
        self, cls: torch.Tensor, patches: torch.Tensor, seen: torch.Tensor, num_patches: torch.Tensor
    ) -> torch.Tensor:
        """Embed whole rows as `instance_embedding` says: (num_rows, embedding_size)."""
        kind = self.config.instance_embedding
        if kind == "cls":
            return cls
        if kind == "gap":
            counted = seen.unsqueeze(-1)
            return (patches * counted).sum(1) / counted.sum(1).clamp(min=1)
        if kind == "last":
            return patches.gather(1, (num_patches - 1).view(-1, 1, 1).expand(-1, 1, patches.shape[-1])).squeeze(1)
        kept = patches[:, : self.config.num_context_patches].flatten(1)
        return nn.functional.pad(kept, (0, self.config.embedding_size - kept.shape[1]))


# Far beyond the numbers of the encoder's dropout layers.
FIRST_HEAD_SITE = 10_000


class ContrastivePredictor(nn.Module):
    """From one view's instance embedding to the other's (paper, section IV-D): a bottleneck of half the width.

    Args:
        embedding_size: Length of an instance embedding.
        dropout: Dropout probability.
    """

    def __init__(self, embedding_size: int, dropout: float) -> None:
        super().__init__()
        inner = max(embedding_size // 2, 1)
        self.contraction = nn.Linear(embedding_size, inner)
        self.norm = MaskedBatchNorm(inner)
        self.dropout = SeededDropout(dropout, FIRST_HEAD_SITE)
        self.expansion = nn.Linear(inner, embedding_size)

    def forward(
        self,
        embeddings: torch.Tensor,
        observed: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Predict.

        Args:
            embeddings: (num_views * num_rows, embedding_size).
            observed: (num_views * num_rows,) bool, rows that count in batch statistics; None for all.
            draws: The random choices of dropout, which know the number of views.

        Returns:
            The same shape as `embeddings`.
        """
        hidden = self.contraction(embeddings)
        hidden = self.norm(hidden, observed, 1 if draws is None else draws.num_views).to(hidden.dtype)
        return self.expansion(self.dropout(F.relu(hidden), draws))


class TimestampPredictor(nn.Module):
    """From a patch's embedding to the patch (paper, section IV-C)."""

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.dropout = SeededDropout(config.dropout, FIRST_HEAD_SITE + 1)
        self.projection = nn.Linear(config.hidden_size, config.token_size)

    def forward(self, embeddings: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Map (num_rows, num_patches, hidden_size) to (num_rows, num_patches, token_size)."""
        return self.projection(self.dropout(embeddings, draws))


class FlattenedPredictionHead(nn.Module):
    """A linear layer from all patches of the last context_length timestamps to the future (paper, section V-A).

    With independent channels one layer serves all of them.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__()
        self.num_channels = config.num_output_channels or config.num_input_channels
        self.is_joint = config.channel_mode == "joint"
        self.dropout = nn.Dropout(config.prediction_dropout)
        self.quantiles = config.quantiles
        of_a_row = (self.num_channels if self.is_joint else 1) * count_quantiles(self.quantiles)
        outputs = config.prediction_length * of_a_row
        self.projection = nn.Linear(config.num_context_patches * config.hidden_size, outputs)

    def forward(
        self,
        patches: torch.Tensor,
        mean: torch.Tensor,
        deviation: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict the last channels.

        Args:
            patches: See last_patches.
            mean: (batch_size, 1, num_input_channels) of the series.
            deviation: The same shape.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.

        Returns:
            The scalar loss over observed values or None (see prediction_loss), and the prediction (batch_size,
            prediction_length, num_output_channels) in the units of the series, with quantiles a last axis of them.
        """
        statistics = InstanceStatistics(mean, deviation).channels(slice(-self.num_channels, None))
        if self.quantiles is not None:
            statistics = statistics.of_quantiles()
        normalized = self.normalized_prediction(patches)
        prediction = denormalize_instances(normalized, statistics).to(normalized.dtype)
        return prediction_loss(prediction, future_values, future_observed_mask, self.quantiles), prediction

    def normalized_prediction(self, patches: torch.Tensor) -> torch.Tensor:
        """Predict on the scale of the instance-normalised input; shapes as in `forward`."""
        prediction = self.projection(self.dropout(patches))
        if self.is_joint:
            return unflatten_prediction(prediction, self.num_channels, self.quantiles)
        of_channels = unflatten_prediction(prediction[:, -self.num_channels :], 1, self.quantiles)
        return of_channels.squeeze(3).transpose(1, 2)


@dataclass
class TimeDRLForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task. A row is a series, with independent channels a channel of one.

    Args:
        loss: Scalar: predictive_weight * predictive + contrastive_weight * contrastive loss.
        predictive_loss: Its timestamp-predictive term, a scalar without gradient.
        contrastive_loss: Its instance-contrastive term, a scalar without gradient.
        instance_embeddings: (2, num_rows, embedding_size) of the two views, without gradient.
        predicted_embeddings: The same shape: what each view's predicts the other's to be, without gradient.
        predicted_patches: (2, num_rows, num_patches, token_size), without gradient.
        target_patches: (num_rows, num_patches, token_size), 0 where nothing is observed.
    """

    loss: torch.Tensor | None = None
    predictive_loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    instance_embeddings: torch.Tensor | None = None
    predicted_embeddings: torch.Tensor | None = None
    predicted_patches: torch.Tensor | None = None
    target_patches: torch.Tensor | None = None


class TimeDRLPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of TimeDRL's models."""

    config: TimeDRLConfig
    config_class = TimeDRLConfig
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    _no_split_modules = ["TransformerLayer", "CausalConvolutionBlock"]  # noqa: RUF012 - as transformers declares it
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 - as above
        r"^(timestamp_predictor|contrastive_predictor|head|classifier)\."
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PatchEncoder):
            init.normal_(module.cls_token)
        elif isinstance(module, nn.LSTM):
            bound = 1.0 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        else:
            super()._init_weights(module)


class TimeDRLModel(TimeDRLPreTrainedModel):
    """The encoder (paper, section IV-B)."""

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__(config)
        self.patch_encoder = PatchEncoder(config)
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
            output_hidden_states: Whether to return the embedded tokens and every layer's output, [CLS] included.
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            last_hidden_state: the patches' embeddings (batch_size, num_patches, hidden_size), with independent
            channels (batch_size, num_input_channels, num_patches, hidden_size); the first patch begins with the first
            observed timestamp, and those after a series are zero. pooler_output: the instance embedding, with
            independent channels the mean of those of the channels with an observed value.
        """
        wants_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        states: list[torch.Tensor] | None = [] if wants_states else None
        observed = self.observed_values(past_values, past_observed_mask)
        series, _ = normalize_series(align_series(past_values, observed))
        encoded = self.patch_encoder(series, states=states)
        output = TimeSeriesModelOutput(
            last_hidden_state=self.by_series(encoded.patches),
            pooler_output=self.pool_channels(encoded),
            hidden_states=None if states is None else tuple(self.by_series(state) for state in states),
        )
        return output if return_dict is not False else output.to_tuple()

    def by_series(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the rows of independent channels an axis of channels."""
        if self.config.channel_mode == "joint":
            return rows
        return rows.unflatten(0, (-1, self.config.num_input_channels))

    def pool_channels(self, encoded: EncodedRows, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Take the mean over independent channels with an observed value.

        Args:
            encoded: Rows of all channels.
            embeddings: (num_rows, ..., width); None for the instance embeddings.

        Returns:
            (batch_size, ..., width).
        """
        values = self.by_series(encoded.instances if embeddings is None else embeddings)
        if self.config.channel_mode == "joint":
            return values
        return pool_channels(values, self.by_series(encoded.seen))

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Give every timestamp the mean of the patches that hold it, and of independent channels.

        Missing timestamps at an end are padding, whatever `inside` says. Pooling takes those with any observed value.
        See TimeSeriesPreTrainedModel.embed_timestamps.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        series, _ = normalize_series(align_series(past_values, observed))
        encoded = self.patch_encoder(series)
        patches = self.pool_channels(encoded, encoded.patches)
        return self.config.layout.to_timestamps(patches, series), self.pooled_timestamps(observed.any(-1))

    def embed_instances(self, past_values: torch.Tensor, **method_arguments: Any) -> torch.Tensor:
        """Embed every series as its instance embedding; see TimeSeriesPreTrainedModel.embed_instances."""
        return self(past_values, **method_arguments).pooler_output


class TimeDRLForPreTraining(TimeDRLPreTrainedModel):
    """The pretext tasks: predict patches from their embeddings, and one view's instance embedding from the other's.

    Both views go through the encoder in one batch. Dropout makes them (in evaluation too, so that a validation loss is
    the loss that is trained). With several processes the masks are drawn for the global batch, and the mean of
    the processes' losses is the loss of one process on the same global batch, with its gradient.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__(config)
        self.model = TimeDRLModel(config)
        self.timestamp_predictor = TimestampPredictor(config)
        self.contrastive_predictor = ContrastivePredictor(config.embedding_size, config.dropout)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        views: TimeDRLViews | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> TimeDRLForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            views: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a TimeDRLForPreTrainingOutput instead of a tuple.

        Returns:
            The loss, its terms and what they compare.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        batch, (_, length, num_channels) = GlobalBatch.of(self), past_values.shape
        if views is None:
            augmentation = self.config.augmentation
            views = batch.draw(
                lambda size, source: draw_views(augmentation, size, length, num_channels, source),
                past_values,
                generator,
            )
        raw = align_series(past_values, observed)
        series, _ = normalize_series(raw)
        draws = DropoutDraws(views.dropout_seed, 2, batch.rank, batch.num_processes)
        kept = None if views.embedding_kept is None else views.embedding_kept.flatten(0, 1)
        encoded = self.model.patch_encoder(views.apply(series), draws, kept)
        target, counted = self.model.patch_encoder.target(raw if self.config.prediction_target == "raw" else series)
        predicted = self.timestamp_predictor(encoded.patches, draws).unflatten(0, (2, -1))
        other = self.contrastive_predictor(encoded.instances, encoded.seen, draws).unflatten(0, (2, -1))
        instances, seen = encoded.instances.unflatten(0, (2, -1)), encoded.seen.unflatten(0, (2, -1)).all(0)
        errors = predictive_errors(predicted, target, counted)
        predictive = batch.mean(errors, counted)
        distances = negative_cosine(instances, other, self.config.stop_gradient)
        contrastive = batch.mean(distances, seen)
        output = TimeDRLForPreTrainingOutput(
            loss=self.config.predictive_weight * predictive + self.config.contrastive_weight * contrastive,
            predictive_loss=predictive.detach(),
            contrastive_loss=contrastive.detach(),
            instance_embeddings=instances.detach(),
            predicted_embeddings=other.detach(),
            predicted_patches=predicted.detach(),
            target_patches=target,
        )
        return output if return_dict is not False else output.to_tuple()


class TimeDRLForTimeSeriesClassification(GenericForTimeSeriesClassification, TimeDRLPreTrainedModel):
    """The encoder with class scores on the instance embedding.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__(config)
        self.model = TimeDRLModel(config)
        self.classifier = ClassificationHead(config)
        self.post_init()


class TimeDRLForTimeSeriesPrediction(GenericForTimeSeriesPrediction, TimeDRLPreTrainedModel):
    """The encoder with a linear prediction of the future from the patches of the last context_length timestamps.

    The future follows the last observed timestamp; timestamps before the last context_length are not looked at.

    Args:
        config: Configuration; prediction_length and num_output_channels (the last channels) give the future's.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__(config)
        self.model = TimeDRLModel(config)
        self.head = FlattenedPredictionHead(config)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Embed the patches of the context and measure the series; see GenericWithHead.compute_head_inputs.

        Returns:
            patches (batch_size, num_context_patches * hidden_size), with independent channels (batch_size,
            num_input_channels, num_context_patches * hidden_size); mean and deviation (batch_size, 1,
            num_input_channels) of the context.
        """
        wants_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        states: list[torch.Tensor] | None = [] if wants_states else None
        observed = self.observed_values(past_values, past_observed_mask)
        series, statistics = normalize_series(align_series(past_values, observed & self._is_recent(observed)))
        encoded = self.model.patch_encoder(series, states=states)
        num_patches = self.config.layout.num_patches_of_rows(series.length)
        patches = last_patches(self.model.by_series(encoded.patches), num_patches, self.config.num_context_patches)
        return EncodedForHead(
            {"patches": patches, "mean": statistics.mean, "deviation": statistics.deviation},
            None if states is None else tuple(self.model.by_series(state) for state in states),
        )

    def _is_recent(self, observed: torch.Tensor) -> torch.Tensor:
        """Mark the last context_length timestamps of every series: (batch_size, sequence_length, 1) bool."""
        steps = torch.arange(observed.shape[1], device=observed.device)
        last = torch.where(observed.any(-1), steps, 0).amax(1, keepdim=True)
        return (steps > last - self.config.context_length).unsqueeze(-1)


# Official arguments that shape the model or its tasks -> our fields, and official values -> ours.
_FIELDS_OF_ARGUMENTS = {
    "C": "num_input_channels",
    "enc_in": "num_input_channels",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "dropout": "dropout",
    "activation": "activation",
    "contrastive_weight": "contrastive_weight",
    "patch_len": "patch_length",
    "stride": "patch_stride",
    "seq_len": "context_length",
    "pred_len": "prediction_length",
    "K": "num_labels",
    "token_embed_type": "token_embedding",
    "token_embed_kernel_size": "token_kernel_size",
    "pos_embed_type": "position_embedding",
    "get_i": "instance_embedding",
    "encoder_arch": "encoder",
    "data_aug": "augmentation",
    "enable_channel_independence": "channel_mode",
}
_VALUES_OF_ARGUMENTS: dict[str, dict[Any, Any]] = {
    "token_embed_type": {"conv": "convolution"},
    "pos_embed_type": {"learnable": "learned"},
    "encoder_arch": {"transformer_encoder": "transformer", "transformer_decoder": "causal_transformer"},
    "enable_channel_independence": {True: "independent", False: "joint"},
}
# The official switches of the ablation -> what they set where they are on.
_SWITCHES = {
    "disable_predictive_loss": ("predictive_weight", 0.0),
    "disable_contrastive_loss": ("contrastive_weight", 0.0),
    "disable_stop_gradient": ("stop_gradient", False),
}
_STAGES = ("pretrain", "linear_eval")
# Arguments of data, training and evaluation, and those that follow from others.
_TRAINING_ARGUMENTS = frozenset(
    {"base_d_model", "T_p", "i_dim", "fixed_dropout_p", "seed", "batch_size", "num_workers", "patience", "delta"}
    | {"task_name", "model", "data_name", "features", "checkpoints", "pred_len_list", "train_together", "use_amp"}
    | {"overwrite_args", "disable_freeze_encoder", "use_gpu", "target", "label_len", "freq", "return_single_feature"}
    | {f"{stage}_{name}" for stage in _STAGES for name in ("optim", "learning_rate", "lradj", "weight_decay")}
    | {f"{stage}_{name}" for stage in _STAGES for name in ("epochs", "data_percent")}
)
# Of the ablation's encoders these come from another library there; ours are after their papers.
_OTHER_LIBRARYS_ENCODERS = ("resnet", "tcn")

_LAYER = re.compile(r"encoder\.attn_layers\.(\d+)\.(.+)\.(weight|bias)")
_RECURRENT = re.compile(r"encoder\.lstm\.(weight_ih|weight_hh|bias_ih|bias_hh)_l(\d+)(_reverse)?")
_OUR_ENCODER = "patch_encoder.encoder"
_OUR_NAME = {
    "cls_token": "patch_encoder.cls_token",
    "input_layer.token_embedding.tokenConv.weight": "patch_encoder.token_embedding.weight",
    "input_layer.token_embedding.weight": "patch_encoder.token_embedding.weight",
    "encoder.norm.weight": f"{_OUR_ENCODER}.transformer.norm.weight",
    "encoder.norm.bias": f"{_OUR_ENCODER}.transformer.norm.bias",
    "encoder.linear.weight": f"{_OUR_ENCODER}.projection.weight",
    "encoder.linear.bias": f"{_OUR_ENCODER}.projection.bias",
}
_POSITIONS = "input_layer.position_embedding.pe"
_HEADS = {
    "predictive_linear.1": "timestamp_predictor.projection",
    "contrastive_predictor.0": "contrastive_predictor.contraction",
    "contrastive_predictor.1": "contrastive_predictor.norm",
    "contrastive_predictor.4": "contrastive_predictor.expansion",
}
_LINEAR_EVALUATION = "linear_eval.linear"
_LINEAR_LAYERS = ("head.projection", "classifier.projection")  # of a prediction or a classification


def convert_timedrl_state_dict(state_dict: Mapping[str, Tensor]) -> FieldsAndParameters:
    """Turn an official state dict (github.com/blacksnail789521/TimeDRL) into that of our encoder.

    Args:
        state_dict: Of the official model with a transformer or an LSTM; the pretext tasks' layers may be there.

    Returns:
        Fields for TimeDRLConfig that the shapes tell, what the official code does otherwise than the paper, and
        `cls_shape`, from which `complete_timedrl_fields` tells the channels; and the parameters of TimeDRLModel.

    Raises:
        ConversionError: Parameters are missing or unknown.
    """
    official = {
        key: value for key, value in state_dict.items() if key.rpartition(".")[0] not in {*_HEADS, _LINEAR_EVALUATION}
    }
    layers = sorted({int(match[1]) for key in official if (match := _LAYER.fullmatch(key))})
    recurrent = {key: match for key in official if (match := _RECURRENT.fullmatch(key))}
    _check_parameters(official, len(layers), recurrent)
    ours = {_OUR_NAME[key]: value for key, value in official.items() if key in _OUR_NAME}
    for index in layers:
        our_prefix = f"{_OUR_ENCODER}.transformer.layers.{index}"
        ours |= convert_transformer_layer(official, f"encoder.attn_layers.{index}", our_prefix)
    for key, match in recurrent.items():
        direction = "backward_layers" if match[3] else "forward_layers"
        ours[f"{_OUR_ENCODER}.{direction}.{match[2]}.{match[1]}_l0"] = official[key]
    positions = official.get(_POSITIONS)
    if positions is not None and positions.ndim == 2:  # the fixed table has another axis in front
        ours["patch_encoder.positions.weight"] = positions
    return _fields_of_shapes(official, len(layers), recurrent), ours


def _check_parameters(official: Mapping[str, Tensor], num_layers: int, recurrent: Mapping[str, re.Match[str]]) -> None:
    expected = {"cls_token", *(key for key in official if key == _POSITIONS)}
    embeddings = [key for key in official if key.startswith("input_layer.token_embedding.") and key in _OUR_NAME]
    expected |= {embeddings[0] if embeddings else "input_layer.token_embedding.weight"}
    if recurrent:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        places = {(match[2], match[3] or "") for match in recurrent.values()}
        expected |= {f"encoder.lstm.{name}_l{layer}{direction}" for name in names for layer, direction in places}
        require_parameters(
            official, {*expected, "encoder.linear.weight", "encoder.linear.bias"}, "a TimeDRL with LSTM"
        )
        return
    for index in range(max(num_layers, 1)):
        expected |= official_layer_names(f"encoder.attn_layers.{index}")
    what = f"a TimeDRL with {num_layers} Transformer layers"
    require_parameters(official, {*expected, "encoder.norm.weight", "encoder.norm.bias"}, what)


def _fields_of_shapes(
    official: Mapping[str, Tensor], num_layers: int, recurrent: Mapping[str, re.Match[str]]
) -> dict[str, Any]:
    convolution = official.get("input_layer.token_embedding.tokenConv.weight")
    positions = official.get(_POSITIONS)
    fields: dict[str, Any] = {
        "token_embedding": "linear" if convolution is None else "convolution",
        "position_embedding": "none" if positions is None else "learned" if positions.ndim == 2 else "fixed",
        "prediction_target": "raw",
        "cls_position": "first",
        "cls_shape": tuple(official["cls_token"].shape[1:]),
    }
    if recurrent:
        fields["encoder"] = "bilstm" if any(match[3] for match in recurrent.values()) else "lstm"
        fields["hidden_size"] = official["encoder.linear.bias"].shape[0]
        fields["num_hidden_layers"] = len({match[2] for match in recurrent.values()})
        fields["recurrent_hidden_size"] = official["encoder.lstm.weight_hh_l0"].shape[1]
    else:
        fields["hidden_size"] = official["encoder.norm.weight"].shape[0]
        fields["num_hidden_layers"] = num_layers
        fields["intermediate_size"] = official["encoder.attn_layers.0.conv1.weight"].shape[0]
    if convolution is not None:
        fields["token_kernel_size"] = convolution.shape[2]
    if fields["position_embedding"] == "learned" and positions is not None:
        fields["max_position_embeddings"] = positions.shape[0]
    return fields


def timedrl_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of TimeDRLConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, such as n_heads, patch_len, stride, enable_channel_independence.

    Returns:
        Fields.

    Raises:
        ConversionError: Two arguments contradict each other, or the encoder is not converted.
    """
    switched = {field: value for name, (field, value) in _SWITCHES.items() if hyperparameters.get(name)}
    plain = {name: value for name, value in hyperparameters.items() if name not in _SWITCHES}
    if "contrastive_weight" in switched:
        plain.pop("contrastive_weight", None)  # the official code leaves the loss out, whatever its weight
    fields = rename_hyperparameters(plain, _FIELDS_OF_ARGUMENTS, _TRAINING_ARGUMENTS, _VALUES_OF_ARGUMENTS)
    if fields.get("encoder") in _OTHER_LIBRARYS_ENCODERS:
        raise ConversionError(
            f"encoder_arch={fields['encoder']!r} is not converted: the official code takes its layers from another "
            "library, and ours are after the paper of the encoder. Train it here with encoder="
            f"{fields['encoder']!r}."
        )
    if fields.get("encoder") in ("lstm", "bilstm"):
        fields.pop("num_hidden_layers", None)  # the official LSTM has one layer, whatever n_layers says
    if {"base_d_model", "n_heads"} <= set(hyperparameters):
        fields.setdefault("hidden_size", hyperparameters["base_d_model"] * hyperparameters["n_heads"])
    return {**fields, **switched}


def complete_timedrl_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_timedrl_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config.

    Raises:
        ConversionError: A field is missing that neither tells, or they contradict each other.
    """
    required = {"patch_length": "patch_len", "patch_stride": "stride", "channel_mode": "enable_channel_independence"}
    if "recurrent_hidden_size" not in of_shapes:
        required["num_attention_heads"] = "n_heads"
    require_fields(given, required)
    fields = {**of_shapes, **given}
    rows, token_size = fields.pop("cls_shape")
    independent, patch_length = fields["channel_mode"] == "independent", fields["patch_length"]
    channels = rows if independent else token_size // patch_length
    if (independent and token_size != patch_length) or (not independent and (token_size % patch_length or rows != 1)):
        raise ConversionError(
            f"cls_token has {rows} rows of {token_size} values, which patches of {patch_length} timestamps with "
            f"channel_mode={fields['channel_mode']!r} do not make; correct patch_len or enable_channel_independence."
        )
    if fields.setdefault("num_input_channels", channels) != channels:
        raise ConversionError(
            f"num_input_channels={fields['num_input_channels']!r} was given, but the parameters have {channels}."
        )
    return fields


def convert_timedrl_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official layers of the pretext tasks and of linear evaluation into those of our models with heads.

    Args:
        state_dict: Official parameters; others than of these layers are left out.

    Returns:
        Parameters and buffers named as in TimeDRLForPreTraining and the models with a task's head.
    """
    ours = {}
    for key, value in state_dict.items():
        layer, _, kind = key.rpartition(".")
        if layer in _HEADS:
            ours[f"{_HEADS[layer]}.{kind}"] = value
        if layer == _LINEAR_EVALUATION:
            ours |= {f"{name}.{kind}": value for name in _LINEAR_LAYERS}
    return ours


def choose_timedrl_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Tell which of our models the layers after the encoder make.

    The layer of linear evaluation classifies where it reads one instance embedding, and predicts where it reads all
    patches of the context, of which there are at least two. Where the instance embedding is all patches, a
    prediction_length among the fields tells.

    Args:
        state_dict: Official parameters.
        fields: All fields of the config.

    Returns:
        "prediction", "classification", "pretraining" or "model", and the fields of its head.

    Raises:
        ConversionError: The layer's shape fits neither the patches of the context nor an embedding.
    """
    weight = state_dict.get(f"{_LINEAR_EVALUATION}.weight")
    if weight is None:
        layers, pretext = {key.rpartition(".")[0] for key in state_dict}, set(_HEADS)
        return ("pretraining" if layers >= pretext else "model"), {}
    num_outputs, num_inputs = weight.shape
    embeds_all_patches = fields.get("instance_embedding") == "all"
    if num_inputs == fields["hidden_size"] or (embeds_all_patches and "prediction_length" not in fields):
        return "classification", {"num_labels": num_outputs}
    return "prediction", {"prediction_length": _converted_prediction_length(num_outputs, num_inputs, fields)}


def _converted_prediction_length(num_outputs: int, num_inputs: int, fields: Mapping[str, Any]) -> int:
    require_fields(fields, {"context_length": "seq_len"})
    length, layout = fields["context_length"], PatchLayout(fields["patch_length"], fields["patch_stride"])
    needed = layout.num_patches(length) * fields["hidden_size"]
    channels = 1 if fields["channel_mode"] == "independent" else fields["num_input_channels"]
    if num_inputs != needed or num_outputs % channels:
        raise ConversionError(
            f"{_LINEAR_EVALUATION} maps {num_inputs} numbers to {num_outputs}, but the patches of context_length="
            f"{length} timestamps are {needed} numbers, and {channels} channels are predicted together; correct "
            "seq_len, patch_len or stride."
        )
    return num_outputs // channels


TimeDRLPreTrainedModel.converter = Converter(
    convert=convert_timedrl_state_dict,
    fields_of_hyperparameters=timedrl_fields_of_hyperparameters,
    hyperparameter_names={*_FIELDS_OF_ARGUMENTS, *_SWITCHES, *_TRAINING_ARGUMENTS},
    fields_of_shapes=(
        *("encoder", "hidden_size", "num_hidden_layers", "intermediate_size", "recurrent_hidden_size"),
        *("token_embedding", "token_kernel_size", "position_embedding", "max_position_embeddings"),
    ),
    complete=complete_timedrl_fields,
    heads=convert_timedrl_heads,
    choose_model=choose_timedrl_model,
)
