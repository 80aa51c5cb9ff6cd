"""On the real files; skipped where they are absent."""

import numpy as np
import pytest

from hf_tsrep.data import corpus_metadata, get_anomaly_labels, get_labels, get_series, list_known_corpora, load_corpus


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
def test_forecasting_sets(real_data, name, lengths, num_channels):
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
def test_classification_sets(real_data, name, sizes, num_classes):
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
def test_anomaly_sets(real_data, name, lengths, num_anomalies):
    corpus = load_corpus(name, data_directory=real_data, scaler="recommended")
    assert [len(get_series(split)[0]) for split in corpus.values()] == lengths
    assert [int(get_anomaly_labels(split)[0].sum()) for split in corpus.values()] == num_anomalies
    assert corpus_metadata(corpus).task == "anomaly"


def test_duplicated_and_unsorted_benchmark_rows_are_kept(real_data, caplog):
    corpus = load_corpus("anomaly/NAB/realKnownCause/machine_temperature_system_failure", data_directory=real_data)
    assert sum(len(get_series(split)[0]) for split in corpus.values()) == 22695
    assert "kept in file order" in caplog.text


def test_names_are_listed(real_data):
    names = list_known_corpora(real_data)
    assert {"ett/ETTh1", "ucr/GunPoint", "uea/Libras", "sensor/HAR", "anomaly/SMD/machine-1-2"} <= set(names)
    assert all(name.count("/") >= 1 for name in names)


@pytest.mark.parametrize("name", ["DodgerLoopWeekend", "PLAID", "GestureMidAirD1"])
def test_archive_files_agree_with_aeon(real_data, name):
    datasets = pytest.importorskip("aeon.datasets", reason="aeon is not installed; its reader is compared with ours")
    theirs, labels = datasets.load_from_ts_file(str(real_data / "ucr" / name / f"{name}_TEST.ts"))
    split = load_corpus(f"ucr/{name}", data_directory=real_data)["test"]
    for ours, expected in zip(get_series(split), theirs, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(expected, dtype=np.float32).T)
    class_names = split.features["label"].names
    assert [class_names[label] for label in get_labels(split)] == [str(label) for label in labels]
