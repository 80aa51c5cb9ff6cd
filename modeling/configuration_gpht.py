"""GPHT's configuration (Liu et al., KDD 2024, arXiv 2402.16516)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from .configuration_time_series import TimeSeriesConfig

POOLINGS = ("max", "average")
GENERATION_WINDOWS = ("sliding", "fixed")
FORECAST_LOSSES = ("future", "tokens")


class GPHTConfig(TimeSeriesConfig):
    """Sizes of the hierarchy and settings of its forecasts.

    The defaults are the published settings. Supports bf16, gradient checkpointing and torch.export.

    Args:
        num_input_channels: Number of channels of a series.
        accepts_any_channels: Whether series of any number of channels are taken, and a pre-training reads corpora of
            unlike channels together, every channel of a window a sample (as published). Needs
            channel_mode="independent".
        embedding_size: Follows from hidden_size and the number of stages, whose embeddings stand beside each other; 0
            to let it.
        pooling: How the embeddings of timestamps become that of a series.
        channel_mode: "independent" (the paper's): every channel is a series of its own. "joint": a token holds all
            channels.
        context_length: Number of timestamps that the model looks back, a multiple of token_length. Series of any
            length are embedded.
        token_length: Number of timestamps of a token, the step of a forecast.
        pooling_rates: Number of timestamps that every stage pools into one, coarse to fine; divisors of token_length.
        stage_pooling: "max" (the paper's) or "average".
        hidden_size: Width of a token.
        num_hidden_layers: Number of layers of every stage.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        intermediate_size: Width inside the feed-forward networks.
        activation: "gelu" or "relu", inside the feed-forward networks.
        dropout: Dropout probability in training.
        attention_dropout: Dropout probability of attention weights; None for that of the rest, as published.
        generation_window: What a forecast beyond one token sees. "sliding" (the published rule): after every token the
            last context_length timestamps are normalised and numbered anew. "fixed": statistics and numbers of the
            given past stay, and every token sees the last context_length / token_length ones, so that keys and values
            can be kept.
        forecast_loss: What XForTimeSeriesPrediction learns. "future": the errors of its prediction. "tokens": those of
            every token's successor, as in pre-training and the published fine-tuning; of the future the first token.

    Raises:
        ValueError: A field is out of its range, or two contradict each other.
    """

    model_type = "gpht"
    generates: ClassVar[bool] = True
    mixing_advice: ClassVar[str] = (
        " With channel_mode=independent and accepts_any_channels=true every channel is a sample of its own."
    )

    embedding_size: int = 0
    pooling: str = "mean"
    channel_mode: str = "independent"
    accepts_any_channels: bool = False
    context_length: int = 336
    token_length: int = 48
    pooling_rates: list[int] = field(default_factory=lambda: [8, 4, 2, 1])
    stage_pooling: str = "max"
    hidden_size: int = 512
    num_hidden_layers: int = 3
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float | None = None
    generation_window: str = "sliding"
    forecast_loss: str = "future"

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive embedding_size, and refuse another one."""
        given = self.embedding_size
        super().__post_init__(**kwargs)
        if given not in (0, self.embedding_size):
            raise ValueError(
                f"{type(self).__name__}.embedding_size is {given}, but hidden_size and pooling_rates make it "
                f"{self.embedding_size}; leave it out and set hidden_size."
            )

    @property
    def takes_any_channels(self) -> bool:
        """Whether series of any number of channels are taken."""
        return self.accepts_any_channels

    @classmethod
    def trains_on_channels(cls, model_fields: Mapping[str, Any]) -> bool:
        """Return whether every channel is a sample of a pre-training: where any number of channels is taken."""
        return bool(model_fields.get("accepts_any_channels", cls.accepts_any_channels))

    @property
    def token_size(self) -> int:
        """Number of values of a token."""
        return self.token_length * self.channels_of_a_row

    @property
    def channels_of_a_row(self) -> int:
        """Number of channels that are encoded together."""
        return 1 if self.channel_mode == "independent" else self.num_input_channels

    @property
    def num_context_tokens(self) -> int:
        """Number of tokens that the model looks back."""
        return self.context_length // self.token_length

    def attention_tokens(self, sequence_length: int) -> int:
        """Return how many tokens attention looks at for a series of so many timestamps."""
        return -(-sequence_length // self.token_length)

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; derive embedding_size."""
        self.require_at_least(1, "context_length", "token_length", "hidden_size", "num_hidden_layers")
        self.require_at_least(1, "num_attention_heads", "intermediate_size")
        self.require_probability("dropout")
        if self.attention_dropout is not None:
            self.require_probability("attention_dropout")
        self.require_one_of("stage_pooling", POOLINGS)
        self.require_one_of("activation", ("gelu", "relu"))
        self.require_one_of("generation_window", GENERATION_WINDOWS)
        self.require_one_of("forecast_loss", FORECAST_LOSSES)
        self._check_that_fields_fit()
        self.embedding_size = self.hidden_size * len(self.pooling_rates)
        super().check_ranges()

    def _check_that_fields_fit(self) -> None:
        name = type(self).__name__
        if not self.pooling_rates or any(rate < 1 or self.token_length % rate for rate in self.pooling_rates):
            raise ValueError(
                f"{name}.pooling_rates is {self.pooling_rates}; it needs one number of at least 1 for every stage, "
                f"which divides token_length, {self.token_length}."
            )
        if self.context_length % self.token_length:
            fitting = max(self.context_length // self.token_length, 1) * self.token_length
            raise ValueError(
                f"{name}.context_length is {self.context_length}; it must be a multiple of token_length, "
                f"{self.token_length}, such as {fitting}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{name}.hidden_size is {self.hidden_size}; it must be a multiple of num_attention_heads, "
                f"{self.num_attention_heads}."
            )
        if self.accepts_any_channels and self.channel_mode != "independent":
            raise ValueError(
                f"{name}.accepts_any_channels is True, but with channel_mode={self.channel_mode!r} a token holds all "
                "channels; use channel_mode='independent'."
            )
        if self.num_output_channels is not None and self.num_output_channels > self.num_input_channels:
            raise ValueError(
                f"{name}.num_output_channels is {self.num_output_channels}; at most num_input_channels, "
                f"{self.num_input_channels}, can be predicted: a prediction is scaled back as its channel was."
            )
