"""TimeDART: A Diffusion Autoregressive Transformer for Self-Supervised Time Series Representation (ICML 2025).

Wang et al., arXiv 2410.05711. Patches and the causal Transformer encoder -> PatchEncoder (backbones_timedart.py),
TimeDARTModel. The forward diffusion of every patch -> cosine_noise_schedule, linear_noise_schedule, noise_levels,
diffuse. The denoising patch decoder and its masks -> partial_mask (backbones_timedart.py), DenoisingPatchDecoder.
TimeDARTForPreTraining puts them together; the future is told by FlattenedPredictionHead (v1) or by the decoder, patch
by patch: CausalPredictionHead, and NoisePredictionHead as the official v2 does. The converter of official checkpoints
is at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .backbones_timedart import (
    DecoderMasks,
    DenoisingLayer,
    KeysAndValues,
    PatchEncoder,
    PatchTokens,
    RowLayout,
    after_start,
    causal_mask,
    itself_mask,
    partial_mask,
    visible_tokens,
    with_positions,
)
from .configuration_timedart import TimeDARTConfig
from .conversion_time_series import (
    ConversionError,
    Converter,
    FieldsAndParameters,
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
    TimeSeriesPredictionOutput,
    count_quantiles,
)
from .layers_attention import AttentionCache, AttentionProjection, begin_as_multihead_attention
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_normalization import (
    InstanceStatistics,
    denormalize_instances,
    instance_statistics,
    normalize_instances,
)
from .layers_patching import AlignedSeries, PatchLayout, align_series, take_context, whole_series
from .layers_pooling import pool_instance
from .losses_time_series import prediction_loss
from .modeling_time_series import TimeSeriesPreTrainedModel

LARGEST_BETA = 0.999
COSINE_OFFSET = 0.008
FIRST_LINEAR_BETA, LAST_LINEAR_BETA = 1e-4, 0.02
# Far beyond the numbers of the encoder's dropout layers; a layer of the decoder has those of its two attentions.
DECODER_SITE, DROPOUT_SITES_OF_A_DECODER_LAYER = 10_000, 6


def cosine_noise_schedule(num_steps: int) -> torch.Tensor:
    """Return beta of every diffusion step, whose signal falls like a squared cosine (Nichol and Dhariwal, ICML 2021).

    Args:
        num_steps: Number of diffusion steps.

    Returns:
        (num_steps,), float32.
    """
    times = torch.linspace(0, num_steps, num_steps + 1)
    levels = torch.cos((times / num_steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * torch.pi * 0.5) ** 2
    levels = levels / levels[0]
    return (1 - levels[1:] / levels[:-1]).clamp(0, LARGEST_BETA)


def linear_noise_schedule(num_steps: int) -> torch.Tensor:
    """Return beta of every diffusion step, growing evenly (Ho et al., NeurIPS 2020): (num_steps,), float32."""
    return torch.linspace(FIRST_LINEAR_BETA, LAST_LINEAR_BETA, num_steps)


def noise_levels(config: TimeDARTConfig) -> torch.Tensor:
    """Return the paper's gamma of every diffusion step, the product of 1 - beta up to it: (num_diffusion_steps,)."""
    schedule = cosine_noise_schedule if config.noise_schedule == "cosine" else linear_noise_schedule
    return (1 - schedule(config.num_diffusion_steps)).cumprod(0)


