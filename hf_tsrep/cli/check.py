"""`hf-tsrep check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files import is_described, neighbour_of
from ..hub.folders import accept_files, check_sums
from ..opening import load_encoder, without_file_bars


def check_command(
    place: Annotated[Path, typer.Argument(help="Folder of a model or a tokenizer, or a file with a FILE.json.")],
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the folder as it is now, after it was changed on purpose.")
    ] = False,
) -> None:
    """Tell whether a folder or a file is, bit for bit, what was written.

    A folder is compared with its SHA256SUMS (which sha256sum --check reads, too), and its model is opened. A file of
    embeddings or answers is compared with the sum in FILE.json beside it.
    """
    if place.is_file():
        typer.echo(_check_file(place))
        return
    if accept:
        typer.echo(f"{place}: SHA256SUMS holds the {accept_files(place)} files as they are now.")
        return
    found = check_sums(place)
    if found.changed:
        told = "; ".join(f"{name} {how}" for name, how in found.changed.items())
        raise OSError(
            f"{place}: {told}. Save or download it again; where it was changed on purpose, hf-tsrep check {place} "
            "--accept."
        )
    typer.echo(f"{place}: {found.num_files} files are as they were written.{_opened(place)}")
    if found.unlisted:
        typer.echo(f"Not in SHA256SUMS: {', '.join(found.unlisted)}.")


def _check_file(path: Path) -> str:
    told = is_described(path)
    if told is None:
        raise OSError(f"{path}: {neighbour_of(path)} is not there or holds no sum of it.")
    if not told:
        raise OSError(f"{path} is not the file that {neighbour_of(path)} describes: one of them is newer. Write both.")
    return f"{path} is the file that {neighbour_of(path)} describes."


def _opened(folder: Path) -> str:
    """Return what is in a folder that opens, as a sentence."""
    if not (folder / "config.json").is_file():
        return ""
    with without_file_bars():
        model = load_encoder(folder)
    return f" {type(model).__name__} opens, {model.num_parameters():,} parameters, all finite."
