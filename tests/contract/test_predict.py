"""What `predict` promises, for the heads of every method."""

import numpy as np
import pandas as pd
import pytest
import torch
from contract_support import METHOD_NAMES, build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoModelForTimeSeriesPrediction

from hf_tsrep import TimeSeriesFeatureExtractor
from hf_tsrep.data import SeriesList

every_method = pytest.mark.parametrize("name", METHOD_NAMES)
# What is told of a series: classes, several labels at once, numbers with a mean and a deviation.
PROBLEMS = {
    "classes": {},
    "labels": {"problem_type": "multi_label_classification"},
    "numbers": {"problem_type": "regression", "label_mean": [3.0, 0.0, -1.0, 50.0], "label_scale": [2.0, 1, 1, 9]},
}
CLASSIFIERS = {name: build(name, "classification") for name in METHOD_NAMES}
PREDICTORS = {name: build(name, "prediction") for name in METHOD_NAMES}


def preparation(**options):
    statistics = {"mean": [1.0, -2.0, 30.0], "scale": [2.0, 0.5, 10.0]}
    return TimeSeriesFeatureExtractor(num_channels=3, channel_names=["a", "b", "c"], **{**statistics, **options})


def with_preparation(name, kind, **fields):
    model = build(name, kind, **fields)
    model.preparation = preparation()
    return model


def series_of(lengths, missing=0.0, seed=0):
    generator = np.random.default_rng(seed)
    series = [generator.standard_normal((length, 3)).astype(np.float32) for length in lengths]
    for values in series:
        values[generator.random(values.shape) < missing] = np.nan
    return SeriesList(series)


def numbers_of(answer):
    return answer if isinstance(answer, np.ndarray) else answer.probabilities


@every_method
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    batch_size=st.integers(1, 7),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_order_and_batch_size_change_nothing(name, lengths, batch_size, missing, seed):
    series = series_of(lengths, missing, seed)
    order = np.random.default_rng(seed).permutation(len(series))
    for model in (CLASSIFIERS[name], PREDICTORS[name]):
        together = numbers_of(model.predict(SeriesList(series[index] for index in order), batch_size=batch_size))
        for position, index in enumerate(order):
            alone = numbers_of(model.predict(series[index], layout="ntc"))
            np.testing.assert_allclose(together[position], alone, rtol=1e-4, atol=1e-5)
            assert np.isfinite(alone).all()


@every_method
def test_classes_are_those_of_forward(name):
    model, (values,) = CLASSIFIERS[name], series_of([20])
    answer = model.predict([values, values])
    with torch.no_grad():
        expected = model(past_values=torch.from_numpy(values)[None]).logits.softmax(-1)[0]
    np.testing.assert_allclose(answer.probabilities[0], expected, rtol=1e-5, atol=1e-6)
    assert answer.class_names == tuple(model.config.id2label.values())
    assert answer.labels.tolist() == [model.config.id2label[int(expected.argmax())]] * 2
    one = model.predict(values)
    assert (one.labels, one.probabilities.shape) == (answer.labels[0], (4,))


@every_method
def test_several_labels_at_once_are_those_of_at_least_one_half(name):
    model, series = build(name, "classification", **PROBLEMS["labels"]), series_of([20, 20, 9])
    answer = model.predict(series)
    assert not np.allclose(answer.probabilities.sum(1), 1)
    for row, labels in zip(answer.probabilities, answer.labels, strict=True):
        assert labels == tuple(f"LABEL_{index}" for index in np.flatnonzero(row >= 0.5))
    assert model.predict(series[0]).labels == answer.labels[0]
    values, labels = torch.from_numpy(series[0])[None], torch.tensor([[1, 0, 0, 1]])
    output = model(past_values=values, labels=labels)
    expected = F.binary_cross_entropy_with_logits(output.logits, labels.float())
    torch.testing.assert_close(output.loss, expected)
    with pytest.raises(ValueError, match=r"labels has shape \(1, 2\).*\(1, 4\)"):
        model(past_values=values, labels=labels[:, :2])


