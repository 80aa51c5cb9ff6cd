"""`hf-tsrep card check`: what is wrong with a card, without the Hub."""

import json

import pytest
from huggingface_hub import ModelCard

import hf_tsrep
from hf_tsrep.data import CorpusMetadata
from hf_tsrep.hub import build_model_card
from hf_tsrep.hub.card_checks import licence_note
from hf_tsrep.hub.card_parts import licence_of_weights

RESULT = {
    "protocol": "forecasting",
    "method": "ts2vec",
    "corpus": "ett/ETTh1",
    "corpus_fingerprint": "ab" * 32,
    "seed": 0,
    "metrics": {"mse_24": 0.5, "mae_24": 0.4},
    "settings": {"setting": "multivariate"},
}


@pytest.fixture
def folder(tmp_path):
    config = hf_tsrep.TS2VecConfig(num_input_channels=3, hidden_size=4, embedding_size=4, num_hidden_layers=1)
    hf_tsrep.TS2VecModel(config).save_pretrained(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"format": 1, "results": [RESULT]}))
    metadata = CorpusMetadata(
        name="ett/ETTh1", task="forecasting", channel_names=("a", "b", "c"), freq="h", licence="cc-by-nd-4.0"
    )
    build_model_card(tmp_path, corpus_metadata=metadata).save(tmp_path / "README.md")
    return tmp_path


def test_a_card_of_ours_can_be_published_and_says_what_is_to_be_decided(folder, command_line):
    code, out, err = command_line("card", "check", folder)
    assert code == 0, err
    assert "the card can be published" in out
    told = (
        "the licence of the weights is unknown, and that of the corpus is cc-by-nd-4.0, which forbids derived works:"
    )
    assert out.count(told) == 1
    assert "The licence of these weights is unknown" in (folder / "README.md").read_text()
    assert "a push fills its id in" in out
    entries = ModelCard.load(folder / "README.md").data.eval_results
    assert [(one.metric_type, one.metric_name) for one in entries] == [("mse", "mse_24"), ("mae", "mae_24")]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("pipeline_tag: time-series-feature-extraction", "pipeline_tag: feature-extraction", "opens no pipeline"),
        ("license: unknown\n", "", "its header has no license"),
        ("library_name: hf-tsrep", "library_name: hf-tsrep\ndatasets:\n- ETTh1", "datasets has ETTh1"),
        ("value: 0.5", "value: 0.1", "mse_24 is 0.1 in its header and 0.5 in results.json"),
        ("# TS2Vec on", "![Loss](loss.png)\n# TS2Vec on", "it shows loss.png, which is not in the folder"),
    ],
)
def test_each_fault_is_named(folder, command_line, old, new, told):
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new, 1))
    code, out, err = command_line("card", "check", folder)
    assert (code, out) == (2, "")
    assert told in err


@pytest.mark.parametrize(
    ("corpora", "weights"),
    [
        (["cc-by-4.0", "MIT"], "apache-2.0"),
        (["bsd-3-clause"], "apache-2.0"),
        (["cc-by-4.0", "cc-by-sa-4.0"], "unknown"),
        (["cc-by-nc-4.0"], "unknown"),
        (["other"], "unknown"),
        (["mit", None], "unknown"),
        ([], "unknown"),
    ],
)
def test_weights_are_free_where_every_corpus_is_known_to_leave_them_so(corpora, weights):
    assert licence_of_weights(corpora) == weights


@pytest.mark.parametrize(
    ("weights", "corpus", "told"),
    [
        ("apache-2.0", "cc-by-4.0", None),
        ("cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0", None),
        ("apache-2.0", "cc-by-nc-sa-4.0", "which forbids commercial use and asks for the same licence: decide"),
        ("unknown", "unknown", "weights is unknown, and that of the corpus is unknown: decide"),
    ],
)
def test_what_is_to_be_decided_about_a_licence_is_told_once(weights, corpus, told):
    note = licence_note(weights, corpus)
    assert note is None if told is None else told in note
