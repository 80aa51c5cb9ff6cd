import numpy as np
import pandas as pd
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, IterableDatasetDict

from hf_tsrep.data import (
    CorpusError,
    corpus_fingerprint,
    corpus_metadata,
    get_labels,
    get_series,
    get_timestamps,
    list_known_corpora,
    load_corpus,
    split_boundaries,
    time_features,
)
from hf_tsrep.data.known_corpora import bundled_directory, find_known_corpus

needs_bundled = pytest.mark.skipif(
    bundled_directory() is None, reason="aeon is not installed; it carries the problems"
)


def etth_like(num_steps, freq="h"):
    generator = np.random.default_rng(1)
    frame = pd.DataFrame(generator.normal(size=(num_steps, 3)).round(3), columns=["HUFL", "HULL", "OT"])
    frame.insert(0, "date", pd.date_range("2016-07-01", periods=num_steps, freq=freq))
    return frame


@pytest.fixture
def data_directory(tmp_path):
    folder = tmp_path / "forecasting"
    folder.mkdir()
    etth_like(15_000).to_csv(folder / "ETTh1.csv", index=False)
    etth_like(200, "D").to_csv(folder / "exchange_rate.csv", index=False)
    weather = etth_like(300, "10min").rename(columns={"HUFL": "PAR (\ufffdmol/m\ufffd/s)"})
    weather.loc[5, "OT"] = -9999.0
    weather.loc[7, "date"] = weather.loc[6, "date"]
    weather.to_csv(folder / "weather.csv", index=False)
    return tmp_path


def test_a_loaded_corpus_has_the_columns_of_the_format(hourly_frame):
    corpus = load_corpus(hourly_frame)
    assert isinstance(corpus, DatasetDict)
    assert list(corpus) == ["train"]
    features = corpus["train"].features
    assert features["series"] == Array2D((None, 2), "float32")
    assert {"item_id", "timestamp", "freq", "domain"} <= set(features)
    assert "label" not in features


