"""The formats of arrays and of the .ts archives: what is read, and the place of what is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.data import CorpusError, corpus_metadata, get_anomaly_labels, get_labels, get_series, load_corpus
from hf_tsrep.data.formats import read_ts_file, read_ts_problem
from hf_tsrep.data.known_corpora import bundled_directory


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_an_archive_gives_splits_series_and_labels_in_order(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    file = save(
        tmp_path / "a.npz", x_train=x, y_train=[10, 2, 2, 10], x_val=x[:1], y_val=[2], x_test=x[:2], y_test=[2, 3]
    )
    corpus = load_corpus(file)
    assert list(corpus) == ["train", "validation", "test"]
    assert corpus["train"].features["label"].names == ["2", "3", "10"]
    assert get_labels(corpus["train"]).tolist() == [2, 0, 0, 2]
    np.testing.assert_array_equal(np.stack(get_series(corpus["train"])), x)


@pytest.mark.parametrize(("shape", "expected"), [((5,), [(5, 1)]), ((5, 2), [(5, 2)]), ((3, 5, 2), [(5, 2)] * 3)])
def test_a_single_array_is_one_series_or_many_by_its_axes(tmp_path, shape, expected):
    corpus = load_corpus(save(tmp_path / "one.npz", values=np.ones(shape)))
    assert [series.shape for series in get_series(corpus["train"])] == expected


def test_an_archive_of_one_series_a_split_may_label_its_test_steps(tmp_path):
    file = save(tmp_path / "m.npz", train=np.ones((4, 2)), test=np.ones((3, 2)), test_label=np.array([0, 1, 1]))
    corpus = load_corpus(file)
    assert [labels.tolist() for labels in get_anomaly_labels(corpus["test"])] == [[0, 1, 1]]
    assert [labels.tolist() for labels in get_anomaly_labels(corpus["train"])] == [[]]
    assert corpus_metadata(corpus).task == "anomaly"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "the archive is empty"),
        ({"a": np.ones(3), "b": np.ones(3)}, r"arrays \['a', 'b'\] are not understood"),
        ({"x_train": np.array(["a", "b"])}, "are not numbers"),
        ({"x_train": np.empty((0, 3, 1))}, "no rows"),
        ({"x_train": np.ones((2, 3, 1)), "y_train": np.ones(3)}, "2 series but labels of shape"),
        ({"x_train": np.ones((2, 3)), "y_train": np.ones(2), "x_test": np.ones((2, 3))}, "labels are missing"),
        ({"x_train": np.ones((2, 3, 1)), "x_test": np.ones((2, 3, 2))}, "1 channels where the corpus has 2"),
        ({"x_train": np.array([[[1.0], [np.inf]]])}, "row 0, step 1, column 'value': infinite"),
        ({"x": np.array([object()])}, "cannot be read as an .npz archive of plain arrays"),
    ],
)
def test_bad_archives_are_named(tmp_path, arrays, message):
    file = save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(file)
    assert str(file) in str(caught.value)


def test_broken_files_are_named(tmp_path):
    for name, message in (("broken.npz", "npz archive"), ("broken.parquet", "Parquet file")):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(CorpusError, match=message):
            load_corpus(tmp_path / name)


def test_the_files_of_the_ucr_anomaly_archive_count_from_one(tmp_path):
    file = tmp_path / "001_UCR_Anomaly_toy_4_6_7.txt"
    file.write_text("\n".join(str(float(value)) for value in range(1, 11)))
    corpus = load_corpus(file)
    assert get_series(corpus["train"])[0][:, 0].tolist() == [1, 2, 3, 4]
    assert get_anomaly_labels(corpus["train"])[0].tolist() == [0, 0, 0, 0]
    marked = get_series(corpus["test"])[0][:, 0][get_anomaly_labels(corpus["test"])[0] == 1]
    assert marked.tolist() == [6, 7]
    file.write_text("1\nx\n3")
    with pytest.raises(CorpusError, match=r"line 2: 'x' is not a number"):
        load_corpus(file)
    file.write_text("1\n2\n3")
    with pytest.raises(CorpusError, match="do not fit the 3 steps"):
        load_corpus(file)


HEADER = "# a comment\n@problemName Toy\n@timeStamps false\n@univariate false\n@classLabel true up down\n@data\n"


def write(path, text):
    path.write_text(text)
    return path


def test_a_ts_file_may_hold_unequal_lengths_missing_values_and_labels(tmp_path):
    file = write(tmp_path / "Toy_TRAIN.ts", HEADER + "1,2,?:4,5,6:up\n7,NaN:8,9:down\n")
    header, records = read_ts_file(file)
    assert (header.problem_name, header.label_names, header.num_channels) == ("Toy", ["up", "down"], 2)
    np.testing.assert_array_equal(records[0].values, [[1, 4], [2, 5], [np.nan, 6]])
    np.testing.assert_array_equal(records[1].values, [[7, 8], [np.nan, 9]])
    assert [record.label for record in records] == ["up", "down"]


def test_a_ts_file_may_hold_regression_targets(tmp_path):
    file = write(tmp_path / "r.ts", "@univariate true\n@targetlabel true\n@data\n1,2,3:0.5\n")
    corpus = load_corpus(file)
    assert corpus["train"]["target_value"][0] == 0.5
    assert "label" not in corpus["train"].column_names


def test_a_ts_file_may_hold_series_without_labels(tmp_path):
    file = write(tmp_path / "u.ts", "@classLabel false\n@data\n1,2,3:4,5,6\n")
    corpus = load_corpus(file)
    np.testing.assert_array_equal(get_series(corpus["train"])[0], [[1, 4], [2, 5], [3, 6]])


def test_class_ids_follow_the_header_and_unseen_test_classes_come_after(tmp_path):
    folder = tmp_path / "Toy"
    folder.mkdir()
    write(folder / "Toy_TRAIN.ts", HEADER + "1:1:down\n1:1:up\n")
    write(folder / "Toy_TEST.ts", HEADER.replace("up down", "up down left") + "1:1:left\n")
    corpus = load_corpus(folder)
    assert corpus["train"].features["label"].names == ["up", "down", "left"]
    assert get_labels(corpus["train"]).tolist() == [1, 0]
    assert get_labels(corpus["test"]).tolist() == [2]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1,2:3,x:up\n", r"line 7, channel 1, position 1: 'x' is not a number"),
        ("1,2:3,4:up\n1,2:up\n", r"line 8: 1 channels where the file has 2"),
        ("1,2:3:up\n", r"line 7: unequal channels: their lengths are \[2, 1\]"),
        ("1:2:left\n", r"line 7: class 'left' is not among"),
        ("1:2:?\n", r"line 7: the class label is missing"),
        ("5\n", r"line 7: the label is missing"),
        ("", r"no rows after @data"),
        ("1,inf:2,3:up\n", r"line 7, step 1, column 'channel_0': infinite value"),
        ("?,?:?,?:up\n", r"line 7: every value is missing"),
    ],
)
def test_a_bad_row_of_a_ts_file_is_named_by_its_line(tmp_path, body, message):
    file = write(tmp_path / "bad.ts", HEADER + body)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(file)
    assert str(file) in str(caught.value)


def test_empty_file_and_timestamp_pairs_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no @data line"):
        read_ts_file(write(tmp_path / "empty.ts", ""))
    with pytest.raises(CorpusError, match=r"line 1: .*pairs are not supported"):
        read_ts_file(write(tmp_path / "pairs.ts", "@timestamps true\n@data\n(0,1):up\n"))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), num_channels=st.integers(1, 4))
def test_written_values_are_read_back_exactly(tmp_path_factory, data, num_channels):
    number = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.just(float("nan")))
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    series = [
        np.array(data.draw(st.lists(number, min_size=n * num_channels, max_size=n * num_channels))).reshape(n, -1)
        for n in lengths
    ]
    rows = [
        ":".join(",".join("?" if np.isnan(v) else repr(float(v)) for v in channel) for channel in one.T) + ":a"
        for one in series
    ]
    file = tmp_path_factory.mktemp("ts") / "p.ts"
    file.write_text("@classLabel true a\n@data\n" + "\n".join(rows) + "\n")
    _, records = read_ts_file(file)
    assert len(records) == len(series)
    for record, expected in zip(records, series, strict=True):
        np.testing.assert_array_equal(record.values, expected)


@pytest.mark.parametrize("name", ["BasicMotions", "JapaneseVowels", "GunPoint", "PickupGestureWiimoteZ"])
def test_the_ts_reader_agrees_with_that_of_aeon(name):
    if bundled_directory() is None:
        pytest.skip("aeon is not installed; it carries the files and the reader to compare with")
    from aeon.datasets import load_from_ts_file

    file = bundled_directory() / name / f"{name}_TRAIN.ts"
    theirs, labels = load_from_ts_file(str(file))
    records = read_ts_problem(file).splits["train"]
    assert [record.label.lower() for record in records] == [str(label) for label in labels]  # aeon lowers the case
    for record, expected in zip(records, theirs, strict=True):
        np.testing.assert_array_equal(record.values, np.asarray(expected).T)
