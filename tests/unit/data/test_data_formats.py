"""Files and frames: arrays, .ts archives and tables, what is read and the place of what is wrong."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.data import (
    CorpusError,
    corpus_metadata,
    get_anomaly_labels,
    get_labels,
    get_series,
    get_timestamps,
    load_corpus,
)
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
    records = read_ts_problem({"train": file}).splits["train"]
    assert [record.label.lower() for record in records] == [str(label) for label in labels]  # aeon lowers the case
    for record, expected in zip(records, theirs, strict=True):
        np.testing.assert_array_equal(record.values, np.asarray(expected).T)


WIDE = "when,a,b\n2020-01-01 00:00,1,2\n2020-01-01 00:15,3,\n2020-01-01 00:30,5,6\n"


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def test_a_wide_file_finds_its_date_column_and_frequency(tmp_path):
    split = load_corpus(write(tmp_path / "wide.csv", WIDE))["train"]
    np.testing.assert_array_equal(get_series(split)[0], [[1, 2], [3, np.nan], [5, 6]])
    assert (
        get_timestamps(split)[0].tolist()
        == pd.date_range("2020-01-01", periods=3, freq="15min").to_pydatetime().tolist()
    )
    assert (split[0]["freq"], split[0]["item_id"]) == ("15min", "wide")


def test_a_file_may_have_semicolons_decimal_commas_and_one_series_per_column(tmp_path):
    text = '"";"MT_001";"MT_002"\n"2011-01-01 00:15:00";0,5;3\n"2011-01-01 00:30:00";1,25;4\n'
    split = load_corpus(write(tmp_path / "LD2011.txt", text), one_series_per_column=True)["train"]
    assert split["item_id"][:] == ["MT_001", "MT_002"]
    np.testing.assert_array_equal(np.stack(get_series(split))[:, :, 0], [[0.5, 1.25], [3, 4]])


def test_names_of_columns_may_be_in_latin_1(tmp_path):
    file = write(tmp_path / "l.csv", "date,SWDR (W/m²)\n2020-01-01,1\n2020-01-02,2\n", encoding="latin-1")
    from hf_tsrep.data import corpus_metadata

    assert corpus_metadata(load_corpus(file)).channel_names == ("SWDR (W/m²)",)


def long_frame():
    return pd.DataFrame(
        {
            "sensor": ["b", "a", "b", "a", "b"],
            "time": ["2020-01-01", "2020-01-01", "2020-01-02", "2020-01-02", "2020-01-03"],
            "x": [1.0, 10.0, 2.0, 20.0, 3.0],
            "kind": ["fast", "slow", "fast", "slow", "fast"],
        }
    )


def test_the_long_form_keeps_items_in_order_of_appearance():
    split = load_corpus(long_frame(), item_column="sensor", label_column="kind")["train"]
    assert split["item_id"][:] == ["b", "a"]
    assert [series[:, 0].tolist() for series in get_series(split)] == [[1, 2, 3], [10, 20]]
    assert split.features["label"].names == ["fast", "slow"]
    assert get_labels(split).tolist() == [0, 1]


def test_polars_and_pandas_give_the_same(hourly_frame):
    from hf_tsrep.data import corpus_fingerprint

    ours, theirs = load_corpus(hourly_frame), load_corpus(pl.from_pandas(hourly_frame))
    assert corpus_fingerprint(ours) == corpus_fingerprint(theirs)
    np.testing.assert_array_equal(get_timestamps(ours["train"])[0], get_timestamps(theirs["train"])[0])
    assert get_series(ours["train"])[0].shape == (100, 2)


def test_a_datetime_index_counts_as_date_column(hourly_frame):
    split = load_corpus(hourly_frame.set_index("date"))["train"]
    assert len(get_timestamps(split)[0]) == 100
    assert split[0]["freq"] == "h"


def test_seconds_since_1970_are_dates_and_step_numbers_are_none():
    seconds = pd.DataFrame({"timestamp": [1469376000, 1469376300, 1469376600], "value": [1.0, 2.0, 3.0]})
    split = load_corpus(seconds)["train"]
    assert get_timestamps(split)[0][0] == np.datetime64("2016-07-24T16:00")
    assert split[0]["freq"] == "5min"
    steps = load_corpus(pd.DataFrame({"time": [0, 1, 2], "value": [1.0, 2.0, 3.0]}))["train"]
    assert len(get_timestamps(steps)[0]) == 0
    assert get_series(steps)[0].shape == (3, 1)


def test_step_labels_become_anomaly_labels():
    frame = pd.DataFrame({"value": [1.0, 2.0, 3.0], "label": [0, 1, 0]})
    assert get_anomaly_labels(load_corpus(frame, label_column="label")["train"])[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "the file is empty"),
        ("a,b\n", {}, "no rows below the column names"),
        ("date,a\n2020-01-01,1\n2020-01-02,oops\n", {}, r"line 3, column 'a': 'oops' is not a number"),
        ("date,a\n2020-01-01,1\n2020-01-01,2\n", {}, r"line 3, column 'date': .* is the same timestamp"),
        ("date,a\n2020-01-02,1\n2020-01-01,2\n", {}, r"line 3, column 'date': .* is earlier than"),
        ("date,a\n2020-01-01,1\n2020-13-45,2\n", {}, r"line 3, column 'date': '2020-13-45' is not a date"),
        ("time,a\n0,1\n2,2\n1,3\n", {}, r"line 4, column 'time': 1 is earlier"),
        ("date,a,b\n2020-01-01,1\n", {}, r"line 2: 2 cells where the header has 3"),
        ("date,a\n2020-01-01,1,9\n", {}, r"line 2: 3 cells where the header has 2"),
        ("date,a\n2020-01-01,\n2020-01-02,\n", {}, "every value is missing"),
        ("date,a\n2020-01-01,1\n2020-01-02,inf\n", {}, r"line 3, column 'a': infinite value"),
        ("date\n2020-01-01\n", {}, "no value columns"),
        ("a,b\n1,2\n", {"value_columns": ["B"]}, r"unknown column 'B'. Did you mean 'b'"),
        ("a,b\n1,2\n", {"target": "bb"}, r"unknown column 'bb'. Did you mean 'b'"),
        ("a,k\n1,\n", {"label_column": "k"}, r"line 2, column 'k': the label is missing"),
        ("a,k\n1,0\n2,7\n", {"label_column": "k"}, r"line 3, column 'k': 7 is neither 0 nor 1"),
        ("i,a\nx,1\n,2\n", {"item_column": "i"}, r"line 3, column 'i': the item is missing"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, arguments, message):
    file = write(tmp_path / "bad.csv", text)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(file, **arguments)
    assert "bad" in str(caught.value)


def test_order_is_checked_item_by_item_with_lines_of_the_file():
    frame = long_frame()
    frame.loc[4, "time"] = "2020-01-02"
    with pytest.raises(CorpusError, match=r"item 'b', line 6, column 'time'"):
        load_corpus(frame.drop(columns="kind"), item_column="sensor")


def test_quoted_rows_are_counted_too_and_frequency_can_be_given(tmp_path):
    file = write(tmp_path / "q.csv", '"a","b, c"\n1,2\n3\n')
    with pytest.raises(CorpusError, match=r"line 3: 1 cells where the header has 2"):
        load_corpus(file)
    write(file, '"a","b, c"\n1,2\n3,4\n')
    split = load_corpus(file, frequency="5min")["train"]
    assert (split[0]["freq"], get_series(split)[0].tolist()) == ("5min", [[1, 2], [3, 4]])


def test_columns_of_one_name_are_refused():
    frame = pd.DataFrame([[1.0, 2.0]], columns=["a", "a"])
    with pytest.raises(CorpusError, match="'a' appears twice"):
        load_corpus(frame)


@pytest.mark.parametrize(
    "cells",
    [
        ["2020-03-29T00:30:00Z", "2020-03-29T01:30:00Z"],
        ["2020-03-29T01:30:00+01:00", "2020-03-29T03:30:00+02:00"],
        ["2020-03-28 19:30:00-0500", "2020-03-28 20:30:00-0500"],
    ],
)
def test_time_zones_become_universal_time(cells):
    split = load_corpus(pd.DataFrame({"date": cells, "value": [1.0, 2.0]}))["train"]
    assert get_timestamps(split)[0].tolist() == [pd.Timestamp("2020-03-29 00:30"), pd.Timestamp("2020-03-29 01:30")]


def test_interleaved_items_keep_their_order_in_time():
    steps = np.arange(600)
    frame = pd.DataFrame({"item": steps % 3, "date": pd.Timestamp("2020-01-01") + pd.to_timedelta(steps, "h")})
    frame["value"] = steps.astype(float)
    split = load_corpus(frame, item_column="item")["train"]
    assert [series[:, 0].tolist() for series in get_series(split)] == [steps[item::3].tolist() for item in range(3)]
    assert split["freq"][:] == ["3h"] * 3


def write_machines(path, labels, seed=0):
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame({"machine": f"m{index}", "pressure": rng.normal(size=5), "state": label})
        for index, label in enumerate(labels)
    ]
    pd.concat(parts).to_csv(path, index=False)


def test_the_splits_of_a_folder_share_their_classes(tmp_path):
    write_machines(tmp_path / "train.csv", ["worn", "fine"])
    write_machines(tmp_path / "test.csv", ["fine", "broken", "worn"], seed=1)
    corpus = load_corpus(tmp_path, item_column="machine", label_column="state")
    assert list(corpus) == ["train", "test"]
    names = corpus["train"].features["label"].names
    assert names == corpus["test"].features["label"].names == ["broken", "fine", "worn"]
    assert [names[index] for index in get_labels(corpus["test"])] == ["fine", "broken", "worn"]
    assert [series.shape for series in get_series(corpus["train"])] == [(5, 1), (5, 1)]


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_every_name_of_a_split_is_read(tmp_path, name):
    for one in ("train", name, "test"):
        write_machines(tmp_path / f"{one}.csv", ["worn", "fine"])
    corpus = load_corpus(tmp_path, item_column="machine", label_column="state")
    assert list(corpus) == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("train.csv", "training.csv"), "both 'train.csv' and 'training.csv' are the split 'train'"),
        (("train.csv", "val.csv", "valid.csv"), "both 'val.csv' and 'valid.csv' are the split 'validation'"),
        (("train.csv", "train.tsv"), "both 'train.csv' and 'train.tsv' are the split 'train'"),
        (("train.csv", "test.tsv"), "'train.csv' and 'test.tsv' are splits with several endings"),
        (("train.csv", "test.parquet"), "are splits with several endings"),
        (("A_TRAIN.ts", "A_TEST.arff"), "A_TRAIN.ts has no A_TEST.ts beside it, but A_TEST.arff"),
    ],
)
def test_no_file_of_a_split_is_lost_in_silence(tmp_path, names, told):
    for name in names:
        write_machines(tmp_path / name, ["worn", "fine"])
    with pytest.raises(CorpusError, match=re.escape(told)):
        load_corpus(tmp_path, item_column="machine", label_column="state")


def test_a_split_with_other_columns_is_named(tmp_path):
    write_machines(tmp_path / "train.csv", ["fine"])
    pd.DataFrame({"machine": "m", "load": [1.0, 2.0], "state": "fine"}).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(CorpusError, match=r"test.csv: columns \['load'\] where train.csv has \['pressure'\]"):
        load_corpus(tmp_path, item_column="machine", label_column="state")
