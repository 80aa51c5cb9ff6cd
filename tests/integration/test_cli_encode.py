"""`hf-tsrep encode` of a stranger's own CSV: its vectors, the rows beside them, every format of file."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from machines import COLUMN_WORDS, table


def direct_embeddings(model_folder, frame, **settings):
    """Return the embeddings of every machine, by the Python interface and with nothing of the command line."""
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained(model_folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(model_folder)
    series = [part[["pressure", "load"]].to_numpy(np.float32) for _, part in frame.groupby("machine", sort=False)]
    return model.encode(extractor.transform(series), **settings)


def test_embeddings_are_those_of_the_python_interface(work, command_line):
    code, out, err = command_line(
        "encode", "--model", "model", "--input", "machines.csv", *COLUMN_WORDS, "--output", "e.npz"
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
    words = ("encode", "--model", work / "model", "--input", work / "machines.csv", *COLUMN_WORDS)
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
    words = ("encode", "--model", "model", "--input", "machines.csv", *COLUMN_WORDS, "--output")
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
    code, _, err = command_line("encode", "--model", "model", "--input", "machines.csv", *COLUMN_WORDS, *words)
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
    code, _, err = command_line("encode", "--model", "model", "--input", "machines.csv", *COLUMN_WORDS, *words)
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
        words = ("--input", name, *COLUMN_WORDS, "--output", f"{name}.npy")
        assert command_line("encode", "--model", "model", *words)[0] == 0
    np.testing.assert_array_equal(np.load("machines.csv.npy"), np.load("swapped.csv.npy"))
    frame.drop(columns="load").to_csv("short.csv", index=False)
    code, _, err = command_line(
        "encode", "--model", "model", "--input", "short.csv", *COLUMN_WORDS, "--output", "s.npy"
    )
    assert code == 2
    assert "It lacks load" in err


def test_channels_go_by_name_and_by_order_only_without_names(caplog):
    from types import SimpleNamespace

    from hf_tsrep.inference.inputs import channels_of_model

    def channels(wanted, names):
        return channels_of_model(SimpleNamespace(channel_names=wanted), names)

    assert channels(["a", "channel_0"], ["x", "channel_0", "a"]) == [2, 1]
    assert channels(["channel_0", "channel_1"], ["channel_0", "channel_1"]) is None
    with caplog.at_level("INFO", logger="hf_tsrep"):
        assert channels(["load", "pressure"], ["channel_0", "channel_1"]) is None
        assert channels(["channel_0", "channel_1"], ["load", "pressure"]) is None
        assert channels(["value"], ["load"]) is None
    assert caplog.text.count("The channels are taken in order") == 3
    assert channels(["load"], ["pressure"]) is None
    assert "'pressure' is taken for it" in caplog.text
    with pytest.raises(ValueError, match=r"takes 2 channels.*the input has 3"):
        channels(["channel_0", "channel_1"], ["channel_0", "channel_1", "channel_2"])
    with pytest.raises(ValueError, match=r"lacks pressure\. Did you mean 'presure'\? Name its columns"):
        channels(["load", "pressure"], ["presure", "load"])
    with pytest.raises(ValueError, match=r"lacks load\. pressure\. Name"):
        channels(["load", "pressure"], ["a", "b"])


@pytest.mark.parametrize("command", ["encode", "detect"])
def test_a_misspelt_header_is_not_read_in_order(work, command_line, command):
    frame = pd.read_csv("wide.csv")
    frame[["date", "load", "pressure"]].rename(columns={"pressure": "presure"}).to_csv("typo.csv", index=False)
    output = "typo.npy" if command == "encode" else "typo_scores.csv"
    code, _, err = command_line(command, "--model", "model", "--input", "typo.csv", "--output", output)
    assert code == 2
    assert "It lacks pressure. Did you mean 'presure'?" in err
    assert not Path(output).exists()


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
    assert "e.npz: the disk is full" in err
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


def test_what_only_the_method_takes_is_given_by_its_name(work, command_line):
    words = ("encode", "--model", "model", "--input", "machines.csv", *COLUMN_WORDS)
    assert command_line(*words, "--output", "m.npz", "--level", "timestamp", "--mask", "mask_last")[0] == 0
    masked = np.load("m.npz")
    expected = direct_embeddings("model", table(), level="timestamp", mask="mask_last")
    np.testing.assert_allclose(masked["embeddings"], np.concatenate(expected), atol=1e-6)
    assert json.loads(str(masked["provenance"]))["mask"] == "mask_last"
    code, _, err = command_line(*words, "--output", "m.npz", "--maks", "mask_last")
    assert code == 2
    assert "Unknown option --maks for encode with TS2VecModel. Did you mean --mask" in err
    code, _, err = command_line(*words, "--output", "m.npz", "--windw-length", "3")
    assert code == 2
    assert "--window-length" in err
