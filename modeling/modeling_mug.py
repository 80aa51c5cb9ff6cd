"""MUG: multi-granularity representation of time series (Ye and Ma 2023, arXiv 2312.07248).

Two branches look at a series: TST gives every timestamp a representation (modeling_tst.py), ShapeNet every segment of
several lengths (modeling_shapenet.py). Fine-grained fusion -> FineFusion. The cross-granularity transformer, whose
queries are timestamps and whose keys and values are segments -> CrossGranularityLayer. The unsupervised task, in which
a series retrieves segments by a ranking -> soft_rank, soft_spearman, relevance_cross_entropy, information_loss,
nearest_distance, MUGForPreTraining.

There is no official code, and the paper's text was not at hand. What is certain and what is our choice is told apart
in MUGConfig and in the model card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput, logging

from .configuration_mug import MUGConfig
from .distributed_time_series import GlobalBatch
from .encoding_time_series import observed_span
from .heads_time_series import (
    ClassificationHead,
    EncodedForHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    PredictionHead,
    TimeSeriesModelOutput,
)
from .layers_attention import SelfAttention
from .layers_dropout import DropoutDraws, SeededDropout
from .layers_masking import fill_missing
from .layers_patching import align_series
from .layers_pooling import max_pool_window, pool_instance
from .layers_transformer import ACTIVATIONS, LearnedPositions
from .modeling_shapenet import (
    SegmentTokens,
    ShapeNetDraws,
    ShapeNetSegments,
    channel_signs,
    cluster_losses,
    cut_segments,
    draw_choices,
)
from .modeling_time_series import TimeSeriesPreTrainedModel
from .modeling_tst import TSTEncoder, TSTPreTrainedModel, draw_masks, masked_errors

logger = logging.get_logger(__name__)

# Rounds of merging at once, after which the rest is merged one by one: the number of operations stays linear.
MOST_ROUNDS = 32
# Of the variance of soft ranks, as a part of that of ranks.
SMALLEST_SPREAD = 1e-6


def pooled_blocks(values: np.ndarray) -> np.ndarray:
    """Find which neighbours share one value in the non-increasing sequence that is nearest in the sum of squares.

    Blocks whose means increase belong together in the solution (pool adjacent violators), so that every round merges
    all of them in all rows at once. A sequence that gains one member a round is finished by a stack.

    Args:
        values: (num_rows, length).

    Returns:
        (num_rows, length) number of each value's block, counted over all rows.

    Source:
        Best and Chakravarti, Mathematical Programming 1990.
    """
    num_rows, length = values.shape
    sums, counts = values.astype(np.float64).ravel(), np.ones(values.size, dtype=np.int64)
    rows = np.repeat(np.arange(num_rows), length)
    for _ in range(MOST_ROUNDS):
        means = sums / counts
        starts = np.flatnonzero(np.append(True, (means[1:] <= means[:-1]) | (rows[1:] != rows[:-1])))
        if len(starts) == len(sums):
            return np.repeat(np.arange(len(counts)), counts).reshape(values.shape)
        sums, counts, rows = np.add.reduceat(sums, starts), np.add.reduceat(counts, starts), rows[starts]
    merged: list[list[Any]] = []
    for block in zip(rows.tolist(), sums.tolist(), counts.tolist(), strict=True):
        merged.append([*block])
        while len(merged) > 1 and _increases(*merged[-2:]):
            _, total, count = merged.pop()
            merged[-1][1:] = [merged[-1][1] + total, merged[-1][2] + count]
    return np.repeat(np.arange(len(merged)), [count for _, _, count in merged]).reshape(values.shape)


def _increases(first: list[Any], second: list[Any]) -> bool:
    """Tell whether the second block (row, sum, count) has the larger mean, in one row."""
    return first[0] == second[0] and first[1] * second[2] < second[1] * first[2]


def isotonic_regression(values: torch.Tensor) -> torch.Tensor:
    """Return the nearest non-increasing sequence: every value becomes the mean of its block.

    Within a block the gradient is the mean too, which is the exact derivative wherever there is one.

    Args:
        values: (num_rows, length).

    Returns:
        The same shape.
    """
    blocks = torch.from_numpy(pooled_blocks(values.detach().cpu().numpy())).to(values.device).flatten()
    num_blocks = int(blocks[-1]) + 1
    counts = torch.zeros(num_blocks, dtype=values.dtype, device=values.device)
    counts = counts.index_add(0, blocks, torch.ones_like(values).flatten())
    sums = values.new_zeros(num_blocks).index_add(0, blocks, values.flatten())
    return (sums / counts)[blocks].view_as(values)


def soft_rank(values: torch.Tensor, regularization: float = 1.0) -> torch.Tensor:
    """Rank the values of every row, differentiably: 1 for the smallest, the row's length for the largest.

    The projection of values / regularization onto the permutahedron, the hull of all rankings. Where neighbours in
    order differ by `regularization` or more, the ranks are exact; with a strong regularization they become the centred
    values themselves, up to a factor.

    Args:
        values: (num_rows, length), float32 or float64.
        regularization: Strength, above 0.

    Returns:
        The same shape.

    Source:
        Blondel et al., ICML 2020, equations 3 to 6 with the quadratic regularization.
    """
    ordered, order = (values / regularization).sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(values.shape[1], 0, -1, dtype=values.dtype, device=values.device)
    projected = ordered - isotonic_regression(ordered - ranks)
    return projected.gather(1, order.argsort(1))


def average_rank(values: torch.Tensor) -> torch.Tensor:
    """Rank the values of every row: 1 for the smallest; equal ones share the mean of their ranks.

    Args:
        values: (num_rows, length).

    Returns:
        The same shape, in the values' type.
    """
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values.contiguous())
    up_to = torch.searchsorted(ordered, values.contiguous(), right=True)
    return ((below + up_to + 1) / 2.0).to(values.dtype)


def soft_spearman(predicted: torch.Tensor, target: torch.Tensor, regularization: float = 1.0) -> torch.Tensor:
    """Correlate the soft ranks of predictions with the ranks of targets: Spearman's correlation, differentiable.

    Args:
        predicted: (num_rows, length), float32 or float64.
        target: The same shape.
        regularization: Of the soft ranks of `predicted`, in units of its values.

    Returns:
        (num_rows,) between -1 and 1; 0 for a row whose predictions or targets are all equal.
    """
    centre = (predicted.shape[1] + 1) / 2.0  # the mean of every ranking
    found = soft_rank(predicted, regularization) - centre
    wanted = average_rank(target).to(found.dtype) - centre
    wanted_spread = wanted.square().sum(1)
    # Soft ranks that all but agree are no ranking; without the bound, rounding alone would make one.
    spread = torch.maximum(found.square().sum(1), SMALLEST_SPREAD * wanted_spread)
    comparable = wanted_spread > 0
    scale = torch.where(comparable, spread * wanted_spread, 1.0).rsqrt()
    return torch.where(comparable, (found * wanted).sum(1) * scale, 0.0)


def relevance_cross_entropy(similarity: torch.Tensor, relevant: torch.Tensor, temperature: float) -> torch.Tensor:
    """Tell relevant candidates from others, one by one: binary cross-entropy, in which both kinds weigh the same.

    Args:
        similarity: (num_queries, num_candidates) cosines.
        relevant: The same shape, bool.
        temperature: What cosines are divided by.

    Returns:
        (num_queries,).
    """
    wrong = F.softplus(torch.where(relevant, -similarity, similarity) / temperature)
    of_relevant = (wrong * relevant).sum(1) / relevant.sum(1).clamp(min=1)
    of_others = (wrong * ~relevant).sum(1) / (~relevant).sum(1).clamp(min=1)
    return (of_relevant + of_others) / 2.0


def information_loss(similarity: torch.Tensor, relevant: torch.Tensor, temperature: float) -> torch.Tensor:
    """Tell every relevant candidate from all others at once: InfoNCE (van den Oord et al. 2018, equation 4).

    Args:
        similarity: (num_queries, num_candidates) cosines.
        relevant: The same shape, bool.
        temperature: What cosines are divided by.

    Returns:
        (num_queries,), the mean over the relevant candidates.
    """
    scores = similarity / temperature
    others = scores.masked_fill(relevant, -torch.inf).logsumexp(1, keepdim=True)
    return ((torch.logaddexp(scores, others) - scores) * relevant).sum(1) / relevant.sum(1).clamp(min=1)


class SegmentOutlines(NamedTuple):
    """Raw segments, shortened so that any two of one ratio of lengths and one channel can be compared.

    Args:
        values: One (batch_size, num_channels, num_positions, num_points) a ratio, 0 where not observed.
        observed: The same shapes, bool.
    """

    values: list[torch.Tensor]
    observed: list[torch.Tensor]


def outline_segments(values: torch.Tensor, observed: torch.Tensor, config: MUGConfig) -> SegmentOutlines:
    """Shorten raw segments to `relevance_points` values; those of shorter series are stretched to as many.

    Args:
        values: (batch_size, sequence_length, num_input_channels), anything where not observed.
        observed: The same shape, bool.
        config: Gives the segments.
    """
    outlines = SegmentOutlines([], [])
    short = config.coarse_config(config.relevance_points)
    for group in cut_segments(values, observed, observed_span(observed.any(-1)), short):
        # From time first to (batch_size, num_channels, num_positions, num_points).
        points, seen = (one.permute(2, 3, 1, 0) for one in (group.values, group.observed))
        num_points = points.shape[-1]
        places = torch.arange(num_points, device=values.device)
        places = places * group.lengths.clamp(max=num_points).unsqueeze(1) // num_points
        index = places[:, None, None].expand_as(points)
        seen = seen.gather(-1, index)
        outlines.observed.append(seen)
        outlines.values.append(torch.where(seen, points.gather(-1, index), 0.0).float())
    return outlines


def nearest_distance(queries: SegmentOutlines, candidates: SegmentOutlines) -> torch.Tensor:
    """Measure how far every candidate is from the nearest segment of the query's series, of its ratio and channel.

    It is the distance of a shapelet: the mean squared difference of the values that are observed in both.

    Args:
        queries: Segments of the query's series.
        candidates: Segments of all series.

    Returns:
        (num_query_series, num_candidate_series, num_segments), segments in ShapeNetSegments' order; infinite where
        nothing can be compared.
    """
    found = []
    for group in range(len(queries.values)):
        ours, theirs = queries.values[group].transpose(0, 1), candidates.values[group].transpose(0, 1)
        seen, seen_there = (one.observed[group].transpose(0, 1).float() for one in (queries, candidates))
        ours, theirs, seen, seen_there = (one.flatten(1, 2) for one in (ours, theirs, seen, seen_there))
        squares = ours.square() @ seen_there.mT - 2.0 * ours @ theirs.mT + seen @ theirs.square().mT
        counts = seen @ seen_there.mT
        distance = torch.where(counts > 0, squares.clamp(min=0.0) / counts.clamp(min=1), torch.inf)
        num_positions = queries.values[group].shape[2]
        distance = distance.unflatten(2, (-1, num_positions)).unflatten(1, (-1, num_positions)).amin(2)
        found.append(distance.permute(1, 2, 0, 3))  # query, candidate, channel, position
    return torch.cat(found, dim=3).flatten(2)


def retrieval_terms(
    similarity: torch.Tensor, relevant: torch.Tensor, distance: torch.Tensor, config: MUGConfig
) -> torch.Tensor:
    """Compare the ranking of the candidates with the wanted one.

    The wanted ranking has the relevant candidates first and the others by their distance.

    Args:
        similarity: (num_queries, num_candidates) cosines.
        relevant: The same shape, bool: segments of the query's series.
        distance: The same shape, of raw segments from the query's series.
        config: Gives retrieval_loss and its settings.

    Returns:
        (num_queries,) losses.
    """
    if config.retrieval_loss == "infonce":
        return information_loss(similarity, relevant, config.temperature)
    weight = {"spearman": 1.0, "bce": 0.0}.get(config.retrieval_loss, config.spearman_weight)
    loss = similarity.new_zeros(len(similarity))
    if weight > 0:
        wanted = torch.where(relevant, 1.0, -distance)
        loss = loss + weight * (
            1.0 - soft_spearman(similarity * similarity.shape[1], wanted, config.rank_regularization)
        )
    if weight < 1:
        loss = loss + (1.0 - weight) * relevance_cross_entropy(similarity, relevant, config.temperature)
    return loss


# Numbers of the dropout layers: far beyond those of the fine branch.
FUSION_SITE, CROSS_SITE = 10_000, 11_000
DROPOUT_SITES_OF_A_CROSS_LAYER = 3


class FineFusion(nn.Module):
    """Fuse timestamps among themselves, add and normalise; "none" leaves them as they are.

    Args:
        config: Gives fusion and sizes.
    """

    def __init__(self, config: MUGConfig) -> None:
        super().__init__()
        self.kind, self.window = config.fusion, config.fusion_window
        if self.kind == "none":
            return
        size = config.hidden_size
        self.mixing: nn.Module = (
            SelfAttention(size, config.num_attention_heads, 0.0, FUSION_SITE, config.attention_window)
            if self.kind == "attention"
            else nn.Linear(size, size)
        )
        self.dropout = SeededDropout(config.dropout, FUSION_SITE + 1)
        self.norm = nn.LayerNorm(size)

    def forward(self, fine: torch.Tensor, observed: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Fuse.

        Args:
            fine: (batch_size, num_timestamps, hidden_size) of series that begin at the first position.
            observed: (batch_size, num_timestamps) bool; the others are attended to by none.
            draws: The random choices of dropout; None for random ones in training.

        Returns:
            The shape of `fine`.
        """
        if self.kind == "none":
            return fine
        if self.kind == "max":
            mixed = self.mixing(max_pool_window(fine, self.window, observed))
        else:
            mixed = self.mixing(fine, seen_keys(observed), draws)
        return self.norm(fine + self.dropout(mixed, draws))


