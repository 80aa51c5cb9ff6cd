"""SimMTM's configuration (Dong et al., NeurIPS 2023, arXiv 2302.00861)."""

from __future__ import annotations

from typing import Any

from .configuration_time_series import TaskShape, TimeSeriesConfig

ENCODER_TYPES = ("transformer", "resnet")
MASK_RULES = ("geometric", "random", "head", "tail")


class SimMTMConfig(TimeSeriesConfig):
    """Sizes of the encoder and settings of the pretext task.

    Supports bf16; with the transformer also gradient checkpointing and torch.export for any length. Not so with the
    convolutions: a second pass through their batch normalisation would count every batch twice, and torch.export takes
    their strides for any batch size, but for one length only.

    Args:
        num_input_channels: Number of channels of a series.
        embedding_size: Always hidden_size; 0 to let it be set.
        pooling: How timestamp embeddings become one vector per series: "mean", "max" or "last". All representations
            of the transformer have the same length, which leaves a maximum little to choose from.
        encoder_type: "transformer" (the paper's for forecasting: one token a timestamp) or "resnet" (the paper's for
            classification: three blocks of convolution, normalisation and pooling, which have no residual branch
            although the paper calls them a 1D-ResNet).
        channel_mode: "independent": every channel is a series of its own and shares the encoder, which so takes any
            number of them; an embedding is the mean over the channels. "joint": one embedding covers all channels, and
            the encoder fits only their number.
        context_length: Number of timestamps that the pretext task and the heads read. Their linear layers cover it, so
            it is fixed by training; the encoder itself takes any length.
        hidden_size: Width of the point-wise representations.
        num_hidden_layers: Number of layers of the transformer.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        intermediate_size: Width inside the transformer's feed-forward networks.
        activation: "gelu" (the paper's) or "relu", inside the transformer's feed-forward networks; "resnet" has ReLU.
        first_kernel_size: Kernel of the first convolution of "resnet".
        first_stride: Stride of the first convolution of "resnet".
        dropout: Dropout probability inside the encoder.
        attention_dropout: Dropout probability of attention weights. PyTorch's fused attention for the CPU has none:
            above 0 a training step there holds all attention weights in memory and takes several times as long.
        instance_normalization: Whether every channel of a series is normalised by its own mean and deviation, and
            reconstructions and forecasts are returned to its scale.
        mask_rule: "geometric" (the paper's): masked and kept stretches of geometric lengths; "random": every value by
            itself; "head" or "tail": the first or the last values of every series, the same in all its masked views.
        mask_ratio: Expected share of masked values (paper, section 3.1; 0.5).
        mean_mask_length: Expected length of a masked stretch where mask_rule is "geometric".
        num_masked_views: Number of masked views of a series in the pretext task.
        temperature: Divides the similarities of series, in the constraint and in the aggregation (equations 4 and 7).
        projector_hidden_size: Width inside the projector; None for half of the flattened point-wise representations.
        projection_size: Width of the series-wise representations.
        head_dropout: Dropout probability after the projector, the decoder and the forecasting head.
        classifier_hidden_size: Width of the hidden layer of the classification head.
        use_constraint_loss: False leaves out the constraint loss (ablation).
        use_aggregation: False reconstructs a series from each of its masked views by itself, as plain masked
            modelling does, instead of from the similar series of the batch (ablation).
        mask_across_series: False: every series is masked by a chain of its own, as in the paper. True: one geometric
            chain runs on through the batch, as in the official code.
        reconstruct_masked_views: False: the originals are reconstructed, as in the paper. True: masked views also
            reconstruct themselves, masked as they are, as in the official classification code.

    Raises:
        ValueError: A field is out of its range.
    """

    model_type = "simmtm"
    reconstructs = True

    embedding_size: int = 0
    pooling: str = "mean"
    channel_mode: str = "independent"
    encoder_type: str = "transformer"
    context_length: int = 336
    hidden_size: int = 32
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    intermediate_size: int = 64
    activation: str = "gelu"
    first_kernel_size: int = 25
    first_stride: int = 3
    dropout: float = 0.1
    attention_dropout: float = 0.0
    instance_normalization: bool = True
    mask_rule: str = "geometric"
    mask_ratio: float = 0.5
    mean_mask_length: float = 3.0
    num_masked_views: int = 3
    temperature: float = 0.2
    projector_hidden_size: int | None = None
    projection_size: int = 128
    head_dropout: float = 0.1
    classifier_hidden_size: int = 64
    use_constraint_loss: bool = True
    use_aggregation: bool = True
    mask_across_series: bool = False
    reconstruct_masked_views: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive embedding_size, and refuse another one."""
        given = self.embedding_size
        super().__post_init__(**kwargs)
        if given not in (0, self.embedding_size):
            raise ValueError(
                f"SimMTMConfig.embedding_size is {given}, but it always is hidden_size={self.hidden_size}; "
                "leave it out and set hidden_size."
            )

    @property
    def num_groups(self) -> int:
        """Number of parts of a series that are encoded alone: its channels where they are independent, else 1."""
        return self.num_input_channels if self.channel_mode == "independent" else 1

    @property
    def channels_of_a_group(self) -> int:
        """Number of channels that are encoded together."""
        return self.num_input_channels // self.num_groups

    @property
    def reconstruction_length(self) -> int | None:
        """Largest number of timestamps that are reconstructed at once: those of the pretext task."""
        return self.context_length

    @property
    def head_reads_context(self) -> bool:
        """Whether a classification head covers the first `context_length` timestamps: of SimMTM always."""
        return True

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task, the length of the context among them."""
        return {**super().fields_of_task(task), "context_length": task.context_length or task.sequence_length}

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; derive embedding_size."""
        self.embedding_size = self.hidden_size
        super().check_ranges()
        self.require_one_of("encoder_type", ENCODER_TYPES)
        self.require_one_of("activation", ("gelu", "relu"))
        self.require_one_of("mask_rule", MASK_RULES)
        self.require_at_least(
            1,
            "context_length",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "first_kernel_size",
            "first_stride",
            "num_masked_views",
            "mean_mask_length",
            "projection_size",
            "classifier_hidden_size",
        )
        self.require_probability("dropout", "attention_dropout", "head_dropout", "mask_ratio")
        if self.projector_hidden_size is not None:
            self.require_at_least(1, "projector_hidden_size")
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"SimMTMConfig.mask_ratio is {self.mask_ratio}; it must lie between 0 and 1.")
        if self.temperature <= 0.0:
            raise ValueError(f"SimMTMConfig.temperature is {self.temperature}; it must be above 0.")
        if self.encoder_type == "transformer" and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"SimMTMConfig.hidden_size is {self.hidden_size}, which num_attention_heads="
                f"{self.num_attention_heads} does not divide; change one of them."
            )
        if self.reconstruct_masked_views and not self.use_aggregation:
            raise ValueError(
                "SimMTMConfig.reconstruct_masked_views=True needs use_aggregation=True: without it masked views "
                "reconstruct the originals."
            )
        if self.num_output_channels is not None and self.num_output_channels > self.num_input_channels:
            if self.channel_mode == "independent":
                raise ValueError(
                    f"SimMTMConfig.num_output_channels is {self.num_output_channels}, but every one of the "
                    f"num_input_channels={self.num_input_channels} channels predicts itself; "
                    "use channel_mode='joint'."
                )
