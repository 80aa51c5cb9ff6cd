"""What an output folder holds: which checkpoints are whole, so that a killed run can go on, and records."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
_NEEDED = ("optimizer.pt", "scheduler.pt")


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoint folders, oldest step first, whole or not."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.iterdir() if path.is_dir()}
    found = [(int(match.group(1)), path) for path, match in steps.items() if match]
    return [path for _, path in sorted(found)]


def missing_parts(checkpoint: str | Path, num_processes: int = 1) -> list[str]:
    """Return what a checkpoint lacks to be resumed from; empty for a whole one.

    Args:
        checkpoint: Its folder.
        num_processes: Number of processes that wrote it, each its own random state.
    """
    folder = Path(checkpoint)
    ranks = [""] if num_processes == 1 else [f"_{rank}" for rank in range(num_processes)]
    random_states = [f"rng_state{rank}.pth" for rank in ranks]
    missing = [name for name in (*_NEEDED, *random_states) if not (folder / name).is_file()]
    if not any(folder.glob("model*.safetensors")):
        missing.insert(0, WEIGHTS_FILE)
    try:  # the Trainer writes this file last
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        missing.append("trainer_state.json")
    return missing


def find_last_checkpoint(output_dir: str | Path, num_processes: int = 1) -> str | None:
    """Return the newest whole checkpoint of an output folder, or None.

    Args:
        output_dir: Folder that holds `checkpoint-N` folders.
        num_processes: Number of processes that train.
    """
    for checkpoint in reversed(list_checkpoints(output_dir)):
        missing = missing_parts(checkpoint, num_processes)
        if not missing:
            return str(checkpoint)
        logger.warning("%s is skipped: it lacks %s.", checkpoint, ", ".join(missing))
    return None


def is_finished(output_dir: str | Path, weights_file: str = WEIGHTS_FILE) -> bool:
    """Return whether the folder holds a finished model: the weights, which are written last."""
    return (Path(output_dir) / weights_file).is_file()


def check_output_directory(
    output_dir: str | Path, resume: bool, overwrite: bool, weights_file: str = WEIGHTS_FILE
) -> None:
    """Refuse to train into a folder that holds a model or checkpoints, unless that was asked for.

    Args:
        output_dir: The folder; it need not exist.
        resume: Whether the run goes on from a checkpoint.
        overwrite: Whether a finished model and checkpoints are removed.
        weights_file: Name of the file that makes a model finished.

    Raises:
        FileExistsError: The folder holds a finished model, or checkpoints of an unfinished run.
    """
    folder = Path(output_dir)
    if resume:
        return
    checkpoints = list_checkpoints(folder)
    if overwrite:
        (folder / weights_file).unlink(missing_ok=True)
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint)
        return
    finished = is_finished(folder, weights_file)
    if finished or checkpoints:
        what = "a finished model" if finished else f"{len(checkpoints)} checkpoints of an unfinished run"
        raise FileExistsError(
            f"{folder} holds {what}. Choose another output_dir, go on with resume_from_checkpoint=True "
            "(--resume), or remove it with overwrite_output_dir=True (--overwrite-output-dir)."
        )


def write_json(path: Path, values: Any) -> None:
    """Write values as readable JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
