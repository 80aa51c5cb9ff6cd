"""CrossTimeNet's tokenizer stage: the tokenizer folder, killed and resumed runs, two processes."""

import json

import numpy as np
import pytest
import torch
from crosstimenet_runs import codec_run, start
from safetensors.torch import load_file
from training_runs import assert_close_files, assert_close_losses, assert_equal_files, losses

from hf_tsrep.training import SettingsError, pretrain
from hf_tsrep.training.crosstimenet.token_data import load_tokenizer

TERMS = ("loss", "grad_norm", "reconstruction_loss", "commitment_loss", "codebook_perplexity")


def test_a_killed_and_resumed_tokenizer_has_the_same_bits(corpora, interpreters, tmp_path):
    """9 batches an epoch; revival of dead codes and dropout draw from the random state."""
    fields = {
        "max_steps": 18,
        "save_steps": 4,
        "per_device_train_batch_size": 4,
        "dropout": 0.1,
        "dead_code_threshold": 0.5,
        "validation_fraction": 0.0,
    }
    whole = codec_run(corpora, tmp_path / "whole" / "out", **fields)
    killed = codec_run(corpora, tmp_path / "killed" / "out", **fields)
    assert start(interpreters, whole) == 0
    assert start(interpreters, killed, "step", 7) == -9
    killed["resume_from_checkpoint"] = True
    assert start(interpreters, killed, "saving", 12) == -9
    assert not (tmp_path / "killed" / "out" / "codec.safetensors").exists()
    assert start(interpreters, killed) == 0
    expected = losses(tmp_path / "whole" / "out", TERMS)
    assert [entry["step"] for entry in expected] == list(range(1, 19))
    assert losses(tmp_path / "killed" / "out", TERMS) == expected
    assert_equal_files(tmp_path / "killed" / "rank0.safetensors", tmp_path / "whole" / "rank0.safetensors")
    assert_equal_files(tmp_path / "killed" / "out" / "codec.safetensors", tmp_path / "whole/out/codec.safetensors")


def test_two_processes_train_the_tokenizer_of_one(corpora, interpreters, tmp_path):
    """Series are unequally long and have missing values: the processes' parts of a batch weigh in unequally.

    Dead codes are not replaced here: latents of the first process replace them, of which one process has others.
    """
    fields = {"max_steps": 10, "save_strategy": "no", "dropout": 0.0, "learning_rate": 0.003}
    fields["dead_code_threshold"] = 0.0
    one = codec_run(corpora, tmp_path / "one" / "out", per_device_train_batch_size=4, **fields)
    two = codec_run(corpora, tmp_path / "two" / "out", per_device_train_batch_size=2, **fields)
    assert start(interpreters, one) == 0
    assert start(interpreters, two, num_processes=2) == 0
    facts = json.loads((tmp_path / "two" / "out" / "pretraining.json").read_text())["facts"]
    assert facts["num_processes"] == 2
    assert assert_close_losses(tmp_path / "one" / "out", tmp_path / "two" / "out", TERMS, tolerance=1e-4) == 10
    assert_close_files(tmp_path / "one" / "rank0.safetensors", tmp_path / "two" / "rank0.safetensors", tolerance=1e-4)
    assert_equal_files(tmp_path / "two" / "rank0.safetensors", tmp_path / "two" / "rank1.safetensors")


def test_processes_keep_one_codebook_also_where_dead_codes_are_replaced(corpora, interpreters, tmp_path):
    fields = {"max_steps": 8, "save_strategy": "no", "dead_code_threshold": 2.0, "codebook_initialization": "random"}
    given = codec_run(corpora, tmp_path / "run" / "out", per_device_train_batch_size=2, **fields)
    assert start(interpreters, given, num_processes=2) == 0
    assert_equal_files(tmp_path / "run" / "rank0.safetensors", tmp_path / "run" / "rank1.safetensors")
    counts = load_file(tmp_path / "run" / "rank0.safetensors")["domains.0.codebook.counts"]
    assert counts.min() >= 2.0 * 0.99


def test_the_tokenizer_folder_is_complete(tokenizer):
    names = {path.name for path in tokenizer.output_dir.iterdir()}
    assert {"codec.safetensors", "README.md", "training_log.json", "pretraining.json", "loss_curve.png"} <= names
    assert {"tokens_walk.png", "tokens_pulse.png", "tokenizer_config.json"} <= names
    assert not any(name.startswith(".") for name in names)
    loaded = load_tokenizer(str(tokenizer.output_dir))
    assert [domain.name for domain in loaded.domains] == ["walk", "pulse"]
    assert [domain.num_input_channels for domain in loaded.domains] == [2, 1]
    state = loaded.codec.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tokenizer.model.state_dict().items())
    series = np.cumsum(np.ones((12, 2), dtype=np.float32), axis=0)
    assert np.shape(loaded(series, domain="walk")["input_ids"])[-1] == 4


