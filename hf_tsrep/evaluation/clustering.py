"""Clustering of frozen representations: k-means with as many clusters as classes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ..data import SeriesList, get_labels, get_series
from .checks import check_channels, check_finite, choose_domain, preparation_arguments, require_splits


def clustering_metrics(
    features: np.ndarray, labels: np.ndarray, num_clusters: int | None = None, seed: int = 0, num_starts: int = 10
) -> dict[str, float]:
    """Compare k-means clusters of embeddings with classes.

    Args:
        features: (n, embedding_size).
        labels: (n,) class ids.
        num_clusters: Default the number of classes in `labels`.
        seed: Of the starting centres.
        num_starts: K-means runs, of which the one with the smallest inertia counts.

    Returns:
        `ari` (adjusted Rand index) and `nmi` (normalised mutual information).

    Raises:
        ValueError: Missing or infinite features, fewer samples than clusters.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    check_finite([features], "feature")
    clusters = len(np.unique(labels)) if num_clusters is None else num_clusters
    if not 1 <= clusters <= len(features):
        raise ValueError(f"{clusters} clusters need at least as many series; there are {len(features)}.")
    assigned = KMeans(n_clusters=clusters, n_init=num_starts, random_state=seed).fit_predict(features)
    return {
        "ari": float(adjusted_rand_score(labels, assigned)),
        "nmi": float(normalized_mutual_info_score(labels, assigned)),
    }


def evaluate_clustering(
    model: Any,
    corpus: Any,
    *,
    splits: Sequence[str] = ("test",),
    num_clusters: int | None = None,
    pooling: Any = None,
    batch_size: int = 32,
    domain: str | None = None,
    seed: int = 0,
    device: Any = None,
    show_progress_bar: bool | None = None,
) -> dict[str, Any]:
    """Cluster one embedding a series by k-means and compare the clusters with the labels.

    Args:
        model: Anything with `encode`.
        corpus: DatasetDict with a `label` column.
        splits: Splits that are clustered together; `("train", "test")` uses both.
        num_clusters: Default the number of classes present.
        pooling: Passed to `encode`; None is the model's own.
        batch_size: Series encoded at once.
        domain: Which of the model's domains the corpus is (methods with domains); None for the one of its name.
        seed: Of the starting centres.
        device: Where the model runs.
        show_progress_bar: Passed to `encode`.

    Returns:
        `metrics` (`ari`, `nmi`), `details`, `timings` in seconds, `settings`.
    """
    chosen = require_splits(corpus, splits, "clustering")
    labels = np.concatenate([np.asarray(get_labels(chosen[name])) for name in splits])
    series = SeriesList(one for name in splits for one in get_series(chosen[name]))
    told, recorded = choose_domain(model, corpus, domain)
    check_channels(model, corpus, told)
    begin = time.perf_counter()
    features = model.encode(
        series,
        level="instance",
        pooling=pooling,
        batch_size=batch_size,
        device=device,
        show_progress_bar=show_progress_bar,
        **told,
        **preparation_arguments(model, corpus),
    )
    timings = {"encode": time.perf_counter() - begin}
    begin = time.perf_counter()
    metrics = clustering_metrics(features, labels, num_clusters, seed)
    timings["k_means"] = time.perf_counter() - begin
    clusters = len(np.unique(labels)) if num_clusters is None else num_clusters
    return {
        "metrics": metrics,
        "details": {"num_clusters": clusters, "num_series": len(series)},
        "timings": timings,
        "settings": {"splits": list(splits), "num_clusters": num_clusters, "pooling": pooling, **recorded},
    }
