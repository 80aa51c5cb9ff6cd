import numpy as np
import pandas as pd
import pytest
import yaml

from hf_tsrep.data import (
    CorpusError,
    corpus_fingerprint,
    corpus_metadata,
    get_series,
    load_corpus,
    prepare_corpus,
    publishing,
)


@pytest.fixture
def ragged():
    lengths = [3, 5, 2]
    frame = pd.DataFrame(
        {"item": np.repeat(["a", "b", "c"], lengths), "x": np.arange(10.0), "y": np.arange(10.0)[::-1]}
    )
    frame["kind"] = np.repeat(["up", "down", "up"], lengths)
    frame.loc[4, "x"] = np.nan
    return frame


ARGUMENTS = {"item_column": "item", "label_column": "kind", "scaler": "standard"}


def test_a_prepared_folder_gives_the_equal_corpus(tmp_path, ragged):
    expected = load_corpus(ragged, **ARGUMENTS)
    folder = prepare_corpus(ragged, tmp_path / "prepared", **ARGUMENTS)
    again = load_corpus(folder)
    assert corpus_fingerprint(again) == corpus_fingerprint(expected)
    assert corpus_metadata(again) == corpus_metadata(expected)
    assert again["train"].features == expected["train"].features
    streamed = load_corpus(folder, streaming=True)
    for one, other in zip(get_series(streamed["train"]), get_series(expected["train"]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert corpus_metadata(streamed) == corpus_metadata(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_the_card_describes_the_corpus(tmp_path, hourly_frame):
    folder = prepare_corpus(hourly_frame, tmp_path / "prepared", split="70/10/20")
    assert {path.name for path in (folder / "data").iterdir()} == {
        f"{name}-00000-of-00001.parquet" for name in ("train", "validation", "test")
    }
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert "timeseries" in card["tags"]
    assert card["license"] == "unknown"
    assert card["configs"][0]["data_files"][0] == {"split": "train", "path": "data/train-*.parquet"}
    assert card["hf_tsrep_corpus"]["channel_names"] == ["load", "OT"]
    assert {feature["name"] for feature in card["dataset_info"]["features"]} >= {"series", "item_id"}
    assert "| validation | 1 | 10 |" in body
    assert corpus_fingerprint(load_corpus(folder)) in body


def test_a_large_split_is_written_to_several_files(tmp_path, ragged, monkeypatch):
    monkeypatch.setattr(publishing, "MAX_BYTES_PER_FILE", 150)
    folder = prepare_corpus(ragged, tmp_path / "prepared", **ARGUMENTS)
    assert len(list((folder / "data").iterdir())) > 1
    assert corpus_fingerprint(load_corpus(folder)) == corpus_fingerprint(load_corpus(ragged, **ARGUMENTS))


def test_nothing_half_written_stays(tmp_path, hourly_frame, monkeypatch):
    kept = prepare_corpus(hourly_frame, tmp_path / "prepared")
    before = sorted((path, path.stat().st_mtime_ns) for path in kept.rglob("*"))

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(publishing, "_card", fail)
    for target in ("prepared", "fresh"):
        with pytest.raises(OSError, match="disk full"):
            prepare_corpus(hourly_frame, tmp_path / target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]
    assert sorted((path, path.stat().st_mtime_ns) for path in kept.rglob("*")) == before


def test_overwriting_has_to_be_asked_for(tmp_path, hourly_frame):
    prepare_corpus(hourly_frame, tmp_path / "prepared")
    with pytest.raises(CorpusError, match="exists already"):
        prepare_corpus(hourly_frame, tmp_path / "prepared")
    changed = hourly_frame.assign(OT=0.5)
    prepare_corpus(changed, tmp_path / "prepared", overwrite=True)
    assert corpus_fingerprint(load_corpus(tmp_path / "prepared")) == corpus_fingerprint(load_corpus(changed))
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]
    with pytest.raises(CorpusError, match="Nothing to do"):
        prepare_corpus(hourly_frame)


class FakeHub:
    calls: list = []  # noqa: RUF012

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repository, **arguments):
        self.calls.append(("create", repository, arguments))

    def upload_folder(self, *, folder_path, repo_id, **arguments):
        files = sorted(str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file())
        self.calls.append(("upload", repo_id, files))


def test_publishing_uploads_the_folder(tmp_path, hourly_frame, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(publishing.tempfile, "gettempdir", lambda: str(tmp_path))
    assert prepare_corpus(hourly_frame, push_to_hub="somebody/load", private=True) is None
    created, uploaded = FakeHub.calls
    assert created == ("create", "somebody/load", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert uploaded == ("upload", "somebody/load", ["README.md", "data/train-00000-of-00001.parquet"])
    assert list(tmp_path.iterdir()) == []


def test_licences_without_derivatives_are_not_published(tmp_path, caplog, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    (tmp_path / "forecasting").mkdir()
    frame = pd.DataFrame({"date": pd.date_range("2016-07-01", periods=20 * 30, freq="D"), "OT": np.arange(600.0)})
    frame.to_csv(tmp_path / "forecasting" / "ETTh1.csv", index=False)
    with pytest.raises(CorpusError, match=r"cc-by-nd-4.0: no changed copy"):
        prepare_corpus("ett/ETTh1", push_to_hub="somebody/ETTh1", data_directory=tmp_path)
    assert FakeHub.calls == []
    prepare_corpus("ett/ETTh1", tmp_path / "own", data_directory=tmp_path)
    assert "for your own use" in caplog.text
