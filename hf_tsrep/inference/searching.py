"""The series or windows of a collection that are most like a query, by the distance of their embeddings."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..opening import load_encoder
from .inputs import ModelInputs, model_inputs
from .provenance import answer_provenance

BACKENDS = ("faiss", "exact")


@dataclass(frozen=True)
class Neighbours:
    """The nearest series or windows of every query, from the nearest on; rows with fewer end with -1 and NaN.

    Args:
        queries: (num_queries,) int64, the series of every query.
        query_starts: (num_queries,) int64, first step of the query in it.
        series: (num_queries, num_neighbours) int64, the series of every neighbour in the collection.
        starts: The same shape, first step of the neighbour in it.
        distances: The same shape, Euclidean distance of the embeddings, float64.
        window_length: Number of steps of a window; None where whole series are compared.
        provenance: Model, revision, preparation and settings, in plain JSON types.
    """

    queries: np.ndarray
    query_starts: np.ndarray
    series: np.ndarray
    starts: np.ndarray
    distances: np.ndarray
    window_length: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Embedded:
    """Embeddings (rows, embedding_size) float32; of each row its series and its first step."""

    embeddings: np.ndarray
    owners: np.ndarray
    starts: np.ndarray


def search(
    model: Any,
    collection: Any,
    queries: Any = None,
    *,
    own: Sequence[int] | None = None,
    num_neighbours: int = 5,
    window_length: int | None = None,
    stride: int | None = None,
    normalize: bool = False,
    pooling: str | None = None,
    backend: str | None = None,
    timestamps: Any = None,
    query_timestamps: Any = None,
    layout: str | None = None,
    prepared: bool = False,
    batch_size: int = 32,
    device: Any = None,
    show_progress_bar: bool | None = None,
    **method_arguments: Any,
) -> Neighbours:
    """Find what is most like a query in a collection of series.

    With `window_length` the collection and the queries are cut into windows, and every window of a query is a query of
    its own; of windows of one series that share steps only the nearest is a neighbour. A series is no neighbour of
    itself.

    Args:
        model: An encoder, or its folder or Hub id.
        collection: Series to look in, as `encode` takes them: raw where the model has a preparation.
        queries: One series or several; None for series of the collection.
        own: Without queries: which series of the collection to look up; None for all.
        num_neighbours: Number of neighbours of a query.
        window_length: Number of steps of a window; None to compare whole series.
        stride: Number of steps by which windows move on; None for window_length.
        normalize: Whether embeddings have length 1, so that the order is that of cosine similarity.
        pooling: As in `encode`.
        backend: "faiss", through the index of `datasets`; "exact" for scikit-learn's; None for faiss where it is
            installed. Both find the same.
        timestamps: Dates of the collection, for a model with calendar features; see `encode`.
        query_timestamps: Dates of the queries, alike.
        layout: As in `encode`.
        prepared: Whether the series are model inputs already.
        batch_size: Number of series or windows in one forward pass.
        device: Where to compute; None: where the model is.
        show_progress_bar: As in `encode`.
        method_arguments: Further arguments of the method's `encode`, such as the domain.

    Raises:
        ValueError: A setting is out of its range, or there is no series to look in.
        ModuleNotFoundError: faiss is asked for and not installed.
    """
    if num_neighbours < 1:
        raise ValueError(f"num_neighbours={num_neighbours} must be at least 1.")
    chosen_backend = choose_backend(backend)
    model = load_encoder(model)
    options = {
        "window_length": window_length,
        "stride": stride,
        "normalize": normalize,
        "pooling": pooling,
        "batch_size": batch_size,
        "device": device,
        "show_progress_bar": show_progress_bar,
        **method_arguments,
    }
    inputs = model_inputs(model, collection, timestamps, prepared, method_arguments, layout)
    if not len(inputs.series):
        raise ValueError("The collection has no series to look in.")
    kept = _embed(model, inputs, options)
    if queries is None:
        asked = _chosen(kept, range(len(inputs.series)) if own is None else own, len(inputs.series))
    else:
        asked = _embed(
            model, model_inputs(model, queries, query_timestamps, prepared, method_arguments, layout), options
        )
    reach = 1 if window_length is None else 2 * -(-window_length // (stride or window_length)) - 1
    enough = min(len(kept.owners), (num_neighbours + (queries is None)) * reach)
    distances, rows = nearest_rows(kept.embeddings, asked.embeddings, enough, chosen_backend)
    places = [
        _apart(kept, rows[index], num_neighbours, window_length, _place(asked, index) if queries is None else None)
        for index in range(len(rows))
    ]
    taken = np.stack(places) if places else np.empty((0, num_neighbours), dtype=np.int64)
    found = np.where(taken < 0, -1, np.take_along_axis(rows, np.maximum(taken, 0), axis=1))
    settings = {
        "num_neighbours": num_neighbours,
        "window_length": window_length,
        "stride": stride,
        "normalize": normalize,
        "pooling": pooling or model.config.pooling,
        "backend": chosen_backend,
        **method_arguments,
    }
    return Neighbours(
        asked.owners,
        asked.starts,
        np.where(found < 0, -1, kept.owners[found]),
        np.where(found < 0, -1, kept.starts[found]),
        np.where(found < 0, np.nan, np.take_along_axis(distances, np.maximum(taken, 0), axis=1)),
        window_length,
        answer_provenance(model, settings),
    )


def choose_backend(backend: str | None) -> str:
    """Return what finds the nearest embeddings: what is asked for, else faiss where it is installed.

    Raises:
        ValueError: It is unknown.
        ModuleNotFoundError: faiss is asked for and not installed.
    """
    if backend is None:
        return "faiss" if has_faiss() else "exact"
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown; choose one of {', '.join(map(repr, BACKENDS))}.")
    if backend == "faiss" and not has_faiss():
        raise ModuleNotFoundError("backend='faiss' needs faiss: pip install 'hf-tsrep[search]'.")
    return backend


def has_faiss() -> bool:
    """Return whether faiss is installed; a folder of this name somewhere on the path is not."""
    found = importlib.util.find_spec("faiss")
    return found is not None and found.origin is not None


def nearest_rows(
    embeddings: np.ndarray, queries: np.ndarray, count: int, backend: str = "exact"
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest embeddings.

    Args:
        embeddings: (rows, embedding_size) float32.
        queries: (num_queries, embedding_size) float32.
        count: Number of neighbours, at most rows.
        backend: "faiss" or "exact".

    Returns:
        Euclidean distances and rows, (num_queries, count), from the nearest on.
    """
    if backend == "faiss":
        from datasets import Dataset

        indexed = Dataset.from_dict({"embedding": embeddings}).with_format("numpy")
        indexed.add_faiss_index("embedding")
        squared, rows = indexed.search_batch("embedding", np.ascontiguousarray(queries), k=count)
        return np.sqrt(np.maximum(np.asarray(squared, dtype=np.float64), 0.0)), np.asarray(rows)
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=count).fit(embeddings.astype(np.float64))
    return neighbours.kneighbors(queries.astype(np.float64))


