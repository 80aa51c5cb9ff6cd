"""Files and folders of the library: whole or not at all, with a neighbour that knows which file it describes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .modeling.files_time_series import draft_of, full_disk_named, sha256_of


def replace_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside its place, and put it there when it is whole.

    Args:
        path: The file.
        write: What writes its content.

    Raises:
        FullDiskError: There is no room for it; the file is as it was.
    """
    with draft_of(path) as draft:
        _fill(draft, path, write)
        os.replace(draft, path)


def replace_with_neighbour(path: Path, write: Callable[[IO[bytes]], Any], described: Mapping[str, Any]) -> Path:
    """Write a file, and FILE.json beside it with what is known of it and its sum.

    Both are whole before either takes its place, the data first: neither a full disk nor a kill leaves new words
    beside old data.

    Args:
        path: The file.
        write: What writes its content.
        described: Plain JSON types.

    Returns:
        The neighbour.

    Raises:
        FullDiskError: There is no room; both files are as they were.
    """
    neighbour = neighbour_of(path)
    with draft_of(path) as data, draft_of(neighbour) as words:
        _fill(data, path, write)
        told = {"file": path.name, "sha256": sha256_of(data), **described}
        _fill(words, neighbour, lambda file: file.write((json.dumps(told, indent=1) + "\n").encode()))
        os.replace(data, path)
        os.replace(words, neighbour)
    return neighbour


def neighbour_of(path: Path) -> Path:
    """Return the place of what describes a file: FILE.json."""
    return path.with_name(path.name + ".json")


def is_described(path: Path) -> bool | None:
    """Return whether the neighbour of a file describes this very file; None where it has none with a sum."""
    try:
        told = json.loads(neighbour_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    expected = told.get("sha256") if isinstance(told, dict) else None
    return None if expected is None else expected == sha256_of(path)


def _fill(draft: Path, path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    with full_disk_named(path), draft.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def written_atomically(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a draft beside `folder`, which takes its place when the block ends without an error and vanishes otherwise.

    Args:
        folder: The folder to write; its parents are created.
        overwrite: Whether an existing folder is replaced. An empty one always is.

    Yields:
        An empty folder.

    Raises:
        FileExistsError: `folder` is a file, or a folder that is not empty and `overwrite` is False.
        FullDiskError: There is no room for it; what stood there is as it was.
    """
    target = Path(folder)
    is_occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if is_occupied and not (overwrite and target.is_dir()):
        raise FileExistsError(f"{target} exists already; choose another folder, or pass overwrite=True.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(target, is_folder=True) as workshop:
        draft = workshop / "new"
        draft.mkdir()
        with full_disk_named(draft):
            yield draft
        if target.exists():
            target.rename(workshop / "old")
        try:
            draft.rename(target)
        except OSError:
            if (workshop / "old").exists():
                (workshop / "old").rename(target)
            raise
