"""TS2Vec: Towards Universal Representation of Time Series (Yue et al., AAAI 2022, arXiv 2106.10466).

Section 3.1, the encoder: an input projection, timestamp masking and dilated convolutions -> TS2VecModel.
Section 3.2, contextual consistency: two overlapping masked crops of a series -> views_ts2vec.py, TS2VecForPreTraining.
Section 3.3, hierarchical contrast -> losses_hierarchical_contrast.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_ts2vec import TS2VecConfig
from .distributed_time_series import fork_generator, gather_rows, process_share
from .encoding_time_series import EncodeSettings, observed_span, slide_by_windows
from .generic_heads_time_series import (
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
)
from .heads_time_series import ClassificationHead, PredictionHead
from .layers_dilated_convolution import DilatedResidualBlock
from .layers_masking import timestamp_mask
from .losses_hierarchical_contrast import hierarchical_contrastive_loss
from .modeling_time_series import TimeSeriesPreTrainedModel
from .outputs_time_series import TimeSeriesModelOutput
from .pooling_time_series import pool_instance
from .sliding_dilated_convolution import slide_dilated_blocks
from .views_ts2vec import TS2VecViews, draw_views, take_steps

# Masks of `encode` that are the same in every call.
ENCODE_MASKS = ("all_true", "all_false", "mask_last")


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
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_ts2vec.TS2VecConfig",
        "AutoModel": "modeling_ts2vec.TS2VecModel",
        "AutoModelForPreTraining": "modeling_ts2vec.TS2VecForPreTraining",
        "AutoModelForSequenceClassification": "modeling_ts2vec.TS2VecForTimeSeriesClassification",
        "AutoModelForTimeSeriesPrediction": "modeling_ts2vec.TS2VecForTimeSeriesPrediction",
    }

    def observed_timestamps(self, observed: torch.Tensor) -> torch.Tensor:
        """Return which timestamps are read: those with all channels observed, (...) bool."""
        return observed.all(-1)

    def pooled_timestamps(self, observed: torch.Tensor) -> torch.Tensor | None:
        """Return which timestamps pooling takes: the observed ones, or all in the official code's way."""
        return super().pooled_timestamps(observed) if self.config.gate_padding else None

    def encode(
        self,
        series: Any,
        level: str = "instance",
        window_length: int | None = None,
        stride: int | None = None,
        causal: bool = False,
        pooling: str | int | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        normalize: bool = False,
        show_progress_bar: bool | None = None,
        mask: str | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Turn series into embeddings; all arguments but `mask` are those of TimeSeriesPreTrainedModel.encode.

        `mask`: "mask_last" masks the last timestamp of every series or window (its embedding is then what the rest
        tells about it; the anomaly score compares it with the unmasked one), "all_false" masks all. None and
        "all_true" mask nothing.

        Returns:
            See TimeSeriesPreTrainedModel.encode.

        Raises:
            ValueError: See TimeSeriesPreTrainedModel.encode; or the mask is unknown.
        """
        if mask is not None and mask not in ENCODE_MASKS:
            raise ValueError(f"mask={mask!r} is unknown; choose None, {', '.join(map(repr, ENCODE_MASKS))}.")
        settings = EncodeSettings(
            level, window_length, stride, causal, pooling, batch_size, normalize, show_progress_bar
        )
        return self._encode(series, settings, device, {"mask": mask})


class TS2VecModel(TS2VecPreTrainedModel):
    """The encoder (paper, section 3.1).

    Args:
        config: Sizes.
    """

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
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. A timestamp with any
                missing channel is missing.
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
        observed = self.observed_values(past_values, past_observed_mask).all(-1)
        hidden = self.project(past_values, observed if timestamp_mask is None else observed & timestamp_mask)
        hidden = hidden.transpose(0, 1).contiguous()
        gate = self._gate(observed, inside)
        if states is not None:
            states.append(hidden.transpose(0, 1))
        for block in self.blocks:
            hidden = block(hidden, gate)
            if states is not None:
                states.append(hidden.transpose(0, 1))
        hidden = self.dropout(hidden)
        if gate is not None:
            hidden = hidden * gate.unsqueeze(-1)
        return hidden.transpose(0, 1).contiguous(), self.pooled_timestamps(observed)

    def project(self, past_values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Project the input; timestamps that are not kept have the projection zero (paper, section 3.2).

        Args:
            past_values: (..., num_input_channels).
            kept: (...) bool.

        Returns:
            (..., hidden_size).
        """
        kept = kept.unsqueeze(-1)
        values = torch.where(kept, past_values, 0.0).to(self.input_projection.weight.dtype)
        return self.input_projection(values) * kept

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
        """Embed every timestamp of a batch; see TimeSeriesPreTrainedModel.embed_timestamps and `encode` for `mask`."""
        keep = None if mask is None else timestamp_mask(mask, *past_values.shape[:2])
        return self._embed(
            past_values, past_observed_mask, inside, None if keep is None else keep.to(past_values.device)
        )

    def slide(
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
        observed = ~padded.isnan().any(-1)
        gate = self._gate(observed.unsqueeze(0), None)
        return slide_dilated_blocks(
            cast(list[DilatedResidualBlock], list(self.blocks)),
            self.project(padded, observed),
            None if gate is None else gate[:, 0] > 0,
            window_length=before + stride + after,
            kept=range(before, before + stride),
            stride=stride,
            masked_last=mask == "mask_last",
        )


class TS2VecForPreTraining(TS2VecPreTrainedModel):
    """The pretext task: two views of a series agree where they overlap (paper, sections 3.2 and 3.3).

    With several processes the views are drawn for the global batch, every process sees all embeddings, and the mean
    of the processes' losses is the loss of one process on the same global batch, with its gradient.

    Args:
        config: Sizes of the encoder and settings of the task.
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
        share = process_share() if self.training else (0, 1)
        if views is None:
            views = self._draw(past_values, share, generator)
        values = torch.where(observed, past_values, torch.nan)
        inside = observed_span(observed.all(-1))
        first = self._view(values, inside, views.first_start, views.first_length, views.first_mask)
        second = self._view(values, inside, views.second_start, views.second_length, views.second_mask)
        first, second = first[:, -views.crop_length :], second[:, : views.crop_length]
        compared = self._compared(observed.all(-1), views, share[1])
        everywhere = (gather_rows(first), gather_rows(second)) if share[1] > 1 else (first, second)
        loss, instance_loss, temporal_loss = hierarchical_contrastive_loss(
            *everywhere, self.config.alpha, self.config.temporal_unit, compared, share
        )
        output = TS2VecForPreTrainingOutput(
            loss=loss, instance_loss=instance_loss, temporal_loss=temporal_loss, last_hidden_state=first.detach()
        )
        return output if return_dict is not False else output.to_tuple()

    def _draw(
        self, past_values: torch.Tensor, share: tuple[int, int], generator: torch.Generator | None
    ) -> TS2VecViews:
        rank, num_processes = share
        batch_size, length, _ = past_values.shape
        source = fork_generator(generator, past_values.device, is_shared=self.training)
        views = draw_views(num_processes * batch_size, length, self.config, source)
        return views.rows(rank * batch_size, (rank + 1) * batch_size)

    def _view(
        self, values: torch.Tensor, inside: torch.Tensor, start: torch.Tensor, length: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Embed one view: (batch_size, length, embedding_size)."""
        mask = None if mask is None else mask.to(values.device)
        embeddings, _ = self.model._embed(
            take_steps(values, start, length), None, take_steps(inside, start, length), mask
        )
        return embeddings

    def _compared(self, observed: torch.Tensor, views: TS2VecViews, num_processes: int) -> torch.Tensor | None:
        """Mark the observed timestamps of the crop: (num_processes * batch_size, crop_length) bool; None for all."""
        if not self.config.gate_padding:
            return None
        compared = take_steps(observed, views.second_start, views.crop_length)
        if num_processes > 1:
            compared = gather_rows(compared.to(torch.uint8)).bool()
        return None if bool(compared.all()) else compared


class TS2VecForTimeSeriesClassification(GenericForTimeSeriesClassification, TS2VecPreTrainedModel):
    """The encoder with class scores on the embedding of a series.

    Args:
        config: Sizes; num_labels or id2label gives the classes.
    """

    def __init__(self, config: TS2VecConfig) -> None:
        super().__init__(config)
        self.model = TS2VecModel(config)
        self.head = ClassificationHead(config)
        self.post_init()


class TS2VecForTimeSeriesPrediction(GenericForTimeSeriesPrediction, TS2VecPreTrainedModel):
    """The encoder with a linear prediction of the future from the embedding at the last observed timestamp.

    Args:
        config: Sizes; prediction_length and num_output_channels give the future's.
    """

    def __init__(self, config: TS2VecConfig) -> None:
        super().__init__(config)
        self.model = TS2VecModel(config)
        self.head = PredictionHead(config)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Embed the last observed timestamp: (batch_size, embedding_size); see GenericWithHead.compute_head_inputs."""
        encoded = self.model(past_values, past_observed_mask, output_hidden_states=output_hidden_states)
        observed = self.model.observed_values(past_values, past_observed_mask).all(-1)
        last = pool_instance(encoded.last_hidden_state, self.pooled_timestamps(observed), "last")
        return EncodedForHead({"embedding": last}, encoded.hidden_states)


TS2VecModel.register_for_auto_class("AutoModel")
TS2VecForPreTraining.register_for_auto_class("AutoModelForPreTraining")
TS2VecForTimeSeriesClassification.register_for_auto_class("AutoModelForSequenceClassification")
TS2VecForTimeSeriesPrediction.register_for_auto_class("AutoModelForTimeSeriesPrediction")
