"""A stranger's own CSV through every command: train, encode, evaluate, resume, convert, prepare."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--hidden-size", "8", "--embedding-size", "12", "--num-hidden-layers", "3", "--logging-steps", "1")
COLUMNS = ("--item-column", "machine", "--label-column", "state")


def table():
    """24 machines in two states, of unequal lengths, with missing values."""
    rng = np.random.default_rng(0)
    parts = []
    for machine in range(24):
        steps = np.arange(20 + machine)
        state = machine % 2
        part = pd.DataFrame(
            {
                "machine": f"m{machine:02d}",
                "time": pd.date_range("2026-01-01", periods=len(steps), freq="h"),
                "pressure": np.sin(steps * (0.9 if state else 0.2)) + 0.1 * rng.normal(size=len(steps)) + 5,
                "load": rng.normal(size=len(steps)),
                "state": ["fine", "worn"][state],
            }
        )
        part.loc[3:4, "pressure"] = np.nan
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a long table, a wide one, and a model that was trained on the long one."""
    import torch

    from hf_tsrep.cli.main import run

    place = tmp_path_factory.mktemp("flow")
    here = Path.cwd()
    os.chdir(place)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        table().to_csv("machines.csv", index=False)
        wide = table()[lambda frame: frame.machine >= "m12"][["pressure", "load"]].ffill().reset_index(drop=True)
        wide.insert(0, "date", pd.date_range("2026-01-01", periods=len(wide), freq="h"))
        wide.to_csv("wide.csv", index=False)
        words = ("--method", "ts2vec", "--corpus", "machines.csv", *COLUMNS, "--scaler", "standard")
        assert run(["-q", "pretrain", *words, "--output-dir", "model", "--max-steps", "5", *TINY]) == 0
        yield place
    finally:
        torch.set_num_threads(threads)
        os.chdir(here)


