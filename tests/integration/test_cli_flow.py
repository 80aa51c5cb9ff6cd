"""A stranger's own CSV through the commands: train, evaluate, resume, convert, prepare, push."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from machines import COLUMN_WORDS, TINY_WORDS

ROOT = Path(__file__).resolve().parents[2]


def test_training_leaves_a_complete_folder(trained_folder):
    names = {path.name for path in (trained_folder / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "modeling_ts2vec.py"} <= names
    assert json.loads((trained_folder / "model/config.json").read_text())["embedding_size"] == 12
    record = json.loads((trained_folder / "model/pretraining.json").read_text())
    assert record["training"]["max_steps"] == 5
    assert record["data"]["item_column"] == "machine"


def test_evaluation_is_printed_recorded_and_in_the_card(work, command_line):
    before = Path("model/README.md").read_text()
    words = ("--protocol", "forecasting", "--split", "70/10/20", "--horizons", "2,3", "--context-length", "8")
    code, out, err = command_line("evaluate", "--model", "model", "--corpus", "wide.csv", *words)
    assert code == 0, err
    entry = json.loads(Path("model/results.json").read_text())["results"][0]
    assert entry["settings"]["horizons"] == [2, 3]
    assert entry["model"] == "model"
    assert entry["seed"] == json.loads(Path("model/pretraining.json").read_text())["training"]["seed"]
    printed = dict(line.split() for line in out.splitlines() if line.startswith(("mse", "mae")))
    assert float(printed["mse_2"]) == pytest.approx(entry["metrics"]["mse_2"], abs=1e-4)
    card = Path("model/README.md").read_text()
    assert "mse_2" in card.split("## Results")[1]
    assert card.split("## Training")[1].split("## Results")[0] == before.split("## Training")[1].split("## Results")[0]
    assert "model-index" in card.split("---")[1]
    assert command_line("check", "model")[0] == 0, "results and card have their new sums"
    code, out, _ = command_line("results", "model")
    assert code == 0
    assert out.startswith("## ")
    assert "| corpus |" in out
    assert f"{entry['metrics']['mse_2']:.3f}" in out
    code, out, _ = command_line("results", "model", "--metrics", "mae")
    assert f"{entry['metrics']['mae_2']:.3f}" in out


def test_a_folder_and_a_table_are_checked_bit_for_bit(work, command_line):
    code, out, err = command_line("check", "model")
    assert code == 0, err
    assert "files are as they were written. TS2VecModel opens" in out
    assert "Not in SHA256SUMS" not in out, "every file of a finished folder has its sum"
    weights = Path("model/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    Path("model/notes.txt").write_text("mine")
    code, _, err = command_line("check", "model")
    assert code == 1
    assert err.startswith("hf-tsrep: error: model: model.safetensors differs. Save or download it again")
    code, out, err = command_line("push", "--model", "model", "--repo-id", "me/model")
    assert code == 2
    assert "model.safetensors differs" in err
    assert command_line("check", "model", "--accept")[0] == 0
    assert command_line("check", "model")[0] == 0
    words = ("encode", "--model", "model", "--input", "machines.csv", "--output", "e.csv")
    assert command_line(*words)[0] == 0
    code, out, _ = command_line("check", "e.csv")
    assert (code, out) == (0, "e.csv is the file that e.csv.json describes.\n")
    Path("e.csv").write_text(Path("e.csv").read_text().replace("m00", "m01"))
    code, _, err = command_line("check", "e.csv")
    assert code == 1
    assert "e.csv is not the file that e.csv.json describes" in err
    assert "machines.csv.json is not there" in command_line("check", "machines.csv")[2]


def test_evaluation_prepares_the_corpus_as_the_training_did(work, command_line):
    """A model that was trained on scaled values must be given scaled values of the training part's statistics."""
    words = (
        "evaluate",
        "--model",
        "model",
        "--corpus",
        "wide.csv",
        "--protocol",
        "forecasting",
        "--split",
        "70/10/20",
    )
    words = (*words, "--horizons", "2", "--context-length", "8", "--output")
    assert command_line(*words, "default.json")[0] == 0
    assert command_line(*words, "standard.json", "--scaler", "standard")[0] == 0
    assert command_line(*words, "raw.json", "--scaler", "none")[0] == 0
    default, standard, raw = (
        json.loads(Path(f"{name}.json").read_text())["results"][0]["metrics"]["mse_2"]
        for name in ("default", "standard", "raw")
    )
    assert default == standard
    assert default != pytest.approx(raw, rel=1e-3)
    assert not Path("model/results.json").exists()


def test_a_file_of_arrays_is_evaluated_by_classification(work, command_line):
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        labels = np.arange(20) % 2
        waves = np.sin(np.arange(25)[None] * np.where(labels, 0.9, 0.2)[:, None])
        arrays[f"x_{part}"] = np.stack([waves + 5, rng.normal(size=waves.shape)], axis=2).astype(np.float32)
        arrays[f"y_{part}"] = labels
    np.savez("waves.npz", **arrays)
    words = ("--corpus", "waves.npz", "--protocol", "classification", "--classifiers", "svm", "--pooling", "mean")
    code, out, err = command_line("evaluate", "--model", "model", *words)
    assert code == 0, err
    metrics = dict(line.split() for line in out.splitlines() if line.startswith("svm"))
    assert float(metrics["svm_accuracy"]) == 1.0
    assert "logistic" not in out


