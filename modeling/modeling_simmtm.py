"""SimMTM: A Simple Pre-Training Framework for Masked Time-Series Modeling (Dong et al., NeurIPS 2023, 2302.00861).

Section 3.1, masking (equation 1) -> geometric_mask, draw_step.
Section 3.2, representations (equation 2) -> PointEncoder and its two networks, SeriesProjector.
Section 3.3, similarity, aggregation and decoding (equations 3 to 5) -> cosine_similarity, aggregation_weights,
ContextDecoder. Section 3.4, losses (equations 6 and 7) -> squared_errors, constraint_losses, weigh_losses.
SimMTMForPreTraining.forward puts them together. The converter of official checkpoints is at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .configuration_simmtm import SimMTMConfig
from .distributed_time_series import fork_generator, gather_rows, mean_over_processes, process_share
from .heads_time_series import (
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    TimeSeriesModelOutput,
    classification_loss,
    pool_instance,
    prediction_loss,
)
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_normalization import (
    InstanceStatistics,
    MaskedBatchNorm,
    denormalize_instances,
    instance_statistics,
    normalize_instances,
)
from .layers_patching import AlignedSeries, align_series
from .layers_transformer import (
    CircularTokenEmbedding,
    TransformerEncoder,
    sinusoidal_positions,
)
from .modeling_time_series import TimeSeriesPreTrainedModel


def geometric_mask(uniforms: torch.Tensor, mask_ratio: float, mean_mask_length: float) -> torch.Tensor:
    """Let a chain of two states, masked and kept, walk over the timestamps (equation 1; section 3.1).

    Masked stretches so have the given mean length, kept ones mean_mask_length * (1 - mask_ratio) / mask_ratio.

    Args:
        uniforms: (..., 1 + length) in [0, 1): the first number draws the state of the first step, number i + 1
            whether the state changes after step i.
        mask_ratio: Expected share of masked steps; above 0 and below 1.
        mean_mask_length: Expected length of a masked stretch; at least 1.

    Returns:
        (..., length) bool, True = kept.
    """
    leaves_mask = 1.0 / mean_mask_length
    leaves_kept = leaves_mask * mask_ratio / (1.0 - mask_ratio)
    kept, steps = uniforms[..., 0] > mask_ratio, []
    for number in uniforms[..., 1:].unbind(-1):
        steps.append(kept)
        kept = kept ^ torch.where(kept, number < leaves_kept, number < leaves_mask)
    return torch.stack(steps, dim=-1)


def geometric_mask_at_once(uniforms: torch.Tensor, mask_ratio: float, mean_mask_length: float) -> torch.Tensor:
    """Compute what geometric_mask does, for all steps together: the chain of a batch can have 100,000 steps.

    A number below both probabilities changes the state, whichever it is; one between them leads to the same state from
    both, which is where counting the changes can begin anew; a higher one changes nothing.

    Args:
        uniforms: As in geometric_mask.
        mask_ratio: As in geometric_mask.
        mean_mask_length: As in geometric_mask.

    Returns:
        (..., length) bool, True = kept.
    """
    length = uniforms.shape[-1] - 1
    leaves_mask = 1.0 / mean_mask_length
    leaves_kept = leaves_mask * mask_ratio / (1.0 - mask_ratio)
    first, numbers = uniforms[..., :1] > mask_ratio, uniforms[..., 1:length]
    changes = numbers < min(leaves_mask, leaves_kept)
    settles = (numbers < max(leaves_mask, leaves_kept)) & ~changes
    num_changes = torch.cat([torch.zeros_like(first), changes], dim=-1).cumsum(-1)
    steps = torch.arange(length, device=uniforms.device)
    anchors = torch.cat([torch.ones_like(first), settles], dim=-1)
    last_anchor = torch.where(anchors, steps, 0).cummax(-1).values
    settled = leaves_mask > leaves_kept  # True = kept: the state that is left less often
    state_there = torch.where(last_anchor == 0, first, settled)
    changed_since = (num_changes - num_changes.gather(-1, last_anchor)) % 2 == 1
    return state_there ^ changed_since


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
        uniforms = torch.rand(1 + torch.Size(shape).numel(), generator=generator)
        return geometric_mask_at_once(uniforms, ratio, config.mean_mask_length).view(shape)
    uniforms = torch.rand(*shape[:-1], 1 + length, generator=generator)
    return geometric_mask_at_once(uniforms, ratio, config.mean_mask_length)


def random_mask(uniforms: torch.Tensor, mask_ratio: float) -> torch.Tensor:
    """Mask every step by itself: uniforms in [0, 1) of any shape to bool of the same shape, True = kept."""
    return uniforms < 1.0 - mask_ratio


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


def take_positions(hidden: torch.Tensor, places: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Pick positions of every series.

    Args:
        hidden: (batch_size, num_groups, num_positions, hidden_size).
        places: (batch_size, length) of any numbers.
        inside: (batch_size, length) bool, False for zeros.

    Returns:
        (batch_size, num_groups, length, hidden_size).
    """
    batch_size, num_groups, num_positions, hidden_size = hidden.shape
    index = places.clamp(min=0, max=num_positions - 1).view(batch_size, 1, -1, 1)
    return hidden.gather(2, index.expand(-1, num_groups, -1, hidden_size)) * inside.view(batch_size, 1, -1, 1)


