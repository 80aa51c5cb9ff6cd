"""Settings of a fine-tuning and the model it starts from: fields, refusals, a new head on the encoder, a resume."""

import json
import sys

import pytest
import torch

from hf_tsrep import (
    SimMTMConfig,
    SimMTMModel,
    TimeDRLConfig,
    TimeDRLModel,
    TS2VecConfig,
    TS2VecForPreTraining,
    TS2VecForTimeSeriesClassification,
    TS2VecModel,
)
from hf_tsrep.data.corpus import CorpusMetadata
from hf_tsrep.training import SettingsError, finetuning_fields, resolve_finetuning
from hf_tsrep.training.data import TensorRows
from hf_tsrep.training.finetuning.data import FinetuningData
from hf_tsrep.training.finetuning.lora import add_lora
from hf_tsrep.training.finetuning.model import (
    build_model,
    head_config,
    reading_options,
)
from hf_tsrep.training.finetuning.run import build_trainer, shared_by_finetunings, training_arguments
from hf_tsrep.training.recipe_files import recipe_for
from hf_tsrep.training.run import check_resume
from hf_tsrep.training.saving import read_training_record

SIZES = {"hidden_size": 4, "embedding_size": 6, "num_hidden_layers": 2}


@pytest.fixture
def pretrained(tmp_path):
    torch.manual_seed(1)
    TS2VecForPreTraining(TS2VecConfig(num_input_channels=2, **SIZES)).save_pretrained(tmp_path / "pretrained")
    return str(tmp_path / "pretrained")


def resolve(model, **fields):
    return resolve_finetuning({"model": model, "corpus": "c", "output_dir": "o", **fields}, place="arguments")


def data_of(num_channels=2, classes=("a", "b", "c"), length=10):
    metadata = CorpusMetadata("c", channel_names=tuple(f"channel_{index}" for index in range(num_channels)))
    rows = TensorRows({"past_values": torch.randn(4, length, num_channels), "labels": torch.zeros(4).long()})
    return FinetuningData(None, metadata, {"train": rows}, list(classes))


def test_what_is_given_goes_before_the_file_and_that_before_the_recipe(tmp_path, pretrained):
    path = tmp_path / "fields.yaml"
    path.write_text("learning-rate: 1e-2\nseed: 7\nmode: linear-probe\n")
    given = {"model": pretrained, "corpus": "c", "output_dir": "o", "learning-rate": "1e-4", "label_fraction": "0.1"}
    settings = resolve_finetuning(given, path)
    assert settings.training["learning_rate"] == 1e-4
    assert settings.training["seed"] == 7
    assert settings.training["weight_decay"] == 0.01
    assert settings.run.mode == "linear-probe"
    assert settings.data.label_fraction == 0.1
    assert (settings.method, settings.task, settings.recipe) == ("ts2vec", "classification", "linear-probe")
    assert settings.sources["seed"] == "file fields.yaml"
    assert settings.sources["weight_decay"] == "recipe finetuning/linear-probe"
    record = settings.to_dict()
    assert record["model"] == "pretrained"
    assert str(tmp_path) not in str(record)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rte": 1}, r"Unknown field 'learning_rte' \(arguments\).*Did you mean 'learning_rate'"),
        ({"label_fraction": 0}, r"label_fraction=0 \(arguments\): expected a number above 0 and at most 1"),
        ({"label_fraction": 1.5}, "at most 1"),
        ({"validation": "test"}, "expected 'auto' or 'none'"),
        ({"mode": "probe"}, "'linear-probe'"),
        ({"task": "classify"}, "Did you mean 'classification'"),
        ({"recipe": "defalt"}, "Did you mean 'default'"),
        ({"early_stopping_patience": 0}, "an integer above 0, or none"),
        ({"warmup_ratio": 1}, "below 1"),
        ({"backbone_learning_rate_factor": 0}, "mode=linear-probe"),
        ({"num_labels": 3}, "the corpus says which classes"),
    ],
)
def test_wrong_fields_are_named_with_place_and_fix(fields, message):
    with pytest.raises(ValueError, match=message):
        resolve("ts2vec", **fields)


def test_models_that_are_not_there_have_near_matches(tmp_path, pretrained):
    with pytest.raises(ValueError, match=r"Unknown method 'ts2vecc'. Did you mean 'ts2vec'"):
        resolve("ts2vecc")
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*pretraind.*Did you mean .*pretrained"):
        resolve(pretrained.removesuffix("ed") + "d")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        resolve(str(tmp_path / "empty"))
    with pytest.raises(SettingsError, match="corpus is missing"):
        resolve_finetuning({"model": "ts2vec", "output_dir": "o"})


