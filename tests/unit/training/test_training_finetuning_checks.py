"""What a fine-tuning refuses: fields of another task or mode, two schedules at once, a resume that is another run."""

import json

import pytest
import torch

from hf_tsrep import SimMTMConfig, SimMTMModel, TimeDRLConfig, TimeDRLModel
from hf_tsrep.data.corpus import CorpusMetadata
from hf_tsrep.training import SettingsError, resolve_finetuning
from hf_tsrep.training.data import TensorRows
from hf_tsrep.training.finetuning import build_trainer, shared_by_finetunings, training_arguments
from hf_tsrep.training.finetuning_data import FinetuningData
from hf_tsrep.training.finetuning_model import build_model
from hf_tsrep.training.run import check_resume


def resolve(model="ts2vec", **fields):
    return resolve_finetuning({"model": model, "corpus": "c", "output_dir": "o", **fields})


def data_of(length=40, num_channels=2):
    metadata = CorpusMetadata("c", channel_names=tuple("ab"))
    rows = TensorRows({"past_values": torch.randn(4, length, num_channels), "labels": torch.zeros(4).long()})
    return FinetuningData(None, metadata, {"train": rows}, ["a", "b", "c"])


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
        resolve(**fields)


def test_a_recipe_may_carry_fields_of_another_task_or_mode():
    assert resolve("simmtm", recipe="simmtm-forecasting", mode="linear-probe").data.context_length == 336
    assert resolve("ts2vec", recipe="default", mode="linear-probe").run.backbone_learning_rate_factor == 1.0


def test_a_file_is_asked_for_like_the_command_line(tmp_path):
    (tmp_path / "fields.yaml").write_text("stride: 4\n")
    given = {"model": "ts2vec", "corpus": "c", "output_dir": "o"}
    with pytest.raises(SettingsError, match=r"stride=4 \(file fields.yaml\)"):
        resolve_finetuning(given, tmp_path / "fields.yaml")


@pytest.mark.parametrize("encoder_type", ["transformer", "resnet"])
def test_a_classifier_of_simmtm_reads_the_context_that_was_asked_for(tmp_path, encoder_type):
    config = SimMTMConfig(num_input_channels=2, hidden_size=8, num_attention_heads=2, encoder_type=encoder_type)
    SimMTMModel(config).save_pretrained(tmp_path)
    settings, data = resolve(str(tmp_path), context_length=16), data_of()
    model = build_model(settings, data).eval()
    assert model.config.context_length == settings.to_dict()["data"]["context_length"] == 16
    values = data.datasets["train"][0]["past_values"].unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(model(values).logits, model(values[:, :16]).logits)
    assert build_model(resolve(str(tmp_path)), data).config.context_length == 40


def test_only_the_embedding_of_all_patches_has_a_context(tmp_path):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "patch_length": 4, "patch_stride": 4}
    TimeDRLModel(TimeDRLConfig(num_input_channels=2, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match="context_length=16"):
        resolve(str(tmp_path), context_length=16)
    model = build_model(resolve(str(tmp_path), context_length=16, instance_embedding="all"), data_of())
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
        resolve(**{"epoch_schedule": "halving", **fields})


def test_the_schedule_of_the_settings_is_the_trainers(tmp_path):
    from hf_tsrep.training.callbacks import EpochScheduleCallback

    def schedules(**fields):
        settings = resolve(output_dir=str(tmp_path), validation="none", use_cpu=True, **fields)
        data = data_of()
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
    record(tmp_path, resolve(mode="linear-probe", feature_memory=4))
    resume(tmp_path, resolve(mode="linear-probe", feature_memory=0))
    with pytest.raises(ValueError, match=r"Cannot resume: label_fraction is 0.5, but .* began with 1.0"):
        resume(tmp_path, resolve(mode="linear-probe", label_fraction=0.5))
    with pytest.raises(ValueError, match=r"Cannot resume: classifier_dropout is 0.5, but .* began with None"):
        resume(tmp_path, resolve(mode="linear-probe", classifier_dropout=0.5))
    with pytest.raises(ValueError, match=r"Cannot resume: mode is 'full'"):
        resume(tmp_path, resolve())


def test_an_older_record_means_the_defaults_of_the_fields_that_it_lacks(tmp_path):
    record(tmp_path, resolve(), run=["epoch_schedule", "feature_memory"], data=["domain", "time_features"])
    resume(tmp_path, resolve())
    with pytest.raises(ValueError, match=r"domain is 'har', but .* began with None"):
        resume(tmp_path, resolve(domain="har"))


def test_a_field_of_the_model_that_is_new_is_no_default(tmp_path):
    record(tmp_path, resolve("simmtm"))
    default = SimMTMConfig().dropout
    with pytest.raises(ValueError, match=r"dropout is .* began with None"):
        resume(tmp_path, resolve("simmtm", dropout=default))