@every_method
def test_numbers_are_learnt_scaled_and_told_in_the_units_of_the_labels(name):
    scaled = build(name, "classification", **PROBLEMS["numbers"])
    plain = build(name, "classification", problem_type="regression")
    plain.load_state_dict(scaled.state_dict())
    series, (mean, scale) = (
        series_of([20, 20]),
        (torch.tensor(PROBLEMS["numbers"][key]) for key in ("label_mean", "label_scale")),
    )
    values, labels = torch.from_numpy(np.stack(series)), torch.randn(2, 4) * scale + mean
    labels[1, 2] = torch.nan
    found, expected = (
        scaled(past_values=values, labels=labels),
        plain(past_values=values, labels=(labels - mean) / scale),
    )
    torch.testing.assert_close(found.logits, expected.logits * scale + mean)
    torch.testing.assert_close(found.loss, expected.loss)
    difference = torch.where(labels.isnan(), 0.0, expected.logits - ((labels - mean) / scale).nan_to_num())
    torch.testing.assert_close(expected.loss, difference.square().sum(1).mean())
    answer = scaled.predict(series)
    np.testing.assert_allclose(answer, found.logits.detach(), rtol=1e-4, atol=1e-4)
    assert scaled.predict(series[0]).shape == (4,)


@every_method
def test_raw_series_are_prepared_and_a_future_is_raw_again(name):
    raw = [values * 10 + 3 for values in series_of([24, 30])]
    for kind in ("classification", "prediction"):
        model = with_preparation(name, kind)
        prepared = model.preparation.transform(raw)
        expected = numbers_of(model.predict(prepared))
        np.testing.assert_array_equal(numbers_of(model.predict(raw)), expected)
        np.testing.assert_array_equal(numbers_of(model.predict(list(prepared), prepared=True)), expected)
        frame = pd.DataFrame(raw[0][:, ::-1], columns=["c", "b", "a"])
        np.testing.assert_allclose(numbers_of(model.predict(frame)), expected[0], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        future = model(past_values=torch.from_numpy(prepared[1])[None]).prediction_outputs
    np.testing.assert_allclose(expected[1], model.preparation.inverse_transform(future)[0], rtol=1e-4, atol=1e-4)


@every_method
def test_a_future_is_told_from_the_last_timestamps_of_the_training(name):
    model, (values,) = build(name, "prediction", prediction_context_length=12), series_of([40])
    answer = model.predict(values)
    assert answer.shape == (5, 3)
    np.testing.assert_array_equal(answer, model.predict(values[-12:]))
    np.testing.assert_allclose(answer, PREDICTORS[name].predict(values[-12:]), rtol=1e-4, atol=1e-5)
    assert model.predict(values[:1]).shape == (5, 3)


@every_method
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_answer_is_the_same_after_saving(name, problem, tmp_path):
    model, raw = with_preparation(name, "classification", **PROBLEMS[problem]), series_of([24, 30])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    found, expected = loaded.predict(raw), model.predict(raw)
    np.testing.assert_allclose(numbers_of(found), numbers_of(expected), rtol=1e-5, atol=1e-5)


@every_method
def test_a_future_is_the_same_after_saving(name, tmp_path):
    model, raw = with_preparation(name, "prediction", prediction_context_length=9), series_of([24, 30])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.predict(raw), model.predict(raw), rtol=1e-5, atol=1e-5)


@every_method
def test_training_goes_on_in_its_mode_and_asks_for_no_gradient(name):
    model, series = build(name, "classification").train(), series_of([20, 9])
    model.model.eval()
    first = model.predict(series).probabilities
    assert [model.training, model.head.training, model.model.training] == [True, True, False]
    np.testing.assert_array_equal(model.predict(series).probabilities, first)


@every_method
def test_no_series_no_answer(name):
    assert CLASSIFIERS[name].predict([]).probabilities.shape == (0, 4)
    assert PREDICTORS[name].predict([]).shape == (0, 5, 3)


@every_method
def test_what_predict_cannot_use_is_refused(name):
    model, series = CLASSIFIERS[name], series_of([20])
    with pytest.raises(TypeError, match=r"predict has no argument 'batchsize'. Did you mean 'batch_size'\?"):
        model.predict(series, batchsize=3)
    with pytest.raises(ValueError, match="batch_size=0 must be a whole number"):
        model.predict(series, batch_size=0)
    with pytest.raises(ValueError, match=r"expected \(time, 3\)"):
        model.predict([series[0][:, :2]])
    with pytest.raises(ValueError, match="label_scale is None"):
        build(name, "classification", label_mean=[0.0] * 4)


