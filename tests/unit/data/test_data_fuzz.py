"""Damaged files of every kind: a reader gives what pandas, aeon or NumPy reads, or one CorpusError; nothing else.

Bytes are changed at random: flipped, deleted, inserted, repeated, cut off. Where a file still loads, its numbers are
those that another reader finds in it.
"""

import bz2
import gzip
import io
import os
import zipfile
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_tsrep.data import CorpusError, corpus_metadata, get_series, get_timestamps, load_corpus

NUMBERS = np.array([[1.5, 2.0, -3.25], [np.nan, 5.0, 6.0], [7.0, 8.5, 9.0], [0.125, 11.0, 12.0]])
DATES = pd.date_range("2024-01-29", periods=4)
FRAME = pd.DataFrame({"date": DATES, "a": NUMBERS[:, 0], "b": NUMBERS[:, 1], "c": NUMBERS[:, 2]})
TABLE = FRAME.to_csv(index=False)
ROWS = "\n".join("\t".join([str(row % 2), *map(str, values)]) for row, values in enumerate(NUMBERS)) + "\n"
TS = (
    "@problemName Toy\n@timeStamps false\n@univariate false\n@dimensions 2\n@classLabel true up down\n@data\n"
    "1.5,2,?:4,5,6:up\n7,8:9,NaN:down\n-1e3,0,1:2,3,4:up\n"
)
TARGETS = "@univariate true\n@targetlabel true\n@data\n1,2,3:0.5\n4,5:1.5\n"
ARFF = (
    "@relation r\n@attribute s relational\n @attribute t0 numeric\n @attribute t1 numeric\n@end s\n"
    "@attribute class {up,down}\n@data\n'1,2\\n3,4',up\n'5,?\\n6,7',down\n"
)
PLAIN_ARFF = "@relation r\n@attribute a numeric\n@attribute b numeric\n@attribute class {1,2}\n@data\n1,2.5,1\n?,4,2\n"
SEMICOLONS = "date;a;b\n29.01.2024;1.234,5;0,25\n30.01.2024;-2;1,75\n31.01.2024;3.000;2\n"


def bytes_of(save, *arguments, **named):
    buffer = io.BytesIO()
    save(buffer, *arguments, **named)
    return buffer.getvalue()


