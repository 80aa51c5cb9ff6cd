"""Corpora known by name: full and short names, repaired copies, and the real files where they are."""

import numpy as np
import pytest

from hf_tsrep.data import (
    CorpusError,
    corpus_metadata,
    get_anomaly_labels,
    get_labels,
    get_series,
    list_known_corpora,
    load_corpus,
)
from hf_tsrep.data.known_corpora import HAR_CHANNELS, complete_name


@pytest.fixture
def directory(tmp_path):
    """Two sensor corpora and two problems of one name in two archives."""
    (tmp_path / "sensor").mkdir()
    for name in ("HAR", "Epilepsy_TSTCC", "Gesture"):
        np.savez(tmp_path / "sensor" / f"{name}.npz", x_train=np.zeros((2, 8, 1), np.float32), y_train=np.arange(2))
    for family in ("ucr", "uea"):
        (tmp_path / family / "Twice").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("har", "sensor/HAR"),
        ("SENSOR/har", "sensor/HAR"),
        ("gesture", "sensor/Gesture"),
        ("epilepsy", "sensor/Epilepsy_TSTCC"),
        ("Epilepsy", "sensor/Epilepsy_TSTCC"),
    ],
)
def test_a_unique_name_needs_no_folder_and_no_case(directory, written, meant):
    corpus = load_corpus(written, data_directory=directory)
    assert corpus_metadata(corpus).name == meant


def test_a_name_that_two_corpora_have_is_none():
    names = ["ucr/Twice", "uea/Twice", "uea/Once"]
    assert complete_name("twice", names) is None
    assert complete_name("UEA/twice", names) == "uea/Twice"
    assert complete_name("once", names) == "uea/Once"
    assert complete_name("ucr/once", names) is None


def test_a_slip_gives_the_near_match_without_the_network(directory, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("hf_tsrep.data.loading.load_hub_layout", refuse)
    with pytest.raises(CorpusError, match=r"Unknown corpus 'gestur'\. Did you mean 'sensor/Gesture'"):
        load_corpus("gestur", data_directory=directory)


def test_a_name_of_two_corpora_gives_both(directory):
    with pytest.raises(CorpusError, match="Did you mean 'ucr/Twice' or 'uea/Twice'"):
        load_corpus("twice", data_directory=directory)


def test_an_exact_name_goes_before_another_of_other_case(tmp_path):
    (tmp_path / "sensor").mkdir()
    for name, value in (("One", 1.0), ("ONE", 2.0)):
        np.savez(tmp_path / "sensor" / f"{name}.npz", x_train=np.full((1, 3, 1), value), y_train=np.zeros(1))
    corpus = load_corpus("sensor/ONE", data_directory=tmp_path)
    assert corpus["train"][0]["series"][0][0] == 2.0


def walks(num_series):
    generator = np.random.default_rng(num_series)
    return (generator.standard_normal((num_series, 128, 9)).cumsum(axis=1) / 10).astype(np.float32)


def tangled(values):
    return values.reshape(len(values), 9, 128).transpose(0, 2, 1)


def write_har(folder, change):
    parts = {"train": walks(6), "test": walks(4)}
    arrays = {f"x_{split}": change(values) for split, values in parts.items()}
    arrays |= {f"y_{split}": np.arange(len(values)) % 2 for split, values in parts.items()}
    (folder / "sensor").mkdir()
    np.savez(folder / "sensor" / "HAR.npz", **arrays)
    return parts


@pytest.mark.parametrize("change", [tangled, lambda values: values])
def test_har_is_read_in_its_order_whether_the_copy_is_tangled_or_not(tmp_path, change):
    parts = write_har(tmp_path, change)
    corpus = load_corpus("har", data_directory=tmp_path)
    for split, expected in parts.items():
        np.testing.assert_array_equal(np.stack(get_series(corpus[split])), expected)
    metadata = corpus_metadata(corpus)
    assert tuple(metadata.channel_names) == HAR_CHANNELS
    assert any("tangled" in note for note in metadata.notes) == (change is tangled)


def test_other_corpora_are_left_as_they_are(tmp_path):
    values = tangled(walks(5))
    np.savez(tmp_path / "mine.npz", x_train=values, y_train=np.arange(5) % 2)
    read = np.stack(get_series(load_corpus(str(tmp_path / "mine.npz"))["train"]))
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("name", "lengths", "num_channels"),
    [
        ("ett/ETTh1", [8640, 2880, 2880], 7),
        ("ett/ETTh2", [8640, 2880, 2880], 7),
        ("ett/ETTm1", [34560, 11520, 11520], 7),
        ("forecasting/exchange_rate", [5311, 760, 1517], 8),
        ("forecasting/weather", [36887, 5270, 10539], 21),
    ],
)
def test_the_forecasting_corpora_have_the_published_lengths_and_channels(real_data, name, lengths, num_channels):
    corpus = load_corpus(name, data_directory=real_data)
    series = [get_series(split)[0] for split in corpus.values()]
    assert [one.shape for one in series] == [(length, num_channels) for length in lengths]
    missing = int(np.isnan(np.concatenate(series)).sum())
    assert missing == (81 if name == "forecasting/weather" else 0)
    assert corpus_metadata(corpus).target == "OT"
    assert corpus_metadata(corpus).channel_names[-1] == "OT"