def test_the_months_of_ett_rejoin_to_the_series(data_directory, monkeypatch):
    monkeypatch.setenv("HF_TSREP_DATA", str(data_directory))
    corpus = load_corpus("ett/ETTh1")
    parts = [get_series(corpus[name])[0] for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [8640, 2880, 2880]
    whole = etth_like(15_000)[["HUFL", "HULL", "OT"]].to_numpy(np.float32)
    np.testing.assert_array_equal(np.concatenate(parts), whole[:14_400])
    times = np.concatenate([get_timestamps(split)[0] for split in corpus.values()])
    assert (np.diff(times) == np.timedelta64(1, "h")).all()
    metadata = corpus_metadata(corpus)
    assert (metadata.name, metadata.task, metadata.freq, metadata.licence) == (
        "ett/ETTh1",
        "forecasting",
        "h",
        "cc-by-nd-4.0",
    )


def test_a_split_is_the_standard_one_or_the_chosen_shares(data_directory):
    lengths = {
        split: [len(get_series(part)[0]) for part in load_corpus("forecasting/exchange_rate", **arguments).values()]
        for split, arguments in (
            ("standard", {"data_directory": data_directory}),
            ("60/20/20", {"data_directory": data_directory, "split": "60/20/20"}),
            ("none", {"data_directory": data_directory, "split": "none"}),
        )
    }
    assert lengths == {"standard": [140, 20, 40], "60/20/20": [120, 40, 40], "none": [200]}


def test_shares_are_rounded_as_published():
    # exchange_rate and weather have 7,588 and 52,696 steps
    assert split_boundaries(52_696, "70/10/20")["validation"] == (36_887, 42_157)
    assert split_boundaries(7_588, "60/20/20")["validation"] == (4_552, 6_070)
    assert split_boundaries(7, "50/50") == {"train": (0, 3), "test": (3, 7)}


@pytest.mark.parametrize(
    ("split", "num_steps", "message"),
    [
        ("70/20/20", 100, "add up to 110"),
        ("most", 100, "cannot be read"),
        ("100/0/0", 100, "empty"),
        ("70/10/20", 3, "empty"),
        ("12/4/4 months", 100, "no timestamps"),
    ],
)
def test_a_bad_split_is_refused_with_its_reason(split, num_steps, message):
    with pytest.raises(CorpusError, match=message):
        split_boundaries(num_steps, split)


def test_a_split_by_months_needs_enough_steps(hourly_frame):
    with pytest.raises(CorpusError, match="needs 14400 steps"):
        load_corpus(hourly_frame, split="12/4/4 months")


def test_weather_is_repaired_in_its_marks_duplicate_date_and_units(data_directory, caplog):
    corpus = load_corpus("forecasting/weather", data_directory=data_directory, split="none")
    series = get_series(corpus["train"])[0]
    assert len(series) == 300
    assert np.argwhere(np.isnan(series)).tolist() == [[5, 2]]
    assert "line 9, column 'date'" in caplog.text
    metadata = corpus_metadata(corpus)
    assert metadata.channel_names[0] == "PAR (µmol/m²/s)"
    assert metadata.freq == "10min"
    assert any("-9999" in note for note in metadata.notes)


def test_a_target_selects_channels(data_directory):
    corpus = load_corpus("ett/ETTh1", data_directory=data_directory, target=["OT", "HUFL"])
    assert corpus_metadata(corpus).channel_names == ("OT", "HUFL")
    whole = etth_like(15_000)
    np.testing.assert_array_equal(get_series(corpus["train"])[0], whole[["OT", "HUFL"]].to_numpy(np.float32)[:8640])
    for target in ("univariate", ["univariate"], "OT"):
        univariate = load_corpus("ett/ETTh1", data_directory=data_directory, target=target)
        assert corpus_metadata(univariate).channel_names == ("OT",)


def test_time_features_are_in_front_and_scaled_on_train(hourly_frame):
    raw = time_features(hourly_frame["date"].to_numpy())
    assert raw.shape == (100, 7)
    # 2020-01-01 was a Wednesday in ISO week 1
    assert raw[1].tolist() == [0, 1, 2, 1, 1, 1, 1]
    assert time_features(np.array(["2021-01-03T23:45"], dtype="datetime64[ms]"))[0].tolist() == [
        45,
        23,
        6,
        3,
        3,
        1,
        53,
    ]
    corpus = load_corpus(hourly_frame, split="70/10/20", scaler="standard", time_features=True)
    metadata = corpus_metadata(corpus)
    assert metadata.num_time_features == 7
    assert metadata.channel_names[:2] == ("minute", "hour")
    assert metadata.channel_names[7:] == ("load", "OT")
    train = get_series(corpus["train"])[0]
    hour = raw[:70, 1]
    np.testing.assert_allclose(train[:, 1], (hour - hour.mean()) / hour.std(), rtol=1e-5, atol=1e-6)
    assert len(metadata.scaler["mean"]) == 2
    assert len(metadata.time_feature_scaler["mean"]) == 7


def test_time_features_need_timestamps_to_be_computed_from():
    with pytest.raises(CorpusError, match="need timestamps"):
        load_corpus(pd.DataFrame({"value": [1.0, 2.0]}), time_features=True)


@needs_bundled
def test_problems_that_aeon_bundles_need_no_data_directory():
    corpus = load_corpus("uea/JapaneseVowels", scaler="recommended")
    assert (len(corpus["train"]), len(corpus["test"])) == (270, 370)
    assert corpus_metadata(corpus).scaler["kind"] == "standard"
    assert np.bincount(get_labels(corpus["train"])).tolist() == [30] * 9
    assert "uea/BasicMotions" in list_known_corpora()


@needs_bundled
@pytest.mark.parametrize(("name", "kind"), [("ucr/GunPoint", None), ("ucr/PickupGestureWiimoteZ", "global")])
def test_only_ucr_problems_that_the_archive_leaves_raw_are_scaled(name, kind):
    scaler = corpus_metadata(load_corpus(name, scaler="recommended")).scaler
    assert (scaler or {}).get("kind") == kind


def test_the_recommended_scaler_of_own_data_is_the_standard_one(hourly_frame):
    assert corpus_metadata(load_corpus(hourly_frame, scaler="recommended")).scaler["kind"] == "standard"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ett/ETTh3", r"Did you mean .*'ett/ETTh1'.* Tried: forecasting/ETTh3.csv in "),
        ("exchang_rate", r"Did you mean 'forecasting/exchange_rate'"),
        ("ETH1", r"Did you mean 'ett/ETTh1'"),
        ("nobody/nothing-like it", "no known name"),
        ("./absent.csv", "no such file or folder"),
        ("ett/../../etc", "Unknown corpus"),
    ],
)
def test_unknown_names_say_what_was_tried(data_directory, name, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(name, data_directory=data_directory)


def test_without_a_data_directory_the_message_says_how_to_set_one():
    with pytest.raises(CorpusError, match="HF_TSREP_DATA"):
        load_corpus("ett/ETTh1")


def test_missing_file_offers_its_neighbours(data_directory):
    with pytest.raises(CorpusError, match=r"Did you mean 'ETTh1.csv'"):
        load_corpus(data_directory / "forecasting" / "ETTh.csv")


def test_a_wrong_type_ending_or_folder_is_named(tmp_path):
    with pytest.raises(CorpusError, match="not int"):
        load_corpus(3)
    (tmp_path / "a.mat").write_text("x")
    with pytest.raises(CorpusError, match=r"'.mat' are not read"):
        load_corpus(tmp_path / "a.mat")
    with pytest.raises(CorpusError, match="holds no corpus"):
        load_corpus(tmp_path)


def test_streaming_gives_the_same_values_as_loading(hourly_frame):
    streamed = load_corpus(hourly_frame, split="70/10/20", streaming=True)
    assert isinstance(streamed, IterableDatasetDict)
    loaded = load_corpus(hourly_frame, split="70/10/20")
    for name in loaded:
        np.testing.assert_array_equal(get_series(streamed[name])[0], get_series(loaded[name])[0])
    assert corpus_metadata(streamed) == corpus_metadata(loaded)


def test_the_splits_of_an_archive_are_not_cut_again(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.ones((2, 9)), x_test=np.ones((2, 9)))
    with pytest.raises(CorpusError, match="comes with its own splits"):
        load_corpus(tmp_path / "a.npz", split="70/10/20")


def test_saved_folders_and_foreign_tables_are_loaded(tmp_path, hourly_frame):
    corpus = load_corpus(hourly_frame)
    corpus.save_to_disk(tmp_path / "saved")
    again = load_corpus(tmp_path / "saved")
    assert corpus_metadata(again) == corpus_metadata(corpus)
    assert corpus_fingerprint(load_corpus(tmp_path / "saved", split="50/50")) != corpus_fingerprint(corpus)
    foreign = Dataset.from_dict({"id": ["x", "y"], "target": [[1.0, None, 3.0], [4.0]]})
    foreign.to_parquet(tmp_path / "foreign.parquet")
    split = load_corpus(tmp_path / "foreign.parquet")["train"]
    assert split["item_id"][:] == ["x", "y"]
    np.testing.assert_array_equal(get_series(split)[0], [[1], [np.nan], [3]])
    hourly_frame.to_parquet(tmp_path / "table.parquet")
    table = load_corpus(tmp_path / "table.parquet")
    assert corpus_fingerprint(table) == corpus_fingerprint(corpus)
    with pytest.raises(CorpusError, match="a stream cannot be cut"):
        load_corpus(tmp_path / "foreign.parquet", streaming=True)


def test_transforms_apply_to_corpora_in_arrow_files(tmp_path):
    frame = pd.DataFrame({"item": ["a"] * 3 + ["b"] * 3, "x": np.arange(6.0), "k": ["u"] * 3 + ["v"] * 3})
    load_corpus(frame, item_column="item", label_column="k").save_to_disk(tmp_path / "saved")
    corpus = load_corpus(tmp_path / "saved", scaler="standard")
    assert corpus["train"].features["label"] == ClassLabel(names=["u", "v"])
    np.testing.assert_allclose(np.concatenate(get_series(corpus["train"])).std(), 1, rtol=1e-6)
    corpus.save_to_disk(tmp_path / "scaled")
    with pytest.raises(CorpusError, match="already scaled"):
        load_corpus(tmp_path / "scaled", scaler="standard")


def test_every_known_family_resolves():
    for name in ("ett/ETTm2", "forecasting/traffic", "ucr/X", "uea/X", "sensor/X", "anomaly/SMD/x", "anomaly/NAB/g/x"):
        assert find_known_corpus(name).name == name
    for name in ("ETTh1", "ett/", "anomaly/other/x", "ucr/a/b", "ett/../x"):
        assert find_known_corpus(name) is None


def test_rows_of_lists_with_a_start_and_several_channels():
    rows = Dataset.from_dict({"start": ["2020-01-01", "2021-01-01"], "u": [[1.0, 2.0], [3.0]], "v": [[5, 6], [7]]})
    split = load_corpus(DatasetDict({"train": rows}), value_columns=["u", "v"], frequency="D")["train"]
    np.testing.assert_array_equal(get_series(split)[0], [[1, 5], [2, 6]])
    assert get_timestamps(split)[0].tolist() == pd.date_range("2020-01-01", periods=2).to_pydatetime().tolist()
    uneven = Dataset.from_dict({"u": [[1.0, 2.0]], "v": [[5.0]]})
    with pytest.raises(CorpusError, match=r"row 0: columns \['u', 'v'\] have lengths \[2, 1\]"):
        load_corpus(DatasetDict({"train": uneven}), value_columns=["u", "v"])


def test_a_hub_id_may_name_a_configuration_and_is_described_by_its_card(hourly_frame, tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    from hf_tsrep.data import prepare_corpus

    folder = prepare_corpus(hourly_frame, tmp_path / "prepared", scaler="standard")
    asked = []

    def load_dataset(path, name=None, **arguments):
        asked.append((path, name, arguments["revision"]))
        return real(str(folder), streaming=arguments["streaming"])

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names, **arguments: str(folder / "README.md"))
    corpus = load_corpus("somebody/load:default", revision="v1")
    assert asked == [("somebody/load", "default", "v1")]
    assert corpus_metadata(corpus).scaler == corpus_metadata(load_corpus(folder)).scaler
    assert corpus_fingerprint(corpus) == corpus_fingerprint(load_corpus(folder))


def test_series_in_many_chunks_of_arrow_memory_are_read_whole(hourly_frame, monkeypatch):

    whole = load_corpus(hourly_frame, one_series_per_column=True)
    from hf_tsrep.data import hub_layout

    monkeypatch.setattr(hub_layout, "MAX_VALUES_PER_CHUNK", 120)
    chunked = load_corpus(hourly_frame, one_series_per_column=True)
    assert chunked["train"].data.column("series").num_chunks == 2
    assert corpus_fingerprint(chunked) == corpus_fingerprint(whole)


def test_importing_the_data_folder_loads_nothing_heavy():
    import subprocess
    import sys
    from pathlib import Path

    program = (
        "import importlib.util, sys;"
        "spec = importlib.util.spec_from_file_location('data', sys.argv[1], submodule_search_locations=[]);"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec));"
        "print([name for name in ('torch', 'datasets', 'pandas', 'aeon', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    import hf_tsrep.data

    file = Path(hf_tsrep.data.__file__)
    result = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_of_the_data_folder_resolves():
    import hf_tsrep.data

    for name in hf_tsrep.data.__all__:
        assert getattr(hf_tsrep.data, name).__doc__
    assert set(hf_tsrep.data._MODULE_OF_NAME) == set(hf_tsrep.data.__all__)
    with pytest.raises(AttributeError, match="load_corpse"):
        _ = hf_tsrep.data.load_corpse


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("hf_tsrep.data.loading.load_hub_layout", refuse)
    monkeypatch.delenv("HF_TSREP_DATA", raising=False)


