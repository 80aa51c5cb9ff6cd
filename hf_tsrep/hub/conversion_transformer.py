"""Official parameters of the post-norm Transformer layers that several official implementations share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_OUR_LAYER = {
    "attention.out_projection": "attention.output_projection",
    "conv1": "expansion",
    "conv2": "contraction",
    "norm1": "attention_norm",
    "norm2": "output_norm",
}
_JOINED = tuple(f"attention.{part}_projection" for part in ("query", "key", "value"))
OFFICIAL_LAYERS = (*_OUR_LAYER, *_JOINED)


def official_layer_names(prefix: str) -> set[str]:
    """Return the official names of one layer's parameters."""
    return {f"{prefix}.{layer}.{kind}" for layer in OFFICIAL_LAYERS for kind in ("weight", "bias")}


def convert_transformer_layer(official: Mapping[str, Tensor], prefix: str, our_prefix: str) -> dict[str, Tensor]:
    """Turn one official layer into a TransformerLayer.

    Args:
        official: Official parameters; convolutions of one place stand for linear layers.
        prefix: What the layer's official names begin with, such as "encoder.attn_layers.0".
        our_prefix: What ours begin with.

    Returns:
        Our parameters.
    """
    converted = {}
    for kind in ("weight", "bias"):
        parts = [official[f"{prefix}.{part}.{kind}"] for part in _JOINED]
        converted[f"{our_prefix}.attention.input_projection.{kind}"] = torch.cat(parts)
        for theirs, ours in _OUR_LAYER.items():
            value = official[f"{prefix}.{theirs}.{kind}"]
            converted[f"{our_prefix}.{ours}.{kind}"] = value.squeeze(-1) if value.ndim == 3 else value
    return converted
