"""Arrays as corpora: NumPy files, arrays and lists in memory, frames that hold several series, their layout."""

import numpy as np
import pandas as pd
import pytest
import torch

from hf_tsrep.data import CorpusError, SeriesList, corpus_metadata, get_series, get_timestamps, load_corpus
from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor

BATCH = np.arange(60, dtype=np.float64).reshape(2, 10, 3)


def series_of(holder, **options):
    return get_series(load_corpus(holder, **options)["train"])


def check(holder, expected=BATCH, **options):
    found = series_of(holder, **options)
    assert len(found) == len(expected)
    for one, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, np.asarray(right, dtype=np.float32))


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("holder", [BATCH, torch.tensor(BATCH), list(BATCH), BATCH.tolist(), BATCH.astype(object)])
def test_arrays_in_memory_are_corpora(holder):
    check(holder)
    assert load_corpus(holder)["train"]["item_id"][:] == ["0", "1"]


def test_arrays_may_have_several_lengths_and_masks():
    ragged = [BATCH[0], BATCH[1, :2]]
    objects = np.empty(2, dtype=object)
    objects[:] = ragged
    check(ragged, ragged)  # the lengths differ, the widths do not: two steps of three channels
    check(objects, ragged)
    check([BATCH[0, :, 0], BATCH[1, :4, 0]], [BATCH[0, :, :1], BATCH[1, :4, :1]])
    check(BATCH[0], BATCH[:1])
    masked = np.ma.masked_array(BATCH, mask=BATCH == 4)
    check(masked, np.where(BATCH == 4, np.nan, BATCH))


def test_the_layout_is_said_once_or_tells_itself(tmp_path):
    turned = BATCH.transpose(0, 2, 1)
    for holder in (turned, list(turned), save(tmp_path / "t.npz", x_train=turned)):
        check(holder, layout="nct")
        with pytest.raises(CorpusError, match=r"would be 3 steps of 10 channels.*'ntc'.*'nct'"):
            load_corpus(holder)
    square = np.arange(18.0).reshape(2, 3, 3)
    np.save(tmp_path / "s.npy", square)
    for holder in (square, save(tmp_path / "s.npz", values=square), tmp_path / "s.npy"):
        with pytest.raises(CorpusError, match="would be 3 steps of 3 channels"):
            load_corpus(holder)
        check(holder, square, layout="ntc")
        check(holder, square.transpose(0, 2, 1), layout="nct")
    with pytest.raises(CorpusError, match="layout='ucr' is none of arrays"):
        load_corpus(square, layout="ucr")


