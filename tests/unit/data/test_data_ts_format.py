import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.data import CorpusError, get_labels, get_series, load_corpus
from hf_tsrep.data.formats import read_ts_file, read_ts_problem
from hf_tsrep.data.known_corpora import bundled_directory

HEADER = "# a comment\n@problemName Toy\n@timeStamps false\n@univariate false\n@classLabel true up down\n@data\n"


def write(path, text):
    path.write_text(text)
    return path


def test_reads_unequal_lengths_missing_values_and_labels(tmp_path):
    file = write(tmp_path / "Toy_TRAIN.ts", HEADER + "1,2,?:4,5,6:up\n7,NaN:8,9:down\n")
    header, records = read_ts_file(file)
    assert (header.problem_name, header.label_names, header.num_channels) == ("Toy", ["up", "down"], 2)
    np.testing.assert_array_equal(records[0].values, [[1, 4], [2, 5], [np.nan, 6]])
    np.testing.assert_array_equal(records[1].values, [[7, 8], [np.nan, 9]])
    assert [record.label for record in records] == ["up", "down"]


def test_reads_regression_targets(tmp_path):
    file = write(tmp_path / "r.ts", "@univariate true\n@targetlabel true\n@data\n1,2,3:0.5\n")
    corpus = load_corpus(file)
    assert corpus["train"]["target_value"][0] == 0.5
    assert "label" not in corpus["train"].column_names


def test_reads_unlabelled_series(tmp_path):
    file = write(tmp_path / "u.ts", "@classLabel false\n@data\n1,2,3:4,5,6\n")
    corpus = load_corpus(file)
    np.testing.assert_array_equal(get_series(corpus["train"])[0], [[1, 4], [2, 5], [3, 6]])


def test_class_ids_follow_the_header_and_unseen_test_classes_come_behind(tmp_path):
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
        ("", r"no rows behind @data"),
        ("1,inf:2,3:up\n", r"line 7, step 1, column 'channel_0': infinite value"),
        ("?,?:?,?:up\n", r"line 7: every value is missing"),
    ],
)
def test_bad_rows_are_named(tmp_path, body, message):
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
def test_agrees_with_aeon(name):
    if bundled_directory() is None:
        pytest.skip("aeon is not installed; it carries the files and the reader to compare with")
    from aeon.datasets import load_from_ts_file

    file = bundled_directory() / name / f"{name}_TRAIN.ts"
    theirs, labels = load_from_ts_file(str(file))
    records = read_ts_problem(file).splits["train"]
    assert [record.label.lower() for record in records] == [str(label) for label in labels]  # aeon lowers the case
    for record, expected in zip(records, theirs, strict=True):
        np.testing.assert_array_equal(record.values, np.asarray(expected).T)
