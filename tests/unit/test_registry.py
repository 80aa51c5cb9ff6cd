"""The one list of methods, and the hint that names what was probably meant."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import hf_tsrep
from hf_tsrep import registry
from hf_tsrep.errors import SettingsError, near_matches


def test_methods_and_models_are_listed_by_pattern():
    assert "ts2vec" in hf_tsrep.list_methods()
    assert "TS2VecModel" in hf_tsrep.list_models("ts*")
    assert hf_tsrep.list_models("*ts2vecmodel") == ["TS2VecModel"]
    assert hf_tsrep.list_models("no-such*") == []
    for name in hf_tsrep.list_models():
        assert getattr(hf_tsrep, name).__name__ == name


def test_an_unknown_method_gets_its_near_match():
    with pytest.raises(ValueError, match="Did you mean 'ts2vec'"):
        hf_tsrep.get_method("ts2vc")


def test_every_public_name_resolves():
    for name in hf_tsrep.__all__:
        assert getattr(hf_tsrep, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        hf_tsrep.no_such  # noqa: B018


def test_rooms_are_attributes_and_the_auto_classes_of_transformers_know_the_methods():
    from transformers import AutoConfig, AutoModel

    for name in ("data", "evaluation", "hub", "modeling", "tokenization", "training"):
        assert name in dir(hf_tsrep)
        assert getattr(hf_tsrep, name).__name__ == f"hf_tsrep.{name}"
    assert AutoConfig.for_model("ts2vec").embedding_size == 320
    assert AutoModel._model_mapping[hf_tsrep.get_method("ts2vec").config_class].__name__ == "TS2VecModel"


def test_a_method_that_reads_tokens_has_a_tokenizer():
    import transformers

    assert hf_tsrep.get_method("ts2vec").tokenizer_class is None
    assert hf_tsrep.get_method("crosstimenet").tokenizer_class is hf_tsrep.CrossTimeNetTokenizer
    config = transformers.AutoConfig.for_model("crosstimenet_codec", domains=[])
    assert type(transformers.AutoModel.from_config(config)) is hf_tsrep.CrossTimeNetCodec


def test_our_auto_class_opens_the_classifier():
    config = hf_tsrep.TS2VecConfig(hidden_size=8, embedding_size=8, num_hidden_layers=2)
    model = hf_tsrep.AutoModelForTimeSeriesClassification.from_config(config)
    assert type(model) is hf_tsrep.TS2VecForTimeSeriesClassification


def test_the_stub_for_type_checkers_names_what_the_cards_name():
    root = Path(__file__).resolve().parents[2]
    specification = importlib.util.spec_from_file_location("write_stubs", root / "scripts/write_stubs.py")
    write_stubs = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(write_stubs)
    found = (root / "hf_tsrep/__init__.pyi").read_text(encoding="utf-8")
    assert found == write_stubs.stub_text(), "run `make stubs`"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("## Method\n", r"front matter of .*toy\.md lacks paper, tiny_config, title"),
        ("---\ntitle: Toy\n---\n", "lacks paper, tiny_config"),
        ("---\ntitle: [\n---\n", r"front matter of .*toy\.md is not YAML"),
        ("---\ntitle: Toy\npaper: {}\ntiny_config: {}\nbest_reslt: .9\n---\n", r"best_reslt.*best_result"),
    ],
)
def test_a_card_without_its_facts_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "toy.md").write_text(text)
    monkeypatch.setattr(registry, "card_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match=message):
        registry.read_card.__wrapped__("toy")


def test_a_name_that_is_nearly_public_is_told():
    with pytest.raises(AttributeError, match=r"no attribute .TS2VecModle.\. Did you mean .TS2VecModel."):
        hf_tsrep.TS2VecModle  # noqa: B018 - the look-up is what is tested


KNOWN = ("learning_rate", "learning_rate_decay", "Scaler")


def test_the_nearest_names_come_first_and_as_many_as_asked_for():
    assert near_matches("lerning_rate", KNOWN) == " Did you mean 'learning_rate' or 'learning_rate_decay'?"
    assert near_matches("lerning_rate", KNOWN, count=1) == " Did you mean 'learning_rate'?"


def test_capitals_make_no_difference_and_names_are_spelled_as_they_are():
    assert near_matches("SCALAR", KNOWN, spell="--{}".format) == " Did you mean --Scaler?"


def test_nothing_is_said_where_nothing_is_near():
    assert near_matches("unlike", KNOWN) == ""
    assert near_matches("scal", ["scaler"], cutoff=0.9) == ""


def test_a_wrong_setting_is_a_wrong_value():
    assert issubclass(SettingsError, ValueError)


ANSWERS = ("predict", "detect", "search", "cluster", "impute")


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_path_without_a_model_is_refused_by_every_answer_before_anything_is_asked_of_the_hub(
    answer, tmp_path, monkeypatch
):
    monkeypatch.setattr("socket.getaddrinfo", None)  # whoever looked for a host would fail by another error
    series = [np.zeros((9, 1))]
    arguments = (series, series) if answer == "search" else (series,)
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*rum\. Did you mean .*run"):
        getattr(hf_tsrep, answer)(str(tmp_path / "rum"), *arguments)
    (tmp_path / "run" / "checkpoint-4").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing.*--resume.*checkpoint-4"):
        getattr(hf_tsrep, answer)(str(tmp_path / "run"), *arguments)
    (tmp_path / "weights").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="weights is a file; a model is a folder"):
        getattr(hf_tsrep, answer)(str(tmp_path / "weights"), *arguments)


def test_a_method_without_a_tokenizer_says_so(tmp_path):
    from transformers import AutoTokenizer

    config = hf_tsrep.TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=4)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a TS2Vec model, which reads values and has no tokenizer"):
        AutoTokenizer.from_pretrained(tmp_path)
