"""`hf-tsrep convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def convert_command(
    method: Annotated[str, typer.Argument(help="Method of the checkpoint; see `hf-tsrep list`.")],
    checkpoint: Annotated[Path, typer.Option(help="State dict of the official code: .safetensors, .pkl, .pt, ...")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write.")],
    hyperparameters: Annotated[
        Path | None, typer.Option(help="JSON or YAML file of the official code's arguments.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
) -> None:
    """Turn a checkpoint of an official code into a model folder.

    No code of the file is run. A forecasting or classification head makes a model with this head, the layers of the
    pretext task one for pre-training; else the folder holds the encoder. What is left out is named.
    """
    from hf_tsrep.hub import convert_checkpoint
    from hf_tsrep.hub.convert import converted_class

    folder = convert_checkpoint(
        method,
        checkpoint,
        output_dir,
        hyperparameters=_read_mapping(hyperparameters) if hyperparameters else None,
        overwrite=overwrite,
    )
    what = converted_class(folder)
    typer.echo(f"{folder}: {what + ', ' if what else ''}converted from {checkpoint.name}")


def _read_mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}; expected names and values.")
    return loaded
