"""Conversion of official checkpoints: names, sizes, heads, refusals; a folder appears whole or not at all."""

import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTimeSeriesPrediction,
)
from typer.testing import CliRunner

from hf_tsrep import TS2VecModel, convert_checkpoint, get_method, list_methods
from hf_tsrep.cli.main import app
from hf_tsrep.hub import ConversionError, check_model_folder
from hf_tsrep.modeling.modeling_ts2vec import convert_ts2vec_state_dict


class OfficialBlock(torch.nn.Module):
    """Parameters of the official ConvBlock, by its names."""

    def __init__(self, width_in, width_out, final):
        super().__init__()
        self.conv1 = torch.nn.ModuleDict({"conv": torch.nn.Conv1d(width_in, width_out, 3)})
        self.conv2 = torch.nn.ModuleDict({"conv": torch.nn.Conv1d(width_out, width_out, 3)})
        self.projector = torch.nn.Conv1d(width_in, width_out, 1) if final else None


def official_encoder(num_channels=3, hidden_size=8, embedding_size=12, depth=3):
    torch.manual_seed(0)
    widths = [hidden_size] * (depth + 1) + [embedding_size]
    blocks = [OfficialBlock(widths[i], widths[i + 1], i == depth) for i in range(depth + 1)]
    encoder = torch.nn.Module()
    encoder.input_fc = torch.nn.Linear(num_channels, hidden_size)
    encoder.feature_extractor = torch.nn.ModuleDict({"net": torch.nn.Sequential(*blocks)})
    return encoder


@pytest.fixture
def official():
    return official_encoder().state_dict()


@pytest.fixture
def averaged():
    return torch.optim.swa_utils.AveragedModel(official_encoder()).state_dict()


def test_names_and_sizes_follow_from_the_official_ts2vec(official, averaged):
    fields, ours = convert_ts2vec_state_dict(official)
    assert fields == {
        "num_input_channels": 3,
        "hidden_size": 8,
        "embedding_size": 12,
        "num_hidden_layers": 4,
        "gate_padding": False,
        "missing_values": "timestamp",
    }
    assert len(ours) == len(official)
    assert ours["blocks.2.second_convolution.bias"] is official["feature_extractor.net.2.conv2.conv.bias"]
    assert ours["blocks.3.residual_projection.weight"].shape == (12, 8, 1)
    assert "n_averaged" in averaged
    assert convert_ts2vec_state_dict(averaged)[1].keys() == ours.keys()


@pytest.mark.parametrize("depth", [0, 10])
@pytest.mark.parametrize("embedding_size", [8, 5])
def test_other_depths_and_widths_follow_from_the_shapes(depth, embedding_size):
    fields, _ = convert_ts2vec_state_dict(official_encoder(1, 8, embedding_size, depth).state_dict())
    assert (fields["num_hidden_layers"], fields["embedding_size"]) == (depth + 1, embedding_size)


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".safetensors"])
def test_a_file_becomes_a_complete_model_folder(tmp_path, averaged, official, suffix):
    path = tmp_path / f"model{suffix}"
    save_file(averaged, path) if suffix == ".safetensors" else torch.save(averaged, path)
    folder = convert_checkpoint(
        "ts2vec", path, tmp_path / "new" / "converted", hyperparameters={"depth": 3, "lr": 0.001}
    )
    assert [entry.name for entry in folder.parent.iterdir()] == ["converted"]
    check_model_folder(folder)
    model = AutoModel.from_pretrained(folder)
    assert type(model) is TS2VecModel
    assert model.config.gate_padding is False
    torch.testing.assert_close(
        model.blocks[1].first_convolution.weight, official["feature_extractor.net.1.conv1.conv.weight"], rtol=0, atol=0
    )
    assert model.preparation is None  # nobody knows how the official training scaled its series
    assert model.encode([torch.randn(20, 3)]).shape == (1, 12)
    assert f"model{suffix}" in (folder / "README.md").read_text()


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path, official):
    path = tmp_path / "model.pt"
    torch.save(official, path)
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert_checkpoint("ts2vec", path, target)
    assert [entry.name for entry in target.iterdir()] == ["mine.txt"]
    convert_checkpoint("ts2vec", path, target, overwrite=True)
    assert not (target / "mine.txt").exists()
    assert len(load_file(target / "model.safetensors")) == len(official)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.pt", "out"]


