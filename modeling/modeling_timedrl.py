"""TimeDRL: Disentangled Representation Learning for Multivariate Time Series (Chang et al., ICDE 2024).

arXiv 2312.04142. Section IV-B, two-level embeddings: patches and a [CLS] token -> patch_encoder_timedrl.py,
encoders_timedrl.py, TimeDRLModel.
Section IV-C, timestamp-predictive task, and IV-D, instance-contrastive task -> TimeDRLForPreTraining,
heads_timedrl.py, losses_timedrl.py, views_timedrl.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_timedrl import TimeDRLConfig
from .distributed_time_series import fork_generator, process_share
from .generic_heads_time_series import (
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
)
from .heads_time_series import ClassificationHead
from .heads_timedrl import ContrastivePredictor, FlattenedPredictionHead, TimestampPredictor, last_patches
from .initialization_time_series import initialize_shared_layer
from .layers_dropout import DropoutDraws
from .layers_patching import align_series
from .losses_timedrl import contrastive_loss, predictive_loss
from .modeling_time_series import TimeSeriesPreTrainedModel
from .outputs_time_series import TimeSeriesModelOutput
from .patch_encoder_timedrl import EncodedRows, PatchEncoder, normalize_series
from .views_timedrl import TimeDRLViews, draw_views


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
    _no_split_modules = ["TransformerLayer", "CausalConvolutionBlock"]  # noqa: RUF012 - as transformers declares it
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 - as above
        r"^(timestamp_predictor|contrastive_predictor|head)\."
    ]
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_timedrl.TimeDRLConfig",
        "AutoModel": "modeling_timedrl.TimeDRLModel",
        "AutoModelForPreTraining": "modeling_timedrl.TimeDRLForPreTraining",
        "AutoModelForSequenceClassification": "modeling_timedrl.TimeDRLForTimeSeriesClassification",
        "AutoModelForTimeSeriesPrediction": "modeling_timedrl.TimeDRLForTimeSeriesPrediction",
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if initialize_shared_layer(module):
            return
        if isinstance(module, PatchEncoder):
            init.normal_(module.cls_token)
        elif isinstance(module, nn.LSTM):
            bound = 1.0 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        else:
            super()._init_weights(module)


class TimeDRLModel(TimeDRLPreTrainedModel):
    """The encoder (paper, section IV-B).

    Args:
        config: Sizes.
    """

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
            observed timestamp, and those behind a series are zero. pooler_output: the instance embedding, with
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
        seen = self.by_series(encoded.seen).view(*values.shape[:2], *(1,) * (values.ndim - 2))
        # A series without any observed value has the mean of what the channels make of nothing.
        seen = seen | ~seen.any(1, keepdim=True)
        return (values * seen).sum(1) / seen.sum(1)

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

    Args:
        config: Sizes of the encoder and settings of the tasks.
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
        rank, num_processes = process_share() if self.training else (0, 1)
        if views is None:
            views = self._draw(past_values, rank, num_processes, generator)
        raw = align_series(past_values, observed)
        series, _ = normalize_series(raw)
        draws = DropoutDraws(views.dropout_seed, 2, rank, num_processes)
        kept = None if views.embedding_kept is None else views.embedding_kept.flatten(0, 1)
        encoded = self.model.patch_encoder(views.apply(series), draws, kept)
        target, counted = self.model.patch_encoder.target(raw if self.config.prediction_target == "raw" else series)
        predicted = self.timestamp_predictor(encoded.patches, draws).unflatten(0, (2, -1))
        other = self.contrastive_predictor(encoded.instances, encoded.seen, draws).unflatten(0, (2, -1))
        instances, seen = encoded.instances.unflatten(0, (2, -1)), encoded.seen.unflatten(0, (2, -1)).all(0)
        predictive = predictive_loss(predicted, target, counted, num_processes)
        contrastive = contrastive_loss(instances, other, seen, self.config.stop_gradient, num_processes)
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

    def _draw(
        self, past_values: torch.Tensor, rank: int, num_processes: int, generator: torch.Generator | None
    ) -> TimeDRLViews:
        source = fork_generator(generator, past_values.device, is_shared=self.training)
        batch_size, length, num_channels = past_values.shape
        views = draw_views(self.config.augmentation, num_processes * batch_size, length, num_channels, source)
        return views.rows(rank * batch_size, (rank + 1) * batch_size)


class TimeDRLForTimeSeriesClassification(GenericForTimeSeriesClassification, TimeDRLPreTrainedModel):
    """The encoder with class scores on the instance embedding.

    Args:
        config: Sizes; num_labels or id2label gives the classes.
    """

    def __init__(self, config: TimeDRLConfig) -> None:
        super().__init__(config)
        self.model = TimeDRLModel(config)
        self.head = ClassificationHead(config)
        self.post_init()


class TimeDRLForTimeSeriesPrediction(GenericForTimeSeriesPrediction, TimeDRLPreTrainedModel):
    """The encoder with a linear prediction of the future from the patches of the last context_length timestamps.

    The future follows the last observed timestamp; timestamps before the last context_length are not looked at.

    Args:
        config: Sizes; prediction_length and num_output_channels (the last channels) give the future's.
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


TimeDRLModel.register_for_auto_class("AutoModel")
TimeDRLForPreTraining.register_for_auto_class("AutoModelForPreTraining")
TimeDRLForTimeSeriesClassification.register_for_auto_class("AutoModelForSequenceClassification")
TimeDRLForTimeSeriesPrediction.register_for_auto_class("AutoModelForTimeSeriesPrediction")
