"""TimeMAE: Self-Supervised Representations of Time Series with Decoupled Masked Autoencoders (Cheng et al., 2023).

arXiv 2303.00320. Section 3.2, window slicing and the encoder -> cut_windows, WindowProjection, GatedEncoder,
TimeMAEModel. Section 3.3, masking and the decoupled regressor -> split_windows, GatedRegressor. Section 3.4, masked
codeword classification -> draw_codewords, codeword_errors, and masked representation regression with a momentum
encoder -> representation_errors, momentum_update. TimeMAEForPreTraining.forward puts them together. The converter of
official checkpoints is at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .configuration_timemae import TimeMAEConfig
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
    ClassificationHead,
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    PredictionHead,
    TimeSeriesModelOutput,
)
from .layers_attention import AttentionProjection, CrossAttention, MultiHeadAttention, SelfAttention, key_mask
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_patching import AlignedSeries, PatchLayout, align_series, last_patches, take_context
from .layers_pooling import pool_instance
from .layers_transformer import DROPOUT_SITES_OF_A_LAYER, LearnedPositions
from .modeling_time_series import TimeSeriesPreTrainedModel

# What a gate begins with, and the bias of every linear layer, as in the official code.
INITIAL_GATE, INITIAL_BIAS = 1e-8, 0.1
# Numbers of the first dropout layers.
ENCODER_SITE, MOMENTUM_SITE, REGRESSOR_SITE = 0, 10_000, 20_000
NDCG_CUTOFF = 10


def cut_windows(values: torch.Tensor, patch_length: int) -> torch.Tensor:
    """Cut series into windows that do not overlap; zeros fill the last one (section 3.2, window slicing).

    Args:
        values: (batch_size, length, num_channels).
        patch_length: Number of timestamps of a window.

    Returns:
        (batch_size, length / patch_length rounded up, patch_length, num_channels).
    """
    length = values.shape[1]
    num_windows = (length + patch_length - 1) // patch_length
    if torch.compiler.is_compiling():  # a traced graph would be another one for a single window
        num_windows = torch.sym_max(num_windows, 2)
    first = torch.arange(num_windows, device=values.device) * patch_length
    steps = first.unsqueeze(1) + torch.arange(patch_length, device=values.device)
    return values[:, steps.clamp(max=length - 1)].masked_fill((steps >= length).unsqueeze(-1), 0)


class SplitWindows(NamedTuple):
    """Which windows of every series the encoder sees, and which it does not.

    Args:
        visible: (batch_size, num_visible) places of the visible windows.
        is_visible: The same shape, bool, False where a series has fewer.
        masked: (batch_size, num_masked) places of the masked windows.
        is_masked: The same shape, bool, False where a series has fewer.
    """

    visible: torch.Tensor
    is_visible: torch.Tensor
    masked: torch.Tensor
    is_masked: torch.Tensor


def split_windows(observed: torch.Tensor, permutation: torch.Tensor, config: TimeMAEConfig) -> SplitWindows:
    """Mask the windows of every series that come last in a permutation, which is one for the whole batch.

    Args:
        observed: (batch_size, num_windows) bool: windows with an observed value; the others are neither.
        permutation: (num_windows,) places of the windows, the masked ones at the end.
        config: Gives mask_ratio.

    Returns:
        The places, in the order of the permutation.
    """
    inside = observed[:, permutation]
    count = inside.sum(1, keepdim=True)
    num_masked = torch.minimum((config.mask_ratio * count.double()).floor().clamp(min=1), count - 1)
    is_masked = inside & (inside.cumsum(1) > count - num_masked)
    of_all = config.count_masked(len(permutation))

    def places(chosen: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        return permutation[order], chosen.gather(1, order)

    visible, is_visible = places(inside & ~is_masked, len(permutation) - of_all)
    return SplitWindows(visible, is_visible, *places(is_masked, of_all))


def draw_codewords(
    scores: torch.Tensor, gumbel_noise: torch.Tensor | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """Choose the codeword of every window (section 3.4).

    With noise of a Gumbel distribution the choice is a draw from the softmax of the scores, divided by the
    temperature; a softmax after the sum, as in the official code, changes no argmax.

    Args:
        scores: (..., num_codewords), of the tokenizer.
        gumbel_noise: The same shape; None for the codeword of the highest score.
        temperature: Above 0 where there is noise.

    Returns:
        (...) numbers of codewords.
    """
    return (scores if gumbel_noise is None else scores.float() / temperature + gumbel_noise).argmax(-1)


def codeword_errors(scores: torch.Tensor, codewords: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the cross-entropy of the codeword of every masked window (the masked codeword classification).

    Args:
        scores: (batch_size, num_masked, num_codewords).
        codewords: (batch_size, num_masked).
        label_smoothing: Share of the target that is spread over all codewords.

    Returns:
        (batch_size, num_masked). The mean over masked windows is the loss.

    Source:
        TimeMAE, section 3.4; the smoothing is the official code's.
    """
    return F.cross_entropy(
        scores.float().transpose(1, 2), codewords, reduction="none", label_smoothing=label_smoothing
    )


