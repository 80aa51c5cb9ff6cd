"""CrossTimeNet's models with their tokenizer, which belongs to them: places, damaged files, fingerprints, growth."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from domain_models import make_domain_model
from tiny_codec import DOMAINS, make_codec, make_series
from transformers import (
    AutoModel,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from hf_tsrep import (
    CrossTimeNetCodec,
    CrossTimeNetConfig,
    CrossTimeNetForPreTraining,
    CrossTimeNetForTimeSeriesClassification,
    CrossTimeNetModel,
    CrossTimeNetTokenizer,
)

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {"hidden_size": 8, "num_blocks": 1}
HAR = {"name": "har", "num_input_channels": 3, "patch_length": 4, "codebook_size": 12, **SMALL}
ECG = {"name": "ecg", "num_input_channels": 1, "patch_length": 8, "codebook_size": 6, **SMALL}


def build_tokenizer(*domains):
    torch.manual_seed(0)
    return CrossTimeNetTokenizer(domains=[dict(domain) for domain in domains or (HAR, ECG)])


def build(model_class=CrossTimeNetModel, tokenizer=None, **fields):
    tokenizer = tokenizer or build_tokenizer()
    torch.manual_seed(0)
    config = CrossTimeNetConfig.from_tokenizer(tokenizer, backbone_config=SIZES, **fields)
    return model_class(config).eval().set_tokenizer(tokenizer)


def series(batch_size=2, length=22, channels=3, seed=1):
    return torch.randn(batch_size, length, channels, generator=torch.Generator().manual_seed(seed))


def test_values_and_tokens_are_the_same_input():
    model, values = build(), series()
    batch = model.tokenizer(list(values.numpy()), domain="har", return_tensors="pt")
    by_values = model(past_values=values, domain="har")
    by_ids = model(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(by_values.pooler_output, by_ids.pooler_output)
    torch.testing.assert_close(model(values, domain="har").pooler_output, by_ids.pooler_output)
    np.testing.assert_allclose(model.encode(values, domain="har"), by_ids.pooler_output.detach(), rtol=1e-5, atol=1e-6)


def test_domains_of_other_channels_are_encoded_by_name():
    model = build()
    assert model.encode(series(channels=1), domain="ecg").shape == (2, 16)
    assert model.encode(np.zeros(40), domain="ecg", level="timestamp").shape == (40, 16)
    with pytest.raises(ValueError, match="3 channel"):
        model.encode(series(channels=1), domain="har")
    with pytest.raises(ValueError, match="name one: domain='har' or 'ecg'"):
        model.encode(series())


def test_timestamps_have_the_embedding_of_their_token():
    model = build()
    values = series(1, 30)
    values[0, :5] = torch.nan
    values[0, 13:17] = torch.nan
    values[0, 27:] = torch.nan
    tokens = model(past_values=values, domain="har").last_hidden_state[0]
    steps, pooled = model.embed_timestamps(values, domain="har")
    for place in range(5, 27):
        torch.testing.assert_close(steps[0, place], tokens[(place - 5) // 4])
    assert not steps[0, :5].any()
    assert not steps[0, 27:].any()
    assert pooled[0].nonzero().squeeze(1).tolist() == [*range(5, 13), *range(17, 27)]


def test_the_tokenizer_is_saved_beside_the_model_and_found_there(tmp_path):
    model = build(CrossTimeNetForPreTraining)
    expected = model.encode(series(), domain="har")
    model.save_pretrained(tmp_path / "first")
    loaded = CrossTimeNetForPreTraining.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    again = AutoModel.from_pretrained(tmp_path / "second")
    np.testing.assert_array_equal(again.encode(series(), domain="har"), expected)
    assert type(AutoTokenizer.from_pretrained(tmp_path / "second")) is CrossTimeNetTokenizer
    model.save_pretrained(tmp_path / "nested" / "part")
    nested = AutoModel.from_pretrained(tmp_path / "nested", subfolder="part")
    np.testing.assert_array_equal(nested.encode(series(), domain="har"), expected)


def test_a_tokenizer_folder_opens_without_a_model(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer" / "config.json").exists()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert type(loaded) is CrossTimeNetTokenizer
    tokenizer.codec.save_pretrained(tmp_path / "codec")
    codec = AutoModel.from_pretrained(tmp_path / "codec")
    assert type(codec) is CrossTimeNetCodec
    codes, _ = codec.encode_codes(series(), domain="har")
    assert torch.equal(codes + 4, loaded.tokenize_values(series(), domain="har")[0])


def test_a_model_without_a_tokenizer_says_how_to_get_one(tmp_path):
    model = CrossTimeNetModel(build().config)
    with pytest.raises(ValueError, match=r"has no tokenizer .* model.set_tokenizer\(tokenizer\)"):
        model.encode(series(), domain="har")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"found no tokenizer .* beside its checkpoint"):
        AutoModel.from_pretrained(tmp_path).encode(series(), domain="har")


@pytest.mark.parametrize(
    ("domains", "words"),
    [
        ([{**HAR, "patch_length": 5}, ECG], "domain 0 has patch_length=5 instead of 4"),
        ([ECG, HAR], "domain 0 has name='ecg' instead of 'har'"),
        ([{**HAR, "codebook_size": 13}, ECG], "codebook_size=13 instead of 12"),
        ([HAR], "has 1 domains and the model 2; the difference: ecg"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(domains, words):
    with pytest.raises(ValueError, match=words):
        build().set_tokenizer(build_tokenizer(*domains))


def test_the_tokenizer_stays_as_it_is_while_the_model_trains():
    model = build(CrossTimeNetForPreTraining).train()
    before = {name: value.clone() for name, value in model.tokenizer.codec.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ids = model.tokenizer.tokenize_values(series(), domain="har")[0]
    for _ in range(3):
        loss = model(past_values=series(), domain="har").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.tokenizer.codec.state_dict().items())
    assert torch.equal(model.tokenizer.tokenize_values(series(), domain="har")[0], ids)
    assert not [name for name, _ in model.named_parameters() if "codec" in name or "tokenizer" in name]


def plain_trainer(model, rows, folder, **options):
    """Return transformers' own Trainer, which takes two steps of two rows."""
    arguments = TrainingArguments(
        folder, max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True, logging_steps=1
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, **options)


