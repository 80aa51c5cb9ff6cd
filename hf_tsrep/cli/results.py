"""`hf-tsrep results`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from .arguments import split_at_commas


def results_command(
    folder: Annotated[
        Path, typer.Argument(help="A results file, or a folder of them; a model folder will do.")
    ] = Path("results"),
    metrics: Annotated[
        str | None, typer.Option(help="Metrics to show, with commas; default the main one of each protocol.")
    ] = None,
    digits: Annotated[int, typer.Option(min=1, max=10, help="Decimals.")] = 3,
) -> None:
    """Print results as a Markdown table.

    The published numbers stand beside them.
    """
    from hf_tsrep.evaluation import load_results, results_table

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
    typer.echo(results_table(found, metrics=per_protocol, digits=digits), nl=False)
