"""CrossTimeNet's codec written down plainly: `torch.nn.functional.conv1d`, PyTorch's dropout, whole distances.

The other side of the measured ratios. Its weights are our codec's, so that both sides compute the same numbers.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from hf_tsrep.tokenization.codec_crosstimenet import DomainCodec
from hf_tsrep.tokenization.layers_causal_convolution import CausalConvolutionNetwork, GatedResidualBlock


class _PlainNetwork(nn.Module):
    """The network of causal convolutions on (batch_size, channels, time)."""

    def __init__(self, source: CausalConvolutionNetwork) -> None:
        super().__init__()
        self.source = source

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in cast(list[GatedResidualBlock], list(self.source.blocks)):
            branch = hidden
            for convolution, norm in block.stages:
                padded = F.pad(branch, (2 * convolution.dilation, 0))
                branch = F.conv1d(padded, convolution.weight, convolution.bias, dilation=convolution.dilation)
                branch = F.dropout(branch, block.dropout.p, self.training)
                branch = F.relu(norm(branch.transpose(1, 2)).transpose(1, 2))
            hidden = hidden + cast(torch.Tensor, block.gate) * branch
        return self.source.output_projection(hidden.transpose(1, 2)).transpose(1, 2)


class PlainCodec(nn.Module):
    """One domain's codec with PyTorch's own layers.

    Args:
        source: Gives the weights.
    """

    def __init__(self, source: DomainCodec) -> None:
        super().__init__()
        self.source = source
        self.encoder, self.decoder = _PlainNetwork(source.encoder), _PlainNetwork(source.decoder)

    def latents(self, values: torch.Tensor) -> torch.Tensor:
        """Encode (batch_size, time, num_input_channels): (batch_size, num_patches, hidden_size)."""
        hidden = self.encoder(self.source.input_projection(values).transpose(1, 2)).transpose(1, 2)
        patches = hidden.reshape(len(hidden), -1, self.source.domain.patch_length * hidden.shape[-1])
        return self.source.patch_projection(patches)

    def codes(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the nearest codes, by the whole matrix of squared distances: (num_latents,)."""
        flat, codes = latents.reshape(-1, latents.shape[-1]), self.source.codebook.codes
        distances = flat.square().sum(1, keepdim=True) - 2 * flat @ codes.t() + codes.t().square().sum(0)
        return (-distances).max(1).indices

    def loss(self, values: torch.Tensor) -> torch.Tensor:
        """Compute the training loss and move the codebook."""
        latents = self.latents(values)
        indices = self.codes(latents)
        chosen = F.one_hot(indices, len(self.source.codebook.codes)).float()
        quantised = (chosen @ self.source.codebook.codes).view_as(latents)
        straight = latents + (quantised - latents).detach()
        steps = self.source.expansion(straight.transpose(0, 1)).permute(1, 2, 0)
        reconstruction = self.source.output_projection(self.decoder(steps).transpose(1, 2))
        book, flat = self.source.codebook, latents.detach().reshape(-1, latents.shape[-1])
        with torch.no_grad():
            book.counts.mul_(book.decay).add_(chosen.sum(0), alpha=1 - book.decay)
            book.sums.mul_(book.decay).add_(chosen.t() @ flat, alpha=1 - book.decay)
            total = book.counts.sum()
            smoothed = (book.counts + book.epsilon) / (total + len(book.counts) * book.epsilon) * total
            book.codes.copy_(book.sums / smoothed.unsqueeze(1))
        distance = (quantised.detach() - latents).square().mean()
        return (reconstruction - values).square().mean() + self.source.domain.commitment_weight * distance
