"""`hf-tsrep list`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import near_matches
from ..registry import METHODS, list_methods, list_models

if TYPE_CHECKING:
    from ..registry import Method

_TABLE_HEAD = (
    "| method | paper | what for | parity | best result | cost on 2 cores |",
    "|---|---|---|---|---|---|",
)


def list_command(
    pattern: Annotated[str, typer.Argument(help='Shell-style pattern, such as "ts*" or "*Classification".')] = "*",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The table of README, from the front matter of the cards.")
    ] = False,
) -> None:
    """List methods, their papers and their model classes."""
    found = set(list_models(pattern))
    if not found:
        names = [*list_methods(), *list_models()]
        hint = near_matches(pattern, names, count=2, cutoff=0.5, spell=str)
        raise ValueError(f"No method and no class fits {pattern!r}.{hint} Methods: {', '.join(list_methods())}.")
    classes_of = {name: [one for one in list_models(name) if one in found] for name in list_methods()}
    if markdown:
        typer.echo(methods_table(METHODS[name] for name, classes in classes_of.items() if classes))
        return
    for name, classes in classes_of.items():
        if classes:
            paper = METHODS[name].paper
            typer.echo(f"{name}: {paper.title} ({paper.authors.split(',')[0]} et al., {paper.venue} {paper.year})")
            typer.echo(f"  {paper.url}")
            typer.echo(f"  {', '.join(classes)}")


def methods_table(methods: Iterable[Method]) -> str:
    """Return a Markdown table of methods, one row each in the order of publication; what a card leaves out is "-"."""
    rows = []
    for method in sorted(methods, key=lambda one: (one.paper.year, one.name)):
        paper, facts = method.paper, method.facts
        cells = (
            f"`{method.name}`",
            f"[{paper.title}]({paper.url}), {paper.venue} {paper.year}",
            facts.get("summary", "-"),
            f"{facts['parity']} kinds" if "parity" in facts else "-",
            facts.get("best_result", "-"),
            facts.get("cost", "-"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*_TABLE_HEAD, *rows])
