"""`hf-tsrep export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ExportFormat(StrEnum):
    """What a model can become."""

    ONNX = "onnx"
    TORCH = "torch"


def export_command(
    format: Annotated[ExportFormat, typer.Argument(help="onnx for onnxruntime, torch for torch.export.load.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of a model.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write.")],
    max_length: Annotated[int, typer.Option(help="Largest number of timestamps that the file takes.")] = 4096,
    max_batch_size: Annotated[int, typer.Option(help="Largest number of series that it takes at once.")] = 512,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
) -> None:
    """Write a model as one file that runs without this library.

    The scaling of its series is inside. What goes in and comes out, and how near the file comes to the model, is
    written beside it, in export.json.
    """
    from hf_tsrep.hub.export import FILE_OF_FORMAT, export_model

    folder = export_model(
        model,
        output_dir,
        format.value,
        max_length=max_length,
        max_batch_size=max_batch_size,
        overwrite=overwrite,
    )
    typer.echo(f"{folder / FILE_OF_FORMAT[format.value]}: {model}")
