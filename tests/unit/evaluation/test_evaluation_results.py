"""Metrics against their definitions; result files, the table, and the public names."""

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Array2D, Dataset, DatasetDict, Features
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import hf_tsrep.evaluation as evaluation
from hf_tsrep.cli.main import run
from hf_tsrep.evaluation import (
    EvaluationResult,
    load_results,
    make_result,
    metrics,
    published_value,
    read_results,
    results_table,
    save_metric,
    write_results,
)
from hf_tsrep.evaluation.result_tables import task_of
from hf_tsrep.evaluation.volume_under_surface import vus_pr
from hf_tsrep.training.protocols import PROTOCOLS, evaluate

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


ROOT = Path(__file__).resolve().parents[3]


def forecast(seed, offset=0.0, setting="multivariate", **changes):
    metrics = {f"mse_{horizon}": value + offset for horizon, value in zip((168, 24, 48), (0.7, 0.5, 0.6), strict=True)}
    values = {"model": f"run-{seed}", "method": "ts2vec", "settings": {"setting": setting}, "date": "2026-01-01"}
    return EvaluationResult("forecasting", "ett/ETTh1", metrics, seed=seed, **{**values, **changes})


def test_writing_keeps_other_results_and_replaces_the_same_run(tmp_path):
    file = write_results(tmp_path, [forecast(1), forecast(2)])
    assert file.name == "results.json"
    write_results(file, forecast(1, 0.1))
    write_results(file, EvaluationResult("clustering", "ucr/GunPoint", {"ari": 0.5}, method="ts2vec"))
    entries = read_results(file)
    assert [(one.protocol, one.seed) for one in entries] == [("forecasting", 1), ("forecasting", 2), ("clustering", 0)]
    assert entries[0].metrics["mse_24"] == pytest.approx(0.6)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]  # no temporary file is left


def test_undefined_and_infinite_numbers_stay_valid_json(tmp_path):
    result = EvaluationResult(
        "classification", "c", {"svm_kappa": float("nan")}, settings={"C": np.inf, "n": np.int64(3)}
    )
    file = write_results(tmp_path / "new" / "folder", result)
    stored = json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert stored["results"][0]["metrics"] == {"svm_kappa": None}
    (back,) = read_results(file)
    assert back.settings == {"C": "inf", "n": 3}
    assert back.identity == result.identity


def test_bad_files_of_results_are_named(tmp_path):
    write_results(tmp_path / "good", forecast(1))
    (tmp_path / "config.json").write_text('{"model_type": "ts2vec"}')
    assert len(load_results(tmp_path)) == 1  # a configuration is passed over
    broken = tmp_path / "deep" / "broken.json"
    broken.parent.mkdir()
    broken.write_text('{"results": [')
    with pytest.raises(ValueError, match=r"broken\.json: not valid JSON"):
        load_results(tmp_path)
    broken.write_text('{"results": [{"protocol": "forecasting", "corpus": "c", "metrics": {"mse": "low"}}]}')
    with pytest.raises(ValueError, match=r"broken\.json, entry 0: metric 'mse' is 'low'"):
        load_results(tmp_path)
    broken.write_text('{"results": [{"corpus": "c"}]}')
    with pytest.raises(ValueError, match="has no 'protocol'"):
        load_results(tmp_path)
    with pytest.raises(ValueError, match="not a results file"):
        write_results(tmp_path / "config.json", forecast(1))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_results(tmp_path / "nowhere")


