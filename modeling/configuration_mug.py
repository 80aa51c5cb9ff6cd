"""MUG's configuration (Ye and Ma 2023, arXiv 2312.07248)."""

from __future__ import annotations

from typing import Any

from .configuration_shapenet import ShapeNetConfig
from .configuration_time_series import TimeSeriesConfig
from .configuration_tst import TSTConfig

FILLINGS = ("zero", "interpolate")
FUSIONS = ("attention", "max", "none")
CROSS_GRANULARITIES = ("attention", "concat", "none")
RETRIEVAL_LOSSES = ("spearman_bce", "spearman", "bce", "infonce")
INSTANCE_EMBEDDINGS = ("granularities", "fused")

# Fields of the branches' configurations -> ours, where they differ.
_NAMES_IN_TST = {"num_hidden_layers": "num_fine_layers", "normalization": "fine_normalization"}
_NAMES_IN_SHAPENET = {
    **{"hidden_size": "coarse_hidden_size", "num_hidden_layers": "num_coarse_layers"},
    **{"reduced_size": "coarse_reduced_size", "embedding_size": "segment_size"},
}


class MUGConfig(TimeSeriesConfig):
    """Sizes of the two branches, of what joins them, and settings of the pretext task.

    The paper's text and its code were not at hand: what is certain is in the model card, and every default that is
    not is ours. Supports bf16, gradient checkpointing and torch.export.

    Args:
        num_input_channels: Number of channels of a series.
        embedding_size: Follows from hidden_size, segment_size, segment_ratios and instance_embedding; 0 to let it.
        pooling: How `encode` pools timestamps where it slides, and how instance_embedding "fused" does always.
        missing_values: What both branches take for a value that is missing inside a series: "interpolate", the line
            between its channel's neighbours in time, which then counts as observed; or "zero", which is masked.
        hidden_size: Width of a timestamp's representation, and of what attention makes of it.
        segment_size: Width of a segment's representation.
        num_attention_heads: Number of heads of every attention, a divisor of hidden_size.
        intermediate_size: Width inside the feed-forward networks.
        activation: "gelu" or "relu", inside the feed-forward networks.
        dropout: Dropout probability of the fine branch and of what follows it.
        num_fine_layers: Number of layers of the fine branch (TST).
        fine_normalization: "batch" or "layer", in the fine branch (TST has "batch").
        position_embedding: "fixed" or "learned", of timestamps.
        max_position_embeddings: Number of learned positions.
        attention_window: Number of timestamps up to which all see each other in the fine branch and in its fusion; in
            a longer series a timestamp sees those at a distance of at most half of it, so that the cost grows with the
            length alone. None: all see all.
        coarse_hidden_size: Width of the blocks of the segments' encoder (ShapeNet's hidden_size).
        num_coarse_layers: Number of blocks of the segments' encoder.
        coarse_reduced_size: Width of its last block.
        segment_ratios: Lengths of segments as parts of a series'.
        min_segment_length: Shortest segment, in timestamps.
        max_num_segments: Bound on the segments of a series; see ShapeNetConfig. The cost of cross-granularity
            attention is that of timestamps times segments.
        max_segment_points: Number of values above which a segment is shortened before it is encoded; see
            ShapeNetConfig.
        fusion: How timestamps are fused among themselves: "attention" to each other (the paper's), "max" over
            fusion_window timestamps (its ablation), or "none".
        fusion_window: Number of timestamps of fusion "max".
        cross_granularity: How timestamps meet segments: "attention", a transformer whose queries are timestamps and
            whose keys and values are segments (the paper's), "concat" with the mean of the segments (its ablation), or
            "none".
        num_cross_layers: Number of layers of that transformer.
        instance_embedding: What embeds a series: "granularities", the mean and the maximum over timestamps of the
            fused representation beside those over segments, for every ratio of lengths and every region; or "fused",
            the pooled fused representation alone. Timestamps have the same size: the fused representation and the
            means of the segments that cover it and those around it, beside their maximum over neighbourhood_length
            timestamps; or the former alone.
        channel_slots: Greatest number of places beside each other for the segments of several channels in an embedding
            of "granularities". More channels share places, where each gets fixed random signs of its own.
        num_regions: Number of equal parts of a series whose segments are pooled apart in "granularities", so that an
            embedding tells where something is; 1 pools all at once. A timestamp has in their place what covers it and
            timestamps before and after it, neighbourhood_length apart.
        neighbourhood_length: Number of timestamps over which a timestamp of "granularities" takes the maximum.
        retrieval_loss: How the ranking of candidates is compared with the wanted one: "spearman_bce" (the paper's),
            "spearman", "bce" or "infonce" (its ablation).
        spearman_weight: Weight of 1 - Spearman's correlation in "spearman_bce"; that of the cross-entropy is the rest.
        retrieval_size: Width of the space in which queries and candidates are compared by their cosine.
        temperature: What cosines are divided by in the cross-entropy and in "infonce".
        rank_regularization: Strength of the regularization of soft ranks, where cosines are multiplied by the number
            of candidates: towards 0 the ranks are exact, and their gradient vanishes.
        relevance_points: Number of values to which raw segments are shortened before their distances grade relevance.
        retrieval_weight: Weight of the retrieval loss.
        fine_weight: Weight of the regression of masked values from the fused representation (TST's pretext task).
        coarse_weight: Weight of the cluster-wise triplet loss on segments (ShapeNet's pretext task).
        mask_ratio: Expected part of the values that are masked in pre-training, where both branches see none of them.
        mean_mask_length: Expected length of a masked stretch.
        num_clusters: Number of clusters of the triplet loss.
        margin: Margin of the triplet loss.

    Raises:
        ValueError: A field is out of its range, or two contradict each other.
    """

    model_type = "mug"

    embedding_size: int = 0
    pooling: str = "mean"
    missing_values: str = "interpolate"
    hidden_size: int = 64
    segment_size: int = 128
    num_attention_heads: int = 8
    intermediate_size: int = 256
    activation: str = "gelu"
    dropout: float = 0.1
    num_fine_layers: int = 2
    fine_normalization: str = "batch"
    position_embedding: str = "fixed"
    max_position_embeddings: int = 1024
    attention_window: int | None = 256
    coarse_hidden_size: int = 40
    num_coarse_layers: int = 7
    coarse_reduced_size: int = 160
    segment_ratios: list[float] | tuple[float, ...] = (0.1, 0.25, 0.5)
    min_segment_length: int = 3
    max_num_segments: int = 60
    max_segment_points: int | None = 128
    fusion: str = "attention"
    fusion_window: int = 9
    cross_granularity: str = "attention"
    num_cross_layers: int = 1
    instance_embedding: str = "granularities"
    channel_slots: int = 4
    num_regions: int = 4
    neighbourhood_length: int = 9
    retrieval_loss: str = "spearman_bce"
    spearman_weight: float = 0.5
    retrieval_size: int = 64
    temperature: float = 0.1
    rank_regularization: float = 1.0
    relevance_points: int = 16
    retrieval_weight: float = 1.0
    fine_weight: float = 1.0
    coarse_weight: float = 0.0
    mask_ratio: float = 0.15
    mean_mask_length: float = 3.0
    num_clusters: int = 2
    margin: float = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive embedding_size, and refuse another one."""
        given = self.embedding_size
        super().__post_init__(**kwargs)
        if given not in (0, self.embedding_size):
            raise ValueError(
                f"{type(self).__name__}.embedding_size is {given}, but hidden_size, segment_size, segment_ratios and "
                f"instance_embedding make it {self.embedding_size}; leave it out."
            )

    @property
    def granularity_sizes(self) -> list[int]:
        """Widths of what embeds a timestamp: the fused representation, and the segments of every ratio of lengths."""
        of_a_ratio = self.num_regions * self.num_channel_slots * self.segment_size
        return [self.hidden_size, *(of_a_ratio for _ in self.segment_ratios)]

    @property
    def num_channel_slots(self) -> int:
        """Number of places beside each other that channels are added up in."""
        return min(self.channel_slots, self.num_input_channels)

    def fine_config(self) -> TSTConfig:
        """Return the configuration of the fine branch."""
        return TSTConfig(
            num_input_channels=self.num_input_channels,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_fine_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            activation=self.activation,
            normalization=self.fine_normalization,
            dropout=self.dropout,
            position_embedding=self.position_embedding,
            max_position_embeddings=self.max_position_embeddings,
            context_length=self.max_position_embeddings,
            attention_window=self.attention_window,
            mask_ratio=self.mask_ratio,
            mean_mask_length=self.mean_mask_length,
        )

    def coarse_config(self, max_segment_points: int | None = None) -> ShapeNetConfig:
        """Return the configuration of the coarse branch, or one that shortens segments to so many values."""
        return ShapeNetConfig(
            num_input_channels=self.num_input_channels,
            embedding_size=self.segment_size,
            hidden_size=self.coarse_hidden_size,
            num_hidden_layers=self.num_coarse_layers,
            reduced_size=self.coarse_reduced_size,
            segment_ratios=self.segment_ratios,
            min_segment_length=self.min_segment_length,
            max_num_segments=self.max_num_segments,
            max_segment_points=max_segment_points or self.max_segment_points,
            num_clusters=self.num_clusters,
            margin=self.margin,
        )

    @property
    def longest_length(self) -> int | None:
        """Largest number of timestamps that the encoder takes at once: those of all learned positions."""
        return self.max_position_embeddings if self.position_embedding == "learned" else None

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; derive embedding_size."""
        self.segment_ratios = list(self.segment_ratios)
        whole = ("hidden_size", "segment_size", "num_attention_heads", "intermediate_size", "num_fine_layers")
        joined = (
            "channel_slots",
            "fusion_window",
            "num_cross_layers",
            "neighbourhood_length",
            "num_regions",
            "retrieval_size",
            "relevance_points",
        )
        self.require_at_least(1, *whole, *joined)
        self.require_at_least(0, "retrieval_weight", "fine_weight", "coarse_weight")
        self.require_probability("dropout", "spearman_weight")
        self.require_one_of("missing_values", FILLINGS)
        self.require_one_of("fusion", FUSIONS)
        self.require_one_of("cross_granularity", CROSS_GRANULARITIES)
        self.require_one_of("instance_embedding", INSTANCE_EMBEDDINGS)
        self.require_one_of("retrieval_loss", RETRIEVAL_LOSSES)
        self.require_one_of("channel_mode", ("joint",))
        for name in ("temperature", "rank_regularization"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{type(self).__name__}.{name} is {getattr(self, name)}; it must be above 0.")
        sizes = self.granularity_sizes
        self.embedding_size = 2 * sum(sizes) if self.instance_embedding == "granularities" else self.hidden_size
        super().check_ranges()
        self._check_branches()

    def _check_branches(self) -> None:
        """Let both branches check what is theirs, under our names."""
        if self.fine_weight == 0 and self.cross_granularity != "none":
            raise ValueError(
                f"{type(self).__name__}.fine_weight is 0, but the retrieval query is made before timestamps meet "
                f"segments: nothing would train cross_granularity={self.cross_granularity!r}. Set one of both."
            )
        for build, names in ((self.fine_config, _NAMES_IN_TST), (self.coarse_config, _NAMES_IN_SHAPENET)):
            try:
                build()
            except ValueError as error:
                raise ValueError(self._in_our_names(str(error), names)) from None

    def _in_our_names(self, message: str, names: dict[str, str]) -> str:
        """Return what a branch's configuration says, as if it were ours."""
        for theirs, ours in {"TSTConfig": type(self).__name__, "ShapeNetConfig": type(self).__name__, **names}.items():
            message = message.replace(theirs, ours)
        return message