@every_method
def test_series_with_time_last_are_read_where_it_is_said(name):
    batch = np.stack(series_of([24, 24]))
    for model in (CLASSIFIERS[name], PREDICTORS[name]):
        expected = numbers_of(model.predict(batch))
        np.testing.assert_array_equal(numbers_of(model.predict(batch.transpose(0, 2, 1), layout="nct")), expected)


QUANTILES = [0.1, 0.5, 0.9]


def future_of(model, batch_size=6):
    values = torch.from_numpy(np.stack(series_of([24] * batch_size)))
    future = torch.randn(
        batch_size, 5, model.config.num_output_channels or 3, generator=torch.Generator().manual_seed(3)
    )
    future[0, 1, 0] = torch.nan
    return {"past_values": values, "future_values": future}


@every_method
@pytest.mark.parametrize("fields", [{}, {"num_output_channels": 2}, {"channel_mode": "joint"}], ids=str)
def test_quantiles_are_learnt_rise_and_have_the_median_as_the_point(name, fields):
    model = build(name, "prediction", quantiles=QUANTILES, **fields)
    inputs = future_of(model)
    output = model(**inputs)
    num_channels = model.config.num_output_channels or 3
    assert output.quantile_outputs.shape == (6, 5, num_channels, 3)
    assert (output.quantile_outputs.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(output.prediction_outputs, output.quantile_outputs[..., 1])
    if not model.config.scales_targets:
        errors = inputs["future_values"].unsqueeze(-1) - output.quantile_outputs
        levels = torch.tensor(QUANTILES)
        expected = torch.where(errors >= 0, levels * errors, (levels - 1) * errors).nanmean()
        torch.testing.assert_close(output.loss, expected)
    optimizer = torch.optim.Adam(model.head.parameters(), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    assert model(**inputs).loss < 0.95 * output.loss


@every_method
def test_without_quantiles_a_head_is_as_it_was(name):
    model, quantiles = PREDICTORS[name], build(name, "prediction", quantiles=[0.5])
    assert model.config.quantiles is None
    quantiles.load_state_dict(model.state_dict())  # the same layers and shapes
    inputs = future_of(model)
    plain, median = model(**inputs), quantiles(**inputs)
    assert plain.quantile_outputs is None
    torch.testing.assert_close(median.prediction_outputs, plain.prediction_outputs)
    if not model.config.scales_targets:
        errors = plain.prediction_outputs - inputs["future_values"]
        torch.testing.assert_close(plain.loss, errors.square().nanmean())
        torch.testing.assert_close(median.loss, errors.abs().nanmean() / 2)
    with pytest.raises(ValueError, match="predicts one number a value"):
        model.predict(series_of([20])[0], quantiles=True)


@every_method
def test_quantiles_are_told_in_raw_units_and_after_saving(name, tmp_path):
    import hf_tsrep

    model, raw = with_preparation(name, "prediction", quantiles=QUANTILES), series_of([24, 30])
    answer = model.predict(raw, quantiles=True)
    assert answer.shape == (2, 5, 3, 3)
    np.testing.assert_allclose(answer[..., 1], model.predict(raw), rtol=1e-5, atol=1e-5)
    prepared = torch.from_numpy(model.preparation.transform(raw)[0])[None]
    with torch.no_grad():
        outputs = model(past_values=prepared).quantile_outputs[0].numpy()
    statistics = (np.array([2.0, 0.5, 10.0])[:, None], np.array([1.0, -2.0, 30.0])[:, None])
    np.testing.assert_allclose(answer[0], outputs * statistics[0] + statistics[1], rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.predict(raw, quantiles=True), answer, rtol=1e-5, atol=1e-5)
    assert model.predict([], quantiles=True).shape == (0, 5, 3, 3)
    table = hf_tsrep.predict(model, raw)
    names = [f"channel_{index}{end}" for index in range(3) for end in ("", "_q0.1", "_q0.5", "_q0.9")]
    assert list(table.columns) == ["item_id", "step", *names]
    np.testing.assert_allclose(table["channel_2_q0.9"], answer[:, :, 2, 2].ravel(), rtol=1e-5)
    np.testing.assert_array_equal(table.channel_1, table["channel_1_q0.5"])


@pytest.mark.parametrize(
    "levels", [[], [0.1, 0.9], [0.5, 0.1], [0.5, 0.5], [0.0, 0.5], [0.5, 1.5], [0.5, float("nan")]]
)
def test_quantiles_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="quantiles is "):
        build(METHOD_NAMES[0], "prediction", quantiles=levels)
