"""`hf-tsrep impute`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..inference.imputation import load_pretraining_model
from ..inference.inputs import InputSeries, read_input_series
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
from .models import open_model
from .progress import without_file_bars

if TYPE_CHECKING:
    from ..inference.imputation import Imputed


def impute_command(
    context: typer.Context,
    model: Model,
    input: Annotated[str, typer.Option(help="File, folder, known name or Hub id of the series.")],
    output: Annotated[Path, typer.Option(help="File to write, a timestamp a row: .csv or .parquet.")],
    window_length: Annotated[
        int | None, typer.Option(min=1, help="Steps that are looked at together; default as many as the model takes.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in one forward pass.")] = 32,
    splits: Annotated[str | None, typer.Option(help="Splits to take, with commas; default all.")] = None,
    domain: Domain = None,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    data_directory: DataDirectory = None,
) -> None:
    """Fill in the missing values of series, in their own units; what was observed stays as it is.

    The model is that of a pre-training whose pretext task recovers hidden values. The output has the channels of the
    input, and the items where there are several.
    """
    from hf_tsrep import impute

    check_output(output)
    fields = parse_fields(context.args)
    given = take_reading(fields)
    check_names(context, fields, (), "impute")
    encoder = open_model(model, revision=revision, device=device, trust_remote_code=trust_remote_code)
    with without_file_bars():
        whole = load_pretraining_model(model, revision=revision, trust_remote_code=trust_remote_code)
    opened = replace(encoder, model=whole.to(encoder.model.device))
    corpus = opened.load_input(input, given, data_directory)
    told: dict[str, Any] = opened.domain_of(domain, input, corpus)
    gappy = read_input_series(opened.model, corpus, split_at_commas(splits), told)
    answer: Any = impute(
        opened.model,
        gappy.series,
        window_length=window_length,
        timestamps=gappy.timestamps,
        batch_size=batch_size,
        **told,
    )
    found: list[Imputed] = answer
    provenance = opened.sign(found[0].provenance, corpus)
    by_channel = np.sum([one.is_filled.sum(0) for one in found], axis=0)
    provenance["filled"] = dict(zip(gappy.channel_names, by_channel.tolist(), strict=True))
    files = write_answers(output, _columns(gappy, found), provenance)
    total = sum(one.values.size for one in found)
    typer.echo(f"{', '.join(map(str, files))}: {int(by_channel.sum())} of {total} values filled in")


def _columns(gappy: InputSeries, found: list[Imputed]) -> dict[str, np.ndarray]:
    """Return one row a timestamp, in the form of the input."""
    lengths = [len(one.values) for one in found]
    columns: dict[str, np.ndarray] = {}
    if len(found) > 1:
        columns["item_id"] = np.repeat(np.asarray(gappy.item_ids), lengths)
    if gappy.dates is not None:
        columns["timestamp"] = np.concatenate(gappy.dates)
    values = np.concatenate([one.values for one in found])
    return {**columns, **{name: values[:, index] for index, name in enumerate(gappy.channel_names)}}
