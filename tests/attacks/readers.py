"""Damaged files of every kind: a reader gives what pandas, aeon or NumPy reads, or one CorpusError; nothing else."""

import bz2
import gzip
import io
import lzma
import shutil
import zipfile
from functools import partial

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet

from hf_tsrep.data import CorpusError, corpus_metadata, get_series, get_timestamps, load_corpus, prepare_corpus

from .damage import changed_bytes, changed_text, pick
from .trials import REFUSED, RIGHT, Attack, Fault, assert_same, attempt

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
LARGEST = float(np.finfo(np.float32).max)


def bytes_of(save, *arguments, **named):
    """Return what a function writes into a buffer."""
    buffer = io.BytesIO()
    save(buffer, *arguments, **named)
    return buffer.getvalue()


def zipped(name, content):
    """Return a zip archive of one file."""
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
    "table.csv.xz": lzma.compress(TABLE.encode()),
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
    "table.xlsx": bytes_of(lambda buffer: FRAME.to_excel(buffer, index=False)),
}
TEXT = [name for name in FILES if name.rpartition(".")[2] in ("csv", "tsv", "ts", "arff", "txt")]
FOLDERS = ("saved", "hub layout", "pair")
OPTIONS = [{}, {"header": False}, {"layout": "ucr"}, {"layout": "nct"}, {"decimal": ","}, {"skip_rows": 1}]
OPTIONS += [{"date_format": "%d.%m.%Y"}, {"time_zone": "Europe/Berlin"}, {"item_column": "a"}, {"label_column": "b"}]


def columns_of(table):
    """Return a frame of an Arrow table, whatever its metadata say."""
    return pd.DataFrame({name: table.column(name).to_numpy() for name in table.column_names})


# Readers of others for files of numbers: a file and the parts of its name, to columns or arrays by their place.
OTHERS = {
    "table.feather": pd.read_feather,
    "table.orc": pd.read_orc,
    "table.parquet": lambda file: columns_of(parquet.read_table(file)),
    "table.xlsx": pd.read_excel,
    "array.npy": partial(np.load, allow_pickle=False),
}


