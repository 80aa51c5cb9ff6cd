"""Files that appear whole or not at all, sums that tell a changed one, and one sentence for a full disk."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which deletes no file that is open
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)  # not transformers' own, which takes a second to import

SUMS_FILE = "SHA256SUMS"
_BLOCK_BYTES = 2**20
_DRAFT_SUFFIX = ".draft"
_NO_ROOM = frozenset(getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT") if hasattr(errno, name))
# safetensors, torch.save and NumPy say it in words only.
_NO_ROOM_WORDS = re.compile(
    r"No space left|File too large|[Qq]uota exceeded|os error (27|28|112|122)\b|unexpected pos \d+ vs|and \d+ written"
)


class FullDiskError(OSError):
    """There is no room for a file; the message names it, its size and what is free."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def full_disk_named(place: str | os.PathLike, num_bytes: int | None = None) -> Iterator[None]:
    """Turn what any library raises on a full disk into one sentence.

    Args:
        place: The file that is written, or the folder.
        num_bytes: What it needs; None where only the part that was written is known.

    Raises:
        FullDiskError: The block met a full disk, a quota or the limit of a file's size.
    """
    path = Path(place)
    try:
        yield
    except Exception as error:
        if type(error).__name__ == FullDiskError.__name__ or not _is_of_full_disk(error):
            raise
        file = Path(error.filename) if isinstance(error, OSError) and isinstance(error.filename, str) else path
        needs = _bytes_of(path) if num_bytes is None else num_bytes
        existing = next(one for one in (path, *path.absolute().parents) if one.is_dir())
        raise FullDiskError(
            errno.ENOSPC,
            f"{file}: the disk is full. It needs {'more than ' if num_bytes is None else ''}{needs:,} bytes, and "
            f"{shutil.disk_usage(existing).free:,} are free in {existing}. Make room, or choose another place.",
        ) from error


def _is_of_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(error, "errno", None) in _NO_ROOM or _NO_ROOM_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _bytes_of(path: Path) -> int:
    """Return the size of the draft of a file, of the file, or of the newest file of a folder; 0 where none is."""
    files = list(_drafts(path)) or (path.rglob("*") if path.is_dir() else [path])
    found = [one.stat() for one in files if one.is_file()]
    return max(found, key=lambda one: one.st_mtime_ns).st_size if found else 0


@contextmanager
def draft_of(path: Path, is_folder: bool = False) -> Iterator[Path]:
    """Give an empty file or folder beside a place, which vanishes with the block unless it was moved there.

    The draft of a program that was killed is removed by the next one that writes to the place: the system ends the
    hold of a process that dies.

    Args:
        path: Where the draft belongs.
        is_folder: Whether it is a folder.

    Yields:
        The draft, with the mode that any new file or folder has.
    """
    remove_drafts(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_DRAFT_SUFFIX}")
    draft.mkdir() if is_folder else draft.touch(exist_ok=False)
    hold = _hold(draft)
    try:
        yield draft
    finally:
        _remove(draft)
        if hold is not None:
            os.close(hold)


def remove_drafts(path: Path) -> None:
    """Remove the drafts of programs that were killed while they wrote to a place; what they had moved away is back.

    Args:
        path: Where the drafts belong. Those of a program that lives stay, and so does what is no draft.
    """
    for old in list(_drafts(path)):
        if (hold := _hold(old)) is not None:
            restore(old, path)
            _remove(old)
            os.close(hold)


def restore(draft: Path, path: Path) -> None:
    """Put back what a killed program had moved away, into its draft, to make place for a new folder."""
    if (draft / "old").exists() and not path.exists():
        (draft / "old").rename(path)


def _drafts(path: Path) -> Iterator[Path]:
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(_DRAFT_SUFFIX)}")
    if path.parent.is_dir():
        yield from (one for one in path.parent.iterdir() if name.fullmatch(one.name))


def _hold(draft: Path) -> int | None:
    """Return the descriptor that holds a draft; None where another process does, or the system cannot tell."""
    if fcntl is None:
        return None
    descriptor = -1
    try:
        descriptor = os.open(draft, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor >= 0:
            os.close(descriptor)
        return None
    return descriptor


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def sha256_of(path: str | os.PathLike) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_sums(folder: str | os.PathLike, is_rewritten: bool = False) -> dict[str, str]:
    """Return the sums of a folder's SHA256SUMS by file name; none where there is no such file.

    Args:
        folder: The folder.
        is_rewritten: Whether a damaged line is dropped, with a warning, for the file is about to be written again.

    Raises:
        ValueError: A line is not such as `sha256sum` writes it.
    """
    path = Path(folder) / SUMS_FILE
    sums = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None and is_rewritten:
            logger.warning(f"{path}, line {number} is no sum and name of a file; it is dropped.")
            continue
        if match is None:
            raise ValueError(f"{path}, line {number}: {line[:80]!r} is no sum and name of a file. Write it again.")
        sums[match[2]] = match[1]
    return sums


def write_sums(folder: str | os.PathLike, files: Iterable[Path] | None = None) -> None:
    """Write SHA256SUMS, as `sha256sum` does: `sha256sum --check SHA256SUMS` in the folder reads it.

    Args:
        folder: The folder.
        files: Files of it whose sums are new, the others keep theirs; None for all files, hidden ones left out.
    """
    folder = Path(folder)
    if files is None:
        files, sums = (one for one in folder.rglob("*") if one.is_file() and not is_hidden(one, folder)), {}
    else:
        sums = read_sums(folder, is_rewritten=True)
    sums |= {one.relative_to(folder).as_posix(): sha256_of(one) for one in files if one.name != SUMS_FILE}
    text = text_of_sums({name: value for name, value in sums.items() if (folder / name).is_file()})
    with draft_of(folder / SUMS_FILE) as draft, full_disk_named(folder / SUMS_FILE):
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / SUMS_FILE)


def text_of_sums(sums: Mapping[str, str]) -> str:
    """Return the lines of SHA256SUMS for sums by file name."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def is_hidden(path: Path, folder: Path) -> bool:
    """Return whether a file of a folder, or a folder that it is in, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def changed_files(folder: str | os.PathLike) -> dict[str, str]:
    """Return the files of a folder that are not as SHA256SUMS says, by name: "is missing" or "differs"."""
    sums = read_sums(folder)
    paths = {name: Path(folder) / name for name in sums}
    missing = {name: "is missing" for name, path in paths.items() if not path.is_file()}
    return {
        name: missing.get(name, "differs")
        for name, path in paths.items()
        if name in missing or sha256_of(path) != sums[name]
    }


@contextmanager
def sums_kept(folder: str | os.PathLike, begins: bool = True) -> Iterator[None]:
    """Take the files that the block writes into the folder, at its top, into SHA256SUMS.

    Args:
        folder: It need not exist before.
        begins: Whether SHA256SUMS is written where there is none.
    """
    folder = Path(folder)
    before = _states(folder)
    yield
    written = [path for path, state in _states(folder).items() if before.get(path) != state]
    if written and (begins or (folder / SUMS_FILE).is_file()):
        write_sums(folder, written)


def _states(folder: Path) -> dict[Path, tuple[int, int, int]]:
    files = [one for one in folder.iterdir() if one.is_file()] if folder.is_dir() else []
    stats = {one: one.stat() for one in files if not one.name.startswith(".") and one.name != SUMS_FILE}
    return {one: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for one, stat in stats.items()}
