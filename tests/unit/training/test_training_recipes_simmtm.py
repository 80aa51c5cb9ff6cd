"""SimMTM's recipes: every one makes a model, and the published ones are found by their corpus."""

import pytest

from hf_tsrep import SimMTMConfig
from hf_tsrep.training import list_recipes, recipe_for_corpus, resolve_finetuning, resolve_settings


@pytest.mark.parametrize("recipe", list_recipes("simmtm"))
def test_every_recipe_makes_a_config(recipe):
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
def test_a_corpus_finds_its_recipe(corpus, recipe):
    assert recipe_for_corpus("simmtm", corpus) == recipe


def test_published_sizes_of_etth1():
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
def test_the_task_finds_the_finetuning_recipe(task, of_the_head):
    given = {"model": "simmtm", "corpus": "x", "output_dir": "y", "task": task}
    settings = resolve_finetuning(given)
    assert settings.recipe == f"simmtm-{task}"
    assert settings.training["learning_rate"] == 0.0001
    assert resolve_finetuning({**given, "mode": "linear-probe"}).recipe == of_the_head
