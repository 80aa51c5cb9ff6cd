"""What may be published: a complete folder without anything that runs code or is secret."""

import json
import pickle

import pytest
import torch

from hf_tsrep import TS2VecConfig, TS2VecModel
from hf_tsrep.hub import IncompleteModelError, build_model_card, check_model_folder, push_to_hub
from hf_tsrep.hub.publish import _files


@pytest.fixture
def folder(tmp_path):
    TS2VecModel(
        TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=6, num_hidden_layers=2)
    ).save_pretrained(tmp_path)
    build_model_card(tmp_path).save(tmp_path / "README.md")
    return tmp_path


def test_a_complete_folder_passes_and_checkpoints_are_left_behind(folder):
    complete = list(_files(folder))
    for name in ("__pycache__", "checkpoint-600"):
        (folder / name).mkdir()
        (folder / name / "optimizer.pt").write_bytes(b"x")
    check_model_folder(folder)
    assert list(_files(folder)) == complete


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "README.md").unlink(), "README.md, the card, is missing"),
        (lambda folder: (folder / "README.md").write_text("# hello"), "README.md has no library_name, license"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda folder: (folder / "modeling_ts2vec.py").unlink(), "modeling_ts2vec.py is missing, the code"),
        (
            lambda folder: (folder / "kernels_contrast.py").unlink(),
            "kernels_contrast.py is missing, which modeling_ts2vec.py",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors, the weights, is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"version https"), "model.safetensors is damaged"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
            ),
            "model-00001-of-00002.safetensors, the weights, is missing",
        ),
        (lambda folder: torch.save({}, folder / "training_args.bin"), "training_args.bin may run code"),
        (lambda folder: (folder / "index.pkl").write_bytes(pickle.dumps({})), "index.pkl may run code"),
        (
            lambda folder: ((folder / "deep").mkdir(), torch.save({}, folder / "deep" / "o.PT")),
            "deep/o.PT may run code",
        ),
        (lambda folder: (folder / "link.txt").symlink_to("/etc/hostname"), "link.txt is a link"),
        (lambda folder: (folder / ".env").write_text("HF_TOKEN=x"), ".env looks like a secret"),
    ],
)
def test_incomplete_and_unsafe_folders_are_refused_before_anything_is_sent(folder, monkeypatch, spoil, message):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    spoil(folder)
    with pytest.raises(IncompleteModelError, match=message):
        push_to_hub(folder, "me/model")


def test_all_faults_are_listed_at_once(folder):
    for name in ("README.md", "config.json", "model.safetensors"):
        (folder / name).unlink()
    with pytest.raises(IncompleteModelError, match=r"(?s)config.json is missing.*weights.*card"):
        check_model_folder(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        push_to_hub(tmp_path / "nowhere", "me/model")