def test_quiet_is_quiet_and_the_default_is_not(work, command_line):
    words = ["pretrain", "--method", "ts2vec", "--corpus", "machines.csv", *COLUMN_WORDS]
    words += ["--max-steps", "2", *TINY_WORDS]
    code, _, err = command_line(*words, "--output-dir", "quiet", "--quiet")
    assert (code, err) == (0, "")
    code, out, err = command_line(*words, "--output-dir", "loud")
    assert code == 0
    assert "Training" in err
    assert "loss=" in err
    assert "loud: ts2vec, 2 steps" in out
    code, _, err = command_line("encode", "--model", "loud", "--input", "machines.csv", "--output", "e.npz")
    assert "Encoding" in err


def test_a_run_from_a_settings_file_is_resumed(work, command_line):
    Path("tiny.yaml").write_text(
        "method: ts2vec\ncorpus: machines.csv\nitem_column: machine\nlabel_column: state\nhidden_size: 8\n"
        "embedding_size: 12\nnum_hidden_layers: 3\nsave_steps: 2\nlogging_steps: 1\nmax_steps: 4\n"
    )
    words = ("pretrain", "--config", "tiny.yaml", "--output-dir", "run")
    code, out, err = command_line(*words)
    assert code == 0, err
    assert "4 steps" in out
    code, _, err = command_line(*words)
    assert code == 1
    assert "run" in err
    code, out, err = command_line(*words, "--resume", "--max-steps", "6")
    assert code == 0, err
    history = json.loads(Path("run/training_log.json").read_text())["history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    Path("tiny.yaml").write_text("hiden_size: 8\n")
    code, _, err = command_line(*words, "--method", "ts2vec", "--corpus", "machines.csv", "--output-dir", "other")
    assert code == 2
    assert "'hidden_size'" in err
    assert "tiny.yaml" in err


def test_a_corpus_is_prepared_and_looked_at(work, command_line):
    code, out, err = command_line("data", "prepare", "machines.csv", *COLUMN_WORDS, "--output", "corpus")
    assert code == 0, err
    code, out, _ = command_line("data", "info", "corpus")
    assert code == 0
    assert "24 series of 20 to 43 steps, 48 missing values" in out
    assert "pressure, load" in out
    assert "2: fine, worn" in out
    code, _, err = command_line("data", "prepare", "machines.csv", "--output", "corpus")
    assert code == 2
    assert "exists already" in err
    code, out, _ = command_line("data", "list", "uea/*")
    assert "uea/JapaneseVowels" in out.splitlines()


def test_an_official_checkpoint_becomes_a_model(work, command_line):
    import torch
    from transformers import AutoModel

    from hf_tsrep import TS2VecConfig, TS2VecModel

    config = TS2VecConfig(
        num_input_channels=2, hidden_size=4, embedding_size=6, num_hidden_layers=3, gate_padding=False
    )
    model = TS2VecModel(config).eval()
    official = {"n_averaged": torch.tensor(1)}
    for name, value in model.state_dict().items():
        for ours, theirs in (
            ("input_projection", "input_fc"),
            ("blocks.", "feature_extractor.net."),
            ("first_convolution", "conv1.conv"),
            ("second_convolution", "conv2.conv"),
            ("residual_projection", "projector"),
        ):
            name = name.replace(ours, theirs)
        official[f"module.{name}"] = value
    torch.save(official, "official.pkl")
    Path("arguments.yaml").write_text("input_dims: 2\nhidden_dims: 4\noutput_dims: 6\ndepth: 2\n")
    words = ("convert", "ts2vec", "--checkpoint", "official.pkl", "--hyperparameters", "arguments.yaml")
    code, _, err = command_line(*words, "--output-dir", "converted")
    assert code == 0, err
    series = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    converted = AutoModel.from_pretrained("converted")
    np.testing.assert_allclose(converted.encode(series), model.encode(series), atol=1e-6)
    Path("arguments.yaml").write_text("depth: 5\n")
    code, _, err = command_line(*words, "--output-dir", "again")
    assert code == 2
    assert "contradict" in err


def test_push_hands_the_whole_folder_over(work, command_line, monkeypatch):
    import hf_tsrep.hub

    calls = []

    def publish(*arguments, **options):
        calls.append((arguments, options))
        return "https://hub/commit/1"

    monkeypatch.setattr(hf_tsrep.hub, "push_to_hub", publish)
    code, out, _ = command_line("push", "--model", "model", "--repo-id", "me/mine", "--private")
    assert (code, out) == (0, "https://hub/commit/1\n")
    assert calls[0][0] == ("model", "me/mine")
    assert calls[0][1]["private"] is True


def test_a_fresh_training_run_may_be_published(work):
    """Checkpoints of the run lie in the finished folder and must not stand in the way."""
    from hf_tsrep.hub import check_model_folder

    assert list(Path("model").glob("checkpoint-*"))
    check_model_folder("model")


def subprocess_environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_control_c_ends_with_one_line_and_the_run_resumes(work, command_line):
    words = ["pretrain", "--method", "ts2vec", "--corpus", "machines.csv", *COLUMN_WORDS, "--output-dir", "long"]
    words += ["--save-steps", "3", *TINY_WORDS]
    command = [sys.executable, "-m", "hf_tsrep", *words, "--max-steps", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=subprocess_environment()) as process:
        deadline = time.monotonic() + 120
        while not list(Path("long").glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "hf-tsrep: error: interrupted."
    assert "Traceback" not in err
    last = max(int(path.name.split("-")[1]) for path in Path("long").glob("checkpoint-*"))
    code, out, err = command_line(*words, "--max-steps", last + 3, "--resume")
    assert code == 0, err
    assert f"{last + 3} steps" in out


@pytest.mark.slow
def test_the_module_is_the_command_also_under_accelerate(tmp_path):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "hf_tsrep", "list"]
    done = subprocess.run(accelerate, capture_output=True, text=True, env=subprocess_environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "TS2VecModel" in done.stdout