def diffuse(values: torch.Tensor, level: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Add noise: sqrt(gamma) x + sqrt(1 - gamma) noise, the paper's forward process.

    Args:
        values: Any shape.
        level: gamma, broadcastable to the same shape.
        noise: The same shape, standard normal.

    Returns:
        The same shape.
    """
    return level.sqrt() * values + (1 - level).sqrt() * noise


@dataclass(frozen=True)
class TimeDARTDraws:
    """The random choices of one step.

    Args:
        time_steps: Diffusion steps, int64: (batch_size, num_channels, num_patches); with joint channels (batch_size,
            length), one a timestamp.
        noise: Standard normal: (batch_size, num_channels, num_patches, patch_length); with joint channels (batch_size,
            length, num_channels).
        orders: (2, num_patches * (num_patches - 1) / 2), which pairs the decoder's attention to itself and to the
            encoder hides first, see partial_mask; None where mask_ratio is 0 or 1.
        start: First timestamp that is looked at, of series longer than the context.
        dropout_seed: Seed of all dropout of a step in training; None for torch's global generator.
    """

    time_steps: torch.Tensor
    noise: torch.Tensor
    orders: torch.Tensor | None = None
    start: int = 0
    dropout_seed: int | None = None

    def rows(self, start: int, stop: int) -> TimeDARTDraws:
        """Return the choices for some series of the batch."""
        return replace(self, time_steps=self.time_steps[start:stop], noise=self.noise[start:stop])


def draw_noise(
    config: TimeDARTConfig,
    shape: tuple[int, int, int],
    layout: PatchLayout,
    generator: torch.Generator | None = None,
) -> TimeDARTDraws:
    """Draw diffusion steps, noise, and what the decoder does not see.

    Args:
        config: Gives channel_mode, num_diffusion_steps and mask_ratio.
        shape: Number of series, timestamps and channels.
        layout: How the timestamps are cut into patches.
        generator: Source of randomness, on the CPU; None for torch's global one.

    Returns:
        The choices.
    """
    batch_size, length, num_channels = shape
    num_patches = layout.num_patches(length)
    noised = (batch_size, num_channels, num_patches) if config.channel_mode == "independent" else (batch_size, length)
    values = layout.patch_length if config.channel_mode == "independent" else num_channels
    orders, num_pairs = None, num_patches * (num_patches - 1) // 2
    if 0.0 < config.mask_ratio < 1.0:
        orders = torch.stack([torch.randperm(num_pairs, generator=generator) for _ in range(2)])
    return TimeDARTDraws(
        torch.randint(config.num_diffusion_steps, noised, generator=generator),
        torch.randn(*noised, values, generator=generator),
        orders,
    )


def draw_step(config: TimeDARTConfig, batch_size: int, length: int, generator: torch.Generator) -> TimeDARTDraws:
    """Draw a window of the context's length, the noise in it and the seed of dropout.

    Args:
        config: Gives context_length, num_input_channels and the noise's settings.
        batch_size: Number of series.
        length: Number of timestamps that they have.
        generator: Source of randomness, on the CPU.

    Returns:
        The choices.
    """
    start = int(torch.randint(max(length - config.context_length, 0) + 1, (), generator=generator))
    seed = int(torch.randint(2**62, (), generator=generator))
    looked_at = config.context_length if config.pretraining_head == "flatten" else min(length, config.context_length)
    draws = draw_noise(config, (batch_size, looked_at, config.num_input_channels), config.layout, generator)
    return replace(draws, start=start, dropout_seed=seed)


class DenoisingPatchDecoder(nn.Module):
    """From noised patches and what the encoder knows of the earlier ones to the clean patches.

    Args:
        config: Gives the widths and dropout probabilities.
        num_inputs: Number of numbers that the last layer reads.
        num_outputs: Number of numbers that it computes.
    """

    def __init__(self, config: TimeDARTConfig, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.config = config
        self.start_token = nn.Parameter(torch.randn(1, 1, config.hidden_size))
        self.dropout = SeededDropout(config.dropout, DECODER_SITE)
        sites = range(DECODER_SITE + 2, 2 * DECODER_SITE, DROPOUT_SITES_OF_A_DECODER_LAYER)
        self.layers = nn.ModuleList(DenoisingLayer(config, sites[index]) for index in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.projection = nn.Linear(num_inputs, num_outputs)
        self.head_dropout = SeededDropout(config.head_dropout, DECODER_SITE + 1)

    def masks(
        self, num_tokens: int, seen: torch.Tensor | None, draws: TimeDARTDraws, device: torch.device
    ) -> DecoderMasks:
        """Return what the tokens of the pretext task see.

        Args:
            num_tokens: Number of tokens.
            seen: (num_rows, num_tokens) bool, patches that there are; None for all.
            draws: Gives the order in which they are hidden.
            device: Where the tokens are.

        Returns:
            The masks of both attentions.
        """
        ratio = self.config.mask_ratio
        if ratio == 1.0:
            return DecoderMasks(only_itself=True)
        of_encoded = None if seen is None else F.pad(seen[:, :-1], (1, 0), value=True)  # its first token is the start
        masks = [
            causal_mask(num_tokens, device)
            if draws.orders is None
            else partial_mask(draws.orders[index].to(device), num_tokens, ratio)
            for index in range(2)
        ]
        return DecoderMasks(visible_tokens(masks[0], seen), visible_tokens(masks[1], of_encoded))

    def read(self, encoded: torch.Tensor) -> list[KeysAndValues]:
        """Project the encoder's tokens (num_rows, num_encoded, hidden_size) for every layer."""
        return [cast(DenoisingLayer, layer).cross_attention.project(encoded) for layer in self.layers]

    def decode(
        self,
        hidden: torch.Tensor,
        memory: list[KeysAndValues],
        masks: DecoderMasks,
        draws: DropoutDraws | None = None,
        cache: AttentionCache | None = None,
        first: int = 0,
    ) -> torch.Tensor:
        """Decode embedded patches.

        Args:
            hidden: (num_rows, num_tokens, hidden_size), without positions.
            memory: What `read` made of the encoder's tokens.
            masks: Who sees whom.
            draws: The random choices of dropout; None for random ones in training.
            cache: Keys and values of earlier tokens, where they come one by one.
            first: Place of the first token.

        Returns:
            (num_rows, num_tokens, hidden_size).
        """
        hidden = self.dropout(with_positions(hidden, first), draws)
        for layer, of_layer in zip(self.layers, memory, strict=True):
            hidden = layer(hidden, of_layer, masks, draws, cache)
        return self.norm(hidden)

    def project(self, decoded: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Return what the last layer computes of (..., num_inputs): (..., num_outputs)."""
        return self.head_dropout(self.projection(decoded), draws)


@dataclass
class TimeDARTForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: the mean squared error of the clean values, in the units of the input.
        reconstruction: Without gradient, in the units of the input: (batch_size, number of timestamps looked at,
            num_input_channels) of the flatten head; (batch_size, num_patches, patch_length, num_input_channels) of the
            causal one.
        noised_patches: (num_rows, num_patches, token_size), what the decoder saw of them, without gradient.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    noised_patches: torch.Tensor | None = None


class TimeDARTPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of TimeDART's models."""

    config: TimeDARTConfig
    config_class = TimeDARTConfig
    _supports_sdpa = _supports_attention_backend = True
    _no_split_modules = ["TransformerLayer", "DenoisingLayer"]  # noqa: RUF012 - as transformers declares it
    _keys_to_ignore_on_load_unexpected = [r"^(denoiser|head|classifier)\."]  # noqa: RUF012 - as above

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, DenoisingPatchDecoder):
            init.normal_(module.start_token)
            return
        super()._init_weights(module)
        if isinstance(module, AttentionProjection):
            begin_as_multihead_attention(module)


class TimeDARTModel(TimeDARTPreTrainedModel):
    """The encoder: an embedding of every patch, and their pooling."""

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__(config)
        self.encoder = PatchEncoder(config)
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
            output_hidden_states: Whether to return the embedded patches and every layer's output.
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            last_hidden_state: the patches' embeddings (batch_size, num_patches, hidden_size), with independent
            channels (batch_size, num_input_channels, num_patches, hidden_size); the first patch begins with the first
            observed timestamp. pooler_output: their pooling, with independent channels the mean of those of the
            channels with an observed value.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        series, _ = self.normalize(align_series(past_values, observed))
        hidden, tokens, states = self.encode_patches(series, output_hidden_states)
        output = TimeSeriesModelOutput(
            last_hidden_state=self.by_series(hidden),
            pooler_output=self.pool_channels(pool_instance(hidden, tokens.seen, self.config.pooling), tokens.seen),
            hidden_states=states,
        )
        return output if return_dict is not False else output.to_tuple()

    def normalize(self, raw: AlignedSeries) -> tuple[AlignedSeries, InstanceStatistics]:
        """Normalise every channel where the config says so; what is missing becomes 0."""
        if self.config.instance_normalization:
            statistics = instance_statistics(raw.values, raw.observed)
        else:
            zeros = raw.values.new_zeros(raw.values.shape[0], 1, raw.values.shape[-1], dtype=torch.float32)
            statistics = InstanceStatistics(zeros, zeros + 1)
        return replace(raw, values=normalize_instances(raw.values, raw.observed, statistics)), statistics

    def encode_patches(
        self, series: AlignedSeries, output_hidden_states: bool | None = None
    ) -> tuple[torch.Tensor, PatchTokens, tuple[torch.Tensor, ...] | None]:
        """Encode normalised series as `causal_attention` says.

        Returns:
            The patches' embeddings (num_rows, num_patches, hidden_size), the patches, and the hidden states by series
            or None.
        """
        wanted = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        states: list[torch.Tensor] | None = [] if wanted else None
        tokens = self.encoder.layout.cut(series)
        hidden = self.encoder(tokens, self.config.causal_attention, states=states)
        return hidden, tokens, None if states is None else tuple(self.by_series(state) for state in states)

    def by_series(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the rows of independent channels an axis of channels."""
        if self.config.channel_mode == "joint":
            return rows
        return rows.unflatten(0, (-1, self.config.num_input_channels))

    def pool_channels(self, rows: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Take the mean over independent channels with an observed value.

        Args:
            rows: (num_rows, ..., hidden_size).
            seen: (num_rows, num_patches) bool, see PatchTokens.

        Returns:
            (batch_size, ..., hidden_size).
        """
        values = self.by_series(rows)
        if self.config.channel_mode == "joint":
            return values
        counted = self.by_series(seen.any(1)).view(*values.shape[:2], *(1,) * (values.ndim - 2))
        counted = counted | ~counted.any(1, keepdim=True)  # of a series without any value: all channels
        return (values * counted).sum(1) / counted.sum(1)

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
        series, _ = self.normalize(align_series(past_values, observed))
        hidden, tokens, _ = self.encode_patches(series)
        patches = self.pool_channels(hidden, tokens.seen)
        return self.config.layout.to_timestamps(patches, series), self.pooled_timestamps(observed.any(-1))

    def embed_instances(self, past_values: torch.Tensor, **method_arguments: Any) -> torch.Tensor:
        """Embed every series as its pooled patches; see TimeSeriesPreTrainedModel.embed_instances."""
        return self(past_values, **method_arguments).pooler_output


def noised_patches(
    config: TimeDARTConfig, layout: RowLayout, series: AlignedSeries, draws: TimeDARTDraws
) -> torch.Tensor:
    """Noise every patch by itself, with joint channels every timestamp.

    Args:
        config: Gives the noise schedule.
        layout: How series are cut.
        series: Values that are 0 where nothing is observed.
        draws: Diffusion steps and noise.

    Returns:
        (num_rows, num_patches, token_size), 0 where nothing is observed.
    """
    device = series.values.device
    levels = noise_levels(config).to(device)[draws.time_steps.to(device)].unsqueeze(-1)
    noise = draws.noise.to(device)
    if layout.is_joint:
        noised = torch.where(series.observed, diffuse(series.values, levels, noise), 0.0)
        return layout.cut(replace(series, values=noised)).patches
    tokens = layout.cut(series)
    noised = diffuse(tokens.patches, levels.flatten(0, 1), noise.flatten(0, 1))
    return torch.where(tokens.observed, noised, 0.0)


class Denoised(NamedTuple):
    """What lies between the patches and their reconstruction, by rows.

    Args:
        noised: (num_rows, num_patches, token_size).
        encoded: (num_rows, num_patches, hidden_size) of the encoder.
        decoded: The same shape, of the decoder.
    """

    noised: torch.Tensor
    encoded: torch.Tensor
    decoded: torch.Tensor


class TimeDARTForPreTraining(TimeDARTPreTrainedModel):
    """The pretext task: every patch is told from a noised version of it and from the encoding of the earlier patches.

    With several processes noise, masks and dropout are drawn for the global batch, and the mean of the processes'
    losses is the loss of one process on the same global batch, with its gradient.
    """

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__(config)
        self.model = TimeDARTModel(config)
        if config.pretraining_head == "causal":
            sizes = (config.hidden_size, config.token_size)
        else:
            inputs = config.num_context_patches * config.hidden_size
            sizes = (inputs, config.context_length * config.channels_of_a_row)
        self.denoiser = DenoisingPatchDecoder(config, *sizes)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        draws: TimeDARTDraws | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> TimeDARTForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. Of longer series than the
                context a random window is taken.
            past_observed_mask: The same shape, True = observed, or None.
            draws: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a TimeDARTForPreTrainingOutput instead of a tuple.

        Returns:
            The loss, the reconstruction and what it was made of.
        """
        config, batch = self.config, GlobalBatch.of(self)
        observed = self.observed_values(past_values, past_observed_mask)
        if draws is None:
            length = past_values.shape[1]
            draws = batch.draw(lambda count, source: draw_step(config, count, length, source), past_values, generator)
        window = slice(draws.start, draws.start + config.context_length)
        values, observed = past_values[:, window], observed[:, window]
        beyond = config.context_length - values.shape[1]
        if config.pretraining_head == "flatten" and beyond > 0:
            values, observed = (F.pad(one, (0, 0, 0, beyond)) for one in (values, observed))
        dropout = None
        if self.training and draws.dropout_seed is not None:
            dropout = DropoutDraws(draws.dropout_seed, 1, batch.rank, batch.num_processes)
        raw = whole_series(values, observed)
        series, statistics = self.model.normalize(raw)
        found = self.denoise(series, draws, dropout)
        reconstruction, target, counted = self.reconstruct(found.decoded, raw, statistics, dropout)
        errors = torch.where(counted, reconstruction - torch.where(counted, target, 0.0).float(), 0.0).square()
        output = TimeDARTForPreTrainingOutput(
            loss=batch.mean(errors, counted),
            reconstruction=reconstruction.detach(),
            noised_patches=found.noised.detach(),
        )
        return output if return_dict is not False else output.to_tuple()

    def denoise(self, series: AlignedSeries, draws: TimeDARTDraws, dropout: DropoutDraws | None = None) -> Denoised:
        """Run encoder and decoder on normalised series.

        Args:
            series: What is looked at.
            draws: The random choices.
            dropout: Those of dropout; None for random ones in training.

        Returns:
            Everything in between.
        """
        encoder, decoder = self.model.encoder, self.denoiser
        tokens = encoder.layout.cut(series)
        noised = noised_patches(self.config, encoder.layout, series, draws)
        encoded = encoder(tokens, True, decoder.start_token, dropout)
        masks = decoder.masks(noised.shape[1], tokens.all_or_seen, draws, noised.device)
        decoded = decoder.decode(encoder.embed(noised), decoder.read(encoded), masks, dropout)
        return Denoised(noised, encoded, decoded)

    def reconstruct(
        self,
        decoded: torch.Tensor,
        raw: AlignedSeries,
        statistics: InstanceStatistics,
        draws: DropoutDraws | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the reconstruction in the units of the input, what it should be, and which values count.

        All three have one shape: (batch_size, length, num_input_channels) for the flatten head, (batch_size,
        num_patches, patch_length, num_input_channels) for the causal one.
        """
        layout, num_channels = self.model.encoder.layout, self.config.num_input_channels
        if self.config.pretraining_head == "flatten":
            if layout.is_joint:  # the dropout of the official classification model is before the layer
                flat = self.denoiser.projection(self.denoiser.head_dropout(decoded.flatten(1), draws))
                window = flat.unflatten(1, (-1, num_channels))
            else:
                flat = self.denoiser.project(decoded.flatten(1), draws)
                window = flat.unflatten(0, (-1, num_channels)).transpose(1, 2)
            return denormalize_instances(window, statistics), raw.values, raw.observed
        patches = layout.patches(self.denoiser.project(decoded, draws), num_channels)
        of_patches = InstanceStatistics(*(one.unsqueeze(2) for one in statistics))
        places = layout.layout.places(raw.length, raw.values.shape[1]).unsqueeze(-1)
        counted = (places >= 0) & (places < raw.values.shape[1]) & layout.layout.cut(raw.observed, raw.length)
        target = layout.layout.cut(raw.values, raw.length)
        return denormalize_instances(patches, of_patches), target, counted


class TimeDARTForTimeSeriesClassification(GenericForTimeSeriesClassification, TimeDARTPreTrainedModel):
    """The encoder with class scores on the pooled patches.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__(config)
        self.model = TimeDARTModel(config)
        self.classifier = ClassificationHead(config)
        self.post_init()


class ScaledPredictionHead(nn.Module):
    """A head that predicts the last channels on the scale of the normalised context.

    Args:
        config: Gives the channels, the lengths, quantiles and head_dropout.
    """

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__()
        self.config = config
        self.num_channels = config.num_output_channels or config.num_input_channels
        self.is_joint = config.channel_mode == "joint"
        self.channels_of_a_row = self.num_channels if self.is_joint else 1
        self.quantiles = config.quantiles

    def finish(
        self,
        normalized: torch.Tensor,
        statistics: InstanceStatistics,
        future_values: torch.Tensor | None,
        future_observed_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return the loss or None, and the prediction in the units of the series.

        Args:
            normalized: (batch_size, prediction_length, num_output_channels), with quantiles a last axis of them, which
                are sorted.
            statistics: Of the predicted channels.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.
        """
        if self.quantiles is not None:
            normalized, statistics = normalized.sort(-1).values, statistics.of_quantiles()
        prediction = denormalize_instances(normalized, statistics).to(normalized.dtype)
        return prediction_loss(prediction, future_values, future_observed_mask, self.quantiles), prediction


class FlattenedPredictionHead(ScaledPredictionHead):
    """A linear layer from all patches of the context to the future; with independent channels one layer for all."""

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__(config)
        outputs = config.prediction_length * self.channels_of_a_row * count_quantiles(self.quantiles)
        self.projection = nn.Linear(config.num_context_patches * config.hidden_size, outputs)
        self.dropout = nn.Dropout(config.head_dropout)

    def forward(
        self,
        patches: torch.Tensor,
        seen: torch.Tensor,
        mean: torch.Tensor,
        deviation: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict.

        Args:
            patches: (batch_size, num_context_patches, hidden_size), with independent channels (batch_size,
                num_input_channels, num_context_patches, hidden_size).
            seen: The same shape without the last axis, bool; zeros stand for the others.
            mean: (batch_size, 1, num_input_channels) of the context.
            deviation: The same shape.
            future_values: See `finish`.
            future_observed_mask: See `finish`.

        Returns:
            See `finish`.
        """
        flat = (patches * seen.unsqueeze(-1)).flatten(-2)
        flat = self.dropout(self.projection(flat if self.is_joint else flat[:, -self.num_channels :]))
        normalized = flat.unflatten(-1, (-1, self.channels_of_a_row, count_quantiles(self.quantiles)))
        normalized = normalized if self.is_joint else normalized.squeeze(3).transpose(1, 2)
        normalized = normalized if self.quantiles is not None else normalized.squeeze(-1)
        statistics = InstanceStatistics(mean, deviation).channels(slice(-self.num_channels, None))
        return self.finish(normalized, statistics, future_values, future_observed_mask)


class CausalPredictionHead(ScaledPredictionHead):
    """The denoising decoder goes on from the start token, patch by patch, and sees all of the encoded context.

    In training it sees noised versions of the true earlier patches; else those that it has predicted.
    """

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__(config)
        outputs = config.patch_length * self.channels_of_a_row * count_quantiles(self.quantiles)
        self.denoiser = DenoisingPatchDecoder(config, config.hidden_size, outputs)
        self.layout = RowLayout(PatchLayout(config.patch_length, config.patch_length, "repeat"), self.is_joint)

    @property
    def num_patches(self) -> int:
        """Number of patches of the future."""
        return self.layout.layout.num_patches(self.config.prediction_length)

    def forward(
        self,
        patches: torch.Tensor,
        seen: torch.Tensor,
        mean: torch.Tensor,
        deviation: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
        encoder: PatchEncoder | None = None,
        draws: TimeDARTDraws | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict.

        Args:
            patches: As in FlattenedPredictionHead.
            seen: As there.
            mean: As there.
            deviation: As there.
            future_values: See `finish`; in training also what the decoder sees noised.
            future_observed_mask: See `finish`.
            encoder: The model's, which embeds patches.
            draws: The noise of the future in training; None to draw it.

        Returns:
            See `finish`.
        """
        assert encoder is not None, "the model gives its encoder"
        statistics = InstanceStatistics(mean, deviation).channels(slice(-self.num_channels, None))
        if not self.is_joint:
            patches, seen = (one[:, -self.num_channels :].flatten(0, 1) for one in (patches, seen))
        of_memory = visible_tokens(None, seen)
        if self.training and future_values is not None:
            future = self._future(future_values, future_observed_mask, statistics)
            draws = self._draws(future, draws)
            predicted = self.follow(future, patches, DecoderMasks(of_memory=of_memory), encoder, draws)
        else:
            predicted = self.generate(patches, DecoderMasks(of_memory=of_memory), encoder)
        return self.finish(self.by_timestamps(predicted), statistics, future_values, future_observed_mask)

    def _future(
        self, values: torch.Tensor, mask: torch.Tensor | None, statistics: InstanceStatistics
    ) -> AlignedSeries:
        """Return the future on the scale of the context, 0 where it is missing."""
        observed = ~values.isnan() if mask is None else ~values.isnan() & mask.bool()
        return whole_series(normalize_instances(values, observed, statistics), observed)

    def _draws(self, future: AlignedSeries, draws: TimeDARTDraws | None) -> TimeDARTDraws:
        if draws is not None:
            return draws
        _, length, num_channels = future.values.shape
        return GlobalBatch.of(self).draw(
            lambda count, source: draw_noise(self.config, (count, length, num_channels), self.layout.layout, source),
            future.values,
        )

    def follow(
        self,
        future: AlignedSeries,
        memory: torch.Tensor,
        masks: DecoderMasks,
        encoder: PatchEncoder,
        draws: TimeDARTDraws,
    ) -> torch.Tensor:
        """Predict every patch of the future from noised versions of the true ones before it.

        Returns:
            (num_rows, num_patches, token_size * num_quantiles).
        """
        hidden = after_start(
            encoder.embed(noised_patches(self.config, self.layout, future, draws)), self.denoiser.start_token
        )
        of_itself = masks.of_itself
        if of_itself is None:
            of_itself = visible_tokens(causal_mask(hidden.shape[1], hidden.device), None)
        masks = masks._replace(of_itself=of_itself)
        return self.denoiser.project(self.denoiser.decode(hidden, self.denoiser.read(memory), masks))

    def generate(self, memory: torch.Tensor, masks: DecoderMasks, encoder: PatchEncoder) -> torch.Tensor:
        """Predict every patch from those predicted before it; the shape of `follow`.

        What earlier tokens were attended to with is kept, so that the cost of a patch grows with the number of tokens,
        not with its square.
        """
        cache, read = AttentionCache(self.num_patches), self.denoiser.read(memory)
        hidden = self.denoiser.start_token.to(memory.dtype).expand(memory.shape[0], -1, -1)
        predicted: list[torch.Tensor] = []
        for index in range(self.num_patches):
            decoded = self.denoiser.decode(hidden, read, masks, cache=cache, first=index)
            predicted.append(self.denoiser.project(decoded))
            hidden = encoder.embed(self.point(predicted[-1]))
        return torch.cat(predicted, dim=1)

    def point(self, predicted: torch.Tensor) -> torch.Tensor:
        """Return the point forecast, of quantiles the median: (num_rows, num_patches, token_size)."""
        if self.quantiles is None:
            return predicted
        of_values = predicted.unflatten(-1, (-1, len(self.quantiles))).sort(-1).values
        return of_values[..., self.quantiles.index(0.5)]

    def by_timestamps(self, predicted: torch.Tensor) -> torch.Tensor:
        """Turn rows of patches into (batch_size, prediction_length, num_channels), with quantiles a last axis."""
        if self.quantiles is not None:
            predicted = predicted.unflatten(-1, (-1, len(self.quantiles)))
        return self.layout.patches(predicted, self.num_channels).flatten(1, 2)[:, : self.config.prediction_length]


class NoisePredictionHead(CausalPredictionHead):
    """The forecast of the official v2, with what is inconsistent in it; see TimeDARTConfig.generation.

    It reads the normalised context itself, because it encodes it anew for every patch.
    """

    def forward(
        self,
        context: torch.Tensor,
        observed: torch.Tensor,
        mean: torch.Tensor,
        deviation: torch.Tensor,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
        encoder: PatchEncoder | None = None,
        draws: TimeDARTDraws | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Predict.

        Args:
            context: (batch_size, context_length, num_input_channels), normalised, 0 where missing.
            observed: The same shape, bool.
            mean: As in FlattenedPredictionHead.
            deviation: As there.
            future_values: See `finish`; in training also what the decoder sees noised.
            future_observed_mask: See `finish`.
            encoder: The model's.
            draws: In training the noise of the future, None to draw it; else its `noise` is that of the generated
                patches (num_patches, num_rows, 1, token_size), and None stands for zeros, its mean.

        Returns:
            See `finish`.
        """
        assert encoder is not None, "the model gives its encoder"
        predicted_channels = slice(-self.num_channels, None)
        statistics = InstanceStatistics(mean, deviation).channels(predicted_channels)
        series = whole_series(context[..., predicted_channels], observed[..., predicted_channels])
        if not self.training or future_values is None:
            noise = None if draws is None else draws.noise
            normalized = self.generate_from_noise(series, statistics, encoder, noise)
            return self.finish(normalized, statistics, future_values, future_observed_mask)
        tokens = encoder.layout.cut(series)
        memory = encoder(tokens, True, self.denoiser.start_token)
        ones = torch.ones_like(statistics.mean)
        future = self._future(future_values, future_observed_mask, InstanceStatistics(ones - 1, ones))
        draws = self._draws(future, draws)
        of_itself = self.denoiser.masks(self.num_patches, None, draws, memory.device)
        if of_itself.only_itself:
            of_itself = DecoderMasks(itself_mask(self.num_patches, memory.device)[None, None])
        seen = tokens.all_or_seen
        seen = None if seen is None else F.pad(seen[:, :-1], (1, 0), value=True)
        masks = DecoderMasks(of_itself.of_itself, visible_tokens(None, seen))
        normalized = self.by_timestamps(self.follow(future, memory, masks, encoder, draws))
        return self.finish(normalized, statistics, future_values, future_observed_mask)

    def generate_from_noise(
        self,
        series: AlignedSeries,
        statistics: InstanceStatistics,
        encoder: PatchEncoder,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Denoise one patch after the other and move the window on.

        Args:
            series: The normalised context of the predicted channels.
            statistics: Of these channels; the forecast gets into the window by them.
            encoder: The model's.
            noise: (num_patches, num_rows, 1, token_size); None for zeros.

        Returns:
            (batch_size, prediction_length, num_channels), with quantiles a last axis, on the scale of the context.
        """
        length, predicted = self.config.patch_length, []
        for index in range(self.num_patches):
            tokens = encoder.layout.cut(series)
            memory = encoder(tokens, True)
            shape = (memory.shape[0], 1, encoder.embedding.in_features)
            drawn = memory.new_zeros(shape) if noise is None else noise[index].to(memory)
            masks = DecoderMasks(of_memory=visible_tokens(None, tokens.all_or_seen))
            decoded = self.denoiser.decode(encoder.embed(drawn), self.denoiser.read(memory), masks)
            patch = self.denoiser.project(decoded)
            predicted.append(patch)
            values = self.layout.patches(self.point(patch), self.num_channels).flatten(1, 2)
            values = denormalize_instances(values, statistics).to(series.values.dtype)
            window = torch.cat((series.values[:, length:], values), dim=1)
            observed = torch.cat((series.observed[:, length:], torch.ones_like(values, dtype=torch.bool)), dim=1)
            series = whole_series(window, observed)
        rows = torch.cat(predicted, dim=1)
        if self.quantiles is not None:
            rows = rows.unflatten(-1, (-1, len(self.quantiles)))
        return self.layout.patches(rows, self.num_channels).flatten(1, 2)[:, -self.config.prediction_length :]


class TimeDARTForTimeSeriesPrediction(GenericForTimeSeriesPrediction, TimeDARTPreTrainedModel):
    """The encoder with a prediction of the future from the last context_length timestamps.

    The last observed timestamp of a series is the context's last one; what a shorter series lacks is missing.

    Args:
        config: Configuration; prediction_head chooses the head, prediction_length and num_output_channels (the last
            channels) give the future's sizes.
    """

    def __init__(self, config: TimeDARTConfig) -> None:
        super().__init__(config)
        self.model = TimeDARTModel(config)
        if config.prediction_head == "flatten":
            self.head: nn.Module = FlattenedPredictionHead(config)
        else:
            head_class = CausalPredictionHead if config.generation == "start_token" else NoisePredictionHead
            self.head = head_class(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model; of a pre-training the causal head keeps the decoder. See TimeSeriesPreTrainedModel."""
        kwargs["key_mapping"] = {r"^denoiser\.": "head.denoiser.", **(kwargs.get("key_mapping") or {})}
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Encode the context; see GenericWithHead.compute_head_inputs.

        Returns:
            patches and seen, see FlattenedPredictionHead, or context and observed, see NoisePredictionHead; mean and
            deviation (batch_size, 1, num_input_channels) of the context.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=True)
        series, statistics = self.model.normalize(whole_series(values, observed))
        reads_context = self.config.prediction_head == "causal" and self.config.generation == "noise"
        if reads_context and not output_hidden_states:
            inputs = {"context": series.values, "observed": observed}
            return EncodedForHead({**inputs, **statistics._asdict()})
        hidden, tokens, states = self.model.encode_patches(series, output_hidden_states)
        if reads_context:
            return EncodedForHead({"context": series.values, "observed": observed, **statistics._asdict()}, states)
        inputs = {"patches": self.model.by_series(hidden), "seen": self.model.by_series(tokens.seen)}
        return EncodedForHead({**inputs, **statistics._asdict()}, states)

    def forward(
        self,
        past_values: torch.Tensor | None = None,
        past_observed_mask: torch.Tensor | None = None,
        future_values: torch.Tensor | None = None,
        future_observed_mask: torch.Tensor | None = None,
        head_inputs: dict[str, torch.Tensor] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        draws: TimeDARTDraws | None = None,
    ) -> TimeSeriesPredictionOutput | tuple[torch.Tensor, ...]:
        """Predict the future; see GenericForTimeSeriesPrediction.forward.

        With the causal head, the future is told from noised versions of itself in training alone; a loss in evaluation
        is that of what was generated without it.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            future_values: (batch_size, prediction_length, num_output_channels), NaN = missing, or None.
            future_observed_mask: The same shape, True = observed, or None.
            head_inputs: What `compute_head_inputs` returned for the series, in place of past_values.
            output_hidden_states: Whether to return the encoder's hidden states.
            return_dict: Whether to return a TimeSeriesPredictionOutput instead of a tuple.
            draws: The random choices of the causal head; None to draw them.

        Returns:
            Loss (with future_values) and prediction_outputs, and with quantiles quantile_outputs.
        """
        encoded = self._encoded(head_inputs, past_values, past_observed_mask, output_hidden_states)
        if self.config.prediction_head == "causal":
            further = cast(Any, {"encoder": self.model.encoder, "draws": draws})
            encoded = encoded._replace(head_inputs={**encoded.head_inputs, **further})
        return self._forecast(encoded, future_values, future_observed_mask, return_dict)


# The converter of official checkpoints (github.com/Melmaphother/TimeDART), of all its models.

_FIELDS_OF_ARGUMENTS = {
    "enc_in": "num_input_channels",
    "input_len": "context_length",
    "pred_len": "prediction_length",
    "num_classes": "num_labels",
    "patch_len": "patch_length",
    "stride": "patch_stride",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "e_layers": "num_hidden_layers",
    "d_layers": "num_decoder_layers",
    "d_ff": "intermediate_size",
    "dropout": "dropout",
    "head_dropout": "head_dropout",
    "scheduler": "noise_schedule",
    "time_steps": "num_diffusion_steps",
    "mask_ratio": "mask_ratio",
    "use_norm": "instance_normalization",
}
_VALUES_OF_ARGUMENTS: dict[str, dict[Any, Any]] = {"use_norm": {0: False, 1: True}}
# Of the data, the optimiser and the run; the model is the same whatever they are.
_TRAINING_ARGUMENTS = frozenset(
    {"is_training", "model_id", "data", "root_path", "data_path", "target", "freq", "seq_len", "num_workers", "itr"}
    | {"checkpoints", "pretrain_checkpoints", "transfer_checkpoints", "load_checkpoints", "des", "loss", "lradj"}
    | {"train_epochs", "batch_size", "patience", "learning_rate", "pct_start", "lr_decay", "use_amp", "seed"}
    | {"use_gpu", "gpu", "use_multi_gpu", "devices", "device_ids", "device"}
)
# Of other models of the code, or read nowhere.
_UNREAD_ARGUMENTS = frozenset(
    {"label_len", "seasonal_patterns", "top_k", "num_kernels", "dec_in", "moving_avg", "factor", "distil"}
    | {"fc_dropout", "embed", "activation", "output_attention", "individual", "llm_path"}
    | {"lm", "positive_nums", "rbtp", "temperature", "masked_rule", "mask_rate"}
)
_CHECKED_ARGUMENTS = frozenset({"model", "backbone", "task_name", "downstream_task", "features", "c_out"})
_CHECKED_ARGUMENTS |= {"select_channels"}
_MODELS = ("TimeDART", "TimeDART_v2", "v1", "v1cls", "v2")

_OF_A_LAYER = {
    "encoder": {"ff.0": "expansion", "ff.3": "contraction", "norm1": "attention_norm", "norm2": "output_norm"},
    "denoising_patch_decoder": {
        "ff.0": "expansion",
        "ff.3": "contraction",
        **{f"norm{index + 1}": f"norms.{index}" for index in range(3)},
    },
}
_ATTENTIONS_OF_A_LAYER = {
    "encoder": {"attention": "attention"},
    "denoising_patch_decoder": {"self_attention": "self_attention", "encoder_attention": "cross_attention"},
}
_PLACES = {"encoder": "encoder.transformer", "denoising_patch_decoder": "denoiser"}
_LAYER = re.compile(r"(encoder|denoising_patch_decoder)\.layers\.(\d+)\.(.+)")
# In every block, in the state dict, and never called.
_UNUSED = re.compile(r"positional_encoding\..*|encoder\.layers\.\d+\.conv[12]\.(weight|bias)|add_sos_token.*")
_HEADS = ("sos_token", "projection.", "head.", "denoising_patch_decoder.")


def _our_layer_names(part: str, index: int, our_prefix: str) -> dict[str, str]:
    """Return the official names of one layer's parameters, with ours."""
    theirs, ours = f"{part}.layers.{index}", f"{our_prefix}.layers.{index}"
    names = {
        f"{theirs}.{layer}.{kind}": f"{ours}.{our_layer}.{kind}"
        for layer, our_layer in _OF_A_LAYER[part].items()
        for kind in ("weight", "bias")
    }
    for attention, our_attention in _ATTENTIONS_OF_A_LAYER[part].items():
        for kind in ("weight", "bias"):
            names[f"{theirs}.{attention}.in_proj_{kind}"] = f"{ours}.{our_attention}.input_projection.{kind}"
            names[f"{theirs}.{attention}.out_proj.{kind}"] = f"{ours}.{our_attention}.output_projection.{kind}"
    return names


def _num_layers(state_dict: Mapping[str, Tensor], part: str) -> int:
    return len({match[2] for key in state_dict if (match := _LAYER.fullmatch(key)) and match[1] == part})


def convert_timedart_state_dict(state_dict: Mapping[str, Tensor]) -> FieldsAndParameters:
    """Turn an official state dict into that of our encoder.

    Args:
        state_dict: Of any official model with the Transformer; the layers after the encoder may be there.

    Returns:
        Fields for TimeDARTConfig, with what the official code does otherwise; and the parameters of TimeDARTModel.

    Raises:
        ConversionError: Parameters are missing or unknown.
    """
    official = {
        key: value for key, value in state_dict.items() if not _UNUSED.fullmatch(key) and not key.startswith(_HEADS)
    }
    is_joint = "enc_embedding.conv.weight" in official
    embedding = "enc_embedding.conv" if is_joint else "enc_embedding.patch_embedding"
    num_layers = _num_layers(official, "encoder")
    names = {f"{embedding}.{kind}": f"encoder.embedding.{kind}" for kind in ("weight", "bias")}
    names |= {f"encoder.norm.{kind}": f"encoder.transformer.norm.{kind}" for kind in ("weight", "bias")}
    for index in range(max(num_layers, 1)):
        names |= _our_layer_names("encoder", index, "encoder.transformer")
    require_parameters(official, names, f"a TimeDART with {num_layers} Transformer layers")
    ours = {names[key]: value for key, value in official.items()}
    ours["encoder.embedding.weight"] = ours["encoder.embedding.weight"].flatten(1)  # of a convolution, too
    return _fields_of_shapes(state_dict, is_joint, num_layers), ours


def _fields_of_shapes(state_dict: Mapping[str, Tensor], is_joint: bool, num_layers: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "channel_mode": "joint" if is_joint else "independent",
        "patch_rest": "zeros" if is_joint else "drop",
        "causal_attention": False,
        "pretraining_head": "flatten",
        "prediction_head": "flatten",
        "hidden_size": state_dict["encoder.norm.weight"].shape[0],
        "intermediate_size": state_dict["encoder.layers.0.ff.0.weight"].shape[0],
        "num_hidden_layers": num_layers,
    }
    if is_joint:
        _, fields["num_input_channels"], fields["patch_length"] = state_dict["enc_embedding.conv.weight"].shape
        fields["instance_normalization"] = False
    else:
        fields["patch_length"] = state_dict["enc_embedding.patch_embedding.weight"].shape[1]
    num_decoder_layers = _num_layers(state_dict, "denoising_patch_decoder")
    if num_decoder_layers:
        fields["num_decoder_layers"] = num_decoder_layers
    projection = state_dict.get("projection.forecast_head.weight")
    if projection is not None and projection.shape[1] == fields["hidden_size"] and not is_joint:
        is_causal = projection.shape[0] == fields["patch_length"]
        if is_causal:
            fields |= {"pretraining_head": "causal", "prediction_head": "causal", "generation": "noise"}
            fields["causal_attention"] = True
    return fields


def convert_timedart_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official layers after the encoder into those of our models with heads.

    Args:
        state_dict: Official parameters; others than of these layers are left out.

    Returns:
        Parameters named as in TimeDARTForPreTraining (denoiser) and in the models with a task's head, which has the
        decoder too where it is causal.
    """
    names = {"sos_token": "denoiser.start_token"}
    for kind in ("weight", "bias"):
        names[f"denoising_patch_decoder.norm.{kind}"] = f"denoiser.norm.{kind}"
        names[f"projection.forecast_head.{kind}"] = f"denoiser.projection.{kind}"
        names[f"head.forecast_head.{kind}"] = f"head.projection.{kind}"
        names[f"head.fc.{kind}"] = f"classifier.projection.{kind}"
    for index in range(_num_layers(state_dict, "denoising_patch_decoder")):
        names |= _our_layer_names("denoising_patch_decoder", index, "denoiser")
    ours = {names[key]: value for key, value in state_dict.items() if key in names}
    return ours | {f"head.{name}": value for name, value in ours.items() if name.startswith("denoiser.")}


def choose_timedart_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Tell which of our models the layers after the encoder make.

    The official v2 has the same layers in pre-training and in forecasting: a prediction_length among the fields tells.

    Args:
        state_dict: Official parameters.
        fields: All fields of the config.

    Returns:
        "prediction", "classification", "pretraining" or "model", and the fields of its head.

    Raises:
        ConversionError: There is a layer that forecasts, and nothing tells the number of channels, which any will do.
    """
    if "head.fc.weight" in state_dict:
        return "classification", {"num_labels": state_dict["head.fc.weight"].shape[0]}
    if "head.forecast_head.weight" in state_dict:
        require_fields(fields, {"num_input_channels": "enc_in"})
        return "prediction", {"prediction_length": state_dict["head.forecast_head.weight"].shape[0]}
    if "projection.forecast_head.weight" not in state_dict:
        return "model", {}
    require_fields(fields, {"num_input_channels": "enc_in"})
    return "prediction" if fields[
        "prediction_head"
    ] == "causal" and "prediction_length" in fields else "pretraining", {}


def timedart_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of TimeDARTConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, such as input_len, patch_len, n_heads, scheduler.

    Returns:
        Fields.

    Raises:
        ConversionError: Two arguments contradict each other, or one is not supported.
    """
    given = dict(hyperparameters)
    _refuse_what_is_not_converted(given)
    is_pretraining = given.get("task_name") == "pretrain"
    is_classification = given.get("model") == "v1cls" or given.get("downstream_task") == "classification"
    if is_classification:
        given.pop("use_norm", None)  # the classification model does not read it
    if is_pretraining or is_classification:
        given.pop("pred_len", None)
    ignored = _TRAINING_ARGUMENTS | _UNREAD_ARGUMENTS | _CHECKED_ARGUMENTS
    fields = rename_hyperparameters(given, _FIELDS_OF_ARGUMENTS, ignored, _VALUES_OF_ARGUMENTS)
    if "dropout" in fields:  # one probability serves both there
        fields.setdefault("attention_dropout", fields["dropout"])
    if "head_dropout" in fields:
        fields.setdefault("classifier_dropout", fields["head_dropout"])
    return fields


def _refuse_what_is_not_converted(given: Mapping[str, Any]) -> None:
    model, backbone = given.get("model") or "TimeDART", given.get("backbone") or "Transformer"
    if model not in _MODELS:
        raise ConversionError(
            f"model={model!r} is another method of the official code; there are {', '.join(_MODELS)}."
        )
    if backbone != "Transformer":
        raise ConversionError(
            f"backbone={backbone!r} is not converted: ours has the Transformer alone, not a language model."
        )
    if given.get("scheduler") not in (None, "cosine", "linear"):
        raise ConversionError(f"scheduler={given['scheduler']!r} is unknown; there are cosine and linear.")
    if given.get("features", "M") not in ("M", "S"):
        raise ConversionError(
            f"features={given['features']!r} trains on some channels' errors, and the model is the same: leave it out."
        )
    if given.get("select_channels", 1) != 1:
        raise ConversionError(
            f"select_channels={given['select_channels']!r} trains every step on some of the channels, and ours sees "
            "all. It does not shape the model: leave it out to convert the parameters."
        )
    reads_all = given.get("model") == "v1cls" or given.get("downstream_task") == "classification"
    if reads_all and given.get("c_out", given.get("enc_in")) != given.get("enc_in", given.get("c_out")):
        raise ConversionError(
            f"c_out={given['c_out']!r} is not enc_in={given['enc_in']!r}: the classification model reconstructs its "
            "channels."
        )


def complete_timedart_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_timedart_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config.

    Raises:
        ConversionError: A field is missing that neither tells.
    """
    required = {"context_length": "input_len", "patch_stride": "stride", "num_attention_heads": "n_heads"}
    require_fields(given, required)
    return {**of_shapes, **given}


TimeDARTPreTrainedModel.converter = Converter(
    convert=convert_timedart_state_dict,
    fields_of_hyperparameters=timedart_fields_of_hyperparameters,
    hyperparameter_names={*_FIELDS_OF_ARGUMENTS, *_TRAINING_ARGUMENTS, *_UNREAD_ARGUMENTS, *_CHECKED_ARGUMENTS},
    fields_of_shapes=(
        *("channel_mode", "hidden_size", "intermediate_size", "num_hidden_layers", "num_decoder_layers"),
        *("num_input_channels", "patch_length"),
    ),
    complete=complete_timedart_fields,
    heads=convert_timedart_heads,
    choose_model=choose_timedart_model,
)
