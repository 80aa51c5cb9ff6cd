"""TimeDART's configuration (Wang et al., ICML 2025, arXiv 2410.05711)."""

from __future__ import annotations

from typing import Any

from .configuration_time_series import TaskShape, TimeSeriesConfig
from .layers_patching import PatchLayout

NOISE_SCHEDULES = ("cosine", "linear")
HEAD_TYPES = ("causal", "flatten")
GENERATIONS = ("start_token", "noise")
PATCH_RESTS = ("repeat", "drop", "zeros")


class TimeDARTConfig(TimeSeriesConfig):
    """Sizes of the encoder and the decoder, and settings of the pretext task.

    Supports bf16, gradient checkpointing and torch.export. Attention hides later patches from each, which
    flash_attention_2 cannot: it is refused.

    Args:
        num_input_channels: Number of channels of a series.
        embedding_size: Always hidden_size; 0 to let it be set.
        pooling: How the patches of a series become one embedding: "max" (the official classification model), "mean" or
            "last"; and how timestamp embeddings do where `encode` slides.
        channel_mode: "independent" (the official forecasting models): every channel is a series of its own. "joint"
            (the official classification model): a patch holds all channels, and noise is drawn for every timestamp.
        context_length: Number of timestamps that the pretext task and the prediction heads read, at least
            patch_length. The flatten heads' linear layers cover it; the encoder takes any length.
        patch_length: Number of timestamps of a patch.
        patch_stride: Number of timestamps from one patch to the next, at most patch_length.
        patch_rest: What becomes of timestamps that fill no patch, see PatchLayout.rest: "repeat", "drop" (the official
            forecasting models) or "zeros" (the official classification model).
        hidden_size: Width of a token.
        num_hidden_layers: Number of layers of the encoder.
        num_decoder_layers: Number of layers of the denoising patch decoder.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        intermediate_size: Width inside the feed-forward networks.
        dropout: Dropout probability inside encoder and decoder.
        attention_dropout: Dropout probability of attention weights; the official code has that of dropout. PyTorch's
            fused attention for the CPU has none: above 0 a training step there holds all attention weights in memory.
        head_dropout: Dropout probability of what reconstructs and predicts: of the result, as in the official
            forecasting models; before the layer in the flatten head of joint channels.
        instance_normalization: Whether every channel of a series is normalised by its own mean and deviation, and
            reconstructions and forecasts are returned to its scale.
        causal_attention: Whether a patch sees those before it alone outside the pretext task, too. False (the official
            v1): all patches see each other.
        noise_schedule: How the noise grows with the diffusion step: "cosine" (the paper's) or "linear".
        num_diffusion_steps: Number of diffusion steps.
        mask_ratio: Share of the earlier patches that the decoder does not see, in its attention to itself and to the
            encoder. 1 (the paper's and v1's): it sees the same position alone; 0 (v2's): all earlier ones; between: a
            fresh random choice in every step.
        pretraining_head: "causal": every patch is reconstructed from its own token, so that nothing later is known.
            "flatten" (the official v1): one layer reconstructs the window from all tokens, and so sees what is later.
        prediction_head: "causal": the denoising decoder goes on patch by patch. "flatten" (the official v1): one layer
            predicts the future from all patches of the context.
        generation: How the causal prediction head goes on. "start_token": from the start token and what it has
            predicted, as it was trained. "noise": as the official v2, which trains from a noised future that is not
            normalised and without the context's last patch, denoises a patch of noise at the first position, puts its
            forecast into the window on another scale, and returns the last values of what it generated.

    Raises:
        ValueError: A field is out of its range, or two contradict each other.
    """

    model_type = "timedart"

    embedding_size: int = 0
    pooling: str = "max"
    channel_mode: str = "independent"
    context_length: int = 336
    patch_length: int = 2
    patch_stride: int = 2
    patch_rest: str = "repeat"
    hidden_size: int = 32
    num_hidden_layers: int = 2
    num_decoder_layers: int = 1
    num_attention_heads: int = 8
    intermediate_size: int = 64
    dropout: float = 0.2
    attention_dropout: float = 0.0
    head_dropout: float = 0.1
    classifier_dropout: float = 0.1
    instance_normalization: bool = True
    causal_attention: bool = True
    noise_schedule: str = "cosine"
    num_diffusion_steps: int = 1000
    mask_ratio: float = 1.0
    pretraining_head: str = "causal"
    prediction_head: str = "causal"
    generation: str = "start_token"

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
    def layout(self) -> PatchLayout:
        """How series are cut into patches."""
        return PatchLayout(self.patch_length, self.patch_stride, self.patch_rest)

    @property
    def num_context_patches(self) -> int:
        """Number of patches of context_length timestamps."""
        return self.attention_tokens(self.context_length)

    def attention_tokens(self, sequence_length: int) -> int:
        """Return the number of tokens of a series: its patches."""
        return self.layout.num_patches(sequence_length)

    @property
    def channels_of_a_row(self) -> int:
        """Number of channels that a token holds."""
        return 1 if self.channel_mode == "independent" else self.num_input_channels

    @property
    def token_size(self) -> int:
        """Number of values of a patch."""
        return self.patch_length * self.channels_of_a_row

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task, the length of the context among them."""
        return {**super().fields_of_task(task), "context_length": task.context_length or task.sequence_length}

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; derive embedding_size."""
        self.embedding_size = self.hidden_size
        super().check_ranges()
        self.require_at_least(1, "context_length", "patch_length", "patch_stride", "hidden_size", "num_hidden_layers")
        self.require_at_least(1, "num_decoder_layers", "num_attention_heads", "intermediate_size")
        self.require_at_least(1, "num_diffusion_steps")
        self.require_probability("dropout", "attention_dropout", "head_dropout", "mask_ratio")
        self.require_one_of("patch_rest", PATCH_RESTS)
        self.require_one_of("noise_schedule", NOISE_SCHEDULES)
        self.require_one_of("pretraining_head", HEAD_TYPES)
        self.require_one_of("prediction_head", HEAD_TYPES)
        self.require_one_of("generation", GENERATIONS)
        self._check_that_fields_fit()

    def _check_that_fields_fit(self) -> None:
        name = type(self).__name__
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{name}.hidden_size is {self.hidden_size}; it must be a multiple of num_attention_heads, "
                f"{self.num_attention_heads}."
            )
        if self.patch_stride > self.patch_length:
            raise ValueError(
                f"{name}.patch_stride is {self.patch_stride}; beyond patch_length, {self.patch_length}, timestamps "
                "would be in no patch."
            )
        if self.context_length < self.patch_length:
            raise ValueError(
                f"{name}.context_length is {self.context_length}, shorter than one patch, patch_length="
                f"{self.patch_length}; give a longer context or shorter patches."
            )
        if self.num_output_channels is None or self.num_output_channels == self.num_input_channels:
            return
        if self.channel_mode == "joint" and self.prediction_head == "causal":
            raise ValueError(
                f"{name}.num_output_channels is {self.num_output_channels}; with channel_mode='joint' the causal "
                f"prediction head goes on with all {self.num_input_channels} channels (num_input_channels). Set "
                "prediction_head='flatten', or predict all."
            )
        if self.num_output_channels > self.num_input_channels:
            raise ValueError(
                f"{name}.num_output_channels is {self.num_output_channels}; at most num_input_channels, "
                f"{self.num_input_channels}, can be predicted: a prediction is scaled back as its channel was."
            )
