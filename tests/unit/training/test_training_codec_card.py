"""The card of a trained tokenizer: which series its figures are of, and where its domains come from."""

import json

import pytest
from domain_models import make_domain_model, make_labelled_corpus

from hf_tsrep.training import pretrain

TINY = {"hidden_size": 8, "num_blocks": 1, "codebook_size": 8, "patch_length": 3}
QUICK = {"max_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
UNSEEN = "of series that the training did not see"


def with_validation(corpus):
    corpus["validation"] = corpus["test"]
    return corpus


def trained_card(corpora, folder, **fields):
    """Train a tokenizer for one step; return its card and what its record says of the domains."""
    pretrain("crosstimenet", corpora, folder, stage="tokenizer", **TINY, **QUICK, **fields)
    record = json.loads((folder / "pretraining.json").read_text())
    return (folder / "README.md").read_text(encoding="utf-8"), record["facts"]["domains"]


@pytest.mark.parametrize(
    ("prepare", "fields", "source", "expected", "wrong"),
    [
        (with_validation, {}, "validation part", f"All three are {UNSEEN}", "kept back may overlap"),
        (None, {}, "training series kept back", f"All three are {UNSEEN}", "Nothing was held out"),
        (None, {"validation_fraction": 0.0}, "training series", "Nothing was held out of `ecg`", UNSEEN),
        (None, {"validation_fraction": 0.01}, "training series", "Nothing was held out of `ecg`", UNSEEN),
    ],
)
def test_the_card_says_whether_anything_was_held_out(tmp_path, prepare, fields, source, expected, wrong):
    corpus = make_labelled_corpus()
    card, (domain,) = trained_card(corpus if prepare is None else prepare(corpus), tmp_path / "out", **fields)
    assert domain["measured_on"] == source
    assert expected in card
    assert wrong not in card
    assert f"| 8 | {source} |" in card


def test_domains_that_differ_are_told_apart(tmp_path):
    corpora = [make_labelled_corpus("ecg"), with_validation(make_labelled_corpus("har", 3))]
    card, _ = trained_card(corpora, tmp_path / "out", validation_fraction=0.0)
    assert "Nothing was held out of `ecg`: its figures are of the series that the codec was trained on." in card
    assert f"The others are {UNSEEN}" in card


def test_the_card_of_a_tokenizer_that_was_extended_lists_the_domains_that_it_took_over(tmp_path):
    make_domain_model().tokenizer.save_pretrained(tmp_path / "old")
    card, _ = trained_card(make_labelled_corpus("pulse"), tmp_path / "out", tokenizer=str(tmp_path / "old"))
    assert "# CrossTimeNet tokenizer of har, ecg, pulse" in card
    assert "| `har` | taken over from the tokenizer old | 3 | 4 | 16 | not measured again | | | |" in card
    assert "| `ecg` | taken over from the tokenizer old | 1 | 3 | 10 | not measured again | | | |" in card
    assert "| `pulse` | pulse | 1 | 3 | 8 | training series kept back |" in card
    assert str(tmp_path) not in card
