import numpy as np
import pandas as pd
import pytest
import torch

from hf_tsrep import StreamingEncoder, TimeSeriesFeatureExtractor, TS2VecConfig, TS2VecModel


def small_model(num_channels=2, **preparation):
    torch.manual_seed(0)
    time_features = preparation.get("time_features", False)
    config = TS2VecConfig(
        num_input_channels=num_channels + 7 * time_features, hidden_size=8, embedding_size=6, num_hidden_layers=3
    )
    model = TS2VecModel(config).eval()
    if preparation:
        model.preparation = TimeSeriesFeatureExtractor(num_channels, **preparation)
    return model


@pytest.fixture
def series():
    values = np.random.default_rng(0).normal(50.0, 10.0, size=(30, 2))
    values[7] = np.nan
    values[12, 1] = np.nan
    return values


CAUSAL = {"level": "timestamp", "window_length": 9, "causal": True}


def test_steps_are_raw_and_prepared_as_encode_prepares_them(series, tmp_path):
    model = small_model(mean=[50.0, 50.0], scale=[10.0, 10.0])
    expected = model.encode(series, **CAUSAL)
    model.save_pretrained(tmp_path / "model")
    for source in (model, tmp_path / "model", str(tmp_path / "model")):
        stream = StreamingEncoder(source, 9)
        found = np.stack([stream.push(step) for step in series])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_prepared_steps_are_taken_as_they_are(series):
    model = small_model(mean=[50.0, 50.0], scale=[10.0, 10.0])
    stream = StreamingEncoder(model, 9, prepared=True)
    np.testing.assert_allclose(
        stream.push_many(series), model.encode(series, prepared=True, **CAUSAL), rtol=1e-5, atol=2e-6
    )


def test_steps_and_pieces_may_follow_each_other_and_a_reset_begins_anew(series):
    model = small_model()
    expected, stream = model.encode(series, normalize=True, **CAUSAL), StreamingEncoder(model, 9, normalize=True)
    for _ in range(2):
        found = [stream.push_many(series[:5]), stream.push(series[5])[None], stream.push_many(series[6:])]
        np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-5, atol=2e-6)
        stream.reset()


def test_dates_become_calendar_features(series):
    model = small_model(time_features=True)
    dates = pd.date_range("2024-02-28 22:00", periods=30, freq="h")
    expected, stream = model.encode(series, timestamps=dates, **CAUSAL), StreamingEncoder(model, 9)
    found = [stream.push(step, date) for step, date in zip(series[:10], dates[:10], strict=True)]
    found += list(stream.push_many(pd.DataFrame(series[10:], index=dates[10:])))
    np.testing.assert_allclose(np.stack(found), expected, rtol=1e-5, atol=2e-6)
    with pytest.raises(ValueError, match="has no timestamps, which its time features need"):
        stream.push(series[0])


def test_a_refused_step_has_not_come(series):
    model = small_model()
    expected, stream = model.encode(series, **CAUSAL), StreamingEncoder(model, 9)
    stream.push_many(series[:20])
    for wrong, message in (
        ([1.0, 2.0, 3.0], r"expected \(time, 2\)"),
        ([1.0, np.inf], "infinite"),
        (["a", 1], "text"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.push(wrong)
    with pytest.raises(ValueError, match="nothing reads them"):
        stream.push(series[20], "2024-01-01")
    np.testing.assert_allclose(stream.push(series[20]), expected[20], rtol=1e-5, atol=2e-6)


def test_one_channel_takes_numbers_and_square_pieces_are_steps_by_channels():
    model, values = small_model(1), np.arange(12.0)
    stream = StreamingEncoder(model, 9)
    found = np.stack([stream.push(value) for value in values])
    np.testing.assert_allclose(found, model.encode(values, **CAUSAL), rtol=1e-5, atol=2e-6)
    pair, square = small_model(2), np.arange(4.0).reshape(2, 2)
    together, one_by_one = StreamingEncoder(pair, 9), StreamingEncoder(pair, 9)
    expected = np.stack([one_by_one.push(step) for step in square])
    np.testing.assert_allclose(together.push_many(square), expected, rtol=1e-5, atol=2e-6)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        StreamingEncoder(tmp_path, 9)
    with pytest.raises(ValueError, match="no encoder of time series"):
        StreamingEncoder(torch.nn.Linear(1, 1), 9)
    with pytest.raises(TypeError, match="has no argument 'windows'"):
        StreamingEncoder(small_model(), 9, windows=3)


def test_a_channel_that_falls_silent_is_named_once_until_it_speaks_again(series, caplog):
    model = small_model(channel_names=["load", "oil"])
    stream = StreamingEncoder(model, 4)
    silent = series[13:].copy()
    silent[2:7, 1] = np.nan
    silent[11:, 1] = np.nan

    def told(steps):
        caplog.clear()
        for step in steps:
            stream.push(step)
        return [record.getMessage() for record in caplog.records]

    assert told(silent[:5]) == []
    assert told(silent[5:6]) == ["No value in the last 4 steps of channel 1 ('oil')."]
    assert told(silent[6:14]) == []
    assert len(told(silent[14:])) == 1
    stream.reset()
    assert told(silent[:5]) == []
    caplog.clear()
    stream.push_many(np.full((4, 2), np.nan))
    assert (
        caplog.records[0].getMessage().endswith("TS2VecModel reads nothing of them: its embeddings say nothing now.")
    )
