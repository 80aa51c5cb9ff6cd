"""Recipes: every one resolves and has its sources, and is found by method, mode or task, and corpus."""

import re

import pytest
import torch

from hf_tsrep import SimMTMConfig
from hf_tsrep.registry import METHODS
from hf_tsrep.training import (
    finetuning_fields,
    list_recipes,
    load_recipe,
    pretraining_fields,
    recipe_for_corpus,
    resolve_finetuning,
    resolve_settings,
)
from hf_tsrep.training.recipe_files import recipe_files, recipe_for
from hf_tsrep.training.stages import get_stage

BASE = {"method": "ts2vec", "corpus": "ett/ETTh1", "output_dir": "out"}
PRETRAINING = [(method, recipe) for method in METHODS for recipe in list_recipes(method)]
FINETUNING = list_recipes("finetuning")
OF_TIMEDRL = [name for name in list_recipes("timedrl") if name != "default"]


def resolve(method, corpus="x", **fields):
    return resolve_finetuning({"model": method, "corpus": corpus, "output_dir": "y", **fields})


@pytest.mark.parametrize("name", FINETUNING)
def test_every_recipe_of_a_finetuning_resolves_and_has_the_source_of_every_value(name):
    method = name.partition("-")[0]
    method = method if method in METHODS else "ts2vec"
    settings = resolve(method, recipe=name)
    assert set(load_recipe("finetuning", name)) <= set(finetuning_fields(method))
    METHODS[method].config_class(**settings.config)
    text = recipe_files("finetuning")[name].read_text()
    for line in text.splitlines():
        assert not line.strip() or line.startswith("#") or re.search(r"# Source: \S", line), line


def test_a_recipe_of_one_method_lies_in_the_folder_of_that_method():
    for name, file in recipe_files("finetuning").items():
        method = next((one for one in METHODS if name == one or name.startswith(f"{one}-")), None)
        assert str(file).endswith(f"{method}/finetuning/{file.name}" if method else f"recipes/finetuning/{file.name}")


@pytest.mark.parametrize(
    ("method", "mode", "task", "corpus", "recipe"),
    [
        ("timedrl", "linear-probe", "forecasting", "ett/ETTh1", "timedrl-linear-probe-etth1"),
        ("timedrl", "linear-probe", "classification", "epilepsy", "timedrl-linear-probe-epilepsy_tstcc"),
        ("timedrl", "linear-probe", "classification", "sensor/WISDM_partial", "timedrl-linear-probe-wisdm"),
        ("timedrl", "linear-probe", "forecasting", "ett/ETTm2", "timedrl-linear-probe-forecasting"),
        ("timedrl", "linear-probe", "forecasting", "owner/etth1", "timedrl-linear-probe-forecasting"),
        ("timedrl", "linear-probe", "classification", "uea/NATOPS", "linear-probe"),
        ("timedrl", "full", "forecasting", "ett/ETTh1", "default"),
        ("ts2vec", "linear-probe", "forecasting", "ett/ETTh1", "linear-probe"),
        ("simmtm", None, "forecasting", "ett/ETTh2", "simmtm-forecasting-etth2"),
        ("simmtm", "lora", "forecasting", "ett/ETTh2", "simmtm-forecasting-etth2"),
        ("simmtm", "linear-probe", "forecasting", "ett/ETTh2", "simmtm-linear-probe-forecasting"),
        ("simmtm", "linear-probe", "classification", "uea/NATOPS", "simmtm-linear-probe"),
        ("simmtm", None, "forecasting", "mine.csv", "simmtm-forecasting"),
        ("simmtm", None, "classification", "ett/ETTh2", "simmtm-classification"),
        ("simmtm", None, "forecasting", None, "simmtm-forecasting"),
    ],
)
def test_the_corpus_chooses_among_the_recipes_of_a_mode_or_task(method, mode, task, corpus, recipe):
    assert recipe_for(method, mode, task, corpus) == recipe


def test_a_corpus_without_its_folder_finds_its_recipe_too(tmp_path):
    (tmp_path / "forecasting").mkdir()
    (tmp_path / "forecasting" / "ETTm1.csv").touch()
    settings = resolve("simmtm", "ettm1", task="forecasting", data_directory=str(tmp_path))
    assert settings.recipe == "simmtm-forecasting-ettm1"


