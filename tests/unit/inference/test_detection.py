"""The arithmetic of alarms: thresholds, intervals, distances, references."""

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

import hf_tsrep
from hf_tsrep.evaluation.anomaly_scoring import train_threshold
from hf_tsrep.modeling.detecting_time_series import (
    _Windows,
    alarm_intervals,
    anomaly_scores,
    nearest_distances,
    reference_length,
    reference_threshold,
    relative_scores,
)


@pytest.fixture(scope="module")
def model():
    config = hf_tsrep.TS2VecConfig(num_input_channels=1, hidden_size=8, embedding_size=8, num_hidden_layers=3)
    return hf_tsrep.TS2VecModel(config).eval()


def walk(length, seed=0):
    return np.random.default_rng(seed).standard_normal((length, 1)).astype(np.float32)


def test_the_published_score_and_threshold_are_those_of_the_evaluation(model):
    values = walk(90)
    found = hf_tsrep.detect(model, values, reference=50, context_length=20)
    expected = relative_scores(anomaly_scores(model, values, context_length=20))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    assert found.threshold == pytest.approx(train_threshold(expected, 50))


def test_a_threshold_is_mean_and_deviations_of_the_known_scores():
    scores = np.concatenate([[np.nan] * 5, np.arange(1.0, 21.0)])
    known = scores[5:]
    assert reference_threshold(scores, 2.0) == pytest.approx(known.mean() + 2 * known.std())
    logarithms = np.log(known)
    expected = np.exp(logarithms.mean() + 4 * logarithms.std())
    assert reference_threshold(scores, of_logarithms=True) == pytest.approx(expected)
    assert reference_threshold(np.zeros(20), of_logarithms=True) == 0
    with pytest.raises(ValueError, match="has 9 scores, and a threshold needs 10"):
        reference_threshold(np.append(np.nan, np.ones(9)))


def test_alarms_within_the_gap_are_one_interval():
    scores = np.array([9, 0, 2, 3, 0, 0, 2, 0, 0, 0, np.nan, 5.0])
    dates = np.datetime64("2026-01-01") + np.arange(12)
    found = alarm_intervals(scores, 1.0, begin=1, gap=2, timestamps=dates)
    assert [(one.start, one.end, one.peak, one.score) for one in found] == [(2, 6, 3, 3.0), (11, 11, 11, 5.0)]
    assert found[0].end_time == np.datetime64("2026-01-07")
    assert [(one.start, one.end) for one in alarm_intervals(scores, 1.0, 1, 1)] == [(2, 3), (6, 6), (11, 11)]
    assert alarm_intervals(scores, 10.0) == []


def test_distances_are_those_to_the_nearest_window_that_shares_no_step(monkeypatch):
    monkeypatch.setattr("hf_tsrep.modeling.detecting_time_series._PAIRS_AT_ONCE", 30)
    generator = np.random.default_rng(0)
    windows = _Windows(generator.standard_normal((12, 4)), np.repeat([0, 1], 6), np.tile(np.arange(6), 2))
    reference = windows[windows.owners == 0]
    found = nearest_distances(windows, reference, 4)
    pairs = pairwise_distances(windows.embeddings, reference.embeddings)
    for row in range(6):
        apart = np.abs(np.arange(6) - row) >= 4
        expected = pairs[row, apart].min() if apart.any() else np.nan
        assert found[row] == pytest.approx(expected, nan_ok=True)
    np.testing.assert_allclose(found[6:], pairs[6:].min(1))


@pytest.mark.parametrize(("reference", "steps"), [(0.25, 20), (30, 30), (80, 80), (0.999, 79)])
def test_a_reference_is_a_share_or_a_number(reference, steps):
    assert reference_length(80, reference) == steps


@pytest.mark.parametrize("reference", [0, -1, 81, 1.5, 0.001, float("nan")])
def test_what_is_no_part_of_the_series_is_refused(reference):
    with pytest.raises(ValueError, match=f"reference={reference} is neither a share"):
        reference_length(80, reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 1}, "context_length=1 must be at least 2"),
        ({"deviations": -1}, "deviations=-1 must be at least 0"),
        ({"gap": -1}, "gap=-1 must be at least 0"),
        ({"score": "likelihood"}, "score='likelihood' is unknown"),
        ({"reference": 20}, "The reference has 0 scores"),
        ({"timestamps": np.arange(5)}, r"timestamps are of \[5\] steps, the series of \[90\]"),
    ],
)
def test_wrong_settings_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        hf_tsrep.detect(model, walk(90), **options)


def test_the_masked_difference_needs_an_encode_that_masks():
    config = hf_tsrep.get_method("timedrl")
    model = config.model_class(config.config_class(**config.tiny_config)).eval()
    with pytest.raises(ValueError, match="encode of TimeDRLModel cannot mask steps; choose 'distance'"):
        hf_tsrep.detect(model, np.zeros((40, model.config.num_input_channels)), score="masked_difference")


def test_a_threshold_of_ones_own_and_one_series_shorter_than_the_context(model):
    found = hf_tsrep.detect(model, [walk(90), walk(7)], reference=[walk(60, 1)], score="distance", threshold=0.0)
    assert [one.threshold for one in found] == [0.0, 0.0]
    assert np.isnan(found[1].scores[:6]).all()
    assert found[1].alarms[0].start == 6