class Trap:
    """An object that writes a file where it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return (open, (self.place, "w"))


def check_corpus(corpus):
    """Raise Fault where a corpus lacks what every one promises, wherever it comes from."""
    for split in corpus.values():
        series = get_series(split)
        whole = series and len({one.shape[1] for one in series}) == 1
        for one in series:
            whole = whole and one.dtype == np.float32 and one.size and not np.isinf(one).any()
            whole = whole and not np.isnan(one).all()
        if not whole:
            raise Fault(f"a corpus of {[one.tolist() for one in series]}")


class Readers(Attack):
    """`load_corpus` of files that were damaged, and of values that were written at random."""

    def __init__(self, folder):
        super().__init__(folder)
        import datasets
        import huggingface_hub

        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        datasets.disable_progress_bars()
        self.whole = {name: folder / name for name in FOLDERS}
        (folder / "frame.csv").write_text(TABLE)
        load_corpus(folder / "frame.csv").save_to_disk(self.whole["saved"])
        prepare_corpus(str(folder / "frame.csv"), self.whole["hub layout"])
        self.whole["pair"].mkdir()
        for part in ("TRAIN", "TEST"):
            (self.whole["pair"] / f"pair_{part}.ts").write_text(TS)

    @classmethod
    def cases(cls):
        """Every kind of file and of folder, and every comparison with another reader."""
        return [*FILES, *FOLDERS, "whole", *(f"numbers of {name}" for name in cls.comparisons()), "trap"]

    @classmethod
    def comparisons(cls):
        """Return the trials that compare values, by name."""
        return {
            "commas": partial(cls.table, text=TABLE, sep=",", decimal=".", thousands=None),
            "semicolons": partial(cls.table, text=SEMICOLONS, sep=";", decimal=",", thousands="."),
            "rows": cls.rows,
            "ts": partial(cls.archive, name="p.ts", text=TS),
            "arff": partial(cls.archive, name="p.arff", text=PLAIN_ARFF),
            "written": cls.written,
            "dates": cls.dates,
        }

    def trial(self, case, generator):
        """Read one file."""
        if case == "trap":
            return self.trap()
        if case == "whole":
            name = pick(generator, [*FILES, *FOLDERS])
            check_corpus(load_corpus(self.whole[name]) if name in FOLDERS else self.load(name, FILES[name]))
            return RIGHT
        if case in FOLDERS:
            return self.damaged_folder(case, generator)
        if case in FILES:
            return self.damaged(case, generator)
        return self.comparisons()[case.removeprefix("numbers of ")](self, generator)

    def load(self, name, content, **options):
        """Return the corpus of a file with this content, or None where it is refused."""
        file = self.folder / name
        file.write_bytes(content)
        corpus, told = attempt(lambda: load_corpus(file, **options), (CorpusError,))
        if told is None:
            check_corpus(corpus)
        return corpus

    def damaged(self, name, generator):
        """Read damaged bytes, where another reader can do so too compare the numbers."""
        options = pick(generator, OPTIONS) if name in TEXT else {}
        corpus = self.load(name, changed_bytes(FILES[name], generator), **options)
        if corpus is None:
            return REFUSED
        if name in OTHERS:
            (ours,) = get_series(corpus["train"])
            self.compare_with_others(name, ours, corpus_metadata(corpus).channel_names)
        return RIGHT

    def damaged_folder(self, name, generator):
        """Read a folder of which one file is damaged or missing."""
        folder = self.folder / "damaged" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.whole[name], folder)
        file = pick(generator, sorted(one for one in folder.rglob("*") if one.is_file()))
        if generator.integers(10) == 0:
            file.unlink()
        else:
            file.write_bytes(changed_bytes(file.read_bytes(), generator))
        corpus, told = attempt(lambda: load_corpus(folder), (CorpusError,))
        if told is not None:
            return REFUSED
        check_corpus(corpus)
        if name != "pair" and file.suffix in (".json", ".md"):  # the numbers are as they were
            assert_same(get_series(corpus["train"])[0], NUMBERS.astype(np.float32), str(file))
        return RIGHT

    def compare_with_others(self, name, ours, channel_names):
        """Compare the numbers of a file with those that another reader finds."""
        theirs = OTHERS[name](self.folder / name)
        if isinstance(theirs, pd.DataFrame):
            theirs = np.stack([pd.to_numeric(theirs[one]).to_numpy(np.float64) for one in channel_names], axis=1)
        assert_same(ours, np.asarray(theirs).astype(np.float32), name)

    def table(self, generator, text, sep, decimal, thousands):
        """Read a table with another character somewhere; pandas finds the same numbers."""
        marks = (sep, "\n", decimal, "0", "7", "-", "", " ", "x", '"', "e", "1/2/2024")
        changed = changed_text(text, generator, marks, first=len("date"))
        corpus = self.load("t.csv", changed.encode(), delimiter=sep, decimal=decimal)
        if corpus is None:
            return REFUSED
        (ours,) = get_series(corpus["train"])
        frame = pd.read_csv(io.StringIO(changed), sep=sep, decimal=decimal, thousands=thousands, na_values=["?"])
        theirs = {str(name): frame[name] for name in frame if frame[name].dtype.kind in "fiu"}
        for place, name in enumerate(corpus_metadata(corpus).channel_names):
            assert_same(ours[:, place], theirs[name].to_numpy(np.float64).astype(np.float32), changed)
        return RIGHT

    def rows(self, generator):
        """Read rows of the UCR archive with another character somewhere; pandas finds the same numbers."""
        changed = changed_text(ROWS, generator, ("\t", "\n", ".", "0", "7", "-", "", "x", "nan", "e"))
        corpus = self.load("A_TRAIN.tsv", changed.encode())
        if corpus is None:
            return REFUSED
        frame = pd.read_csv(io.StringIO(changed), sep="\t", header=None, dtype={0: str})
        theirs = frame.iloc[:, 1:].to_numpy(np.float64).astype(np.float32)
        ours = get_series(corpus["train"])
        if len(ours) != len(theirs):
            raise Fault(f"{len(ours)} series instead of {len(theirs)}: {changed!r}")
        for one, right in zip(ours, theirs, strict=True):
            assert_same(one[:, 0], right[: len(one)], changed)
            if not np.isnan(right[len(one) :]).all():
                raise Fault(f"a series of {len(one)} steps: {changed!r}")
        return RIGHT

    def archive(self, generator, name, text):
        """Read a file of aeon's formats with another character among its data; aeon finds the same numbers."""
        from aeon import datasets

        first = text.index("@data\n") + len("@data\n")
        changed = changed_text(text, generator, (",", ".", "0", "7", "-", "", "e", "?"), first, longest=1)
        corpus = self.load(name, changed.encode())
        if corpus is None:
            return REFUSED
        read = datasets.load_from_ts_file if name.endswith(".ts") else datasets.load_from_arff_file
        try:
            theirs, _ = read(str(self.folder / name))
        except Exception:  # aeon reads fewer files than the format allows, such as a '?' beside a number
            return RIGHT
        for one, right in zip(get_series(corpus["train"]), theirs, strict=True):
            right = np.asarray(right, dtype=np.float32).T
            assert_same(one, right[: len(one)], changed)
        return RIGHT

    def written(self, generator):
        """Read what pandas has written: the same numbers, or refused beyond float32."""
        numbers = generator.standard_normal(int(generator.integers(1, 13)))
        numbers *= 10.0 ** generator.integers(-45, 45, numbers.shape)
        numbers[generator.random(numbers.shape) < 0.1] = np.nan
        frame = pd.DataFrame({"a": numbers, "b": 1.0})
        mark = pick(generator, (",", ";", "\t", "|"))
        corpus = self.load("w.csv", frame.to_csv(index=False, sep=mark).encode(), decimal=".")
        with np.errstate(over="ignore"):
            is_beyond = np.isinf(numbers.astype(np.float32)).any()
        if (corpus is None) != is_beyond:
            raise Fault(f"{numbers.tolist()} is {'refused' if corpus is None else 'read'}")
        if corpus is None:
            return REFUSED
        assert_same(get_series(corpus["train"])[0][:, 0], numbers.astype(np.float32), str(numbers))
        return RIGHT

    def dates(self, generator):
        """Read dates as they were written; where two readings fit, --date-format is asked for."""
        form = pick(generator, ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y", "%Y-%m-%d"))
        first = pd.Timestamp("1970-01-02") + pd.Timedelta(days=int(generator.integers(36_150)))
        dates = pd.date_range(first, periods=int(generator.integers(1, 41)))
        frame = pd.DataFrame({"date": dates.strftime(form), "value": np.arange(float(len(dates)))})
        corpus, told = attempt(lambda: load_corpus(frame), (CorpusError,))
        if told is not None:
            if "--date-format" not in told:
                raise Fault(f"{dates[0]} as {form}: {told}")
            corpus = load_corpus(frame, date_format=form)
        if (get_timestamps(corpus["train"])[0] != dates.to_numpy().astype("datetime64[ms]")).any():
            raise Fault(
                f"{dates[0]} and {len(dates) - 1} further days as {form}: {get_timestamps(corpus['train'])[0]}"
            )
        return RIGHT if told is None else REFUSED

    def trap(self):
        """Read files whose pickled objects would write a file."""
        marker = self.folder / "trapped"
        trap = np.array([Trap(marker)], dtype=object)
        for name, content in (
            ("trap.npz", bytes_of(np.savez, x=trap)),
            ("trap.npy", bytes_of(np.save, trap)),
            ("trap.pkl", b"cos\nsystem\n(S'touch trapped'\ntR."),
            ("trap.csv.zip", zipped("../trapped", TABLE)),
        ):
            if self.load(name, content) is not None and name != "trap.csv.zip":
                raise Fault(f"{name} is read")
        if marker.exists() or (self.folder.parent / "trapped").exists():
            raise Fault("the code of a file was run")
        return REFUSED
