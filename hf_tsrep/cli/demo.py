"""`hf-tsrep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..demo import run_demo
from .progress import training_progress


def demo_command(
    context: typer.Context,
    output_dir: Annotated[
        Path, typer.Option(help="Folder to write; what an earlier demo left there is replaced.")
    ] = Path("demo"),
    max_steps: Annotated[int | None, typer.Option(min=1, help="Training steps; default as published.")] = None,
) -> None:
    """Train, encode, evaluate, save and reload an encoder.

    The problem is a real one that needs no download.
    """
    quiet = bool(context.find_root().params.get("quiet"))
    with training_progress(quiet=quiet):
        run_demo(output_dir, max_steps=max_steps, quiet=quiet, say=typer.echo)