@pytest.mark.parametrize(
    "name",
    [
        *("mine.csv", "runs/mine.csv.gz", "mine.xlsx", "a/b/mine.feather", "mine.CVS", "x.parquet", "x.pkl", "x.json"),
        *(
            "./mine",
            "../mine",
            "/mine",
            "~/mine",
            "C:\\data\\mine",
            "mine/",
            "present/mine",
            "a" * 300 + ".csv",
            "a\0.csv",
        ),
    ],
)
def test_what_looks_like_a_path_is_one_at_once(no_hub, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "present").mkdir()
    with pytest.raises(CorpusError, match="there is no such file or folder"):
        load_corpus(name)


def test_a_pattern_is_no_name(no_hub, data_directory):
    for family in ("uea", "ucr"):
        for problem in ("First", "Second"):
            (data_directory / family / problem).mkdir(parents=True)
            text = "@classLabel true 1\n@data\n1,2:1\n"
            (data_directory / family / problem / f"{problem}_TRAIN.ts").write_text(text)
    assert len(load_corpus("uea/First", data_directory=data_directory)["train"]) == 1
    for name in ("uea/*", "ucr/?irst", "uea/[FS]*"):
        with pytest.raises(CorpusError, match=r"Unknown corpus"):
            load_corpus(name, data_directory=data_directory)
    anomalies = data_directory / "anomaly" / "UCR_anomaly"
    anomalies.mkdir(parents=True)
    for name in ("001_UCR_Anomaly_a_4_6_7", "001_UCR_Anomaly_b_4_6_7"):
        (anomalies / f"{name}.txt").write_text("\n".join(map(str, range(1, 11))))
    with pytest.raises(CorpusError, match=r"2 files fit \(001_UCR_Anomaly_a_4_6_7"):
        load_corpus("anomaly/UCR_anomaly/001", data_directory=data_directory)


def test_the_options_of_reading_are_the_same_everywhere():
    import dataclasses
    import inspect

    from hf_tsrep.data.options import ReadingOptions
    from hf_tsrep.training.settings import FileSettings

    settings = {one.name for one in dataclasses.fields(FileSettings)}
    of_callers = {"missing_mark", "keep_duplicates", "check_values"}
    assert {one.name for one in dataclasses.fields(ReadingOptions)} == settings | of_callers
    assert settings <= set(inspect.signature(load_corpus).parameters)


def test_a_slip_in_a_known_name_is_answered_without_the_network(no_hub):
    with pytest.raises(CorpusError, match="Did you mean 'uea/BasicMotions'"):
        load_corpus("uea/BasicMotion")
