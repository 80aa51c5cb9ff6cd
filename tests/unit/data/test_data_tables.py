"""Tables: files and frames of columns, in wide and long form, and folders of one file a split."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from hf_tsrep.data import CorpusError, get_anomaly_labels, get_labels, get_series, get_timestamps, load_corpus

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


def test_a_split_with_other_columns_is_named(tmp_path):
    write_machines(tmp_path / "train.csv", ["fine"])
    pd.DataFrame({"machine": "m", "load": [1.0, 2.0], "state": "fine"}).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(CorpusError, match=r"test.csv: columns \['load'\] where train.csv has \['pressure'\]"):
        load_corpus(tmp_path, item_column="machine", label_column="state")
