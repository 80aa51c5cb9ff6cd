"""TST's configuration (Zerveas et al., KDD 2021, arXiv 2010.02803)."""

from __future__ import annotations

from typing import Any

from .configuration_time_series import TaskShape, TimeSeriesConfig

MASK_RULES = ("geometric", "bernoulli", "transduction")


class TSTConfig(TimeSeriesConfig):
    """Sizes of the encoder and settings of the pretext task.

    The defaults are those of the official code, but for attention_dropout and normalize_over_padding. Supports bf16,
    gradient checkpointing and torch.export, which takes any length but where projection_stride is above 1.

    Args:
        num_input_channels: Number of channels of a series.
        embedding_size: Always hidden_size; 0 to let it be set.
        pooling: How timestamp embeddings become one vector per series: "mean", "max" or "last".
        channel_mode: "joint": a token holds all channels.
        context_length: Number of timestamps that the pretext task and the heads read. The heads' linear layers cover
            it, so it is fixed by training; the encoder itself takes other lengths.
        hidden_size: Width of a token.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        intermediate_size: Width inside the feed-forward networks.
        activation: "gelu" or "relu", inside the feed-forward networks and after the encoder, before every head.
        normalization: "batch" (the paper's): over the timestamps of all series; or "layer".
        dropout: Dropout probability inside the encoder.
        attention_dropout: Dropout probability of attention weights; the official code has that of dropout. PyTorch's
            fused attention for the CPU has none: above 0 a training step there holds all attention weights in memory.
        head_dropout: Dropout probability before the layer that reconstructs or predicts.
        classifier_dropout: Dropout probability before the layer that classifies.
        input_projection: "linear": a token is a timestamp. "convolution" (paper, section 3.1, for long series): a
            token sees projection_kernel_size timestamps and stands for projection_stride of them.
        projection_kernel_size: Number of timestamps under the convolution, at least projection_stride.
        projection_stride: Number of timestamps from one token of the convolution to the next. Attention costs fall
            with its square; the pretext task reconstructs so many timestamps from a token.
        position_embedding: "fixed" (sines and cosines, for series of any length) or "learned" (the paper's).
        max_position_embeddings: Number of learned positions: no series can have more tokens.
        attention_window: Number of timestamps up to which all see each other; in a longer series a timestamp sees
            those at a distance of at most half of it, at a cost that grows with the length alone. None: all see all.
        normalize_over_padding: Whether the batch statistics of training count padding up to context_length, as in the
            official code, where so the padding changes the result. False: observed timestamps alone count.
        mask_rule: "geometric" (the paper's): masked and kept stretches of geometric lengths; "bernoulli": every value
            by itself; "transduction": whole channels are predicted from the others.
        mask_ratio: Expected share of masked values, for the first two rules.
        mean_mask_length: Expected length of a masked stretch where mask_rule is "geometric".
        mask_channels_together: False: every channel is masked by itself, as in the paper. True: all at once.
        unmasked_channels: Channels that are never masked by the first two rules; None for none.
        masked_channels: Channels that "transduction" predicts.
        start_hint: Share of the timestamps, at the beginning, that "transduction" leaves in place.
        end_hint: The same at the end.
        compensate_masking: Whether what is left of a timestamp is multiplied by the number of its channels and divided
            by the number of those kept.
        output_l2_weight: Weight of the squared norm of the output layer's weights in the training loss.
        freeze_encoder: Whether the encoder is not trained, and has no dropout: the layer after it alone learns.

    Raises:
        ValueError: A field is out of its range, or two contradict each other.
    """

    model_type = "tst"
    reconstructs = True

    embedding_size: int = 0
    pooling: str = "mean"
    context_length: int = 512
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    intermediate_size: int = 256
    activation: str = "gelu"
    normalization: str = "batch"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    head_dropout: float = 0.1
    classifier_dropout: float = 0.1
    input_projection: str = "linear"
    projection_kernel_size: int = 9
    projection_stride: int = 1
    position_embedding: str = "fixed"
    max_position_embeddings: int = 1024
    attention_window: int | None = None
    normalize_over_padding: bool = False
    mask_rule: str = "geometric"
    mask_ratio: float = 0.15
    mean_mask_length: float = 3.0
    mask_channels_together: bool = False
    unmasked_channels: list[int] | None = None
    masked_channels: list[int] | None = None
    start_hint: float = 0.0
    end_hint: float = 0.0
    compensate_masking: bool = False
    output_l2_weight: float = 0.0
    freeze_encoder: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive embedding_size, and refuse another one."""
        given = self.embedding_size
        super().__post_init__(**kwargs)
        if given not in (0, self.embedding_size):
            raise ValueError(
                f"{type(self).__name__}.embedding_size is {given}, but it always is hidden_size={self.hidden_size}; "
                "leave it out and set hidden_size."
            )

    @property
    def token_stride(self) -> int:
        """Number of timestamps that a token stands for."""
        return self.projection_stride if self.input_projection == "convolution" else 1

    @property
    def num_context_tokens(self) -> int:
        """Number of tokens of context_length timestamps."""
        return self.attention_tokens(self.context_length)

    def attention_tokens(self, sequence_length: int) -> int:
        """Return the number of tokens of a series."""
        return -(-sequence_length // self.token_stride)

    @property
    def longest_length(self) -> int | None:
        """Largest number of timestamps that the encoder takes at once: those of all learned positions."""
        return self.max_position_embeddings * self.token_stride if self.position_embedding == "learned" else None

    @property
    def reconstruction_length(self) -> int | None:
        """Largest number of timestamps that are reconstructed at once: those of the pretext task."""
        return self.context_length

    @property
    def head_reads_context(self) -> bool:
        """Whether a classification head covers the first `context_length` timestamps: of TST always."""
        return True

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task, the length of the context among them."""
        return {**super().fields_of_task(task), "context_length": task.context_length or task.sequence_length}

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; derive embedding_size."""
        self.embedding_size = self.hidden_size
        super().check_ranges()
        self.require_at_least(1, "context_length", "hidden_size", "num_hidden_layers", "num_attention_heads")
        self.require_at_least(1, "intermediate_size", "projection_kernel_size", "projection_stride")
        self.require_at_least(1, "max_position_embeddings", "mean_mask_length")
        if self.attention_window is not None:
            self.require_at_least(1, "attention_window")
        self.require_at_least(0, "output_l2_weight")
        self.require_probability("dropout", "attention_dropout", "head_dropout", "start_hint", "end_hint")
        self.require_one_of("activation", ("gelu", "relu"))
        self.require_one_of("normalization", ("batch", "layer"))
        self.require_one_of("input_projection", ("linear", "convolution"))
        self.require_one_of("position_embedding", ("fixed", "learned"))
        self.require_one_of("mask_rule", MASK_RULES)
        self._check_that_fields_fit()
        self._check_masks()

    def _check_that_fields_fit(self) -> None:
        name = type(self).__name__
        if self.channel_mode != "joint":
            raise ValueError(f"{name}.channel_mode is {self.channel_mode!r}; a token holds all channels: 'joint'.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{name}.hidden_size is {self.hidden_size}; it must be a multiple of num_attention_heads, "
                f"{self.num_attention_heads}."
            )
        if self.input_projection == "convolution" and self.projection_kernel_size < self.projection_stride:
            raise ValueError(
                f"{name}.projection_kernel_size is {self.projection_kernel_size}; below projection_stride, "
                f"{self.projection_stride}, timestamps would be in no token."
            )
        if self.position_embedding == "learned" and self.num_context_tokens > self.max_position_embeddings:
            raise ValueError(
                f"{name}.context_length is {self.context_length}, which makes {self.num_context_tokens} tokens, but "
                f"there are {self.max_position_embeddings} learned positions (max_position_embeddings); give a "
                "shorter context_length, or train with more positions or position_embedding='fixed'."
            )

    def _check_masks(self) -> None:
        name = type(self).__name__
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"{name}.mask_ratio is {self.mask_ratio}; it must lie between 0 and 1, and be neither.")
        for field in ("unmasked_channels", "masked_channels"):
            wrong = [one for one in getattr(self, field) or () if not 0 <= one < self.num_input_channels]
            if wrong:
                raise ValueError(
                    f"{name}.{field} holds {wrong[0]}; channels are 0 to {self.num_input_channels - 1} "
                    "(num_input_channels)."
                )
        if self.mask_rule == "transduction" and not self.masked_channels:
            raise ValueError(f"{name}.mask_rule='transduction' predicts masked_channels; name at least one.")
        if len(set(self.unmasked_channels or ())) == self.num_input_channels:
            raise ValueError(f"{name}.unmasked_channels holds all channels; nothing would be left to be predicted.")
