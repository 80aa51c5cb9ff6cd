"""Groups of series that are alike: k-means over their embeddings, and how far the groups lie apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..opening import load_encoder
from .inputs import model_inputs
from .provenance import answer_provenance

TRIED = range(2, 11)
_SAMPLED = 2000  # series, of which the silhouette of a number of clusters is estimated


@dataclass(frozen=True)
class Clusters:
    """Series in groups.

    Args:
        labels: (num_series,) int64, the cluster of every series; 0 is the largest.
        silhouettes: (num_series,) float64 from -1 to 1: how much nearer a series is to its own cluster than to the
            next (Rousseeuw, 1987); NaN where there is one cluster.
        examples: (num_clusters,) int64, the series that is nearest to the centre of every cluster.
        embeddings: (num_series, embedding_size) float32.
        tried: Mean silhouette by number of clusters, of those that were tried; empty where the number was given.
        provenance: Model, revision, preparation and settings, in plain JSON types.
    """

    labels: np.ndarray
    silhouettes: np.ndarray
    examples: np.ndarray
    embeddings: np.ndarray = field(repr=False)
    tried: dict[int, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def silhouette(self) -> float:
        """Mean silhouette of the series; NaN where there is one cluster."""
        return float(np.mean(self.silhouettes))


def cluster(
    model: Any,
    series: Any,
    num_clusters: int | None = None,
    *,
    seed: int = 0,
    num_starts: int = 10,
    normalize: bool = False,
    pooling: str | None = None,
    timestamps: Any = None,
    layout: str | None = None,
    prepared: bool = False,
    batch_size: int = 32,
    device: Any = None,
    show_progress_bar: bool | None = None,
    **method_arguments: Any,
) -> Clusters:
    """Group series by k-means over their embeddings; no label is needed.

    Args:
        model: An encoder, or its folder or Hub id.
        series: Several series, as `encode` takes them: raw where the model has a preparation.
        num_clusters: Number of clusters; None for that from 2 to 10 with the largest mean silhouette.
        seed: Of the starting centres.
        num_starts: Runs of k-means, of which the best counts.
        normalize: Whether embeddings have length 1.
        pooling: As in `encode`.
        timestamps: Dates of the steps, for a model with calendar features; see `encode`.
        layout: As in `encode`.
        prepared: Whether the series are model inputs already.
        batch_size: Number of series in one forward pass.
        device: Where to compute; None: where the model is.
        show_progress_bar: As in `encode`.
        method_arguments: Further arguments of the method's `encode`, such as the domain.

    Raises:
        ValueError: There are fewer series than clusters, or too few to choose a number.
    """
    model = load_encoder(model)
    inputs = model_inputs(model, series, timestamps, prepared, method_arguments, layout)
    _check_number(num_clusters, len(inputs.series))
    embeddings = model.encode(
        inputs.series,
        normalize=normalize,
        pooling=pooling,
        batch_size=batch_size,
        device=device,
        show_progress_bar=show_progress_bar,
        **method_arguments,
    )
    points = np.asarray(embeddings, dtype=np.float64)
    tried: dict[int, float] = {}
    if num_clusters is None:
        tried = {count: _quality(points, count, seed, num_starts) for count in TRIED if count < len(points)}
        num_clusters = max(tried, key=lambda count: tried[count])
    labels, centres = k_means(points, num_clusters, seed, num_starts)
    distances = ((points - centres[labels]) ** 2).sum(1)
    members = [np.flatnonzero(labels == index) for index in range(int(labels.max()) + 1)]
    examples = [rows[np.argmin(distances[rows])] for rows in members]
    settings = {
        "num_clusters": num_clusters,
        "seed": seed,
        "num_starts": num_starts,
        "normalize": normalize,
        "pooling": pooling or model.config.pooling,
        **method_arguments,
    }
    silhouettes = series_silhouettes(points, labels)
    return Clusters(
        labels,
        silhouettes,
        np.asarray(examples, dtype=np.int64),
        np.asarray(embeddings),
        tried,
        answer_provenance(model, settings),
    )


def _check_number(num_clusters: int | None, num_series: int) -> None:
    if num_clusters is None and num_series < 3:
        raise ValueError(f"{num_series} series are too few to choose a number of clusters; give num_clusters.")
    if num_clusters is not None and not 1 <= num_clusters <= num_series:
        raise ValueError(f"num_clusters={num_clusters} needs as many series; there are {num_series}.")


def k_means(
    points: np.ndarray, num_clusters: int, seed: int = 0, num_starts: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of every point (n,), the largest first, and the centres (num_clusters, size).

    Args:
        points: (n, size) float64.
        num_clusters: Number of clusters; points that are equal are in one, so that there can be fewer.
        seed: Of the starting centres.
        num_starts: Runs, of which that with the smallest inertia counts.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal points
        fitted = KMeans(num_clusters, n_init=num_starts, random_state=seed).fit(points)
    order = np.argsort(-np.bincount(fitted.labels_, minlength=num_clusters), kind="stable")
    return np.argsort(order)[fitted.labels_], fitted.cluster_centers_[order]


def series_silhouettes(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the silhouette of every point (n,); NaN where there is one cluster, 0 where every point is its own."""
    from sklearn.metrics import silhouette_samples

    count = len(np.unique(labels))
    if not 1 < count < len(points):
        return np.full(len(points), np.nan if count < 2 else 0.0)
    return silhouette_samples(points, labels)


def _quality(points: np.ndarray, num_clusters: int, seed: int, num_starts: int) -> float:
    """Return the mean silhouette of so many clusters, of at most 2,000 series."""
    labels, _ = k_means(points, num_clusters, seed, num_starts)
    chosen: Any = slice(None)
    if len(points) > _SAMPLED:
        chosen = np.random.default_rng(seed).choice(len(points), _SAMPLED, replace=False)
    return float(np.nan_to_num(series_silhouettes(points[chosen], labels[chosen]), nan=-1.0).mean())
