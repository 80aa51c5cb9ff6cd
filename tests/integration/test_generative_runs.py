"""A method that generates: one checkpoint of unlike corpora, futures of any length from files, and its fine-tuning."""

import numpy as np
import pandas as pd
import pytest
import torch
from machines import QUICK
from transformers import AutoModelForTimeSeriesPrediction, pipeline

import hf_tsrep
from hf_tsrep.errors import SettingsError

SIZES = {"context_length": 16, "token_length": 4, "pooling_rates": [2, 1], "hidden_size": 8, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2, "intermediate_size": 16, "max_train_length": 20, "window_stride": 7}
RUN = {**SIZES, **QUICK, "max_steps": 4, "per_device_train_batch_size": 8, "split": "70/10/20"}


def waves(path, channels, length=150):
    steps = np.arange(length)
    values = {f"c{index}": np.sin(steps * 0.3 / (index + 1)) * 10 + 50 * index for index in range(channels)}
    pd.DataFrame({"date": pd.date_range("2026-01-01", periods=length, freq="h"), **values}).to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two tables, of two channels and of three."""
    place = tmp_path_factory.mktemp("tables")
    return [waves(place / "two.csv", 2), waves(place / "three.csv", 3)]


@pytest.fixture(scope="module")
def pretrained(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "mixture"
    return hf_tsrep.pretrain("gpht", tables, folder, **RUN)


def test_every_channel_of_unlike_corpora_is_a_sample(pretrained, tables):
    config = pretrained.model.config
    assert config.accepts_any_channels
    record = hf_tsrep.training.saving.read_training_record(str(pretrained.output_dir))
    assert record["facts"]["num_series"] == 5
    windows = len(range(0, 105 - 20 + 1, 7))  # of the training part
    assert record["facts"]["num_training_items"] == 5 * windows
    assert "validation_loss" in str(pretrained.history)
    assert "any number of input channels" in (pretrained.output_dir / "README.md").read_text()
    with pytest.raises(ValueError, match=r"three.csv has 3 channels, but two.csv has 2.*accepts_any_channels=true"):
        hf_tsrep.pretrain("gpht", tables, pretrained.output_dir.parent / "x", **RUN, accepts_any_channels=False)
    with pytest.raises(SettingsError, match="time_features"):
        hf_tsrep.pretrain("gpht", tables, pretrained.output_dir.parent / "x", **RUN, time_features=True)


def test_any_horizon_is_told_of_any_file(pretrained, tables, tmp_path, command_line):
    for path, channels in zip(tables, (2, 3), strict=True):
        words = ("--model", pretrained.output_dir, "--input", path, "--output", tmp_path / "future.csv")
        code, out, err = command_line("predict", *words, "--horizon", 9)
        assert code == 0, err
        assert "9 steps, the next 9 of 1 series" in out
        found = pd.read_csv(tmp_path / "future.csv")
        assert found["timestamp"].iloc[-1].startswith("2026-01-07 14")
        values = pd.read_csv(path).iloc[:, 1:].to_numpy(np.float32)
        model = AutoModelForTimeSeriesPrediction.from_pretrained(pretrained.output_dir)
        expected = model.generate(torch.from_numpy(values)[None], 9)[0]
        np.testing.assert_allclose(found.iloc[:, -channels:], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(model.predict(values, prediction_length=9), expected, rtol=1e-4, atol=1e-3)
        told = pipeline("time-series-forecasting", str(pretrained.output_dir))(values, prediction_length=9)
        np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-3)
    assert model.predict([values, values[:30]], prediction_length=30).shape == (2, 30, 3)
    assert model.predict([], prediction_length=7).shape[1] == 7
    assert model.encode([values, values[:30]]).shape == (2, 16)
    with pytest.raises(ValueError, match=r"series 1 has shape \(150, 2\); expected \(time, 3\)"):
        model.predict([values, values[:, :2]])


def test_a_horizon_that_cannot_be_told_is_refused(pretrained, tables):
    model = AutoModelForTimeSeriesPrediction.from_pretrained(pretrained.output_dir)
    values = np.zeros((20, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="prediction_length=0 must be a whole number"):
        model.predict(values, prediction_length=0)
    with pytest.raises(ValueError, match=r"3 timestamps, fewer than a token"):
        model.predict(values[:3], prediction_length=5)
    config = hf_tsrep.TS2VecConfig(embedding_size=4, hidden_size=4, num_hidden_layers=1, num_input_channels=2)
    other = hf_tsrep.TS2VecForTimeSeriesPrediction(config)
    with pytest.raises(ValueError, match=r"prediction_length=5: the head .* predicts 24 timestamps at once"):
        other.predict(values, prediction_length=5)
    assert other.predict(values, prediction_length=24).shape == (24, 2)
    with pytest.raises(ValueError, match="tells no future"):
        hf_tsrep.predict(hf_tsrep.TS2VecForTimeSeriesClassification(config), values, prediction_length=5)


def test_a_fine_tuning_goes_on_with_the_head_and_trains_the_forecasts_alone(pretrained, tables, tmp_path):
    fields = {"task": "forecasting", "num_train_epochs": 1, "context_length": 16, "prediction_length": 4, "stride": 9}
    fields |= {**QUICK, "split": "70/10/20", "learning_rate": 1e-6}
    result = hf_tsrep.finetune(str(pretrained.output_dir), tables[1], tmp_path / "tuned", **fields)
    before, after = pretrained.model.state_dict(), result.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {
        f"{part}.projection.{kind}" for part in ("head", "model.forecasts.0") for kind in ("weight", "bias")
    }
    torch.testing.assert_close(after["head.projection.weight"], before["head.projection.weight"], rtol=0, atol=1e-3)
    assert result.model.config.forecast_loss == "tokens"
    assert result.model.predict(np.ones((20, 3)), prediction_length=30).shape == (30, 3)
    for wrong in ("no_such_part", "("):
        with pytest.raises(SettingsError, match="trainable="):
            hf_tsrep.finetune(pretrained.model, tables[1], tmp_path / "x", trainable=wrong, **fields)
