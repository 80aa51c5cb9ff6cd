"""A model of CrossTimeNet and its tokenizer belong together: places, damaged files, fingerprints, added tokens."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from domain_models import make_domain_model
from tiny_codec import DOMAINS, make_codec, make_series
from transformers import AutoModel, AutoTokenizer

from hf_tsrep import CrossTimeNetConfig, CrossTimeNetForPreTraining, CrossTimeNetModel, CrossTimeNetTokenizer
from hf_tsrep import CrossTimeNetForTimeSeriesClassification as Classifier

SETTINGS_FILE = "tokenizer_config.json"


def make_tokenizer(seed=0, domains=None):
    return CrossTimeNetTokenizer.from_codec(make_codec(domains, seed))


@pytest.fixture
def folder(tmp_path):
    make_domain_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: cut(folder / "codec.safetensors"), "codec.safetensors cannot be read"),
        (lambda folder: cut(folder / SETTINGS_FILE), f"{SETTINGS_FILE} is no JSON"),
        (lambda folder: os.remove(folder / SETTINGS_FILE), f"no {SETTINGS_FILE}"),
        (lambda folder: os.remove(folder / "codec.safetensors"), r"holds no codec\.safetensors"),
    ],
)
def test_a_damaged_tokenizer_is_not_lost_in_silence(folder, tmp_path, damage, words):
    damage(folder)
    model = AutoModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=f"(?s)cannot load the tokenizer .* beside its checkpoint .*{words}"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    model.set_tokenizer(make_tokenizer()).save_pretrained(tmp_path / "copy")
    assert AutoModel.from_pretrained(tmp_path / "copy").encode(make_series(), domain="har").shape == (5, 16)


def test_only_where_there_is_no_tokenizer_none_is_saved(folder, tmp_path):
    new = CrossTimeNetModel(make_domain_model().config)
    new.save_pretrained(tmp_path / "without")
    AutoModel.from_pretrained(tmp_path / "without").save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / SETTINGS_FILE).exists()
    gone = AutoModel.from_pretrained(folder)
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"Whether there is a tokenizer beside the checkpoint .*model cannot be told"):
        gone.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_tokenizer_that_cannot_be_saved_stops_the_model_too(tmp_path):
    model = make_domain_model()
    model.tokenizer.codec.domains[1].codebook.counts.fill_(torch.nan)
    with pytest.raises(ValueError, match="Weights of domain 'ecg' in the tokenizer are not finite"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_relative_folder_stays_the_same_one(folder, monkeypatch):
    expected = AutoModel.from_pretrained(folder).encode(make_series(), domain="har")
    monkeypatch.chdir(folder.parent)
    model = AutoModel.from_pretrained("model")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(model.encode(make_series(), domain="har"), expected)


def test_a_tokenizer_of_other_weights_is_refused(folder):
    model, other = make_domain_model(), make_tokenizer(seed=1)
    for receiver in (model, AutoModel.from_pretrained(folder)):
        for take in (receiver.set_tokenizer, receiver.add_domains):
            with pytest.raises(ValueError, match=r"domain 'har' has other weights .*beside the model's checkpoint"):
                take(other)
    other.save_pretrained(folder)
    with pytest.raises(ValueError, match="domain 'har' has other weights"):
        AutoModel.from_pretrained(folder).encode(make_series(), domain="har")
    for domain in model.config.domains:
        domain.pop("tokenizer_fingerprint")
    assert model.set_tokenizer(other).tokenizer is other
    assert model.config.domains[0]["tokenizer_fingerprint"] == other.fingerprint("har")


def test_a_checkpoint_without_fingerprints_opens_and_gets_them(folder, tmp_path):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert all(domain.pop("tokenizer_fingerprint") for domain in config["domains"])
    path.write_text(json.dumps(config))
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "again")
    stored = json.loads((tmp_path / "again" / "config.json").read_text())["domains"]
    assert [one["tokenizer_fingerprint"] for one in stored] == [model.tokenizer.fingerprint(one) for one in (0, 1)]
    with pytest.raises(ValueError, match="tokenizer_fingerprint is 3; it must be a text"):
        CrossTimeNetConfig(domains=[{**stored[0], "tokenizer_fingerprint": 3}])


def test_growth_keeps_the_fingerprints_of_what_was_there(tmp_path):
    model = make_domain_model(DOMAINS[:1], CrossTimeNetForPreTraining)
    before = model.config.domains[0]["tokenizer_fingerprint"]
    wrong = make_tokenizer(seed=1, domains=DOMAINS)
    with pytest.raises(ValueError, match="domain 'har' has other weights"):
        model.add_domains(wrong)
    assert (len(model.config.domains), model.config.vocab_size) == (1, 20)
    tokenizer = make_tokenizer(domains=DOMAINS[:1])
    tokenizer.add_domain(make_codec(DOMAINS[1:]))
    model.add_domains(tokenizer).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.encode(make_series()[..., :1], domain="ecg").shape == (5, 16)
    assert loaded.config.domains[0]["tokenizer_fingerprint"] == before
    assert loaded.config.domains[1]["tokenizer_fingerprint"] == tokenizer.fingerprint("ecg")


def test_a_domain_that_the_tokenizer_got_later_is_named_when_saving(tmp_path):
    model = make_domain_model(DOMAINS[:1])
    model.tokenizer.add_domain(make_codec(DOMAINS[1:]))
    with pytest.raises(ValueError, match=r"difference: ecg. model.add_domains\(tokenizer\)"):
        model.save_pretrained(tmp_path / "model")
    model.add_domains(model.tokenizer).save_pretrained(tmp_path / "model")


def test_tokens_that_were_added_by_hand_need_room():
    model, tokenizer = make_domain_model(), make_tokenizer()
    tokenizer.add_tokens(["<walk>"])
    with pytest.raises(ValueError, match=r"31 tokens, but the model embeddings of 30: .*model.add_domains"):
        model.set_tokenizer(tokenizer)
    model.add_domains(tokenizer)
    assert model.config.vocab_size == model.config.backbone_config.vocab_size == 31
    assert model(torch.tensor([[4, 30]])).last_hidden_state.shape == (1, 2, 16)
    config = CrossTimeNetConfig.from_tokenizer(tokenizer, backbone_config=model.config.backbone_config)
    assert CrossTimeNetModel(config).set_tokenizer(tokenizer).config.vocab_size == 31


def test_what_is_no_tokenizer_is_named():
    model = make_domain_model()
    with pytest.raises(ValueError, match=r"not a str. AutoTokenizer.from_pretrained\('foo'\) loads one"):
        model.set_tokenizer("foo")
    with pytest.raises(ValueError, match="reads series with a CrossTimeNetTokenizer, not a NoneType"):
        model.add_domains(None)
    with pytest.raises(ValueError, match=r"difference: ecg. Take the tokenizer that the model was trained with"):
        model.set_tokenizer(make_tokenizer(domains=DOMAINS[:1]))


def test_the_only_domain_with_a_head_needs_no_name(tmp_path):
    model = make_domain_model(model_class=Classifier)
    model.config.domains[1]["num_labels"] = 2
    model = Classifier(model.config).eval().set_tokenizer(model.tokenizer)
    values = torch.from_numpy(make_series()[..., :1])
    expected = model(past_values=values, domain="ecg").logits
    assert torch.equal(model(past_values=values).logits, expected)
    assert torch.equal(model(model.prepare_inputs(values)["input_ids"]).logits, expected)
    np.testing.assert_array_equal(model.encode(values), model.encode(values, domain="ecg"))
    model.save_pretrained(tmp_path)
    loaded = Classifier.from_pretrained(tmp_path)
    assert torch.equal(loaded(past_values=values).logits, expected)
    assert AutoModel.from_pretrained(tmp_path).encode(values, level="timestamp").shape == (5, 20, 16)
    with pytest.raises(ValueError, match="'har' has no classification head; these have: ecg"):
        model(past_values=torch.from_numpy(make_series()), domain="har")
    assert AutoTokenizer.from_pretrained(tmp_path).domains[1].name == "ecg"
