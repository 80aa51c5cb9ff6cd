"""A small codec and its tokenizer."""

import pytest
import tiny_codec

from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer


@pytest.fixture(scope="session")
def make_codec():
    """Return a function that builds a codec with weights of a seed."""
    return tiny_codec.make_codec


@pytest.fixture
def codec():
    return tiny_codec.make_codec()


@pytest.fixture
def tokenizer(codec):
    return CrossTimeNetTokenizer.from_codec(codec)


@pytest.fixture
def series():
    """Return (5, 20, 3) float32."""
    return tiny_codec.make_series()
