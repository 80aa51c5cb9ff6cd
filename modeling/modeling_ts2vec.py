"""TS2Vec: Towards Universal Representation of Time Series (Yue et al., AAAI 2022, arXiv 2106.10466).

Section 3.1, the encoder: an input projection, timestamp masking and dilated convolutions -> TS2VecModel.
Section 3.2, contextual consistency: two overlapping masked crops of a series -> TS2VecViews, TS2VecForPreTraining.
Section 3.3, hierarchical contrast: equation 1 -> temporal_contrast, equation 2 -> instance_contrast, equation 3 ->
dual_loss, algorithm 1 -> hierarchical_contrastive_loss. Training takes the dual loss by tiles (kernels_contrast.py).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.utils import ModelOutput, logging

from .configuration_ts2vec import TS2VecConfig
from .conversion_time_series import (
    ConversionError,
    Converter,
    FieldsAndParameters,
    list_names,
    rename_hyperparameters,
    require_parameters,
)
from .distributed_time_series import GlobalBatch
from .encoding_time_series import observed_span, slide_by_windows, sliding_span
from .heads_time_series import (
    ClassificationHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    PredictionHead,
    TimeSeriesModelOutput,
)
from .kernels_contrast import dual_loss as tiled_dual_loss
from .kernels_sliding import DilatedStream, slide_dilated_blocks
from .layers_convolution import DilatedResidualBlock
from .layers_pooling import pool_instance
from .modeling_time_series import TimeSeriesPreTrainedModel
from .streaming_time_series import SeriesStream


def binomial_mask(
    batch_size: int, length: int, mask_ratio: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Mask every timestamp independently (TS2Vec, section 3.2).

    Args:
        batch_size: Number of series.
        length: Number of timestamps.
        mask_ratio: Probability that a timestamp is masked.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (batch_size, length) bool, True = kept.
    """
    return torch.rand(batch_size, length, generator=generator) >= mask_ratio