def test_our_fields_may_be_given(tmp_path, official):
    torch.save(official, tmp_path / "model.pt")
    folder = convert_checkpoint(
        "ts2vec", tmp_path / "model.pt", tmp_path / "out", num_input_channels=3, pooling="mean", gate_padding=True
    )
    config = AutoModel.from_pretrained(folder).config
    assert (config.pooling, config.gate_padding) == ("mean", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hyperparameters": {"depth": 10}}, "num_hidden_layers=11 was given, .* num_hidden_layers=4"),
        (
            {"hyperparameters": {"output_dims": 320, "input_dims": 7}},
            "(?s)num_input_channels=7.*embedding_size=320.*=12",
        ),
        ({"hyperparameters": {"hidden_dim": 8}}, "no hyper-parameter 'hidden_dim'. Did you mean 'hidden_dims'"),
        ({"hyperparameters": {"output_dims": 12, "repr_dims": 13}}, "repr_dims=13 contradicts embedding_size=12"),
        ({"hyperparameters": {"hidden_dims": 8}, "hidden_size": 9}, "hidden_size=9 contradicts"),
        ({"num_input_channels": 4}, "num_input_channels=4 was given, .*=3"),
        ({"poolin": "max"}, "'poolin'. Did you mean 'pooling'"),
    ],
)
def test_contradicting_hyperparameters_are_refused(tmp_path, official, arguments, message):
    torch.save(official, tmp_path / "model.pt")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint("ts2vec", tmp_path / "model.pt", tmp_path / "new" / "out", **arguments)
    assert not (tmp_path / "new").exists()


