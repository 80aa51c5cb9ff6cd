"""CrossTimeNetTokenizer: saved, loaded, pickled and grown, and refused when a file cannot be right."""

import copy
import itertools
import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import tiny_codec
import torch
from tiny_codec import random_values
from transformers import AddedToken

from hf_tsrep.tokenization import weights_crosstimenet_codec
from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec
from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

CODEC_FILE = "codec.safetensors"
SETTINGS_FILE = "tokenizer_config.json"
EEG = {
    "name": "eeg",
    "num_input_channels": 2,
    "patch_length": 5,
    "codebook_size": 6,
    "hidden_size": 4,
    "num_blocks": 1,
}


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def _config(folder):
    return json.loads((folder / SETTINGS_FILE).read_text())


def _rewrite(folder, change):
    """Change the stored weights, and keep what the file says of itself."""
    path = folder / CODEC_FILE
    with weights_crosstimenet_codec.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path, metadata=metadata)


def _same(one, other, series):
    assert one.get_vocab() == other.get_vocab()
    assert one(series, domain="har")["input_ids"] == other(series, domain="har")["input_ids"]
    ids = torch.arange(4, 20).view(2, 8)
    np.testing.assert_allclose(one.decode(ids), other.decode(ids), rtol=1e-5, atol=1e-6)


def test_a_loaded_tokenizer_is_the_saved_one(tokenizer, folder, series):
    loaded = CrossTimeNetTokenizer.from_pretrained(folder)
    _same(tokenizer, loaded, series)
    assert loaded.domains == tokenizer.domains
    assert not loaded.codec.training
    assert not any(one.requires_grad for one in loaded.codec.parameters())
    files = {path.name for path in folder.iterdir()}
    assert {CODEC_FILE, "tokenizer_config.json", "tokenization_crosstimenet.py", "codec_crosstimenet.py"} <= files
    assert not [name for name in files if name.startswith(".")]
    assert (folder / CODEC_FILE).stat().st_mode & 0o777 == (folder / SETTINGS_FILE).stat().st_mode & 0o777
    stored = _config(folder)
    assert stored["auto_map"]["AutoTokenizer"] == ["tokenization_crosstimenet.CrossTimeNetTokenizer", None]
    assert stored["tokenizer_class"] == "CrossTimeNetTokenizer"


def test_the_settings_are_saved_with_it(codec, tmp_path, series):
    tokenizer = CrossTimeNetTokenizer.from_codec(
        codec, padding_side="left", truncation_side="left", model_max_length=3, pad_token="<nothing>"
    )
    assert tokenizer.convert_tokens_to_ids("<nothing>") == tokenizer.pad_token_id == 0
    ragged = [series[0], series[1][:3]]
    expected = tokenizer(ragged, domain="har", padding=True, truncation=True)["input_ids"]
    assert [len(row) for row in expected] == [3, 3]
    assert expected[1][:2] == [0, 0]
    tokenizer.save_pretrained(tmp_path)
    loaded = CrossTimeNetTokenizer.from_pretrained(tmp_path)
    assert loaded(ragged, domain="har", padding=True, truncation=True)["input_ids"] == expected
    assert CrossTimeNetTokenizer.from_pretrained(tmp_path, padding_side="right").padding_side == "right"