def take_context(
    values: torch.Tensor, observed: torch.Tensor, context_length: int, at_end: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every series the context's length: cut off what is too long, leave missing what is too short.

    Args:
        values: (batch_size, sequence_length, num_channels).
        observed: The same shape, bool.
        context_length: Number of timestamps wanted.
        at_end: Whether the last observed timestamp of a series becomes the context's last one, instead of its first
            observed one the first.

    Returns:
        Values and observed, (batch_size, context_length, num_channels).
    """
    sequence_length = values.shape[1]
    steps = torch.arange(sequence_length, device=values.device)
    anything = observed.any(-1)
    if at_end:
        start = torch.where(anything, steps, -1).amax(1) + 1 - context_length
    else:
        start = torch.where(anything, steps, sequence_length).amin(1)
    places = start.unsqueeze(1) + torch.arange(context_length, device=values.device)
    inside = (places >= 0) & (places < sequence_length)
    index = places.clamp(min=0, max=sequence_length - 1).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, index), observed.gather(1, index) & inside.unsqueeze(-1)


# The official classification code's, which its command line does not change.
INNER_WIDTHS = (32, 64)
INNER_KERNEL_SIZE = 8


def convolved_length(length: Any, kernel_size: int, stride: int) -> Any:
    """Return the length after a convolution padded with kernel_size // 2; of numbers or of a tensor of them."""
    return (length + 2 * (kernel_size // 2) - kernel_size) // stride + 1


def pooled_length(length: Any) -> Any:
    """Return the length after a maximum over pairs, the first of which lies half before the series."""
    return length // 2 + 1


class ConvolutionBlock(nn.Module):
    """Convolution, batch normalisation, ReLU, maximum over pairs and dropout.

    Args:
        input_width: Number of input features.
        output_width: Number of output features.
        kernel_size: Number of positions under the convolution.
        stride: Distance of its positions.
        dropout: Dropout probability.
        site: Number of the dropout layer.
    """

    def __init__(
        self, input_width: int, output_width: int, kernel_size: int, stride: int, dropout: float, site: int
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            input_width, output_width, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.norm = MaskedBatchNorm(output_width)
        self.dropout = SeededDropout(dropout, site)

    def output_length(self, length: Any) -> Any:
        """Return the number of positions that a series of this length has after the block."""
        convolution = self.convolution
        return pooled_length(convolved_length(length, convolution.kernel_size[0], convolution.stride[0]))

    def forward(
        self, hidden: torch.Tensor, lengths: torch.Tensor | None = None, draws: DropoutDraws | None = None
    ) -> torch.Tensor:
        """Map (num_rows, input_width, length) to (num_rows, output_width, output_length(length)).

        Args:
            hidden: The input, zero after the end of every row.
            lengths: (num_rows,) number of positions of every row; None where all have the whole length.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            The output, zero after the end of every row.
        """
        hidden = self.convolution(hidden)
        if lengths is None:
            return self.dropout(F.max_pool1d(F.relu(self._normalize(hidden)), 2, 2, padding=1), draws)
        convolution = self.convolution
        inside = _inside(hidden, convolved_length(lengths, convolution.kernel_size[0], convolution.stride[0]))
        # ReLU leaves nothing below zero, so that zeros do not change a maximum.
        hidden = F.max_pool1d(F.relu(self._normalize(hidden, inside)) * inside, 2, 2, padding=1)
        return self.dropout(hidden * _inside(hidden, self.output_length(lengths)), draws)

    def _normalize(self, hidden: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise (num_rows, width, length) over the positions inside: (num_rows, 1, length) bool, None for all."""
        observed = None if inside is None else inside.squeeze(1)
        return self.norm(hidden.transpose(1, 2), observed).transpose(1, 2).to(hidden.dtype)


def _inside(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mark the positions before the end of every row: (num_rows, 1, length) bool."""
    return (torch.arange(hidden.shape[-1], device=hidden.device) < lengths.unsqueeze(1)).unsqueeze(1)


class ConvolutionEncoder(nn.Module):
    """Three blocks of convolution, the first with a wide kernel and a stride: the paper's encoder for classification.

    Dropout is in the first block alone, as in the official code.
    """

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__()
        first, second = INNER_WIDTHS
        blocks = (
            (config.channels_of_a_group, first, config.first_kernel_size, config.first_stride, config.dropout),
            (first, second, INNER_KERNEL_SIZE, 1, 0.0),
            (second, config.hidden_size, INNER_KERNEL_SIZE, 1, 0.0),
        )
        self.blocks = nn.ModuleList(ConvolutionBlock(*block, site=site) for site, block in enumerate(blocks))
        self.first_stride = config.first_stride

    def output_length(self, length: Any) -> Any:
        """Return the number of positions of a series of this length."""
        for block in self.blocks:
            length = block.output_length(length)  # type: ignore[operator]  # ModuleList forgets the class
        return length

    def forward(
        self,
        rows: torch.Tensor,
        observed: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            rows: (num_rows, length, num_channels), zero where missing and after the end of every row.
            observed: Not used: a convolution sees a missing value as the zero it is.
            lengths: (num_rows,) number of timestamps of every row; None where all have the whole length.
            states: Takes every block's output (num_rows, positions, width), when given.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, output_length(length), hidden_size), zero after the end of every row.
        """
        hidden = rows.transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden, lengths, draws)
            lengths = None if lengths is None else block.output_length(lengths)  # type: ignore[operator]  # as above
            if states is not None:
                states.append(hidden.transpose(1, 2))
        return hidden.transpose(1, 2)

    def position_of_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the position whose field is centred nearest to each timestamp, which may lie after the last one.

        Position p is centred at the timestamp (8 p - 6.5) * first_stride: a maximum over pairs lies half a place, a
        convolution with an even kernel another half, before the place that it counts from.
        """
        return ((2.0 * steps / self.first_stride + 21.0) / 16.0).floor().long()


class TimestampTransformer(nn.Module):
    """A circular convolution over three timestamps, sinusoidal positions and Transformer layers: for forecasting."""

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__()
        self.token_embedding = CircularTokenEmbedding(config.channels_of_a_group, config.hidden_size, kernel_size=3)
        self.dropout = SeededDropout(config.dropout, site=0)
        self.transformer = TransformerEncoder(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.dropout,
            first_site=1,
            attention_dropout=config.attention_dropout,
            activation=config.activation,
        )

    def output_length(self, length: Any) -> Any:
        """Return the number of positions of a series: one for each of its timestamps."""
        return length

    def position_of_steps(self, steps: torch.Tensor) -> torch.Tensor:
        """Return the position of every timestamp: itself."""
        return steps

    def forward(
        self,
        rows: torch.Tensor,
        observed: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            rows: (num_rows, length, num_channels).
            observed: (num_rows, length) bool, False for timestamps that nothing attends to; None for all.
            lengths: (num_rows,) number of timestamps of every row; None where all have the whole length.
            states: Takes the embedded tokens and every layer's output, when given.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            (num_rows, length, hidden_size), zero after the end of every row.
        """
        length = rows.shape[1]
        hidden = self.token_embedding(rows, lengths)
        hidden = hidden + sinusoidal_positions(length, hidden.shape[-1], hidden.device).to(hidden.dtype)
        hidden = self.dropout(hidden, draws)
        if states is not None:
            states.append(hidden)
        mask = None
        if observed is not None:
            # A row without any observed timestamp attends to all: attention to nothing is not a number.
            mask = (observed | ~observed.any(-1, keepdim=True))[:, None, None, :]
        hidden = self.transformer(hidden, mask, draws, states)
        if lengths is None:
            return hidden
        inside = torch.arange(length, device=hidden.device) < lengths.unsqueeze(1)
        return hidden * inside.unsqueeze(-1)


class PointFeatures(NamedTuple):
    """Point-wise representations of a batch.

    Args:
        hidden: (batch_size, num_groups, num_positions, hidden_size), zero beyond the series.
        statistics: What the values were normalised by, or None.
    """

    hidden: torch.Tensor
    statistics: InstanceStatistics | None


class PointEncoder(nn.Module):
    """Encode every channel by itself, or all channels together (equation 2, point-wise)."""

    def __init__(self, config: SimMTMConfig) -> None:
        super().__init__()
        self.config = config
        network = ConvolutionEncoder if config.encoder_type == "resnet" else TimestampTransformer
        self.network: TimestampTransformer | ConvolutionEncoder = network(config)

    @property
    def num_context_features(self) -> int:
        """Number of numbers of one group's point-wise representations over the context."""
        return self.network.output_length(self.config.context_length) * self.config.hidden_size

    def point_features(
        self,
        values: torch.Tensor,
        observed: torch.Tensor,
        visible: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> PointFeatures:
        """Encode what the heads and the pretext task look at.

        Args:
            values: (batch_size, sequence_length, num_input_channels).
            observed: The same shape, bool.
            visible: The same shape, bool: values of the others are masked, which takes them out of the statistics and
                makes them zero, but their timestamps stay. None for all observed ones.
            draws: The random choices of dropout; None for random ones in training.
            states: List that receives every layer's output, of the aligned series; None for none.

        Returns:
            The features, in the places of `last_hidden_state`.
        """
        aligned = align_series(values, observed)
        # Positions count from the first observed value, masked or not, so the masks move as the values do.
        moved = None if visible is None else align_series(visible, observed).values
        features = self(aligned, moved, states, draws)
        return PointFeatures(self.in_place(features.hidden, aligned), features.statistics)

    def forward(
        self,
        aligned: AlignedSeries,
        visible: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        draws: DropoutDraws | None = None,
    ) -> PointFeatures:
        """Encode series that begin at the first position; the arguments are those of `point_features`."""
        config, sequence_length = self.config, aligned.values.shape[1]
        visible = aligned.observed if visible is None else aligned.observed & visible
        statistics = None
        if config.instance_normalization:
            statistics = instance_statistics(aligned.values, visible)
            values = normalize_instances(aligned.values, visible, statistics)
        else:
            values = torch.where(visible, aligned.values, 0.0)
        rows = self.rows(values.to(next(self.parameters()).dtype))
        lengths = aligned.length.unsqueeze(1).expand(-1, config.num_groups).reshape(-1)
        attended = self.rows(aligned.observed).any(-1)
        exporting = torch.compiler.is_compiling()
        hidden = self.network(
            rows,
            attended if exporting or not bool(attended.all()) else None,
            lengths if exporting or not bool((lengths == sequence_length).all()) else None,
            states,
            draws,
        )
        return PointFeatures(self.group(hidden), statistics)

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Put the groups of channels side by side on the first axis: row b * num_groups + g."""
        grouped = values.unflatten(-1, (self.config.num_groups, self.config.channels_of_a_group))
        return grouped.transpose(1, 2).flatten(0, 1)

    def group(self, rows: torch.Tensor) -> torch.Tensor:
        """Undo `rows` for (batch_size * num_groups, positions, width): (batch_size, num_groups, positions, width)."""
        return rows.unflatten(0, (-1, self.config.num_groups))

    def ungroup(self, hidden: torch.Tensor) -> torch.Tensor:
        """Drop the axis of groups where channels are joint."""
        return hidden if self.config.channel_mode == "independent" else hidden.squeeze(1)

    def in_place(self, hidden: torch.Tensor, aligned: AlignedSeries) -> torch.Tensor:
        """Move timestamps back to where they were before the series were aligned; other positions stay."""
        if self.config.encoder_type != "transformer":
            return hidden
        if not torch.compiler.is_compiling() and not bool(aligned.start.any()):
            return hidden
        steps = torch.arange(hidden.shape[2], device=hidden.device) - aligned.start.unsqueeze(1)
        return take_positions(hidden, steps, (steps >= 0) & (steps < aligned.length.unsqueeze(1)))

    def to_timestamps(self, hidden: torch.Tensor, aligned: AlignedSeries) -> torch.Tensor:
        """Give every timestamp the representation nearest to it, the mean over independent channels.

        Args:
            hidden: (batch_size, num_groups, num_positions, hidden_size) of the aligned series.
            aligned: The series.

        Returns:
            (batch_size, sequence_length, hidden_size). Channels without any observed value are left out of the mean,
            unless there are no others.
        """
        seen = self.group(self.rows(aligned.observed).any(-1).any(-1, keepdim=True)).unsqueeze(-1)
        seen = seen | ~seen.any(1, keepdim=True)
        hidden = ((hidden * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)).to(hidden.dtype)
        if self.config.encoder_type == "transformer":
            return self.in_place(hidden, aligned).squeeze(1)
        steps = torch.arange(aligned.values.shape[1], device=hidden.device) - aligned.start.unsqueeze(1)
        inside = (steps >= 0) & (steps < aligned.length.unsqueeze(1))
        last = self.network.output_length(aligned.length).unsqueeze(1) - 1
        places = torch.minimum(self.network.position_of_steps(steps), last)
        return take_positions(hidden, places, inside).squeeze(1)


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
        config: Gives prediction_length, num_output_channels, channel_mode and head_dropout.
        num_features: Number of numbers of a row: positions times hidden_size.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        num_output_channels = config.num_output_channels or config.num_input_channels
        is_independent = config.channel_mode == "independent"
        of_a_group = 1 if is_independent else num_output_channels
        super().__init__(num_features, config.prediction_length, of_a_group, config.head_dropout)
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
            The scalar mean squared error over observed values or None, and the prediction (batch_size,
            prediction_length, num_output_channels).
        """
        prediction = super().forward(features[:, self.predicted_groups]).transpose(1, 2).flatten(2)
        if mean is not None and deviation is not None and self.predicts_its_input:
            statistics = InstanceStatistics(mean, deviation).channels(self.predicted)
            prediction = denormalize_instances(prediction, statistics)
        return prediction_loss(prediction, future_values, future_observed_mask), prediction


class ContextClassificationHead(nn.Module):
    """Class scores from the point-wise representations of all channels: two linear layers, a sigmoid in between.

    Args:
        config: Gives the widths, num_labels and classifier_dropout.
        num_features: Number of numbers of a series.
    """

    def __init__(self, config: SimMTMConfig, num_features: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.hidden = nn.Linear(num_features, config.classifier_hidden_size)
        self.projection = nn.Linear(config.classifier_hidden_size, cast(int, config.num_labels))

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes.

        Args:
            features: (batch_size, num_features).
            labels: (batch_size,) class indices, or None.

        Returns:
            The scalar cross-entropy or None, and the logits (batch_size, num_labels).
        """
        logits = self.projection(self.hidden(self.dropout(features)).sigmoid())
        return classification_loss(logits, labels), logits


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
        config, num_processes = self.config, self._share()[1]
        observed = self.observed_values(past_values, past_observed_mask)
        draws = self._draw(past_values, generator) if draws is None else draws
        values, observed = self._cut_window(past_values, observed, draws.start)
        keep = draws.keep.to(values.device)
        rows, statistics = self.encode_views(values, observed, keep, self._dropout(draws, 1 + len(keep)))  # eq. 1, 2
        pairs = self.pair_views(observed, 1 + len(keep))
        similarity, constraint_loss = None, rows.new_zeros((), dtype=torch.float32)
        if self.projector is not None:
            projected = self.project(rows, pairs, self._dropout(draws, 1))  # equation 2
            similarity = cosine_similarity(projected, self._everywhere(projected))  # equation 3
            constraints = constraint_losses(similarity, pairs, config.temperature)  # equation 7
            constraint_loss = mean_over_processes(constraints, pairs.observed, num_processes)
        aggregated = self.aggregate(rows, similarity, pairs)  # equation 4
        decoded = self.decode(aggregated, statistics, self._dropout(draws, 1))  # equation 5
        errors = squared_errors(decoded, values, observed, keep if config.reconstruct_masked_views else None)
        reconstruction_loss = mean_over_processes(errors, observed, num_processes)  # equation 6
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

    def _draw(self, past_values: torch.Tensor, generator: torch.Generator | None) -> SimMTMDraws:
        """Draw for the global batch, the same on all processes, and return this process's part."""
        rank, num_processes = self._share()
        batch_size, length, _ = past_values.shape
        source = fork_generator(generator, past_values.device, is_shared=self.training)
        draws = draw_step(self.config, num_processes * batch_size, length, source)
        return draws.rows(rank * batch_size, (rank + 1) * batch_size)

    def _dropout(self, draws: SimMTMDraws, num_views: int) -> DropoutDraws | None:
        """Return the choices of dropout, for rows of so many views after each other; None for random ones."""
        # The fused kernels draw the dropout of attention weights themselves.
        if not self.training or draws.dropout_seed is None or self.config.attention_dropout > 0:
            return None
        return DropoutDraws(draws.dropout_seed, num_views, *self._share())

    def _share(self) -> tuple[int, int]:
        # Validation batches differ in size over the processes, so that each one is a batch by itself.
        return process_share() if self.training else (0, 1)

    def _everywhere(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes, with their gradient: in training the global batch is compared."""
        return gather_rows(rows) if self.training else rows

    def _cut_window(
        self, values: torch.Tensor, observed: torch.Tensor, start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        window = slice(start, start + self.config.context_length)
        return take_context(values[:, window], observed[:, window], self.config.context_length, at_end=False)

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

    def pair_views(self, observed: torch.Tensor, num_views: int) -> RowPairs:
        """Pair this process's views with those of all processes.

        Args:
            observed: (batch_size, context_length, num_input_channels) bool.
            num_views: Number of views of a series.

        Returns:
            The pairs of batch_size * num_groups * num_views anchors, views of a series side by side.
        """
        series_observed = self.model.encoder.rows(observed).any(-1).any(-1)
        row_observed = series_observed.repeat_interleave(num_views)
        everywhere = self._everywhere(row_observed.to(torch.uint8)).bool()
        places = self._share()[0] * len(row_observed) + torch.arange(len(row_observed), device=observed.device)
        return pair_views(places, num_views, everywhere)

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
        return self.projector(rows.flatten(0, 1), None if bool(pairs.observed.all()) else pairs.observed, draws)

    def aggregate(self, rows: torch.Tensor, similarity: torch.Tensor | None, pairs: RowPairs) -> torch.Tensor:
        """Replace what is decoded by the weighted sum of all other rows of the global batch (equation 4).

        Args:
            rows: (num_series, 1 + num_masked_views, num_features) point-wise representations of this process.
            similarity: (num_anchors, num_rows); None without a projector.
            pairs: Which of them are compared.

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
        everywhere = self._everywhere(rows.flatten(0, 1))
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
        decoded = self.decoder(aggregated, draws).unflatten(0, (-1, self.config.num_groups))
        decoded = decoded.permute(2, 0, 3, 1, 4).flatten(3)
        if statistics is None:
            return decoded.float()
        batch_size = decoded.shape[1]
        mean, deviation = (part.unflatten(0, (-1, batch_size))[self._decoded_views] for part in statistics)
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
        """Represent all positions of the context: features (batch_size, num_groups * num_positions * hidden_size)."""
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
