"""Known names without their folder, or in other upper and lower case."""

import numpy as np
import pytest

from hf_tsrep.data import CorpusError, corpus_metadata, load_corpus
from hf_tsrep.data.known_corpora import complete_name


@pytest.fixture
def directory(tmp_path):
    """Two sensor corpora and two problems of one name in two archives."""
    (tmp_path / "sensor").mkdir()
    for name in ("HAR", "Epilepsy_TSTCC", "Gesture"):
        np.savez(tmp_path / "sensor" / f"{name}.npz", x_train=np.zeros((2, 8, 1), np.float32), y_train=np.arange(2))
    for family in ("ucr", "uea"):
        (tmp_path / family / "Twice").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("har", "sensor/HAR"),
        ("SENSOR/har", "sensor/HAR"),
        ("gesture", "sensor/Gesture"),
        ("epilepsy", "sensor/Epilepsy_TSTCC"),
        ("Epilepsy", "sensor/Epilepsy_TSTCC"),
    ],
)
def test_a_unique_name_needs_no_folder_and_no_case(directory, written, meant):
    corpus = load_corpus(written, data_directory=directory)
    assert corpus_metadata(corpus).name == meant


def test_a_name_that_two_corpora_have_is_none():
    names = ["ucr/Twice", "uea/Twice", "uea/Once"]
    assert complete_name("twice", names) is None
    assert complete_name("UEA/twice", names) == "uea/Twice"
    assert complete_name("once", names) == "uea/Once"
    assert complete_name("ucr/once", names) is None


def test_a_slip_gives_the_near_match_without_the_network(directory, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("hf_tsrep.data.loading.load_hub_layout", refuse)
    with pytest.raises(CorpusError, match=r"Unknown corpus 'gestur'\. Did you mean 'sensor/Gesture'"):
        load_corpus("gestur", data_directory=directory)


def test_a_name_of_two_corpora_gives_both(directory):
    with pytest.raises(CorpusError, match="Did you mean 'ucr/Twice' or 'uea/Twice'"):
        load_corpus("twice", data_directory=directory)


def test_an_exact_name_goes_before_another_of_other_case(tmp_path):
    (tmp_path / "sensor").mkdir()
    for name, value in (("One", 1.0), ("ONE", 2.0)):
        np.savez(tmp_path / "sensor" / f"{name}.npz", x_train=np.full((1, 3, 1), value), y_train=np.zeros(1))
    corpus = load_corpus("sensor/ONE", data_directory=tmp_path)
    assert corpus["train"][0]["series"][0][0] == 2.0
