"""TimeMAE's configuration (Cheng et al., 2023, arXiv 2303.00320)."""

from __future__ import annotations

import math
from typing import Any

from .configuration_time_series import TaskShape, TimeSeriesConfig


class TimeMAEConfig(TimeSeriesConfig):
    """Sizes of the encoder and settings of the pretext task.

    The defaults are the official settings for HAR, but for context_length. Supports bf16, gradient checkpointing and
    torch.export for any length up to longest_length.

    Args:
        num_input_channels: Number of channels of a series.
        embedding_size: Always hidden_size; 0 to let it be set.
        pooling: How the windows' embeddings become one vector per series: "mean" (the paper's), "max" or "last".
        channel_mode: "joint": a window holds all channels.
        context_length: Number of timestamps that the pretext task and the prediction head read. The head's linear
            layer covers it, so it is fixed by training; the encoder itself takes other lengths.
        patch_length: Number of timestamps of a window (the official wave_length); windows do not overlap.
        max_position_embeddings: Number of learned positions: no series can have more windows. None for those of
            context_length.
        hidden_size: Width of a window's embedding.
        num_hidden_layers: Number of layers of the encoder.
        num_attention_heads: Number of heads of all attention, a divisor of hidden_size.
        intermediate_size: Width inside the feed-forward networks; None for four times hidden_size.
        use_residual_gates: Whether every branch of the encoder is multiplied by a learned number that begins at 1e-8,
            so that a layer begins as its normalisations alone. The regressor's branches always are.
        dropout: Dropout probability inside the encoder, and with it the momentum encoder.
        attention_dropout: Dropout probability of its attention weights. PyTorch's fused attention for the CPU has
            none: above 0 a training step there holds all attention weights in memory, of which there are few.
        num_regressor_layers: Number of layers of the regressor, which tells the representations of masked windows.
        regressor_dropout: Dropout probability inside the regressor, of attention weights too.
        mask_ratio: Share of a series' windows that are masked, rounded down, but at least one and not all of them.
        num_codewords: Number of codewords of the tokenizer.
        codeword_temperature: A window's codeword is drawn from the softmax of its scores divided by this; 0 takes the
            codeword of the highest score.
        label_smoothing: Share of the target that the codeword classification spreads over all codewords.
        alignment_weight: Weight of the masked representation regression (the paper's alpha).
        codeword_weight: Weight of the masked codeword classification (the paper's beta).
        momentum: How much of itself the momentum encoder keeps in every optimiser step.
        momentum_shares_first_step: Whether the momentum encoder is the encoder itself up to the first optimiser step,
            that step included, as in the official code; False: it begins as a copy of the initial encoder.

    Raises:
        ValueError: A field is out of its range, or two contradict each other.
    """

    model_type = "timemae"

    embedding_size: int = 0
    pooling: str = "mean"
    context_length: int = 512
    patch_length: int = 8
    max_position_embeddings: int | None = None
    hidden_size: int = 64
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    use_residual_gates: bool = True
    dropout: float = 0.2
    attention_dropout: float = 0.2
    num_regressor_layers: int = 4
    regressor_dropout: float = 0.1
    mask_ratio: float = 0.6
    num_codewords: int = 192
    codeword_temperature: float = 1.0
    label_smoothing: float = 0.2
    alignment_weight: float = 5.0
    codeword_weight: float = 1.0
    momentum: float = 0.99
    momentum_shares_first_step: bool = True

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
    def longest_length(self) -> int | None:
        """Largest number of timestamps that the encoder takes at once: those of all learned positions."""
        return self.num_positions * self.patch_length

    @property
    def num_positions(self) -> int:
        """Number of learned positions."""
        return self.num_context_windows if self.max_position_embeddings is None else self.max_position_embeddings

    @property
    def num_context_windows(self) -> int:
        """Number of windows of context_length timestamps."""
        return self.attention_tokens(self.context_length)

    def attention_tokens(self, sequence_length: int) -> int:
        """Return the number of tokens of a series: its windows."""
        return -(-sequence_length // self.patch_length)

    @property
    def feed_forward_size(self) -> int:
        """Width inside the feed-forward networks."""
        return 4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size

    def count_masked(self, num_windows: int) -> int:
        """Return how many windows of a series of so many are masked; of one window none."""
        return max(0, min(max(1, math.floor(self.mask_ratio * num_windows)), num_windows - 1))

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task; of a prediction the length of the context among them."""
        fields = super().fields_of_task(task)
        if task.class_names:
            return fields
        return {**fields, "context_length": task.context_length or task.sequence_length}

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; derive embedding_size."""
        self.embedding_size = self.hidden_size
        super().check_ranges()
        self.require_at_least(1, "context_length", "patch_length", "hidden_size")
        # Written down, because a task may bring another context_length to the positions that were learned.
        self.max_position_embeddings = self.num_positions
        self.require_at_least(1, "max_position_embeddings")
        self.require_at_least(1, "num_hidden_layers", "num_attention_heads", "num_regressor_layers", "num_codewords")
        self.require_at_least(0, "codeword_temperature", "alignment_weight", "codeword_weight")
        if self.intermediate_size is not None:
            self.require_at_least(1, "intermediate_size")
        self.require_probability("dropout", "attention_dropout", "regressor_dropout", "label_smoothing", "momentum")
        self._check_that_fields_fit()

    def _check_that_fields_fit(self) -> None:
        name = type(self).__name__
        if self.channel_mode != "joint":
            raise ValueError(f"{name}.channel_mode is {self.channel_mode!r}; a window holds all channels: 'joint'.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{name}.hidden_size is {self.hidden_size}; it must be a multiple of num_attention_heads, "
                f"{self.num_attention_heads}."
            )
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"{name}.mask_ratio is {self.mask_ratio}; it must lie between 0 and 1, and be neither.")
        if self.num_context_windows > self.num_positions:
            raise ValueError(
                f"{name}.context_length is {self.context_length}, which makes {self.num_context_windows} windows of "
                f"patch_length={self.patch_length}, but there are {self.num_positions} learned positions "
                "(max_position_embeddings); give a shorter context_length, or train with more positions."
            )
