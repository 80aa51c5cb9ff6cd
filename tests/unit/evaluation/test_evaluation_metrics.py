"""Metrics against their definitions, and VUS-PR against a literal transcription of its definition."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from hf_tsrep.evaluation import metrics, save_metric
from hf_tsrep.evaluation.volume_under_surface import vus_pr

labels = st.integers(1, 40).flatmap(
    lambda size: st.tuples(*(st.lists(st.integers(0, 4), min_size=size, max_size=size) for _ in range(2)))
)


@given(labels)
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("error")
def test_the_scores_of_a_classifier_follow_their_definitions_without_a_warning(pair):
    references, predictions = map(np.array, pair)
    decisions = np.random.default_rng(len(references)).integers(-3, 3, (len(references), 5))
    found = metrics.classification_scores(references, predictions, decisions)
    agreement = np.mean(references == predictions)
    assert found["accuracy"] == pytest.approx(agreement)
    shares = [(np.mean(references == name), np.mean(predictions == name)) for name in range(5)]
    chance = sum(first * second for first, second in shares)
    kappa = (agreement - chance) / (1 - chance) if chance < 1 else np.nan
    assert found["kappa"] == pytest.approx(kappa, abs=1e-9, nan_ok=True)
    f1 = [
        2 * np.mean((references == name) & (predictions == name)) / sum(shares[name])
        for name in range(5)
        if sum(shares[name])
    ]
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    one_hot = np.eye(5)[references]
    present = one_hot.any(axis=0)
    expected = average_precision_score(one_hot[:, present], decisions[:, present], average=None)
    assert found["auprc"] == pytest.approx(np.sum(expected) / 5)


def test_auprc_of_two_classes_is_that_of_class_1_and_bad_input_is_named():
    generator = np.random.default_rng(0)
    binary, scores = generator.integers(0, 2, 60), generator.standard_normal((60, 2))
    expected = average_precision_score(binary, scores[:, 1] - scores[:, 0])
    assert metrics.auprc(binary, scores) == pytest.approx(expected)
    assert metrics.auprc(binary, scores[:, 0]) == pytest.approx(average_precision_score(binary, scores[:, 0]))
    with pytest.raises(ValueError, match=r"Class ids must be 0 \.\. 1; found 0 \.\. 7"):
        metrics.auprc(np.where(binary == 1, 7, 0), scores)
    with pytest.raises(ValueError, match="NaN"):
        metrics.auprc(binary, np.full(60, np.nan))


def test_the_delay_rule_gives_what_a_hand_counts():
    references = [0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1]
    predictions = [1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    adjusted = metrics.delay_adjusted_predictions(references, predictions, 1)
    # First segment: detected at its third step, too late; second: at its second step; third: never.
    assert adjusted.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert metrics.delay_adjusted_predictions(references, predictions, 2).tolist()[1:5] == [1, 1, 1, 1]
    precision, recall, f1 = metrics.precision_recall_f1(references, adjusted)
    assert (precision, recall) == pytest.approx((3 / 4, 3 / 8))
    assert f1 == pytest.approx(0.5)
    assert metrics.precision_recall_f1([0, 0], [0, 0]) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"predictions must be 0 or 1, found \[0 2\]"):
        metrics.delay_adjusted_predictions([0, 1], [0, 2], 1)
    with pytest.raises(ValueError, match=r"\(2,\), predictions \(3,\)"):
        metrics.delay_adjusted_predictions([0, 1], [0, 1, 1], 1)


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


def test_the_metrics_of_evaluate_work_offline(monkeypatch):
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
    with pytest.raises(ValueError, match="Did you mean 'macro_f1'"):
        load_metric("macro_f")


def test_a_saved_metric_is_loaded_by_evaluate_as_from_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import evaluate

    script = save_metric("auprc", tmp_path / "auprc")
    assert sorted(file.name for file in script.parent.iterdir()) == ["README.md", "auprc.py", "requirements.txt"]
    loaded = evaluate.load(str(script), cache_dir=str(tmp_path / "cache"))
    rows = [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    assert loaded.compute(predictions=rows, references=[0, 1, 2]) == {"auprc": 1.0}
    assert "average precision" in loaded.description
