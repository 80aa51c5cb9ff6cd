"""A new method is two files, a card, a recipe and a parity module: written into a copy of the tree, all promises hold.

Nothing else of the copy is edited; what `make stubs` writes follows from the cards. If this test
needs one more file for its toy, so does every method to come.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from interpreters import run_apart

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = '''
"""The toy's configuration."""

from .configuration_time_series import TimeSeriesConfig


class ToyConfig(TimeSeriesConfig):
    """Sizes of one linear layer."""

    model_type = "toy"

    mask_ratio: float = 0.5
'''

MODELING = '''
"""The toy: a linear layer embeds every timestamp, another one recovers masked timestamps."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .configuration_toy import ToyConfig
from .distributed_time_series import GlobalBatch
from .heads_time_series import (
    ClassificationHead,
    GenericForTimeSeriesClassification,
    GenericForTimeSeriesPrediction,
    PredictionHead,
    TimeSeriesModelOutput,
)
from .layers_pooling import pool_instance
from .modeling_time_series import TimeSeriesPreTrainedModel


@dataclass
class ToyForPreTrainingOutput(ModelOutput):
    loss: torch.Tensor | None = None


class ToyLayer(GradientCheckpointingLayer):
    def __init__(self, config):
        super().__init__()
        self.projection = nn.Linear(config.num_input_channels, config.embedding_size)

    def forward(self, values):
        return self.projection(values)


class ToyPreTrainedModel(TimeSeriesPreTrainedModel):
    config_class = ToyConfig
    _no_split_modules = []


class ToyModel(ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.layer = ToyLayer(config)
        self.post_init()

    def forward(self, past_values, past_observed_mask=None, output_hidden_states=None, return_dict=None):
        observed = self.observed_values(past_values, past_observed_mask)
        seen = self.observed_timestamps(observed)
        values = torch.where(observed, past_values, 0.0).to(self.dtype)
        embeddings = self.layer(values) * seen.unsqueeze(-1)
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = TimeSeriesModelOutput(
            last_hidden_state=embeddings,
            pooler_output=pool_instance(embeddings, self.pooled_timestamps(seen), self.config.pooling),
            hidden_states=(values, embeddings) if wants_states else None,
        )
        return output if return_dict is not False else output.to_tuple()


class ToyDraws:
    def __init__(self, count, length, source):
        self.uniforms = torch.rand(count, length, generator=source)

    def rows(self, start, stop):
        self.uniforms = self.uniforms[start:stop]
        return self


class ToyForPreTraining(ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = ToyModel(config)
        self.head = nn.Linear(config.embedding_size, config.num_input_channels)
        self.post_init()

    def forward(self, past_values, past_observed_mask=None, generator=None, return_dict=None):
        observed = self.model.observed_values(past_values, past_observed_mask)
        batch, length = GlobalBatch.of(self), past_values.shape[1]
        drawn = batch.draw(lambda count, source: ToyDraws(count, length, source), past_values, generator)
        drawn = drawn.uniforms.to(past_values.device)
        kept = observed & (drawn >= self.config.mask_ratio).unsqueeze(-1)
        embeddings = self.model(past_values, kept).last_hidden_state
        difference = self.head(embeddings).float() - past_values.nan_to_num(0.0)
        squared = torch.where(observed, difference, 0.0).square()
        output = ToyForPreTrainingOutput(loss=batch.mean(squared, observed))
        return output if return_dict is not False else output.to_tuple()


class ToyForTimeSeriesClassification(GenericForTimeSeriesClassification, ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = ToyModel(config)
        self.classifier = ClassificationHead(config)
        self.post_init()


class ToyForTimeSeriesPrediction(GenericForTimeSeriesPrediction, ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = ToyModel(config)
        self.head = PredictionHead(config)
        self.post_init()
'''

CARD = """---
title: Toy
summary: a test of the house
paper:
  title: A Linear Layer
  authors: Nobody
  venue: nowhere
  year: 2026
  url: https://example.org/toy
  bibtex: |
    @misc{toy, title = {A Linear Layer}}
tiny_config:
  num_input_channels: 3
  embedding_size: 8
---

## Method

The toy embeds every timestamp by a linear layer.
"""

RECIPE = """# The toy on any corpus.
learning_rate: 0.01  # Source: this test
per_device_train_batch_size: 4  # Source: this test
max_steps: 3  # Source: this test
embedding_size: 8  # Source: this test
mask_ratio: 0.5  # Source: this test
"""

PARITY = '''
"""How each kind of the toy's fixtures is computed by our code."""

from hf_tsrep import ToyConfig, ToyModel


def check_encoder(fixture):
    weight = fixture.parameters["layer.weight"]
    model = ToyModel(ToyConfig(num_input_channels=weight.shape[1], embedding_size=fixture.config["width"])).eval()
    state_dict = {f"layer.projection.{kind}": fixture.parameters[f"layer.{kind}"] for kind in ("weight", "bias")}
    model.load_state_dict(state_dict)
    fixture.check("embeddings", model(fixture.inputs["x"]).last_hidden_state.detach())


