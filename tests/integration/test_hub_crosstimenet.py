"""A CrossTimeNet model on a Hub on this machine: its tokenizer lies beside it and is found there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub
from tiny_codec import make_codec, make_series
from transformers import BertConfig

from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
from hf_tsrep.modeling.modeling_crosstimenet import CrossTimeNetModel
from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

pytestmark = pytest.mark.slow

REPOSITORY = "tester/tiny-crosstimenet"
WITHOUT_LIBRARY = "import sys; sys.modules['hf_tsrep'] = None\n"
ENCODE = """
import numpy as np
from transformers import AutoModel
model = AutoModel.from_pretrained({place!r}{arguments})
np.save({output!r}, model.encode(np.load({series!r}), domain="har"))
assert [one.name for one in model.tokenizer.domains] == ["har", "ecg"]
"""

WITHOUT_TOKENIZER = """
print("without a tokenizer")
import json
from pathlib import Path
from hf_tsrep import CrossTimeNetConfig, CrossTimeNetModel
from transformers import AutoModel
repository = "tester/without-tokenizer"
config = CrossTimeNetConfig.from_dict(json.loads(Path({model!r}, "config.json").read_text()))
CrossTimeNetModel(config).push_to_hub(repository)
model = AutoModel.from_pretrained(repository)
try:
    model.encode([[[0.0] * 3] * 8], domain="har")
except ValueError as error:
    print(error)
model.push_to_hub("tester/without-tokenizer-again")
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """Push a model with its tokenizer; return the process's home, the series' file and what encode must give."""
    home = tmp_path_factory.mktemp("home")
    tokenizer = CrossTimeNetTokenizer.from_codec(make_codec())
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = CrossTimeNetConfig.from_tokenizer(tokenizer, backbone_config=BertConfig(**sizes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CrossTimeNetModel(config).eval().set_tokenizer(tokenizer)
    model.save_pretrained(home / "model")
    np.save(home / "series.npy", make_series())
    push = "import hf_tsrep\nfrom transformers import AutoModel\n"
    push += f"AutoModel.from_pretrained('model').push_to_hub({REPOSITORY!r})\n"
    output = home / "encoded.npy"
    load = ENCODE.format(place=REPOSITORY, arguments="", output=str(output), series=str(home / "series.npy"))
    without = WITHOUT_TOKENIZER.format(model=str(home / "model"))
    # One process for both, because importing transformers takes longer than that.
    printed = hub.run(push + load + without, home)
    expected = model.encode(make_series(), domain="har")
    return SimpleNamespace(series=home / "series.npy", output=output, expected=expected, printed=printed)


def test_the_tokenizer_is_beside_the_model(hub, published):
    wanted = {"config.json", "model.safetensors", "modeling_crosstimenet.py"}
    wanted |= {"codec.safetensors", "tokenizer_config.json", "tokenization_crosstimenet.py"}
    assert wanted <= hub.files(REPOSITORY).keys()


def test_a_model_of_the_hub_finds_its_tokenizer_there(hub, published):
    np.testing.assert_allclose(np.load(published.output), published.expected, rtol=0, atol=1e-5)
    assert np.abs(published.expected[0] - published.expected[1]).max() > 0.01  # or any tokens would do
    loaded = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert any(path.endswith("codec.safetensors") for path in loaded)
    assert not any(path.endswith(".py") for path in loaded), "local code is used"


def test_the_code_of_model_and_tokenizer_is_enough_without_the_library(hub, published, tmp_path):
    output = tmp_path / "encoded.npy"
    code = ENCODE.format(
        place=REPOSITORY, arguments=", trust_remote_code=True", output=str(output), series=str(published.series)
    )
    hub.run(WITHOUT_LIBRARY + code, tmp_path, PYTHONPATH="")
    np.testing.assert_allclose(np.load(output), published.expected, rtol=0, atol=1e-5)


def test_a_model_of_the_hub_without_a_tokenizer_says_so_and_can_still_be_pushed(hub, published):
    printed = published.printed.partition("without a tokenizer")[2]
    assert "found no tokenizer to read series with beside its checkpoint tester/without-tokenizer" in printed
    assert "model.set_tokenizer(tokenizer)" in printed
    assert "codec.safetensors" not in hub.files("tester/without-tokenizer-again")