def without(key):
    return lambda official: {name: value for name, value in official.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("input_fc.bias"), "4 blocks; missing: input_fc.bias"),
        (without("feature_extractor.net.3.projector.weight"), "missing: feature_extractor.net.3.projector.weight"),
        (lambda official: {**official, "head.weight": torch.ones(1)}, "unknown: head.weight"),
        (
            lambda official: {**official, "feature_extractor.net.1.projector.bias": torch.ones(8)},
            "unknown: feature_extractor.net.1.projector.bias",
        ),
        (lambda official: {"conv.weight": torch.ones(2)}, "no TS2Vec checkpoint: it holds conv.weight"),
        (lambda official: {}, "no TS2Vec checkpoint: it holds nothing"),
        (
            lambda official: {**official, "input_fc.bias": torch.ones(9)},
            r"input_fc.bias has shape \(9,\) instead of \(8,\)",
        ),
        (lambda official: {**official, "input_fc.weight": torch.ones(8)}, "sizes of the model cannot be told"),
        (
            lambda official: {**official, "feature_extractor.net.999999999999.projector.bias": torch.ones(8)},
            "only 21 parameters",
        ),
        (
            lambda official: {**official, "input_fc.bias": torch.full((8,), torch.nan)},
            "not finite: input_projection.bias",
        ),
        (lambda official: {**official, "epoch": 3}, "tensors only, but here {'epoch': 'int'}"),
        (lambda official: list(official), "holds a list, not a state dict"),
    ],
)
def test_other_parameters_are_refused(tmp_path, official, change, message):
    torch.save(change(official), tmp_path / "model.pt")
    with pytest.raises(ConversionError, match=message) as refusal:
        convert_checkpoint("ts2vec", tmp_path / "model.pt", tmp_path / "out")
    assert "model.pt" in str(refusal.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


class Attack:
    def __reduce__(self):
        return open, ("attacked.txt", "w")


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Attack())), "model.pkl", "would run code"),
        (lambda path: torch.save({"input_fc.weight": Attack()}, path), "model.pt", "would run code"),
        (lambda path: torch.save(official_encoder(), path), "model.pth", "would run code"),
        (lambda path: path.write_bytes(b""), "model.pt", "damaged"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "model.pt", "damaged"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "model.pt", "damaged"),
        (lambda path: path.write_bytes(b"\x08" + bytes(30)), "model.safetensors", "damaged"),
        (lambda path: path.write_bytes(b"x"), "model.onnx", "Unknown kind of file"),
    ],
)
def test_damaged_and_dangerous_files_are_refused(tmp_path, monkeypatch, write, name, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint("ts2vec", tmp_path / name, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_truncated_file_is_refused(tmp_path, official):
    path = tmp_path / "model.pt"
    torch.save(official, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConversionError, match="damaged"):
        convert_checkpoint("ts2vec", path, tmp_path / "out")


def test_missing_files_and_unknown_methods_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        convert_checkpoint("ts2vec", tmp_path / "model.pt", tmp_path / "out")
    with pytest.raises(ValueError, match="Did you mean 'ts2vec'"):
        convert_checkpoint("ts2vecc", tmp_path / "model.pt", tmp_path / "out")


def test_half_precision_becomes_single(tmp_path, official):
    torch.save({name: value.half() for name, value in official.items()}, tmp_path / "model.pt")
    folder = convert_checkpoint("ts2vec", tmp_path / "model.pt", tmp_path / "out")
    assert AutoModel.from_pretrained(folder).dtype == torch.float32


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


CLASSIFIERS = [("simmtm_cls_encoder_eval", 8), ("timedrl_classify_linear_eval", 5), ("tst_classifier", 4)]


@pytest.mark.parametrize(("name", "num_labels"), CLASSIFIERS)
def test_a_classification_head_scores_as_the_official_one(tmp_path, name, num_labels):
    folder, tensors = converted(tmp_path, name)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    values = tensors["input.x"].transpose(1, 2) if name.startswith("simmtm") else tensors["input.x"]
    if "input.lengths" in tensors:  # what lies after a series is missing
        inside = torch.arange(values.shape[1]) < tensors["input.lengths"].unsqueeze(1)
        values = values.masked_fill(~inside.unsqueeze(-1), torch.nan)
    with torch.no_grad():
        output = model(values, labels=tensors["input.labels"])
    assert model.config.num_labels == num_labels
    close(output.logits, tensors["output.logits"])
    close(output.loss, tensors["output.loss"])


@pytest.mark.parametrize("name", ["simmtm_cls_pretrain_step", "simmtm_forecast_pretrain_step"])
def test_the_pretext_layers_of_simmtm_are_kept(tmp_path, name):
    from hf_tsrep.modeling.layers_masking import geometric_mask
    from hf_tsrep.modeling.modeling_simmtm import SimMTMDraws

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


def test_the_output_layer_of_tst_is_kept(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    folder, tensors = converted(tmp_path, "tst_encoder_batchnorm")
    assert "no such layers" not in caplog.text
    model = AutoModelForPreTraining.from_pretrained(folder)
    inside = tensors["input.padding_masks"].bool()
    with torch.no_grad():
        hidden = model.model(tensors["input.X"], inside.unsqueeze(-1).expand_as(tensors["input.X"])).last_hidden_state
        close(model.reconstruct(hidden)[inside], tensors["output.prediction"][inside])
    assert model.config.normalize_over_padding
    assert (model.config.position_embedding, model.config.attention_dropout) == ("learned", 0.1)


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
        ("tst_classifier", {"n_heads": None}, r"num_attention_heads \(official name n_heads\)"),
        ("tst_classifier", {"num_heads": 4}, "n_heads=8.*contradicts num_attention_heads|num_heads=4 contradicts"),
        ("tst_classifier", {"max_len": 24}, "context_length=24 was given, but the parameters have"),
        ("tst_classifier", {"num_classes": 7}, "num_labels=7 was given, but the parameters have num_labels=4"),
        ("tst_encoder_layernorm", {"pos_encoding": "learnable"}, "position_embedding='learned' was given"),
        ("tst_encoder_layernorm", {"norm": "BatchNorm"}, "normalization='batch' was given"),
        ("tst_encoder_layernorm", {"model": "LINEAR"}, "model='LINEAR' is not converted"),
        ("tst_encoder_layernorm", {"task": "forecasting"}, "task='forecasting' is unknown"),
        ("tst_encoder_layernorm", {"hidden_units": 3}, "hidden_units"),
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


def checkpoints_of(method, folder):
    """Write the official parameters of every fixture of a method."""
    for path in sorted(FIXTURES.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith("param.")]
            if file.metadata().get("method") == method and names:
                parameters = {name.removeprefix("param."): file.get_tensor(name) for name in names}
                save_file(parameters, folder / path.name)
                yield folder / path.name


@pytest.mark.parametrize("method", [one for one in list_methods() if get_method(one).model_class.converter])
def test_an_unknown_hyperparameter_is_refused_by_name_for_every_method(tmp_path, method):
    refusals = []
    for checkpoint in checkpoints_of(method, tmp_path):
        with pytest.raises(ConversionError) as refusal:
            convert_checkpoint(method, checkpoint, tmp_path / "out", hyperparameters={"poolin": "max"})
        refusals.append(str(refusal.value))
    assert any("has no hyper-parameter 'poolin'. Did you mean 'pooling'" in one for one in refusals), refusals
    assert not (tmp_path / "out").exists()