def test_a_head_alone_a_method_and_everything_else_have_their_recipes():
    assert recipe_for("ts2vec", None) == recipe_for("ts2vec", "full") == recipe_for("ts2vec", "lora") == "default"
    assert recipe_for("crosstimenet", "full") == "crosstimenet"
    assert recipe_for("crosstimenet", "linear-probe") == "linear-probe"
    assert resolve("ts2vec", recipe="default", mode="linear-probe").training["learning_rate"] == 0.001


def test_every_field_belongs_to_one_group():
    fields = finetuning_fields("ts2vec")
    assert {"mode", "label_fraction", "classifier_dropout", "learning_rate", "bf16"} <= set(fields)
    assert not {"num_input_channels", "num_labels", "target_mean", "resume_from_checkpoint"} & set(fields)


def test_the_warm_up_is_a_share_or_a_number_of_steps_and_not_both():
    assert training_arguments(resolve("ts2vec")).get_warmup_steps(200) == 20
    assert training_arguments(resolve("ts2vec", warmup_ratio=0.25)).get_warmup_steps(200) == 50
    assert training_arguments(resolve("ts2vec", warmup_steps=7)).get_warmup_steps(200) == 7
    with pytest.raises(SettingsError, match="choose one"):
        training_arguments(resolve("ts2vec", warmup_steps=7, warmup_ratio=0.25))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eval_strategy", "steps"),
        ("save_strategy", "no"),
        ("load_best_model_at_end", False),
        ("metric_for_best_model", "loss"),
    ],
)
def test_what_the_loop_sets_itself_is_refused_where_the_arguments_are_built(field, value):
    settings = resolve("ts2vec", **{field: value})
    with pytest.raises(SettingsError, match=rf"{field}={value!r} \(arguments\).*every epoch is validated"):
        training_arguments(settings)


def test_without_validation_nothing_is_selected():
    chosen, last = (training_arguments(resolve("ts2vec", validation=name)) for name in ("auto", "none"))
    assert chosen.load_best_model_at_end
    assert (chosen.metric_for_best_model, chosen.greater_is_better) == ("accuracy", True)
    assert (chosen.eval_strategy, last.eval_strategy) == ("epoch", "no")
    assert not last.load_best_model_at_end
    forecast = training_arguments(resolve("ts2vec", task="forecasting"))
    assert (forecast.metric_for_best_model, forecast.greater_is_better) == ("mse", False)


def test_series_are_scaled_as_in_the_pretraining_unless_said_otherwise(tmp_path, pretrained):
    assert reading_options(resolve(pretrained))["scaler"] == "recommended"
    (tmp_path / "pretrained" / "pretraining.json").write_text('{"data": {"scaler": "global", "time_features": true}}')
    assert reading_options(resolve(pretrained)) == {"scaler": "global", "time_features": True}
    given = resolve(pretrained, scaler="none", time_features=False)
    assert reading_options(given) == {"scaler": None, "time_features": False}


def test_a_fine_tuned_model_is_read_as_its_own_fine_tuning_really_was(tmp_path, pretrained):
    record = {
        "corpus": "ucr/ECG200",
        "data": {"scaler": None, "time_features": None},
        "facts": {"scaler": "recommended", "time_features": True},
    }
    (tmp_path / "pretrained" / "finetuning.json").write_text(json.dumps(record))
    assert reading_options(resolve(pretrained)) == {"scaler": "recommended", "time_features": True}
    assert read_training_record(pretrained)["corpus"] == ["ucr/ECG200"]


def test_the_encoder_is_the_pretrained_one_and_the_head_is_new(tmp_path, pretrained):
    expected = TS2VecModel.from_pretrained(pretrained).state_dict()
    torch.manual_seed(0)
    model = build_model(resolve(pretrained, classifier_dropout=0.25), data_of())
    assert isinstance(model, TS2VecForTimeSeriesClassification)
    assert all(torch.equal(value, expected[name]) for name, value in model.base_model.state_dict().items())
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.classifier_dropout == 0.25
    # A head that is there, with the same number of classes, is not taken over.
    model.save_pretrained(tmp_path / "tuned")
    torch.manual_seed(5)
    again = build_model(resolve(str(tmp_path / "tuned")), data_of())
    assert not torch.equal(again.head.projection.weight, model.head.projection.weight)
    assert all(torch.equal(value, expected[name]) for name, value in again.base_model.state_dict().items())


