"""ShapeNet's configuration (Li et al., AAAI 2021)."""

from __future__ import annotations

import math
from typing import Any

from .configuration_time_series import TaskShape, TimeSeriesConfig

PERMILLE = 1000
"""Ratios of lengths are whole thousandths, so that lengths are whole numbers of a traced length too."""


class ShapeNetConfig(TimeSeriesConfig):
    """Segments of several lengths, their encoder, the cluster-wise triplet loss and the selection of shapelets.

    The paper's text was not at hand: "official" below is the behaviour of code that carries the paper's
    implementation, and "ours" is a choice that we made. Supports bf16, gradient checkpointing and torch.export.

    Args:
        num_input_channels: Number of channels of a series. Every channel is cut into segments of its own, and one
            encoder embeds them all.
        embedding_size: Width of the embedding of a segment, a timestamp or a series (official default 320).
        hidden_size: Width of all residual blocks but the last (official default 40, "channels").
        num_hidden_layers: Number of causal residual blocks; block i has dilation 2^i. The published depth 10 means 11.
        reduced_size: Width of the last block, over which the maximum over time is taken (official default 160).
        kernel_size: Number of taps of every convolution (official default 3).
        output_bias: Whether the last layer has biases, as the official code's. The loss sees distances between
            embeddings alone, which such a bias does not change, so that nothing would teach it.
        segment_ratios: Lengths of segments as parts of the length of the series, rounded up to whole timestamps
            (official: 0.6, 0.4, 0.2, rounded down).
        min_segment_length: Shortest segment in timestamps; a series that is shorter is one segment itself. Ours.
        max_num_segments: Bound on the segments of a series, over lengths, positions and channels. Segments of one
            length and channel are spread evenly from the first to the last timestamp, at most
            max_num_segments / (lengths x channels) of them: the stride grows with the length of the series. There are
            never fewer than cover the series (ceil(1 / ratio) of each length), so that very many channels exceed the
            bound. The official code has a table of strides, with no bound. Ours.
        max_segment_points: Number of values above which a segment is shortened, before it is encoded, to so many
            means of neighbouring observed values; None keeps every value, as in the paper. For long series the cost
            of the encoder then is that of the number of segments. Ours.
        channel_signs: How the segments of several channels are added up to one embedding of a timestamp: True turns
            the signs of every channel's embedding in a fixed random way of its own, so that the sum tells channels
            apart; False adds them as they are. One channel has no signs. Ours: the paper has no such embedding.
        num_clusters: Number of clusters into which the segments of one length are grouped (official: 2).
        num_clustering_steps: Number of Lloyd's steps of the clustering. Ours.
        max_num_positives: Most positives of an anchor, and most negatives from one other cluster (official: 50).
        sample_fraction: Part of a cluster that becomes positives or negatives, plus one segment (official: 1/5).
        margin: Added to the distance from anchor to positives in the ratio (the paper's mu). It keeps embeddings from
            shrinking to a point, and its value is ours.
        intra_weight: Weight of the distances among positives and among negatives (the paper's lambda; official 1).
        num_shapelets: Number of shapelets that classification selects, and so of features (official: 50).
        num_shapelet_clusters: Number of clusters of candidates, one candidate each (official: 100).
        max_num_candidates: Most segments of training data that are clustered, from an even part of every class. Ours.
        shapelet_ranking: "separation" ranks candidates by how far the distances from them set the classes apart (the F
            statistic), ours; "utility" by size of cluster and distance from the other candidates, without labels.
        utility_weight: Weight of the size of a candidate's cluster in its utility, against 1 - utility_weight of its
            distances from the other candidates (official: 0.5).
        shapelet_length: Number of values of the longest shapelet that a classification head can hold; taken from the
            task's longest series.

    Raises:
        ValueError: A field is out of its range.
    """

    model_type = "shapenet"

    hidden_size: int = 40
    num_hidden_layers: int = 11
    reduced_size: int = 160
    kernel_size: int = 3
    output_bias: bool = False
    segment_ratios: list[float] | tuple[float, ...] = (0.2, 0.4, 0.6)
    min_segment_length: int = 3
    max_num_segments: int = 60
    max_segment_points: int | None = None
    channel_signs: bool = True
    num_clusters: int = 2
    num_clustering_steps: int = 10
    max_num_positives: int = 50
    sample_fraction: float = 0.2
    margin: float = 0.2
    intra_weight: float = 1.0
    num_shapelets: int = 50
    num_shapelet_clusters: int = 100
    max_num_candidates: int = 10_000
    shapelet_ranking: str = "separation"
    utility_weight: float = 0.5
    shapelet_length: int = 64

    @property
    def ratios_in_permille(self) -> list[int]:
        """Ratios of lengths in whole thousandths, shortest first."""
        return sorted(round(PERMILLE * ratio) for ratio in self.segment_ratios)

    @property
    def positions_per_length(self) -> list[int]:
        """Greatest number of segments of every length in one channel, shortest length first."""
        positions = [math.ceil(PERMILLE / ratio) for ratio in self.ratios_in_permille]
        for _ in range(self.max_num_segments // self.num_input_channels - sum(positions)):
            positions[positions.index(min(positions))] += 1
        return positions

    @property
    def num_segments(self) -> int:
        """Number of segments of a series, those that a short series does not have included."""
        return self.num_input_channels * sum(self.positions_per_length)

    def points_of(self, length: Any) -> Any:
        """Return the number of values of a segment as the encoder reads it, of a segment of so many timestamps."""
        return length if self.max_segment_points is None else min(length, self.max_segment_points)

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task, the length of the longest shapelet among them."""
        fields = super().fields_of_task(task)
        return {**fields, "shapelet_length": task.sequence_length} if task.class_names else fields

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range."""
        super().check_ranges()
        self.segment_ratios = list(self.segment_ratios)
        whole = ("hidden_size", "num_hidden_layers", "reduced_size", "kernel_size", "min_segment_length")
        sampled = ("max_num_segments", "num_clustering_steps", "max_num_positives", "num_shapelets", "shapelet_length")
        self.require_at_least(1, *whole, *sampled, "num_shapelet_clusters", "max_num_candidates")
        self.require_at_least(2, "num_clusters")
        self.require_at_least(0, "margin", "intra_weight")
        self.require_probability("sample_fraction", "utility_weight")
        self.require_one_of("channel_mode", ("joint",))
        self.require_one_of("shapelet_ranking", ("separation", "utility"))
        if self.max_segment_points is not None:
            self.require_at_least(1, "max_segment_points")
        if not self.segment_ratios or not all(1 / PERMILLE <= ratio <= 1.0 for ratio in self.segment_ratios):
            raise ValueError(
                f"ShapeNetConfig.segment_ratios is {self.segment_ratios}; it needs one ratio or more, each between "
                f"{1 / PERMILLE} and 1."
            )