def _embed(model: Any, inputs: ModelInputs, options: dict[str, Any]) -> _Embedded:
    level = "instance" if options["window_length"] is None else "window"
    step = options["stride"] or options["window_length"] or 0
    embedded = model.encode(inputs.series, level=level, **options)
    if level == "instance":
        return _Embedded(embedded, np.arange(len(embedded)), np.zeros(len(embedded), dtype=np.int64))
    counts = [len(one) for one in embedded]
    owners, starts = np.repeat(np.arange(len(counts)), counts), [np.arange(count) * step for count in counts]
    return _Embedded(np.concatenate(list(embedded)), owners, np.concatenate(starts))


def _chosen(kept: _Embedded, own: Sequence[int], num_series: int) -> _Embedded:
    outside = [index for index in own if not 0 <= index < num_series]
    if outside:
        raise ValueError(f"own has {outside[0]}; the collection has series 0 to {num_series - 1}.")
    rows = np.flatnonzero(np.isin(kept.owners, np.asarray(own, dtype=np.int64)))
    return _Embedded(kept.embeddings[rows], kept.owners[rows], kept.starts[rows])


def _place(embedded: _Embedded, index: int) -> tuple[int, int]:
    return int(embedded.owners[index]), int(embedded.starts[index])


def _apart(
    kept: _Embedded, rows: np.ndarray, count: int, window_length: int | None, itself: tuple[int, int] | None
) -> np.ndarray:
    """Return the places in a row of neighbours of those that share no step with a nearer one or with the query.

    Args:
        kept: The collection.
        rows: (candidates,) rows of the collection, from the nearest on.
        count: Number of neighbours.
        window_length: Number of steps of a window; None for whole series.
        itself: Series and first step of a query that is in the collection.

    Returns:
        (count,) int64, -1 where there are no more.
    """
    taken = [] if itself is None else [itself]
    places: list[int] = []
    for place, row in enumerate(rows):
        owner, start = _place(kept, row)
        if any(owner == other and abs(start - begin) < (window_length or 1) for other, begin in taken):
            continue
        taken.append((owner, start))
        places.append(place)
        if len(places) == count:
            break
    return np.asarray(places + [-1] * (count - len(places)), dtype=np.int64)
