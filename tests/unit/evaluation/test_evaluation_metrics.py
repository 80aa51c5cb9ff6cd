"""Metrics against scikit-learn, and VUS-PR against a literal transcription of its definition."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from hf_tsrep.evaluation import metrics
from hf_tsrep.evaluation.volume_under_surface import vus_pr

labels = st.integers(1, 40).flatmap(
    lambda size: st.tuples(*(st.lists(st.integers(0, 4), min_size=size, max_size=size) for _ in range(2)))
)
scored = st.integers(1, 40).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(0, 1), min_size=size, max_size=size),
        st.lists(st.integers(-5, 5), min_size=size, max_size=size),
    )
)


@given(labels)
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_label_metrics_equal_sklearn(pair):
    references, predictions = map(np.array, pair)
    expected = {
        "accuracy": sklearn_metrics.accuracy_score,
        "macro_f1": lambda a, b: sklearn_metrics.f1_score(a, b, average="macro"),
        "cohen_kappa": sklearn_metrics.cohen_kappa_score,
        "adjusted_rand_index": sklearn_metrics.adjusted_rand_score,
        "normalized_mutual_information": sklearn_metrics.normalized_mutual_info_score,
    }
    for name, function in expected.items():
        ours = getattr(metrics, name)(references, predictions)
        assert ours == pytest.approx(function(references, predictions), abs=1e-9, nan_ok=True), name


@given(scored)
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_average_precision_equals_sklearn_with_ties(pair):
    references, scores = map(np.array, pair)
    expected = sklearn_metrics.average_precision_score(references, scores)
    assert metrics.area_under_precision_recall(references, scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_auprc_is_the_macro_average_of_one_against_the_rest():
    generator = np.random.default_rng(0)
    references, scores = generator.integers(0, 4, 60), generator.standard_normal((60, 5))
    one_hot = np.eye(5)[references]
    assert metrics.auprc(references, scores) == pytest.approx(sklearn_metrics.average_precision_score(one_hot, scores))
    binary = generator.integers(0, 2, 60)
    expected = sklearn_metrics.average_precision_score(binary, scores[:, 0])
    assert metrics.auprc(binary, scores[:, 0]) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"Class ids must be 0 \.\. 4; found 0 \.\. 7"):
        metrics.auprc(np.where(references == 3, 7, references), scores)


@given(scored)
@settings(max_examples=50, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_precision_recall_f1_equal_sklearn(pair):
    references, predictions = np.array(pair[0]), (np.array(pair[1]) > 0).astype(int)
    expected = sklearn_metrics.precision_recall_fscore_support(references, predictions, average="binary")[:3]
    assert metrics.precision_recall_f1(references, predictions) == pytest.approx(expected)


def test_errors_equal_sklearn_and_refuse_other_shapes():
    generator = np.random.default_rng(1)
    first, second = generator.standard_normal((2, 30, 4))
    assert metrics.mean_squared_error(first, second) == pytest.approx(
        sklearn_metrics.mean_squared_error(first, second)
    )
    assert metrics.mean_absolute_error(first, second) == pytest.approx(
        sklearn_metrics.mean_absolute_error(first, second)
    )
    with pytest.raises(ValueError, match=r"\(30, 4\), predictions \(4, 30\)"):
        metrics.mean_squared_error(first, second.T)
    with pytest.raises(ValueError, match="at least one sample"):
        metrics.accuracy([], [])


def test_delay_rule_by_hand():
    references = [0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1]
    predictions = [1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    adjusted = metrics.delay_adjusted_predictions(references, predictions, 1)
    # First segment: detected at its third step, too late; second: at its second step; third: never.
    assert adjusted.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert metrics.delay_adjusted_predictions(references, predictions, 2).tolist()[1:5] == [1, 1, 1, 1]
    precision, recall, f1 = metrics.delay_adjusted_precision_recall_f1(references, predictions, 1)
    assert (precision, recall) == pytest.approx((3 / 4, 3 / 8))
    assert f1 == pytest.approx(0.5)


def literal_vus_pr(truth, scores, max_buffer, num_thresholds):
    """Loops over every threshold, range and buffer, in the order of the definition."""
    bounds = [(start, stop - 1) for start, stop in metrics.segments(truth == 1)]
    length, descending, areas = len(scores), -np.sort(-scores), []
    for width in range(max_buffer + 1):
        half, weights = width // 2, truth.astype(float)
        for start, end in bounds:
            for step in range(end + 1, min(end + half + 1, length)):
                weights[step] += np.sqrt(1 - (step - end) / width)
            for step in range(max(start - half, 0), start):
                weights[step] += np.sqrt(1 - (start - step) / width)
        weights = np.minimum(weights, 1)
        ranges, begin = [], max(bounds[0][0] - half, 0)
        for (_, end), (start, _) in pairwise(bounds):
            if end + half < start - half:
                ranges.append((begin, end + half))
                begin = start - half
        ranges.append((begin, min(bounds[-1][1] + half, length - 1)))
        recalls, precisions = [0.0], []
        for rank in np.linspace(0, length - 1, num_thresholds).astype(int):
            found = scores >= descending[rank]
            counted = np.where(truth == 1, 1.0, weights * found)
            hits = float((counted * found).sum())
            existence = np.mean([found[start : end + 1].any() for start, end in ranges])
            recalls.append(min(hits / ((truth.sum() + counted.sum()) / 2), 1) * existence)
            precisions.append(hits / found.sum())
        areas.append(np.sum(np.diff(recalls) * precisions))
    return np.mean(areas)


@pytest.mark.parametrize("seed", range(6))
def test_vus_pr_equals_its_definition(seed):
    generator = np.random.default_rng(seed)
    truth = np.zeros(120, dtype=int)
    for start in generator.integers(0, 115, 4):
        truth[start : start + generator.integers(1, 9)] = 1
    scores = np.round(generator.standard_normal(120) + truth, 1)
    expected = literal_vus_pr(truth, scores, 15, 40)
    assert vus_pr(truth, scores, max_buffer=15, num_thresholds=40) == pytest.approx(expected, abs=1e-12)


def test_vus_pr_rewards_near_hits_and_names_bad_input():
    truth = np.zeros(200, dtype=int)
    truth[100:110] = 1
    near, far = np.zeros(200), np.zeros(200)
    near[111], far[150] = 1, 1
    assert vus_pr(truth, near, max_buffer=20) > vus_pr(truth, far, max_buffer=20) + 0.01
    with pytest.raises(ValueError, match="at least one anomalous step"):
        vus_pr(np.zeros(5), np.arange(5))
    with pytest.raises(ValueError, match="step 3 is NaN"):
        vus_pr(truth, np.where(np.arange(200) == 3, np.nan, near))


def test_evaluate_faces_work_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import evaluate

    from hf_tsrep.evaluation.evaluate_metrics import METRICS, load_metric

    metric = load_metric("accuracy")
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.add_batch(predictions=[1, 1], references=[1, 1])
    assert metric.compute() == {"accuracy": 0.75}
    rows = [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    assert load_metric("auprc").compute(predictions=rows, references=[0, 1, 2]) == {"auprc": 1.0}
    both = evaluate.combine([load_metric("macro_f1"), load_metric("cohen_kappa")])
    assert set(both.compute(predictions=[0, 1, 1], references=[0, 1, 0])) == {"macro_f1", "cohen_kappa"}
    adjusted = load_metric("delay_adjusted_f1").compute(predictions=[0, 0, 1], references=[0, 1, 1], delay=0)
    assert adjusted == {"delay_adjusted_precision": 0.0, "delay_adjusted_recall": 0.0, "delay_adjusted_f1": 0.0}
    for name in METRICS:
        assert load_metric(name).name == name
    with pytest.raises(ValueError, match="Near: macro_f1"):
        load_metric("macro_f")