def test_a_model_is_as_good_as_its_folder_and_stays_as_it_is(pretrained):
    given = TS2VecModel.from_pretrained(pretrained)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    model = build_model(resolve(given), data_of())
    assert all(torch.equal(value, before[name]) for name, value in model.base_model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert given.config.id2label != model.config.id2label


def test_from_scratch_keeps_the_sizes_and_not_the_weights(pretrained):
    encoder = TS2VecModel.from_pretrained(pretrained)
    scratch = resolve(pretrained, from_scratch=True)
    model = build_model(scratch, data_of())
    assert not scratch.is_pretrained
    assert model.config.embedding_size == 6
    assert not torch.equal(model.model.blocks[0].first_convolution.weight, encoder.blocks[0].first_convolution.weight)
    named = build_model(resolve("ts2vec", **SIZES), data_of(5))
    assert (named.config.num_input_channels, named.config.hidden_size) == (5, 4)


def test_other_channels_need_new_input_weights(pretrained):
    with pytest.raises(
        ValueError, match=r"3 channels.*input_projection.weight \(4, 2\) instead of \(4, 3\).*adapt_inpu"
    ):
        build_model(resolve(pretrained), data_of(3))
    model = build_model(resolve(pretrained, adapt_input=True), data_of(3))
    assert model.model.input_projection.weight.shape == (4, 3)
    encoder = TS2VecModel.from_pretrained(pretrained)
    assert torch.equal(model.model.blocks[0].first_convolution.weight, encoder.blocks[0].first_convolution.weight)
    with pytest.raises(ValueError, match=r"lacks .* weights"):
        build_model(resolve(pretrained, num_hidden_layers=4), data_of())


def test_new_input_weights_learn_where_the_encoder_changes_and_are_warned_of_where_not(pretrained, caplog):
    lora = build_model(resolve(pretrained, adapt_input=True, mode="lora"), data_of(3))
    assert "linear-probe" not in caplog.text
    add_lora(lora, 2, 4.0)
    learnt = {name for name, one in lora.named_parameters() if one.requires_grad and "lora_" not in name}
    assert learnt == {
        "model.input_projection.base_layer.weight",
        "classifier.projection.weight",
        "classifier.projection.bias",
    }
    build_model(resolve(pretrained, adapt_input=True, mode="linear-probe"), data_of(3))
    assert "mode=linear-probe leaves them random" in caplog.text


def test_a_forecast_has_the_channels_that_are_no_time_features(pretrained):
    data = data_of(2, classes=())
    data.metadata = CorpusMetadata("c", channel_names=("hour", "value"), num_time_features=1)
    config = head_config(resolve(pretrained, task="forecasting", prediction_length=5), data)
    assert (config.num_input_channels, config.num_output_channels, config.prediction_length) == (2, 1, 5)


def test_lora_without_peft_names_the_command_that_installs_it(monkeypatch, pretrained):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingsError, match=r"pip install .peft"):
        add_lora(build_model(resolve(pretrained), data_of()), 2, 4.0)


def resolve_typed(model="ts2vec", **fields):
    return resolve_finetuning({"model": model, "corpus": "c", "output_dir": "o", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stride": 4}, r"stride=4 \(command line\) has no meaning for task=classification.*set task=forecasting"),
        ({"prediction_length": 24}, r"prediction_length=24 \(command line\).*task=classification"),
        ({"context_length": 16}, r"context_length=16 \(command line\) has no meaning for task=classification"),
        ({"task": "forecasting", "classifier_dropout": 0.1}, r"classifier_dropout=0.1 .*task=forecasting"),
        ({"mode": "linear-probe", "lora_rank": 4}, r"lora_rank=4 \(command line\).*mode=linear-probe.*set mode=lora"),
        ({"lora_alpha": 4}, r"lora_alpha=4.0 \(command line\) has no meaning for mode=full"),
        ({"mode": "full", "feature_memory": 1}, r"feature_memory=1.0 .*mode=full; leave it out.*mode=linear-probe"),
        ({"mode": "lora", "feature_memory": 1}, r"feature_memory=1.0 .*mode=lora"),
        (
            {"mode": "linear-probe", "backbone_learning_rate_factor": 0.1},
            r"backbone_learning_rate_factor=0.1 .*mode=linear-probe; leave it out, or set mode=full or mode=lora",
        ),
    ],
)
def test_fields_of_another_task_or_mode_are_refused(fields, message):
    with pytest.raises(SettingsError, match=message):
        resolve_typed(**fields)


def test_a_recipe_may_carry_fields_of_another_task_or_mode():
    assert resolve_typed("simmtm", recipe="simmtm-forecasting", mode="linear-probe").data.context_length == 336
    assert resolve_typed("ts2vec", recipe="default", mode="linear-probe").run.backbone_learning_rate_factor == 1.0


def test_a_file_is_asked_for_like_the_command_line(tmp_path):
    (tmp_path / "fields.yaml").write_text("stride: 4\n")
    given = {"model": "ts2vec", "corpus": "c", "output_dir": "o"}
    with pytest.raises(SettingsError, match=r"stride=4 \(file fields.yaml\)"):
        resolve_finetuning(given, tmp_path / "fields.yaml")


