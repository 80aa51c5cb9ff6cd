"""Settings: precedence, unknown fields, wrong types and ranges, what is documented, and the record."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field, NonNegativeInt
from transformers import SchedulerType, TrainingArguments

from hf_tsrep.cli.arguments import documented_fields
from hf_tsrep.training import SettingsError, arguments, pretrain, pretraining_fields, run
from hf_tsrep.training.resolve import resolve_settings
from hf_tsrep.training.settings import TRAINING_FIELDS, DataSettings, FileSettings, RunSettings
from hf_tsrep.training.settings_sources import coerce, describe_type
from hf_tsrep.training.stages import list_stages, training_arguments

BASE = {"method": "ts2vec", "corpus": "ett/ETTh1", "output_dir": "out"}


def written(tmp_path, **fields):
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_command_line_goes_before_file_before_recipe_before_defaults(tmp_path):
    path = written(tmp_path, learning_rate=0.02, hidden_size=32, weight_decay=0.5)
    settings = resolve_settings({**BASE, "learning-rate": "0.03", "seed": 7}, path)
    assert settings.training["learning_rate"] == 0.03
    assert settings.model["hidden_size"] == 32
    assert settings.training["weight_decay"] == 0.5
    assert settings.training["seed"] == 7
    assert settings.model["embedding_size"] == 320  # the recipe
    assert settings.data.time_features is True  # the recipe
    assert settings.data.target is None  # the default
    assert settings.sources["learning_rate"] == "command line"
    assert settings.sources["hidden_size"] == "file settings.yaml"
    assert settings.sources["embedding_size"] == "recipe ts2vec/ett"
    assert "target" not in settings.sources


def test_a_file_can_hold_everything_that_is_needed(tmp_path):
    settings = resolve_settings({}, written(tmp_path, **BASE, recipe="ucr"))
    assert (settings.method, settings.corpus, settings.recipe) == ("ts2vec", ("ett/ETTh1",), "ucr")
    assert settings.data.time_features is False


@pytest.mark.parametrize(
    ("field", "near"),
    [
        ("lerning_rate", "learning_rate"),
        ("hiden_size", "hidden_size"),
        ("scalar", "scaler"),
        ("max_step", "max_steps"),
    ],
)
def test_an_unknown_field_names_the_near_match_and_the_place(tmp_path, field, near):
    with pytest.raises(SettingsError, match=rf"{field}.*command line.*{near}"):
        resolve_settings({**BASE, field: 1})
    with pytest.raises(SettingsError, match=rf"{field}.*file settings.yaml.*{near}"):
        resolve_settings(BASE, written(tmp_path, **{field: 1}))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("max_steps", "many", "an integer"),
        ("max_steps", 1.5, "an integer"),
        ("max_steps", True, "an integer"),
        ("learning_rate", "fast", "a number"),
        ("bf16", "maybe", "true or false"),
        ("bf16", 1, "true or false"),
        ("hidden_size", [8], "an integer"),
        ("scaler", 3, "text, or none"),
        ("value_columns", 3, "a list, or none"),
        ("lr_scheduler_type", "cosin", "one of linear, cosine"),
    ],
)
def test_a_wrong_type_names_field_value_place_and_expected_type(field, value, expected):
    with pytest.raises(SettingsError) as caught:
        resolve_settings({**BASE, field: value})
    message = str(caught.value)
    assert field in message
    assert repr(value) in message
    assert "command line" in message
    assert expected in message


def test_text_from_a_command_line_becomes_what_it_says():
    settings = resolve_settings(
        {**BASE, "learning_rate": "1e-3", "bf16": "true", "max_steps": "12", "target": "OT,HUFL", "scaler": "none"}
    )
    assert settings.training["learning_rate"] == 0.001
    assert settings.training["bf16"] is True
    assert settings.training["max_steps"] == 12
    assert isinstance(settings.training["max_steps"], int)
    assert settings.data.scaler is None


def test_number_words_of_yaml_are_numbers():
    assert coerce("learning_rate", "1e-3", float, "file") == 0.001
    assert coerce("save_steps", 5, float, "file") == 5.0
    assert coerce("columns", "a, b", list[str] | None, "file") == ["a", "b"]
    assert coerce("target", ["a"], str | list[str] | None, "file") == ["a"]
    assert coerce("columns", ("a", "b"), list[str] | None, "file") == ["a", "b"]
    assert coerce("steps", "1e3", int, "file") == coerce("steps", 1000.0, int, "file") == 1000
    assert coerce("sizes", "1,2", list[int], "file") == coerce("sizes", ["1", "2"], list[int], "file") == [1, 2]
    assert coerce("kernel", '{"a": 1}', dict[str, int] | None, "file") == {"a": 1}
    assert coerce("kind", "COSINE", SchedulerType | str, "file") == coerce("kind", SchedulerType.COSINE, str, "file")
    assert coerce("name", "1", str | None, "file") == "1"
    assert coerce("folder", Path("a") / "b", str | None, "file") == str(Path("a") / "b")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Literal["a", "b"], "'a' or 'b'"),
        (Annotated[float, Field(gt=0, le=1)], "a number above 0 and at most 1"),
        (NonNegativeInt | None, "an integer at least 0, or none"),
        (str | list[str] | None, "text or a list, or none"),
        (dict[str, int], "a mapping"),
        (Path | None, "Path, or none"),
    ],
)
def test_a_type_is_described_in_words(annotation, words):
    assert describe_type(annotation) == words
    with pytest.raises(SettingsError, match=re.escape(f"x=[{{}}] (file): expected {words}.")):
        coerce("x", [{}], annotation, "file")


def test_what_the_corpus_says_cannot_be_set():
    with pytest.raises(
        SettingsError, match=r"num_input_channels \(command line\) cannot be set.*the corpus says how many"
    ):
        resolve_settings({**BASE, "num_input_channels": 3})


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("eval_strategy", "steps", "validation_loss"),
        ("load_best_model_at_end", True, "chooses nothing"),
        ("auto_find_batch_size", True, "negatives"),
        ("dataloader_persistent_workers", True, "first epoch"),
        ("remove_unused_columns", True, "columns"),
    ],
)
def test_what_the_loop_cannot_work_with_is_refused_where_the_arguments_are_built(tmp_path, field, value, reason):
    settings = resolve_settings({**BASE, "output_dir": str(tmp_path), field: value})
    with pytest.raises(SettingsError, match=rf"{field}={value!r} \(command line\).*{reason}"):
        training_arguments(settings)


def test_every_other_field_of_transformers_goes_through_under_its_own_name(tmp_path):
    given = {"gradient_accumulation_steps": "2", "torch_compile_mode": "default", "do_eval": "false", "use_cpu": True}
    arguments = training_arguments(resolve_settings({**BASE, "output_dir": str(tmp_path), **given}))
    assert (arguments.gradient_accumulation_steps, arguments.torch_compile_mode) == (2, "default")
    known = set(pretraining_fields("ts2vec"))
    offered = {one.name for one in dataclasses.fields(TrainingArguments) if one.init}
    assert offered - known == {"resume_from_checkpoint", "local_rank"}


def test_the_fields_that_are_documented_are_ours_and_the_handful_that_most_runs_set():
    documented = {name for name, one in pretraining_fields("ts2vec").items() if one.told.help}
    own = {one.name for owner in (DataSettings, RunSettings) for one in dataclasses.fields(owner)}
    assert documented == own | set(TRAINING_FIELDS)
    assert len(documented - {one.name for one in dataclasses.fields(FileSettings)}) < 35


@pytest.mark.parametrize("field", ["method", "corpus", "output_dir"])
def test_a_missing_field_that_a_run_needs_is_named(field):
    with pytest.raises(SettingsError, match=f"{field} is missing"):
        resolve_settings({name: value for name, value in BASE.items() if name != field})


def test_unknown_method_and_recipe_name_near_matches():
    with pytest.raises(ValueError, match="ts2vec"):
        resolve_settings({**BASE, "method": "ts2vecc"})
    with pytest.raises(ValueError, match="Did you mean 'ett'"):
        resolve_settings({**BASE, "recipe": "etth"})


def test_the_recipe_or_the_user_says_the_stage_and_both_must_agree():
    assert resolve_settings(BASE).stage == "model"
    assert list_stages("crosstimenet") == ["tokenizer", "model"]
    with pytest.raises(SettingsError, match=r"'ts2vec' has no stage 'modle'\. Did you mean 'model'\? Stages: model"):
        resolve_settings({**BASE, "stage": "modle"})
    with pytest.raises(SettingsError, match=r"Unknown field 'patch_length'"):
        resolve_settings({**BASE, "patch_length": 2})


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(SettingsError, match="list"):
        resolve_settings(BASE, path)
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        resolve_settings(BASE, tmp_path / "absent.yaml")


def test_the_budget_given_last_wins_over_the_recipe_or_file(tmp_path):
    path = written(tmp_path, max_steps=100)
    settings = resolve_settings({**BASE, "num_train_epochs": 2}, path)
    assert "max_steps" not in settings.training
    assert settings.training["num_train_epochs"] == 2.0


def test_the_record_holds_no_places_and_no_secrets(tmp_path):
    settings = resolve_settings(
        {**BASE, "corpus": str(tmp_path / "mine.csv"), "data_directory": str(tmp_path), "hub_token": "hf_secret"},
        written(tmp_path, seed=1),
    )
    text = str(settings.to_dict())
    assert str(tmp_path) not in text
    assert "hf_secret" not in text
    assert settings.to_dict()["corpus"] == ["mine.csv"]


def test_data_settings_are_arguments_of_load_corpus():
    import inspect

    from hf_tsrep.data import load_corpus
    from hf_tsrep.training.data import NOT_READING

    known = set(inspect.signature(load_corpus).parameters)
    assert {field.name for field in dataclasses.fields(DataSettings)} - set(NOT_READING) <= known


def test_a_run_that_is_to_be_pushed_needs_a_token_and_leaves_the_trainers_own_pushing_alone(tmp_path, monkeypatch):
    asked = {"push_to_hub": True, "hub_model_id": "me/model", "hub_private_repo": True}
    settings = resolve_settings({**BASE, "output_dir": str(tmp_path), **asked})
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(SettingsError, match="push_to_hub needs a token of the Hub: set HF_TOKEN"):
        training_arguments(settings)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_test")
    arguments = training_arguments(settings)
    assert (arguments.push_to_hub, arguments.hub_model_id) == (False, None)
    assert set(asked) <= documented_fields("pretraining").keys() & documented_fields("finetuning").keys()


def test_a_push_that_fails_says_how_to_push_later_and_raises_nothing(tmp_path, monkeypatch, caplog):
    sent = []
    monkeypatch.setattr(run, "push_to_hub", lambda *given, **named: sent.append((given, named)) or "url")
    settings = resolve_settings({**BASE, "output_dir": str(tmp_path / "model"), "hub_private_repo": True})
    assert run.push_finished(settings) == "url"
    assert sent == [((str(tmp_path / "model"), "model"), {"private": True})]

    def fail(*given, **named):
        raise ConnectionError("no way\nthere")

    monkeypatch.setattr(run, "push_to_hub", fail)
    assert run.push_finished(settings) is None
    assert (
        f"no way there). Push it later: hf-tsrep push --model {tmp_path / 'model'} --repo-id model --private"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("given", "found"), [("none", ["none"]), (None, []), (["none"], ["none"]), ("all", ["all"]), ("wandb", ["wandb"])]
)
def test_trackers_are_named_as_transformers_names_them(given, found, monkeypatch):
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: ["wandb"])
    settings = resolve_settings({**BASE, "report_to": given})
    assert arguments.find_trackers(settings.training["report_to"]) == found
    with pytest.raises(SettingsError, match=r"no 'wandbb'\. Did you mean 'wandb'"):
        arguments.find_trackers("wandbb")


def needs_a_library():
    raise RuntimeError("It requires a library.\nRun `pip install it`.")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_told_before_a_corpus_is_read(name, tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", list)
    if name == "wandb":
        monkeypatch.setitem(arguments.INTEGRATION_TO_CALLBACK, name, needs_a_library)
    with pytest.raises(SettingsError, match=rf"report_to='{name}' cannot work here: .*pip install") as told:
        pretrain("ts2vec", str(tmp_path / "absent.csv"), tmp_path / "out", report_to=name)
    assert len(str(told.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
