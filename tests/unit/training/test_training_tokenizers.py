"""Tokenizers that a training reads, and what is said of a folder without one."""

import json
import shutil

import pytest

from hf_tsrep.errors import SettingsError
from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
from hf_tsrep.training.crosstimenet.token_data import load_tokenizer, tokenizer_fingerprint

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
