"""`convert_checkpoint` on official SimMTM checkpoints of both kinds, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hf_tsrep import convert_checkpoint
from hf_tsrep.hub import ConversionError

FIXTURES = Path(__file__).parents[2] / "parity" / "fixtures"


@pytest.fixture
def official(tmp_path):
    def write(name, left_out=(), **changed):
        tensors = load_file(FIXTURES / f"simmtm_{name}.safetensors")
        state = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
        state = {key: value for key, value in (state | changed).items() if key not in left_out}
        path = tmp_path / f"{name}.pt"
        torch.save(state, path)
        return path, tensors

    return write


def test_converts_the_forecasting_encoder(official, tmp_path):
    path, tensors = official("forecast_finetune_etth2_defaults")
    folder = convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters={"n_heads": 8, "C": 3})
    model = AutoModel.from_pretrained(folder).eval()
    assert (model.config.context_length, model.config.prediction_length, model.config.mask_across_series) == (
        *(336, 24),
        True,
    )
    found = model(tensors["input.x"]).last_hidden_state
    torch.testing.assert_close(found.flatten(0, 1), tensors["output.encoder"], rtol=1e-5, atol=1e-5)


def test_converts_the_classification_encoder(official, tmp_path):
    path, tensors = official("cls_pretrain_step")
    folder = convert_checkpoint("simmtm", path, tmp_path / "model")
    model = AutoModel.from_pretrained(folder).eval()
    assert (model.config.encoder_type, model.config.context_length, model.config.hidden_size) == ("resnet", 178, 16)
    assert model.encode(tensors["input.x"].transpose(1, 2).numpy()).shape == (3, 16)
    assert np.isfinite(model.encode(np.zeros((5, 1)))).all()


def test_needs_the_number_of_heads(official, tmp_path):
    path, _ = official("forecast_pretrain_step")
    with pytest.raises(ConversionError, match=r"num_attention_heads \(official name n_heads\)"):
        convert_checkpoint("simmtm", path, tmp_path / "model")


def test_names_what_is_missing_unknown_or_contradictory(official, tmp_path):
    path, _ = official("cls_pretrain_step", left_out=["conv_block2.1.running_var"], surplus=torch.zeros(1))
    with pytest.raises(ConversionError, match=r"missing: conv_block2.1.running_var; unknown: surplus"):
        convert_checkpoint("simmtm", path, tmp_path / "model")
    path, _ = official("forecast_pretrain_step")
    with pytest.raises(ConversionError, match="hidden_size=32"):
        convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters={"d_model": 32, "n_heads": 4})
