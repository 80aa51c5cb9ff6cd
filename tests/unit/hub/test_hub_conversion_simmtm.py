"""`convert_checkpoint` on official SimMTM checkpoints of both kinds, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hf_tsrep import convert_checkpoint
from hf_tsrep.hub import ConversionError
from hf_tsrep.modeling.modeling_simmtm import convert_simmtm_heads

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


def test_official_arguments_become_fields_or_go_to_training(official, tmp_path):
    path, _ = official("forecast_finetune_etth2_defaults")
    arguments = {
        "n_heads": 8,
        "enc_in": 3,
        "activation": "relu",
        "dropout": 0.4,
        "masked_rule": "masked tail",
        "features": "MS",
        **{"model": "SimMTM", "embed": "timeF", "factor": 1, "output_attention": True, "lradj": "type1", "rbtp": 1},
    }
    folder = convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters=arguments)
    config = AutoModel.from_pretrained(folder).config
    assert (config.activation, config.mask_rule, config.num_output_channels) == ("relu", "tail", 1)
    assert config.dropout == config.attention_dropout == 0.4


@pytest.mark.parametrize("embed", ["fixed", "learned"])
def test_time_features_that_are_never_called_are_left_out(official, tmp_path, embed):
    name = "hour_embed.emb.weight" if embed == "fixed" else "hour_embed.weight"
    tables = {f"enc_embedding.temporal_embedding.{name}": torch.zeros(24, 16)}
    unused = ["enc_embedding.temporal_embedding.embed.weight"]
    path, _ = official("forecast_pretrain_step", left_out=unused, **tables)
    arguments = {"n_heads": 4, "embed": embed}
    assert convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters=arguments).is_dir()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("forecast_pretrain_step", {"activaton": "relu"}, "no hyper-parameter 'activaton'. Did you mean 'activation'"),
        ("forecast_pretrain_step", {"model": "PatchTST"}, "model='PatchTST' is another method"),
        ("forecast_pretrain_step", {"select_channels": 0.5}, "select_channels=0.5 trains every step on some"),
        ("forecast_pretrain_step", {"mask_rate": 0.4, "masking_ratio": 0.5}, "contradicts mask_ratio=0.4"),
        ("cls_pretrain_step", {"CNNoutput_channel": 12}, "CNNoutput_channel=12 was given, but .* 10 positions"),
        ("cls_pretrain_step", {"input_channels": 2}, "num_input_channels=2 was given"),
        ("cls_encoder_eval", {"L": 178, "num_classes_target": 5}, "num_labels=5 was given"),
    ],
)
def test_what_is_not_understood_or_not_done_is_refused_by_name(official, tmp_path, name, arguments, words):
    path, _ = official(name)
    with pytest.raises(ConversionError, match=words):
        convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters={"n_heads": 4, **arguments})


def test_the_classification_decoder_of_two_channels_writes_them_side_by_side():
    """There a linear layer writes channel after channel; ours writes both channels of each timestamp."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "conv_block1.0.weight": torch.zeros(32, 2, 25),
        "conv_block3.0.weight": torch.zeros(4, 64, 8),
        "head.weight": torch.randn(2 * 6, 4 * 3, generator=generator),
        "head.bias": torch.randn(2 * 6, generator=generator),
    }
    points = torch.randn(5, 4, 3, generator=generator)  # (num_rows, width, num_positions), as there
    expected = torch.nn.functional.linear(points.flatten(1), state["head.weight"], state["head.bias"])
    ours = convert_simmtm_heads(state)
    weight, bias = ours["decoder.projection.weight"], ours["decoder.projection.bias"]
    found = torch.nn.functional.linear(points.transpose(1, 2).flatten(1), weight, bias)
    torch.testing.assert_close(found.unflatten(1, (6, 2)).transpose(1, 2).flatten(1), expected)
