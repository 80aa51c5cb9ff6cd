"""Folders that appear complete or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """
    target = Path(folder)
    is_occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if is_occupied and not (overwrite and target.is_dir()):
        raise FileExistsError(f"{target} exists already; choose another folder, or pass overwrite=True.")
    target.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        draft = workshop / "new"
        draft.mkdir()
        yield draft
        if target.exists():
            target.rename(workshop / "old")
        try:
            draft.rename(target)
        except OSError:
            if (workshop / "old").exists():
                (workshop / "old").rename(target)
            raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
