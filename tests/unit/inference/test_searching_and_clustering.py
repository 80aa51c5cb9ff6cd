"""Neighbours by both backends, the choice of a number of clusters, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

import hf_tsrep
from hf_tsrep.inference.clustering import k_means, series_silhouettes
from hf_tsrep.inference.searching import choose_backend, nearest_rows


@pytest.fixture(scope="module")
def model():
    config = hf_tsrep.TS2VecConfig(num_input_channels=1, hidden_size=8, embedding_size=8, num_hidden_layers=3)
    return hf_tsrep.TS2VecModel(config).eval()


def test_faiss_finds_what_scikit_learn_finds():
    pytest.importorskip("faiss")
    generator = np.random.default_rng(0)
    embeddings, queries = (generator.standard_normal((count, 6)).astype(np.float32) for count in (40, 7))
    distances, rows = nearest_rows(embeddings, queries, 5, "exact")
    by_faiss, rows_of_faiss = nearest_rows(embeddings, queries, 5, "faiss")
    np.testing.assert_array_equal(rows_of_faiss, rows)
    np.testing.assert_allclose(by_faiss, distances, rtol=1e-4)


def test_the_backend_is_faiss_where_it_is_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin=None))  # a mere folder
    assert choose_backend(None) == "exact"
    with pytest.raises(ModuleNotFoundError, match=r"hf-tsrep\[search\]"):
        choose_backend("faiss")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin="faiss/__init__.py"))
    assert choose_backend(None) == "faiss"
    with pytest.raises(ValueError, match="backend='annoy' is unknown"):
        choose_backend("annoy")


def test_clusters_are_numbered_from_the_largest_on():
    points = np.repeat([[0.0, 0], [9, 0], [0, 9]], [2, 5, 3], axis=0) + np.random.default_rng(0).normal(
        0, 0.1, (10, 2)
    )
    labels, centres = k_means(points, 3)
    assert labels.tolist() == [2] * 2 + [0] * 5 + [1] * 3
    np.testing.assert_allclose(centres, [points[labels == index].mean(0) for index in range(3)])
    assert series_silhouettes(points, labels).mean() == pytest.approx(silhouette_score(points, labels))
    assert series_silhouettes(points, np.arange(10)).tolist() == [0.0] * 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, series: hf_tsrep.search(model, series, num_neighbours=0),
            "num_neighbours=0 must be at least",
        ),
        (lambda model, series: hf_tsrep.search(model, []), "no series to look in"),
        (lambda model, series: hf_tsrep.search(model, series, own=[2]), "own has 2; the collection has series 0 to 1"),
        (lambda model, series: hf_tsrep.cluster(model, series), "2 series are too few to choose"),
        (lambda model, series: hf_tsrep.cluster(model, series, 3), "num_clusters=3 needs as many series; there are 2"),
        (lambda model, series: hf_tsrep.cluster("no/such/model", series, 1), "There is no folder no/such/model"),
    ],
)
def test_wrong_settings_are_named(model, call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(model, [np.ones((9, 1), np.float32), np.zeros((8, 1), np.float32)])
