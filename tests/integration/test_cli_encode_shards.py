"""`hf-tsrep encode --shard-size`: shards in order, several processes, killed and gone on with, bad series, int8."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from machines import COLUMNS

from hf_tsrep.cli import embedding_shards
from hf_tsrep.inference import dequantize_embeddings

LENGTHS = (9, 14, 14)
NUM_ROWS = {"train": 23, "test": 5}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder in Hub layout of 23 and 5 series, in files of small row groups."""
    from hf_tsrep.data.corpus import RawCorpus, SeriesRecord
    from hf_tsrep.data.hub_layout import build_corpus

    folder = tmp_path_factory.mktemp("stored")
    generator = np.random.default_rng(0)

    def records(split):
        for row in range(NUM_ROWS[split]):
            values = generator.normal(size=(LENGTHS[row % 3], 2)).astype(np.float32)
            yield SeriesRecord(values, f"{split}{row}", label="ab"[row % 2])

    raw = RawCorpus({name: list(records(name)) for name in NUM_ROWS}, ("pressure", "load"), ("a", "b"))
    for name, rows in build_corpus(raw).items():
        (folder / "data").mkdir(exist_ok=True)
        for number, part in enumerate((rows.select(range(3)), rows.select(range(3, len(rows))))):
            part.to_parquet(str(folder / "data" / f"{name}-{number:05d}-of-00002.parquet"), batch_size=4)
    return folder


def words_for(corpus, output, *words):
    return (
        "encode",
        "--model",
        "model",
        "--corpus",
        str(corpus),
        "--output",
        str(output),
        "--shard-size",
        "6",
        *words,
    )


def read(folder):
    """Return the shards of a folder as one frame, in the order of their names."""
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("shard-*.parquet"))], ignore_index=True)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_shards_hold_what_one_file_holds_in_its_order(work, stored, command_line):
    code, out, err = command_line(*words_for(stored, "shards"))
    assert code == 0, err
    assert "28 series, 5 shards" in out
    assert command_line("encode", "--model", "model", "--input", str(stored), "--output", "one.npz")[0] == 0
    one, found = np.load("one.npz"), read(work / "shards")
    assert (
        found["item_id"].tolist()
        == one["item_id"].tolist()
        == [f"{s}{r}" for s in NUM_ROWS for r in range(NUM_ROWS[s])]
    )
    for name in ("split", "label"):
        assert found[name].tolist() == one[name].tolist()
    np.testing.assert_allclose(np.stack(found["embedding"]), one["embeddings"], atol=1e-5)
    metadata = parquet.read_schema(work / "shards" / "shard-000004.parquet").metadata
    assert json.loads(metadata[b"shard"]) == {"number": 4, "split": "test", "start": 0, "stop": 5}
    told = json.loads(metadata[b"provenance"])
    assert (told["model"], told["method"], told["embedding_size"]) == ("model", "ts2vec", 12)
    assert str(work) not in json.dumps(told)
    assert len(parquet.read_table(work / "shards" / "errors.parquet")) == 0


