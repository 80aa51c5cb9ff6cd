"""What `detect` promises, for the encoder of every method."""

import sys

import numpy as np
import pandas as pd
import pytest
from contract_support import METHOD_NAMES, build

import hf_tsrep
from hf_tsrep import TimeSeriesFeatureExtractor
from hf_tsrep.modeling.detecting_time_series import DISTANCE, MASKED_DIFFERENCE, masks_steps

every_method = pytest.mark.parametrize("name", METHOD_NAMES)
MODELS = {name: build(name, "model") for name in METHOD_NAMES}
OPTIONS = {"context_length": 8, "reference": 60, "show_progress_bar": False}


def wave(length=100, seed=0):
    steps = np.arange(length)[:, None]
    noise = 0.1 * np.random.default_rng(seed).standard_normal((length, 3))
    return (np.sin(0.7 * steps + [0, 1, 2]) + noise).astype(np.float32)


@every_method
def test_every_method_has_a_score_after_its_capability(name):
    found = hf_tsrep.detect(MODELS[name], wave(), **OPTIONS)
    expected = MASKED_DIFFERENCE if masks_steps(MODELS[name]) else DISTANCE
    assert found.provenance["score"] == expected
    assert found.provenance["method"] == name
    assert len(found.provenance["weights_sha256"]) == 64
    assert found.scores.shape == (100,)
    assert np.isfinite(found.scores[22:]).all()
    assert np.isfinite(found.threshold)


@pytest.mark.parametrize(
    ("name", "score"),
    [(name, DISTANCE) for name in MODELS]
    + [(name, MASKED_DIFFERENCE) for name, model in MODELS.items() if masks_steps(model)],
)
def test_a_score_does_not_see_the_future(name, score):
    values = wave()
    changed = values.copy()
    changed[80:] += 5
    before, after = (hf_tsrep.detect(MODELS[name], one, score=score, **OPTIONS) for one in (values, changed))
    assert before.threshold == pytest.approx(after.threshold, rel=1e-4)
    np.testing.assert_allclose(before.scores[:80], after.scores[:80], rtol=1e-3, atol=1e-5)
    assert np.abs(before.scores[80:] - after.scores[80:]).max() > 1e-3


@every_method
def test_steps_off_the_pattern_are_furthest_from_it(name):
    values = wave(160)
    values[120:124, 1] += 30
    found = hf_tsrep.detect(MODELS[name], values, score=DISTANCE, threshold=0.0, gap=0, **OPTIONS)
    assert 120 <= int(np.nanargmax(found.scores)) < 124 + OPTIONS["context_length"]
    assert max(found.alarms, key=lambda one: one.score).peak == int(np.nanargmax(found.scores))
    assert all(alarm.start >= 60 for alarm in found.alarms)


@every_method
def test_raw_series_are_prepared_whatever_holds_them(name):
    model = build(name, "model")
    model.preparation = TimeSeriesFeatureExtractor(
        num_channels=3, channel_names=["a", "b", "c"], mean=[1.0, -2.0, 30.0], scale=[2.0, 0.5, 10.0]
    )
    raw = wave() * 4 + 2
    expected = hf_tsrep.detect(model, model.preparation.transform([raw]), **OPTIONS)[0]
    frame = pd.DataFrame(raw[:, ::-1], columns=["c", "b", "a"])
    frame.index = pd.date_range("2026-01-01", periods=len(raw), freq="h")
    for holder in (raw, frame):
        found = hf_tsrep.detect(model, holder, **OPTIONS)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
    assert found.timestamps[1] == np.datetime64("2026-01-01T01:00")
    assert found.provenance["preparation"]["channel_names"] == ["a", "b", "c"]


@every_method
def test_series_of_their_own_are_a_reference(name):
    series = [wave(70, 1), wave(50, 2)]
    options = {**OPTIONS, "reference": [wave(90, 3), wave(60, 4)]}
    found = hf_tsrep.detect(MODELS[name], series, **options)
    assert [len(one.scores) for one in found] == [70, 50]
    assert found[0].threshold == found[1].threshold
    assert found[0].reference_length == 0
    alone = hf_tsrep.detect(MODELS[name], series[1], **options)
    np.testing.assert_allclose(alone.scores, found[1].scores, rtol=1e-3, atol=1e-5)


@every_method
def test_missing_values_leave_scores(name):
    values = wave()
    values[30:33] = np.nan
    values[85] = np.nan
    found = hf_tsrep.detect(MODELS[name], values, **OPTIONS)
    assert np.isfinite(found.scores[22:]).all()


@every_method
def test_a_constant_series_has_no_alarm(name):
    found = hf_tsrep.detect(MODELS[name], np.full((100, 3), 2.0, np.float32), **OPTIONS, batch_size=7)
    assert found.alarms == []


def walk(length=200, seed=0):
    return np.random.default_rng(seed).standard_normal((length, 1)).cumsum(0).astype(np.float32)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if masks_steps(model)])
def test_a_reference_that_is_not_stationary_is_differenced(name, monkeypatch):
    pytest.importorskip("statsmodels")
    from hf_tsrep.evaluation import prepare_anomaly_series

    model, values = build(name, "model", num_input_channels=1), walk()
    values[150:] += 40
    dates = np.datetime64("2026-01-01", "h") + np.arange(200)
    options = {**OPTIONS, "reference": 100}
    found = hf_tsrep.detect(model, values, timestamps=dates, **options)
    prepared = prepare_anomaly_series(values, 100)
    assert (found.difference_order, found.provenance["difference"]) == (prepared.order, [prepared.order]) == (1, [1])
    expected = hf_tsrep.detect(model, prepared.values, difference=False, **{**options, "reference": 99})
    np.testing.assert_allclose(found.scores[1:], expected.scores, rtol=1e-3, atol=1e-4)
    assert found.scores.shape == (200,)
    assert np.isnan(found.scores[0])
    assert found.reference_length == 100
    assert found.threshold == pytest.approx(expected.threshold, rel=1e-3)
    assert [one.start for one in found.alarms] == [one.start + 1 for one in expected.alarms]
    assert 150 in [one.peak for one in found.alarms]
    assert all(one.start_time == dates[one.start] for one in found.alarms)
    # Series of their own: theirs is the order and the scale.
    foreign = hf_tsrep.detect(model, [values], **{**options, "reference": [walk(120, 1), walk(90, 2)]})[0]
    assert (foreign.difference_order, foreign.scores.shape, foreign.reference_length) == (1, (200,), 0)
    steady = hf_tsrep.detect(model, wave(200)[:, :1], **options)
    assert steady.difference_order == 0
    assert hf_tsrep.detect(model, values, difference=False, **options).difference_order == 0


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if masks_steps(model)])
def test_differences_are_refused_only_where_they_are_asked_for(name, monkeypatch, caplog):
    with pytest.raises(ValueError, match="difference=True: differencing needs one channel; the series have 3"):
        hf_tsrep.detect(MODELS[name], wave(), difference=True, **OPTIONS)
    with pytest.raises(ValueError, match="only a masked difference"):
        hf_tsrep.detect(MODELS[name], wave(), difference=True, score=DISTANCE, **OPTIONS)
    model = build(name, "model", num_input_channels=1)
    monkeypatch.setitem(sys.modules, "statsmodels.tsa.stattools", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf-tsrep\[anomaly\]'"):
        hf_tsrep.detect(model, walk(), difference=True, **OPTIONS)
    assert hf_tsrep.detect(model, walk(), **OPTIONS).difference_order == 0
    assert "without differences" in caplog.text
