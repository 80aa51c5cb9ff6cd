"""`hf-tsrep encode` and `evaluate` with a model of several domains."""

import json

import numpy as np
import pytest
from domain_models import make_domain_model

from hf_tsrep.evaluation import read_results


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model of the domains "har" and "ecg", and copies of a corpus under two names."""
    generator = np.random.default_rng(0)
    for name, channels in (("ecg", 1), ("heart", 1), ("har", 3)):
        parts = {}
        for split, number in (("train", 12), ("test", 6)):
            classes = np.arange(number) % 2
            slopes = np.where(classes == 1, 2.0, -2.0)[:, None, None] * np.linspace(-1, 1, 18)[None, :, None]
            noise = 0.3 * generator.normal(size=(number, 18, channels))
            parts |= {f"x_{split}": (slopes + noise).astype(np.float32), f"y_{split}": classes}
        np.savez(tmp_path / f"{name}.npz", **parts)
    make_domain_model().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(command_line, *words):
    code, _, err = command_line("-q", *words)
    assert code != 0
    assert err.startswith("hf-tsrep: error: ")
    assert err.count("\n") == 1, err
    return err


def test_encode_takes_the_domain_by_the_corpus_s_name_or_as_told(place, command_line):
    words = ("encode", "--model", "model", "--output", "e.npz", "--input")
    for corpus, more in (("ecg.npz", ()), ("heart.npz", ("--domain", "ecg")), ("har.npz", ())):
        code, out, err = command_line(*words, corpus, *more)
        assert code == 0, err
        assert "18 embeddings of 16 numbers" in out
        stored = np.load("e.npz")
        raw = np.load(corpus)
        domain = "har" if corpus == "har.npz" else "ecg"
        series = np.concatenate([raw["x_train"], raw["x_test"]])
        expected = make_domain_model().encode(series, domain=domain)
        np.testing.assert_allclose(stored["embeddings"], expected, atol=1e-6)
        assert json.loads(str(stored["provenance"]))["domain"] == domain


def test_evaluate_takes_the_domain_by_the_corpus_s_name_or_as_told(place, command_line):
    words = ("evaluate", "--model", "model", "--protocol", "classification", "--classifiers", "nearest_neighbour")
    for corpus, more in (("ecg.npz", ()), ("heart.npz", ("--domain", "ecg"))):
        code, _, err = command_line(*words, "--corpus", corpus, *more)
        assert code == 0, err
    first, second = read_results("model/results.json")
    assert first.settings["domain"] == second.settings["domain"] == "ecg"


def test_a_missing_or_unknown_domain_ends_with_one_line_that_has_the_names(place, command_line):
    for words in (
        ("encode", "--model", "model", "--output", "e.npz", "--input", "heart.npz"),
        ("evaluate", "--model", "model", "--protocol", "clustering", "--corpus", "heart.npz"),
    ):
        assert "'har' or 'ecg'" in refused(command_line, *words)
        assert "Unknown domain 'egc'. Did you mean 'ecg'? Domains: har, ecg." in refused(
            command_line, *words, "--domain", "egc"
        )
    assert not (place / "e.npz").exists()


def test_a_model_without_domains_refuses_one(place, command_line):
    from hf_tsrep import TS2VecConfig, TS2VecModel

    TS2VecModel(TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1)).save_pretrained("plain")
    words = ("encode", "--model", "plain", "--output", "e.npz", "--input", "ecg.npz", "--domain", "ecg")
    assert "ts2vec has no domains" in refused(command_line, *words)


def test_a_fine_tuned_model_still_reads_its_other_domain(place, command_line):
    words = ("finetune", "--model", "model", "--corpus", "ecg.npz", "--output-dir", "tuned", "--num-train-epochs", "1")
    code, _, err = command_line(*words, "--use-cpu")
    assert code == 0, err
    code, out, err = command_line("encode", "--model", "tuned", "--output", "e.npz", "--input", "har.npz")
    assert code == 0, err
    assert "18 embeddings of 16 numbers" in out


@pytest.mark.parametrize("command", ["encode", "evaluate"])
def test_help_has_the_option(command, command_line):
    _, out, _ = command_line(command, "--help")
    assert "--domain" in out
