"""`hf-tsrep search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..errors import near_matches
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

if TYPE_CHECKING:
    from ..inference.searching import Neighbours


def search_command(
    context: typer.Context,
    model: Model,
    corpus: Annotated[str, typer.Option(help="File, folder, known name or Hub id of the series to look in.")],
    output: Annotated[Path, typer.Option(help="File to write, a neighbour a row: .csv or .parquet.")],
    input: Annotated[
        str | None,
        typer.Option(help="Series to find the like of, read as the corpus is; default the corpus's."),
    ] = None,
    item: Annotated[
        str | None, typer.Option(help="Names of the series to find the like of, with commas; default all.")
    ] = None,
    num_neighbours: Annotated[int, typer.Option(min=1, help="Neighbours of a query.")] = 5,
    window_length: Annotated[
        int | None, typer.Option(min=1, help="Steps of a window, to look for windows; default whole series.")
    ] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Steps by which windows move on; default all.")] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Cosine similarity instead of distance.")] = False,
    pooling: Annotated[str | None, typer.Option(help="max, mean or last; default the model's.")] = None,
    backend: Annotated[str | None, typer.Option(help="faiss or exact; default faiss where it is installed.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Series or windows in one forward pass.")] = 32,
    splits: Annotated[str | None, typer.Option(help="Splits to look in, with commas; default all.")] = None,
    domain: Domain = None,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    data_directory: DataDirectory = None,
) -> None:
    """Find the series, or windows, of a corpus that are most like a query.

    The distance is that of their embeddings. Without --input the queries are series of the corpus, which are no
    neighbours of themselves.
    """
    from hf_tsrep import search

    check_output(output)
    fields = parse_fields(context.args)
    given = take_reading(fields)
    check_names(context, fields, (), "search")
    opened = open_model(model, revision=revision, device=device, trust_remote_code=trust_remote_code)
    loaded = opened.load_input(corpus, given, data_directory)
    told: dict[str, Any] = opened.domain_of(domain, corpus, loaded)
    collection = read_input_series(opened.model, loaded, split_at_commas(splits), told)
    asked, own = collection, None
    if input is not None:
        queries = opened.load_input(input, given, data_directory)
        asked = read_input_series(opened.model, queries, None, told)
    if item is not None:
        own = _places(asked.item_ids, split_at_commas(item) or [])
        asked = asked if input is None else asked.take(own)
    found = search(
        opened.model,
        collection.series,
        None if input is None else asked.series,
        own=own if input is None else None,
        num_neighbours=num_neighbours,
        window_length=window_length,
        stride=stride,
        normalize=normalize,
        pooling=pooling,
        backend=backend,
        timestamps=collection.timestamps,
        query_timestamps=None if input is None else asked.timestamps,
        batch_size=batch_size,
        show_progress_bar=not context.find_root().params.get("quiet"),
        **told,
    )
    provenance = opened.sign(found.provenance, loaded)
    if input is not None:
        provenance["input"] = Path(input).name
    files = write_answers(output, _columns(collection, asked, found), provenance)
    typer.echo(
        f"{', '.join(map(str, files))}: neighbours of {len(found.queries)} queries in {len(collection.series)} series"
    )


def _places(names: list[str], wanted: list[str]) -> list[int]:
    """Return where the series of these names are."""
    for name in wanted:
        if name not in names:
            raise ValueError(f"--item {name}: there is no such series.{near_matches(name, names, spell=str)}")
    return [index for index, name in enumerate(names) if name in wanted]


def _columns(collection: InputSeries, asked: InputSeries, found: Neighbours) -> dict[str, np.ndarray]:
    """Return one row a neighbour."""
    query, rank = np.nonzero(found.series >= 0)
    series = found.series[query, rank]
    columns = {"query": np.asarray(asked.item_ids)[found.queries[query]]}
    if found.window_length is not None:
        columns["query_start"] = found.query_starts[query]
    columns["rank"] = rank + 1
    columns["item_id"] = np.asarray(collection.item_ids)[series]
    columns["split"] = np.asarray(collection.splits)[series]
    if collection.labels is not None:
        columns["label"] = np.asarray(collection.labels)[series]
    if found.window_length is not None:
        starts = found.starts[query, rank]
        lengths = np.asarray([len(one) for one in collection.series])[series]
        columns["start"], columns["end"] = starts, np.minimum(starts + found.window_length, lengths)
        if collection.dates is not None:
            columns["start_time"] = np.asarray(
                [collection.dates[one][start] for one, start in zip(series, starts, strict=True)]
            )
    columns["distance"] = found.distances[query, rank]
    return columns
