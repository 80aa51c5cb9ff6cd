"""The warm-up of runs that are shorter than the published ones."""

import json
import logging

import pytest
from domain_models import make_domain_model, make_labelled_corpus

import hf_tsrep
from hf_tsrep import TS2VecConfig, TS2VecModel
from hf_tsrep.training import pretrain

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
QUICK = {"max_steps": 8, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}


@pytest.fixture
def tokenizer(tmp_path):
    make_domain_model().tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def rates(result):
    return [entry["learning_rate"] for entry in result.history if "learning_rate" in entry]


def test_a_short_run_with_the_published_warm_up_learns(tokenizer, tmp_path):
    result = pretrain("crosstimenet", make_labelled_corpus(), tmp_path / "model", tokenizer=tokenizer, **TINY, **QUICK)
    assert max(rates(result)) == pytest.approx(1e-4)  # 4e-7 with 2000 steps
    record = json.loads((tmp_path / "model" / "pretraining.json").read_text())
    assert (record["training"]["warmup_steps"], record["facts"]["warmup_steps"]) == (2000, 2)
    assert "| `warmup_steps` | 2 |" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_a_warm_up_that_was_asked_for_stays_with_a_warning(tokenizer, tmp_path, caplog):
    fields = {"tokenizer": tokenizer, "warmup_steps": 16, **TINY, **QUICK}
    with caplog.at_level(logging.WARNING, "hf_tsrep"):
        result = pretrain("crosstimenet", make_labelled_corpus(), tmp_path / "model", **fields)
    assert max(rates(result)) < 0.6e-4
    assert "warmup_steps=16 in a run of 8 steps: the learning rate never gets to 0.0001" in caplog.text


def test_a_long_run_keeps_the_published_warm_up():
    from transformers import TrainingArguments

    from hf_tsrep.training.callbacks import fit_warmup

    for num_steps, expected in ((8000, 2000), (7999, 1999), (3, 0)):
        arguments = TrainingArguments("none", warmup_steps=2000, report_to="none", use_cpu=True)
        fit_warmup(arguments, num_steps, may_shorten=True)
        assert arguments.get_warmup_steps(num_steps) == expected


def test_a_fine_tuning_warns_too(tmp_path, caplog):
    model = TS2VecModel(TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1))
    fields = {"num_train_epochs": 1, "warmup_steps": 50, "use_cpu": True, "disable_tqdm": True}
    with caplog.at_level(logging.WARNING, "hf_tsrep"):
        hf_tsrep.finetune(model, make_labelled_corpus(), tmp_path / "tuned", **fields)
    assert "warmup_steps=50 in a run of 1 steps" in caplog.text