def test_a_corpus_of_text_goes_by_shards_too_with_its_windows(work, command_line):
    columns = [word for name, value in COLUMNS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = (*columns, "--level", "window", "--window-length", "8")
    code, _, err = command_line(*words_for("machines.csv", "shards", *words))
    assert code == 0, err
    assert (
        command_line("encode", "--model", "model", "--input", "machines.csv", *words, "--output", "one.parquet")[0]
        == 0
    )
    one, found = pd.read_parquet("one.parquet"), read(work / "shards")
    assert found.drop(columns="embedding").equals(one.drop(columns="embedding"))
    assert {"window_start", "window_end"} <= set(found)


class Killed(BaseException):
    pass


def test_processes_share_the_shards_and_a_killed_run_ends_with_equal_bytes(work, stored, command_line, monkeypatch):
    assert command_line(*words_for(stored, "whole", "--precision", "int8"))[0] == 0
    words = words_for(stored, "shared", "--precision", "int8")
    write = embedding_shards._write_shard

    def killed(output, shard, *rest):
        if shard.number == 2:  # what a killed process leaves: a draft, or with a bad disk a file without an end
            (output / ".shard-draft.parquet").write_bytes(b"PAR1")
            (output / shard.file_name).write_bytes((output / "shard-000000.parquet").read_bytes()[:50])
            raise Killed
        write(output, shard, *rest)

    monkeypatch.setattr(embedding_shards, "_write_shard", killed)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(Killed):
        command_line(*words)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = {name: (work / "shared" / name).stat().st_mtime_ns for name in ("shard-000000.parquet", "encoding.json")}
    monkeypatch.setenv("RANK", "1")
    assert command_line(*words)[0] == 0
    assert sorted(path.name for path in (work / "shared").glob("shard*")) == [
        f"shard-{n:06d}.parquet" for n in range(4)
    ]
    assert not (work / "shared" / "errors.parquet").exists()
    monkeypatch.setenv("RANK", "0")
    assert command_line(*words)[0] == 0
    assert files_of("shared") == files_of("whole")
    assert made == {name: (work / "shared" / name).stat().st_mtime_ns for name in made}


def test_what_the_folder_was_begun_with_stays(work, stored, command_line, tmp_path):
    assert command_line(*words_for(stored, "shards"))[0] == 0
    for words, reason in (
        (("--pooling", "mean"), 'pooling "max", and this run has "mean"'),
        (("--precision", "float16"), 'precision "float32"'),
        (("--splits", "test"), "splits"),
    ):
        code, _, err = command_line(*words_for(stored, "shards", *words))
        assert (code, reason in err) == (2, True), err
    shutil.copytree(stored, tmp_path / "less")
    (tmp_path / "less" / "data" / "test-00001-of-00002.parquet").unlink()
    code, _, err = command_line(*words_for(tmp_path / "less", "shards"))
    assert code == 2
    (work / "full").mkdir()
    (work / "full" / "thesis.txt").write_text("mine")
    code, _, err = command_line(*words_for(stored, "full"))
    assert (code, "thesis.txt" in err) == (2, True)


def test_bad_series_are_told_and_the_others_are_encoded(work, stored, command_line):
    """The first row, one in the middle and a whole shard; each for another reason."""
    table = parquet.read_table(stored / "data" / "train-00001-of-00002.parquet")
    series = table.column("series").to_pylist()
    series[1] = None
    series[5][2][1] = float("inf")
    for row in range(9, 15):  # rows 12 to 17 of both files, one shard
        series[row] = [[float("nan")] * 2 for _ in series[row]]
    kind = table.schema.field("series").type
    column = pa.array(series, getattr(kind, "storage_type", kind))
    folder = work / "damaged"
    folder.mkdir()
    shutil.copy(stored / "data" / "train-00000-of-00002.parquet", folder)
    table = table.set_column(
        0, table.schema.field("series"), kind.wrap_array(column) if hasattr(kind, "wrap_array") else column
    )
    parquet.write_table(table, folder / "train-00001-of-00002.parquet")
    code, _, err = command_line(*words_for(folder, "shards"))
    assert code == 0, err
    errors = parquet.read_table("shards/errors.parquet").to_pandas()
    assert errors["row"].tolist() == [4, 8, *range(12, 18)]
    assert errors["item_id"].tolist()[:3] == ["train4", "train8", "train12"]
    assert "null" in errors["reason"][0]
    assert "step 2, column 'channel_1': infinite value" in errors["reason"][1]
    assert "every value is missing" in errors["reason"][2]
    found = read(work / "shards")
    assert found["item_id"].tolist() == [f"train{row}" for row in range(23) if row not in set(errors["row"])]
    assert np.isfinite(np.stack(found["embedding"])).all()
    empty = parquet.read_table("shards/shard-000002.parquet")
    assert (empty.num_rows, empty.schema.names) == (0, ["item_id", "split", "label", "embedding"])


@pytest.mark.parametrize("kind", ["csv", "ts"])
def test_a_bad_series_of_a_text_file_costs_no_other(work, command_line, kind):
    series = np.random.default_rng(0).normal(size=(5, 9, 2)).round(3).astype(object)
    series[1, 4, 0] = "inf"
    series[3] = "" if kind == "csv" else "NaN"
    if kind == "csv":
        steps = [f"m{number},{first},{second}" for number, one in enumerate(series) for first, second in one]
        text = "\n".join(["machine,pressure,load", *steps]) + "\n"
    else:
        rows = [":".join(",".join(map(str, channel)) for channel in one.T) for one in series]
        header = [
            "@problemName machines",
            "@timeStamps false",
            "@univariate false",
            "@dimensions 2",
            "@classLabel false",
        ]
        text = "\n".join([*header, "@data", *rows]) + "\n"
    path = work / f"machines.{kind}"
    path.write_text(text)
    words = ("--item-column", "machine") if kind == "csv" else ()
    code, _, err = command_line(*words_for(path, "of-text", *words))
    assert code == 0, err
    errors = parquet.read_table("of-text/errors.parquet").to_pandas()
    assert errors["row"].tolist() == [1, 3]
    assert "infinite value" in errors["reason"][0]
    assert "every value is missing" in errors["reason"][1]
    assert len(read(work / "of-text")["embedding"]) == 3


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_precisions_keep_the_numbers_as_far_as_they_can(work, stored, command_line, precision):
    assert command_line(*words_for(stored, "exact"))[0] == 0
    assert command_line(*words_for(stored, "short", "--precision", precision))[0] == 0
    exact, short = (np.stack(read(work / name)["embedding"]) for name in ("exact", "short"))
    assert short.dtype == precision
    if precision == "float16":
        np.testing.assert_array_equal(short, exact.astype(np.float16))
        return
    calibration = json.loads(parquet.read_schema("short/shard-000000.parquet").metadata[b"calibration"])
    assert calibration == json.loads(Path("short/encoding.json").read_text())["calibration"]
    width = np.asarray(calibration["maximum"]) - np.asarray(calibration["minimum"])
    assert (width > 0).all()
    ranges = [calibration["minimum"], calibration["maximum"]]
    assert (np.abs(dequantize_embeddings(short, ranges) - exact) <= width / 255 * 0.51 + 1e-6).all()


def test_what_cannot_be_shared_or_written_is_refused(work, command_line, monkeypatch):
    words = ("encode", "--model", "model", "--input", "machines.csv", "--output")
    for more, reason in (
        (("e.npz", "--shard-size", "3"), "it is a folder"),
        (("e.npz", "--precision", "int8"), "needs --shard-size"),
        (("d", "--shard-size", "3", "--precision", "int9"), "Did you mean 'int8'"),
    ):
        code, _, err = command_line(*words, *more)
        assert (code, reason in err) == (2, True), err
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = command_line(*words, "e.npz")
    assert (code, "2 processes would write one file" in err) == (2, True), err
