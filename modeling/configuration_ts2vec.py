"""TS2Vec's configuration (Yue et al., AAAI 2022, arXiv 2106.10466)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .configuration_time_series import TimeSeriesConfig

MISSING_VALUES = ("timestamp", "value")
MASK_MODES = ("binomial", "continuous", "all_true", "all_false", "mask_last")


class TS2VecConfig(TimeSeriesConfig):
    """Sizes of the dilated-convolution encoder and settings of the pretext task.

    Supports bf16, gradient checkpointing and torch.export.

    Args:
        num_input_channels: Number of channels of a series, time features included.
        hidden_size: Width of the input projection and of all residual blocks but the last.
        embedding_size: Width of the last block, which is the embedding (paper, section 4.1: 320).
        num_hidden_layers: Number of residual blocks; block i has dilation 2^i. The published depth 10 means 11 blocks.
        output_dropout: Dropout probability on the representations, in training only.
        mask_mode: How timestamps are masked in pre-training: "binomial" (paper, section 3.2), "continuous",
            "all_true" (keep all), "all_false" (mask all) or "mask_last".
        mask_ratio: Probability that "binomial" masks a timestamp.
        alpha: Weight of the instance-wise contrast; the temporal contrast weighs 1 - alpha (equation 3 has 0.5 and a
            factor 2).
        temporal_unit: First level of the hierarchy that has a temporal contrast; raise it for very long series.
        gate_padding: True: leading and trailing missing timestamps are padding, which reaches no convolution, no
            pooling and no loss, so that a padded series has the embeddings of the series alone; other missing
            timestamps are left out of pooling and loss. False: every missing timestamp is a masked one and nothing
            else, as in the official code (converted checkpoints have this).
        missing_values: What a missing value takes away. "timestamp": all channels of its timestamp, which is missing
            as a whole, as in the official code (converted checkpoints have this). "value": itself alone; a timestamp
            is the projection of its observed channels, times the number of channels over that of observed ones.

    Raises:
        ValueError: A field is out of its range.
    """

    model_type = "ts2vec"

    hidden_size: int = 64
    num_hidden_layers: int = 11
    output_dropout: float = 0.1
    mask_mode: str = "binomial"
    mask_ratio: float = 0.5
    alpha: float = 0.5
    temporal_unit: int = 0
    gate_padding: bool = True
    missing_values: str = "value"

    earlier_values: ClassVar[Mapping[str, Any]] = {"missing_values": "timestamp"}

    @property
    def ignores_padding(self) -> bool:
        """Whether padding reaches no convolution: where it is gated."""
        return self.gate_padding

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range."""
        super().check_ranges()
        self.require_at_least(1, "hidden_size", "num_hidden_layers")
        self.require_at_least(0, "temporal_unit")
        self.require_probability("output_dropout", "mask_ratio", "alpha")
        self.require_one_of("mask_mode", MASK_MODES)
        self.require_one_of("missing_values", MISSING_VALUES)
