"""Stationarity against known values, and the anomaly protocol step by step."""

import sys

import numpy as np
import pytest
from datasets import Array2D, Dataset, DatasetDict, Features, List, Value

from hf_tsrep.evaluation.anomaly import Detections, delay_adjusted_metrics, detect, evaluate_anomaly_detection
from hf_tsrep.evaluation.anomaly_scoring import (
    difference_until_stationary,
    expanding_thresholds,
    is_stationary,
    on_regular_grid,
    prepare_anomaly_series,
    suppress_repeats,
    train_threshold,
)
from hf_tsrep.modeling.detecting_time_series import anomaly_scores, relative_scores


def test_a_series_is_stationary_where_the_test_says_so_with_few_and_with_many_lags():
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(200)
    assert is_stationary(noise)
    assert not is_stationary(np.cumsum(noise))
    assert is_stationary(np.zeros(40))
    # One lag alone would call this one stationary: p = 0.002 with at most one, 0.35 with the default limit.
    steps = np.random.default_rng(51).standard_normal(60)
    assert not is_stationary(np.convolve(steps, np.ones(8))[:60])


def test_without_statsmodels_differencing_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.tsa.stattools", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf-tsrep\[anomaly\]'"):
        is_stationary(np.arange(50.0))


def test_differencing_stops_at_stationarity():
    noise = np.random.default_rng(0).standard_normal(400)
    assert difference_until_stationary(noise, 200)[1] == 0
    walk, order = difference_until_stationary(np.cumsum(noise), 200)
    assert order == 1
    np.testing.assert_allclose(walk, noise[1:])
    assert difference_until_stationary(np.arange(50.0), 25)[1] == 1  # a straight line has constant differences
    assert difference_until_stationary(np.cumsum(np.cumsum(noise)), 200)[1] == 2


def test_preparation_standardises_by_the_training_part():
    values = np.cumsum(np.random.default_rng(1).standard_normal(300))[:, None] * 5 + 100
    prepared = prepare_anomaly_series(values, 150)
    assert (prepared.order, prepared.train_length, len(prepared.values)) == (1, 149, 299)
    train = prepared.values[:149]
    assert (train.mean(), train.std()) == pytest.approx((0, 1), abs=1e-5)
    with pytest.raises(ValueError, match="one channel without missing values"):
        prepare_anomaly_series(np.zeros((50, 2)), 25)
    with pytest.raises(ValueError, match="more than 22"):
        prepare_anomaly_series(np.random.default_rng(0).standard_normal((40, 1)), 20)


def test_relative_scores_use_the_21_steps_before():
    scores = np.random.default_rng(0).uniform(1, 2, 60)
    relative = relative_scores(scores)
    assert np.isnan(relative[:21]).all()
    for step in (21, 40, 59):
        average = scores[step - 21 : step].mean()
        assert relative[step] == pytest.approx((scores[step] - average) / average)
    assert np.isnan(relative_scores(np.ones(21))).all()
    assert np.isfinite(relative_scores(np.zeros(30))[21:]).all()


def test_the_thresholds_are_means_and_deviations_of_the_known_scores():
    relative = relative_scores(np.random.default_rng(0).uniform(1, 2, 200))
    assert train_threshold(relative, 100) == pytest.approx(relative[22:100].mean() + 4 * relative[22:100].std())
    thresholds = expanding_thresholds(relative, 20)
    assert np.isnan(thresholds[:40]).all()
    for step in (40, 41, 199):  # 20 known scores at step 40
        known = relative[21 : step + 1]
        assert thresholds[step] == pytest.approx(known.mean() + 4 * known.std())


def test_repeats_are_suppressed_as_in_the_official_loop():
    generator = np.random.default_rng(0)
    for delay in (0, 1, 3, 7):
        found = generator.random(200) < 0.3
        expected = found.astype(int)
        for step in range(len(expected)):
            if step >= delay and expected[step - delay : step].sum() >= 1:
                expected[step] = 0
        np.testing.assert_array_equal(suppress_repeats(found, delay), expected)


