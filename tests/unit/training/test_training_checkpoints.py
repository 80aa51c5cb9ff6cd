"""Which checkpoints are whole, and whose an output folder is."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from hf_tsrep.training import find_last_checkpoint
from hf_tsrep.training.checkpoints import check_output_directory, faults_of, held_by_this_run, write_checksums
from hf_tsrep.training.run import Shared, check_resume
from hf_tsrep.training.saving import staged_folder


def whole_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.zeros(3)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    write_checksums(checkpoint)
    return checkpoint


FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "checksums.json"]


@pytest.mark.parametrize("broken", FILES)
def test_the_newest_whole_checkpoint_is_found(tmp_path, broken):
    whole_checkpoint(tmp_path, 9)
    newest = whole_checkpoint(tmp_path, 100)
    assert find_last_checkpoint(tmp_path) == str(newest)
    (newest / broken).unlink()
    assert faults_of(newest) == [f"{broken} is missing"]
    assert find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")


@pytest.mark.parametrize("broken", FILES)
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2]])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, broken, damage, caplog):
    older = whole_checkpoint(tmp_path, 9)
    newest = whole_checkpoint(tmp_path, 100)
    (newest / broken).write_bytes(damage((newest / broken).read_bytes()))
    assert faults_of(newest) == [f"{broken} is damaged"]
    assert find_last_checkpoint(tmp_path) == str(older)
    assert f"checkpoint-100 is skipped: {broken} is damaged" in caplog.text


@pytest.mark.parametrize("broken", FILES[:-1])
def test_a_changed_byte_is_found(tmp_path, broken):
    checkpoint = whole_checkpoint(tmp_path, 5)
    data = bytearray((checkpoint / broken).read_bytes())
    data[-1] ^= 1
    (checkpoint / broken).write_bytes(data)
    assert faults_of(checkpoint) == [f"{broken} is damaged"]


def test_every_process_has_its_random_state(tmp_path):
    checkpoint = whole_checkpoint(tmp_path, 5)
    assert faults_of(checkpoint, 2) == ["rng_state_0.pth is missing", "rng_state_1.pth is missing"]


def test_an_output_folder_is_not_overwritten_by_accident(tmp_path):
    check_output_directory(tmp_path / "new", resume=False, overwrite=False)
    check_output_directory(tmp_path, resume=False, overwrite=False)
    whole_checkpoint(tmp_path, 5)
    with pytest.raises(FileExistsError, match="1 checkpoints of an unfinished run"):
        check_output_directory(tmp_path, resume=False, overwrite=False)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"finished model.*--resume.*overwrite_output_dir"):
        check_output_directory(tmp_path, resume=False, overwrite=False)
    check_output_directory(tmp_path, resume=True, overwrite=False)
    check_output_directory(tmp_path, resume=False, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    (tmp_path / "pretraining.json").write_text("{}")
    mine = [".saving/notes.txt", ".saving.draft/notes.txt", ".saving.0123456789.draft", "saving", ".pretraining.json"]
    left = [
        ".saving.0123abcd.draft/model.safetensors",
        ".SHA256SUMS.0123abcd.draft",
        ".pretraining.json.0a0a0a0a.draft",
    ]
    for name in (*mine, *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with held_by_this_run(tmp_path):
        with staged_folder(tmp_path, "model.safetensors") as staging:
            (staging / "model.safetensors").write_bytes(b"whole")
    assert (tmp_path / "model.safetensors").read_bytes() == b"whole"
    found = {one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*") if one.is_file()}
    assert found == {*mine, "pretraining.json", "model.safetensors", "SHA256SUMS"}


def test_a_draft_of_a_run_that_lives_stays(tmp_path):
    with staged_folder(tmp_path, "model.safetensors") as staging:
        with held_by_this_run(tmp_path):
            pass
        assert staging.is_dir()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"facts": [1]}', '{"method_config": 3, "facts": {}}'])
def test_a_damaged_record_of_a_run_is_told_in_one_line(tmp_path, content):
    record = tmp_path / "pretraining.json"
    record.write_text(content)
    shared = Shared(values=(), groups=("method_config",), facts=("num_series",))
    now = {"method_config": {}, "facts": {"num_series": 3}}
    with pytest.raises(ValueError, match=r"Cannot resume: .*pretraining\.json") as told:
        check_resume(record, now, shared)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["README.md", "codec.safetensors", "model-00001-of-00002.safetensors", ".saving/x"])
@pytest.mark.parametrize("resume", [True, False])
def test_the_files_of_others_are_left_alone(tmp_path, name, resume):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=r"no run of this kind.*" + name.split("/")[0]):
        check_output_directory(tmp_path, resume=resume, overwrite=False)
    assert (tmp_path / name).read_text() == "mine"
    check_output_directory(tmp_path, resume=False, overwrite=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_may_begin_again(tmp_path):
    (tmp_path / "pretraining.json").write_text("{}")
    check_output_directory(tmp_path, resume=False, overwrite=False)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="out is a file"):
        check_output_directory(tmp_path / "out", resume=False, overwrite=True)


HOLDER = """
import os, signal, sys
from hf_tsrep.training.checkpoints import held_by_this_run

with held_by_this_run(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_run_at_a_time_holds_a_folder_and_a_killed_one_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        told = rf"process {holder.pid} on .* trains into .*out"
        with pytest.raises(FileExistsError, match=told), held_by_this_run(tmp_path / "out"):
            pass
        holder.kill()
    with held_by_this_run(tmp_path / "out"):
        check_output_directory(tmp_path / "out", resume=False, overwrite=False)
    assert not (tmp_path / "out").exists()
