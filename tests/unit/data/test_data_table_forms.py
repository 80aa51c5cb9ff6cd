"""The form of a table: names of columns, delimiter, numbers, encoding, packing, workbooks and Arrow files."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest

from hf_tsrep.data import CorpusError, corpus_metadata, get_series, get_timestamps, load_corpus
from hf_tsrep.data.text_files import byte_limit

PLAIN = "date,a,b\n2020-01-01,1.5,2\n2020-01-02,2.5,\n"


def write(path, text, encoding="utf-8"):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def values_of(file, **options):
    return get_series(load_corpus(file, **options)["train"])[0]


def check_plain(file, **options):
    split = load_corpus(file, **options)["train"]
    np.testing.assert_array_equal(get_series(split)[0], [[1.5, 2], [2.5, np.nan]])
    assert get_timestamps(split)[0].astype("datetime64[D]").astype(str).tolist() == ["2020-01-01", "2020-01-02"]
    assert corpus_metadata(load_corpus(file, **options)).channel_names == ("a", "b")


@pytest.mark.parametrize("first", ["1,2", "0.1,0.2", "2020-01-01,5", "NaN,1", ",1", "m1,2020-01-01"])
def test_a_row_of_values_is_no_header(tmp_path, first):
    row = first.replace("NaN", "3").replace(",1", "4,1") if first in ("NaN,1", ",1") else first
    file = write(tmp_path / "n.csv", f"{first}\n{row}\n")
    with pytest.raises(
        CorpusError, match=r"line 1: .* stand where the names of the columns are expected.*--no-header"
    ):
        load_corpus(file)


def test_whether_there_are_names_can_be_said(tmp_path):
    file = write(tmp_path / "n.csv", "1,2\n3,4\n5,6\n")
    assert values_of(file, header=False).tolist() == [[1, 2], [3, 4], [5, 6]]
    corpus = load_corpus(file, header=True)
    assert get_series(corpus["train"])[0].tolist() == [[3, 4], [5, 6]]
    assert corpus_metadata(corpus).channel_names == ("1", "2")
    dated = write(tmp_path / "d.csv", "2020-01-01,7\n2020-01-02,8\n")
    split = load_corpus(dated, header=False)["train"]
    assert (get_series(split)[0].tolist(), len(get_timestamps(split)[0])) == ([[7], [8]], 2)
    items = write(tmp_path / "i.csv", "m,1\nm,2\nn,3\n")
    split = load_corpus(items, header=False, item_column="channel_0")["train"]
    assert split["item_id"][:] == ["m", "n"]


@pytest.mark.parametrize("header", ["date,2019,2020", "date,0.1,0.9", "when,a,b", "date,0,OT"])
def test_a_word_over_dates_or_numbers_is_a_name(tmp_path, header):
    corpus = load_corpus(write(tmp_path / "h.csv", f"{header}\n2020-01-01,1,2\n"))
    assert corpus_metadata(corpus).channel_names == tuple(header.split(",")[1:])


@pytest.mark.parametrize("mark", [",", ";", "\t", "|", " "])
def test_the_delimiter_is_found(tmp_path, mark):
    check_plain(write(tmp_path / "p.csv", PLAIN.replace(",\n", ",?\n").replace(",", mark)))


def test_the_delimiter_can_be_said(tmp_path):
    file = write(tmp_path / "p.csv", "date:a\n2020-01-01:1\n")
    assert values_of(file, delimiter=":").tolist() == [[1]]
    check_plain(write(tmp_path / "t.csv", PLAIN.replace(",", "\t")), delimiter="\\t")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("date\tv\tw\n2020-01-01\t1,5\t3\n2020-01-02\t2,25\t4\n", [[1.5, 3], [2.25, 4]]),
        ('date,v\n2020-01-01,"1,5"\n2020-01-02,"2,25"\n', [[1.5], [2.25]]),
        ("date;v;w\n2020-01-01;1.234;1,5\n2020-01-02;12.345.678;2,5\n", [[1234, 1.5], [12345678, 2.5]]),
        ("date;v\n2020-01-01;1.234,5\n2020-01-02;-7\n", [[1234.5], [-7]]),
        ('date,v\n2020-01-01,"1,234.5"\n2020-01-02,"2,000.25"\n', [[1234.5], [2000.25]]),
        ("date;v\n2020-01-01;1 234,5\n2020-01-02;2 000\n", [[1234.5], [2000]]),
        ("date;v\n2020-01-01;1'234.5\n2020-01-02;2'000\n", [[1234.5], [2000]]),
        ("date;v\n2020-01-01;1.5\n2020-01-02;2.25\n", [[1.5], [2.25]]),
        ("date;v\n2020-01-01;0.125\n2020-01-02;2.250\n", [[0.125], [2.25]]),
        ("date;v\n2020-01-01;1,5e3\n2020-01-02;\n", [[1500], [np.nan]]),
    ],
)
def test_the_one_way_to_write_numbers_is_found(tmp_path, text, expected):
    np.testing.assert_array_equal(values_of(write(tmp_path / "x.csv", text)), np.float32(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date;v\n2020-01-01;1.234\n2020-01-02;2.500\n", r"'1.234' can be 1.234 or 1234.*--decimal.*--thousands"),
        ('date,v\n2020-01-01,"1,234"\n2020-01-02,"2,500"\n', r"'1,234' can be 1.234 or 1234"),
        ("date\tv\tw\n2020-01-01\t1,5\t1.5\n2020-01-02\t2\t3\n", "column 'v' has numbers such as '1,5', column 'w'"),
        ("date;v\n2020-01-01;1,5\n2020-01-02;1.5.5\n", "is not a number"),
        ("date;v\n2020-01-01;1.234,5\n2020-01-02;3e.000\n", "'3e.000' is not a number"),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        load_corpus(write(tmp_path / "x.csv", text))


def test_the_marks_of_numbers_can_be_said(tmp_path):
    file = write(tmp_path / "x.csv", "date;v\n2020-01-01;1.234\n2020-01-02;2.500\n")
    assert values_of(file, decimal=".").tolist() == np.float32([[1.234], [2.5]]).tolist()
    assert values_of(file, thousands=".").tolist() == values_of(file, decimal=",").tolist() == [[1234], [2500]]
    with pytest.raises(CorpusError, match=r"line 2, column 'v': '1.23' is not a number with decimal=','"):
        load_corpus(write(file, "date;v\n2020-01-01;1.23\n2020-01-02;2.500\n"), thousands=".")
    for options in ({"decimal": "x"}, {"thousands": "."}, {"thousands": "x"}, {"delimiter": "ab"}, {"skip_rows": -1}):
        said = options if options != {"thousands": "."} else {"thousands": ".", "decimal": "."}
        with pytest.raises(CorpusError, match=next(iter(options))):
            load_corpus(file, **said)
    with pytest.raises(CorpusError, match="Unknown layout='ctn'"):
        load_corpus(file, layout="ctn")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_the_encoding_is_found(tmp_path, encoding):
    file = write(tmp_path / "e.csv", PLAIN.replace("a,b", "a,b²"), encoding)
    assert corpus_metadata(load_corpus(file)).channel_names == ("a", "b²")


def test_the_encoding_can_be_said(tmp_path):
    file = write(tmp_path / "e.csv", PLAIN.replace("a,b", "a,ы"), "cp1251")
    assert corpus_metadata(load_corpus(file, encoding="cp1251")).channel_names == ("a", "ы")
    with pytest.raises(CorpusError, match="there is no encoding='cp125x'"):
        load_corpus(file, encoding="cp125x")
    with pytest.raises(CorpusError, match="cannot be read as utf-8"):
        load_corpus(file, encoding="utf-8")
    with pytest.raises(CorpusError, match="this is no text"):
        load_corpus(write(tmp_path / "z.csv", b"a,b\n1,\x00\n"))


def test_lines_before_the_table_are_named_and_skipped(tmp_path):
    text = "Station: Potsdam\nSource, DWD, 2020, x\n\n" + PLAIN
    with pytest.raises(CorpusError, match=r"From line 4 on every line has 3: .*--skip-rows 3"):
        load_corpus(write(tmp_path / "p.csv", text))
    check_plain(tmp_path / "p.csv", skip_rows=3)
    check_plain(write(tmp_path / "b.csv", "\n\n" + PLAIN))
    check_plain(write(tmp_path / "b.csv", " \t\n" + PLAIN.replace("\n", "\n \n")))
    with pytest.raises(CorpusError, match="blanks only"):
        load_corpus(write(tmp_path / "b.csv", " \t"))
    with pytest.raises(CorpusError, match=r"line 7, column 'a': 'oops'"):
        load_corpus(write(tmp_path / "q.csv", text + "2020-01-03,oops,1\n"), skip_rows=3)
    with pytest.raises(CorpusError, match="the file is empty after the 99 lines"):
        load_corpus(tmp_path / "p.csv", skip_rows=99)


def test_an_empty_line_is_no_value_of_a_single_column(tmp_path):
    with pytest.raises(CorpusError, match="line 3: the line is empty"):
        load_corpus(write(tmp_path / "s.csv", "v\n1\n\n3\n"))
    assert np.isnan(values_of(write(tmp_path / "s.csv", 'v\n1\n""\n3\n\n'))[:, 0]).tolist() == [False, True, False]


def test_rows_may_hold_quotes_and_line_breaks(tmp_path):
    file = write(tmp_path / "q.csv", 'item,note,v\na,"x\ny",1\nb,"""z""",oops\n')
    with pytest.raises(CorpusError, match=r"line 4, column 'v': 'oops'"):
        load_corpus(file, item_column="item", value_columns=["v"])


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zip"])
def test_text_may_be_packed(tmp_path, ending):
    file = tmp_path / f"p.csv{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("p.csv", PLAIN)
    else:
        file.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[ending].compress(PLAIN.encode()))
    check_plain(file)
    assert load_corpus(file)["train"]["item_id"][:] == ["p"]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorpusError, match="cannot be read"):
        load_corpus(file)


def test_what_unpacks_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    assert byte_limit() < 6.5e9, "what an archive of 3 MB can hold"
    file = write(tmp_path / "z.csv.gz", gzip.compress(b"v\n" + b"1\n" * 10_000))
    np.savez_compressed(tmp_path / "z.npz", x=np.zeros(10_000))
    monkeypatch.setenv("HF_TSREP_MAX_FILE_BYTES", "10000")
    for one in (file, tmp_path / "z.npz"):
        with pytest.raises(CorpusError, match=r"more than 10,000 bytes unpacked.*HF_TSREP_MAX_FILE_BYTES"):
            load_corpus(one)
    monkeypatch.setenv("HF_TSREP_MAX_FILE_BYTES", "100000")
    assert values_of(file).shape == (10_000, 1)
    monkeypatch.setenv("HF_TSREP_MAX_FILE_BYTES", "much")
    with pytest.raises(CorpusError, match="'much' is no number of bytes"):
        load_corpus(file)


@pytest.mark.parametrize("ending", [".feather", ".orc", ".parquet"])
def test_arrow_files_are_tables(tmp_path, ending):
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=2), "a": [1.5, 2.5], "b": [2, np.nan]})
    file = tmp_path / f"p{ending}"
    getattr(frame, f"to_{ending[1:]}")(file)
    check_plain(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorpusError, match="cannot be read as a"):
        load_corpus(file)


def test_workbooks_are_tables(tmp_path):
    pytest.importorskip("openpyxl", reason='Excel workbooks need openpyxl: pip install "hf-tsrep[excel]"')
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=2), "a": [1.5, 2.5], "b": [2, np.nan]})
    file = tmp_path / "p.xlsx"
    frame.to_excel(file, index=False)
    check_plain(file)
    with pd.ExcelWriter(file) as writer:
        frame.to_excel(writer, sheet_name="data", index=False, startrow=2)
        pd.DataFrame({"note": ["x"]}).to_excel(writer, sheet_name="about", index=False)
    with pytest.raises(CorpusError, match=r"2 sheets have cells \(data, about\); name one with sheet"):
        load_corpus(file)
    check_plain(file, sheet="data")
    with pytest.raises(CorpusError, match=r"no sheet 'daten'. Did you mean 'data'"):
        load_corpus(file, sheet="daten")
    frame.to_excel(file, index=False, header=False)
    with pytest.raises(CorpusError, match="--no-header"):
        load_corpus(file)
    write(file, b"PK no workbook")
    with pytest.raises(CorpusError, match="cannot be read as an Excel workbook"):
        load_corpus(file)


def test_a_workbook_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"hf-tsrep\[excel\]"):
        load_corpus(write(tmp_path / "p.xlsx", b"x"))