def test_gaps_in_time_count_for_the_delay_rule():
    stamps = np.array([0, 60, 120, 480, 540, 600])
    assert on_regular_grid(stamps, np.array([1, 2, 3, 4, 5, 6])).tolist() == [1, 2, 3, 0, 0, 0, 0, 0, 4, 5, 6]
    labels, found = np.array([0, 1, 1, 1, 1, 0]), np.array([0, 0, 1, 0, 0, 0])
    together = delay_adjusted_metrics([Detections(labels, found, found)], delay=1)
    with_gap = delay_adjusted_metrics([Detections(labels, found, found, stamps)], delay=1)
    assert together["recall"] == 1.0
    assert with_gap["recall"] == 0.5
    with pytest.raises(ValueError, match="120 occurs twice"):
        on_regular_grid(np.array([0, 120, 120]), np.zeros(3))


class SurpriseModel:
    """Represents a window by its last value; masked, by the value before."""

    def encode(self, series, *, level, window_length, stride, causal, mask=None, **settings):
        assert (level, window_length, stride, causal) == ("timestamp", 31, 1, True)
        last = np.concatenate([series[:1], series[:-1]]) if mask == "mask_last" else series
        return np.concatenate([last, np.zeros_like(last)], axis=1)


def anomaly_corpus(num_steps=600, num_series=2):
    generator = np.random.default_rng(0)
    rows = {"train": [], "test": []}
    for index in range(num_series):
        values, labels = generator.standard_normal((num_steps, 1)), np.zeros(num_steps, dtype=np.int8)
        for position in (400, 500):
            values[position : position + 3] += 40
            labels[position : position + 3] = 1
        half = num_steps // 2
        for name, part in (("train", slice(0, half)), ("test", slice(half, None))):
            series = values[part].astype(np.float32)
            rows[name].append({"item_id": f"kpi_{index}", "series": series, "anomaly_label": labels[part].tolist()})
    features = Features(
        {"item_id": Value("string"), "series": Array2D((None, 1), "float32"), "anomaly_label": List(Value("int8"))}
    )
    rows["test"].reverse()  # matched by item_id, not by position
    return DatasetDict({name: Dataset.from_list(part, features=features) for name, part in rows.items()})


@pytest.mark.parametrize("cold_start", [False, True])
def test_the_protocol_finds_planted_anomalies(cold_start):
    result = evaluate_anomaly_detection(
        SurpriseModel(), anomaly_corpus(), delay=7, context_length=31, cold_start=cold_start, max_buffer=10
    )
    assert result["metrics"]["recall"] == 1.0
    assert result["metrics"]["f1"] > 0.8
    # The toy model is surprised by the first of an anomaly's three steps only: a third of the recall at precision 1.
    assert 1 / 3 < result["metrics"]["auc_pr"] < 0.5
    assert 1 / 3 < result["metrics"]["vus_pr"] < 1
    assert [report["item_id"] for report in result["details"]] == ["kpi_0", "kpi_1"]
    assert all(report["num_anomalous"] == 6 and report["order"] == 0 for report in result["details"])


def test_detections_do_not_depend_on_the_future():
    scores = np.random.default_rng(0).uniform(1, 2, 300)
    scores[[180, 250]] = 30
    labels = np.zeros(300)
    whole, threshold = detect(scores, labels, 150)
    short, same_threshold = detect(scores[:200], labels[:200], 150)
    assert threshold == same_threshold
    np.testing.assert_array_equal(whole.found[:50], short.found)
    assert whole.found[30] == 1


def test_unusable_models_and_corpora_are_named():
    class Plain:
        def encode(self, series, level="instance"):
            return series

    with pytest.raises(ValueError, match=r"Plain\.encode has no argument 'mask'"):
        anomaly_scores(Plain(), np.zeros((30, 1)))
    corpus = anomaly_corpus()
    with pytest.raises(ValueError, match="'kpi_0' is in one split only"):
        evaluate_anomaly_detection(
            SurpriseModel(), DatasetDict(train=corpus["train"], test=corpus["test"].select([0])), context_length=31
        )
    with pytest.raises(ValueError, match="no column 'anomaly_label'"):
        evaluate_anomaly_detection(SurpriseModel(), corpus.remove_columns("anomaly_label"))
