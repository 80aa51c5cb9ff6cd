"""`hf-tsrep results`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ..evaluation.result_tables import results_table
from ..results import load_results
from .arguments import split_at_commas


def results_command(
    folder: Annotated[
        Path, typer.Argument(help="A results file, or a folder of them; a model folder will do.")
    ] = Path("results"),
    metrics: Annotated[
        str | None, typer.Option(help="Metrics to show, with commas; default the main one of each protocol.")
    ] = None,
    digits: Annotated[int, typer.Option(min=1, max=10, help="Decimals.")] = 3,
    output: Annotated[Path | None, typer.Option(help="Markdown file to write instead of printing.")] = None,
) -> None:
    """Show results in a Markdown table for each task.

    The published numbers stand beside them, with how they were chosen below.
    """
    logging.getLogger("hf_tsrep.results").setLevel(logging.WARNING)  # a model folder has other JSON files
    found = load_results(folder)
    if not found:
        raise FileNotFoundError(f"{folder} holds no results; `hf-tsrep evaluate` writes them.")
    chosen = split_at_commas(metrics)
    if chosen:
        known = {name for one in found for name in one.metrics}
        absent = [
            name for name in chosen if name not in known and not any(one.startswith(f"{name}_") for one in known)
        ]
        if absent:
            raise ValueError(f"No result has the metric {absent[0]!r}; there are {', '.join(sorted(known))}.")
    per_protocol = {one.protocol: chosen for one in found} if chosen else None
    tables = results_table(found, metrics=per_protocol, digits=digits)
    if output is None:
        typer.echo(tables, nl=False)
        return
    options = {"metrics": metrics, "digits": None if digits == 3 else digits, "output": output.as_posix()}
    given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(_page(f"hf-tsrep results {folder.as_posix()}{given}", tables, output), encoding="utf-8")
    typer.echo(f"Written to {output}")


def _page(command: str, tables: str, output: Path) -> str:
    """Return the tables with a title and the command that made them."""
    notes = " What the experiments show is in [NOTES.md](NOTES.md)." if (output.parent / "NOTES.md").is_file() else ""
    how = (
        f"Made by `{command}`; do not edit.{notes} A result is the mean over seeds ± the sample standard deviation; "
        "the number in brackets after a published one leads to the line that says how it was chosen."
    )
    return f"# Results\n\n{how}\n\n{tables}"
