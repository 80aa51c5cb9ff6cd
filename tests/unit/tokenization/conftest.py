"""A small codec whose codes lie among its latents, so that tokens differ, and its tokenizer."""

import numpy as np
import pytest
import torch

from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec
from hf_tsrep.tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig
from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

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


@pytest.fixture(scope="session")
def make_codec():
    """Return a function that builds a codec with weights of a seed."""

    def make(domains=None, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            codec = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=DOMAINS if domains is None else domains))
            return _prepare(codec, seed)

    return make


@pytest.fixture
def codec(make_codec):
    return make_codec()


@pytest.fixture
def tokenizer(codec):
    return CrossTimeNetTokenizer.from_codec(codec)


@pytest.fixture
def series():
    """Return (5, 20, 3) float32."""
    return np.random.default_rng(0).normal(size=(5, 20, 3)).astype(np.float32)
