"""What `search` and `cluster` promise, for the encoder of every method."""

import numpy as np
import pytest
from contract_support import METHOD_NAMES, build
from sklearn.metrics import pairwise_distances

import hf_tsrep

every_method = pytest.mark.parametrize("name", METHOD_NAMES)
MODELS = {name: build(name, "model") for name in METHOD_NAMES}
QUIET = {"show_progress_bar": False}


def series_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((length, 3)).astype(np.float32) for length in lengths]


@every_method
def test_neighbours_are_those_of_the_embeddings(name):
    series = series_of([20, 30, 20, 16, 25, 40])
    found = hf_tsrep.search(MODELS[name], series, series[1], num_neighbours=4, backend="exact", **QUIET)
    pairs = pairwise_distances(MODELS[name].encode(series[1:2]), MODELS[name].encode(series))[0]
    assert found.series[0].tolist() == np.argsort(pairs)[:4].tolist()
    assert found.series[0, 0] == 1
    np.testing.assert_allclose(found.distances[0], np.sort(pairs)[:4], rtol=1e-3, atol=1e-3)
    assert found.provenance["method"] == name


@every_method
def test_series_of_the_collection_are_no_neighbours_of_themselves(name):
    series = series_of([20, 30, 20, 16])
    found = hf_tsrep.search(MODELS[name], series, num_neighbours=5, backend="exact", **QUIET)
    assert found.queries.tolist() == [0, 1, 2, 3]
    for query, row in enumerate(found.series):
        assert sorted(row.tolist()) == sorted([-1, -1, *({0, 1, 2, 3} - {query})])
    assert np.isnan(found.distances[:, 3:]).all()
    one = hf_tsrep.search(MODELS[name], series, own=[2], num_neighbours=5, backend="exact", **QUIET)
    np.testing.assert_array_equal(one.series, found.series[2:3])


@every_method
def test_windows_are_found_where_they_are_and_share_no_step(name):
    series = series_of([40, 33, 7])
    query = series[1][12:20]
    options = {"window_length": 8, "stride": 4, "num_neighbours": 3, "backend": "exact", **QUIET}
    found = hf_tsrep.search(MODELS[name], series, query, **options)
    assert (found.series[0, 0], found.starts[0, 0]) == (1, 12)
    assert found.distances[0, 0] == pytest.approx(0, abs=1e-3)
    own = hf_tsrep.search(MODELS[name], series, **options)
    for row, (owner, start) in enumerate(zip(own.queries, own.query_starts, strict=True)):
        places = [(owner, start), *zip(own.series[row], own.starts[row], strict=True)]
        for index, (one, begin) in enumerate(places):
            assert all(one != other or abs(begin - then) >= 8 for other, then in places[:index])


@every_method
def test_groups_are_found_and_counted(name):
    steps = np.arange(24)[:, None]
    noise = series_of([24] * 20, seed=3)
    offsets = np.repeat([0.0, 1.0], [12, 8])
    paces = 0.4 + 2 * offsets
    # A level for methods that see values, a pace for those that normalise every series.
    series = [
        np.sin(pace * steps + [0, 1, 2]) + 3 * offset + 0.02 * one
        for pace, offset, one in zip(paces, offsets, noise, strict=True)
    ]
    order = np.random.default_rng(1).permutation(20)
    found = hf_tsrep.cluster(MODELS[name], [series[index] for index in order], num_clusters=2, **QUIET)
    assert found.labels.tolist() == (order >= 12).astype(int).tolist()
    assert found.silhouette > 0.3
    assert sorted(found.labels[found.examples]) == [0, 1]
    chosen = hf_tsrep.cluster(MODELS[name], series, **QUIET)
    assert sorted(chosen.tried) == list(range(2, 11))
    assert len(chosen.examples) == max(chosen.tried, key=chosen.tried.get)


@every_method
def test_equal_series_are_one_cluster(name):
    (values,) = series_of([20])
    found = hf_tsrep.cluster(MODELS[name], [values] * 5, num_clusters=1, **QUIET)
    assert found.labels.tolist() == [0] * 5
    assert np.isnan(found.silhouette)
