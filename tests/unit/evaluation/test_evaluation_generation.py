"""The protocol of futures that a model tells by itself: which windows, which errors, beside trivial forecasts."""

import numpy as np
import pandas as pd
import pytest
import torch

from hf_tsrep import GPHTConfig, GPHTForPreTraining, TS2VecConfig, TS2VecModel
from hf_tsrep.data import get_series, load_corpus
from hf_tsrep.evaluation.generation import evaluate_generation, last_season, last_value

SETTINGS = {"horizons": (6, 10), "context_length": 8, "season": 4}


@pytest.fixture(scope="module")
def corpus():
    values = np.random.default_rng(0).normal(size=(200, 2)).cumsum(0)
    values[190, 1] = np.nan
    frame = pd.DataFrame(values, columns=["a", "b"], index=pd.date_range("2026-01-01", periods=200, freq="h"))
    return load_corpus(frame, split="70/10/20", scaler="standard")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"context_length": 8, "token_length": 4, "pooling_rates": [2, 1], "hidden_size": 8}
    config = GPHTConfig(num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_input_channels=2, **sizes)
    return GPHTForPreTraining(config)


def test_errors_are_of_every_window_whose_future_lies_in_the_split(model, corpus):
    outcome = evaluate_generation(model, corpus, **SETTINGS, batch_size=7)
    series = np.concatenate([get_series(corpus[name])[0] for name in ("train", "validation", "test")])
    begin = len(series) - len(get_series(corpus["test"])[0])
    for horizon in SETTINGS["horizons"]:
        starts = range(begin, len(series) - horizon + 1)
        past = np.stack([series[start - 8 : start] for start in starts]).astype(np.float32)
        future = np.stack([series[start : start + horizon] for start in starts])
        told = model.generate(torch.from_numpy(past), horizon).numpy()
        forecasts = {"model": told, "last_value": last_value(past, horizon), "seasonal": last_season(past, horizon, 4)}
        assert outcome["details"]["num_windows"][str(horizon)] == len(starts)
        for name, forecast in forecasts.items():
            found = outcome["metrics"] if name == "model" else outcome["details"]["trivial"][name]
            assert found[f"mse_{horizon}"] == pytest.approx(np.nanmean((forecast - future) ** 2), rel=1e-5)
            assert found[f"mae_{horizon}"] == pytest.approx(np.nanmean(np.abs(forecast - future)), rel=1e-5)
    assert outcome["metrics"]["mse"] == pytest.approx((outcome["metrics"]["mse_6"] + outcome["metrics"]["mse_10"]) / 2)


def test_trivial_forecasts_repeat():
    past = np.arange(6.0).reshape(1, 6, 1)
    assert last_value(past, 3).ravel().tolist() == [5, 5, 5]
    assert last_season(past, 5, 2).ravel().tolist() == [4, 5, 4, 5, 4]
    assert last_season(past, 7, 99).ravel().tolist() == [0, 1, 2, 3, 4, 5, 0]


def test_an_encoder_is_opened_again_with_its_head(model, corpus, tmp_path):
    model.save_pretrained(tmp_path)
    encoder = type(model.model).from_pretrained(tmp_path)
    assert evaluate_generation(encoder, corpus, **SETTINGS)["metrics"] == pytest.approx(
        evaluate_generation(model, corpus, **SETTINGS)["metrics"], rel=1e-5
    )


def test_what_cannot_be_measured_is_refused(model, corpus):
    with pytest.raises(ValueError, match="TS2VecModel tells no future by itself"):
        evaluate_generation(TS2VecModel(TS2VecConfig(hidden_size=4, embedding_size=4, num_input_channels=2)), corpus)
    with pytest.raises(ValueError, match="No window of 8 steps with 100 after it fits"):
        evaluate_generation(model, corpus, **{**SETTINGS, "horizons": (100,)})
    with pytest.raises(ValueError, match="split='train' is unknown"):
        evaluate_generation(model, corpus, split="train")
    with pytest.raises(ValueError, match="must be positive"):
        evaluate_generation(model, corpus, horizons=(0,))