@pytest.mark.parametrize("encoder_type", ["transformer", "resnet"])
def test_a_classifier_of_simmtm_reads_the_context_that_was_asked_for(tmp_path, encoder_type):
    config = SimMTMConfig(num_input_channels=2, hidden_size=8, num_attention_heads=2, encoder_type=encoder_type)
    SimMTMModel(config).save_pretrained(tmp_path)
    settings, data = resolve_typed(str(tmp_path), context_length=16), data_of(length=40)
    model = build_model(settings, data).eval()
    assert model.config.context_length == settings.to_dict()["data"]["context_length"] == 16
    values = data.datasets["train"][0]["past_values"].unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(model(values).logits, model(values[:, :16]).logits)
    assert build_model(resolve_typed(str(tmp_path)), data).config.context_length == 40


def test_only_the_embedding_of_all_patches_has_a_context(tmp_path):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "patch_length": 4, "patch_stride": 4}
    TimeDRLModel(TimeDRLConfig(num_input_channels=2, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match="context_length=16"):
        resolve_typed(str(tmp_path), context_length=16)
    model = build_model(resolve_typed(str(tmp_path), context_length=16, instance_embedding="all"), data_of(length=40))
    assert (model.config.context_length, model.config.embedding_size) == (16, 8 * 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            r"epoch_schedule='halving' sets .* so does lr_scheduler_type='linear' \(recipe finetuning/default\)\. "
            r"Give lr_scheduler_type=constant, or epoch_schedule=none\.",
        ),
        (
            {"lr_scheduler_type": "constant", "warmup_steps": 5},
            r"so does warmup_steps=5(\.0)? \(command",
        ),
        ({"lr_scheduler_type": "constant", "warmup_ratio": 0.2}, r"so does warmup_ratio=0.2 \(command line\)"),
        ({"epoch_schedule": "type9"}, r"epoch_schedule='type9' \(command line\): expected one of constant, halving"),
    ],
)
def test_two_schedules_and_unknown_ones_are_refused(fields, message):
    with pytest.raises(SettingsError, match=message):
        resolve_typed(**{"epoch_schedule": "halving", **fields})


def test_the_schedule_of_the_settings_is_the_trainers(tmp_path):
    from hf_tsrep.training.callbacks import EpochScheduleCallback

    def schedules(**fields):
        settings = resolve_typed(output_dir=str(tmp_path), validation="none", use_cpu=True, **fields)
        data = data_of(length=40)
        trainer = build_trainer(settings, training_arguments(settings), build_model(settings, data), data)
        return [one.schedule for one in trainer.callback_handler.callbacks if isinstance(one, EpochScheduleCallback)]

    assert schedules() == []
    assert schedules(epoch_schedule="late_decay", lr_scheduler_type="constant") == ["late_decay"]


FACTS = dict.fromkeys(shared_by_finetunings("ts2vec").facts, 1)


def record(folder, settings, **changes):
    written = {**settings.to_dict(), "facts": FACTS}
    for group, names in changes.items():
        for name in names:
            del written[group][name]
    (folder / "finetuning.json").write_text(json.dumps(written))


def resume(folder, settings):
    now = {**settings.to_dict(), "facts": FACTS}
    check_resume(folder / "finetuning.json", now, shared_by_finetunings(settings.method))


def test_a_resume_may_have_another_memory_and_no_other_settings(tmp_path):
    record(tmp_path, resolve_typed(mode="linear-probe", feature_memory=4))
    resume(tmp_path, resolve_typed(mode="linear-probe", feature_memory=0))
    with pytest.raises(ValueError, match=r"Cannot resume: label_fraction is 0.5, but .* began with 1.0"):
        resume(tmp_path, resolve_typed(mode="linear-probe", label_fraction=0.5))
    with pytest.raises(ValueError, match=r"Cannot resume: classifier_dropout is 0.5, but .* began with None"):
        resume(tmp_path, resolve_typed(mode="linear-probe", classifier_dropout=0.5))
    with pytest.raises(ValueError, match=r"Cannot resume: mode is 'full'"):
        resume(tmp_path, resolve_typed())


def test_an_older_record_means_the_defaults_of_the_fields_that_it_lacks(tmp_path):
    record(tmp_path, resolve_typed(), run=["epoch_schedule", "feature_memory"], data=["domain", "time_features"])
    resume(tmp_path, resolve_typed())
    with pytest.raises(ValueError, match=r"domain is 'har', but .* began with None"):
        resume(tmp_path, resolve_typed(domain="har"))


def test_a_field_of_the_model_that_is_new_is_no_default(tmp_path):
    record(tmp_path, resolve_typed("simmtm"))
    default = SimMTMConfig().dropout
    with pytest.raises(ValueError, match=r"dropout is .* began with None"):
        resume(tmp_path, resolve_typed("simmtm", dropout=default))