def representation_errors(target: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return the squared errors of the regressed representations (the masked representation regression).

    Args:
        target: (batch_size, num_masked, hidden_size), of the momentum encoder.
        predicted: The same shape, of the regressor.

    Returns:
        The same shape. The mean over masked windows and dimensions is the loss.

    Source:
        TimeMAE, section 3.4.
    """
    return (predicted.float() - target.float()).square()


def codeword_ndcg(scores: torch.Tensor, codewords: torch.Tensor, cutoff: int = NDCG_CUTOFF) -> torch.Tensor:
    """Return the normalised discounted cumulative gain of the ranking of one right codeword among all.

    Args:
        scores: (..., num_codewords).
        codewords: (...), the right ones.
        cutoff: Number of ranks that gain something.

    Returns:
        (...): 1 / log2(1 + rank) up to the cutoff, 0 beyond it.
    """
    of_codeword = scores.gather(-1, codewords.unsqueeze(-1))
    rank = 1 + (scores > of_codeword).sum(-1)
    return torch.where(rank <= cutoff, 1.0 / torch.log2(1.0 + rank), 0.0)


@torch.no_grad()
def momentum_update(targets: Iterable[torch.Tensor], sources: Iterable[torch.Tensor], momentum: float) -> None:
    """Let weights follow others: target = momentum * target + (1 - momentum) * source, in place (section 3.4)."""
    for target, source in zip(targets, sources, strict=True):
        target.mul_(momentum).add_(source, alpha=1.0 - momentum)


@dataclass(frozen=True)
class TimeMAEDraws:
    """The random choices of one step.

    Args:
        start: First timestamp that is looked at, of series longer than the context.
        permutation: (num_windows,) places of the windows, those that are masked at the end; one for the whole batch.
        gumbel_noise: (batch_size, num_masked, num_codewords), for the masked windows in the order of the permutation;
            None to take the codewords of the highest score.
        dropout_seed: Seed of all dropout of a step in training; None for torch's global generator.
    """

    start: int
    permutation: torch.Tensor
    gumbel_noise: torch.Tensor | None = None
    dropout_seed: int | None = None

    def rows(self, start: int, stop: int) -> TimeMAEDraws:
        """Return the choices for some series of the batch."""
        noise = None if self.gumbel_noise is None else self.gumbel_noise[start:stop]
        return TimeMAEDraws(self.start, self.permutation, noise, self.dropout_seed)


def draw_step(config: TimeMAEConfig, batch_size: int, length: int, generator: torch.Generator) -> TimeMAEDraws:
    """Draw a window of the context's length, what is masked, the noise of the codewords and the seed of dropout.

    Args:
        config: Gives context_length, patch_length, mask_ratio, num_codewords and codeword_temperature.
        batch_size: Number of series.
        length: Number of timestamps that they have.
        generator: Source of randomness, on the CPU.

    Returns:
        The choices.
    """
    start = int(torch.randint(max(length - config.context_length, 0) + 1, (), generator=generator))
    num_windows = -(-min(length, config.context_length) // config.patch_length)
    permutation = torch.randperm(num_windows, generator=generator)
    noise = None
    if config.codeword_temperature > 0:
        shape = (batch_size, config.count_masked(num_windows), config.num_codewords)
        noise = -torch.empty(shape).exponential_(generator=generator).log()
    return TimeMAEDraws(start, permutation, noise, int(torch.randint(2**62, (), generator=generator)))


class WindowProjection(nn.Conv1d):
    """A linear layer on all values of a window, held as the convolution whose kernel and stride are a window long.

    Args:
        num_channels: Number of channels.
        hidden_size: Width of the result.
        patch_length: Number of timestamps of a window.
    """

    def __init__(self, num_channels: int, hidden_size: int, patch_length: int) -> None:
        super().__init__(num_channels, hidden_size, patch_length, patch_length)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Map (batch_size, num_windows, patch_length, num_channels) to (batch_size, num_windows, hidden_size)."""
        return F.linear(windows.flatten(2), self.weight.transpose(1, 2).flatten(1), self.bias)


class GatedBlock(nn.Module):
    """Attention and a feed-forward network: x <- LayerNorm(x + dropout(gate * branch(x))), with a learned gate each.

    Subclasses say what the tokens attend to.

    Args:
        attention: The attention.
        hidden_size: Width of a token.
        intermediate_size: Width inside the feed-forward network.
        dropout: Dropout probability.
        first_site: Number of the first of its DROPOUT_SITES_OF_A_LAYER dropout layers, that of the attention.
        has_gates: Whether there are gates; False: the branches are added as they are.
    """

    attention_gate: nn.Parameter | None
    output_gate: nn.Parameter | None

    def __init__(
        self,
        attention: MultiHeadAttention,
        hidden_size: int,
        intermediate_size: int,
        dropout: float,
        first_site: int,
        has_gates: bool,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_dropout = SeededDropout(dropout, first_site + 1)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.expansion = nn.Linear(hidden_size, intermediate_size)
        self.contraction = nn.Linear(intermediate_size, hidden_size)
        self.contraction_dropout = SeededDropout(dropout, first_site + 2)
        self.output_dropout = SeededDropout(dropout, first_site + 3)
        self.output_norm = nn.LayerNorm(hidden_size)
        for name in ("attention_gate", "output_gate"):
            self.register_parameter(name, nn.Parameter(torch.tensor(INITIAL_GATE)) if has_gates else None)

    def add_attended(self, hidden: torch.Tensor, attended: torch.Tensor, draws: DropoutDraws | None) -> torch.Tensor:
        """Add what the tokens attend to, and normalise; (num_rows, num_tokens, hidden_size) all."""
        gated = attended if self.attention_gate is None else self.attention_gate * attended
        return self.attention_norm(hidden + self.attention_dropout(gated, draws))

    def add_feed_forward(self, hidden: torch.Tensor, draws: DropoutDraws | None) -> torch.Tensor:
        """Add what the feed-forward network makes of every token, and normalise."""
        inner = self.contraction_dropout(self.contraction(F.gelu(self.expansion(hidden))), draws)
        gated = inner if self.output_gate is None else self.output_gate * inner
        return self.output_norm(hidden + self.output_dropout(gated, draws))


class GatedTransformerLayer(GatedBlock, GradientCheckpointingLayer):
    """A layer of the encoder.

    Args:
        config: Gives the sizes, dropouts and whether there are gates.
        first_site: Number of its first dropout layer.
    """

    def __init__(self, config: TimeMAEConfig, first_site: int) -> None:
        attention = SelfAttention(config.hidden_size, config.num_attention_heads, config.attention_dropout, first_site)
        sizes = (config.hidden_size, config.feed_forward_size)
        super().__init__(attention, *sizes, config.dropout, first_site, config.use_residual_gates)

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Map (num_rows, num_tokens, hidden_size) to the same shape; the arguments are those of SelfAttention."""
        hidden = self.add_attended(hidden, self.attention(hidden, attention_mask, draws), draws)
        return self.add_feed_forward(hidden, draws)


class GatedRegressorLayer(GatedBlock, GradientCheckpointingLayer):
    """A layer of the regressor: masked windows look at the visible ones, and not at each other.

    Args:
        config: Gives the sizes and the regressor's dropout.
        first_site: Number of its first dropout layer.
    """

    def __init__(self, config: TimeMAEConfig, first_site: int) -> None:
        dropout = config.regressor_dropout
        attention = CrossAttention(config.hidden_size, config.num_attention_heads, dropout, first_site)
        super().__init__(attention, config.hidden_size, config.feed_forward_size, dropout, first_site, True)

    def forward(
        self,
        hidden: torch.Tensor,
        visible: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Map the masked windows (num_rows, num_masked, hidden_size); the arguments are those of CrossAttention."""
        hidden = self.add_attended(hidden, self.attention(hidden, visible, attention_mask, draws), draws)
        return self.add_feed_forward(hidden, draws)


class GatedEncoder(nn.Module):
    """The layers of the encoder, without a normalisation at the end.

    Args:
        config: Gives the sizes.
        first_site: Number of the first dropout layer.
    """

    def __init__(self, config: TimeMAEConfig, first_site: int = ENCODER_SITE) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GatedTransformerLayer(config, first_site + index * DROPOUT_SITES_OF_A_LAYER)
            for index in range(config.num_hidden_layers)
        )

    def forward(
        self,
        hidden: torch.Tensor,
        observed: torch.Tensor,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Encode windows.

        Args:
            hidden: (num_rows, num_windows, hidden_size), positions added.
            observed: (num_rows, num_windows) bool, False for windows that none attends to.
            draws: The random choices of dropout; None for random ones in training.
            states: Takes what goes in and every layer's output, when given.

        Returns:
            The shape of `hidden`.
        """
        attention_mask = key_mask(observed)
        if states is not None:
            states.append(hidden)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask, draws)
            if states is not None:
                states.append(hidden)
        return hidden


class GatedRegressor(nn.Module):
    """The decoupled part: from mask tokens and positions to the representations of masked windows (section 3.3).

    Args:
        config: Gives the sizes.
    """

    def __init__(self, config: TimeMAEConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GatedRegressorLayer(config, REGRESSOR_SITE + index * DROPOUT_SITES_OF_A_LAYER)
            for index in range(config.num_regressor_layers)
        )

    def forward(
        self,
        queries: torch.Tensor,
        visible: torch.Tensor,
        is_visible: torch.Tensor,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Tell the representations.

        Args:
            queries: (batch_size, num_masked, hidden_size), mask token plus positions.
            visible: (batch_size, num_visible, hidden_size), encoded; every layer looks at the same.
            is_visible: (batch_size, num_visible) bool.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            The shape of the queries.
        """
        attention_mask = key_mask(is_visible)
        for layer in self.layers:
            queries = layer(queries, visible, attention_mask, draws)
        return queries


def hold_as_buffers(module: nn.Module) -> nn.Module:
    """Turn all parameters of a module into buffers: saved and moved like them, and learned by no optimiser."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module


@dataclass
class TimeMAEForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: alignment_weight * alignment_loss + codeword_weight * codeword_loss.
        alignment_loss: Scalar without gradient: the masked representation regression.
        codeword_loss: Scalar without gradient: the masked codeword classification.
        codeword_accuracy: Scalar: share of the masked windows whose codeword has the highest score.
        codeword_ndcg: Scalar: see the function of this name.
        target_representations: (batch_size, num_masked, hidden_size), of the momentum encoder.
        predicted_representations: The same shape, without gradient.
        codeword_scores: (batch_size, num_masked, num_codewords), without gradient.
        codewords: (batch_size, num_masked), the drawn ones.
        is_masked: (batch_size, num_masked) bool, False where a series has fewer masked windows.
    """

    loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    codeword_loss: torch.Tensor | None = None
    codeword_accuracy: torch.Tensor | None = None
    codeword_ndcg: torch.Tensor | None = None
    target_representations: torch.Tensor | None = None
    predicted_representations: torch.Tensor | None = None
    codeword_scores: torch.Tensor | None = None
    codewords: torch.Tensor | None = None
    is_masked: torch.Tensor | None = None


class TimeMAEPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of TimeMAE's models."""

    config: TimeMAEConfig
    config_class = TimeMAEConfig
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    _no_split_modules = ["GatedTransformerLayer", "GatedRegressorLayer"]  # noqa: RUF012 - as transformers declares it
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 - as above
        r"^(mask_token$|tokenizer\.|regressor\.|momentum_encoder\.|num_momentum_updates$|head\.|classifier\.)"
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # Xavier's rule for a square projection, whose queries, keys and values ours holds as one.
            is_joined = isinstance(module, AttentionProjection)
            fan_out = module.in_features if is_joined else module.out_features
            init.normal_(module.weight, std=math.sqrt(2.0 / (module.in_features + fan_out)))
            init.constant_(module.bias, INITIAL_BIAS)
            return
        super()._init_weights(module)
        if isinstance(module, GatedBlock):
            for gate in (module.attention_gate, module.output_gate):
                if gate is not None:
                    init.constant_(gate, INITIAL_GATE)
        elif isinstance(module, TimeMAEForPreTraining):
            init.normal_(module.mask_token)
            init.zeros_(module.num_momentum_updates)
            for target, source in zip(*module.momentum_pairs(), strict=True):
                init.copy_(target, source)


class EncodedWindows(NamedTuple):
    """What the encoder makes of a batch of aligned series.

    Args:
        hidden: (batch_size, num_windows, hidden_size), zeros after a series.
        observed: (batch_size, num_windows) bool, windows with an observed value.
        num_windows: (batch_size,) number of windows of every series.
    """

    hidden: torch.Tensor
    observed: torch.Tensor
    num_windows: torch.Tensor


class TimeMAEModel(TimeMAEPreTrainedModel):
    """The encoder: an embedding of every window, and their pooling."""

    def __init__(self, config: TimeMAEConfig) -> None:
        super().__init__(config)
        self.window_projection = WindowProjection(config.num_input_channels, config.hidden_size, config.patch_length)
        self.positions = LearnedPositions(config.num_positions, config.hidden_size)
        self.encoder = GatedEncoder(config)
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
            output_hidden_states: Whether to return the embedded windows and every layer's output.
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            last_hidden_state: the windows' embeddings (batch_size, num_windows, hidden_size); the first window begins
            with the first observed timestamp, and those after a series are zero. pooler_output: (batch_size,
            hidden_size), pooled over the windows with an observed value.

        Raises:
            ValueError: A series is longer than the learned positions.
        """
        states = self.collected_states(output_hidden_states)
        observed = self.observed_values(past_values, past_observed_mask)
        encoded = self.encode_aligned(align_series(past_values, observed), states)
        output = TimeSeriesModelOutput(
            last_hidden_state=encoded.hidden,
            pooler_output=pool_instance(encoded.hidden, self._pooled(encoded), self.config.pooling),
            hidden_states=None if states is None else tuple(states),
        )
        return output if return_dict is not False else output.to_tuple()

    def embed_windows(self, series: AlignedSeries) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut aligned series into windows and project these; a missing value is 0.

        Returns:
            (batch_size, num_windows, hidden_size), without positions; and which windows have an observed value,
            (batch_size, num_windows) bool.

        Raises:
            ValueError: There are more windows than learned positions.
        """
        values = torch.where(series.observed, series.values, 0.0).to(self.window_projection.weight.dtype)
        windows = cut_windows(values, self.config.patch_length)
        if not torch.compiler.is_compiling() and windows.shape[1] > self.config.num_positions:
            raise ValueError(
                f"A series has {values.shape[1]} timestamps, which make {windows.shape[1]} windows of patch_length="
                f"{self.config.patch_length}, but the model has learned {self.config.num_positions} "
                f"positions (max_position_embeddings): at most {self.config.longest_length} timestamps. Encode with "
                "window_length, cut the series, or train with more positions."
            )
        # As numbers: onnxruntime fills no booleans.
        counted = cut_windows(series.observed.any(-1, keepdim=True).to(values.dtype), self.config.patch_length)
        return self.window_projection(windows), counted.flatten(2).amax(-1) > 0

    def encode_aligned(self, series: AlignedSeries, states: list[torch.Tensor] | None = None) -> EncodedWindows:
        """Encode series that begin at the first position; in evaluation no more windows than the longest has.

        Args:
            series: Aligned series.
            states: Takes the embedded windows and every layer's output, when given.
        """
        if not torch.compiler.is_compiling() and not self.training:
            longest = int(series.length.max())
            series = AlignedSeries(
                series.values[:, :longest], series.observed[:, :longest], series.start, series.length
            )
        windows, observed = self.embed_windows(series)
        hidden = self.encoder(windows + self.positions(windows.shape[1]), observed, states=states)
        num_windows = (series.length + self.config.patch_length - 1).div(
            self.config.patch_length, rounding_mode="floor"
        )
        inside = torch.arange(hidden.shape[1], device=hidden.device) < num_windows.unsqueeze(1)
        return EncodedWindows(hidden * inside.unsqueeze(-1), observed, num_windows)

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Give every timestamp the embedding of its window; see TimeSeriesPreTrainedModel.embed_timestamps.

        Missing timestamps at an end are padding, whatever `inside` says. Pooling takes those with any observed value.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        series = align_series(past_values, observed)
        layout = PatchLayout(self.config.patch_length, self.config.patch_length)
        embeddings = layout.to_timestamps(self.encode_aligned(series).hidden, series)
        return embeddings, self.pooled_timestamps(observed.any(-1))

    def embed_instances(self, past_values: torch.Tensor, **method_arguments: Any) -> torch.Tensor:
        """Pool the windows of every series; see TimeSeriesPreTrainedModel.embed_instances."""
        return self(past_values, **method_arguments).pooler_output

    def collected_states(self, output_hidden_states: bool | None) -> list[torch.Tensor] | None:
        """Return what takes the hidden states; None where nobody wants them."""
        wanted = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        return [] if wanted else None

    def _pooled(self, encoded: EncodedWindows) -> torch.Tensor | None:
        is_compiling = torch.compiler.is_compiling()
        return None if not is_compiling and bool(encoded.observed.all()) else encoded.observed


class TimeMAEForPreTraining(TimeMAEPreTrainedModel):
    """The pretext tasks: the codewords of masked windows, and what a momentum encoder makes of these (section 3.4).

    The momentum encoder follows the encoder in `after_optimizer_step`, which the library's trainer calls. Its weights
    are buffers: saved with the model, the same on all processes, and in no optimiser. With several processes the
    random choices are drawn for the global batch, and the mean of the processes' losses is the loss of one process on
    the same global batch, with its gradient.
    """

    num_momentum_updates: torch.Tensor

    def __init__(self, config: TimeMAEConfig) -> None:
        super().__init__(config)
        self.model = TimeMAEModel(config)
        self.mask_token = nn.Parameter(torch.randn(config.hidden_size))
        self.tokenizer = nn.Linear(config.hidden_size, config.num_codewords)
        self.regressor = GatedRegressor(config)
        self.momentum_encoder = hold_as_buffers(GatedEncoder(config, MOMENTUM_SITE))
        self.register_buffer("num_momentum_updates", torch.zeros((), dtype=torch.long))
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        draws: TimeMAEDraws | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> TimeMAEForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. Of longer series than the
                context a random window is taken.
            past_observed_mask: The same shape, True = observed, or None.
            draws: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a TimeMAEForPreTrainingOutput instead of a tuple.

        Returns:
            The loss, its terms and what they compare.

        Raises:
            ValueError: The series have no more timestamps than one window, of which nothing can be masked.
        """
        config, batch, length = self.config, GlobalBatch.of(self), past_values.shape[1]
        observed = self.observed_values(past_values, past_observed_mask)
        if min(length, config.context_length) <= config.patch_length:
            raise ValueError(
                f"The pretext task looks at {min(length, config.context_length)} timestamps, which are one window of "
                f"patch_length={config.patch_length}, and hides some windows behind others; give longer series (or "
                "context_length), or a shorter patch_length."
            )
        if draws is None:
            draws = batch.draw(lambda count, source: draw_step(config, count, length, source), past_values, generator)
        target_encoder = self.target_encoder
        window = slice(draws.start, draws.start + config.context_length)
        windows, seen = self.model.embed_windows(align_series(past_values[:, window], observed[:, window]))
        split = split_windows(seen, draws.permutation.to(seen.device), config)
        dropout = None
        if self.training and draws.dropout_seed is not None:
            dropout = DropoutDraws(draws.dropout_seed, 1, batch.rank, batch.num_processes)
        predicted = self._regress(windows, split, dropout)
        scores = self.tokenizer(predicted)
        target, codewords = self._targets(target_encoder, windows, split, draws.gumbel_noise, dropout)
        alignment = batch.mean(representation_errors(target, predicted), split.is_masked.unsqueeze(-1))
        classification = batch.mean(codeword_errors(scores, codewords, config.label_smoothing), split.is_masked)
        hits, gains = (scores.argmax(-1) == codewords).float(), codeword_ndcg(scores.detach(), codewords)
        output = TimeMAEForPreTrainingOutput(
            loss=config.alignment_weight * alignment + config.codeword_weight * classification,
            alignment_loss=alignment.detach(),
            codeword_loss=classification.detach(),
            codeword_accuracy=batch.mean(hits, split.is_masked),
            codeword_ndcg=batch.mean(gains, split.is_masked),
            target_representations=target,
            predicted_representations=predicted.detach(),
            codeword_scores=scores.detach(),
            codewords=codewords,
            is_masked=split.is_masked,
        )
        return output if return_dict is not False else output.to_tuple()

    def _regress(self, windows: torch.Tensor, split: SplitWindows, dropout: DropoutDraws | None) -> torch.Tensor:
        """Tell the representations of masked windows from the visible ones: (batch_size, num_masked, hidden_size)."""
        positions = self.model.positions(windows.shape[1])
        visible = _take(windows, split.visible) + positions[split.visible]
        encoded = self.model.encoder(visible, split.is_visible, dropout)
        queries = (self.mask_token + positions)[split.masked]
        return self.regressor(queries, encoded, split.is_visible, dropout)

    @torch.no_grad()
    def _targets(
        self,
        target_encoder: nn.Module,
        windows: torch.Tensor,
        split: SplitWindows,
        gumbel_noise: torch.Tensor | None,
        dropout: DropoutDraws | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the momentum encoder makes of masked windows, and their codewords."""
        masked = _take(windows, split.masked)
        # The tokenizer sees no positions.
        noise = None if gumbel_noise is None else gumbel_noise.to(masked.device)
        codewords = draw_codewords(self.tokenizer(masked), noise, self.config.codeword_temperature)
        hidden = masked + self.model.positions(windows.shape[1])[split.masked]
        return target_encoder(hidden, split.is_masked, dropout), codewords

    @property
    @torch.compiler.disable  # a number of updates is looked at
    def target_encoder(self) -> nn.Module:
        """What makes the targets: the momentum encoder, or the encoder itself before the first update."""
        is_shared = self.config.momentum_shares_first_step and int(self.num_momentum_updates) == 0
        return self.model.encoder if is_shared else self.momentum_encoder

    def momentum_pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the weights of the momentum encoder, and those of the encoder, in one order."""
        sources = dict(self.model.encoder.named_parameters())
        targets = dict(self.momentum_encoder.named_buffers())
        return [targets[name] for name in sources], list(sources.values())

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Let the momentum encoder follow the encoder; the trainer calls it after every optimiser step."""
        targets, sources = self.momentum_pairs()
        if self.target_encoder is self.model.encoder:
            for target, source in zip(targets, sources, strict=True):
                target.copy_(source)
        momentum_update(targets, sources, self.config.momentum)
        self.num_momentum_updates += 1

    @torch.no_grad()
    def codeword_shares(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return how often every codeword is expected in a batch; see TimeSeriesPreTrainedModel.codeword_shares."""
        observed = self.observed_values(past_values, past_observed_mask)
        window = slice(self.config.context_length)
        windows, seen = self.model.embed_windows(align_series(past_values[:, window], observed[:, window]))
        scores = self.tokenizer(windows[seen]).float()
        if self.config.codeword_temperature == 0:
            return F.one_hot(scores.argmax(-1), self.config.num_codewords).float().mean(0)
        return (scores / self.config.codeword_temperature).softmax(-1).mean(0)


def _take(windows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take windows (batch_size, num_windows, hidden_size) at places (batch_size, number)."""
    return windows.gather(1, places.unsqueeze(-1).expand(-1, -1, windows.shape[-1]))


class TimeMAEForTimeSeriesClassification(GenericForTimeSeriesClassification, TimeMAEPreTrainedModel):
    """The encoder with class scores on the mean of the windows (as the official code has it).

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: TimeMAEConfig) -> None:
        super().__init__(config)
        self.model = TimeMAEModel(config)
        self.classifier = ClassificationHead(config)
        self.post_init()


class TimeMAEForTimeSeriesPrediction(GenericForTimeSeriesPrediction, TimeMAEPreTrainedModel):
    """The encoder with a linear prediction of the future from all windows of the last context_length timestamps.

    Args:
        config: Configuration; prediction_length and num_output_channels give the future's.
    """

    def __init__(self, config: TimeMAEConfig) -> None:
        super().__init__(config)
        self.model = TimeMAEModel(config)
        self.head = PredictionHead(config, config.num_context_windows * config.hidden_size)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Encode the context: embedding (batch_size, num_context_windows * hidden_size), zeros for missing windows."""
        states = self.model.collected_states(output_hidden_states)
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=True)
        encoded = self.model.encode_aligned(align_series(values, observed), states)
        hidden = encoded.hidden * encoded.observed.unsqueeze(-1)
        flat = last_patches(hidden, encoded.num_windows, self.config.num_context_windows)
        return EncodedForHead({"embedding": flat}, None if states is None else tuple(states))


# The converter of official checkpoints (github.com/Mingyue-Cheng/TimeMAE).

_FIELDS_OF_ARGUMENTS = {
    "d_model": "hidden_size",
    "attn_heads": "num_attention_heads",
    "layers": "num_hidden_layers",
    "reg_layers": "num_regressor_layers",
    "wave_length": "patch_length",
    "mask_ratio": "mask_ratio",
    "vocab_size": "num_codewords",
    "num_class": "num_labels",
    "dropout": "dropout",
    "enable_res_parameter": "use_residual_gates",
    "momentum": "momentum",
    "alpha": "alignment_weight",
    "beta": "codeword_weight",
}
# Of data, optimiser and run; the model is the same whatever they are.
_TRAINING_ARGUMENTS = frozenset(
    {"save_path", "dataset", "UCR_folder", "data_path", "device", "train_batch_size", "test_batch_size"}
    | {"eval_per_steps", "lr", "lr_decay_rate", "lr_decay_steps", "weight_decay", "num_epoch_pretrain", "num_epoch"}
    | {"load_pretrained_model"}
)
_SHAPE = "data_shape"

_LAYER = re.compile(r"(encoder\.TRMs|momentum_encoder\.TRMs|reg\.layers)\.(\d+)\.(.+)")
_OUR_STACKS = {
    "encoder.TRMs": "encoder.layers",
    "momentum_encoder.TRMs": "momentum_encoder.layers",
    "reg.layers": "regressor.layers",
}
_OUR_LAYER = {
    "attn.output_linear": "attention.output_projection",
    "ffn.linear1": "expansion",
    "ffn.linear2": "contraction",
    "skipconnect1.norm": "attention_norm",
    "skipconnect2.norm": "output_norm",
}
_JOINED = tuple(f"attn.linear_layers.{index}" for index in range(3))  # query, key and value
_GATES = {"skipconnect1.a": "attention_gate", "skipconnect2.a": "output_gate"}
_KINDS = ("weight", "bias")
_OUTSIDE = {
    "position.pe.weight": "positions.weight",
    **{f"input_projection.{kind}": f"window_projection.{kind}" for kind in _KINDS},
}
_HEADS = {
    "mask_token": "mask_token",
    **{f"tokenizer.center.{kind}": f"tokenizer.{kind}" for kind in _KINDS},
    **{f"predict_head.{kind}": f"classifier.projection.{kind}" for kind in _KINDS},
}


def convert_timemae_state_dict(state_dict: Mapping[str, Tensor]) -> FieldsAndParameters:
    """Turn an official state dict into that of our encoder.

    Args:
        state_dict: Of the official TimeMAE, which has the same parameters in pre-training and in fine-tuning.

    Returns:
        Fields for TimeMAEConfig that the shapes tell, and the parameters of TimeMAEModel.

    Raises:
        ConversionError: Parameters are missing, unknown or of shapes that tell no size.
    """
    counts = {
        stack: len({match[2] for key in state_dict if (match := _LAYER.fullmatch(key)) and match[1] == stack})
        for stack in _OUR_STACKS
    }
    if not counts["encoder.TRMs"]:
        raise ConversionError(
            f"This is no TimeMAE checkpoint: it holds {list_names(sorted(state_dict)) or 'nothing'}, and none of "
            "encoder.TRMs.0.attn.output_linear.weight, ..."
        )
    has_gates = any(key.startswith("encoder.") and key.endswith(".skipconnect1.a") for key in state_dict)
    counts["momentum_encoder.TRMs"] = counts["encoder.TRMs"]
    expected = {*_OUTSIDE, *_HEADS}
    for stack, count in counts.items():
        gates = [*_GATES] if has_gates or stack == "reg.layers" else []
        names = [f"{layer}.{kind}" for layer in (*_OUR_LAYER, *_JOINED) for kind in _KINDS] + gates
        expected |= {f"{stack}.{index}.{name}" for index in range(max(count, 1)) for name in names}
    require_parameters(
        state_dict,
        expected,
        f"a TimeMAE with {counts['encoder.TRMs']} layers and {counts['reg.layers']} of the regressor, "
        f"enable_res_parameter={int(has_gates)}",
    )
    projection, positions = state_dict["input_projection.weight"], state_dict["position.pe.weight"]
    if projection.ndim != 3 or positions.ndim != 2:
        raise ConversionError(
            f"The sizes of the model cannot be told: input_projection.weight has shape {tuple(projection.shape)} and "
            f"position.pe.weight {tuple(positions.shape)}."
        )
    fields = {
        "num_input_channels": projection.shape[1],
        "patch_length": projection.shape[2],
        "hidden_size": projection.shape[0],
        "num_hidden_layers": counts["encoder.TRMs"],
        "num_regressor_layers": counts["reg.layers"],
        "intermediate_size": state_dict["encoder.TRMs.0.ffn.linear1.weight"].shape[0],
        "use_residual_gates": has_gates,
        "num_codewords": state_dict["tokenizer.center.weight"].shape[0],
        "max_position_embeddings": positions.shape[0],
        "context_length": positions.shape[0] * projection.shape[2],
    }
    ours = {name: state_dict[key] for key, name in _OUTSIDE.items()}
    return fields, ours | _converted_layers(state_dict, "encoder.TRMs")


def _converted_layers(official: Mapping[str, Tensor], stack: str) -> dict[str, Tensor]:
    """Turn a stack of official layers into ours, whose queries, keys and values are computed in fewer products."""
    ours = {}
    for key, value in official.items():
        match = _LAYER.fullmatch(key)
        if match is None or match[1] != stack:
            continue
        prefix, (layer, _, kind) = f"{_OUR_STACKS[stack]}.{match[2]}", match[3].rpartition(".")
        if match[3] in _GATES:
            ours[f"{prefix}.{_GATES[match[3]]}"] = value
        elif layer in _OUR_LAYER:
            ours[f"{prefix}.{_OUR_LAYER[layer]}.{kind}"] = value
        else:
            name, together = _joined_projection(stack, layer)
            parts = [official.get(f"{stack}.{match[2]}.{one}.{kind}") for one in together]
            ours[f"{prefix}.attention.{name}.{kind}"] = torch.cat([part for part in parts if part is not None])
    return ours


def _joined_projection(stack: str, layer: str) -> tuple[str, tuple[str, ...]]:
    """Return our projection in which an official one is, and the official ones that it holds."""
    if stack != "reg.layers":
        return "input_projection", _JOINED
    is_query = layer == _JOINED[0]
    return ("query_projection", _JOINED[:1]) if is_query else ("key_value_projection", _JOINED[1:])


def convert_timemae_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official layers after the encoder into those of our models.

    Args:
        state_dict: Official parameters, all or some; others are left out.

    Returns:
        Our parameters and buffers: of TimeMAEForPreTraining, whose momentum encoder has been updated, and of
        TimeMAEForTimeSeriesClassification.
    """
    ours = {name: state_dict[key] for key, name in _HEADS.items() if key in state_dict}
    for stack in ("momentum_encoder.TRMs", "reg.layers"):
        ours |= _converted_layers(state_dict, stack)
    if any(name.startswith("momentum_encoder.") for name in ours):
        # How many updates there were is not told; it is no longer the encoder.
        ours["num_momentum_updates"] = torch.ones((), dtype=torch.long)
    return ours


def choose_timemae_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Tell which of our models to make: the official parameters are the same before and after a fine-tuning.

    Args:
        state_dict: Official parameters.
        fields: All fields of the config.

    Returns:
        "classification" where the number of classes was given (num_class), else "pretraining"; and the fields of the
        head.

    Raises:
        ConversionError: The number is not that of the layer.
    """
    num_outputs = state_dict["predict_head.weight"].shape[0]
    num_labels = fields.get("num_labels")
    if num_labels is None:
        return "pretraining", {}
    if num_labels != num_outputs:
        raise ConversionError(f"num_class={num_labels!r} was given, but predict_head has {num_outputs} classes.")
    return "classification", {"num_labels": num_outputs}


def timemae_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of TimeMAEConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, such as attn_heads, wave_length, data_shape.

    Returns:
        Fields. The one official dropout is that of attention weights, too.

    Raises:
        ConversionError: Two arguments contradict each other, or data_shape is no pair of numbers.
    """
    given = dict(hyperparameters)
    shape = given.pop(_SHAPE, None)
    fields = rename_hyperparameters(given, _FIELDS_OF_ARGUMENTS, _TRAINING_ARGUMENTS)
    if "use_residual_gates" in fields:
        fields["use_residual_gates"] = bool(fields["use_residual_gates"])
    if "dropout" in fields:
        fields.setdefault("attention_dropout", fields["dropout"])
    if shape is None:
        return fields
    if len(shape) != 2:
        raise ConversionError(f"{_SHAPE}={shape!r} is no pair of a length and a number of channels.")
    length, num_channels = shape
    if fields.setdefault("num_input_channels", num_channels) != num_channels:
        raise ConversionError(
            f"{_SHAPE}={shape!r} contradicts num_input_channels={fields['num_input_channels']!r}, also given."
        )
    if "patch_length" in fields:  # what is left beyond whole windows has no position there
        fields.setdefault("context_length", length // fields["patch_length"] * fields["patch_length"])
    return fields


def complete_timemae_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_timemae_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config.

    Raises:
        ConversionError: The number of heads is missing.
    """
    require_fields(given, {"num_attention_heads": "attn_heads"})
    return {**of_shapes, **given}


TimeMAEPreTrainedModel.converter = Converter(
    convert=convert_timemae_state_dict,
    fields_of_hyperparameters=timemae_fields_of_hyperparameters,
    hyperparameter_names={*_FIELDS_OF_ARGUMENTS, *_TRAINING_ARGUMENTS, _SHAPE},
    fields_of_shapes=(
        *("num_input_channels", "patch_length", "hidden_size", "num_hidden_layers", "num_regressor_layers"),
        *("intermediate_size", "use_residual_gates", "num_codewords", "max_position_embeddings", "context_length"),
    ),
    complete=complete_timemae_fields,
    heads=convert_timemae_heads,
    choose_model=choose_timemae_model,
)
