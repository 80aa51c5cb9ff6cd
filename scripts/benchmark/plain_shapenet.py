"""ShapeNet's encoder as its official code computes it: PyTorch's convolutions on padded copies, channels first.

It embeds the segments of one length as one batch; the official code embeds those of a loss one by one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class PlainEncoder(nn.Module):
    """The same weights in Conv1d layers with PyTorch's weight normalisation.

    Args:
        encoder: A ShapeNetEncoder, whose weights are copied.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(self._layers(block)) for block in encoder.blocks)
        self.output = encoder.output_projection

    @staticmethod
    def _layers(block: Any) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for ours in (block.first_convolution, block.second_convolution):
            outside, inside, kernel_size = ours.direction.shape
            layer = nn.Conv1d(inside, outside, kernel_size, dilation=ours.dilation)
            with torch.no_grad():
                layer.weight.copy_(ours.weight)
                layer.bias.copy_(ours.bias)
            layers.append(nn.utils.parametrizations.weight_norm(layer))
        if block.residual_projection is not None:
            residual = block.residual_projection
            layer = nn.Conv1d(residual.in_channels, residual.out_channels, 1, bias=residual.bias is not None)
            layer.load_state_dict(residual.state_dict())
            layers.append(layer)
        return layers

    def forward(self, segments: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Map (num_segments, segment_length), all observed, to (num_segments, embedding_size)."""
        hidden = segments.unsqueeze(1)
        for layers in self.blocks:
            before = hidden
            for layer in layers[:2]:
                reach = (layer.kernel_size[0] - 1) * layer.dilation[0]
                hidden = F.leaky_relu(layer(F.pad(hidden, (reach, 0))), 0.01)
            hidden = hidden + (layers[2](before) if len(layers) > 2 else before)
        return self.output(F.adaptive_max_pool1d(hidden, 1).squeeze(2))


def make_plain(model: Any) -> Any:
    """Put a plain encoder in the place of a ShapeNetModel's; return the model."""
    model.segments.encoder = PlainEncoder(model.segments.encoder)
    return model
