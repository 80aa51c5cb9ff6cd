"""The archives' other text forms: UCR's rows with the class first and .arff, alone and as two files of a problem."""

import gzip

import numpy as np
import pytest

from hf_tsrep.data import CorpusError, corpus_metadata, get_labels, get_series, load_corpus
from hf_tsrep.data.known_corpora import bundled_directory

ROWS = "1\t.1\t.2\t.3\n-1\t.4\t.5\t.6\n2\t.7\t.8\t.9\n"


def write(path, text):
    path.write_text(text)
    return path


def names_of(split):
    return [split.features["label"].int2str(int(label)) for label in get_labels(split)]


def test_a_row_is_a_series_with_its_class_first(tmp_path):
    split = load_corpus(write(tmp_path / "A_TRAIN.tsv", ROWS))["train"]
    np.testing.assert_allclose(
        np.stack(get_series(split))[:, :, 0], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]]
    )
    assert split.features["label"].names == ["-1", "1", "2"]
    assert names_of(split) == ["1", "-1", "2"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("A_TRAIN.csv", "walk,1,2,3\nrun,4,5,6\n"),
        ("A_TRAIN.txt", "  walk  1.0e+00  2  3\n  run  4  5  6\n"),
        ("A_TRAIN", "walk,1,2,3\nrun,4,5,6\n"),
        ("A_TRAIN.csv", "walk;1;2;3\n\nrun;4;5;6\n"),
        ("A_TRAIN.tsv", "\ufeffwalk\t1\t2\t3\r\nrun\t4\t5\t6\r\n"),
    ],
)
def test_rows_may_be_divided_by_any_usual_mark(tmp_path, name, text):
    split = load_corpus(write(tmp_path / name, text))["train"]
    assert np.stack(get_series(split))[:, :, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert names_of(split) == ["walk", "run"]


def test_the_padding_of_a_shorter_series_is_cut_off_and_a_gap_is_kept(tmp_path):
    text = "1.0000e+00\t1\tNaN\t3\n2.0000e+00\t4\t5\tNaN\n"
    split = load_corpus(write(tmp_path / "A_TEST.tsv", text))["test"]
    long, short = get_series(split)
    np.testing.assert_array_equal(long[:, 0], [1, np.nan, 3])
    np.testing.assert_array_equal(short[:, 0], [4, 5])
    assert names_of(split) == ["1", "2"]


@pytest.mark.parametrize("ending", [".tsv", ".txt", ".csv", "", ".tsv.gz", ".arff"])
def test_the_two_files_of_a_problem_are_read_together(tmp_path, ending):
    texts = {"TRAIN": "2,1,2\n1,3,4\n", "TEST": "3,5,6\n"}
    if ending == ".arff":
        head = "@relation A\n@attribute a numeric\n@attribute b numeric\n@attribute class {1,2,3}\n@data\n"
        texts = {"TRAIN": head + "1,2,2\n3,4,1\n", "TEST": head + "5,6,3\n"}
    for part, text in texts.items():
        content = gzip.compress(text.encode()) if ending.endswith("gz") else text.encode()
        (tmp_path / f"A_{part}{ending}").write_bytes(content)
    for place in (tmp_path, tmp_path / "A"):
        corpus = load_corpus(place)
        assert list(corpus) == ["train", "test"]
        assert corpus["train"].features == corpus["test"].features
        assert corpus["test"].features["label"].names == ["1", "2", "3"]
        assert names_of(corpus["train"]) + names_of(corpus["test"]) == ["2", "1", "3"]
        assert [series[:, 0].tolist() for series in get_series(corpus["train"])] == [[1, 2], [3, 4]]
        assert corpus_metadata(corpus).task == "classification"


def test_what_was_said_goes_before_the_name(tmp_path):
    named = write(tmp_path / "A_TRAIN.csv", "label,a,b\n1,2,3\n4,5,6\n")
    assert get_series(load_corpus(named)["train"])[0].shape == (2, 3)
    bare = write(tmp_path / "mine.csv", "1,2,3\n4,5,6\n")
    with pytest.raises(CorpusError, match=r"line 1: '1', '2', '3' stand where the names .*--no-header.*layout='ucr'"):
        load_corpus(bare)
    assert names_of(load_corpus(bare, layout="ucr")["train"]) == ["1", "4"]
    assert get_series(load_corpus(bare, header=False)["train"])[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    rows = write(tmp_path / "B_TRAIN.csv", "1,2,3\n4,5,6\n")
    assert get_series(load_corpus(rows, header=False)["train"])[0].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n4,5\n", "line 2: 2 cells where the first row has 3"),
        ("1,2,3\n4,5,x\n", "line 2, position 1: 'x' is not a number"),
        ("1,2,3\n,5,6\n", "line 2: the class label is missing"),
        ("1,2,3\n4,NaN,NaN\n", "line 2: every value is missing"),
        ("1,2,3\n4,1_0,6\n", "line 2, position 0: '1_0' is not a number"),
        ("1,2,3\n4,1e39,6\n", r"line 2, step 0, column 'value': 1e\+39 is beyond float32"),
        ("1,2,inf\n", "line 1, step 1, column 'value': infinite value"),
        ("", "file is empty"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(write(tmp_path / "A_TRAIN.csv", text))
    assert "A_TRAIN.csv" in str(caught.value)


RELATIONAL = """% comment
@relation 'two channels'
@ATTRIBUTE series relational
  @attribute t0 numeric
  @attribute t1 real
  @attribute t2 numeric
@end series
@attribute classAttribute {Standing,'Not standing'}
@data
'1,2,3\\n4,5,6',Standing
"7,?,?\\n8,9,?",'Not standing'
"""


def test_an_arff_file_may_hold_several_channels_padding_and_quoted_classes(tmp_path):
    split = load_corpus(write(tmp_path / "M_TRAIN.arff", RELATIONAL))["train"]
    long, short = get_series(split)
    np.testing.assert_array_equal(long, [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(short, [[7, 8], [np.nan, 9]])
    assert names_of(split) == ["Standing", "Not standing"]


def test_an_arff_file_may_hold_targets_or_nothing_to_learn(tmp_path):
    head = "@relation r\n@attribute a numeric\n@attribute b numeric\n"
    targets = load_corpus(write(tmp_path / "t.arff", head + "@attribute target numeric\n@data\n1,2,0.5\n"))
    assert targets["train"]["target_value"][:] == [0.5]
    assert corpus_metadata(targets).task == "regression"
    plain = load_corpus(write(tmp_path / "p.arff", head + "@data\n1,2\n"))
    assert get_series(plain["train"])[0].tolist() == [[1], [2]]
    assert corpus_metadata(plain).task == "unlabelled"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("@data\n", "", "no @data line|declares nothing"),
        ("@attribute t1 real", "@attribute t1 string", "line 5: attribute 't1' of type 'string' is not read"),
        ("{Standing,'Not standing'}", "{Standing,Standing}", "line 8: the class 'Standing' is listed twice"),
        ("',Standing", "',Sitting", "line 10: class 'Sitting' is not among"),
        ("',Standing", "'", "line 10: expected a series in quotes and its class"),
        ("1,2,3\\n", "1,2\\n", "line 10, channel 0: 2 values where the header declares 3"),
        ("1,2,3\\n", "1,x,3\\n", "line 10, position 1: 'x' is not a number"),
        ("\\n8,9,?", "", "line 11: 1 channels where the first row has 2"),
    ],
)
def test_a_wrong_line_of_an_arff_file_is_named(tmp_path, before, after, message):
    assert before in RELATIONAL
    with pytest.raises(CorpusError, match=message):
        load_corpus(write(tmp_path / "bad.arff", RELATIONAL.replace(before, after)))


@pytest.mark.parametrize("ending", [".tsv", ".arff"])
def test_the_readers_agree_with_those_of_aeon(ending):
    if bundled_directory() is None:
        pytest.skip("aeon is not installed; it carries the files and the reader to compare with")
    from aeon.datasets import load_from_arff_file, load_from_tsv_file

    file = bundled_directory() / "GunPoint" / f"GunPoint_TRAIN{ending}"
    theirs, labels = (load_from_tsv_file if ending == ".tsv" else load_from_arff_file)(str(file))
    split = load_corpus(file)["train"]
    np.testing.assert_array_equal(np.stack(get_series(split)), theirs.transpose(0, 2, 1).astype(np.float32))
    assert names_of(split) == [str(label) for label in labels]