def seen_keys(observed: torch.Tensor) -> torch.Tensor | None:
    """Return which keys queries attend to, (num_rows, 1, 1, length) bool, or None for all.

    Where nothing is observed all see the first key: attention to nothing is not a number.
    """
    if not torch.compiler.is_compiling() and bool(observed.all()):
        return None
    is_first = torch.arange(observed.shape[1], device=observed.device) == 0
    return (observed | (is_first & ~observed.any(-1, keepdim=True)))[:, None, None, :]


class CrossGranularityLayer(GradientCheckpointingLayer):
    """Timestamps attend to segments, add and normalise; a feed-forward network, add and normalise.

    Args:
        config: Gives sizes and dropout.
        first_site: Number of the first of its DROPOUT_SITES_OF_A_CROSS_LAYER dropout layers.
    """

    def __init__(self, config: MUGConfig, first_site: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_attention_heads = config.num_attention_heads
        self.query_projection = nn.Linear(size, size)
        self.segment_projection = nn.Linear(config.segment_size, 2 * size)  # keys and values in one product
        self.output_projection = nn.Linear(size, size)
        self.attention_dropout = SeededDropout(config.dropout, first_site)
        self.attention_norm = nn.LayerNorm(size)
        self.expansion = nn.Linear(size, config.intermediate_size)
        self.activate = ACTIVATIONS[config.activation]
        self.expansion_dropout = SeededDropout(config.dropout, first_site + 1)
        self.contraction = nn.Linear(config.intermediate_size, size)
        self.contraction_dropout = SeededDropout(config.dropout, first_site + 2)
        self.output_norm = nn.LayerNorm(size)

    def forward(
        self,
        hidden: torch.Tensor,
        segments: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        draws: DropoutDraws | None = None,
    ) -> torch.Tensor:
        """Map (batch_size, num_timestamps, hidden_size) to the same shape.

        Args:
            hidden: The timestamps.
            segments: (batch_size, num_segments, segment_size).
            attention_mask: (batch_size, 1, 1, num_segments) bool, True = attended to; None for all.
            draws: The random choices of dropout; None for random ones in training.
        """
        query, key, value = self._split(hidden, segments)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        attended = self.output_projection(attended.transpose(1, 2).flatten(2))
        hidden = self.attention_norm(hidden + self.attention_dropout(attended, draws))
        inner = self.expansion_dropout(self.activate(self.expansion(hidden)), draws)
        return self.output_norm(hidden + self.contraction_dropout(self.contraction(inner), draws))

    def weights(
        self, hidden: torch.Tensor, segments: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return how timestamps attend: (batch_size, num_attention_heads, num_timestamps, num_segments).

        The forward pass never holds them, so that its memory does not grow with timestamps times segments.
        """
        query, key, _ = self._split(hidden, segments)
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        return (scores if attention_mask is None else scores.masked_fill(~attention_mask, -torch.inf)).softmax(-1)

    def _split(self, hidden: torch.Tensor, segments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values: (batch_size, num_attention_heads, length, head_size)."""
        projected = (self.query_projection(hidden), *self.segment_projection(segments).chunk(2, dim=-1))
        query, key, value = (one.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2) for one in projected)
        return query, key, value


class ConcatLayer(nn.Module):
    """The ablation of the cross-granularity transformer: every timestamp beside the mean of the segments, projected.

    Args:
        config: Gives sizes.
    """

    def __init__(self, config: MUGConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.hidden_size + config.segment_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden: torch.Tensor, segments: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Map (batch_size, num_timestamps, hidden_size) to the same shape, given the segments and which there are."""
        mean = pool_instance(segments, observed, "mean").unsqueeze(1).expand(-1, hidden.shape[1], -1)
        return self.norm(self.projection(torch.cat((hidden, mean), dim=-1)))


class Granularities(NamedTuple):
    """What the model makes of a batch. Padding before a series and after it is zero.

    Args:
        fusion: (batch_size, sequence_length, hidden_size), timestamps fused among themselves.
        fused: The same shape, after they met the segments.
        segments: The segments, with spans in the batch's own timestamps.
        attentions: One (batch_size, num_attention_heads, sequence_length, num_segments) a cross-granularity layer,
            when asked for.
    """

    fusion: torch.Tensor
    fused: torch.Tensor
    segments: SegmentTokens
    attentions: tuple[torch.Tensor, ...] | None


class SegmentGroup(NamedTuple):
    """The representations of the segments of one ratio of lengths, channels of a slot added up.

    Args:
        total: (batch_size, num_slots, num_positions, segment_size), sums over the channels of a slot.
        num_observed: (batch_size, num_slots, num_positions) number of observed channels.
        start: (batch_size, num_positions) first timestamp.
        stop: (batch_size, num_positions) timestamp after the last one.
        region: (batch_size, num_positions) number of the part of the series in which the centre lies.
    """

    total: torch.Tensor
    num_observed: torch.Tensor
    start: torch.Tensor
    stop: torch.Tensor
    region: torch.Tensor

    def pool(self, pooling: str, num_regions: int) -> torch.Tensor:
        """Pool the observed segments of every region: (batch_size, num_regions * num_slots * segment_size)."""
        mean = (self.total / self.num_observed.clamp(min=1).unsqueeze(-1)).flatten(0, 1)
        observed = self.num_observed > 0
        pooled = []
        for region in range(num_regions):
            within = observed & (self.region == region).unsqueeze(1)
            pooled.append(
                pool_instance(mean, within.flatten(0, 1), pooling).unflatten(0, observed.shape[:2]).flatten(1)
            )
        return torch.cat(pooled, dim=-1)

    def covering_mean(self, sequence_length: int) -> torch.Tensor:
        """Average the segments that cover a timestamp: (batch_size, sequence_length, num_slots * segment_size)."""
        step = torch.arange(sequence_length, device=self.total.device).view(1, -1, 1)
        covers = (step >= self.start.unsqueeze(1)) & (step < self.stop.unsqueeze(1))
        covers = covers.to(self.total.dtype).unsqueeze(1)
        mean = covers @ self.total / (covers @ self.num_observed.unsqueeze(-1)).clamp(min=1)
        return mean.transpose(1, 2).flatten(2)


def segment_regions(start: torch.Tensor, stop: torch.Tensor, num_regions: int) -> torch.Tensor:
    """Tell in which of so many equal parts of its series the centre of every segment lies.

    The first segment of every length begins with the series, and the last one ends with it.

    Args:
        start: (batch_size, num_segments) first timestamp of every segment.
        stop: The same shape, the timestamp after its last one.
        num_regions: Number of parts.

    Returns:
        The same shape, from 0 to num_regions - 1.
    """
    first, end = start.amin(1, keepdim=True), stop.amax(1, keepdim=True)
    doubled_centre = start + stop - 2 * first
    return (doubled_centre * num_regions // (2 * (end - first).clamp(min=1))).clamp(max=num_regions - 1)


def group_segments(segments: SegmentTokens, config: MUGConfig) -> list[SegmentGroup]:
    """Add up the normalised segments of the channels of a slot, one group a ratio of lengths.

    Channel i is in slot i % num_channel_slots. Beside others it has fixed random signs of its own, so that the sum
    tells channels apart.
    """
    num_channels, num_slots = config.num_input_channels, config.num_channel_slots
    embeddings = F.layer_norm(segments.embeddings, segments.embeddings.shape[-1:]).unflatten(1, (num_channels, -1))
    beyond = -num_channels % num_slots
    rows = F.pad(embeddings, (0, 0, 0, 0, 0, beyond)).unflatten(1, (-1, num_slots))
    signs = channel_signs(rows.shape[1], rows.shape[-1], rows.device).to(rows.dtype)
    total = (rows * signs[:, None, None]).sum(1)
    observed = F.pad(segments.observed_segments.unflatten(1, (num_channels, -1)), (0, 0, 0, beyond))
    count = observed.unflatten(1, (-1, num_slots)).sum(1).to(total.dtype)
    start, length, _ = segments.spans[:, : total.shape[2]].unbind(-1)
    stop, sizes = start + length, config.coarse_config().positions_per_length
    places = (start, stop, segment_regions(start, stop, config.num_regions))
    parts = (total.split(sizes, 2), count.split(sizes, 2), *(one.split(sizes, 1) for one in places))
    return [SegmentGroup(*one) for one in zip(*parts, strict=True)]


def take_rows(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Take rows (batch_size, num_rows, size) at places (batch_size, num_places): (batch_size, num_places, size)."""
    return rows.gather(1, places.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


class MeasuredNorm(nn.Module):
    """Give every feature mean 0 and deviation 1, as measured while pre-training; afterwards it is fixed.

    What is measured is averaged over steps, the first ones evenly and later ones with falling weights, and reaches no
    gradient: a batch never changes the embedding of a series.

    Args:
        size: Number of features.
    """

    MOMENTUM = 0.03
    EPSILON = 1e-5
    mean: torch.Tensor
    variance: torch.Tensor
    num_batches: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise (num_rows, size)."""
        mean, variance = (one.float() for one in (self.mean, self.variance))
        return ((features.float() - mean) * (variance + self.EPSILON).rsqrt()).to(features.dtype)

    @torch.no_grad()
    def measure(self, features: torch.Tensor) -> None:
        """Take the features of a batch (num_rows, size) into account; of less than two rows nothing is learnt."""
        if len(features) < 2:
            return
        self.num_batches.add_(1)
        weight = max(1.0 / int(self.num_batches), self.MOMENTUM)
        variance, mean = torch.var_mean(features.float(), dim=0)
        self.mean.lerp_(mean.to(self.mean.dtype), weight)
        self.variance.lerp_(variance.to(self.variance.dtype), weight)


@dataclass
class MUGModelOutput(TimeSeriesModelOutput):
    """Embeddings of a batch of series.

    Args:
        last_hidden_state: (batch_size, sequence_length, embedding_size), one embedding a timestamp.
        pooler_output: (batch_size, embedding_size), one embedding a series.
        hidden_states: Timestamps fused among themselves, and after they met the segments, when asked for; both
            (batch_size, sequence_length, hidden_size).
        segment_embeddings: (batch_size, num_segments, segment_size).
        observed_segments: (batch_size, num_segments) bool; the others are zero, and attended to by none.
        spans: (batch_size, num_segments, 3) first timestamp, length and channel of every segment.
        cross_attentions: One (batch_size, num_attention_heads, sequence_length, num_segments) a layer, when asked for:
            how much every timestamp takes from every segment. Zero beyond a series.
    """

    segment_embeddings: torch.Tensor | None = None
    observed_segments: torch.Tensor | None = None
    spans: torch.Tensor | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MUGForPreTrainingOutput(ModelOutput):
    """Loss of the pretext task.

    Args:
        loss: Scalar: the weighted sum.
        retrieval_loss: Of the ranking of segments, a scalar without gradient.
        fine_loss: Mean squared error of masked values, a scalar without gradient.
        coarse_loss: Cluster-wise triplet loss of segments, a scalar without gradient.
    """

    loss: torch.Tensor | None = None
    retrieval_loss: torch.Tensor | None = None
    fine_loss: torch.Tensor | None = None
    coarse_loss: torch.Tensor | None = None


class MUGPreTrainedModel(TimeSeriesPreTrainedModel):
    """Base class of MUG's models."""

    config: MUGConfig
    config_class = MUGConfig
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    _no_split_modules = [  # noqa: RUF012 - transformers declares it as an instance's variable
        *("BatchNormTransformerLayer", "TransformerLayer", "CausalResidualBlock", "CrossGranularityLayer")
    ]
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 - as above
        r"^(head|classifier|decoder|query_projection|candidate_projection)\."
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, MeasuredNorm):
            init.zeros_(module.mean)
            init.ones_(module.variance)
            init.zeros_(module.num_batches)
        elif isinstance(module, (LearnedPositions, SelfAttention)):
            TSTPreTrainedModel._init_weights(cast(Any, self), module)  # as in the fine branch's own method
        else:
            super()._init_weights(module)

    def filled_values(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values as both branches take them, with config.missing_values in gaps, and which there are."""
        observed = self.observed_values(past_values, past_observed_mask)
        return fill_missing(past_values, observed, self.config.missing_values)


class MUGModel(MUGPreTrainedModel):
    """Both branches, what joins them, and what they say together of timestamps and series."""

    def __init__(self, config: MUGConfig) -> None:
        super().__init__(config)
        self.fine = TSTEncoder(config.fine_config())
        self.coarse = ShapeNetSegments(config.coarse_config())
        self.fusion = FineFusion(config)
        self.cross_layers = nn.ModuleList()
        if config.cross_granularity == "attention":
            sites = (CROSS_SITE + index * DROPOUT_SITES_OF_A_CROSS_LAYER for index in range(config.num_cross_layers))
            self.cross_layers.extend(CrossGranularityLayer(config, site) for site in sites)
        elif config.cross_granularity == "concat":
            self.cross_layers.append(ConcatLayer(config))
        self.norm = MeasuredNorm(config.embedding_size)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MUGModelOutput | tuple[torch.Tensor, ...]:
        """Embed a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. A timestamp without an
                observed channel is attended to by none, and a segment without an observed value neither.
            past_observed_mask: The same shape, True = observed, or None.
            output_hidden_states: Whether to return what timestamps were before and after they met the segments.
            output_attentions: Whether to return how timestamps attend to segments.
            return_dict: Whether to return a MUGModelOutput instead of a tuple.

        Returns:
            The embeddings; those of padding are zero.
        """
        values, observed = self.filled_values(past_values, past_observed_mask)
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        encoded = self.encode_granularities(values, observed, output_attentions=bool(output_attentions))
        output = MUGModelOutput(
            last_hidden_state=self.timestamps(encoded, self.observed_timestamps(observed)),
            pooler_output=self.scaled_instances(encoded, observed),
            hidden_states=(encoded.fusion, encoded.fused) if wants_states else None,
            segment_embeddings=encoded.segments.embeddings,
            observed_segments=encoded.segments.observed_segments,
            spans=encoded.segments.spans,
            cross_attentions=encoded.attentions,
        )
        return output if return_dict is not False else output.to_tuple()

    def encode_granularities(
        self,
        values: torch.Tensor,
        observed: torch.Tensor,
        draws: DropoutDraws | None = None,
        output_attentions: bool = False,
    ) -> Granularities:
        """Run both branches and what joins them.

        Args:
            values: (batch_size, sequence_length, num_input_channels), anything where not observed.
            observed: The same shape, bool.
            draws: The random choices of dropout; None for random ones in training.
            output_attentions: Whether to return attention weights.
        """
        series = align_series(values, observed)
        segments = self.coarse(series.values, series.observed)
        fine = self.fine.encode_tokens(series, draws)
        fusion = self.fusion(fine.hidden, fine.observed, draws)
        fused, attentions = self._cross(fusion, segments, draws, output_attentions)
        moved = torch.stack((series.start, *(torch.zeros_like(series.start) for _ in range(2))), dim=-1)
        return Granularities(
            self.fine.in_place(fusion, series),
            self.fine.in_place(fused, series),
            segments._replace(spans=segments.spans + moved.unsqueeze(1)),
            None if attentions is None else tuple(self._weights_in_place(one, series) for one in attentions),
        )

    def _cross(
        self, hidden: torch.Tensor, segments: SegmentTokens, draws: DropoutDraws | None, output_attentions: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
        """Let timestamps meet segments."""
        attentions: list[torch.Tensor] = []
        mask = seen_keys(segments.observed_segments)
        for layer in self.cross_layers:
            if isinstance(layer, ConcatLayer):
                hidden = layer(hidden, segments.tokens, segments.observed_segments)
                continue
            if output_attentions:
                attentions.append(cast(CrossGranularityLayer, layer).weights(hidden, segments.tokens, mask))
            hidden = layer(hidden, segments.tokens, mask, draws)
        return hidden, attentions if output_attentions else None

    def _weights_in_place(self, weights: torch.Tensor, series: Any) -> torch.Tensor:
        """Give attention weights the timestamps that they had before the alignment."""
        in_place = self.fine.in_place(weights.transpose(1, 2).flatten(2), series)
        return in_place.unflatten(2, (weights.shape[1], -1)).transpose(1, 2)

    def timestamps(self, encoded: Granularities, seen: torch.Tensor) -> torch.Tensor:
        """Embed timestamps as `instance_embedding` says: (batch_size, sequence_length, embedding_size).

        Args:
            encoded: What the branches made of the batch.
            seen: (batch_size, sequence_length) bool, timestamps with an observed channel.
        """
        if self.config.instance_embedding == "fused":
            return encoded.fused
        inside = observed_span(seen)
        places = self._places_around(inside)
        covering = (one.covering_mean(seen.shape[1]) for one in group_segments(encoded.segments, self.config))
        covering = (take_rows(one, place) for one in covering for place in places)
        timestamps = torch.cat((encoded.fused, *covering), dim=-1) * inside.unsqueeze(-1)
        around = max_pool_window(timestamps, self.config.neighbourhood_length, inside) * inside.unsqueeze(-1)
        return torch.cat((timestamps, around), dim=-1)

    def _places_around(self, inside: torch.Tensor) -> list[torch.Tensor]:
        """Return which timestamps stand for the regions around each: num_regions of (batch_size, sequence_length).

        They are neighbourhood_length apart, the timestamp itself is among them, and the ends of a series bound them.
        """
        count, steps = self.config.num_regions, torch.arange(inside.shape[1], device=inside.device)
        first = torch.where(inside, steps, inside.shape[1] - 1).amin(1, keepdim=True)
        last = torch.where(inside, steps, 0).amax(1, keepdim=True)
        offsets = ((region - count // 2) * self.config.neighbourhood_length for region in range(count))
        return [torch.minimum(torch.maximum(steps + offset, first), last) for offset in offsets]

    def instances(self, encoded: Granularities, seen: torch.Tensor) -> torch.Tensor:
        """Embed series, not normalised yet: (batch_size, embedding_size); the arguments are those of `timestamps`."""
        pooled = self.pooled_timestamps(seen)
        if self.config.instance_embedding == "fused":
            return pool_instance(encoded.fused, pooled, self.config.pooling)
        groups = group_segments(encoded.segments, self.config)
        parts = []
        for pooling in ("mean", "max"):
            parts += [
                pool_instance(encoded.fused, pooled, pooling),
                *(group.pool(pooling, self.config.num_regions) for group in groups),
            ]
        return torch.cat(parts, dim=-1)

    def embed_instances(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None = None, **method_arguments: Any
    ) -> torch.Tensor:
        """Embed every series of a batch as a whole, as `forward` does, without embeddings of timestamps.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            method_arguments: None; for other methods.

        Returns:
            (batch_size, embedding_size); zeros for a series without an observed value.
        """
        values, observed = self.filled_values(past_values, past_observed_mask)
        return self.scaled_instances(self.encode_granularities(values, observed), observed)

    def scaled_instances(self, encoded: Granularities, observed: torch.Tensor) -> torch.Tensor:
        """Return `instances` as `norm` scales them; zeros for a series without an observed value."""
        seen = self.observed_timestamps(observed)
        return self.norm(self.instances(encoded, seen)) * seen.any(1, keepdim=True)


@dataclass(frozen=True)
class MUGDraws:
    """The random choices of one pre-training step.

    Args:
        kept: (batch_size, sequence_length, num_input_channels) bool, values that are not masked.
        dropout_seed: Source of every dropout mask.
        clusters: Choices of the triplet loss, for the global batch.
    """

    kept: torch.Tensor
    dropout_seed: int
    clusters: ShapeNetDraws

    def rows(self, start: int, stop: int) -> MUGDraws:
        """Return the choices for some series of the batch."""
        return replace(self, kept=self.kept[start:stop])


def draw_step(config: MUGConfig, batch_size: int, length: int, generator: torch.Generator | None = None) -> MUGDraws:
    """Draw the choices of one step.

    Args:
        config: Gives masks and clusters.
        batch_size: Number of series of the global batch.
        length: Number of timestamps.
        generator: Source of randomness on the CPU; None for torch's global one.
    """
    kept = draw_masks(config.fine_config(), batch_size, length, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    return MUGDraws(kept, seed, draw_choices(batch_size, config.coarse_config(), generator))


NOTHING_TO_RANK_WARNING = (
    "A batch of MUG has segments of one series alone, so that there is no other to tell them from: its retrieval loss "
    "is 0 and teaches nothing. Give more series a batch, or retrieval_weight=0."
)


class MUGForPreTraining(MUGPreTrainedModel):
    """The pretext task: a series retrieves its segments, masked values are predicted, segments form clusters.

    Masked values are missing for both branches. With several processes candidates are the segments of the global
    batch, everything is drawn for it, and the mean of the processes' losses is the loss of one process on the same
    global batch, with its gradient.
    """

    def __init__(self, config: MUGConfig) -> None:
        super().__init__(config)
        self.model = MUGModel(config)
        if config.retrieval_weight > 0:
            self.query_projection = nn.Linear(config.hidden_size, config.retrieval_size)
            self.candidate_projection = nn.Linear(config.segment_size, config.retrieval_size)
        if config.fine_weight > 0:
            self.decoder = nn.Linear(config.hidden_size, config.num_input_channels)
        self.post_init()

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        draws: MUGDraws | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> MUGForPreTrainingOutput | tuple[torch.Tensor, ...]:
        """Compute the loss of a batch of series.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            draws: The random choices; None to draw them.
            generator: Source of the random choices, on the CPU; None for torch's global one.
            return_dict: Whether to return a MUGForPreTrainingOutput instead of a tuple.

        Returns:
            The loss and its terms.
        """
        config, batch = self.config, GlobalBatch.of(self)
        values, observed = self.filled_values(past_values, past_observed_mask)
        if draws is None:
            length = past_values.shape[1]
            draws = batch.draw(lambda count, source: draw_step(config, count, length, source), past_values, generator)
        kept = draws.kept.to(observed.device)
        measured = self.observed_values(past_values, past_observed_mask)
        dropout = DropoutDraws(draws.dropout_seed, 1, batch.rank, batch.num_processes) if self.training else None
        encoded = self.model.encode_granularities(values, observed & kept, dropout)
        if self.training:
            self._measure(batch, encoded, observed & kept)
        zero = values.new_zeros(())
        terms = {
            "retrieval": self._retrieve(batch, encoded, values, observed) if config.retrieval_weight > 0 else zero,
            "fine": self._predict(batch, encoded, values, measured & ~kept) if config.fine_weight > 0 else zero,
            "coarse": self._cluster(batch, values, observed, draws.clusters) if config.coarse_weight > 0 else zero,
        }
        loss = sum((getattr(config, f"{name}_weight") * term for name, term in terms.items()), start=zero)
        output = MUGForPreTrainingOutput(loss, *(term.detach() for term in terms.values()))
        return output if return_dict is not False else output.to_tuple()

    @torch.compiler.disable  # which series have a value decides shapes, here and in what is ranked
    @torch.no_grad()
    def _measure(self, batch: GlobalBatch, encoded: Granularities, observed: torch.Tensor) -> None:
        """Measure the embeddings of all processes' series, of those with an observed value."""
        seen = self.model.observed_timestamps(observed)
        instances = batch.gather(self.model.instances(encoded, seen).float())
        self.model.norm.measure(instances[batch.gather(seen.any(1))])

    def _predict(
        self, batch: GlobalBatch, encoded: Granularities, values: torch.Tensor, asked: torch.Tensor
    ) -> torch.Tensor:
        """Predict masked values from the fused representation: the mean squared error."""
        return batch.mean(masked_errors(self.decoder(encoded.fused), values, asked), asked)

    @torch.compiler.disable
    def _retrieve(
        self, batch: GlobalBatch, encoded: Granularities, values: torch.Tensor, observed: torch.Tensor
    ) -> torch.Tensor:
        """Rank the segments of all series by their similarity to every series' query."""
        seen = observed_span(observed.any(-1))
        queries = self.query_projection(pool_instance(encoded.fusion, seen, "mean"))
        segments = encoded.segments
        candidates = F.normalize(self.candidate_projection(segments.tokens).float(), dim=-1)
        candidates, is_candidate = batch.gather(candidates), batch.gather(segments.observed_segments)
        with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
            outlines = outline_segments(values, observed, self.config)
            everywhere = SegmentOutlines(*([batch.gather(one) for one in part] for part in outlines))
            distance = nearest_distance(outlines, everywhere)
            series = torch.arange(len(candidates), device=values.device)
            own = series[batch.rank * len(values) :][: len(values)]
            relevant = (own.unsqueeze(1) == series).unsqueeze(-1).expand_as(distance)
            # Segments without an observed value are left out; the others are the candidates of all queries.
            places = torch.nonzero(is_candidate.flatten())[:, 0]
            relevant, distance = (one.flatten(1)[:, places] for one in (relevant, distance))
            counted = relevant.any(1) & ~relevant.all(1)
        with torch.autocast(values.device.type, enabled=False):
            similarity = F.normalize(queries.float(), dim=-1) @ candidates.flatten(0, 1)[places].mT
            if int(is_candidate.any(1).sum()) < 2:  # alike on all processes
                logger.warning_once(NOTHING_TO_RANK_WARNING)
                return 0.0 * (similarity.sum() + candidates.sum())
            return batch.mean(retrieval_terms(similarity, relevant, distance, self.config), counted)

    def _cluster(
        self, batch: GlobalBatch, values: torch.Tensor, observed: torch.Tensor, draws: ShapeNetDraws
    ) -> torch.Tensor:
        """Compare the segments of clusters: ShapeNet's cluster-wise triplet loss."""
        return cluster_losses(self.model.coarse, batch, values, observed, draws)[0]


class MUGForTimeSeriesClassification(GenericForTimeSeriesClassification, MUGPreTrainedModel):
    """The encoder with class scores on the embedding of a series.

    Args:
        config: Configuration; num_labels or id2label gives the classes.
    """

    def __init__(self, config: MUGConfig) -> None:
        super().__init__(config)
        self.model = MUGModel(config)
        self.classifier = ClassificationHead(config)
        self.post_init()

    def compute_head_inputs(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> EncodedForHead:
        """Embed series, without embeddings of timestamps; see GenericWithHead.compute_head_inputs."""
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            return super().compute_head_inputs(past_values, past_observed_mask, output_hidden_states)
        return EncodedForHead({"embedding": self.model.embed_instances(past_values, past_observed_mask)})


class MUGForTimeSeriesPrediction(GenericForTimeSeriesPrediction, MUGPreTrainedModel):
    """The encoder with a linear prediction of the future from the embedding at the last observed timestamp.

    Args:
        config: Configuration; prediction_length and num_output_channels give the future's.
    """

    def __init__(self, config: MUGConfig) -> None:
        super().__init__(config)
        self.model = MUGModel(config)
        self.head = PredictionHead(config)
        self.post_init()
