"""SimMTM: A Simple Pre-Training Framework for Masked Time-Series Modeling (Dong et al., NeurIPS 2023, 2302.00861).

Section 3.1, masking: geometric masks of several views -> masking_simmtm.py.
Section 3.2, representations: point-wise -> point_encoder_simmtm.py, SimMTMModel; series-wise -> heads_simmtm.py.
Sections 3.2 to 3.4, similarity, aggregation and the losses -> losses_simmtm.py, SimMTMForPreTraining.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_simmtm import SimMTMConfig
from .context_simmtm import take_context
from .distributed_time_series import fork_generator, gather_rows, process_share
from .generic_heads_time_series import (
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
)
from .heads_simmtm import ContextClassificationHead, ContextDecoder, ContextPredictionHead, SeriesProjector
from .initialization_time_series import initialize_shared_layer
from .layers_dropout import DropoutDraws
from .layers_instance_normalization import InstanceStatistics, denormalize_instances
from .layers_patching import align_series
from .losses_simmtm import (
    RowPairs,
    aggregation_weights,
    constraint_losses,
    cosine_similarity,
    squared_errors,
    weigh_losses,
)
from .masking_simmtm import SimMTMDraws, draw_step
from .modeling_time_series import TimeSeriesPreTrainedModel
from .outputs_time_series import TimeSeriesModelOutput
from .point_encoder_simmtm import PointEncoder, PointFeatures
from .pooling_time_series import pool_instance


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
    _no_split_modules = ["TransformerLayer", "ConvolutionBlock"]  # noqa: RUF012 - declared as an instance's variable
    _keys_to_ignore_on_load_unexpected = [r"^(projector|decoder|head)\.", r"^loss_weights$"]  # noqa: RUF012 - as above
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_simmtm.SimMTMConfig",
        "AutoModel": "modeling_simmtm.SimMTMModel",
        "AutoModelForPreTraining": "modeling_simmtm.SimMTMForPreTraining",
        "AutoModelForSequenceClassification": "modeling_simmtm.SimMTMForTimeSeriesClassification",
        "AutoModelForTimeSeriesPrediction": "modeling_simmtm.SimMTMForTimeSeriesPrediction",
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SimMTMForPreTraining) and module.loss_weights is not None:
            nn.init.ones_(module.loss_weights)
        if not initialize_shared_layer(module):
            super()._init_weights(module)


class SimMTMModel(SimMTMPreTrainedModel):
    """The encoder.

    Args:
        config: Sizes.
    """

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
            See PointEncoder.point_features, and the hidden states or None.
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

    Args:
        config: Sizes of the encoder and settings of the task.
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
        observed = self.observed_values(past_values, past_observed_mask)
        if draws is None:
            draws = self._draw(past_values, generator)
        window = slice(draws.start, draws.start + self.config.context_length)
        values, observed = take_context(
            past_values[:, window], observed[:, window], self.config.context_length, at_end=False
        )
        keep = draws.keep.to(values.device)
        rows, statistics = self.encode_views(values, observed, keep, self._dropout(draws, 1 + len(keep)))
        everywhere, pairs = self._gather(rows, observed)
        similarity = None if self.projector is None else self.compare_series(rows, pairs, self._dropout(draws, 1))
        decoded = self.decode(rows, everywhere, similarity, pairs, statistics, self._dropout(draws, 1))
        num_processes = self._share()[1]
        errors = squared_errors(decoded, values, observed, keep if self.config.reconstruct_masked_views else None)
        num_errors = self._everywhere(observed.sum().view(1)).sum() * len(decoded)
        reconstruction_loss = errors.sum() * num_processes / num_errors.clamp(min=1)
        constraint = constraint_losses(similarity, pairs, self.config.temperature)
        constraint = constraint.sum() * num_processes / pairs.observed.sum().clamp(min=1)
        loss = reconstruction_loss
        if self.loss_weights is not None:
            loss = weigh_losses(torch.stack([constraint, reconstruction_loss]), self.loss_weights)
        output = SimMTMForPreTrainingOutput(
            loss=loss,
            constraint_loss=constraint.detach(),
            reconstruction_loss=reconstruction_loss.detach(),
            reconstruction=(decoded[0] if self.config.use_aggregation else decoded.mean(0)).detach(),
        )
        return output if return_dict is not False else output.to_tuple()

    def _draw(self, past_values: torch.Tensor, generator: torch.Generator | None) -> SimMTMDraws:
        rank, num_processes = self._share()
        batch_size, length, _ = past_values.shape
        source = fork_generator(generator, past_values.device, is_shared=self.training)
        draws = draw_step(self.config, num_processes * batch_size, length, source)
        return draws.rows(rank * batch_size, (rank + 1) * batch_size)

    def _dropout(self, draws: SimMTMDraws, num_views: int) -> DropoutDraws | None:
        """Return the choices of dropout, for rows of so many views behind each other; None for random ones."""
        # The fused kernels draw the dropout of attention weights themselves.
        if not self.training or draws.dropout_seed is None or self.config.attention_dropout > 0:
            return None
        return DropoutDraws(draws.dropout_seed, num_views, *self._share())

    def _share(self) -> tuple[int, int]:
        return process_share() if self.training else (0, 1)

    def _everywhere(self, rows: torch.Tensor) -> torch.Tensor:
        return gather_rows(rows) if self.training else rows

    def encode_views(
        self, values: torch.Tensor, observed: torch.Tensor, keep: torch.Tensor, draws: DropoutDraws | None = None
    ) -> tuple[torch.Tensor, InstanceStatistics | None]:
        """Encode the series and their masked views in one pass.

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

    def _gather(self, rows: torch.Tensor, observed: torch.Tensor) -> tuple[torch.Tensor, RowPairs]:
        """Return the rows of all processes, (num_rows, num_features), and how this process's are paired with them."""
        rank, _ = self._share()
        num_series, num_views, _ = rows.shape
        series_observed = self.model.encoder.rows(observed).any(-1).any(-1)
        row_observed = self._everywhere(series_observed.repeat_interleave(num_views).to(torch.uint8)).bool()
        series = torch.arange(len(row_observed), device=rows.device) // num_views
        itself = rank * num_series * num_views + torch.arange(num_series * num_views, device=rows.device)
        everywhere = self._everywhere(rows.flatten(0, 1)) if self.config.use_aggregation else rows.flatten(0, 1)
        return everywhere, RowPairs(series[itself], series, itself, row_observed)

    def compare_series(self, rows: torch.Tensor, pairs: RowPairs, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Project the rows and compare them: (num_anchors, num_rows) cosine similarities."""
        assert self.projector is not None, "without constraint and aggregation nothing is compared"
        own_observed = pairs.anchor_observed
        gate = None if bool(own_observed.all()) else own_observed
        anchors = self.projector(rows.flatten(0, 1), gate, draws)
        return cosine_similarity(anchors, self._everywhere(anchors))

    def decode(
        self,
        rows: torch.Tensor,
        everywhere: torch.Tensor,
        similarity: torch.Tensor | None,
        pairs: RowPairs,
        statistics: InstanceStatistics | None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Aggregate and reconstruct (equations 4 and 5).

        Args:
            rows: (num_series, 1 + num_masked_views, num_features), of this process.
            everywhere: (num_rows, num_features), of all.
            similarity: (num_anchors, num_rows).
            pairs: What the rows are.
            statistics: What the views were normalised by.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_reconstructions, batch_size, context_length, num_input_channels): of the originals, or of all views,
            or without aggregation of the originals from each masked view.
        """
        config, num_views = self.config, rows.shape[1]
        if config.use_aggregation:
            assert similarity is not None, "aggregation has a projector"
            views = slice(None) if config.reconstruct_masked_views else slice(1)
            anchors = torch.arange(len(similarity), device=rows.device).view(-1, num_views)[:, views].flatten()
            weights = aggregation_weights(similarity[anchors], pairs.of_anchors(anchors), config.temperature)
            aggregated = (weights.to(everywhere.dtype) @ everywhere).unflatten(0, (len(rows), -1))
        else:
            views = slice(1, None)
            aggregated = rows[:, views]
        decoded = self.decoder(aggregated, draws).unflatten(0, (-1, config.num_groups))
        decoded = decoded.permute(2, 0, 3, 1, 4).flatten(3)
        if statistics is None:
            return decoded.float()
        mean, deviation = (part.unflatten(0, (num_views, -1))[views] for part in statistics)
        return denormalize_instances(decoded, InstanceStatistics(mean, deviation))


class SimMTMForTimeSeriesClassification(GenericForTimeSeriesClassification, SimMTMPreTrainedModel):
    """The encoder with class scores on all point-wise representations of the context.

    The first observed timestamp of a series is the context's first one; of longer series the first ones are taken.

    Args:
        config: Sizes; num_labels or id2label gives the classes.
    """

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__(config)
        self.model = SimMTMModel(config)
        self.head = ContextClassificationHead(config, config.num_groups * self.model.encoder.num_context_features)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Represent all positions of the context; see GenericWithHead.compute_head_inputs.

        Returns:
            features (batch_size, num_groups * num_positions * hidden_size).
        """
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=False)
        features, states = self.model.context_features(values, observed, output_hidden_states)
        return EncodedForHead({"features": features.hidden.flatten(1)}, states)


class SimMTMForTimeSeriesPrediction(GenericForTimeSeriesPrediction, SimMTMPreTrainedModel):
    """The encoder with a linear forecast from all point-wise representations of the context.

    The last observed timestamp of a series is the context's last one; of longer series the last ones are taken.

    Args:
        config: Sizes; prediction_length and num_output_channels give the future's. Of more input than output channels
            the last ones are predicted.
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
        """Represent all positions of the context; see GenericWithHead.compute_head_inputs.

        Returns:
            features (batch_size, num_groups, num_positions * hidden_size); with instance normalisation mean and
            deviation (batch_size, 1, num_input_channels) of the context.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        values, observed = take_context(past_values, observed, self.config.context_length, at_end=True)
        features, states = self.model.context_features(values, observed, output_hidden_states)
        statistics = {} if features.statistics is None else features.statistics._asdict()
        return EncodedForHead({"features": features.hidden.flatten(2), **statistics}, states)


SimMTMModel.register_for_auto_class("AutoModel")
SimMTMForPreTraining.register_for_auto_class("AutoModelForPreTraining")
SimMTMForTimeSeriesClassification.register_for_auto_class("AutoModelForSequenceClassification")
SimMTMForTimeSeriesPrediction.register_for_auto_class("AutoModelForTimeSeriesPrediction")
