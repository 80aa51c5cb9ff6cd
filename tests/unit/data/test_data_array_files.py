import numpy as np
import pytest

from hf_tsrep.data import CorpusError, corpus_metadata, get_anomaly_labels, get_labels, get_series, load_corpus


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_splits_labels_and_their_order(tmp_path):
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
def test_single_array(tmp_path, shape, expected):
    corpus = load_corpus(save(tmp_path / "one.npz", values=np.ones(shape)))
    assert [series.shape for series in get_series(corpus["train"])] == expected


def test_one_series_a_split_with_labelled_test(tmp_path):
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


def test_ucr_anomaly_counts_from_one(tmp_path):
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