KINDS = {"encoder": check_encoder}
'''

NEW_FILES = {
    "modeling/configuration_toy.py": CONFIGURATION,
    "modeling/modeling_toy.py": MODELING,
    "model_cards/toy.md": CARD,
    "hf_tsrep/training/recipes/toy/default.yaml": RECIPE,
    "tests/parity/parity_toy.py": PARITY,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tracked files with the toy's five beside them."""
    root = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists() and not name.startswith("tests/parity/fixtures"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name, follow_symlinks=False)
    for name, text in NEW_FILES.items():
        assert not (root / name).exists()
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.lstrip("\n"), encoding="utf-8")
    return root


# What a user does first, a fixture of an official toy, and then the promises: one process, so that imports are paid
# once.
USE = """
import json, runpy, sys
import numpy as np, pytest, torch
from safetensors.torch import save_file
import hf_tsrep
from hf_tsrep.cli.main import run

runpy.run_path("scripts/write_stubs.py", run_name="__main__")
assert run(["list"]) == 0
steps = np.arange(200)
rows = np.stack([np.sin(steps / 7), np.cos(steps / 5), steps / 200], axis=1)
np.savetxt("series.csv", rows, delimiter=",", header="a,b,c", comments="")
pretrain = ["pretrain", "--method", "toy", "--corpus", "series.csv", "--output-dir", "toy-run"]
assert run(["--quiet", *pretrain]) == 0
assert run(["encode", "--model", "toy-run", "--input", "series.csv", "--output", "embeddings.npy"]) == 0

layer, values = torch.nn.Linear(2, 4), torch.randn(3, 5, 2)
tensors = {"input.x": values, "output.embeddings": layer(values).detach()}
tensors |= {f"param.layer.{name}": value.detach() for name, value in layer.named_parameters()}
facts = {"method": "toy", "kind": "encoder", "config": json.dumps({"width": 4})}
save_file(tensors, "toy.safetensors", facts)
found = {name: getattr(hf_tsrep, name).__module__ for name in hf_tsrep.list_models("toy*")}
print("FOUND", json.dumps([found, [name for name in dir(hf_tsrep) if name.startswith("Toy")]]))
print("PROMISES", pytest.main(["-p", "no:cacheprovider", "-vv", *sys.argv[1:]]))
"""
# The rooms' tests read all cards, and those of README's table and of the type stubs what is made of them.
PROMISES = ("tests/contract", "tests/parity/test_parity.py::test_parity", "tests/unit/test_imports.py")
PROMISES += ("tests/unit/test_registry.py", "tests/unit/training/test_training_recipes.py")
PROMISES += ("tests/integration/test_readme.py", "-k", "toy or stub or table or room")


@pytest.fixture(scope="module")
def used(tree):
    """What the commands printed that listed, pre-trained and encoded, and the tests of the copy after them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    ours = {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ours |= {"HF_TSREP_PARITY_DIR": str(tree), "HF_TSREP_METHODS": "toy"}
    return run_apart(USE, tree, kept | ours, PROMISES)


def test_it_is_listed_and_its_classes_are_public(used):
    assert re.search(r"^toy\b.*A Linear Layer", used, flags=re.MULTILINE), used
    found, public = json.loads(re.search("^FOUND (.*)$", used, flags=re.MULTILINE)[1])
    heads = ("Model", "ForPreTraining", "ForTimeSeriesClassification", "ForTimeSeriesPrediction")
    assert found == {f"Toy{head}": "hf_tsrep.modeling.modeling_toy" for head in heads}
    assert set(public) == {"ToyConfig", *found}


@pytest.mark.usefixtures("used")
def test_pretraining_leaves_a_model_that_encodes_and_a_card(tree):
    embeddings = np.load(tree / "embeddings.npy")
    assert embeddings.shape[-1] == 8
    assert np.isfinite(embeddings).all()
    card = (tree / "toy-run/README.md").read_text(encoding="utf-8")
    assert "The toy embeds every timestamp" in card
    assert "tiny_config" not in card
    assert "https://example.org/toy" in card
    assert "| `mask_ratio` | 0.5 |" in card


def test_it_keeps_every_promise_of_the_contract_and_its_parity_module_is_found_by_name(used):
    """That its code travels is one of the promises."""
    assert "test_parity[toy] PASSED" in used
    assert "test_code_travels_with_every_class[toy] PASSED" in used
    passed = re.search(r"(\d+) passed", used)
    assert passed is not None
    assert int(passed[1]) > 70, used  # about 65 of the contract, as of every other method
    assert not re.search(r"\d+ (failed|error|skipped)", used), used[-6000:]
    assert "PROMISES ExitCode.OK" in used or "PROMISES 0" in used
