"""ShapeNet: A Shapelet-Neural Network Approach for Multivariate Time Series Classification (Li et al., AAAI 2021).

Segments of several lengths of every channel -> segment_spans, cut_segments. The encoder of segments of any length, a
multi-length-input dilated causal convolution network (Mdc-CNN) -> ShapeNetEncoder. The cluster-wise triplet loss ->
k_means, draw_triplets, anchor_distance, intra_distance, cluster_triplet_loss, ShapeNetForPreTraining. Representations
of segments with marks of position, length and channel -> ShapeNetSegments; of timestamps and series -> ShapeNetModel.
The selection of shapelets with labels -> candidate_utility, class_separation, number_separation,
shapelet_distances, ShapeNetForTimeSeriesClassification.

The paper's text was not at hand; what is from its abstract, from memory, from the behaviour of the code around it, or
our own is told apart in ShapeNetConfig and in the model card.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from .configuration_shapenet import PERMILLE, ShapeNetConfig
from .conversion_time_series import (
    ConversionError,
    Converter,
    FieldsAndParameters,
    list_names,
    rename_hyperparameters,
    require_parameters,
)
from .distributed_time_series import GlobalBatch
from .encoding_time_series import observed_span
from .heads_time_series import (
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    PredictionHead,
    TimeSeriesModelOutput,
)
from .layers_convolution import CausalEncoder
from .layers_pooling import pool_instance
from .losses_time_series import finish_scores
from .modeling_time_series import TimeSeriesPreTrainedModel

logger = logging.get_logger(__name__)


def segment_spans(
    sequence_length: torch.Tensor, permille: int, num_positions: int, min_segment_length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay segments of one length over series of any lengths, evenly from the first to the last timestamp.

    A short series has every segment of the length there is; the stride of a long one is such that there are
    `num_positions`.

    Args:
        sequence_length: (batch_size,) number of timestamps of every series, whole numbers.
        permille: Length of a segment in thousandths of the series', rounded up to whole timestamps.
        num_positions: Greatest number of segments.
        min_segment_length: Shortest segment; a series that is shorter is one segment itself.

    Returns:
        The length of its segments (batch_size,), the first timestamp of each (batch_size, num_positions), and which of
        them there are, bool: none in a series without timestamps.
    """
    length = ((sequence_length * permille + PERMILLE - 1) // PERMILLE).clamp(min=min_segment_length)
    length = torch.minimum(length, sequence_length).clamp(min=1)
    free = (sequence_length - length).clamp(min=0)
    distinct = (free + 1).clamp(max=num_positions)
    position = torch.arange(num_positions, device=sequence_length.device)
    starts = position * free.unsqueeze(1) // (distinct - 1).clamp(min=1).unsqueeze(1)
    exist = (position < distinct.unsqueeze(1)) & (sequence_length > 0).unsqueeze(1)
    return length, torch.where(exist, starts, 0), exist


def segment_starts(sequence_length: int, config: ShapeNetConfig) -> list[tuple[int, int]]:
    """Return length and first timestamp of every segment of one channel, shortest length first.

    Args:
        sequence_length: Number of timestamps of the series, from 1.
        config: Gives ratios of lengths and the number of positions, which `max_num_segments` bounds.
    """
    found = []
    for permille, num_positions in zip(config.ratios_in_permille, config.positions_per_length, strict=True):
        series = torch.tensor([sequence_length])
        length, starts, exist = segment_spans(series, permille, num_positions, config.min_segment_length)
        found += [(int(length), start) for start in starts[exist].tolist()]
    return found


class SegmentGroup(NamedTuple):
    """Segments of one ratio of length.

    Args:
        values: (num_points, num_positions, batch_size, num_channels), anything where not observed; time first, as the
            encoder's blocks read it.
        observed: The same shape, bool; False beyond the end of a segment, and all of it where there is no segment.
        starts: (batch_size, num_positions) first timestamp, counted from the beginning of the batch's time axis.
        lengths: (batch_size,) number of timestamps of a segment.
        exist: (batch_size, num_positions) bool.
    """

    values: torch.Tensor
    observed: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    exist: torch.Tensor

    @property
    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and observed as the encoder takes them: (num_positions * batch_size * num_channels, num_points)."""
        return self.values.flatten(1, 3).t(), self.observed.flatten(1, 3).t()


def cut_segments(
    values: torch.Tensor, observed: torch.Tensor, inside: torch.Tensor, config: ShapeNetConfig
) -> list[SegmentGroup]:
    """Cut segments of several lengths out of every channel.

    Args:
        values: (batch_size, sequence_length, num_channels), anything where not observed.
        observed: The same shape, bool.
        inside: (batch_size, sequence_length) bool, one stretch of True a series: its own timestamps, to whose number
            the lengths of its segments are relative. The rest is padding.
        config: Gives ratios, bounds and max_segment_points.

    Returns:
        One group a ratio, shortest first.
    """
    time = values.shape[1]
    first, span = inside.to(torch.uint8).argmax(1), inside.sum(1)
    groups = []
    for permille, num_positions in zip(config.ratios_in_permille, config.positions_per_length, strict=True):
        lengths, starts, exist = segment_spans(span, permille, num_positions, config.min_segment_length)
        starts = starts + first.unsqueeze(1)
        longest = _longest_segment(time, permille, config.min_segment_length)
        most = config.max_segment_points
        if most is None or (not torch.compiler.is_compiling() and longest <= most):
            points, seen = _take_points(values, observed, starts, lengths, longest)
        else:
            points, seen = _average_points(values, observed, starts, lengths, most)
        groups.append(SegmentGroup(points, seen & exist.t().unsqueeze(-1), starts, lengths, exist))
    return groups


def _longest_segment(time: int, permille: int, min_segment_length: int) -> int:
    """Return the length of the longest segment in a batch; where the length of series is traced, a bound on it."""
    length = (time * permille + PERMILLE - 1) // PERMILLE
    if torch.compiler.is_compiling():  # the greater of two traced lengths would tie the graph to where they cross
        return length + min_segment_length
    return max(length, min(min_segment_length, time))


def _gather_time(series: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Take timestamps (num_points, num_positions, batch_size) of series (batch_size, time, num_channels).

    Returns:
        (num_points, num_positions, batch_size, num_channels).
    """
    time_first = series.transpose(0, 1).unsqueeze(1).expand(-1, index.shape[1], -1, -1)
    return time_first.gather(0, index.unsqueeze(-1).expand(-1, -1, -1, series.shape[2]))


def _take_points(
    values: torch.Tensor, observed: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, num_points: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the values of every segment and which are observed, with num_points of the longest segment."""
    offsets = torch.arange(num_points, device=values.device).view(-1, 1, 1)
    index = (starts.t() + offsets).clamp(max=values.shape[1] - 1)
    within = (offsets < lengths).unsqueeze(-1)
    return _gather_time(values, index), _gather_time(observed, index) & within


def _average_points(
    values: torch.Tensor, observed: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, num_points: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take means of at most num_points equal parts of every segment, over what is observed in each."""
    offsets = torch.arange(num_points + 1, device=values.device).view(-1, 1, 1)
    parts = lengths.clamp(max=num_points)
    index = (starts.t() + torch.minimum(offsets, parts) * lengths // parts).clamp(max=values.shape[1])
    # Differences of sums over a long series: in float64 they are exact to the last bits of a float32.
    sums = F.pad(torch.where(observed, values, 0.0).double().cumsum(1), (0, 0, 1, 0))
    counts = F.pad(observed.cumsum(1), (0, 0, 1, 0))
    total, count = (_gather_time(one, index).diff(dim=0) for one in (sums, counts))
    return (total / count.clamp(min=1)).to(values.dtype), count > 0


def channel_signs(num_channels: int, size: int, device: torch.device | None = None) -> torch.Tensor:
    """Return fixed random signs of every channel, all plus for the first: (num_channels, size), 1.0 or -1.0.

    They come from whole-number arithmetic, so that they are the same on every machine and no state must be saved.
    """
    number = torch.arange(num_channels * size, device=device).view(num_channels, size)
    mixed = (number * 2654435761) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 16)) * 73244475) & 0xFFFFFFFF
    negative = ((mixed ^ (mixed >> 15)) >> 7) & 1
    return 1.0 - 2.0 * torch.where(torch.arange(num_channels, device=device).unsqueeze(1) > 0, negative, 0)


