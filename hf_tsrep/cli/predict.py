"""`hf-tsrep predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..inference.prediction import predict
from ..inference.tables import check_output, write_answers
from .arguments import (
    DataDirectory,
    Device,
    Domain,
    Model,
    Revision,
    TrustRemoteCode,
    check_names,
    parse_fields,
    split_at_commas,
    take_reading,
)
from .models import OpenedModel, open_model


def predict_command(
    context: typer.Context,
    model: Model,
    input: Annotated[str, typer.Option(help="File, folder, known name or Hub id of the series.")],
    output: Annotated[Path, typer.Option(help="File to write: .csv, .parquet or .json.")],
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Future steps, of a method that tells any number; default the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Series in one forward pass.")] = 32,
    splits: Annotated[str | None, typer.Option(help="Splits to take, with commas; default all.")] = None,
    domain: Domain = None,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    data_directory: DataDirectory = None,
) -> None:
    """Tell classes, numbers or the future of new series, by a model that `hf-tsrep finetune` trained.

    A pre-trained model of a method that generates (`hf-tsrep info`) tells the future, too, of any --horizon.

    Classes come with the probability of each one. A forecast is in the units of the series, and has the dates that
    follow those of the file. A table is read as that of the training, unless the options say otherwise.
    """
    check_output(output)
    fields = parse_fields(context.args)
    given = take_reading(fields)
    check_names(context, fields, (), "predict")
    opened = open_model(model, revision=revision, device=device, trust_remote_code=trust_remote_code, with_head=True)
    remember_context(opened)
    told: dict[str, Any] = {} if domain is None else {"domain": domain}
    frame = predict(
        opened.model,
        input,
        reading={**opened.reading_of_table(input), **given, "data_directory": data_directory},
        splits=split_at_commas(splits),
        prediction_length=horizon,
        batch_size=batch_size,
        show_progress_bar=not context.find_root().params.get("quiet"),
        **told,
    )
    provenance = {**frame.attrs["provenance"], "model": opened.name, "revision": opened.revision}
    files = write_answers(output, {name: _as_array(frame[name]) for name in frame.columns}, provenance)
    typer.echo(f"{', '.join(map(str, files))}: {_said(frame, opened.model, horizon)}")


def remember_context(opened: OpenedModel) -> None:
    """Take the context of a forecast from the record of the training, where an older config does not know it."""
    config = opened.model.config
    if config.prediction_context_length is None and opened.training.get("task") == "forecasting":
        config.prediction_context_length = (opened.training.get("data") or {}).get("context_length")


def _as_array(column: Any) -> np.ndarray:
    """Return a column as it is written; dates without milliseconds where none has any."""
    values = column.to_numpy()
    if values.dtype.kind == "M" and (values == values.astype("datetime64[s]")).all():
        return values.astype("datetime64[s]")
    return values


def _said(frame: Any, model: Any, horizon: int | None) -> str:
    if model.output_name == "prediction_outputs":
        count = horizon or model.config.prediction_length
        return f"{len(frame)} steps, the next {count} of {frame['item_id'].nunique()} series"
    kind = "numbers" if model.config.problem_type == "regression" else "classes"
    return f"{kind} of {len(frame)} series"