def zipped(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


FILES = {
    "table.csv": TABLE.encode(),
    "quoted.csv": FRAME.to_csv(index=False, quoting=1).encode(),
    "semicolons.csv": SEMICOLONS.encode(),
    "tabs.tsv": TABLE.replace(",", "\t").encode("utf-16"),
    "table.csv.gz": gzip.compress(TABLE.encode(), mtime=0),
    "table.csv.bz2": bz2.compress(TABLE.encode()),
    "table.csv.zip": zipped("table.csv", TABLE),
    "A_TRAIN.tsv": ROWS.encode(),
    "A_TRAIN.ts": TS.encode(),
    "targets.ts": TARGETS.encode(),
    "A_TRAIN.arff": ARFF.encode(),
    "plain.arff": PLAIN_ARFF.encode(),
    "001_UCR_Anomaly_toy_4_6_7.txt": "\n".join(map(str, np.arange(1.0, 11.0))).encode(),
    "arrays.npz": bytes_of(np.savez, x_train=NUMBERS[None], y_train=np.array([1])),
    "packed.npz": bytes_of(np.savez_compressed, train=NUMBERS, test=NUMBERS, test_label=np.array([0, 1, 0, 0])),
    "array.npy": bytes_of(np.save, NUMBERS),
    "table.feather": bytes_of(lambda buffer: FRAME.to_feather(buffer)),
    "table.orc": bytes_of(lambda buffer: FRAME.to_orc(buffer)),
    "table.parquet": bytes_of(lambda buffer: FRAME.to_parquet(buffer)),
}
with suppress(ImportError):
    FILES["table.xlsx"] = bytes_of(lambda buffer: FRAME.to_excel(buffer, index=False))

TEXT = [name for name in FILES if name.rpartition(".")[2] in ("csv", "tsv", "ts", "arff", "txt")]
# The same trials in every run of the suite; HF_TSREP_FUZZ=N makes N new ones a test.
TRIALS = int(os.environ.get("HF_TSREP_FUZZ", "0"))


def trials(number):
    return settings(
        max_examples=TRIALS or number,
        derandomize=not TRIALS,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


OPTIONS = [{}, {"header": False}, {"layout": "ucr"}, {"layout": "nct"}, {"decimal": ","}, {"skip_rows": 1}]
OPTIONS += [{"date_format": "%d.%m.%Y"}, {"time_zone": "Europe/Berlin"}, {"item_column": "a"}, {"label_column": "b"}]
SPLICES = [
    b",",
    b";",
    b"\t",
    b"\n",
    b"\r",
    b'"',
    b"'",
    b":",
    b"@",
    b"?",
    b"nan",
    b"inf",
    b"1e39",
    b"\0",
    b"\xff",
    b"_",
]
SPLICES += [b" ", b".", b"-", b"0", b"9" * 400, b"@data\n", b"{", b"\xef\xbb\xbf", b"\xff\xfe", b"T", b"Z", b"%"]


@st.composite
def damages(draw, content):
    """Return content after a few changes."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        length = draw(st.integers(1, 12))
        kind = draw(st.sampled_from(["flip", "delete", "insert", "repeat", "cut", "splice"]))
        if kind == "flip" and changed:
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "delete":
            del changed[place : place + length]
        elif kind == "insert":
            changed[place:place] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "repeat":
            changed[place:place] = changed[place : place + length]
        elif kind == "cut":
            del changed[place:]
        else:
            changed[place:place] = draw(st.sampled_from(SPLICES))
    return bytes(changed)


def load(folder, name, content, **options):
    """Return the corpus of a file with this content, or None where it is refused."""
    file = folder / name
    file.write_bytes(content)
    try:
        return load_corpus(file, **options)
    except CorpusError as error:
        return None if str(error).strip() else error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def check_corpus(corpus):
    """What every corpus promises, wherever it comes from."""
    for split in corpus.values():
        series = get_series(split)
        assert series
        assert len({one.shape[1] for one in series}) == 1
        for one in series:
            assert one.dtype == np.float32
            assert one.size
            assert not np.isinf(one).any()
            assert not np.isnan(one).all()


@pytest.mark.parametrize("name", FILES)
def test_the_undamaged_file_loads(folder, name):
    corpus = load(folder, name, FILES[name])
    assert corpus is not None
    check_corpus(corpus)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@trials(25)
def test_a_damaged_file_is_a_corpus_or_a_corpus_error(folder, name, data):
    content = data.draw(damages(FILES[name]))
    options = data.draw(st.sampled_from(OPTIONS)) if name in TEXT else {}
    corpus = load(folder, name, content, **options)
    if corpus is not None:
        check_corpus(corpus)


def numbers_of_pandas(content, sep, decimal, thousands):
    """Return what pandas finds in a table with this form: its columns of numbers; None where it refuses it."""
    frame = pd.read_csv(io.BytesIO(content), sep=sep, decimal=decimal, thousands=thousands, na_values=["?"])
    return {str(name): frame[name].to_numpy(np.float64) for name in frame if frame[name].dtype.kind in "fiu"}


@pytest.mark.parametrize(
    ("text", "sep", "decimal", "thousands"), [(TABLE, ",", ".", None), (SEMICOLONS, ";", ",", ".")]
)
@given(data=st.data())
@trials(60)
def test_a_damaged_table_has_the_numbers_that_pandas_finds(folder, text, sep, decimal, thousands, data):
    marks = st.sampled_from([sep, "\n", decimal, "0", "7", "-", "", " ", "x", '"', "e", "1/2/2024"])
    place = data.draw(st.integers(len("date"), len(text) - 1))
    changed = text[:place] + data.draw(marks) + text[place + data.draw(st.integers(0, 2)) :]
    corpus = load(folder, "t.csv", changed.encode(), delimiter=sep, decimal=decimal)
    if corpus is None:
        return
    (ours,) = get_series(corpus["train"])
    theirs = numbers_of_pandas(changed.encode(), sep, decimal, thousands)
    for place, name in enumerate(corpus_metadata(corpus).channel_names):
        np.testing.assert_array_equal(ours[:, place], theirs[name].astype(np.float32), err_msg=changed)


@given(data=st.data())
@trials(50)
def test_damaged_rows_have_the_numbers_that_pandas_finds(folder, data):
    place = data.draw(st.integers(0, len(ROWS) - 1))
    marks = st.sampled_from(["\t", "\n", ".", "0", "7", "-", "", "x", "nan", "e"])
    changed = ROWS[:place] + data.draw(marks) + ROWS[place + data.draw(st.integers(0, 2)) :]
    corpus = load(folder, "A_TRAIN.tsv", changed.encode())
    if corpus is None:
        return
    theirs = pd.read_csv(io.StringIO(changed), sep="\t", header=None, dtype={0: str}).iloc[:, 1:].to_numpy(np.float64)
    ours = get_series(corpus["train"])
    assert len(ours) == len(theirs)
    for one, right in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[:, 0], right[: len(one)].astype(np.float32), err_msg=changed)
        assert np.isnan(right[len(one) :]).all()


@pytest.mark.parametrize(("name", "text"), [("p.ts", TS), ("p.arff", PLAIN_ARFF)])
@given(data=st.data())
@trials(50)
def test_damaged_values_are_those_that_aeon_finds(folder, name, text, data):
    datasets = pytest.importorskip("aeon.datasets", reason="aeon is the reader to compare with")
    start = text.index("@data\n") + len("@data\n")
    place = data.draw(st.integers(start, len(text) - 1))
    marks = st.sampled_from([",", ".", "0", "7", "-", "", "e", "?"])
    changed = text[:place] + data.draw(marks) + text[place + data.draw(st.integers(0, 1)) :]
    corpus = load(folder, name, changed.encode())
    if corpus is None:
        return
    read = datasets.load_from_ts_file if name.endswith(".ts") else datasets.load_from_arff_file
    try:
        theirs, _ = read(str(folder / name))
    except Exception:  # aeon reads fewer files than the format allows, such as a '?' beside a number
        return
    for one, right in zip(get_series(corpus["train"]), theirs, strict=True):
        right = np.asarray(right, dtype=np.float32).T
        np.testing.assert_array_equal(one, right[: len(one)], err_msg=changed)


@given(values=st.lists(st.floats(allow_nan=True, width=64), min_size=1, max_size=12), mark=st.sampled_from(",;\t|"))
@trials(60)
def test_written_tables_are_read_back_exactly(folder, values, mark):
    frame = pd.DataFrame({"a": values, "b": 1.0})
    corpus = load(folder, "w.csv", frame.to_csv(index=False, sep=mark).encode(), decimal=".")
    numbers = np.array(values)
    if (np.abs(numbers) > np.finfo(np.float32).max).any():
        assert corpus is None
    else:
        np.testing.assert_array_equal(get_series(corpus["train"])[0][:, 0], numbers.astype(np.float32))


DAYS = st.dates(min_value=pd.Timestamp("1970-01-02").date(), max_value=pd.Timestamp("2068-12-30").date())


@given(first=DAYS, length=st.integers(1, 40), form=st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y", "%Y-%m-%d"]))
@trials(60)
def test_dates_are_read_as_they_were_written_or_refused(first, length, form):
    dates = pd.date_range(first, periods=length)
    frame = pd.DataFrame({"date": dates.strftime(form), "value": np.arange(float(length))})
    try:
        corpus = load_corpus(frame)
    except CorpusError:
        with pytest.raises(CorpusError, match="--date-format"):
            load_corpus(frame)
        corpus = load_corpus(frame, date_format=form)
    np.testing.assert_array_equal(get_timestamps(corpus["train"])[0], dates.to_numpy().astype("datetime64[ms]"))


def test_no_code_of_a_file_is_run(folder):
    class Trap:
        def __reduce__(self):
            return (open, (str(folder / "trapped"), "w"))

    trap = np.array([Trap()], dtype=object)
    for name, content in (
        ("trap.npz", bytes_of(np.savez, x=trap)),
        ("trap.npy", bytes_of(np.save, trap)),
        ("trap.pkl", b"cos\nsystem\n(S'touch trapped'\ntR."),
    ):
        assert load(folder, name, content) is None
    assert not (folder / "trapped").exists()
