"""The studies that hold methods against each other: rivals without representations, tables over many problems, and
accuracies on disturbed series."""

import json
import sys
from types import SimpleNamespace

import choices
import compare_methods
import numpy as np
import pytest
import rivals
import robustness
import yaml
from compare_methods import Column, average_ranks, collect, count_wins, read_column, write_table
from datasets import DatasetDict
from rivals import RIVALS, fill_missing, in_one_array, stretch
from robustness import DISTURBANCES, add_noise, disturb, drop_points, drop_stretch, measure, pretrained, warp

from hf_tsrep.data import get_series, load_corpus
from hf_tsrep.results import EvaluationResult, read_results

NAN = np.nan


def run_study(program, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, words)])
    program.main()


@pytest.fixture(scope="module")
def few_motions():
    """A corpus of three series of each of two classes in both parts."""
    corpus = load_corpus("uea/BasicMotions", scaler="recommended")
    rows = [*range(3), *range(10, 13)]
    return DatasetDict({part: corpus[part].select(rows) for part in ("train", "test")})


def test_missing_values_are_interpolated_within_their_channel():
    values = np.array([[NAN, 1.0, NAN], [2.0, NAN, NAN], [NAN, NAN, NAN], [4.0, 7.0, NAN]])
    expected = [[2.0, 1.0, 0.0], [2.0, 3.0, 0.0], [3.0, 5.0, 0.0], [4.0, 7.0, 0.0]]
    np.testing.assert_allclose(fill_missing(values), expected)


def test_a_stretched_series_keeps_its_ends_and_line():
    values = np.array([[0.0, 5.0], [1.0, 3.0], [2.0, 1.0]])
    np.testing.assert_allclose(stretch(values, 5), [[0, 5], [0.5, 4], [1, 3], [1.5, 2], [2, 1]])
    np.testing.assert_allclose(stretch(values, 2), values[[0, 2]])
    known, asked = in_one_array([values, values[:2]], [values[:1], np.vstack([values, values])])
    assert known.shape == asked.shape == (2, 3, 2)
    np.testing.assert_allclose(asked[0], values[[0, 0, 0]])


def test_the_path_of_warping_forgives_a_shift_that_the_euclidean_distance_does_not():
    steps = np.arange(40.0)
    bump = {place: np.exp(-((steps - place) ** 2) / 8)[:, None] for place in (10, 25)}
    flat = np.full((40, 1), 0.1)
    train, labels = [bump[10], flat], np.array([3, 1])
    assert RIVALS["1nn-euclidean"].predict(train, labels, [bump[25]], 0).tolist() == [1]
    assert RIVALS["1nn-dtw"].predict(train, labels, [bump[25]], 0).tolist() == [3]
    assert RIVALS["1nn-dtw"].predict(train, labels, [bump[25][15:], flat[:7]], 0).tolist() == [3, 1]


def test_series_below_the_kernels_of_minirocket_are_followed_by_zeros(monkeypatch):
    seen = []

    def classifier(random_state):
        def fit(series, labels):
            seen.append(series)
            return SimpleNamespace(predict=lambda asked: seen.append(asked) or labels)

        return SimpleNamespace(fit=fit)

    monkeypatch.setattr(rivals, "MiniRocketClassifier", classifier)
    train = [np.ones((8, 2)), np.ones((6, 2))]
    RIVALS["minirocket"].predict(train, np.array([0, 1]), train, 1)
    assert [one.shape for one in seen] == [(2, 2, 9)] * 2
    assert all((one[:, :, :8] == 1).all() and (one[:, :, 8] == 0).all() for one in seen)


def test_a_rival_is_run_once_on_the_data_of_the_protocol(tmp_path, monkeypatch):
    words = ["--corpora", "uea/BasicMotions", "--rivals", "1nn-euclidean", "--results-dir", tmp_path]
    run_study(rivals, words, monkeypatch)
    (file,) = tmp_path.iterdir()
    assert file.name == "uea-BasicMotions-1nn-euclidean.json"
    (result,) = read_results(file)
    assert (result.protocol, result.corpus, result.method) == ("classification", "uea/BasicMotions", "1nn-euclidean")
    assert result.metrics["accuracy"] == 0.575  # of scaled channels
    assert result.corpus_fingerprint
    monkeypatch.setattr(rivals, "evaluate", None)  # would fail
    run_study(rivals, words, monkeypatch)


def result_of(corpus, method, accuracy, seed=1, setting="", name="svm_accuracy", date="1"):
    settings = {"setting": setting} if setting else {}
    return EvaluationResult("classification", corpus, {name: accuracy}, "", method, seed, settings=settings, date=date)