def sinusoidal_mark(fraction: torch.Tensor, size: int) -> torch.Tensor:
    """Mark a place between 0 and 1 by sines and cosines of doubling to hundredfold frequencies: (..., size)."""
    half = (size + 1) // 2
    frequency = math.pi * 128.0 ** (torch.arange(half, device=fraction.device) / half)
    angle = fraction.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :size]


class SegmentTokens(NamedTuple):
    """Segments as a transformer may read them.

    Args:
        tokens: (batch_size, num_segments, embedding_size), normalised embeddings with their marks; zeros for segments
            that are not observed.
        observed_segments: (batch_size, num_segments) bool: segments with an observed value. A short series has fewer
            than num_segments; the others are False.
        spans: (batch_size, num_segments, 3) first timestamp, length and channel of every segment.
        embeddings: (batch_size, num_segments, embedding_size), what the encoder made of each; zeros as above.
    """

    tokens: torch.Tensor
    observed_segments: torch.Tensor
    spans: torch.Tensor
    embeddings: torch.Tensor


class ShapeNetEncoder(CausalEncoder):
    """The Mdc-CNN: it maps segments of any length and channel into one space.

    Causal residual blocks with exponentially growing dilation, the maximum over time, and a linear layer: the encoder
    of Franceschi et al. (NeurIPS 2019), which the paper takes, with one input channel.

    Args:
        config: Gives its sizes.
    """

    def __init__(self, config: ShapeNetConfig) -> None:
        super().__init__(
            input_channels=1,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            reduced_size=config.reduced_size,
            output_size=config.embedding_size,
            kernel_size=config.kernel_size,
            output_bias=config.output_bias,
        )

    def forward(self, segments: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Embed segments.

        Args:
            segments: (num_segments, segment_length), anything where not observed.
            observed: The same shape, bool; False beyond the end of a shorter segment.

        Returns:
            (num_segments, embedding_size); zeros for a segment without an observed value.
        """
        return super().forward(segments.unsqueeze(-1), observed)


class ShapeNetSegments(nn.Module):
    """Segments of several lengths of every channel, embedded and marked.

    Marks have no parameters: no loss on distances between embeddings would teach them.

    Args:
        config: Sizes, ratios and bounds.
    """

    def __init__(self, config: ShapeNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ShapeNetEncoder(config)

    def forward(
        self, values: torch.Tensor, observed: torch.Tensor, inside: torch.Tensor | None = None
    ) -> SegmentTokens:
        """Embed the segments of a batch.

        Args:
            values: (batch_size, sequence_length, num_input_channels), anything where not observed.
            observed: The same shape, bool.
            inside: (batch_size, sequence_length) bool, False = beyond the series; None: from its first to its last
                timestamp with any observed value.

        Returns:
            What is in SegmentTokens, with config.num_segments segments: all of one channel, shortest first, then those
            of the next.
        """
        inside = observed_span(observed.any(-1)) if inside is None else inside
        groups = cut_segments(values, observed, inside, self.config)
        embeddings = torch.cat([self.embed(group) for group in groups], dim=2)
        seen = torch.cat([group.observed.any(0).permute(1, 2, 0) for group in groups], dim=2)
        spans = spans_of(groups, self.config.num_input_channels)
        marks = self.marks(spans, inside, embeddings.shape[-1]).to(embeddings.dtype)
        tokens = F.layer_norm(embeddings, embeddings.shape[-1:]).flatten(1, 2) + marks
        seen = seen.flatten(1, 2)
        return SegmentTokens(tokens * seen.unsqueeze(-1), seen, spans, embeddings.flatten(1, 2))

    def embed(self, group: SegmentGroup) -> torch.Tensor:
        """Embed a group: (batch_size, num_channels, num_positions, embedding_size), zeros for what is not observed."""
        embeddings = self.encoder(*group.rows)
        return embeddings.view(*group.values.shape[1:], embeddings.shape[-1]).permute(1, 2, 0, 3)

    def marks(self, spans: torch.Tensor, inside: torch.Tensor, size: int) -> torch.Tensor:
        """Return the sum of the marks of position, length and channel: (batch_size, num_segments, size)."""
        start, length, channel = spans.unbind(-1)
        first, span = inside.to(torch.uint8).argmax(1, keepdim=True), inside.sum(1, keepdim=True).clamp(min=1)
        centre = sinusoidal_mark((start - first + length / 2) / span, size)
        signs = channel_signs(self.config.num_input_channels, size, spans.device)
        return (centre + sinusoidal_mark(length / span, size) + signs[channel]) / math.sqrt(3.0)


def spans_of(groups: Sequence[SegmentGroup], num_channels: int) -> torch.Tensor:
    """Return first timestamp, length and channel of all segments: (batch_size, num_channels * positions, 3)."""
    starts = torch.cat([group.starts for group in groups], dim=1)
    lengths = torch.cat([group.lengths.unsqueeze(1).expand_as(group.starts) for group in groups], dim=1)
    channel = torch.arange(num_channels, device=starts.device).view(1, -1, 1)
    of_channel = torch.stack([starts, lengths], dim=-1).unsqueeze(1).expand(-1, num_channels, -1, -1)
    channel = channel.expand(of_channel.shape[:3]).unsqueeze(-1)
    return torch.cat([of_channel, channel], dim=-1).flatten(1, 2)


def timestamp_embeddings(segments: SegmentTokens, time: int, num_channels: int, signs: bool) -> torch.Tensor:
    """Average the segments that cover a timestamp, over all channels.

    Args:
        segments: Embedded segments.
        time: Number of timestamps.
        num_channels: Number of channels.
        signs: Whether the embeddings of a channel get its signs.

    Returns:
        (batch_size, time, embedding_size); zeros where no observed segment lies.
    """
    embeddings = segments.embeddings.unflatten(1, (num_channels, -1))
    if signs:
        of_channel = channel_signs(num_channels, embeddings.shape[-1], embeddings.device)
        embeddings = embeddings * of_channel[:, None].to(embeddings.dtype)
    # All channels have the same spans: they are added up first, so that the cost is that of one channel.
    total = embeddings.sum(1)
    count = segments.observed_segments.unflatten(1, (num_channels, -1)).sum(1).to(total.dtype)
    start, length, _ = segments.spans[:, : total.shape[1]].unbind(-1)
    step = torch.arange(time, device=total.device).view(1, -1, 1)
    covered = (step >= start.unsqueeze(1)) & (step < (start + length).unsqueeze(1))
    covered = covered.to(total.dtype)
    return covered @ total / (covered @ count.unsqueeze(-1)).clamp(min=1)


def squared_distances(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return squared Euclidean distances of (num_rows, size) from (num_others, size): (num_rows, num_others)."""
    return torch.stack([(rows - other).square().sum(-1) for other in others], dim=1)


def k_means(
    points: torch.Tensor, valid: torch.Tensor, uniform: torch.Tensor, num_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Group points by Lloyd's algorithm, from centres drawn as k-means++ draws them.

    Args:
        points: (num_points, size).
        valid: (num_points,) bool; the others belong to no cluster.
        uniform: (num_clusters,) drawn from [0, 1): each chooses one point as a centre, with a probability that is
            proportional to the squared distance from the centres before it.
        num_steps: Most steps of Lloyd's algorithm; it ends where nothing changes any more.

    Returns:
        The cluster of every point (num_points,), -1 for what is not valid, and its squared distance from the centre.
    """
    weight = valid.double()
    nearest = points.new_full((len(points),), torch.inf)
    chosen = []
    for share in uniform.double():
        cumulative = weight.cumsum(0)
        chosen.append(torch.searchsorted(cumulative, share * cumulative[-1], right=True).clamp(max=len(points) - 1))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(-1))
        weight = nearest.double() * valid
    centres = points[torch.stack(chosen)]
    clusters = torch.full_like(valid, -1, dtype=torch.long)
    for _ in range(num_steps):
        found = torch.where(valid, squared_distances(points, centres).argmin(1), -1)
        if torch.equal(found, clusters):
            break
        clusters = found
        member = F.one_hot(clusters.clamp(min=0), len(centres)).to(points.dtype) * valid.unsqueeze(1)
        count = member.sum(0).unsqueeze(1)
        centres = torch.where(count > 0, member.t() @ points / count.clamp(min=1), centres)
    return clusters, torch.where(valid, squared_distances(points, centres).amin(1), torch.inf)


class Triplets(NamedTuple):
    """The segments that are compared around one anchor, as places in the segments of one length.

    Args:
        anchor: Of the segment nearest to the centre of its cluster.
        positives: (num_positives,) the next nearest ones.
        negatives: For every other cluster with members, (num_negatives,) of its members.
    """

    anchor: int
    positives: torch.Tensor
    negatives: list[torch.Tensor]

    @property
    def chosen(self) -> torch.Tensor:
        """All of them, anchor first."""
        return torch.cat([self.positives.new_tensor([self.anchor]), self.positives, *self.negatives])


def draw_triplets(
    clusters: torch.Tensor, distance: torch.Tensor, keys: torch.Tensor, config: ShapeNetConfig
) -> list[Triplets]:
    """Choose one anchor a cluster, its positives, and negatives from every other cluster.

    Of a cluster of n segments, n * sample_fraction + 1 are taken, at most max_num_positives.

    Args:
        clusters: (num_segments,) cluster of every segment, -1 for none.
        distance: (num_segments,) distance from the centre of its cluster.
        keys: (num_segments,) random numbers; the negatives are the members with the smallest.
        config: Gives the numbers.

    Returns:
        One for each cluster of at least two segments, where there is another cluster.
    """
    members = [torch.nonzero(clusters == cluster)[:, 0] for cluster in range(config.num_clusters)]
    members = [one for one in members if len(one)]
    taken = [min(int(len(one) * config.sample_fraction) + 1, config.max_num_positives, len(one)) for one in members]
    found = []
    for own, one in enumerate(members):
        others = [other for other in range(len(members)) if other != own]
        if len(one) < 2 or not others:
            continue
        nearest = one[distance[one].argsort(stable=True)][: min(taken[own], len(one) - 1) + 1]
        negatives = [members[other][keys[members[other]].argsort(stable=True)][: taken[other]] for other in others]
        found.append(Triplets(int(nearest[0]), nearest[1:], negatives))
    return found


def euclidean(difference: torch.Tensor) -> torch.Tensor:
    """Return the length of (..., size) vectors, with gradient 0 instead of none at 0."""
    return (difference.float().square().sum(-1) + 1e-12).sqrt()


def anchor_distance(anchor: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Average the distances from the anchor (the paper's D_AP for positives, D_AN for negatives).

    Args:
        anchor: (embedding_size,).
        others: (num_others, embedding_size).

    Returns:
        A scalar.
    """
    return euclidean(others - anchor).mean()


def intra_distance(group: torch.Tensor) -> torch.Tensor:
    """Return the greatest distance within positives, or within negatives (the paper's D_pos and D_neg).

    Args:
        group: (num_segments, embedding_size).

    Returns:
        A scalar, near 0 for one segment.
    """
    return euclidean(group.unsqueeze(0) - group.unsqueeze(1)).amax()


def cluster_triplet_loss(
    anchor: torch.Tensor,
    positives: torch.Tensor,
    negatives: Sequence[torch.Tensor],
    margin: float,
    intra_weight: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compare one anchor with several positives and negatives, and these among themselves (cluster-wise triplet loss).

    log((D_AP + margin) / D_AN) + intra_weight * (D_pos + D_neg), where D_AN is the mean over the other clusters and
    D_neg the sum.

    Args:
        anchor: (embedding_size,).
        positives: (num_positives, embedding_size).
        negatives: One (num_negatives, embedding_size) for every other cluster.
        margin: The paper's mu.
        intra_weight: The paper's lambda.

    Returns:
        Scalars: the loss, the logarithm of the ratio, and D_pos + D_neg.
    """
    from_positives = anchor_distance(anchor, positives)
    from_negatives = torch.stack([anchor_distance(anchor, one) for one in negatives]).mean()
    ratio = torch.log((from_positives + margin) / from_negatives)
    intra = torch.stack([intra_distance(one) for one in (positives, *negatives)]).sum()
    return ratio + intra_weight * intra, ratio, intra


def comparable_points(group: SegmentGroup) -> torch.Tensor:
    """Return raw segments as points of one space, missing values as 0: (num_segments, num_points), as group.rows.

    Segments of a shorter series are stretched to the length of the longest in the batch, by repeating values.
    """
    values = torch.where(group.observed, group.values, 0.0).float()
    num_points = len(values)
    lengths = group.lengths.clamp(max=num_points).unsqueeze(-1)
    index = torch.arange(num_points, device=values.device).view(-1, 1, 1, 1) * lengths // num_points
    return values.gather(0, index.expand_as(values)).flatten(1, 3).t().contiguous()


@dataclass(frozen=True)
class ShapeNetDraws:
    """The random choices of one pre-training step, for the global batch.

    Args:
        centres: (num_ratios, num_clusters) uniform in [0, 1), which choose the first centres of the clusters.
        keys: One (num_positions * batch_size * num_input_channels,) a ratio, uniform in [0, 1), which choose the
            negatives.
    """

    centres: torch.Tensor
    keys: list[torch.Tensor]

    def rows(self, start: int, stop: int) -> ShapeNetDraws:
        """Return the choices: all processes need those for the global batch."""
        return self


def draw_choices(batch_size: int, config: ShapeNetConfig, generator: torch.Generator | None = None) -> ShapeNetDraws:
    """Draw the random choices of a step.

    Args:
        batch_size: Number of series of the global batch.
        config: Gives the numbers of ratios, clusters, channels and positions.
        generator: Source of randomness on the CPU; None for torch's global one.
    """
    positions = config.positions_per_length
    centres = torch.rand(len(positions), config.num_clusters, generator=generator)
    count = batch_size * config.num_input_channels
    return ShapeNetDraws(centres, [torch.rand(count * one, generator=generator) for one in positions])


NOTHING_TO_COMPARE_WARNING = (
    "A batch of ShapeNet has nothing to compare: its segments form no two clusters of which one has two segments, so "
    "that its loss is 0 and teaches nothing. Give longer series, more series a batch, or a greater max_num_segments."
)


def cluster_losses(
    segments: ShapeNetSegments,
    batch: GlobalBatch,
    values: torch.Tensor,
    observed: torch.Tensor,
    draws: ShapeNetDraws,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the cluster-wise triplet loss of a batch of series, with all processes' segments.

    Args:
        segments: What cuts and embeds segments.
        batch: The global batch, of which every process embeds its share of the segments that are compared.
        values: (batch_size, sequence_length, num_input_channels), anything where not observed.
        observed: The same shape, bool.
        draws: The random choices, for the global batch.

    Returns:
        Scalars: mean over lengths and clusters of the loss, of the logarithm of its ratio, and of D_pos + D_neg.
    """
    values, observed = batch.gather(torch.where(observed, values, 0.0).detach()), batch.gather(observed)
    groups = cut_segments(values, observed, observed_span(observed.any(-1)), segments.config)
    terms = [_compare_clusters(segments, batch, group, draws, number) for number, group in enumerate(groups)]
    # A batch with nothing to compare still has a gradient, zero, for every parameter.
    unused = torch.stack([one for _, one in terms]).sum()
    compared = [one for of_group, _ in terms for one in of_group]
    if not compared:
        logger.warning_once(NOTHING_TO_COMPARE_WARNING)
        return unused, unused.detach(), unused.detach()
    loss, ratio, intra = (torch.stack(one).mean() for one in zip(*compared, strict=True))
    return loss + unused, ratio, intra


def _compare_clusters(
    segments: ShapeNetSegments, batch: GlobalBatch, group: SegmentGroup, draws: ShapeNetDraws, number: int
) -> tuple[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Return the loss of every cluster of one length, and a zero that every parameter has a gradient of."""
    config = segments.config
    triplets, unique, places = _choose_segments(group, draws, number, config)
    embeddings = _embed_share(segments.encoder, batch, group, unique)[places]
    terms, start = [], 0
    for one in triplets:
        sizes = [1, len(one.positives), *map(len, one.negatives)]
        parts = embeddings[start : start + sum(sizes)].split(sizes)
        start += sum(sizes)
        terms.append(cluster_triplet_loss(parts[0][0], parts[1], parts[2:], config.margin, config.intra_weight))
    return terms, 0.0 * embeddings.float().sum()


@torch.compiler.disable  # how many segments are compared follows from the clusters
@torch.no_grad()
def _choose_segments(
    group: SegmentGroup, draws: ShapeNetDraws, number: int, config: ShapeNetConfig
) -> tuple[list[Triplets], torch.Tensor, torch.Tensor]:
    """Return the triplets of one length, the segments that they have, and the place of each member among these."""
    with torch.autocast(group.values.device.type, enabled=False):
        device = group.values.device
        seen = group.observed.any(0).flatten()
        points = comparable_points(group)
        clusters, distance = k_means(points, seen, draws.centres[number].to(device), config.num_clustering_steps)
        triplets = draw_triplets(clusters, distance, draws.keys[number].to(device), config)
        chosen = [one.chosen for one in triplets] or [torch.zeros(1, dtype=torch.long, device=device)]
        unique, places = torch.cat(chosen).unique(return_inverse=True)
    return triplets, unique, places


def _embed_share(
    encoder: ShapeNetEncoder, batch: GlobalBatch, group: SegmentGroup, chosen: torch.Tensor
) -> torch.Tensor:
    """Embed the chosen segments (num_chosen, embedding_size), every process an equal share of them."""
    share = -(-len(chosen) // batch.num_processes)
    places = torch.arange(batch.rank * share, (batch.rank + 1) * share, device=chosen.device)
    own = chosen[places.clamp(max=len(chosen) - 1)]
    values, observed = group.rows
    embeddings = encoder(values[own], observed[own])
    return batch.gather(embeddings)[: len(chosen)]


@dataclass
class ShapeNetModelOutput(TimeSeriesModelOutput):
    """Embeddings of a batch of series.

    Args:
        last_hidden_state: (batch_size, sequence_length, embedding_size), the mean of the embeddings of the segments
            that cover a timestamp.
        pooler_output: (batch_size, embedding_size), one embedding a series.
        hidden_states: Embeddings of the segments, and their tokens, when asked for; both
            (batch_size, num_segments, embedding_size).
        segment_tokens: (batch_size, num_segments, embedding_size), normalised embeddings of segments with the marks of
            position, length and channel.
        observed_segments: (batch_size, num_segments) bool; the tokens of the others are zero.
        spans: (batch_size, num_segments, 3) first timestamp, length and channel of every segment.
    """

    segment_tokens: torch.Tensor | None = None
    observed_segments: torch.Tensor | None = None
    spans: torch.Tensor | None = None


@dataclass
class ShapeNetForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: mean of the cluster-wise triplet loss over lengths and clusters.
        ratio_loss: Its logarithm of the ratio of distances, a scalar without gradient.
        intra_loss: Its distances among positives and among negatives, a scalar without gradient.
    """

    loss: torch.Tensor | None = None
    ratio_loss: torch.Tensor | None = None
    intra_loss: torch.Tensor | None = None


class ShapeNetPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of ShapeNet's models."""

    config: ShapeNetConfig
    config_class = ShapeNetConfig
    _no_split_modules = ["CausalResidualBlock"]  # noqa: RUF012 - transformers declares it as an instance's variable

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw the initial weights; shapelets are noise until they are selected."""
        super()._init_weights(module)
        if isinstance(module, ShapeletHead):
            init.normal_(module.shapelets)
            for name, value in module.initial_buffers().items():
                init.copy_(getattr(module, name), value)


class ShapeNetModel(ShapeNetPreTrainedModel):
    """Segments of several lengths, embedded, and what they say of timestamps and series."""

    def __init__(self, config: ShapeNetConfig) -> None:
        super().__init__(config)
        self.segments = ShapeNetSegments(config)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ShapeNetModelOutput | tuple[torch.Tensor, ...]:
        """Embed a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. A missing value enters the
                encoder as zero, and its output takes no part in the maximum over a segment.
            past_observed_mask: The same shape, True = observed, or None.
            output_hidden_states: Whether to return the segments' embeddings and tokens as hidden states.
            return_dict: Whether to return a ShapeNetModelOutput instead of a tuple.

        Returns:
            The embeddings; those of padding are zero.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        segments, embeddings = self._embed(past_values, observed, None)
        wants_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        pooled = self.pooled_timestamps(self.observed_timestamps(observed))
        output = ShapeNetModelOutput(
            last_hidden_state=embeddings,
            pooler_output=pool_instance(embeddings, pooled, self.config.pooling),
            hidden_states=(segments.embeddings, segments.tokens) if wants_states else None,
            segment_tokens=segments.tokens,
            observed_segments=segments.observed_segments,
            spans=segments.spans,
        )
        return output if return_dict is not False else output.to_tuple()

    def _embed(
        self, values: torch.Tensor, observed: torch.Tensor, inside: torch.Tensor | None
    ) -> tuple[SegmentTokens, torch.Tensor]:
        """Embed segments and timestamps (batch_size, sequence_length, embedding_size)."""
        segments = self.segments(values, observed, inside)
        config = self.config
        embeddings = timestamp_embeddings(segments, values.shape[1], config.num_input_channels, config.channel_signs)
        return segments, embeddings

    def embed_timestamps(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed every timestamp of a batch, as in every method."""
        observed = self.observed_values(past_values, past_observed_mask)
        _, embeddings = self._embed(past_values, observed, inside)
        return embeddings, self.pooled_timestamps(self.observed_timestamps(observed))


class ShapeNetForPreTraining(ShapeNetPreTrainedModel):
    """The pretext task: segments near the centre of a cluster of raw segments are near each other, others far.

    With several processes the segments of the global batch are clustered, every process embeds its share of those
    that are compared, and each has the loss of one process on the global batch.
    """

    def __init__(self, config: ShapeNetConfig) -> None:
        super().__init__(config)
        self.model = ShapeNetModel(config)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        draws: ShapeNetDraws | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> ShapeNetForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            draws: The random choices, for the global batch; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a ShapeNetForPreTrainingOutput instead of a tuple.

        Returns:
            The loss and its terms.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        batch = GlobalBatch.of(self)
        if draws is None:
            draws = batch.draw(lambda size, source: draw_choices(size, self.config, source), past_values, generator)
        loss, ratio, intra = cluster_losses(self.model.segments, batch, past_values, observed, draws)
        output = ShapeNetForPreTrainingOutput(loss=loss, ratio_loss=ratio.detach(), intra_loss=intra.detach())
        return output if return_dict is not False else output.to_tuple()


def candidate_utility(embeddings: torch.Tensor, cluster_sizes: torch.Tensor, weight: float) -> torch.Tensor:
    """Rate candidates by how many segments they stand for and how far they are from each other.

    weight * log(cluster size) + (1 - weight) * log(sum of distances from the other candidates): representative and
    diversified shapelets.

    Args:
        embeddings: (num_candidates, embedding_size).
        cluster_sizes: (num_candidates,).
        weight: Weight of the size.

    Returns:
        (num_candidates,).
    """
    spread = torch.cdist(embeddings.float(), embeddings.float()).sum(1).clamp(min=1e-12)
    return weight * cluster_sizes.float().log() + (1.0 - weight) * spread.log()


def class_separation(distances: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the F statistic of the distances from every candidate: variance between classes over that within.

    Args:
        distances: (num_series, num_candidates).
        labels: (num_series,) class indices.

    Returns:
        (num_candidates,); 0 where there is one class only.
    """
    classes, members = labels.unique(return_inverse=True)
    if len(classes) < 2:
        return distances.new_zeros(distances.shape[1])
    member = F.one_hot(members).to(distances.dtype)
    count = member.sum(0).unsqueeze(1)
    means = member.t() @ distances / count
    between = (count * (means - distances.mean(0)).square()).sum(0) / (len(classes) - 1)
    within = (distances - means[members]).square().sum(0) / max(len(distances) - len(classes), 1)
    return between / within.clamp(min=1e-12)


def number_separation(distances: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return how well each of distances (num_series, num_candidates) follows numbers (num_series,): (num_candidates,).

    The F statistic of a straight line, r^2 / (1 - r^2) (n - 2): class_separation for a regression (ours).
    """
    centred = numbers.to(distances.dtype) - numbers.to(distances.dtype).mean()
    deviations = distances - distances.mean(0)
    squares = deviations.square().sum(0) * centred.square().sum()
    explained = ((centred @ deviations).square() / squares.clamp(min=1e-12)).clamp(max=1.0)
    return explained / (1 - explained).clamp(min=1e-6) * max(len(distances) - 2, 1)


class ShapeletHead(nn.Module):
    """Shapelets, which are buffers chosen from training data, and a linear layer on the distances from them.

    Shapelets are kept as raw segments, so that they can be looked at and follow the encoder when it is trained.
    Before any are selected they are random noise.

    Args:
        config: Gives num_shapelets, shapelet_length, num_labels, problem_type, the labels' mean and scale, and
            classifier_dropout.
    """

    shapelets: torch.Tensor
    shapelet_observed: torch.Tensor
    origins: torch.Tensor
    distance_mean: torch.Tensor
    distance_scale: torch.Tensor

    def __init__(self, config: ShapeNetConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.num_shapelets, config.shapelet_length)
        self.ratios, self.num_channels = config.ratios_in_permille, config.num_input_channels
        self.register_buffer("shapelets", torch.empty(shape))  # raw values, anything where not observed
        self.register_buffer("shapelet_observed", torch.empty(shape, dtype=torch.bool))
        # Series of the training data, start, length, channel, and number of its ratio of length; series -1: noise.
        self.register_buffer("origins", torch.empty(config.num_shapelets, 5, dtype=torch.long))
        self.register_buffer("distance_mean", torch.empty(config.num_shapelets))
        self.register_buffer("distance_scale", torch.empty(config.num_shapelets))
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.projection = nn.Linear(config.num_shapelets, cast(int, config.num_labels))

    def initial_buffers(self) -> dict[str, torch.Tensor]:
        """Return what the buffers hold before shapelets are selected, but for the noise."""
        number = torch.arange(len(self.shapelets), device=self.shapelets.device)
        ratio = number % len(self.ratios)
        permille = torch.tensor(self.ratios, device=number.device)[ratio]
        length = ((self.shapelets.shape[1] * permille + PERMILLE - 1) // PERMILLE).clamp(min=1)
        origin = [torch.full_like(number, -1), torch.zeros_like(number), length, number % self.num_channels, ratio]
        return {
            "shapelet_observed": torch.arange(self.shapelets.shape[1], device=number.device) < length.unsqueeze(1),
            "origins": torch.stack(origin, dim=1),
            "distance_mean": torch.zeros_like(self.distance_mean),
            "distance_scale": torch.ones_like(self.distance_scale),
        }

    def forward(
        self, distances: torch.Tensor, labels: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Score the classes.

        Args:
            distances: (batch_size, num_shapelets), NaN-free; see shapelet_distances.
            labels: See losses_time_series.finish_scores.

        Returns:
            The scalar loss or None, and the logits (batch_size, num_labels).
        """
        standardised = (distances - self.distance_mean) / self.distance_scale
        scores = self.projection(self.dropout(standardised.to(self.projection.weight.dtype)))
        return finish_scores(scores, labels, self.config)


def shapelet_distances(
    segments: SegmentTokens, shapelets: torch.Tensor, origins: torch.Tensor, config: ShapeNetConfig
) -> torch.Tensor:
    """Return how near a series comes to every shapelet: the least distance of its segments, in the embedded space.

    A segment is compared with the shapelets of its channel and its ratio of length.

    Args:
        segments: Embedded segments of a batch.
        shapelets: (num_shapelets, embedding_size), embedded.
        origins: (num_shapelets, 5), the channel and the number of the ratio last.
        config: Gives the order of the segments.

    Returns:
        (batch_size, num_shapelets), float32; infinite where a series has no observed segment to compare.
    """
    positions = torch.tensor(config.positions_per_length, device=origins.device)
    before = positions.cumsum(0) - positions
    channel, ratio = origins[:, 3], origins[:, 4]
    place = torch.arange(int(positions.max()), device=origins.device)
    slots = channel.unsqueeze(1) * positions.sum() + before[ratio].unsqueeze(1) + place
    compared = place < positions[ratio].unsqueeze(1)
    slots = torch.where(compared, slots, 0)
    distance = euclidean(segments.embeddings[:, slots] - shapelets.unsqueeze(1))
    return distance.masked_fill(~(segments.observed_segments[:, slots] & compared), torch.inf).amin(-1)


class ShapeNetForTimeSeriesClassification(GenericForTimeSeriesClassification, ShapeNetPreTrainedModel):
    """Class scores on the distances of a series from shapelets that were selected with the training labels.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: ShapeNetConfig) -> None:
        super().__init__(config)
        self.model = ShapeNetModel(config)
        self.classifier = ShapeletHead(config)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Measure the distances from the shapelets: (batch_size, num_shapelets).

        A series that has nothing to compare with a shapelet has the mean of the training data; see also
        GenericWithHead.compute_head_inputs.
        """
        encoded = self.model(past_values, past_observed_mask, output_hidden_states=True)
        segments = SegmentTokens(
            encoded.segment_tokens, encoded.observed_segments, encoded.spans, encoded.hidden_states[0]
        )
        distances = self._distances(segments)
        wants_states = output_hidden_states if output_hidden_states is not None else self.config.output_hidden_states
        return EncodedForHead({"distances": distances}, encoded.hidden_states if wants_states else None)

    def _distances(self, segments: SegmentTokens) -> torch.Tensor:
        head = self.classifier
        shapelets = self.model.segments.encoder(head.shapelets, head.shapelet_observed)
        distances = shapelet_distances(segments, shapelets, head.origins, self.config)
        # A shapelet that training data did not fill has no embedding and tells nothing.
        known = distances.isfinite() & head.shapelet_observed.any(1)
        return torch.where(known, distances, head.distance_mean.to(distances.dtype))

    def fit_head(self, dataset: Any) -> None:
        """Select shapelets from the items of a training set; see GenericWithHead.fit_head and select_shapelets."""
        items = [dataset[index] for index in range(len(dataset))]
        labels = torch.stack([torch.as_tensor(item["labels"]) for item in items])
        labels = labels if labels.ndim == 1 else labels.unique(dim=0, return_inverse=True)[1]  # sets of labels
        self.select_shapelets(torch.stack([item["past_values"] for item in items]), labels)

    @torch.no_grad()
    def select_shapelets(
        self,
        past_values: torch.Tensor,
        labels: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 32,
    ) -> None:
        """Choose the shapelets of the head from training data, for the encoder as it is now.

        The embedded segments are clustered, the one nearest to the centre of each cluster is a candidate, and the best
        num_shapelets of these become shapelets, by `shapelet_ranking`. Few series may have fewer; what is left of the
        head then tells nothing. The scale of the distances is taken from the training data, too.

        Args:
            past_values: (num_series, sequence_length, num_input_channels), NaN = missing.
            labels: (num_series,) class indices, or the numbers of a regression.
            past_observed_mask: The same shape, True = observed, or None.
            generator: Source of the random choices of the clustering, on the CPU; None for seed 0.
            batch_size: Number of series in one pass.

        Raises:
            ValueError: A segment is longer than shapelet_length, or no value is observed.
        """
        observed = self.observed_values(past_values, past_observed_mask)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        found, sizes = self._candidates(past_values, observed, labels, generator, batch_size)
        values, seen, origins = self._raw_segments(past_values, observed, found)
        distances = torch.cat(
            [
                self._distances_from(past_values[rows], observed[rows], values, seen, origins)
                for rows in torch.arange(len(past_values)).split(batch_size)
            ]
        )
        known = distances.isfinite()
        count = known.sum(0).clamp(min=1)
        mean = torch.where(known, distances, 0.0).sum(0) / count
        distances = torch.where(known, distances, mean)
        deviation = (distances - mean).square().mean(0).sqrt()
        if self.config.shapelet_ranking == "separation":
            separation = number_separation if self.config.problem_type == "regression" else class_separation
            score = separation(distances, labels.to(distances.device))
        else:
            embeddings = self.model.segments.encoder(values, seen)
            score = candidate_utility(embeddings, sizes.to(embeddings.device), self.config.utility_weight)
        best = score.argsort(descending=True, stable=True)[: self.config.num_shapelets]
        chosen = {"shapelets": values, "shapelet_observed": seen, "origins": origins, "distance_mean": mean}
        for name, value in {**chosen, "distance_scale": deviation.clamp(min=1e-6)}.items():
            buffer = getattr(self.classifier, name)
            buffer[: len(best)] = value[best].to(buffer.dtype)
        self.classifier.shapelet_observed[len(best) :] = False
        self.classifier.origins[len(best) :, 0] = -1

    def _candidates(
        self,
        past_values: torch.Tensor,
        observed: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        batch_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return series and segment number of every candidate (num_candidates, 2), and the size of its cluster."""
        config = self.config
        most = max(config.max_num_candidates // config.num_segments, 1)
        order = labels.argsort(stable=True).cpu()  # an even part of every class
        series = order if len(order) <= most else order[torch.linspace(0, len(order) - 1, most).round().long()]
        embeddings, seen = [], []
        for rows in series.split(batch_size):
            one = self._segments(past_values[rows], observed[rows])
            embeddings.append(one.embeddings.flatten(0, 1).float())
            seen.append(one.observed_segments.flatten())
        points, valid = torch.cat(embeddings), torch.cat(seen)
        if not valid.any():
            raise ValueError("select_shapelets got no observed value; give series with values.")
        uniform = torch.rand(min(config.num_shapelet_clusters, int(valid.sum())), generator=generator)
        clusters, distance = k_means(points, valid, uniform.to(points.device), config.num_clustering_steps)
        found, sizes = [], []
        for cluster in clusters[valid].unique().tolist():
            members = torch.nonzero(clusters == cluster)[:, 0]
            found.append(members[distance[members].argmin()])
            sizes.append(len(members))
        nearest = torch.stack(found).cpu()
        places = torch.stack([series[nearest // config.num_segments], nearest % config.num_segments], dim=1)
        return places, torch.tensor(sizes)

    def _segments(self, past_values: torch.Tensor, observed: torch.Tensor) -> SegmentTokens:
        return self.model.segments(past_values.to(self.device), observed.to(self.device))

    def _raw_segments(
        self, past_values: torch.Tensor, observed: torch.Tensor, found: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return values and observed (num_candidates, shapelet_length), and origins (num_candidates, 5)."""
        config, device = self.config, self.device
        positions = config.positions_per_length
        ratio_of = [ratio for ratio, count in enumerate(positions) for _ in range(count)]
        place_of = [place for count in positions for place in range(count)]
        values = torch.zeros(len(found), config.shapelet_length)
        seen = torch.zeros(len(found), config.shapelet_length, dtype=torch.bool)
        origins = []
        for number, (row, slot) in enumerate(found.tolist()):
            channel, slot_of_channel = divmod(slot, sum(positions))
            ratio, place = ratio_of[slot_of_channel], place_of[slot_of_channel]
            one = observed[row : row + 1]
            group = cut_segments(past_values[row : row + 1], one, observed_span(one.any(-1)), config)[ratio]
            num_points = len(group.values)
            if num_points > config.shapelet_length:
                raise ValueError(
                    f"A segment has {num_points} values, but shapelet_length is {config.shapelet_length}; set "
                    "shapelet_length in the config to the number of timestamps of the longest series."
                )
            values[number, :num_points] = group.values[:, place, 0, channel].nan_to_num(0.0)
            seen[number, :num_points] = group.observed[:, place, 0, channel]
            origins.append([row, int(group.starts[0, place]), int(group.lengths[0]), channel, ratio])
        return values.to(device), seen.to(device), torch.tensor(origins, device=device)

    def _distances_from(
        self,
        past_values: torch.Tensor,
        observed: torch.Tensor,
        values: torch.Tensor,
        seen: torch.Tensor,
        origins: torch.Tensor,
    ) -> torch.Tensor:
        """Return the distances of some series from raw segments (num_series, num_candidates), infinite where none."""
        shapelets = self.model.segments.encoder(values, seen)
        return shapelet_distances(self._segments(past_values, observed), shapelets, origins, self.config)


class ShapeNetForTimeSeriesPrediction(GenericForTimeSeriesPrediction, ShapeNetPreTrainedModel):
    """The encoder with a linear prediction of the future from the embedding at the last observed timestamp.

    Args:
        config: Configuration; prediction_length and num_output_channels give the future's.
    """

    def __init__(self, config: ShapeNetConfig) -> None:
        super().__init__(config)
        self.model = ShapeNetModel(config)
        self.head = PredictionHead(config)
        self.post_init()


# Checkpoints of the code around the paper: the state dict of the encoder of Franceschi et al. with one input channel.
_OFFICIAL_BLOCK = re.compile(r"network\.0\.network\.(\d+)\.(causal\.0|causal\.3|upordownsample)\.(\w+)")
_OUR_LAYER = {
    "causal.0": "first_convolution",
    "causal.3": "second_convolution",
    "upordownsample": "residual_projection",
}
_OUR_KIND = {"weight_v": "direction", "weight_g": "magnitude", "bias": "bias", "weight": "weight"}
_FIELDS_OF_ARGUMENTS = {
    "channels": "hidden_size",
    "depth": "num_hidden_layers",
    "reduced_size": "reduced_size",
    "out_channels": "embedding_size",
    "kernel_size": "kernel_size",
    "final_shapelet_num": "num_shapelets",
    "cluster_num": "num_shapelet_clusters",
}
_TRAINING_ARGUMENTS = frozenset(
    {"batch_size", "compared_length", "cuda", "early_stopping", "epochs", "gpu", "in_channels", "lr", "nb_steps"}
    | {"negative_penalty", "nb_random_samples", "penalty", "seed"}
)


def rename_causal_encoder_parameter(official: str) -> str | None:
    """Return the name in a CausalEncoder of a parameter of the official CausalCNNEncoder; None for an unknown one."""
    if official in ("network.3.weight", "network.3.bias"):
        return official.replace("network.3", "output_projection")
    match = _OFFICIAL_BLOCK.fullmatch(official)
    return match and f"blocks.{match[1]}.{_OUR_LAYER[match[2]]}.{_OUR_KIND.get(match[3], match[3])}"


def convert_shapenet_state_dict(state_dict: Mapping[str, torch.Tensor]) -> FieldsAndParameters:
    """Turn the state dict of an official encoder into ours.

    Args:
        state_dict: Of the official CausalCNNEncoder with one input channel.

    Returns:
        Fields for ShapeNetConfig, with output_bias, and the parameters of ShapeNetModel.

    Raises:
        ConversionError: Parameters are missing, unknown or of more than one input channel.
    """
    blocks = [int(match[1]) for key in state_dict if (match := _OFFICIAL_BLOCK.fullmatch(key))]
    num_blocks = max(blocks, default=-1) + 1
    if not 0 < num_blocks <= len(state_dict):  # a wrong number must not make a list of millions of missing names
        raise ConversionError(
            f"This is no checkpoint of ShapeNet's encoder: it holds {list_names(sorted(state_dict)) or 'nothing'}, "
            "not network.0.network.0.causal.0.weight_v, ..."
        )
    expected = {"network.3.weight", "network.3.bias"}
    for index in range(num_blocks):
        block = f"network.0.network.{index}"
        expected |= {f"{block}.causal.{layer}.{kind}" for layer in (0, 3) for kind in ("weight_v", "weight_g", "bias")}
    # A residual passes through a layer where the widths differ: always in the first block, in the last one mostly.
    expected |= {f"network.0.network.0.upordownsample.{kind}" for kind in ("weight", "bias")}
    last = f"network.0.network.{num_blocks - 1}.upordownsample"
    expected |= {f"{last}.{kind}" for kind in ("weight", "bias") if f"{last}.{kind}" in state_dict}
    require_parameters(state_dict, expected, f"an encoder of {num_blocks} blocks")
    hidden, channels, kernel_size = state_dict["network.0.network.0.causal.0.weight_v"].shape
    if channels != 1:
        raise ConversionError(f"The encoder has {channels} input channels; ShapeNet's has one, for any segment.")
    fields = {
        "hidden_size": hidden,
        "num_hidden_layers": num_blocks,
        "reduced_size": state_dict["network.3.weight"].shape[1],
        "embedding_size": state_dict["network.3.weight"].shape[0],
        "kernel_size": kernel_size,
        "output_bias": True,
    }
    ours = {
        f"segments.encoder.{rename_causal_encoder_parameter(key)}": value.flatten() if "weight_g" in key else value
        for key, value in state_dict.items()
    }
    return fields, ours


def shapenet_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of ShapeNetConfig, but for what concerns training alone.

    Args:
        hyperparameters: Official names, such as channels, depth, reduced_size, out_channels.

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


ShapeNetPreTrainedModel.converter = Converter(
    convert=convert_shapenet_state_dict,
    fields_of_hyperparameters=shapenet_fields_of_hyperparameters,
    hyperparameter_names={*_FIELDS_OF_ARGUMENTS, *_TRAINING_ARGUMENTS},
    fields_of_shapes=("hidden_size", "num_hidden_layers", "reduced_size", "embedding_size", "kernel_size"),
)