def test_every_domain_is_measured_on_series_that_were_kept_back(tokenizer):
    facts = json.loads((tokenizer.output_dir / "pretraining.json").read_text())["facts"]
    assert [(one["series"], one["validation_series"]) for one in facts["domains"]] == [(21, 2), (13, 1)]
    for domain in ("walk", "pulse"):
        assert tokenizer.metrics[f"{domain}_validation_normalised_mse"] > 0
        assert 1.0 <= tokenizer.metrics[f"{domain}_validation_codebook_perplexity"] <= 16.0
        assert 0.0 < tokenizer.metrics[f"{domain}_validation_codebook_use"] <= 1.0
    assert {"codebook_perplexity", "reconstruction_loss", "commitment_loss"} <= set(tokenizer.metrics)
    card = (tokenizer.output_dir / "README.md").read_text()
    assert "| `walk` | series |" in card or "| `walk` | walk |" in card
    assert str(tokenizer.output_dir.parent) not in card


def test_domains_have_fields_of_their_own(corpora, tmp_path):
    given = {"pulse": {"patch_length": 5, "codebook_size": 7}}
    fields = {"domains": given, "max_steps": 1, "save_strategy": "no", "decoder": "any_length"}
    result = pretrain(**codec_run(corpora, tmp_path / "out", **fields))
    walk, pulse = result.model.config.codec_domains
    assert (walk.patch_length, walk.codebook_size) == (3, 16)
    assert (pulse.patch_length, pulse.codebook_size, pulse.hidden_size) == (5, 7, 8)


def test_a_series_has_at_most_125_tokens_where_nothing_is_said(corpora, tmp_path):
    given = codec_run(corpora[:1], tmp_path / "out", max_steps=1, save_strategy="no")
    del given["patch_length"]
    assert pretrain(**given).model.config.codec_domains[0].patch_length == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": {"pulss": {"patch_length": 5}}}, r"fields of 'pulss'.*Did you mean 'pulse'"),
        ({"domains": {"pulse": {"patch_size": 5}}}, r"Unknown field 'patch_size' of domain 'pulse'"),
        ({"codebook_initialization": "kmean"}, "'kmean' is unknown"),
        ({"scaler": "standard"}, r"scaler \(arguments\) cannot be set.*takes raw values"),
        ({"weight_averaging": True}, "moving average already"),
        ({"push_to_hub": True}, "call push_to_hub of the finished tokenizer"),
        ({"decoder": "fixed_length"}, "unequal lengths"),
        ({"codebook_sise": 5}, "'codebook_size'"),
        ({"codebook_size": 0}, "codebook_size is 0"),
        ({"validation_fraction": 1.0}, "below 1"),
    ],
)
def test_wrong_fields_of_the_tokenizer_stage(corpora, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        pretrain(**codec_run(corpora, tmp_path / "out", **fields))
    assert not (tmp_path / "out").exists()


def test_one_corpus_twice_is_refused(corpora, tmp_path):
    with pytest.raises(SettingsError, match="Two corpora are the domain 'walk'"):
        pretrain(**codec_run([corpora[0], corpora[0]], tmp_path / "out"))


def test_a_domain_is_added_to_a_tokenizer_and_the_others_stay(corpora, tokenizer, tmp_path):
    lines = ["item,date,first,second"]
    lines += [f"i{item},2024-01-{day:02d},{item * day % 7},{day % 3}" for item in range(6) for day in range(1, 20)]
    (tmp_path / "third.csv").write_text("\n".join(lines) + "\n")
    added = codec_run(str(tmp_path / "third.csv"), tmp_path / "out", tokenizer=str(tokenizer.output_dir), max_steps=3)
    result = pretrain(**added, save_strategy="no")
    loaded = load_tokenizer(str(result.output_dir))
    assert [domain.name for domain in loaded.domains] == ["walk", "pulse", "third"]
    before, after = tokenizer.model.state_dict(), loaded.codec.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [loaded.first_id(name) for name in ("walk", "pulse", "third")] == [4, 20, 36]
    with pytest.raises(SettingsError, match="has the domain 'walk' already"):
        pretrain(**codec_run(corpora[0], tmp_path / "again", tokenizer=str(tokenizer.output_dir)))
