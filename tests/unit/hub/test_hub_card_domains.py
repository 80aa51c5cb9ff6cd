"""Cards of models that read domains: their lines of code run, and what they say is so."""

import re

import pytest
import torch
from domain_models import make_domain_model, make_forecasting_corpus, make_labelled_corpus

import hf_tsrep
from hf_tsrep import CrossTimeNetForTimeSeriesClassification
from hf_tsrep.hub import build_model_card

ECG = {"name": "ecg", "num_input_channels": 1, "patch_length": 3, "codebook_size": 10}
QUICK = {"num_train_epochs": 1, "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 6}


def run_blocks(text, folder):
    """Run a card's lines of Python one block after the other, as a reader would; return the names."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(re.sub(r'from_pretrained\("[^"]*"\)', f"from_pretrained({str(folder)!r})", block), names)
    return names


def check_shapes(names, text, num_channels):
    """Compare what the lines of code give with what stands behind them."""
    stated = dict(re.findall(r"^(\w+) = .*# (\([\d, ]+\))", text, re.MULTILINE))
    assert names["series"].shape[1] == num_channels
    for name in ("embeddings", "timestamps_embedded", "windows_embedded"):
        assert str(tuple(names[name].shape)) == stated[name]


def test_the_card_of_several_domains_shows_one_and_lists_all(tmp_path):
    make_domain_model().save_pretrained(tmp_path)
    text = build_model_card(tmp_path).text
    check_shapes(run_blocks(text, tmp_path), text, num_channels=3)
    assert 'model.encode(inputs, domain="har")' in text
    assert "a series of one of its 2 domains (har with 3 channels, ecg with 1 channel)" in text
    assert "| `har` | 3 | 4 | 16 |" in text
    assert "| `ecg` | 1 | 3 | 10 |" in text
    assert "| `num_input_channels` |" not in text
    assert "| `domains` |" not in text
    assert "above read series of `har`" in text
    assert "| normalisation of the input | by the tokenizer," in text


def test_the_card_shows_the_domain_of_the_training_or_of_the_only_head(tmp_path):
    make_domain_model().save_pretrained(tmp_path / "one")
    assert 'model.encode(inputs, domain="ecg")' in build_model_card(tmp_path / "one", domain="ecg").text
    with pytest.raises(ValueError, match="Did you mean 'ecg'"):
        build_model_card(tmp_path / "one", domain="ecgg")
    model = make_domain_model(model_class=CrossTimeNetForTimeSeriesClassification)
    model.config.domains[1]["num_labels"] = 2
    assert 'domain="ecg"' in build_model_card(model).text


def test_the_card_of_one_domain_needs_no_name(tmp_path):
    make_domain_model([ECG]).save_pretrained(tmp_path)
    text = build_model_card(tmp_path).text
    check_shapes(run_blocks(text, tmp_path), text, num_channels=1)
    assert "domain=" not in text.split("## The model")[0]
    assert "it turns a series of 1 input channel and" in text
    assert "| `ecg` | 1 | 3 | 10 |" in text


@pytest.mark.parametrize("fields", [{}, {"classifier": "flatten"}])
def test_the_card_of_a_fine_tuned_classifier_shows_its_domain(tmp_path, fields):
    corpus = make_labelled_corpus()
    hf_tsrep.finetune(make_domain_model(), corpus, tmp_path / "tuned", domain="ecg", **fields, **QUICK)
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    names = run_blocks(text, tmp_path / "tuned")
    check_shapes(names, text, num_channels=1)
    assert 'model.encode(inputs, domain="ecg")' in text
    assert names["logits"].shape == (1, 2)


def test_the_card_of_a_fine_tuned_forecaster_shows_its_domain(tmp_path):
    fields = {"task": "forecasting", "domain": "ecg", "context_length": 24, "prediction_length": 6, **QUICK}
    hf_tsrep.finetune(make_domain_model(), make_forecasting_corpus(), tmp_path / "tuned", **fields)
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    names = run_blocks(text, tmp_path / "tuned")
    check_shapes(names, text, num_channels=1)
    assert names["future"].shape == (1, 6, 1)
    assert torch.isfinite(names["future"]).all()


def test_the_card_of_a_fine_tuned_ts2vec_runs(tmp_path):
    model = hf_tsrep.TS2VecModel(hf_tsrep.TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1))
    hf_tsrep.finetune(model, make_labelled_corpus(), tmp_path / "tuned", **QUICK)
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    names = run_blocks(text, tmp_path / "tuned")
    check_shapes(names, text, num_channels=1)
    assert names["logits"].shape == (1, 2)