@pytest.mark.parametrize(
    ("holder", "message"),
    [
        (np.array([["a", "b"]]), "there is text among them"),
        (BATCH.astype(complex), "complex128"),
        (np.zeros((2, 3, 4, 5)), r"shape \(3, 4, 5\)"),
        (np.where(BATCH == 4, 1e300, BATCH), r"series 0, step 1, column 'channel_1': 1e\+300 is beyond float32"),
        (np.where(BATCH == 4, np.inf, BATCH), "series 0, step 1, column 'channel_1': infinite value"),
        ([BATCH[0], BATCH[1, :5, :2]], "2 channels where the corpus has 3"),
        ([BATCH[0], BATCH[1, :0]], "at least one step"),
        (["ett/ETTh1", "ett/ETTh2"], "not list"),
        ([], "not list"),
        (7, "not int"),
    ],
)
def test_what_is_no_series_is_refused(holder, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(holder)


def test_items_in_the_index_are_series():
    index = pd.MultiIndex.from_product([["b", "a"], pd.date_range("2020-01-01", periods=10)], names=["machine", "day"])
    frame = pd.DataFrame(BATCH.reshape(20, 3), index=index, columns=["x", "y", "z"])
    split = load_corpus(frame)["train"]
    check(frame)
    assert (split["item_id"][:], split["freq"][:]) == (["b", "a"], ["D", "D"])
    assert len(get_timestamps(split)[1]) == 10
    check(frame.swaplevel())  # the level of dates is the time, wherever it is
    deep = pd.concat({"plant": frame}, names=["plant"])
    assert load_corpus(deep)["train"]["item_id"][:] == ["plant/b", "plant/a"]
    with pytest.raises(CorpusError, match="item 'b', line 3, column 'day'"):
        load_corpus(frame.iloc[[1, 0, *range(2, 20)]])
    with pytest.raises(CorpusError, match="both a level of the index and a column"):
        load_corpus(frame.rename(columns={"x": "day"}))


def test_a_frame_of_series_is_a_corpus():
    cells = {
        name: [pd.Series(one[: 10 - row, index]) for row, one in enumerate(BATCH)] for index, name in enumerate("xyz")
    }
    frame = pd.DataFrame(cells)
    check(frame, [BATCH[0], BATCH[1, :9]])
    assert corpus_metadata(load_corpus(frame)).channel_names == ("x", "y", "z")
    frame.at[0, "y"] = frame.at[0, "y"].iloc[:4]
    with pytest.raises(CorpusError, match=r"series 0: its cells are no series of one length, but of \[10, 4, 10\]"):
        load_corpus(frame)


@pytest.mark.parametrize("kind", ["complex128", "datetime64[ns]", "timedelta64[s]"])
def test_columns_of_other_things_than_numbers_are_no_channels(kind):
    frame = pd.DataFrame(
        {"when": pd.date_range("2020", periods=2), "x": [1.0, 2.0], "y": np.array([1, 2], dtype=kind)}
    )
    with pytest.raises(CorpusError, match=r"column 'y': values of type .* are no numbers"):
        load_corpus(frame)


def test_the_feature_extractor_reads_what_encode_reads():
    prepare = TimeSeriesFeatureExtractor(3, scale=[2.0, 2.0, 2.0])
    expected = prepare.transform(BATCH)
    for holder, layout in ((BATCH.transpose(0, 2, 1), "nct"), (SeriesList(BATCH), None), (list(BATCH), "ntc")):
        np.testing.assert_array_equal(prepare.transform(holder, layout=layout), expected)
        np.testing.assert_array_equal(prepare(holder, layout=layout)["past_values"], expected)
    for square in (BATCH[0, :3], BATCH[:, :3]):
        with pytest.raises(ValueError, match="as many steps as channels, 3"):
            prepare.transform(square)
        np.testing.assert_array_equal(
            prepare.transform(square, layout="nct"), prepare.transform(np.swapaxes(square, -1, -2), layout="ntc")
        )
    with pytest.raises(ValueError, match="layout='nct' does not fit the series"):
        prepare.transform(pd.DataFrame(BATCH[0]), layout="nct")
    with pytest.raises(ValueError, match=r"the series has 1e\+300 at timestamp 0, channel 0: beyond float32"):
        prepare.transform(np.full((4, 3), 1e300))
    with pytest.raises(ValueError, match="scaled as the training series were"):
        TimeSeriesFeatureExtractor(3, scale=[1e-10] * 3).transform(np.full((4, 3), 1e30))


def test_a_slice_of_series_is_known_as_all_are():
    prepare = TimeSeriesFeatureExtractor(3)
    assert prepare.transform(BATCH)[1:].is_prepared
    corpus = load_corpus(BATCH)
    assert get_series(corpus["train"])[:1].series_layout == "ntc"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": np.ones((5, 2)), "train_label": [0, 1, 2, 300, -1]}, "step 2: label 2 is neither 0 nor 1"),
        ({"train": np.ones((3, 2)), "train_label": [0, np.nan, 1]}, "step 1: label nan is neither 0 nor 1"),
        ({"train": np.ones((3, 2)), "train_label": ["a", "b", "c"]}, "labels of shape"),
        ({"x_train": np.ones((2, 4)), "y_train": [0.0, np.inf]}, "row 1: label inf is no class"),
        ({"x_train": np.ones((2, 4)), "y_train": [np.nan, 1.0]}, "row 0: label nan is no class"),
        ({"x_train": np.ones((2, 4)), "y_train": [1j, 2]}, "labels of type complex128"),
        ({"x_train": np.ones((2, 4)), "y_train": ["a", ""]}, "row 1: the class label is missing"),
        ({"train": np.ones((3, 2)), "training": np.ones((3, 2))}, "both 'train' and 'training' are the split 'train'"),
        ({"x_val": np.ones((3, 2)), "valid_x": np.ones((3, 2))}, "both 'x_val' and 'valid_x' are the split"),
        ({"x": np.full((3, 2), 1e300)}, r"step 0, column 'channel_0': 1e\+300 is beyond float32"),
    ],
)
def test_nothing_in_an_archive_is_changed_or_dropped_in_silence(tmp_path, arrays, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(save(tmp_path / "a.npz", **arrays))


def test_arrays_that_are_not_read_are_told(tmp_path, caplog):
    load_corpus(save(tmp_path / "a.npz", x_train=np.ones((2, 4)), y_train=["a", "b"], extra=np.ones(2)))
    assert "the arrays extra are not read" in caplog.text