def test_a_head_that_reads_thousands_of_values_learns_slowly():
    """Adam changes every weight by the learning rate, so that an output changes by as much for each value it reads."""
    for method in ("ts2vec", "timedrl", "simmtm"):
        config_class = METHODS[method].config_class
        context = {"context_length": 336} if "context_length" in config_class.field_names() else {}
        config = config_class(num_input_channels=7, prediction_length=96, **context)
        head = METHODS[method].prediction_class(config).head
        num_inputs = max(one.in_features for one in head.modules() if isinstance(one, torch.nn.Linear))
        rate = resolve(method, task="forecasting", mode="linear-probe").training["learning_rate"]
        assert rate * num_inputs < 10, (method, rate, num_inputs)


@pytest.mark.parametrize("name", OF_TIMEDRL)
def test_the_head_of_timedrl_learns_at_ten_times_the_rate_of_the_pretraining(name):
    pretraining, probe = load_recipe("timedrl", name), load_recipe("finetuning", f"timedrl-linear-probe-{name}")
    assert probe["learning_rate"] == pytest.approx(10 * pretraining["learning_rate"], rel=1e-12)
    is_forecasting = pretraining["max_train_length"] is not None
    assert probe.get("context_length") == pretraining["max_train_length"]
    assert (probe["num_train_epochs"], probe["per_device_train_batch_size"]) == (30, 32)
    assert probe["early_stopping_patience"] == (5 if is_forecasting else 10)


def test_the_recipe_of_timedrl_on_etth1_holds_the_published_values():
    settings = resolve("timedrl", "ett/ETTh1", task="forecasting", mode="linear-probe")
    assert settings.training["learning_rate"] == pytest.approx(2.135e-4, rel=1e-3)
    assert settings.training["weight_decay"] == pytest.approx(1.64e-5, rel=1e-2)
    assert (settings.run.epoch_schedule, settings.training["lr_scheduler_type"]) == ("warmup_decay", "constant")
    assert (settings.data.context_length, settings.run.decay_all_parameters) == (512, True)
    assert resolve("timedrl", recipe="timedrl-linear-probe-etth1").run.mode == "linear-probe"


@pytest.mark.parametrize(
    ("corpus", "values"),
    [
        ("ett/ETTh1", (0.2, 0.1, 16)),
        ("ett/ETTh2", (0.4, 0.2, 16)),
        ("ett/ETTm1", (0.0, 0.1, 32)),
        ("ett/ETTm2", (0.0, 0.1, 64)),
        ("forecasting/weather", (0.1, 0.1, 16)),
        ("forecasting/electricity", (0.1, 0.1, 32)),
        ("forecasting/traffic", (0.2, 0.1, 32)),
    ],
)
def test_the_recipes_of_simmtm_hold_the_published_values(corpus, values):
    settings = resolve("simmtm", corpus, task="forecasting")
    found = (settings.config["dropout"], settings.config["head_dropout"])
    assert (*found, settings.training["per_device_train_batch_size"]) == values
    assert (settings.run.epoch_schedule, settings.run.early_stopping_patience) == ("halving", 3)
    assert (settings.training["num_train_epochs"], settings.data.context_length) == (10, 336)


def test_a_corpus_without_its_folder_gets_the_recipe_of_its_family(tmp_path):
    (tmp_path / "ucr" / "GunPoint").mkdir(parents=True)
    settings = resolve_settings({**BASE, "corpus": "gunpoint", "data_directory": str(tmp_path)})
    assert settings.recipe == "ucr"


@pytest.mark.parametrize(
    ("corpus", "recipe"),
    [
        ("ett/ETTh1", "ett"),
        ("ucr/GunPoint", "ucr"),
        ("uea/Libras", "uea"),
        ("anomaly/NAB/x", "anomaly"),
        ("mine.csv", "default"),
        ("owner/name", "default"),
        (None, "default"),
        ("ett", "default"),
    ],
)
def test_the_family_of_a_corpus_chooses_the_recipe(corpus, recipe):
    assert recipe_for_corpus("ts2vec", corpus) == recipe