def test_a_cell_is_the_mean_over_seeds_of_one_method_in_one_setting():
    results = [
        result_of("ucr/A", "new", 0.8, setting="full"),
        result_of("ucr/A", "new", 0.6, seed=2, setting="full"),
        result_of("ucr/A", "new", 0.1, setting="other"),
        result_of("ucr/A", "old", 0.9, name="accuracy", date="2"),
        result_of("ucr/A", "old", 0.5, name="accuracy", date="1"),
        result_of("ucr/B", "old", 0.4, name="accuracy"),
        result_of("ucr/C", "old", 0.4, name="mse"),
    ]
    columns = [read_column("New=new/full"), read_column("Old=old")]
    scores, seeds = collect(results, columns, ["ucr/A", "ucr/B", "ucr/C"])
    np.testing.assert_allclose(scores, [[0.7, 0.9], [NAN, 0.4], [NAN, NAN]])
    assert seeds.tolist() == [[2, 1], [0, 1], [0, 0]]
    page = write_table(columns, ["ucr/A", "ucr/B", "ucr/C"], scores, seeds)
    assert "1 of 3 problems have all 2 columns" in page
    assert "| ucr/A | 0.700 | **0.900** |" in page
    assert "| ucr/B | - | 0.400 |" in page
    assert "| seeds | 2 | 1 |" in page
    assert "| Old | 1.00 | 0.900 | 1 | 0 / 0 / 1 | 1.000 |" in page


def test_equal_accuracies_share_a_rank_and_a_win():
    scores = np.array([[0.9, 0.9, 0.1], [0.2, 0.5, 0.3]])
    assert average_ranks(scores).tolist() == [(1.5 + 3) / 2, (1.5 + 1) / 2, (3 + 2) / 2]
    assert count_wins(scores).tolist() == [1, 2, 0]


