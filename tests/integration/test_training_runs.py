"""Whole pre-trainings: the model folder, killed and resumed runs, and two processes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import assert_close_files, assert_close_losses, assert_equal_files, losses, start

from hf_tsrep.training import SettingsError, pretrain

TINY = {"hidden_size": 8, "embedding_size": 12, "num_hidden_layers": 4, "disable_tqdm": True, "use_cpu": True}
TERMS = ("loss", "grad_norm", "instance_loss", "temporal_loss", "effective_rank")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """21 series of two channels, of unequal lengths and with missing values, as a CSV."""
    generator = np.random.default_rng(0)
    lines = ["item,date,first,second"]
    for item in range(21):
        length = 36 if item == 0 else int(generator.integers(24, 36))
        values = np.cumsum(generator.normal(size=(length, 2)), axis=0)
        for step, (first, second) in enumerate(values):
            missing = item % 4 == 1 and step in (5, 6)
            date = np.datetime64("2024-01-01T00:00") + np.timedelta64(step, "h")
            lines.append(f"item_{item},{date},{'' if missing else f'{first:.4f}'},{second:.4f}")
    path = tmp_path_factory.mktemp("corpus") / "series.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def given_for(corpus, output_dir, **fields):
    common = {"method": "ts2vec", "corpus": corpus, "output_dir": str(output_dir), "item_column": "item", **TINY}
    return {**common, **fields}


def test_killed_and_resumed_gives_the_same_bits(corpus, interpreters, tmp_path):
    """5 steps an epoch: checkpoints 8 and 16 are inside an epoch that is not the first, checkpoint 20 is at an end.

    Killed after step 10, while checkpoint 20 was written, and after step 22. Windows of long series are random too,
    because of max_train_length.
    """
    fields = {
        "max_steps": 24,
        "save_steps": 4,
        "logging_steps": 3,
        "per_device_train_batch_size": 4,
        "max_train_length": 30,
    }
    whole = given_for(corpus, tmp_path / "whole", **fields)
    killed = given_for(corpus, tmp_path / "killed", **fields)
    assert start(interpreters, whole) == 0
    assert start(interpreters, killed, "on_step_end", 10) == -9
    killed["resume_from_checkpoint"] = True
    assert start(interpreters, killed, "save_checkpoint", 20) == -9
    assert not (tmp_path / "killed" / "checkpoint-20" / "trainer_state.json").exists()
    assert start(interpreters, killed, "on_step_end", 22) == -9
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert start(interpreters, killed) == 0

    expected = losses(tmp_path / "whole", TERMS)
    assert [entry["step"] for entry in expected] == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20, 21, 24]
    assert losses(tmp_path / "killed", TERMS) == expected
    for name in ("model.safetensors", "checkpoint-24/model.safetensors", "checkpoint-24/averaged.safetensors"):
        assert_equal_files(tmp_path / "killed" / name, tmp_path / "whole" / name)
    averaged = load_file(tmp_path / "whole" / "checkpoint-24" / "averaged.safetensors")
    final = load_file(tmp_path / "whole" / "model.safetensors")
    raw = load_file(tmp_path / "whole" / "checkpoint-24" / "model.safetensors")
    assert all(torch.equal(final[name], averaged[name]) for name in final)
    assert not any(torch.equal(final[name], raw[name]) for name in final)


@pytest.mark.slow
def test_two_processes_are_one_process_on_the_global_batch(corpus, interpreters, tmp_path):
    """The windows of series longer than max_train_length are random, and the same on both processes."""
    fields = {
        "max_steps": 6,
        "max_train_length": 30,
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dropout": 0.0,
        "learning_rate": 0.003,
        "monitor_collapse": False,
    }
    one = given_for(corpus, tmp_path / "one", per_device_train_batch_size=4, **fields)
    two = given_for(corpus, tmp_path / "two", per_device_train_batch_size=2, **fields)
    del two["use_cpu"]  # without a GPU the processes train on CPUs, together, though nobody says so
    assert start(interpreters, one) == 0
    assert start(interpreters, two, num_processes=2) == 0
    facts = [json.loads((tmp_path / name / "pretraining.json").read_text())["facts"] for name in ("one", "two")]
    assert [one["num_processes"] for one in facts] == [1, 2]

    assert assert_close_losses(tmp_path / "one", tmp_path / "two", TERMS[:4], tolerance=1e-5) == 6
    assert_close_files(*(tmp_path / name / "model.safetensors" for name in ("one", "two")), tolerance=1e-5)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    fields = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "save_total_limit": 1}
    return pretrain(**given_for(corpus, folder, **fields))


def test_the_folder_is_a_complete_model(trained):
    from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

    folder = trained.output_dir
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "modeling_ts2vec.py", "preprocessor_config.json"} <= names
    assert {"README.md", "training_log.json", "pretraining.json", "checkpoint-4"} <= names
    assert not any(name.startswith(".") for name in names)
    assert "checkpoint-2" not in names
    series = np.random.default_rng(1).normal(size=(3, 20, 2)).astype(np.float32)
    expected = trained.model.encode(series)
    for auto_class in (AutoModel, AutoModelForPreTraining):
        model, info = auto_class.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        np.testing.assert_array_equal(model.encode(series), expected)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert (extractor.num_channels, extractor.channel_names) == (2, ["first", "second"])
    assert extractor.scale is not None
    card = (folder / "README.md").read_text()
    assert "series" in card
    assert str(folder.parent) not in card
    assert str(folder.parent) not in (folder / "pretraining.json").read_text()


def test_the_result_tells_what_was_logged(trained):
    assert trained.metrics["num_steps"] == 4
    assert {"loss", "instance_loss", "temporal_loss", "effective_rank", "embedding_std_min"} <= set(trained.metrics)
    assert [entry["step"] for entry in trained.history if "loss" in entry] == [1, 2, 3, 4]
    log = json.loads((trained.output_dir / "training_log.json").read_text())
    assert log["history"] == trained.history


def test_a_finished_folder_is_not_trained_into_again(trained, corpus):
    with pytest.raises(FileExistsError, match="finished model"):
        pretrain(**given_for(corpus, trained.output_dir, max_steps=4))


def test_a_finished_run_can_be_continued_and_another_cannot_take_its_place(trained, corpus):
    fields = {"save_steps": 2, "logging_steps": 1, "save_total_limit": 1, "resume_from_checkpoint": True}
    with pytest.raises(ValueError, match=r"Cannot resume: hidden_size is 16, but .* began with 8"):
        pretrain(**given_for(corpus, trained.output_dir, max_steps=6, **{**fields, "hidden_size": 16}))
    for changed, message in (
        ({"learning_rate": 0.5}, r"learning_rate is 0\.5"),
        ({"weight_averaging": False}, "weight_averaging is False"),
        ({"lr_scheduler_type": "linear"}, "lr_scheduler_type is 'linear'"),
    ):
        with pytest.raises(ValueError, match=f"Cannot resume: {message}"):
            pretrain(**given_for(corpus, trained.output_dir, max_steps=6, **{**fields, **changed}))
    longer = pretrain(**given_for(corpus, trained.output_dir, max_steps=6, **fields))
    assert [entry["step"] for entry in longer.history if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert longer.history[:4] == trained.history[:4]


def test_corpora_are_joined_where_their_channels_agree(corpus, tmp_path):
    dates = [f"2024-01-{day:02d}" for day in range(1, 29)]
    (tmp_path / "one.csv").write_text("date,a\n" + "\n".join(f"{date},{date[-2:]}" for date in dates) + "\n")
    (tmp_path / "two.csv").write_text("date,a,b\n" + "\n".join(f"{date},{date[-2:]},1" for date in dates) + "\n")
    unequal = given_for([str(tmp_path / "two.csv"), str(tmp_path / "one.csv")], tmp_path / "out", item_column=None)
    with pytest.raises(ValueError, match=r"one\.csv has 1 channels, but two\.csv has 2"):
        pretrain(**unequal)
    result = pretrain(**given_for([corpus, corpus], tmp_path / "out", max_steps=1, save_strategy="no"))
    facts = json.loads((result.output_dir / "pretraining.json").read_text())["facts"]
    assert facts["num_series"] == 42
    assert facts["per_device_train_batch_size"] == 8


def test_the_published_budget_and_batch_follow_the_corpus(tmp_path):
    from datasets import Array2D, Dataset, DatasetDict, Features, Value

    from hf_tsrep.training.resolve import resolve_settings
    from hf_tsrep.training.stages import choose_budget, fit_batch, training_arguments

    features = Features({"series": Array2D((None, 1), "float32"), "item_id": Value("string")})
    rows = {"series": [np.ones((20, 1), np.float32) * np.arange(20)[:, None]] * 3, "item_id": ["a", "b", "c"]}
    given = DatasetDict(train=Dataset.from_dict(rows, features=features))
    base = {"method": "ts2vec", "corpus": given, "output_dir": str(tmp_path / "out"), **TINY}
    result = pretrain(**base, max_steps=1, save_strategy="no")
    facts = json.loads((result.output_dir / "pretraining.json").read_text())["facts"]
    assert (facts["per_device_train_batch_size"], facts["max_steps"], facts["num_elements"]) == (3, 1, 60)

    settings = resolve_settings({**base, "corpus": "ett/ETTh1"})
    for num_elements, expected in ((100_000, 200), (100_001, 600)):
        arguments = training_arguments(settings)
        choose_budget(arguments, settings, num_elements)
        assert arguments.max_steps == expected
    with pytest.raises(SettingsError, match="cannot feed"):
        fit_batch(arguments, 0)


def test_an_unknown_field_of_pretrain_names_the_near_match(corpus, tmp_path):
    with pytest.raises(SettingsError, match=r"'learning_rat' \(arguments\).*'learning_rate'"):
        pretrain("ts2vec", corpus, tmp_path, learning_rat=0.1)
