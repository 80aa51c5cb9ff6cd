"""`hf-tsrep list`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import near_matches


def list_command(
    pattern: Annotated[str, typer.Argument(help='Shell-style pattern, such as "ts*" or "*Classification".')] = "*",
) -> None:
    """List methods, their papers and their model classes."""
    from hf_tsrep.registry import METHODS, list_methods, list_models

    found = set(list_models(pattern))
    if not found:
        names = [*list_methods(), *list_models()]
        hint = near_matches(pattern, names, count=2, cutoff=0.5, spell=str)
        raise ValueError(f"No method and no class fits {pattern!r}.{hint} Methods: {', '.join(list_methods())}.")
    for name in list_methods():
        method = METHODS[name]
        classes = [one for one in list_models(name) if one in found]
        if classes:
            paper = method.paper
            typer.echo(f"{name}: {paper.title} ({paper.authors.split(',')[0]} et al., {paper.venue} {paper.year})")
            typer.echo(f"  {paper.url}")
            typer.echo(f"  {', '.join(classes)}")