def test_the_table_shows_mean_spread_seeds_and_published_numbers():
    results = [
        forecast(1),
        forecast(2, 0.1),
        forecast(1, 9.0, date="2025-12-31"),  # an older run with the same seed
        forecast(7, setting="univariate"),
        EvaluationResult("classification", "ucr/GunPoint", {"svm_accuracy": 0.97333}, method="ts2vec"),
        EvaluationResult("clustering", "uea/Libras", {"nmi": 0.25, "ari": None}, method="ts2vec"),
        EvaluationResult("anomaly", "anomaly/KPI_donut", {"f1": 0.5}, method="ts2vec", settings={"setting": "normal"}),
    ]
    lines = results_table(results).splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "## Forecasting",
        "## Classification",
        "## Anomaly detection",
        "## Clustering",
    ]
    assert lines[2] == "| corpus | method | protocol | metric | result | seeds | published |"
    assert [line for line in lines if "ts2vec" in line] == [
        "| ett/ETTh1 | ts2vec | forecasting (multivariate) | mse 24 / 48 / 168 "
        "| 0.550 ± 0.071 / 0.650 ± 0.071 / 0.750 ± 0.071 | 2 | 0.599 / 0.629 / 0.755 (1) |",
        "|  | ts2vec | forecasting (univariate) | mse 24 / 48 / 168 | 0.500 / 0.600 / 0.700 | 1 "
        "| 0.039 / 0.062 / 0.134 (2) |",
        "| ucr/GunPoint | ts2vec | classification | svm_accuracy | 0.973 | 1 | 0.98 (1) |",
        "| anomaly/KPI_donut | ts2vec | anomaly (normal) | f1 | 0.500 | 1 | 0.677 (1) |",
        "| uea/Libras | ts2vec | clustering | ari / nmi | - / 0.250 | 1 | - |",
    ]
    assert lines[-7].endswith("Selection: three seeds. The number is of all 58 KPI series.")
    assert lines[7].startswith("- (1) TS2Vec paper (arXiv 2106.10466), table 8. Selection: fixed number of steps;")
    only = results_table(results[4:5], metrics={"classification": ("svm_accuracy", "missing")})
    assert "svm_accuracy | 0.973" in only
    with pytest.raises(ValueError, match="no results"):
        results_table([])


def test_the_page_of_results_is_what_the_command_makes(tmp_path, monkeypatch):
    written = (ROOT / "results/README.md").read_text(encoding="utf-8")
    command = re.search("Made by `hf-tsrep ([^`]+)`", written)[1]
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("README.md"))
    monkeypatch.chdir(tmp_path)
    assert run(command.split()) == 0
    made = (tmp_path / "results/README.md").read_text(encoding="utf-8")
    assert made == written, f"the results have changed: run hf-tsrep {command}"


def test_published_numbers_are_found_by_corpus_setting_and_metric():
    assert published_value("ts2vec", "ett/ETTh1", "multivariate", "mse_720").value == 1.048
    assert published_value("ts2vec", "ett/ETTm1", "univariate", "mae_96").value == 0.161
    assert published_value("ts2vec", "ucr/ArrowHead", "", "svm_accuracy").value == 0.857
    assert published_value("ts2vec", "anomaly/KPI_donut/cpu4", "cold-start", "f1").value == 0.676
    assert published_value("ts2vec", "ett/ETTh1", "multivariate", "mse_96") is None
    assert published_value("crosstimenet", "ett/ETTh1", "multivariate", "mse_24") is None
    linear = published_value("timedrl", "ett/ETTh2", "linear-probe, multivariate", "mse_720")
    assert (linear.value, linear.note) == (0.395, "the best test epoch")
    assert published_value("timedrl", "sensor/HAR", "full", "kappa").value == 0.8679
    assert published_value("timedrl", "sensor/HAR", "without contrastive", "kappa") is None
    assert published_value("simmtm", "ett/ETTm1", "full, multivariate", "mae_336").value == 0.398
    assert published_value("simmtm", "sensor/Epilepsy_TFC", "full, last epoch", "accuracy").value == 0.9475