@pytest.fixture
def work(folder, tmp_path, monkeypatch):
    """A folder of the test's own with copies of the tables and the model."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def direct_embeddings(model_folder, frame, **settings):
    """Return the embeddings of every machine, by the Python interface and with nothing of the command line."""
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained(model_folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(model_folder)
    series = [part[["pressure", "load"]].to_numpy(np.float32) for _, part in frame.groupby("machine", sort=False)]
    return model.encode(extractor.transform(series), **settings)


def test_training_leaves_a_complete_folder(folder):
    names = {path.name for path in (folder / "model").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "modeling_ts2vec.py"} <= names
    assert json.loads((folder / "model/config.json").read_text())["embedding_size"] == 12
    record = json.loads((folder / "model/pretraining.json").read_text())
    assert record["training"]["max_steps"] == 5
    assert record["data"]["item_column"] == "machine"


def test_embeddings_are_those_of_the_python_interface(work, command_line):
    code, out, err = command_line(
        "encode", "--model", "model", "--input", "machines.csv", *COLUMNS, "--output", "e.npz"
    )
    assert code == 0, err
    assert "e.npz: 24 embeddings of 12 numbers" in out
    stored = np.load("e.npz")
    np.testing.assert_allclose(stored["embeddings"], direct_embeddings("model", table()), atol=1e-6)
    assert stored["embeddings"].std(axis=0).min() > 0
    assert stored["item_id"].tolist() == [f"m{index:02d}" for index in range(24)]
    assert stored["label"].tolist() == ["fine", "worn"] * 12
    assert set(stored["split"]) == {"train"}


def test_provenance_identifies_the_vectors_and_no_place(work, command_line):
    words = ("encode", "--model", work / "model", "--input", work / "machines.csv", *COLUMNS)
    command_line(*words, "--output", "a.npz", "--level", "window", "--window-length", "10", "--normalize")
    provenance = json.loads(str(np.load("a.npz")["provenance"]))
    assert provenance["model"] == "model"
    assert provenance["method"] == "ts2vec"
    assert (provenance["level"], provenance["window_length"], provenance["pooling"]) == ("window", 10, "max")
    assert provenance["normalize"] is True
    assert provenance["embedding_size"] == 12
    assert len(provenance["corpus_fingerprint"]) == len(provenance["weights_sha256"]) == 64
    assert provenance["preparation"]["channel_names"] == ["pressure", "load"]
    assert str(work) not in json.dumps(provenance)
    vectors = np.load("a.npz")["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_every_format_holds_the_same(work, command_line):
    words = ("encode", "--model", "model", "--input", "machines.csv", *COLUMNS, "--output")
    for suffix in (".npz", ".npy", ".csv", ".parquet"):
        assert command_line(*words, f"e{suffix}")[0] == 0
    expected = np.load("e.npz")
    np.testing.assert_array_equal(np.load("e.npy"), expected["embeddings"])
    neighbour = json.loads(Path("e.npy.json").read_text())
    assert neighbour["columns"]["item_id"] == expected["item_id"].tolist()
    assert neighbour["provenance"]["corpus_fingerprint"]
    assert json.loads(Path("e.csv.json").read_text())["provenance"]["method"] == "ts2vec"
    text = pd.read_csv("e.csv")
    np.testing.assert_allclose(text.filter(like="embedding_").to_numpy(), expected["embeddings"], rtol=1e-5, atol=1e-7)
    columns = pd.read_parquet("e.parquet")
    np.testing.assert_array_equal(np.stack(columns["embedding"]), expected["embeddings"])
    for frame in (text, columns):
        for name in ("item_id", "split", "label"):
            assert frame[name].astype(str).tolist() == expected[name].tolist()


def test_rows_of_timestamps_belong_to_their_steps(work, command_line):
    words = ("--level", "timestamp", "--window-length", "5", "--causal", "--output", "t.npz")
    code, _, err = command_line("encode", "--model", "model", "--input", "machines.csv", *COLUMNS, *words)
    assert code == 0, err
    stored, frame = np.load("t.npz"), table()
    assert len(stored["embeddings"]) == len(frame)
    np.testing.assert_array_equal(stored["timestamp"], frame["time"].to_numpy("datetime64[ms]"))
    assert stored["item_id"].tolist() == frame["machine"].tolist()
    rows = stored["item_id"] == "m07"
    np.testing.assert_array_equal(stored["step"][rows], np.arange(27))
    direct = direct_embeddings("model", frame, level="timestamp", window_length=5, causal=True)
    np.testing.assert_allclose(stored["embeddings"][rows], direct[7], atol=1e-6)


def test_rows_of_windows_belong_to_their_windows(work, command_line):
    words = ("--level", "window", "--window-length", "8", "--stride", "3", "--output", "w.parquet")
    code, _, err = command_line("encode", "--model", "model", "--input", "machines.csv", *COLUMNS, *words)
    assert code == 0, err
    stored = pd.read_parquet("w.parquet")
    one = stored[stored["item_id"] == "m09"]
    part = table()[lambda frame: frame["machine"] == "m09"]
    for _, row in one.iterrows():
        inside = part.iloc[row["window_start"] : row["window_end"]]
        np.testing.assert_allclose(row["embedding"], direct_embeddings("model", inside)[0], atol=1e-6)
    assert one["window_start"].tolist() == list(range(0, one["window_start"].max() + 1, 3))
    assert one["window_end"].max() == len(part)


@pytest.mark.parametrize("window_length", [1, 4, 7])
@pytest.mark.parametrize("stride", [None, 1, 3, 7, 11])
def test_window_starts_are_those_of_encode(window_length, stride):
    from hf_tsrep import TS2VecConfig, TS2VecModel
    from hf_tsrep.cli.encode import _window_starts

    model = TS2VecModel(TS2VecConfig(num_input_channels=1, hidden_size=2, embedding_size=2, num_hidden_layers=1))
    series = [np.ones((length, 1), np.float32) for length in range(1, 30)]
    encoded = model.encode(series, level="window", window_length=window_length, stride=stride)
    for one, windows in zip(series, encoded, strict=True):
        assert len(_window_starts(len(one), window_length, stride)) == len(windows), len(one)


def test_the_training_corpus_needs_no_columns_again_and_another_table_does(work, command_line):
    code, out, err = command_line("encode", "--model", "model", "--input", "machines.csv", "--output", "e.npz")
    assert code == 0, err
    assert "24 embeddings" in out
    shutil.copy("machines.csv", "others.csv")
    code, _, err = command_line("encode", "--model", "model", "--input", "others.csv", "--output", "o.npz")
    assert code == 2
    assert "others.csv" in err
    assert "item_column" in err
    assert not Path("o.npz").exists()


def test_channels_are_taken_by_name(work, command_line):
    frame = table()
    frame[["machine", "time", "load", "state", "pressure"]].assign(extra=1.0).to_csv("swapped.csv", index=False)
    for name in ("machines.csv", "swapped.csv"):
        words = ("--input", name, *COLUMNS, "--output", f"{name}.npy")
        assert command_line("encode", "--model", "model", *words)[0] == 0
    np.testing.assert_array_equal(np.load("machines.csv.npy"), np.load("swapped.csv.npy"))
    frame.drop(columns="load").to_csv("short.csv", index=False)
    code, _, err = command_line("encode", "--model", "model", "--input", "short.csv", *COLUMNS, "--output", "s.npy")
    assert code == 2
    assert "It lacks load" in err


def test_a_failed_write_leaves_the_old_file_and_no_draft(work, command_line, monkeypatch):
    words = ("encode", "--model", "model", "--input", "machines.csv", "--output", "e.npz")
    assert command_line(*words)[0] == 0
    before, names = Path("e.npz").read_bytes(), sorted(os.listdir())

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    code, _, err = command_line(*words)
    assert code == 1
    assert "No space left" in err
    assert Path("e.npz").read_bytes() == before
    assert sorted(os.listdir()) == names


def test_unknown_splits_and_settings_are_refused(work, command_line):
    words = ("encode", "--model", "model", "--input", "machines.csv", "--output", "e.npz")
    code, _, err = command_line(*words, "--splits", "tests")
    assert code == 2
    assert "'tests'" in err
    assert "train" in err
    code, _, err = command_line(*words, "--level", "series")
    assert code == 2
    assert "'series'" in err
    code, _, err = command_line(*words, "--level", "timestamp", "--pooling", "multiscale")
    assert code == 2
    assert "one length" in err


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
    code, out, _ = command_line("results", "model")
    assert code == 0
    assert out.startswith("| corpus |")
    assert f"{entry['metrics']['mse_2']:.3f}" in out
    code, out, _ = command_line("results", "model", "--metrics", "mae")
    assert f"{entry['metrics']['mae_2']:.3f}" in out


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


def test_classification_of_an_archive(work, command_line):
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
    words = ("pretrain", "--method", "ts2vec", "--corpus", "machines.csv", *COLUMNS, "--max-steps", "2", *TINY)
    code, _, err = command_line(*words, "--output-dir", "quiet", "--quiet")
    assert (code, err) == (0, "")
    code, out, err = command_line(*words, "--output-dir", "loud")
    assert code == 0
    assert "Training" in err
    assert "loss=" in err
    assert "loud: ts2vec, 2 steps" in out
    code, _, err = command_line("encode", "--model", "loud", "--input", "machines.csv", "--output", "e.npz")
    assert "Encoding" in err


def test_settings_files_and_resuming(work, command_line):
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
    code, out, err = command_line("data", "prepare", "machines.csv", *COLUMNS, "--output", "corpus")
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


def test_publishing_hands_the_folder_over(work, command_line, monkeypatch):
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


def test_control_c_ends_with_one_line_and_the_run_resumes(work, command_line):
    words = ["pretrain", "--method", "ts2vec", "--corpus", "machines.csv", *COLUMNS, "--output-dir", "long"]
    words += ["--save-steps", "3", *TINY]
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


def test_the_module_is_the_command_also_under_accelerate(tmp_path):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "hf_tsrep", "list"]
    done = subprocess.run(accelerate, capture_output=True, text=True, env=subprocess_environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "TS2VecModel" in done.stdout