def test_saving_and_loading_draw_no_random_number(tokenizer, folder, tmp_path):
    before = torch.get_rng_state()
    CrossTimeNetTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    pickle.loads(pickle.dumps(tokenizer))
    CrossTimeNetTokenizer.from_codec(tokenizer.codec)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("duplicate", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_copied_or_pickled_tokenizer_is_the_same(tokenizer, series, duplicate):
    tokenizer.add_tokens(["<walk>"])
    other = duplicate(tokenizer)
    _same(tokenizer, other, series)
    assert other.convert_tokens_to_ids("<walk>") == 30
    assert other.codec is not tokenizer.codec
    assert not any(one.requires_grad for one in other.codec.parameters())
    assert repr(other) == repr(tokenizer)


def test_a_new_domain_moves_no_id(tokenizer, folder, make_codec, series, tmp_path):
    vocabulary = tokenizer.get_vocab()
    ids = tokenizer(series, domain="har")["input_ids"]
    decoded = tokenizer.batch_decode(ids)
    beats = tokenizer.batch_decode([[20, 21, 29]])
    grown = CrossTimeNetTokenizer.from_pretrained(folder)
    source = make_codec([EEG], seed=5)
    grown.add_domain(source)
    grown.add_domain({**EEG, "name": "aaa"})  # sorted by name it would come first
    grown.save_pretrained(folder)
    for one in (grown, CrossTimeNetTokenizer.from_pretrained(folder), pickle.loads(pickle.dumps(grown))):
        assert vocabulary.items() <= one.get_vocab().items()
        assert one.first_ids == [4, 20, 30, 36]
        assert len(one) == one.vocab_size == 42
        assert one(series, domain="har")["input_ids"] == ids
        for before, after in zip(
            decoded + beats, one.batch_decode(ids) + one.batch_decode([[20, 21, 29]]), strict=True
        ):
            assert np.array_equal(before, after)
        codes, _ = source.encode_codes(torch.from_numpy(series[:, :, :2]))
        assert one(series[:, :, :2], domain="eeg")["input_ids"] == (codes + 30).tolist()
        assert one.convert_ids_to_tokens(36) == "<aaa_0>"
    source.train()(torch.from_numpy(series[:, :, :2]))  # goes on training without the tokenizer
    assert one(series[:, :, :2], domain="eeg")["input_ids"] == (codes + 30).tolist()


def test_a_refused_domain_changes_nothing(tokenizer, make_codec, series):
    before = copy.deepcopy(tokenizer)
    broken = make_codec([EEG])
    with torch.no_grad():
        broken.domains[0].codebook.codes[1, 2] = torch.nan
    for added, message in (
        ({**EEG, "name": "har"}, "Domain 'har' is in the tokenizer already"),
        ({**EEG, "patch_length": 0}, "patch_length is 0"),
        ("q", "a CodecDomain or a mapping of its fields, .* got 'q'"),
        (broken, "codebook of domain 'eeg' in the codec holds values that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.add_domain(added)
    _same(before, tokenizer, series)
    assert tokenizer.first_ids == before.first_ids


def test_added_tokens_keep_their_ids_beside_new_domains(tokenizer, tmp_path):
    tokenizer.add_tokens([AddedToken("<walk>")])
    tokenizer.add_special_tokens({"extra_special_tokens": ["[GAP]"]})
    assert tokenizer.convert_tokens_to_ids(["<walk>", "[GAP]"]) == [30, 31]
    tokenizer.add_domain(EEG)
    assert tokenizer.first_id("eeg") == 32
    tokenizer.add_tokens(["<run>"])
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, CrossTimeNetTokenizer.from_pretrained(tmp_path)):
        assert sorted(one.get_vocab().values()) == list(range(39)) == list(range(len(one)))
        assert one("<walk> [GAP]<eeg_0> <run>")["input_ids"] == [30, 31, 32, 38]
        assert one.decode([30, 32, 31], domain="eeg").shape == (5, 2)  # they stand for no timestamps
        assert one.first_ids == [4, 20, 32]


def test_an_empty_tokenizer_grows(series):
    tokenizer = CrossTimeNetTokenizer()
    assert len(tokenizer) == 4
    assert tokenizer("[MASK]")["input_ids"] == [1]
    with pytest.raises(ValueError, match="0 domains"):
        tokenizer(series)
    with pytest.raises(ValueError, match=r"Unknown token '<har_1>'\. Domains: none"):
        tokenizer("<har_1>")
    tokenizer.add_domain({"name": "har", "num_input_channels": 3, "patch_length": 4, "codebook_size": 8})
    assert len(tokenizer(series)["input_ids"][0]) == 5


def _damage(folder):
    (folder / CODEC_FILE).write_bytes(b"no safetensors")


def _truncate(folder):
    content = (folder / CODEC_FILE).read_bytes()
    (folder / CODEC_FILE).write_bytes(content[: len(content) // 2])


def _empty(folder):
    (folder / CODEC_FILE).write_bytes(b"")


def _cut_settings(folder):
    content = (folder / SETTINGS_FILE).read_bytes()
    (folder / SETTINGS_FILE).write_bytes(content[:-9])


def _other_domains(folder):
    config = _config(folder)
    config["domains"] = config["domains"][:1]
    (folder / SETTINGS_FILE).write_text(json.dumps(config))


def _nothing_said(folder):
    config = _config(folder)
    del config["domains"]
    (folder / SETTINGS_FILE).write_text(json.dumps(config))
    weights = safetensors.torch.load_file(folder / CODEC_FILE)
    safetensors.torch.save_file(weights, folder / CODEC_FILE)


def _set_field(folder, name, value):
    config = json.loads((folder / SETTINGS_FILE).read_text())
    (folder / SETTINGS_FILE).write_text(json.dumps({**config, name: value}))


def _set(name, value):
    def change(weights):
        weights[name] = torch.full_like(weights[name], value)

    return lambda folder: _rewrite(folder, change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: os.remove(folder / CODEC_FILE), "holds no codec.safetensors.*save_pretrained"),
        (lambda folder: os.remove(folder / SETTINGS_FILE), f"holds codec.safetensors, but no {SETTINGS_FILE}.*again"),
        (_cut_settings, f"tokenizer/{SETTINGS_FILE} is no JSON .*damaged or was cut off.*again"),
        (lambda folder: _set_field(folder, "first_ids", [1e400, 5]), f"{SETTINGS_FILE}.first_ids is .*must be a list"),
        (_damage, "codec.safetensors cannot be read as safetensors.*damaged or was cut off.*again"),
        (_truncate, "codec.safetensors cannot be read as safetensors.*again"),
        (_empty, "codec.safetensors cannot be read as safetensors.*again"),
        (_other_domains, "codec.safetensors holds the domains har, ecg, but tokenizer_config.json describes har"),
        (_nothing_said, "codec.safetensors names no domains; its tokenizer_config.json must"),
        (
            lambda folder: _rewrite(folder, lambda weights: weights.pop("domains.1.channel_mean")),
            "codec.safetensors do not fit the domains .har, ecg.: domains.1.channel_mean is missing.*together",
        ),
        (
            lambda folder: _rewrite(folder, lambda weights: weights.update(extra=torch.zeros(1))),
            "do not fit the domains .*: extra is not known",
        ),
        (
            lambda folder: _rewrite(
                folder, lambda weights: weights.update({"domains.0.channel_scale": torch.ones(2)})
            ),
            r"domains.0.channel_scale has shape \(2,\) instead of \(3,\)",
        ),
        (_set("domains.1.codebook.codes", 0.0), "codebook of domain 'ecg' in .*codec.safetensors holds only zeros"),
        (_set("domains.0.codebook.codes", np.nan), "codebook of domain 'har' .* holds values that are not finite"),
        (_set("domains.0.codebook.codes", np.inf), "codebook of domain 'har' .* holds values that are not finite"),
        (_set("domains.0.decoder.blocks.0.gate", np.nan), "Weights of domain 'har' .* not finite: decoder.blocks.0"),
        (_set("domains.0.channel_scale", 0.0), "Domain 'har' .* channel_scale that is not above 0"),
    ],
)
def test_damaged_and_contradicting_files_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        CrossTimeNetTokenizer.from_pretrained(folder)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no codec\.safetensors"):
        CrossTimeNetTokenizer.from_pretrained(tmp_path)


def test_a_file_of_weights_alone_tells_its_domains(tokenizer, folder, series):
    other = CrossTimeNetTokenizer(codec_file=str(folder / CODEC_FILE))
    _same(tokenizer, other, series)


def test_the_file_is_written_whole_or_not_at_all(tokenizer, folder, series, monkeypatch):
    before = (folder / CODEC_FILE).read_bytes()

    def fail(weights, path, metadata=None):
        path = str(path)
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(weights_crosstimenet_codec.safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        tokenizer.save_vocabulary(str(folder))
    assert (folder / CODEC_FILE).read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    _same(tokenizer, CrossTimeNetTokenizer.from_pretrained(folder), series)


def test_what_could_not_be_loaded_again_is_not_written(tokenizer, tmp_path):
    tokenizer.codec.domains[1].codebook.codes.zero_()
    with pytest.raises(ValueError, match="codebook of domain 'ecg' in the tokenizer holds only zeros"):
        tokenizer.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_fingerprint_is_of_what_decides_the_codes(tokenizer, folder, make_codec):
    before = [tokenizer.fingerprint(name) for name in ("har", "ecg")]
    assert len(set(before)) == 2
    grown = CrossTimeNetTokenizer.from_pretrained(folder)
    grown.add_domain(make_codec([EEG], seed=5))
    assert [grown.fingerprint(place) for place in (0, 1)] == before
    with torch.no_grad():
        grown.codec.domains[0].output_projection.bias += 1.0
        grown.codec.domains[1].encoder.blocks[0].gate += 1e-6
    assert grown.fingerprint("har") == before[0]
    assert grown.fingerprint("ecg") != before[1]


# What is known to go wrong with tokenizers of one's own; the names say how it would show.


def test_the_codec_is_saved_and_loaded_through_the_meta_device(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    loaded = CrossTimeNetCodec.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == codec.state_dict().keys()
    for name, value in codec.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    values = random_values(2, 17, 3)
    with torch.no_grad():
        torch.testing.assert_close(loaded(values, domain="har").loss, codec(values, domain="har").loss)


def test_dilations_are_in_the_fingerprint(make_codec):
    usual, other = (make_codec([{**tiny_codec.DOMAINS[0], "dilations": one}]) for one in ([1, 4], [4, 1]))
    other.load_state_dict(usual.state_dict())
    prints = [CrossTimeNetTokenizer.from_codec(one).fingerprint() for one in (usual, other)]
    assert len(set(prints)) == 2


def test_a_seed_decides_the_weights_of_a_new_domain(make_codec):
    first, second, other = make_codec(seed=1), make_codec(seed=1), make_codec(seed=2)
    pairs = list(itertools.zip_longest(first.state_dict().values(), second.state_dict().values()))
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(first.domains[0].input_projection.weight, other.domains[0].input_projection.weight)


def test_trap_domains_keep_their_order_though_the_file_is_sorted(tokenizer, folder):
    assert [one["name"] for one in _config(folder)["domains"]] == ["har", "ecg"]  # not by the alphabet
    assert _config(folder)["first_ids"] == [4, 20]
    assert CrossTimeNetTokenizer.from_pretrained(folder).first_ids == tokenizer.first_ids


def test_trap_nothing_but_json_and_nothing_of_the_place_is_saved(folder, tmp_path):
    loaded = CrossTimeNetTokenizer.from_pretrained(folder, local_files_only=True)
    loaded.save_pretrained(tmp_path / "again")
    assert _config(tmp_path / "again") == _config(folder)
    known = {"domains", "first_ids", "added_tokens_decoder", "auto_map", "backend", "model_max_length"}
    known |= {"tokenizer_class", "pad_token", "mask_token", "cls_token", "sep_token"}
    assert set(_config(folder)) == known
    assert str(tmp_path) not in (tmp_path / "again" / "tokenizer_config.json").read_text()


def test_trap_no_argument_becomes_a_token_or_hides_a_method(tokenizer):
    assert tokenizer.special_tokens_map == {
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    assert tokenizer.extra_special_tokens == []


def test_trap_special_tokens_lie_in_front_of_the_codes(tokenizer, folder):
    assert tokenizer.get_added_vocab() == {"[PAD]": 0, "[MASK]": 1, "[CLS]": 2, "[SEP]": 3}
    assert not (folder / "added_tokens.json").exists()


def test_trap_only_files_that_exist_are_reported(tokenizer, tmp_path):
    reported = tokenizer.save_pretrained(tmp_path)
    assert [path for path in reported if not os.path.isfile(path)] == []
    assert str(tmp_path / CODEC_FILE) in reported
