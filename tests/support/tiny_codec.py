"""A small codec of CrossTimeNet whose codes lie among its latents, so that tokens differ."""

import numpy as np
import torch

from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec
from hf_tsrep.tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig

SIZES = {"hidden_size": 8, "num_blocks": 1}
DOMAINS = [
    {"name": "har", "num_input_channels": 3, "patch_length": 4, "codebook_size": 16, **SIZES},
    {"name": "ecg", "num_input_channels": 1, "patch_length": 3, "codebook_size": 10, **SIZES},
]


def _prepare(codec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for network in codec.domains:
            for stack in (network.encoder, network.decoder):
                for block in stack.blocks:
                    block.gate.fill_(0.5)
            network.channel_mean.copy_(torch.linspace(-1, 1, network.domain.num_input_channels) + 0.25)
            network.channel_scale.fill_(1.5)
            size = network.domain.codebook_size
            values = torch.randn(
                size, network.domain.patch_length, network.domain.num_input_channels, generator=generator
            )
            latents = network.eval().latents(network.normalise(values, ~values.isnan()))
            network.codebook.start_from(latents[0])
    return codec.eval()


def make_codec(domains=None, seed=0):
    """Return a codec in evaluation mode, with weights of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=DOMAINS if domains is None else domains))
        return _prepare(codec, seed)


def make_series():
    """Return five series (5, 20, 3) float32 for the first domain."""
    return np.random.default_rng(0).normal(size=(5, 20, 3)).astype(np.float32)


def random_values(*shape, seed=0):
    """Return normal random numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