@pytest.mark.parametrize(
    ("corpus", "recipe"),
    [
        ("ett/ETTh1", "etth1"),
        ("har", "har"),
        ("epilepsy", "epilepsy_tstcc"),
        ("uea/Epilepsy", "default"),
        ("sensor/WISDM", "wisdm"),
        ("sensor/WISDM_partial", "wisdm"),
        ("owner/etth1", "default"),
        (None, "default"),
    ],
)
def test_a_recipe_of_the_corpus_goes_before_that_of_its_family(corpus, recipe):
    assert recipe_for_corpus("timedrl", corpus) == recipe


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_has_its_default_recipe(method):
    assert recipe_for_corpus(method, None) in list_recipes(method)


@pytest.mark.parametrize(("method", "recipe"), PRETRAINING)
def test_every_field_of_a_recipe_of_a_pretraining_is_valid(method, recipe):
    settings = resolve_settings({"method": method, "corpus": "x", "output_dir": "y", "recipe": recipe})
    assert set(load_recipe(method, recipe)) <= set(pretraining_fields(method, settings.stage))
    owner, left_out = get_stage(method, settings.stage).model_fields(method)
    assert not set(settings.model) & left_out
    needed = {"name": "x", "num_input_channels": 1, "patch_length": 2} if settings.stage == "tokenizer" else {}
    owner(**needed, **settings.model)


@pytest.mark.parametrize(("method", "recipe"), PRETRAINING)
def test_every_value_of_a_recipe_has_its_source(method, recipe):
    text = recipe_files(method)[recipe].read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.search(r"# Source: \S", line), line


def test_the_ett_recipe_is_the_published_one():
    settings = resolve_settings(BASE)
    training = settings.training
    assert (training["learning_rate"], training["weight_decay"]) == (0.001, 0.01)
    assert (training["lr_scheduler_type"], training["max_grad_norm"]) == ("constant", 0.0)
    assert (training["per_device_train_batch_size"], training["seed"]) == (8, 42)
    assert training["dataloader_drop_last"] is True
    assert (settings.model["embedding_size"], settings.data.max_train_length) == (320, 3000)
    rule = settings.run.published_steps
    assert rule == {"small_corpus_elements": 100000, "small_corpus_steps": 200, "steps": 600}
    assert "max_steps" not in training


@pytest.mark.parametrize("recipe", list_recipes("simmtm"))
def test_every_recipe_of_simmtm_reads_windows_of_its_context(recipe):
    settings = resolve_settings({"method": "simmtm", "corpus": "x", "output_dir": "y", "recipe": recipe})
    config = SimMTMConfig(**settings.model)
    assert settings.data.max_train_length == config.context_length
    assert (settings.data.window_stride == 1) == (config.encoder_type == "transformer")


@pytest.mark.parametrize(
    ("corpus", "recipe"),
    [
        ("ett/ETTh1", "etth1"),
        ("ett/ETTm1", "ettm1"),
        ("sensor/Epilepsy_TFC", "epilepsy_tfc"),
        ("har", "har"),
        ("sensor/WISDM", "wisdm_partial"),
        ("sensor/WISDM_partial", "wisdm_partial"),
        ("uea/NATOPS", "uea"),
        ("owner/anything", "default"),
    ],
)
def test_a_corpus_finds_its_recipe_of_simmtm(corpus, recipe):
    assert recipe_for_corpus("simmtm", corpus) == recipe


def test_the_recipe_of_simmtm_on_etth1_holds_the_published_sizes():
    settings = resolve_settings({"method": "simmtm", "corpus": "ett/ETTh1", "output_dir": "y"})
    config = SimMTMConfig(**settings.model)
    sizes = (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads)
    assert sizes == (3, 32, 64, 16)
    assert settings.training["learning_rate"] == 0.001
    assert settings.training["per_device_train_batch_size"] == 16


@pytest.mark.parametrize(
    ("task", "of_the_head"),
    [("forecasting", "simmtm-linear-probe-forecasting"), ("classification", "simmtm-linear-probe")],
)
def test_the_task_finds_the_recipe_of_a_finetuning_with_simmtm(task, of_the_head):
    given = {"model": "simmtm", "corpus": "x", "output_dir": "y", "task": task}
    settings = resolve_finetuning(given)
    assert settings.recipe == f"simmtm-{task}"
    assert settings.training["learning_rate"] == 0.0001
    assert resolve_finetuning({**given, "mode": "linear-probe"}).recipe == of_the_head