@pytest.mark.parametrize(
    ("protocol", "settings", "metrics", "task"),
    [
        ("anomaly", {}, {"f1": 1.0}, "anomaly"),
        ("linear", {"task": "forecasting"}, {"mse_24": 1.0}, "forecasting"),
        ("finetune", {}, {"mse_24": 1.0}, "forecasting"),
        ("finetune", {}, {"accuracy": 1.0}, "classification"),
    ],
)
def test_a_result_stands_with_its_task_even_if_its_record_is_too_old_to_tell_it(protocol, settings, metrics, task):
    result = EvaluationResult(protocol, "toy", metrics, settings=settings)
    assert task_of(result) == task


def test_runs_of_other_horizons_share_a_row_and_a_later_run_replaces():
    runs = [
        EvaluationResult("finetune", "toy", metrics, method="ts2vec", seed=1, date=date)
        for metrics, date in (
            ({"mse_24": 0.4, "mse": 0.4}, "2026-01-03"),
            ({"mse_24": 0.5, "mse": 0.5}, "2026-01-01"),
            ({"mse_48": 0.6, "mse": 0.6}, "2026-01-02"),
        )
    ]
    assert "| mse 24 / 48 | 0.400 / 0.600 | 1 |" in results_table(runs)
    runs.append(EvaluationResult("finetune", "toy", {"mse_48": 0.8}, method="ts2vec", seed=2, date="2026-01-01"))
    assert "| mse 24 / 48 | 0.400 / 0.700 ± 0.141 | 1 / 2 |" in results_table(runs)


class EveryStep:
    """Repeats its input: an encoder with a config, as a loaded model has one."""

    config = SimpleNamespace(model_type="ts2vec", name_or_path="/somewhere/private/my-run", _commit_hash="abc")

    def encode(self, series, **settings):
        return [np.concatenate([one, one**2], axis=1) for one in series]


def test_a_result_knows_its_circumstances_and_no_private_path():
    values = np.random.default_rng(0).standard_normal((3, 60, 2)).astype(np.float32)
    features = Features({"series": Array2D((None, 2), "float32")})
    names = ("train", "validation", "test")
    corpus = DatasetDict(
        {
            name: Dataset.from_dict({"series": [one]}, features=features)
            for name, one in zip(names, values, strict=True)
        }
    )
    outcome = evaluate(EveryStep(), corpus, "forecasting", horizons=(2, 5), history_to_skip=0)
    result = make_result(EveryStep(), corpus, "forecasting", outcome, seed=4, corpus_name="toy")
    assert (result.model, result.method, result.revision, result.seed) == ("my-run", "ts2vec", "abc", 4)
    assert len(result.corpus_fingerprint) == 64
    assert {"python", "torch", "numpy"} <= set(result.versions)
    assert set(result.timings) == {"encode", "ridge"}
    assert "somewhere" not in json.dumps(result.to_dict())
    assert EvaluationResult.from_dict(result.to_dict()) == EvaluationResult.from_dict(
        json.loads(json.dumps(result.to_dict()))
    )


def test_unknown_protocols_and_settings_give_near_matches():
    frozen = {"forecasting", "classification", "anomaly", "clustering", "generation"}
    assert set(PROTOCOLS) == {*frozen, "linear", "finetune"}
    with pytest.raises(ValueError, match=r"Unknown protocol 'forecast'\. Did you mean 'forecasting'"):
        evaluate(None, None, "forecast")
    with pytest.raises(
        ValueError, match=r"Unknown setting of the clustering protocol 'num_cluster'\. Did you mean 'num_cl"
    ):
        evaluate(None, None, "clustering", num_cluster=3)


def test_every_public_name_exists_and_nothing_heavy_is_imported():
    assert all(getattr(evaluation, name) is not None for name in evaluation.__all__)
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = evaluation.evaluat
    code = (
        "import sys, importlib.util, types; package = types.ModuleType('hf_tsrep'); package.__path__ = ['hf_tsrep'];"
        "sys.modules['hf_tsrep'] = package; import hf_tsrep.evaluation.protocols, hf_tsrep.evaluation.result_tables;"
        "heavy = {'torch', 'datasets', 'evaluate', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
