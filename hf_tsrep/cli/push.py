"""`hf-tsrep push`."""

from __future__ import annotations

from typing import Annotated

import typer


def push_command(
    model: Annotated[str, typer.Option(help="Folder of a finished model with its card.")],
    repo_id: Annotated[str, typer.Option(help="Repository on the Hub, name/model; created where it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to.")] = None,
    commit_message: Annotated[str | None, typer.Option(help="Summary of the commit.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
) -> None:
    """Publish a model folder on the Hub.

    All files go in one commit; incomplete and unsafe folders are refused.
    """
    from hf_tsrep.hub import push_to_hub

    url = push_to_hub(
        model, repo_id, private=private, revision=revision, commit_message=commit_message, create_pr=create_pr
    )
    typer.echo(url)