def continuous_mask(
    batch_size: int,
    length: int,
    num_segments: int = 5,
    segment_ratio: float = 0.1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Mask a few stretches of consecutive timestamps in every series; they may overlap.

    Args:
        batch_size: Number of series.
        length: Number of timestamps.
        num_segments: Number of stretches a series.
        segment_ratio: Length of a stretch, as a part of `length`; at least one timestamp.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (batch_size, length) bool, True = kept.
    """
    segment_length = min(max(int(segment_ratio * length), 1), length)
    starts = torch.randint(0, length - segment_length + 1, (batch_size, num_segments, 1), generator=generator)
    steps = torch.arange(length)
    return ~((steps >= starts) & (steps < starts + segment_length)).any(dim=1)


def timestamp_mask(
    mode: str, batch_size: int, length: int, mask_ratio: float = 0.5, generator: torch.Generator | None = None
) -> torch.Tensor | None:
    """Draw a mask of the named mode.

    Args:
        mode: "binomial", "continuous", "all_true", "all_false" or "mask_last".
        batch_size: Number of series.
        length: Number of timestamps.
        mask_ratio: For "binomial": probability that a timestamp is masked.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (batch_size, length) bool, True = kept; None where everything is kept.

    Raises:
        ValueError: The mode is unknown.
    """
    if mode == "binomial":
        return binomial_mask(batch_size, length, mask_ratio, generator)
    if mode == "continuous":
        return continuous_mask(batch_size, length, generator=generator)
    if mode == "all_true":
        return None
    if mode == "all_false":
        return torch.zeros(batch_size, length, dtype=torch.bool)
    if mode == "mask_last":
        keep = torch.ones(batch_size, length, dtype=torch.bool)
        keep[:, -1] = False
        return keep
    raise ValueError(
        f"Unknown mask mode {mode!r}; choose one of 'binomial', 'continuous', 'all_true', 'all_false', 'mask_last'."
    )


@dataclass(frozen=True)
class TS2VecViews:
    """The random choices of one pre-training step: two crops of every series that overlap in `crop_length` steps.

    The last `crop_length` timestamps of the first view are the first `crop_length` of the second.

    Args:
        crop_length: Number of compared timestamps.
        first_start: (batch_size,) first timestamp of the first view.
        first_length: Number of timestamps of the first view.
        second_start: (batch_size,) first timestamp of the second view.
        second_length: Number of timestamps of the second view.
        first_mask: (batch_size, first_length) bool, True = kept, or None for all.
        second_mask: (batch_size, second_length) bool, True = kept, or None for all.
    """

    crop_length: int
    first_start: torch.Tensor
    first_length: int
    second_start: torch.Tensor
    second_length: int
    first_mask: torch.Tensor | None
    second_mask: torch.Tensor | None

    def rows(self, start: int, stop: int) -> TS2VecViews:
        """Return the choices for some series of the batch."""
        return TS2VecViews(
            self.crop_length,
            self.first_start[start:stop],
            self.first_length,
            self.second_start[start:stop],
            self.second_length,
            None if self.first_mask is None else self.first_mask[start:stop],
            None if self.second_mask is None else self.second_mask[start:stop],
        )


def _draw_integer(low: int, high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def draw_views(
    batch_size: int, length: int, config: TS2VecConfig, generator: torch.Generator | None = None
) -> TS2VecViews:
    """Draw two overlapping crops and their timestamp masks (paper, section 3.2).

    With u = temporal_unit: the overlap is uniform in 2^(u+1) .. length, its place uniform, each view reaches out
    uniformly on its own side, and each series has an offset of its own, uniform where both views stay inside. A
    series shorter than 2^(u+1) is not cropped.

    Args:
        batch_size: Number of series.
        length: Number of timestamps of a series.
        config: Gives temporal_unit, mask_mode and mask_ratio.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        The choices.
    """
    crop_length = _draw_integer(min(2 ** (config.temporal_unit + 1), length), length, generator)
    left = _draw_integer(0, length - crop_length, generator)
    right = left + crop_length
    outer_left = _draw_integer(0, left, generator)
    outer_right = _draw_integer(right, length, generator)
    offset = torch.randint(-outer_left, length - outer_right + 1, (batch_size,), generator=generator)
    lengths = right - outer_left, outer_right - left
    masks = [timestamp_mask(config.mask_mode, batch_size, view, config.mask_ratio, generator) for view in lengths]
    return TS2VecViews(crop_length, offset + outer_left, lengths[0], offset + left, lengths[1], *masks)


def take_steps(values: torch.Tensor, start: torch.Tensor, length: int) -> torch.Tensor:
    """Cut a stretch of `length` timestamps out of every series.

    Args:
        values: (batch_size, sequence_length, ...).
        start: (batch_size,) first timestamp of each.
        length: Number of timestamps.

    Returns:
        (batch_size, length, ...).
    """
    steps = start.to(values.device).unsqueeze(1) + torch.arange(length, device=values.device)
    return values[torch.arange(len(values), device=values.device).unsqueeze(1), steps]


def scale_observed(values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Make up for missing channels: observed values times the number of channels over that of observed ones, else 0.

    A linear layer then sums as much as if the missing values were what the observed ones are on average.

    Args:
        values: (..., num_channels).
        observed: The same shape, bool.

    Returns:
        (..., num_channels); the values themselves where all are observed.
    """
    count = observed.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(observed, values, 0.0) * (values.shape[-1] / count)


def contrast(groups: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Contrast every vector with its group: minus the logarithm of the partner's share in the sum over all others.

    Args:
        groups: (num_groups, 2 * half, size); vector i and vector i + half of a group are partners.
        valid: (num_groups, 2 * half) bool; a vector that is not valid is neither anchor nor negative. None: all are.

    Returns:
        (num_groups, 2 * half), 0 for a vector that is not valid.
    """
    num_vectors = groups.shape[1]
    if valid is None:
        valid = groups.new_ones(groups.shape[:2], dtype=torch.bool)
    others = ~torch.eye(num_vectors, dtype=torch.bool, device=groups.device) & valid.unsqueeze(1)
    # A row without any other would have no finite logarithm; it counts nowhere.
    similarity = (groups @ groups.transpose(1, 2)).masked_fill(~others & valid.unsqueeze(2), -torch.inf)
    positive = torch.linalg.vecdot(groups, groups.roll(num_vectors // 2, dims=1))
    return (similarity.logsumexp(2) - positive).masked_fill(~valid, 0.0)


def temporal_contrast(views: torch.Tensor, observed: torch.Tensor | None = None) -> torch.Tensor:
    """Contrast a timestamp with the other timestamps of its series, in both views (paper, equation 1).

    Args:
        views: (batch_size, 2, length, embedding_size), the same timestamps in both views.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.

    Returns:
        (batch_size, 2 * length), the loss of every timestamp of the first view, then of the second; 0 where it is not
        observed.
    """
    return contrast(views.flatten(1, 2), None if observed is None else observed.repeat(1, 2))


def instance_contrast(views: torch.Tensor, observed: torch.Tensor | None = None) -> torch.Tensor:
    """Contrast a series with the other series of the batch at the same timestamp, in both views (paper, equation 2).

    Args:
        views: (batch_size, 2, length, embedding_size), the same timestamps in both views.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.

    Returns:
        (length, 2 * batch_size), the loss of every series in the first view, then in the second; 0 where it is not
        observed.
    """
    groups = views.permute(2, 1, 0, 3).flatten(1, 2)
    return contrast(groups, None if observed is None else observed.t().repeat(1, 2))


def dual_loss(
    views: torch.Tensor, alpha: float = 0.5, temporal: bool = True, observed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contrast two views at one level of the hierarchy (paper, equation 3, whose factor is 1 where ours is 1/2).

    Args:
        views: (batch_size, 2, length, embedding_size), the same timestamps in both views.
        alpha: Weight of the instance-wise contrast.
        temporal: Whether there is a temporal contrast.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.

    Returns:
        alpha * instance-wise + (1 - alpha) * temporal, and the two means themselves without gradient, as scalars. A
        term with weight 0 is 0, as are the instance-wise one of a single series and the temporal one of a single
        timestamp: each would compare a vector with its partner alone.
    """
    batch_size, _, length, _ = views.shape
    num_vectors = 2 * batch_size * length if observed is None else (2 * observed.sum()).clamp(min=1)
    instance_loss = temporal_loss = views.new_zeros(())
    if alpha > 0 and batch_size > 1:
        instance_loss = instance_contrast(views, observed).sum() / num_vectors
    if alpha < 1 and temporal and length > 1:
        temporal_loss = temporal_contrast(views, observed).sum() / num_vectors
    loss = alpha * instance_loss + (1.0 - alpha) * temporal_loss
    return loss, instance_loss.detach(), temporal_loss.detach()


def halve(views: torch.Tensor, observed: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Max-pool pairs of consecutive timestamps; an odd last one is dropped (paper, algorithm 1).

    Args:
        views: (batch_size, 2, length, embedding_size).
        observed: (batch_size, length) bool or None; a timestamp that is not observed never wins against one that is.

    Returns:
        (batch_size, 2, length // 2, embedding_size), and its observed mask (batch_size, length // 2) or None.
    """
    even_length = views.shape[2] // 2 * 2
    even, odd = views[:, :, 0:even_length:2], views[:, :, 1:even_length:2]
    choose_even = even >= odd
    if observed is None:
        return torch.where(choose_even, even, odd), None
    even_seen, odd_seen = observed[:, 0:even_length:2], observed[:, 1:even_length:2]
    choose_even = (choose_even & even_seen[:, None, :, None]) | ~odd_seen[:, None, :, None]
    return torch.where(choose_even, even, odd), even_seen | odd_seen


def hierarchical_contrastive_loss(
    first_view: torch.Tensor,
    second_view: torch.Tensor,
    alpha: float = 0.5,
    temporal_unit: int = 0,
    observed: torch.Tensor | None = None,
    loss_of_level: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = tiled_dual_loss,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Contrast two views at all levels of the hierarchy (paper, algorithm 1).

    Args:
        first_view: (batch_size, length, embedding_size), the compared timestamps in the first view.
        second_view: The same timestamps in the second view, same shape.
        alpha: Weight of the instance-wise contrast; 1 - alpha is the temporal one's.
        temporal_unit: First level that has a temporal contrast; levels below still count in the mean.
        observed: (batch_size, length) bool; the other timestamps are left out. None: all are observed.
        loss_of_level: The dual loss, by tiles or as the equations write it.

    Returns:
        Scalars: the loss, and, without gradient, the means over the levels of its instance-wise and temporal terms.
    """
    views = torch.stack([first_view, second_view], dim=1)
    levels = [loss_of_level(views, alpha, temporal_unit <= 0, observed)]
    while views.shape[2] > 1:
        views, observed = halve(views, observed)
        levels.append(loss_of_level(views, alpha, temporal_unit <= len(levels), observed))
    loss, instance_loss, temporal_loss = (torch.stack(terms).mean() for terms in zip(*levels, strict=True))
    return loss, instance_loss, temporal_loss


# Masks of `encode` that are the same in every call.
ENCODE_MASKS = ("all_true", "all_false", "mask_last")


ONE_SERIES_WARNING = (
    "TS2Vec trains on a batch of one series: it is contrasted with no other series, so that the instance-wise loss "
    "(equation 2) is 0 and only the temporal one teaches. Cut a long series into windows (max_train_length of "
    "`hf-tsrep pretrain`), raise the batch size, or set alpha=0 if the temporal contrast alone is wanted."
)
logger = logging.get_logger(__name__)


@dataclass
class TS2VecForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: mean over the levels of alpha * instance-wise + (1 - alpha) * temporal contrast.
        instance_loss: Its instance-wise term, a scalar without gradient.
        temporal_loss: Its temporal term, a scalar without gradient.
        last_hidden_state: (batch_size, crop_length, embedding_size), the compared timestamps as the first view sees
            them, without gradient.
    """

    loss: torch.Tensor | None = None
    instance_loss: torch.Tensor | None = None
    temporal_loss: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class TS2VecPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of TS2Vec's models."""

    config: TS2VecConfig
    config_class = TS2VecConfig
    _no_split_modules = ["DilatedResidualBlock"]  # noqa: RUF012 - transformers declares it as an instance's variable

    def observed_timestamps(self, observed: torch.Tensor) -> torch.Tensor:
        """Return which timestamps are read, (...) bool: those with all channels observed, or with any of them."""
        return observed.any(-1) if self.config.missing_values == "value" else observed.all(-1)

    def pooled_timestamps(self, observed: torch.Tensor) -> torch.Tensor | None:
        """Return which timestamps pooling takes: the observed ones, or all in the official code's way."""
        return super().pooled_timestamps(observed) if self.config.gate_padding else None

    def encode_arguments(self, mask: str | None = None) -> dict[str, Any]:
        """Check what TS2Vec's `encode` takes beside what every method's takes.

        Args:
            mask: "mask_last" masks the last timestamp of every series or window: its embedding is then what the rest
                tells about it, which the anomaly score compares with the unmasked one (paper, section 4.3).
                "all_false" masks all timestamps; None and "all_true" mask nothing.

        Returns:
            The mask, by its name.

        Raises:
            ValueError: The mask is unknown.
        """
        if mask is not None and mask not in ENCODE_MASKS:
            raise ValueError(f"mask={mask!r} is unknown; choose None, {', '.join(map(repr, ENCODE_MASKS))}.")
        return {"mask": mask}


class TS2VecModel(TS2VecPreTrainedModel):
    """The encoder (paper, section 3.1): input projection, then residual blocks whose dilation doubles."""

    def __init__(self, config: TS2VecConfig) -> None:
        super().__init__(config)
        self.input_projection = nn.Linear(config.num_input_channels, config.hidden_size)
        widths = [config.hidden_size] * config.num_hidden_layers + [config.embedding_size]
        last = config.num_hidden_layers - 1
        self.blocks = nn.ModuleList(
            DilatedResidualBlock(widths[index], widths[index + 1], 2**index, project_residual=index == last)
            for index in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.output_dropout)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        timestamp_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TimeSeriesModelOutput | tuple[torch.Tensor, ...]:
        """Embed a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. What a missing channel
                does to its timestamp says config.missing_values.
            past_observed_mask: The same shape, True = observed, or None.
            timestamp_mask: (batch_size, sequence_length) bool, True = kept, or None for all. A masked timestamp has
                the projection zero.
            output_hidden_states: Whether to return the projected input and every block's output.
            return_dict: Whether to return a TimeSeriesModelOutput instead of a tuple.

        Returns:
            The embeddings; those of padding are zero.
        """
        wants_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        states: list[torch.Tensor] | None = [] if wants_states else None
        embeddings, pooled = self._embed(past_values, past_observed_mask, None, timestamp_mask, states)
        output = TimeSeriesModelOutput(
            last_hidden_state=embeddings,
            pooler_output=pool_instance(embeddings, pooled, self.config.pooling),
            hidden_states=None if states is None else tuple(states),
        )
        return output if return_dict is not False else output.to_tuple()

    def _embed(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None,
        inside: torch.Tensor | None,
        timestamp_mask: torch.Tensor | None,
        states: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed, as (batch_size, sequence_length, embedding_size), and tell which timestamps pooling takes."""
        observed = self.observed_values(past_values, past_observed_mask)
        hidden = self.project(past_values, observed, timestamp_mask).transpose(0, 1).contiguous()
        read = self.observed_timestamps(observed)
        gate = self._gate(read, inside)
        if states is not None:
            states.append(hidden.transpose(0, 1))
        for block in self.blocks:
            hidden = block(hidden, gate)
            if states is not None:
                states.append(hidden.transpose(0, 1))
        hidden = self.dropout(hidden)
        if gate is not None:
            hidden = hidden * gate.unsqueeze(-1)
        return hidden.transpose(0, 1).contiguous(), self.pooled_timestamps(read)

    def project(
        self, past_values: torch.Tensor, observed: torch.Tensor, timestamp_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Project the input; timestamps that are missing or masked have the projection zero (paper, section 3.2).

        Args:
            past_values: (..., num_input_channels).
            observed: The same shape, bool.
            timestamp_mask: (...) bool, True = kept, or None for all.

        Returns:
            (..., hidden_size).
        """
        read = self.observed_timestamps(observed)
        kept = (read if timestamp_mask is None else read & timestamp_mask).unsqueeze(-1)
        if self.config.missing_values == "value":
            values = scale_observed(past_values, observed & kept)
        else:
            values = torch.where(kept, past_values, 0.0)
        return self.input_projection(values.to(self.input_projection.weight.dtype)) * kept

    def _gate(self, observed: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor | None:
        """Return (sequence_length, batch_size) of ones, with zeros beyond the series; None for ones only."""
        if not self.config.gate_padding:
            return None
        inside = observed_span(observed) if inside is None else inside
        if not torch.compiler.is_compiling() and bool(inside.all()):
            return None
        return inside.transpose(0, 1).to(self.dtype).contiguous()

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
        mask: str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed every timestamp of a batch, masked as `encode_arguments` says; else as in every method."""
        keep = None if mask is None else timestamp_mask(mask, *past_values.shape[:2])
        return self._embed(
            past_values, past_observed_mask, inside, None if keep is None else keep.to(past_values.device)
        )

    def slide(  # type: ignore[override]  # it names the argument that the base takes by any name
        self,
        values: torch.Tensor,
        context: tuple[int, int],
        stride: int,
        batch_size: int,
        pooling: int | str | None = None,
        mask: str | None = None,
    ) -> torch.Tensor:
        """Embed one series by a sliding window: equal to slide_by_windows, but shared values are computed once."""
        if pooling is not None or mask == "all_false":
            return slide_by_windows(self, values, context, stride, batch_size, pooling, mask=mask)
        before, after = context
        num_windows = -(-len(values) // stride)
        beyond = num_windows * stride - len(values) + after
        padded = nn.functional.pad(values, (0, 0, before, beyond), value=torch.nan)
        observed = ~padded.isnan()
        read = self.observed_timestamps(observed)
        gate = self._gate(read.unsqueeze(0), sliding_span(read, context, stride).unsqueeze(0))
        return slide_dilated_blocks(
            cast(list[DilatedResidualBlock], list(self.blocks)),
            self.project(padded, observed),
            None if gate is None else gate[:, 0] > 0,
            window_length=before + stride + after,
            kept=range(before, before + stride),
            stride=stride,
            masked_last=mask == "mask_last",
        )

    def open_stream(  # type: ignore[override]  # it names the argument that the base takes by any name
        self, window_length: int, batch_size: int, pooling: int | str | None = None, mask: str | None = None
    ) -> SeriesStream:
        """Embed a series as it comes: equal to the base's way, but a step computes only what no step before has."""
        if pooling is not None or mask == "all_false":
            return super().open_stream(window_length, batch_size, pooling, mask=mask)
        return TS2VecStream(self, window_length, masked_last=mask == "mask_last")


class TS2VecStream(SeriesStream):
    """A series that is embedded as it comes, by the state of the dilated convolutions; see DilatedStream.

    Args:
        model: The encoder; its weights are those of the beginning until `reset`.
        window_length: Number of steps of a window.
        masked_last: Whether the last step of every window is masked.
    """

    def __init__(self, model: TS2VecModel, window_length: int, masked_last: bool) -> None:
        self.model, self.window_length, self.masked_last = model, window_length, masked_last
        self.reset()

    def reset(self) -> None:
        """Forget the series: the next step is the first of another one."""
        blocks = cast(list[DilatedResidualBlock], list(self.model.blocks))
        gates = self.model.config.gate_padding
        self._stream = DilatedStream(blocks, self.window_length, self.masked_last, gates)

    @torch.no_grad()
    def push(self, values: torch.Tensor) -> torch.Tensor:
        """Embed further steps, (num_steps, num_input_channels) with NaN = missing, as (num_steps, embedding_size)."""
        observed = ~values.isnan()
        return self._stream.push(self.model.project(values, observed), self.model.observed_timestamps(observed))


class TS2VecForPreTraining(TS2VecPreTrainedModel):
    """The pretext task: two views of a series agree where they overlap (paper, sections 3.2 and 3.3).

    With several processes the views are drawn for the global batch, every process sees all embeddings, and the mean
    of the processes' losses is the loss of one process on the same global batch, with its gradient.
    """

    def __init__(self, config: TS2VecConfig) -> None:
        super().__init__(config)
        self.model = TS2VecModel(config)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        views: TS2VecViews | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> TS2VecForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            views: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a TS2VecForPreTrainingOutput instead of a tuple.

        Returns:
            The loss, its terms and the compared embeddings.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        batch = GlobalBatch.of(self)
        if self.training and self.config.alpha > 0 and batch.num_processes * len(past_values) == 1:
            logger.warning_once(ONE_SERIES_WARNING)
        if views is None:
            length, config = past_values.shape[1], self.config
            views = batch.draw(lambda size, source: draw_views(size, length, config, source), past_values, generator)
        read = self.observed_timestamps(observed)
        first, second = self.embed_views(torch.where(observed, past_values, torch.nan), read, views)
        compared = take_steps(read, views.second_start, views.crop_length)
        loss, instance_loss, temporal_loss = self._contrast_global_batch(batch, first, second, compared)
        output = TS2VecForPreTrainingOutput(
            loss=loss, instance_loss=instance_loss, temporal_loss=temporal_loss, last_hidden_state=first.detach()
        )
        return output if return_dict is not False else output.to_tuple()

    def embed_views(
        self, values: torch.Tensor, observed: torch.Tensor, views: TS2VecViews
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the timestamps that two views of every series have in common, once in the context of each.

        Args:
            values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            observed: (batch_size, sequence_length) bool, what `observed_timestamps` says of the values.
            views: The random choices.

        Returns:
            Twice (batch_size, crop_length, embedding_size).
        """
        inside = observed_span(observed)
        first = self._view(values, inside, views.first_start, views.first_length, views.first_mask)
        second = self._view(values, inside, views.second_start, views.second_length, views.second_mask)
        return first[:, -views.crop_length :], second[:, : views.crop_length]

    @torch.compiler.disable  # the kernel writes its gradient tile by tile
    def _contrast_global_batch(
        self, batch: GlobalBatch, first: torch.Tensor, second: torch.Tensor, compared: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Contrast the views with those of all processes, each of which computes its share of the groups."""
        config = self.config
        # In the official code missing timestamps are masked ones, and compared as these are.
        observed = batch.gather(compared) if config.gate_padding else None
        if observed is not None and bool(observed.all()):
            observed = None
        share = (batch.rank, batch.num_processes)
        return hierarchical_contrastive_loss(
            batch.gather(first),
            batch.gather(second),
            config.alpha,
            config.temporal_unit,
            observed,
            loss_of_level=functools.partial(tiled_dual_loss, share=share),
        )

    def _view(
        self, values: torch.Tensor, inside: torch.Tensor, start: torch.Tensor, length: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Embed one view: (batch_size, length, embedding_size)."""
        mask = None if mask is None else mask.to(values.device)
        embeddings, _ = self.model._embed(
            take_steps(values, start, length), None, take_steps(inside, start, length), mask
        )
        return embeddings


class TS2VecForTimeSeriesClassification(GenericForTimeSeriesClassification, TS2VecPreTrainedModel):
    """The encoder with class scores on the embedding of a series.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: TS2VecConfig) -> None:
        super().__init__(config)
        self.model = TS2VecModel(config)
        self.classifier = ClassificationHead(config)
        self.post_init()


class TS2VecForTimeSeriesPrediction(GenericForTimeSeriesPrediction, TS2VecPreTrainedModel):
    """The encoder with a linear prediction of the future from the embedding at the last observed timestamp.

    Args:
        config: Configuration; prediction_length and num_output_channels give the future's.
    """

    def __init__(self, config: TS2VecConfig) -> None:
        super().__init__(config)
        self.model = TS2VecModel(config)
        self.head = PredictionHead(config)
        self.post_init()


# Official checkpoints (github.com/zhihanyue/ts2vec).
# torch's AveragedModel, which TS2Vec.save stores, puts a prefix before every name and counts its updates.
_AVERAGED_PREFIX, _AVERAGED_COUNTER = "module.", "n_averaged"
_OFFICIAL_BLOCK = re.compile(r"feature_extractor\.net\.(\d+)\.(conv1\.conv|conv2\.conv|projector)\.(weight|bias)")
_OUR_LAYER = {
    "conv1.conv": "first_convolution",
    "conv2.conv": "second_convolution",
    "projector": "residual_projection",
}
# Arguments of the official TS2Vec class, of its TSEncoder and of the command line that shape the model -> our fields.
_FIELDS_OF_ARGUMENTS = {
    "input_dims": "num_input_channels",
    "hidden_dims": "hidden_size",
    "output_dims": "embedding_size",
    "repr_dims": "embedding_size",
    "depth": "num_hidden_layers",
    "mask_mode": "mask_mode",
    "temporal_unit": "temporal_unit",
}
# Arguments of the same that concern its training and evaluation alone; recipes hold them.
_TRAINING_ARGUMENTS = frozenset(
    {"batch_size", "device", "epochs", "gpu", "iters", "lr", "max_threads", "max_train_length", "n_epochs", "n_iters"}
    | {"after_epoch_callback", "after_iter_callback", "save_every", "seed", "verbose"}
    | {"dataset", "run_name", "loader", "eval", "irregular"}
)


def rename_ts2vec_parameter(official: str) -> str | None:
    """Return our name of an official parameter, or None where the official code has no such parameter."""
    if official in ("input_fc.weight", "input_fc.bias"):
        return official.replace("input_fc", "input_projection")
    match = _OFFICIAL_BLOCK.fullmatch(official)
    return None if match is None else f"blocks.{match[1]}.{_OUR_LAYER[match[2]]}.{match[3]}"


def convert_ts2vec_state_dict(state_dict: Mapping[str, torch.Tensor]) -> FieldsAndParameters:
    """Turn an official state dict into ours.

    Args:
        state_dict: Of the official TSEncoder, or of the AveragedModel around it that TS2Vec.save stores.

    Returns:
        Fields for TS2VecConfig, with the official treatment of missing values, and the parameters of TS2VecModel.

    Raises:
        ConversionError: Parameters are missing, unknown or of shapes that do not fit each other.
    """
    official = {key.removeprefix(_AVERAGED_PREFIX): value for key, value in state_dict.items()}
    official.pop(_AVERAGED_COUNTER, None)
    blocks = [int(match[1]) for key in official if (match := _OFFICIAL_BLOCK.fullmatch(key))]
    num_blocks = max(blocks, default=-1) + 1
    if not num_blocks:
        raise ConversionError(
            f"This is no TS2Vec checkpoint: it holds {list_names(sorted(state_dict)) or 'nothing'}, and none of "
            "feature_extractor.net.0.conv1.conv.weight, ..."
        )
    if num_blocks > len(official):  # a wrong number must not make a list of millions of missing names
        raise ConversionError(
            f"Blocks are numbered up to {num_blocks - 1}, but there are only {len(official)} parameters."
        )
    require_parameters(official, _official_parameters(num_blocks), f"a TS2Vec of {num_blocks} blocks")
    fields = _fields_of_shapes(official, num_blocks)
    _check_shapes(official, fields)
    ours = {cast(str, rename_ts2vec_parameter(key)): value for key, value in official.items()}
    return {**fields, "gate_padding": False, "missing_values": "timestamp"}, ours


def ts2vec_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of TS2VecConfig, but for what concerns training alone.

    Args:
        hyperparameters: Official names, such as input_dims, hidden_dims, output_dims, depth.

    Returns:
        Fields. A depth of 10 means 11 blocks.

    Raises:
        ConversionError: Two arguments contradict each other, or depth is no whole number.
    """
    depth = hyperparameters.get("depth")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int)):
        raise ConversionError(f"depth={depth!r} is no whole number.")
    values = {} if depth is None else {"depth": {depth: depth + 1}}
    return rename_hyperparameters(hyperparameters, _FIELDS_OF_ARGUMENTS, _TRAINING_ARGUMENTS, values)


def _official_parameters(num_blocks: int) -> list[str]:
    layers = [(index, layer) for index in range(num_blocks) for layer in ("conv1.conv", "conv2.conv")]
    layers.append((num_blocks - 1, "projector"))
    names = ["input_fc", *(f"feature_extractor.net.{index}.{layer}" for index, layer in layers)]
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def _fields_of_shapes(official: Mapping[str, torch.Tensor], num_blocks: int) -> dict[str, int]:
    projection = official["input_fc.weight"]
    last = official[f"feature_extractor.net.{num_blocks - 1}.conv2.conv.weight"]
    if projection.ndim != 2 or last.ndim != 3:
        raise ConversionError(
            f"The sizes of the model cannot be told: input_fc.weight has shape {tuple(projection.shape)} and the "
            f"last convolution {tuple(last.shape)}."
        )
    return {
        "num_input_channels": projection.shape[1],
        "hidden_size": projection.shape[0],
        "embedding_size": last.shape[0],
        "num_hidden_layers": num_blocks,
    }


def _check_shapes(official: Mapping[str, torch.Tensor], fields: Mapping[str, int]) -> None:
    hidden, embedding, num_blocks = fields["hidden_size"], fields["embedding_size"], fields["num_hidden_layers"]
    expected = {"input_fc.weight": (hidden, fields["num_input_channels"]), "input_fc.bias": (hidden,)}
    for index in range(num_blocks):
        block, width = f"feature_extractor.net.{index}", embedding if index == num_blocks - 1 else hidden
        expected[f"{block}.conv1.conv.weight"] = (width, hidden, 3)
        expected[f"{block}.conv2.conv.weight"] = (width, width, 3)
        expected[f"{block}.projector.weight"] = (width, hidden, 1)
        expected |= {f"{block}.{layer}.bias": (width,) for layer in ("conv1.conv", "conv2.conv", "projector")}
    wrong = [
        f"{key} has shape {tuple(value.shape)} instead of {expected[key]}"
        for key, value in official.items()
        if tuple(value.shape) != expected[key]
    ]
    if wrong:
        raise ConversionError(f"The parameters do not fit each other: {'; '.join(wrong)}.")


TS2VecPreTrainedModel.converter = Converter(
    convert=convert_ts2vec_state_dict,
    fields_of_hyperparameters=ts2vec_fields_of_hyperparameters,
    hyperparameter_names={*_FIELDS_OF_ARGUMENTS, *_TRAINING_ARGUMENTS},
    fields_of_shapes=("num_input_channels", "hidden_size", "embedding_size", "num_hidden_layers"),
)
