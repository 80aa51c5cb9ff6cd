"""`hf-tsrep cluster`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..inference.inputs import InputSeries, read_input_series
from ..inference.tables import FIGURE_SUFFIXES, check_output, write_answers
from ..visualization import plot_embedding_map
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
    from ..inference.clustering import Clusters


def cluster_command(
    context: typer.Context,
    model: Model,
    input: Annotated[str, typer.Option(help="File, folder, known name or Hub id of the series.")],
    output: Annotated[Path, typer.Option(help="File to write, a series a row: .csv or .parquet.")],
    figure: Annotated[Path | None, typer.Option(help="Map of the series by cluster: .png, .svg, .pdf.")] = None,
    num_clusters: Annotated[
        int | None, typer.Option(min=1, help="Default that of 2 to 10 with the best silhouette.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting centres.")] = 0,
    normalize: Annotated[bool, typer.Option("--normalize", help="Embeddings of length 1.")] = False,
    pooling: Annotated[str | None, typer.Option(help="max, mean or last; default the model's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Series in one forward pass.")] = 32,
    splits: Annotated[str | None, typer.Option(help="Splits to take, with commas; default all.")] = None,
    domain: Domain = None,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    data_directory: DataDirectory = None,
) -> None:
    """Group series that are alike, by k-means over their embeddings.

    No label is needed. Every series gets its cluster and its silhouette, from -1 to 1: how much nearer it is to its
    own cluster than to the next.
    """
    from hf_tsrep import cluster

    check_output(output)
    if figure is not None:
        check_output(figure, FIGURE_SUFFIXES, "--figure")
    fields = parse_fields(context.args)
    given = take_reading(fields)
    check_names(context, fields, (), "cluster")
    opened = open_model(model, revision=revision, device=device, trust_remote_code=trust_remote_code)
    corpus = opened.load_input(input, given, data_directory)
    told: dict[str, Any] = opened.domain_of(domain, input, corpus)
    grouped = read_input_series(opened.model, corpus, split_at_commas(splits), told)
    found = cluster(
        opened.model,
        grouped.series,
        num_clusters,
        seed=seed,
        normalize=normalize,
        pooling=pooling,
        timestamps=grouped.timestamps,
        batch_size=batch_size,
        show_progress_bar=not context.find_root().params.get("quiet"),
        **told,
    )
    provenance = opened.sign(found.provenance, corpus)
    provenance["silhouette"] = None if np.isnan(found.silhouette) else found.silhouette
    provenance["silhouette_by_number"] = {str(count): value for count, value in found.tried.items()}
    files = write_answers(output, _columns(grouped, found), provenance)
    if figure is not None:
        names = [f"{index} ({int((found.labels == index).sum())})" for index in range(len(found.examples))]
        title = f"{len(names)} clusters of {len(found.labels)} series"
        subtitle = f"{opened.name}, silhouette {found.silhouette:.2f}"
        files.append(
            plot_embedding_map(
                found.embeddings,
                found.labels,
                figure,
                class_names=names,
                class_title="cluster",
                title=title,
                subtitle=subtitle,
            )
        )
    typer.echo(
        f"{', '.join(map(str, files))}: {len(found.examples)} clusters of {len(found.labels)} series, "
        f"silhouette {found.silhouette:.3f}"
    )


def _columns(grouped: InputSeries, found: Clusters) -> dict[str, np.ndarray]:
    """Return one row a series."""
    columns = {"item_id": np.asarray(grouped.item_ids), "split": np.asarray(grouped.splits)}
    if grouped.labels is not None:
        columns["label"] = np.asarray(grouped.labels)
    columns["cluster"] = found.labels
    columns["silhouette"] = found.silhouettes
    columns["example"] = np.isin(np.arange(len(found.labels)), found.examples).astype(np.int8)
    return columns
