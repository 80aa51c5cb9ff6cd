"""`hf-tsrep card`: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..hub.card_checks import card_faults, card_notes

app = typer.Typer(
    help="Cards of models: check one before it is published.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def cards() -> None:
    """Cards of models: check one before it is published."""


@app.command("check")
def check_card(folder: Annotated[Path, typer.Argument(help="Folder of a model with its card.")]) -> None:
    """Tell what is wrong with a card, without the Hub.

    Header, pipeline, ids of data sets, numbers against results.json, pictures. What is to be decided is said too.
    """
    faults = card_faults(folder)
    if faults:
        raise ValueError(f"the card of {folder}: {' '.join(faults)} hf_tsrep.build_model_card writes a new one.")
    for note in card_notes(folder):
        typer.echo(f"{folder}: {note}")
    typer.echo(f"{folder}: the card can be published.")
