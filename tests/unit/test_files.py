"""Files are whole or as they were, a changed one is known by its sum, and a full disk is one sentence."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from hf_tsrep.files import is_described, replace_file, replace_with_neighbour, written_atomically
from hf_tsrep.modeling import files_time_series
from hf_tsrep.modeling.files_time_series import (
    SUMS_FILE,
    FullDiskError,
    changed_files,
    draft_of,
    full_disk_named,
    read_sums,
    sha256_of,
    sums_kept,
    write_sums,
)

SMALL = 4096


@pytest.fixture
def full_disk():
    """No file of this process grows beyond 4 KiB: writing meets what it meets on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


NUMBERS = np.random.default_rng(0).normal(size=10_000)
WRITERS = {
    "plain": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "numpy": lambda path: np.save(path, NUMBERS),
    "archive": lambda path: np.savez(path, values=NUMBERS),
    "pyarrow": lambda path: pq.write_table(pa.table({"values": NUMBERS}), path),
    "torch": lambda path: torch.save(torch.from_numpy(NUMBERS), path),
    "safetensors": lambda path: save_file({"values": torch.from_numpy(NUMBERS)}, path),
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_one_sentence_whoever_writes(library, tmp_path, full_disk):
    path = tmp_path / "file.npz"
    with pytest.raises(FullDiskError, match="the disk is full") as told, full_disk_named(path, NUMBERS.nbytes):
        WRITERS[library](path)
    assert told.value.errno == errno.ENOSPC
    for part in (str(path), "80,000 bytes", "are free", "Make room"):
        assert part in str(told.value)


def test_other_errors_are_raised_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), full_disk_named(tmp_path):
        (tmp_path / "no" / "folder").write_text("x")
    with pytest.raises(ValueError, match=r"^x$"), full_disk_named(tmp_path):
        raise ValueError("x")


def test_a_full_disk_leaves_data_and_description_as_they_were(tmp_path, full_disk):
    path = tmp_path / "x.npy"
    replace_with_neighbour(path, lambda file: np.save(file, NUMBERS[:10]), {"provenance": {"model": "old"}})
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(FullDiskError, match=f"{path}: the disk is full. It needs more than 4,096 bytes"):
        replace_with_neighbour(path, lambda file: np.save(file, NUMBERS), {"provenance": {"model": "new"}})
    with pytest.raises(FullDiskError, match=r"x\.npy\.json: the disk is full"):
        replace_with_neighbour(path, lambda file: np.save(file, NUMBERS[:9]), {"provenance": "x" * 2 * SMALL})
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
    assert is_described(path)


def test_a_description_of_other_data_is_known(tmp_path):
    path = tmp_path / "x.csv"
    neighbour = replace_with_neighbour(path, lambda file: file.write(b"a\n1\n"), {"provenance": {}})
    assert json.loads(neighbour.read_text()) == {"file": "x.csv", "sha256": sha256_of(path), "provenance": {}}
    assert is_described(path)
    path.write_bytes(b"a\n2\n")
    assert is_described(path) is False
    neighbour.write_text("[]")
    assert is_described(path) is None
    neighbour.unlink()
    assert is_described(path) is None


KILLED = """
import os, sys
from pathlib import Path
from hf_tsrep.files import written_atomically
from hf_tsrep.modeling.files_time_series import draft_of
path = Path(sys.argv[1])
with draft_of(path / "x.csv") as draft, written_atomically(path / "folder", overwrite=True) as folder:
    draft.write_text("half")
    (path / "folder").rename(folder.parent / "old")  # killed between the two renames
    os.kill(os.getpid(), 9)
"""


def test_drafts_of_a_killed_program_are_removed_by_the_next_and_what_it_moved_comes_back(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("kept")
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -9
    assert len(list(tmp_path.glob(".*.draft"))) == 2
    replace_file(tmp_path / "x.csv", lambda file: file.write(b"whole"))
    with pytest.raises(OSError, match="stop"), written_atomically(tmp_path / "folder", overwrite=True):
        raise OSError("stop")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "x.csv"]
    assert (tmp_path / "folder" / "mine").read_text() == "kept"


def test_a_draft_that_is_being_written_is_left_alone(tmp_path):
    path = tmp_path / "x.csv"
    with draft_of(path) as first:
        first.write_text("first")
        replace_file(path, lambda file: file.write(b"second"))
        assert first.read_text() == "first"
    assert [one.name for one in tmp_path.iterdir()] == ["x.csv"]


def test_files_have_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    replace_file(tmp_path / "ours", lambda file: file.write(b"x"))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_sums_are_those_of_sha256sum_and_name_what_changed(tmp_path):
    (tmp_path / "part").mkdir()
    for name in ("a", "b c", "part/d", ".hidden"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    check = subprocess.run(["sha256sum", "--check", SUMS_FILE], cwd=tmp_path, capture_output=True, text=True)
    assert check.returncode == 0
    assert check.stdout.splitlines() == ["a: OK", "b c: OK", "part/d: OK"]
    assert changed_files(tmp_path) == {}
    (tmp_path / "a").write_text("b")
    (tmp_path / "part" / "d").unlink()
    assert changed_files(tmp_path) == {"a": "differs", "part/d": "is missing"}
    with sums_kept(tmp_path):
        (tmp_path / "new").write_text("n")
    assert changed_files(tmp_path) == {"a": "differs"}, "what the block did not write keeps its sum"
    (tmp_path / SUMS_FILE).write_text("nonsense\n")
    with pytest.raises(ValueError, match="line 1: 'nonsense' is no sum and name of a file"):
        changed_files(tmp_path)


@pytest.mark.parametrize("damage", [b"\xff", b"", b"cut"])
def test_damaged_sums_are_told_and_do_not_keep_a_model_from_being_saved(tmp_path, damage, caplog, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    sums = tmp_path / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes()[:30] + damage + sums.read_bytes()[31:])
    with pytest.raises(ValueError, match=r"SHA256SUMS, line 1: .* is no sum"):
        read_sums(tmp_path)
    monkeypatch.setattr(files_time_series.logger, "propagate", True)
    with sums_kept(tmp_path):
        (tmp_path / "c").write_text("new")
    assert "SHA256SUMS, line 1 is no sum" in caplog.text
    assert set(read_sums(tmp_path)) == {"b", "c"}
    assert not changed_files(tmp_path)


def test_no_sums_begin_where_a_folder_has_none(tmp_path):
    with sums_kept(tmp_path, begins=False):
        (tmp_path / "results.json").write_text("{}")
    assert os.listdir(tmp_path) == ["results.json"]