def test_a_comparison_writes_its_page_and_the_diagram(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for method in ("one", "two", "three"):
        entries = [result_of(f"ucr/{name}", method, float(generator.random())).to_dict() for name in "ABCDEF"]
        (tmp_path / f"{method}.json").write_text(json.dumps({"results": entries}))
    columns = ["--columns", "One=one", "Two=two", "Three=three"]
    corpora = ["--corpora", *(f"ucr/{name}" for name in "ABCDEF")]
    run_study(
        compare_methods, [*columns, *corpora, "--results", tmp_path, "--output", tmp_path / "out/all"], monkeypatch
    )
    assert "6 of 6 problems" in (tmp_path / "out/all.md").read_text()
    assert (tmp_path / "out/all.png").stat().st_size > 5000


def test_a_column_without_a_method_is_refused():
    with pytest.raises(Exception, match="'mug' is not LABEL=METHOD"):
        read_column("mug")


def test_noise_has_the_power_that_was_asked_for_in_each_channel():
    generator = np.random.default_rng(1)
    values = np.stack([np.sin(np.arange(20000.0)) + 50, 9 * np.cos(np.arange(20000.0))], axis=1)
    for decibels in (20, 10, 0):
        noise = add_noise(values, generator, decibels) - values
        ratio = 10 * np.log10(values.var(axis=0) / noise.var(axis=0))
        np.testing.assert_allclose(ratio, decibels, atol=0.15)


def test_a_share_of_each_channel_is_missing_in_points_or_one_stretch():
    values, generator = np.zeros((50, 3)), np.random.default_rng(2)
    points, stretched = drop_points(values, generator, 0.3), drop_stretch(values, generator, 0.3)
    for dropped in (points, stretched):
        assert np.isnan(dropped).sum(axis=0).tolist() == [15, 15, 15]
    edges = np.abs(np.diff(np.isnan(np.pad(stretched, ((1, 1), (0, 0)))).astype(int), axis=0)).sum(axis=0)
    assert edges.tolist() == [2, 2, 2]
    assert len({tuple(np.flatnonzero(column)) for column in np.isnan(stretched).T}) > 1
    assert not np.isnan(drop_points(values[:1], generator, 0.9)).any()
    assert not np.isnan(values).any()


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_warped_time_rises_keeps_its_ends_and_moves_by_the_share(share):
    time = np.arange(201.0)[:, None]
    for seed in range(20):
        bent = warp(time, np.random.default_rng(seed), share)[:, 0]
        assert (np.diff(bent) > 0).all()
        assert bent[[0, -1]].tolist() == pytest.approx([0, 200])
        assert np.abs(bent - time[:, 0]).max() == pytest.approx(share * 200, rel=0.25)
    assert warp(time[:1], np.random.default_rng(0), share).tolist() == [[0.0]]


def test_every_method_sees_the_same_disturbed_series_of_a_seed(few_motions):
    series = get_series(few_motions["test"])
    for severities in DISTURBANCES.values():
        for disturbance in severities.values():
            first, second, other = (np.stack(disturb(series, disturbance, seed)) for seed in (1, 1, 2))
            np.testing.assert_array_equal(first, second)
            assert not np.array_equal(first, other, equal_nan=True)
            assert first.shape == (6, 100, 6)


def test_what_is_measured_is_the_test_part_disturbed_and_not(few_motions):
    clean = np.stack(get_series(few_motions["test"]))

    def knows_the_clean_series(series):
        wanted = np.asarray(few_motions["test"]["label"])
        return wanted if np.array_equal(np.stack(series), clean) else 1 - wanted

    accuracies = measure(knows_the_clean_series, few_motions["test"], 1)
    assert set(accuracies) == set(DISTURBANCES)
    for severities in accuracies.values():
        assert list(severities.values()) == [1.0, 0.0, 0.0, 0.0]


def test_a_study_of_robustness_has_runs_a_table_and_a_figure_and_does_a_run_once(tmp_path, monkeypatch, few_motions):
    monkeypatch.setattr(robustness, "load_corpus", lambda name, **_: few_motions)
    words = ["--corpora", "uea/BasicMotions", "--methods", "Distance=1nn-euclidean", "--output", tmp_path / "robust"]
    run_study(robustness, words, monkeypatch)
    file = tmp_path / "robust/1nn-euclidean-uea-BasicMotions-seed1.json"
    accuracies = json.loads(file.read_text())
    assert accuracies["noise"]["none"] == pytest.approx(2 / 3)
    assert (tmp_path / "robust.png").stat().st_size > 5000
    assert "| noise | none | 0.667 |" in (tmp_path / "robust.md").read_text()
    file.write_text(json.dumps({kind: dict.fromkeys(one, 0.25) for kind, one in accuracies.items()}))
    run_study(robustness, words, monkeypatch)
    assert "|  | 20 dB | 0.250 |" in (tmp_path / "robust.md").read_text()


def test_an_encoder_of_the_grid_is_trained_once_and_its_machine_on_clean_series(tmp_path, monkeypatch, few_motions):
    sizes = {"embedding_size": 8, "hidden_size": 4, "num_hidden_layers": 1, "max_steps": 2}
    job = {"corpora": ["uea/BasicMotions"], "protocol": "classification", "pretraining": sizes}
    stage = {"folder": "{job}-seed{seed}", "corpora": "{corpora}", "fields": {"seed": "{seed}"}}
    grid = {"loops": ["seeds", "jobs"], "result": "{job}-seed{seed}", "jobs": {"motions": job}}
    (tmp_path / "ts2vec.yaml").write_text(yaml.safe_dump({**grid, "stages": {"pretraining": stage}}))
    monkeypatch.setattr("reproduction.plan.GRIDS", tmp_path)
    method = Column("TS2Vec", "ts2vec")
    predict = robustness.fit(method, "uea/BasicMotions", few_motions, 3, tmp_path / "runs")
    test = [np.asarray(one, dtype=np.float64) for one in get_series(few_motions["test"])]
    predicted = predict(test)
    assert set(predicted) <= set(few_motions["train"]["label"])
    assert len(predict([np.where(np.arange(100)[:, None] < 30, NAN, one) for one in test])) == 6
    monkeypatch.setattr("reproduction.work.hf_tsrep.pretrain", None)  # would fail
    model = pretrained(method, "uea/BasicMotions", 3, tmp_path / "runs")
    assert model.config.embedding_size == 8


def test_choices_read_training_parts_alone(monkeypatch, tmp_path, few_motions):
    """Test series that cannot be read would end the study; a cell that is there is not measured again."""
    train = few_motions["train"].select([*range(6), *range(6)])
    monkeypatch.setattr(choices, "load_corpus", lambda name, scaler: {"train": train})
    tiny = "hidden_size=8,segment_size=8,num_attention_heads=2,coarse_hidden_size=6,coarse_reduced_size=8"
    words = ["mug", "--corpora", "uea/BasicMotions", "--choices", f"{tiny},num_regions=1", f"{tiny},num_regions=2"]
    run_study(choices, [*words, "--output", tmp_path / "table"], monkeypatch)
    page = (tmp_path / "table.md").read_text()
    assert page.count("| 0 | hidden_size=8") == 2
    monkeypatch.setattr(choices, "load_corpus", None)
    run_study(choices, [*words, "--output", tmp_path / "table"], monkeypatch)
    assert (tmp_path / "table.md").read_text() == page


def test_cross_validation_tells_classes_apart_and_not_what_is_alike():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    noise = generator.standard_normal((60, 4))
    assert choices.cross_validate(noise + 8.0 * labels[:, None], labels) == 1.0
    assert choices.cross_validate(noise, labels) < 0.75
    assert choices.read_choice("num_regions=2,fusion=max") == {"num_regions": 2, "fusion": "max"}
    assert choices.read_choice("") == {}