def test_the_plain_trainer_hides_tokens_with_the_collator_of_transformers(tmp_path):
    model = build(CrossTimeNetForPreTraining)
    rows = [dict(model.tokenizer(one, domain="har")) for one in [*series(3).numpy(), *series(2, 9).numpy()]]
    collator = DataCollatorForLanguageModeling(model.tokenizer, mlm_probability=0.4, seed=0)
    before = model.head.decoder.weight.detach().clone()
    trainer = plain_trainer(model, rows, tmp_path, data_collator=collator)
    assert trainer.label_names == ["labels"]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    assert not torch.equal(model.head.decoder.weight, before)


def test_the_plain_trainer_names_the_domain_by_a_column(tmp_path):
    tokenizer = build_tokenizer()
    config = CrossTimeNetConfig.from_tokenizer(tokenizer, backbone_config=SIZES)
    config.domains = [{**one, "num_labels": 3} for one in config.domains]
    model = CrossTimeNetForTimeSeriesClassification(config).set_tokenizer(tokenizer)
    ids = tokenizer(series(4, channels=1), domain="ecg")["input_ids"]
    rows = [{"input_ids": row, "labels": index % 3, "domain": 1} for index, row in enumerate(ids)]
    trainer = plain_trainer(model, rows, tmp_path / "one")
    trainer.train()
    assert trainer.state.global_step == 2
    mixed = [{**row, "domain": index % 2} for index, row in enumerate(rows)]
    with pytest.raises(ValueError, match=r"rows of the domains 'har', 'ecg'; give rows of one domain"):
        plain_trainer(model, [mixed[0], mixed[1]], tmp_path / "two").train()


def test_new_domains_come_last_and_move_nothing(tmp_path):
    model = build(CrossTimeNetForPreTraining, build_tokenizer(HAR))
    model.save_pretrained(tmp_path / "before")
    expected, table = model.encode(series(), domain="har"), model.model.get_input_embeddings().weight.detach().clone()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "before")
    tokenizer.add_domain(ECG)
    with pytest.raises(ValueError, match=r"difference: ecg. model.add_domains\(tokenizer\)"):
        model.set_tokenizer(tokenizer)
    model.add_domains(tokenizer)
    assert torch.equal(model.model.get_input_embeddings().weight[:16], table)
    assert model.config.vocab_size == model.head.decoder.out_features == 22
    np.testing.assert_allclose(model.encode(series(), domain="har"), expected, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(model(past_values=series(channels=1), domain="ecg").loss)
    model.save_pretrained(tmp_path / "after")
    loaded = AutoModel.from_pretrained(tmp_path / "after")
    assert [one["name"] for one in loaded.config.domains] == ["har", "ecg"]
    assert loaded.encode(series(channels=1), domain="ecg").shape == (2, 16)


# The pair: places, damaged files, fingerprints, added tokens.

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
    model = make_domain_model(model_class=CrossTimeNetForTimeSeriesClassification)
    model.config.domains[1]["num_labels"] = 2
    model = CrossTimeNetForTimeSeriesClassification(model.config).eval().set_tokenizer(model.tokenizer)
    values = torch.from_numpy(make_series()[..., :1])
    expected = model(past_values=values, domain="ecg").logits
    assert torch.equal(model(past_values=values).logits, expected)
    assert torch.equal(model(model.prepare_inputs(values)["input_ids"]).logits, expected)
    np.testing.assert_array_equal(model.encode(values), model.encode(values, domain="ecg"))
    model.save_pretrained(tmp_path)
    loaded = CrossTimeNetForTimeSeriesClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(past_values=values).logits, expected)
    assert AutoModel.from_pretrained(tmp_path).encode(values, level="timestamp").shape == (5, 20, 16)
    with pytest.raises(ValueError, match="'har' has no classification head; these have: ecg"):
        model(past_values=torch.from_numpy(make_series()), domain="har")
    assert AutoTokenizer.from_pretrained(tmp_path).domains[1].name == "ecg"
