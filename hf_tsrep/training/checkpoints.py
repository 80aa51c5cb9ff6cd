"""What an output folder holds: whose it is, and which checkpoints are whole, for a run to go on with."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..files import replace_file
from ..modeling.files_time_series import SUMS_FILE, is_hidden, remove_drafts, sha256_of
from .settings import FINETUNING_FILE, SETTINGS_FILE

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
CHECKSUMS_FILE = "checksums.json"
STATE_FILE = "trainer_state.json"  # the Trainer writes it last; the sums follow
STAGING_FOLDER = "saving"  # of whose drafts the finished files move to the output folder
_LOCK_FILE = ".training.lock"
_HOLDER_FILE = ".training.json"
_NEEDED = ("optimizer.pt", "scheduler.pt")
_LOCK_FILES = frozenset({_LOCK_FILE, _HOLDER_FILE})
# What a run leaves that was killed before its first checkpoint: nothing that anybody misses.
_OF_A_BEGUN_RUN = frozenset({SETTINGS_FILE, FINETUNING_FILE}) | _LOCK_FILES
_DRAFTED = (STAGING_FOLDER, SUMS_FILE, *sorted(_OF_A_BEGUN_RUN - {_LOCK_FILE}))  # what a killed run leaves drafts of


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoint folders, oldest step first, whole or not."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.iterdir() if path.is_dir()}
    found = [(int(match.group(1)), path) for path, match in steps.items() if match]
    return [path for _, path in sorted(found)]


def faults_of(checkpoint: str | Path, num_processes: int = 1) -> list[str]:
    """Return why a checkpoint cannot be resumed from, such as "optimizer.pt is damaged"; empty for a whole one.

    Args:
        checkpoint: Its folder.
        num_processes: Number of processes that wrote it, each its own random state.
    """
    folder = Path(checkpoint)
    ranks = [""] if num_processes == 1 else [f"_{rank}" for rank in range(num_processes)]
    needed = [*_NEEDED, *(f"rng_state{rank}.pth" for rank in ranks), STATE_FILE, CHECKSUMS_FILE]
    faults = [f"{name} is missing" for name in needed if not (folder / name).is_file()]
    if not any(folder.glob("model*.safetensors")):
        faults.insert(0, f"{WEIGHTS_FILE} is missing")
    sums = _read_json(folder / CHECKSUMS_FILE)
    if isinstance(sums, dict):
        damaged = [name for name, checksum in sums.items() if _checksum(folder / name) != checksum]
    else:
        damaged = [CHECKSUMS_FILE]
    return faults + [f"{name} is damaged" for name in damaged if f"{name} is missing" not in faults]


def write_checksums(checkpoint: str | Path) -> None:
    """Write the sha256 of every file of a checkpoint, so that a later resume knows a damaged one.

    Args:
        checkpoint: Its folder, which is complete.
    """
    folder = Path(checkpoint)
    files = sorted(one for one in folder.rglob("*") if one.is_file() and not is_hidden(one, folder))  # drafts are
    files = [one for one in files if one.name != CHECKSUMS_FILE]
    write_json(folder / CHECKSUMS_FILE, {str(path.relative_to(folder)): _checksum(path) for path in files})


def _checksum(path: Path) -> str:
    """Return the sha256 of a file; empty where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError:
        return ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def find_last_checkpoint(output_dir: str | Path, num_processes: int = 1) -> str | None:
    """Return the newest whole checkpoint of an output folder, or None; a damaged one is named in the log.

    Args:
        output_dir: Folder that holds `checkpoint-N` folders.
        num_processes: Number of processes that train.
    """
    for checkpoint in reversed(list_checkpoints(output_dir)):
        faults = faults_of(checkpoint, num_processes)
        if not faults:
            return str(checkpoint)
        logger.warning("%s is skipped: %s.", checkpoint, ", ".join(faults))
    return None


def is_finished(output_dir: str | Path, weights_file: str = WEIGHTS_FILE) -> bool:
    """Return whether the folder holds a finished model: the weights, which are written last."""
    return (Path(output_dir) / weights_file).is_file()


def check_output_directory(
    output_dir: str | Path, resume: bool, overwrite: bool, weights_file: str = WEIGHTS_FILE
) -> None:
    """Refuse to train into a folder that holds anything but the run that is resumed, unless that was asked for.

    Args:
        output_dir: The folder; it need not exist.
        resume: Whether the run goes on from a checkpoint.
        overwrite: Whether a finished model and checkpoints are removed, and other files may be replaced.
        weights_file: Name of the file that makes a model finished.

    Raises:
        FileExistsError: The folder holds a finished model, checkpoints of an unfinished run, or files of another kind.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose a folder as output_dir.")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    checkpoints = list_checkpoints(folder)
    if overwrite:
        (folder / weights_file).unlink(missing_ok=True)
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint)
        return
    is_run = bool(checkpoints) or bool(present & {SETTINGS_FILE, FINETUNING_FILE})
    if present <= _OF_A_BEGUN_RUN or (resume and is_run):
        return
    if is_finished(folder, weights_file):
        what = "a finished model"
    elif checkpoints:
        what = f"{len(checkpoints)} checkpoints of an unfinished run"
    else:
        others = sorted(present - _LOCK_FILES)
        what = f"files that no run of this kind has written ({', '.join(others[:5])})"
    fix = "go on with resume_from_checkpoint=True (--resume), or remove it" if is_run else "or let them be replaced"
    raise FileExistsError(
        f"{folder} holds {what}. Choose another output_dir, {fix} with overwrite_output_dir=True "
        "(--overwrite-output-dir)."
    )


@contextmanager
def held_by_this_run(output_dir: str | Path) -> Iterator[None]:
    """Keep other runs out of an output folder, and remove the drafts of runs that were killed.

    The system ends the hold of a process that dies, so it is never stale.

    Args:
        output_dir: The folder; it is created.

    Raises:
        FileExistsError: Another run trains into it; the message names the process.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / _LOCK_FILE, timeout=0), folder / _HOLDER_FILE
    try:
        lock.acquire()
    except Timeout as error:
        told = _read_json(holder)
        who = f"process {told['process']} on {told['host']}" if isinstance(told, dict) else "another process"
        raise FileExistsError(
            f"{who} trains into {folder} at this moment. Wait for it or stop it, or choose another output_dir."
        ) from error
    try:
        for name in _DRAFTED:
            remove_drafts(folder / name)
        write_json(holder, {"process": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        # While the lock is held: nobody has opened the file since, but to be refused.
        for path in (holder, folder / _LOCK_FILE):
            with suppress(OSError):
                path.unlink()
        lock.release()
        if not any(folder.iterdir()):
            folder.rmdir()


def write_json(path: Path, values: Any) -> None:
    """Write values as readable JSON; a kill leaves the file as it was.

    Raises:
        FullDiskError: There is no room for it.
    """
    replace_file(path, lambda file: file.write((json.dumps(values, indent=2) + "\n").encode()))