@pytest.mark.parametrize(
    ("name", "sizes", "num_classes"),
    [
        ("ucr/GunPoint", [50, 150], 2),
        ("ucr/DodgerLoopDay", [78, 80], 7),
        ("ucr/AllGestureWiimoteZ", [300, 700], 10),
        ("uea/JapaneseVowels", [270, 370], 9),
        ("uea/Libras", [180, 180], 15),
        ("sensor/HAR", [7352, 2947], 6),
        ("sensor/Epilepsy_TSTCC", [7360, 1840, 2300], 2),
        ("sensor/Epilepsy_TFC", [60, 20, 11420], 2),
        ("sensor/Gesture", [320, 120, 120], 8),
    ],
)
def test_the_classification_corpora_have_the_published_sizes_and_classes(real_data, name, sizes, num_classes):
    corpus = load_corpus(name, data_directory=real_data)
    assert [len(split) for split in corpus.values()] == sizes
    assert corpus["train"].features["label"].num_classes == num_classes
    for split in corpus.values():
        assert set(get_labels(split)) <= set(range(num_classes))
    assert corpus_metadata(corpus).task == "classification"


@pytest.mark.parametrize(
    ("name", "lengths", "num_anomalies"),
    [
        ("anomaly/KPI_donut/cpu4", [8784, 8784], [93, 116]),
        ("anomaly/NAB/realKnownCause/nyc_taxi", [5160, 5160], [0, 1035]),
        ("anomaly/SMD/machine-1-2", [23694, 23694], [0, 542]),
        ("anomaly/UCR_anomaly/135", [1200, 6301], [0, 13]),
    ],
)
def test_the_anomaly_corpora_have_the_published_lengths_and_anomalies(real_data, name, lengths, num_anomalies):
    corpus = load_corpus(name, data_directory=real_data, scaler="recommended")
    assert [len(get_series(split)[0]) for split in corpus.values()] == lengths
    assert [int(get_anomaly_labels(split)[0].sum()) for split in corpus.values()] == num_anomalies
    assert corpus_metadata(corpus).task == "anomaly"


def test_duplicated_and_unsorted_benchmark_rows_are_kept(real_data, caplog):
    corpus = load_corpus("anomaly/NAB/realKnownCause/machine_temperature_system_failure", data_directory=real_data)
    assert sum(len(get_series(split)[0]) for split in corpus.values()) == 22695
    assert "kept in file order" in caplog.text


def test_the_corpora_of_a_folder_are_listed_by_name(real_data):
    names = list_known_corpora(real_data)
    assert {"ett/ETTh1", "ucr/GunPoint", "uea/Libras", "sensor/HAR", "anomaly/SMD/machine-1-2"} <= set(names)
    assert all(name.count("/") >= 1 for name in names)


@pytest.mark.parametrize("name", ["DodgerLoopWeekend", "PLAID", "GestureMidAirD1"])
def test_the_files_of_the_archive_agree_with_the_reader_of_aeon(real_data, name):
    datasets = pytest.importorskip("aeon.datasets", reason="aeon is not installed; its reader is compared with ours")
    theirs, labels = datasets.load_from_ts_file(str(real_data / "ucr" / name / f"{name}_TEST.ts"))
    split = load_corpus(f"ucr/{name}", data_directory=real_data)["test"]
    for ours, expected in zip(get_series(split), theirs, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(expected, dtype=np.float32).T)
    class_names = split.features["label"].names
    assert [class_names[label] for label in get_labels(split)] == [str(label) for label in labels]
