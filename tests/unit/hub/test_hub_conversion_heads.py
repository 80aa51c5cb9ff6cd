"""`convert_checkpoint` keeps the layers behind the encoder: heads and pretext tasks open with their Auto classes."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTimeSeriesPrediction,
)
from typer.testing import CliRunner

from hf_tsrep import convert_checkpoint
from hf_tsrep.cli.main import app
from hf_tsrep.hub import ConversionError, check_model_folder

FIXTURES = Path(__file__).parents[2] / "parity" / "fixtures"


def written(tmp_path, name, left_out=()):
    """Write a fixture's official state dict; return method, file, arguments and tensors."""
    with safe_open(FIXTURES / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        arguments = json.loads(file.metadata()["config"])
    state = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    path = tmp_path / "official.safetensors"
    save_file({key: value for key, value in state.items() if not key.startswith(tuple(left_out) or ("-",))}, path)
    return name.partition("_")[0], path, arguments, tensors


def converted(tmp_path, name, **options):
    method, path, arguments, tensors = written(tmp_path, name, **options)
    return convert_checkpoint(method, path, tmp_path / "model", hyperparameters=arguments), tensors


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["simmtm_forecast_finetune_etth2_defaults", "timedrl_forecast_ci_linear_eval"])
def test_a_forecasting_head_predicts_as_the_official_one(tmp_path, name):
    folder, tensors = converted(tmp_path, name)
    check_model_folder(folder)
    model = AutoModelForTimeSeriesPrediction.from_pretrained(folder)
    with torch.no_grad():
        output = model(tensors["input.x"], future_values=tensors["input.y"])
    close(output.prediction_outputs, tensors["output.forecast"])
    close(output.loss, tensors["output.loss"])
    assert (model.config.prediction_length, model.config.num_input_channels) == (24, 3)
    assert f"`{type(model).__name__}`" in (folder / "README.md").read_text()
    assert AutoModel.from_pretrained(folder).encode(tensors["input.x"]).shape == (
        len(tensors["input.x"]),
        model.config.embedding_size,
    )


@pytest.mark.parametrize(("name", "num_labels"), [("simmtm_cls_encoder_eval", 8), ("timedrl_classify_linear_eval", 5)])
def test_a_classification_head_scores_as_the_official_one(tmp_path, name, num_labels):
    folder, tensors = converted(tmp_path, name)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    values = tensors["input.x"].transpose(1, 2) if name.startswith("simmtm") else tensors["input.x"]
    with torch.no_grad():
        output = model(values, labels=tensors["input.labels"])
    assert model.config.num_labels == num_labels
    close(output.logits, tensors["output.logits"])
    close(output.loss, tensors["output.loss"])


@pytest.mark.parametrize("name", ["simmtm_cls_pretrain_step", "simmtm_forecast_pretrain_step"])
def test_the_pretext_layers_of_simmtm_are_kept(tmp_path, name):
    from hf_tsrep.modeling.modeling_simmtm import SimMTMDraws, geometric_mask

    folder, tensors = converted(tmp_path, name)
    model = AutoModelForPreTraining.from_pretrained(
        folder, dropout=0.0, attention_dropout=0.0, head_dropout=0.0
    ).train()
    values, config = tensors["input.x"], model.config
    if name == "simmtm_cls_pretrain_step":
        values = values.transpose(1, 2)
    batch_size, length, num_channels = values.shape
    chain = geometric_mask(tensors["input.mask_draws"], config.mask_ratio, config.mean_mask_length)
    keep = chain.view(config.num_masked_views, batch_size, num_channels, length).transpose(2, 3)
    output = model(values, draws=SimMTMDraws(0, keep))
    close(output.loss.detach(), tensors["output.loss"])
    close(output.constraint_loss, tensors["output.loss_cl"])


@pytest.mark.parametrize("name", ["timedrl_pretext_ci_etth1_defaults", "timedrl_pretext_multichannel_jitter"])
def test_the_pretext_layers_of_timedrl_are_kept(tmp_path, name):
    from hf_tsrep.modeling.modeling_timedrl import TimeDRLViews

    folder, tensors = converted(tmp_path, name)
    model = AutoModelForPreTraining.from_pretrained(folder).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    noise, kept = (
        torch.stack([tensors[f"input.{what}_{view}"] for view in (1, 2)]) if f"input.{what}_1" in tensors else None
        for what in ("jitter_noise", "keep_mask")
    )
    output = model(tensors["input.x"], views=TimeDRLViews(dropout_seed=0, noise=noise, embedding_kept=kept))
    close(output.loss.detach(), tensors["output.pretrain_loss"])
    close(output.predicted_patches[1], tensors["output.x_pred_2"])


def test_layers_without_a_place_are_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    converted(tmp_path, "timedrl_classify_linear_eval")
    assert "TimeDRLForTimeSeriesClassification has no such layers: contrastive_predictor.0" in caplog.text
    assert "predictive_linear.1" in caplog.text
    assert "linear_eval" not in caplog.text


def test_an_incomplete_pretext_task_leaves_the_encoder(tmp_path, caplog):
    folder, _ = converted(tmp_path, "simmtm_forecast_pretrain_step", left_out=["projection."])
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["SimMTMModel"]
    assert "SimMTMModel has no such layers: awl, pooler.pooler.1, pooler.pooler.2, pooler.pooler.4." in caplog.text


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("simmtm_forecast_finetune_etth2_defaults", {"C": None}, r"num_input_channels \(official name enc_in\)"),
        ("simmtm_forecast_finetune_etth2_defaults", {"pred_len": 48}, "prediction_length=48 was given"),
        ("timedrl_forecast_ci_linear_eval", {"seq_len": None}, r"context_length \(official name seq_len\)"),
        ("timedrl_forecast_ci_linear_eval", {"seq_len": 96}, "maps 80 numbers to 24.*context_length=96.*112 numbers"),
        ("timedrl_forecast_ci_linear_eval", {"pred_len": 48}, "prediction_length=48 was given"),
    ],
)
def test_a_head_that_the_arguments_contradict_is_refused(tmp_path, name, changed, message):
    method, path, arguments, _ = written(tmp_path, name)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(method, path, tmp_path / "model", hyperparameters={**arguments, **changed})
    assert not (tmp_path / "model").exists()


def test_parameters_of_other_shapes_are_refused(tmp_path):
    method, path, arguments, tensors = written(tmp_path, "simmtm_forecast_finetune_etth2_defaults")
    state = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    save_file({**state, "head.linear.bias": torch.zeros(25)}, path)
    with pytest.raises(ConversionError, match=r"do not fit each other.*head.projection.bias"):
        convert_checkpoint(method, path, tmp_path / "model", hyperparameters={**arguments, "pred_len": None})


def test_the_command_says_which_class_came_out(tmp_path):
    _, path, arguments, _ = written(tmp_path, "simmtm_cls_encoder_eval")
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps(arguments))
    options = ["--checkpoint", path, "--output-dir", tmp_path / "out", "--hyperparameters", file]
    result = CliRunner().invoke(app, ["convert", "simmtm", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert "SimMTMForTimeSeriesClassification, converted from official.safetensors" in result.output
