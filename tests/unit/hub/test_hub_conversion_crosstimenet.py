"""Conversion of official CrossTimeNet checkpoints, of a tokenizer and of a model, read from the parity fixtures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, AutoTokenizer

from hf_tsrep import CrossTimeNetForPreTraining, convert_checkpoint
from hf_tsrep.hub import ConversionError, check_model_folder

FIXTURES = Path(__file__).parents[2] / "parity" / "fixtures"
HEADS = {"num_attention_heads": 2}


def official(fixture):
    """Parameters and other tensors of a fixture."""
    with safe_open(FIXTURES / f"{fixture}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    parameters = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    return parameters, tensors


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_tokenizer_becomes_a_tokenizer_folder(tmp_path, suffix):
    parameters, tensors = official("vqvae_train_ema")
    path = tmp_path / f"model{suffix}"
    save_file(parameters, path) if suffix == ".safetensors" else torch.save(parameters, path)
    arguments = {"data_shape": [40, 3], "n_embed": 24, "wave_length": 5, "block_num": 2, "hidden_dim": 16}
    folder = convert_checkpoint(
        "crosstimenet", path, tmp_path / "out", hyperparameters={**arguments, "domain": "har", "seed": 2023}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, _, _ = tokenizer.tokenize_values(tensors["input.x"])
    assert torch.equal(ids, tensors["output.ids"] + 4)
    assert [domain.name for domain in tokenizer.domains] == ["har"]
    assert path.name in (folder / "README.md").read_text()


def test_a_model_becomes_a_model_folder_with_its_tokenizer(tmp_path):
    parameters, tensors = official("bert_mlm_loss")
    checkpoint = {"model_state_dict": parameters, "epoch": 3, "best_loss": "1.0"}
    torch.save(checkpoint, tmp_path / "best_model.pth")
    folder = convert_checkpoint(
        "crosstimenet", tmp_path / "best_model.pth", tmp_path / "out", hyperparameters=HEADS, pooling="max"
    )
    check_model_folder(folder)
    model = AutoModelForPreTraining.from_pretrained(folder)
    assert type(model) is CrossTimeNetForPreTraining
    assert model.config.pooling == "max"
    assert [one["name"] for one in model.config.domains] == ["ecg", "eeg", "har"]
    mask = tensors["input.mask_draws"] < 0.3
    loss = model(past_values=tensors["input.x"], domain="eeg", mask=mask).loss
    torch.testing.assert_close(loss, tensors["output.loss"], rtol=1e-5, atol=1e-5)
    hidden = AutoModel.from_pretrained(folder).encode(tensors["input.x"], domain="eeg")
    assert hidden.shape == (4, 16)


def test_official_arguments_are_honoured(tmp_path):
    parameters, _ = official("bert_mlm_loss")
    torch.save(parameters, tmp_path / "model.pt")
    arguments = {
        "mask_ratio": 0.5,
        "embeding": "word_mapping",
        "params": 1,
        "frozen": 0,
        "n_embed": 512,
        "classifier": 1,
    }
    bert = {"num_attention_heads": 2, "hidden_act": "relu", "layer_norm_eps": 1e-3, "vocab_size": 60}
    folder = convert_checkpoint(
        "crosstimenet", tmp_path / "model.pt", tmp_path / "out", hyperparameters={**arguments, "bert_config": bert}
    )
    config = AutoModelForPreTraining.from_pretrained(folder).config
    assert (config.mask_ratio, config.classifier) == (0.5, "flatten")
    assert (config.embedding_initialization, config.backbone_name) == ("word_sample", "bert-base-uncased")
    assert (config.backbone_config.hidden_act, config.backbone_config.layer_norm_eps) == ("relu", 1e-3)


def test_the_classification_heads_are_kept_when_asked_for(tmp_path):
    parameters, tensors = official("bert_classify")
    save_file(parameters, tmp_path / "model.safetensors")
    folder = convert_checkpoint(
        "crosstimenet",
        tmp_path / "model.safetensors",
        tmp_path / "out",
        hyperparameters={**HEADS, "head": "classification"},
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    logits = model(past_values=tensors["input.x"], domain="har").logits
    np.testing.assert_allclose(logits.detach(), tensors["output.logits"], rtol=1e-5, atol=1e-5)


def changed(**tensors):
    return lambda parameters: {**parameters, **tensors}


@pytest.mark.parametrize(
    ("fixture", "change", "hyperparameters", "message"),
    [
        ("vqvae_train_ema", changed(), {"wave_length": 4}, "patch_length=4 was given, .* patch_length=5"),
        ("vqvae_train_ema", changed(), {"data_shape": [50, 3]}, "context_length=50 was given"),
        ("vqvae_train_ema", changed(), {"n_embd": 24}, "tokenizer has no hyper-parameter 'n_embd'. Did you mean"),
        ("vqvae_train_ema", changed(), {"kernel_size": 5}, "kernel_size=5 was given, .* kernel_size=3"),
        ("vqvae_train_ema", changed(), {"dilations": [1, 2, 4]}, "4 residual blocks in the encoder for 3 dilations"),
        ("vqvae_train_ema", changed(), {"d_model": 8, "hidden_dim": 16}, "contradicts hidden_size=8"),
        ("vqvae_train_ema", changed(extra=torch.ones(1)), {}, "unknown: extra"),
        ("vqvae_train_ema", lambda one: {"a": torch.ones(1)}, {}, "no tokenizer of CrossTimeNet: enc.input_proj"),
        (
            "vqvae_train_ema",
            lambda one: {key: value for key, value in one.items() if key != "dec.blocks.output.bias"},
            {},
            "missing: decoder.output_projection.bias",
        ),
        (
            "vqvae_train_ema",
            lambda one: {**one, "quantize.embed": one["quantize.embed"] * torch.nan},
            {},
            "quantize.embed is not finite",
        ),
        ("bert_classify", changed(), {}, "give num_attention_heads"),
        ("bert_classify", changed(), {**HEADS, "head": "both"}, "head='both' is unknown"),
        (
            "bert_classify",
            changed(),
            {"bert_config": {**HEADS, "position_embedding_type": "relative_key"}},
            "Only position_embedding_type='absolute'",
        ),
        ("bert_classify", changed(), {"bert_config": {"hiden_act": "relu"}}, "hiden_act.*Did you mean 'hidden_act'"),
        ("bert_classify", changed(), {**HEADS, "hidden_size": 32}, "hidden_size=32 was given"),
        ("bert_classify", changed(), {**HEADS, "poolin": "max"}, "'poolin'. Did you mean 'pooling'"),
        ("bert_classify", changed(other=torch.ones(2)), HEADS, "no parameters other"),
        ("bert_classify", changed(**{"emb_layer.weight": torch.ones(30, 16)}), HEADS, "31 rows are needed"),
        (
            "bert_classify",
            changed(**{"encoder.cls.predictions.transform.dense.bias": torch.ones(4)}),
            HEADS,
            "head.dense.bias",
        ),
        (
            "bert_classify",
            lambda one: {key: value for key, value in one.items() if key != "head.eeg-data.2.bias"},
            HEADS,
            "head.eeg-data.2.bias is missing",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, fixture, change, hyperparameters, message):
    parameters, _ = official(fixture)
    torch.save(change(parameters), tmp_path / "model.pt")
    with pytest.raises(ConversionError, match=message) as refusal:
        convert_checkpoint("crosstimenet", tmp_path / "model.pt", tmp_path / "out", hyperparameters=hyperparameters)
    assert "model.pt" in str(refusal.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]
