"""TimeDRL's configuration (Chang et al., ICDE 2024, arXiv 2312.04142)."""

from __future__ import annotations

from typing import Any

from .configuration_time_series import TaskShape, TimeSeriesConfig
from .layers_patching import PatchLayout

ENCODERS = ("transformer", "causal_transformer", "tcn", "resnet", "lstm", "bilstm")
# Encoders that look back only.
CAUSAL_ENCODERS = ("causal_transformer", "tcn", "lstm")
INSTANCE_EMBEDDINGS = ("cls", "last", "gap", "all")
AUGMENTATIONS = ("none", "jitter", "scaling", "rotation", "permutation", "masking", "cropping")


class TimeDRLConfig(TimeSeriesConfig):
    """Sizes of the encoder and settings of the pretext task.

    The defaults are the published settings for ETTh1, but for channel_mode, position_embedding and prediction_target.
    Supports bf16, gradient checkpointing (encoders "transformer", "causal_transformer" and "tcn") and torch.export.

    Args:
        num_input_channels: Number of channels of a series.
        hidden_size: Width of a token.
        embedding_size: Follows from hidden_size, and for instance_embedding "all" from context_length; 0 to let it.
        num_hidden_layers: Number of layers or blocks of the encoder.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        intermediate_size: Width inside the feed-forward networks; None for four times hidden_size.
        activation: "gelu" (the paper's) or "relu", inside the feed-forward networks of a transformer.
        dropout: Dropout probability in training, and in the two passes of the pretext task (paper, section IV-D).
        encoder: "transformer" (the paper's), "causal_transformer", "tcn", "resnet", "lstm" or "bilstm" (its ablation).
        channel_mode: "independent" (the paper's for forecasting): every channel is a series of its own. "joint" (the
            paper's for classification): a patch holds all channels.
        patch_length: Number of timestamps of a patch.
        patch_stride: Number of timestamps from one patch to the next, at most patch_length.
        context_length: Number of timestamps from which XForTimeSeriesPrediction predicts, and whose patches
            instance_embedding "all" holds. Series of any length are embedded.
        token_embedding: "convolution" over neighbouring tokens, circular, or "linear"; neither has a bias.
        token_kernel_size: Number of tokens that the convolution sees, odd.
        cls_position: Where the [CLS] token stands: "first", "last", or "auto": last for encoders that look back only,
            where it sees the whole series, else first. The official code has it first for all.
        recurrent_hidden_size: Width of one direction of the encoders "lstm" and "bilstm".
        position_embedding: "none", "fixed" (sines and cosines) or "learned".
        max_position_embeddings: Number of learned positions.
        instance_embedding: What embeds a whole series: "cls", the [CLS] token (the paper's), "last" patch, "gap", the
            mean of the patches, or "all" patches beside each other, of context_length timestamps: zeros stand for the
            patches that a shorter series lacks, and further patches are left out.
        pooling: How timestamp embeddings become one vector where `encode` slides over a series.
        augmentation: What else makes the two views different: "none" (the paper's), "jitter", "scaling", "rotation",
            "permutation", "masking" or "cropping" (its ablation).
        predictive_weight: Weight of the timestamp-predictive loss; 0 for the ablation without it.
        contrastive_weight: Weight of the instance-contrastive loss (the paper's lambda).
        stop_gradient: Whether the compared [CLS] embeddings are constants (equation 12).
        prediction_target: What the predictive loss compares with: "normalized", the patches that went in (the paper's
            equation 8), or "raw", the patches before instance normalisation (the official code).
        prediction_dropout: Dropout probability before the prediction layer of XForTimeSeriesPrediction.

    Raises:
        ValueError: A field is out of its range, or two contradict each other.
    """

    model_type = "timedrl"

    embedding_size: int = 0
    pooling: str = "mean"
    hidden_size: int = 128
    num_hidden_layers: int = 1
    num_attention_heads: int = 2
    intermediate_size: int | None = None
    activation: str = "gelu"
    dropout: float = 0.2
    encoder: str = "transformer"
    patch_length: int = 16
    patch_stride: int = 16
    context_length: int = 512
    token_embedding: str = "convolution"
    token_kernel_size: int = 3
    position_embedding: str = "fixed"
    max_position_embeddings: int = 5000
    cls_position: str = "auto"
    recurrent_hidden_size: int = 128
    instance_embedding: str = "cls"
    augmentation: str = "none"
    predictive_weight: float = 1.0
    contrastive_weight: float = 0.5
    stop_gradient: bool = True
    prediction_target: str = "normalized"
    prediction_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive embedding_size, and refuse another one."""
        given = self.embedding_size
        super().__post_init__(**kwargs)
        if given not in (0, self.embedding_size):
            raise ValueError(
                f"{type(self).__name__}.embedding_size is {given}, but hidden_size and instance_embedding make it "
                f"{self.embedding_size}; leave it out and set hidden_size."
            )

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task, the length of the context among them."""
        return {**super().fields_of_task(task), "context_length": task.context_length or task.sequence_length}

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; derive embedding_size."""
        self.require_at_least(1, "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_length")
        self.require_at_least(1, "patch_stride", "context_length", "token_kernel_size", "max_position_embeddings")
        if self.intermediate_size is not None:
            self.require_at_least(1, "intermediate_size")
        self.require_at_least(1, "recurrent_hidden_size")
        self.require_at_least(0, "predictive_weight", "contrastive_weight")
        self.require_probability("dropout", "prediction_dropout")
        self.require_one_of("activation", ("gelu", "relu"))
        self.require_one_of("encoder", ENCODERS)
        self.require_one_of("token_embedding", ("convolution", "linear"))
        self.require_one_of("position_embedding", ("none", "fixed", "learned"))
        self.require_one_of("cls_position", ("auto", "first", "last"))
        self.require_one_of("instance_embedding", INSTANCE_EMBEDDINGS)
        self.require_one_of("augmentation", AUGMENTATIONS)
        self.require_one_of("prediction_target", ("normalized", "raw"))
        self._check_that_fields_fit()
        patches = self.num_context_patches if self.instance_embedding == "all" else 1
        self.embedding_size = self.hidden_size * patches
        super().check_ranges()

    def _check_that_fields_fit(self) -> None:
        name = type(self).__name__
        if "transformer" in self.encoder and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{name}.hidden_size is {self.hidden_size}; it must be a multiple of num_attention_heads, "
                f"{self.num_attention_heads}."
            )
        if self.patch_stride > self.patch_length:
            raise ValueError(
                f"{name}.patch_stride is {self.patch_stride}; beyond patch_length, {self.patch_length}, timestamps "
                "would be in no patch."
            )
        if self.token_kernel_size % 2 == 0:
            raise ValueError(f"{name}.token_kernel_size is {self.token_kernel_size}; it must be odd.")
        if self.num_output_channels is not None and self.num_output_channels > self.num_input_channels:
            raise ValueError(
                f"{name}.num_output_channels is {self.num_output_channels}; at most num_input_channels, "
                f"{self.num_input_channels}, can be predicted: a prediction is scaled back as its channel was."
            )

    @property
    def layout(self) -> PatchLayout:
        """How series are cut into patches."""
        return PatchLayout(self.patch_length, self.patch_stride)

    @property
    def cls_is_last(self) -> bool:
        """Whether the [CLS] token stands after the patches."""
        return self.cls_position == "last" or (self.cls_position == "auto" and self.encoder in CAUSAL_ENCODERS)

    @property
    def head_reads_context(self) -> bool:
        """Whether a classification head covers `context_length` timestamps: one that reads all patches does."""
        return self.instance_embedding == "all"

    @property
    def num_context_patches(self) -> int:
        """Number of patches of context_length timestamps."""
        return self.layout.num_patches(self.context_length)

    def attention_tokens(self, sequence_length: int) -> int:
        """Return the number of tokens of a series: its patches and [CLS]."""
        return self.layout.num_patches(sequence_length) + 1

    @property
    def longest_length(self) -> int | None:
        """Largest number of timestamps that the encoder takes at once: those of all learned positions."""
        if self.position_embedding != "learned":
            return None
        return (self.max_position_embeddings - 2) * self.patch_stride + self.patch_length - 1

    @property
    def token_size(self) -> int:
        """Number of values of a patch."""
        return self.patch_length * (1 if self.channel_mode == "independent" else self.num_input_channels)
