"""The text of a file, whatever its compression and its encoding, and never more of it than the limit."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..errors import one_line
from .corpus import CorpusError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip")
LIMIT_VARIABLE = "HF_TSREP_MAX_FILE_BYTES"
DEFAULT_LIMIT = 4 * 2**30


def byte_limit() -> int:
    """Return how many bytes a file may hold unpacked: 4 GiB, or what HF_TSREP_MAX_FILE_BYTES says.

    Raises:
        CorpusError: The variable holds no positive whole number.
    """
    given = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not given:
        return DEFAULT_LIMIT
    if not given.isdecimal() or int(given) == 0:
        raise CorpusError(f"{LIMIT_VARIABLE}={given!r} is no number of bytes; write such as {DEFAULT_LIMIT}.")
    return int(given)


def check_size(num_bytes: int, place: str) -> None:
    """Refuse a file that is larger unpacked than the limit, such as an archive that was made to fill memory."""
    if num_bytes > byte_limit():
        raise CorpusError(
            f"{place}: more than {byte_limit():,} bytes unpacked. Where that is right, raise the limit with the "
            f"environment variable {LIMIT_VARIABLE}."
        )


def format_suffix(path: Path) -> str:
    """Return the ending that names the format, in lower case: `.csv` of both `a.csv` and `a.CSV.gz`."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower()


def format_stem(path: Path) -> str:
    """Return the name without the endings of format and compression."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return name.stem


def has_archive_name(path: Path) -> bool:
    """Return whether a file is called like those of the archives: NAME_TRAIN or NAME_TEST, with any ending."""
    return format_stem(path).endswith(("_TRAIN", "_TEST"))


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked where it ends in `.gz`, `.bz2`, `.xz` or `.zip`.

    Raises:
        CorpusError: It cannot be read or unpacked, is larger than the limit, or a zip archive of several files.
    """
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zip": _open_only_member,
    }
    opener = openers.get(path.suffix.lower(), lambda file: file.open("rb"))
    try:
        with opener(path) as stream:
            content = _read_up_to(stream, byte_limit() + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path}: cannot be read ({one_line(error)}).") from error
    check_size(len(content), str(path))
    return content


def _read_up_to(stream: IO[bytes], num_bytes: int) -> bytes:
    pieces, size = [], 0
    while size < num_bytes and (piece := stream.read(2**24)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _open_only_member(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise CorpusError(f"{path}: the archive holds {len(names)} files; unpack it and name one of them.")
    return archive.open(names[0])


def decode_text(content: bytes, place: str, encoding: str | None = None) -> str:
    """Return the text of a file.

    Args:
        content: Its bytes.
        place: The file, for messages.
        encoding: Name of the encoding. None for UTF-8, UTF-16 or UTF-32 by their marks, UTF-16 without a mark by its
            zeros, and Latin-1 where it is none of them.

    Raises:
        CorpusError: The bytes are no text of that encoding, or no text at all; or there is no such encoding.
    """
    try:
        text = content.decode(encoding or _encoding_of(content))
    except LookupError as error:
        raise CorpusError(f"{place}: there is no encoding={encoding!r}; write such as 'utf-8' or 'cp1252'.") from error
    except (UnicodeError, ValueError) as error:
        raise CorpusError(
            f"{place}: cannot be read as {encoding or 'text'} ({one_line(error)}); name its encoding."
        ) from error
    if "\0" in text:
        raise CorpusError(f"{place}: this is no text: it holds zero bytes. Name the encoding where it is one.")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _encoding_of(content: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if content.startswith(mark):
            return encoding
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    head = content[:4096]
    if head[1::2].count(0) > len(head) / 4 and not head[::2].count(0):
        return "utf-16-le"
    if head[::2].count(0) > len(head) / 4 and not head[1::2].count(0):
        return "utf-16-be"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def read_text(path: Path, encoding: str | None = None) -> str:
    """Return the text of a file with lines that end in a line feed; see read_bytes and decode_text."""
    return decode_text(read_bytes(path), str(path), encoding)
