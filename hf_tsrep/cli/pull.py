"""`hf-tsrep pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..hub.transfers import pull
from .arguments import Revision


def pull_command(
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, name/model.")],
    output_dir: Annotated[Path | None, typer.Option(help="Folder to write; default the model's name, here.")] = None,
    revision: Revision = None,
) -> None:
    """Download a model from the Hub, and verify every file.

    A download that broke off goes on. The token of private and gated repositories is that of the environment.
    """
    folder = output_dir or Path(repo_id.rpartition("/")[2])
    num_files = pull(repo_id, folder, revision=revision)
    told = "it has no SHA256SUMS to verify it with" if num_files is None else f"{num_files} files are as published"
    typer.echo(f"{folder}: {told}.")
