"""TimeSeriesFeatureExtractor: raw series in, scaled and padded model inputs out."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from transformers import AutoFeatureExtractor

import hf_tsrep  # noqa: F401  (registers the Auto classes)
from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor, calendar_features

MEAN, SCALE = [1.0, -2.0], [2.0, 0.5]


@pytest.fixture
def series():
    return np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)


@pytest.fixture
def extractor():
    return TimeSeriesFeatureExtractor(2, mean=MEAN, scale=SCALE, channel_names=["load", "oil"])


@pytest.fixture
def dated():
    return TimeSeriesFeatureExtractor(
        2,
        mean=MEAN,
        scale=SCALE,
        time_features=True,
        time_feature_mean=range(7),
        time_feature_scale=range(1, 8),
        frequency="h",
    )


def test_the_extractor_standardises_with_the_stored_statistics(extractor, series):
    (scaled,) = extractor.transform(series)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, (series - MEAN) / SCALE, rtol=1e-6)
    np.testing.assert_allclose(extractor.inverse_transform(scaled), series, atol=1e-6)
    restored = extractor.inverse_transform([torch.from_numpy(scaled)])
    assert isinstance(restored[0], torch.Tensor)
    np.testing.assert_allclose(restored[0], series, atol=1e-6)


def test_without_statistics_values_are_as_they_were(series):
    np.testing.assert_array_equal(TimeSeriesFeatureExtractor(2).transform(series)[0], series)


def test_ragged_series_are_padded_with_missing_values(extractor, series):
    short = series[:4].copy()
    short[1, 0] = np.nan
    batch = extractor([series, short], return_tensors="pt")
    assert batch["past_values"].shape == (2, 9, 2)
    assert batch["past_observed_mask"].dtype == torch.bool
    assert batch["past_values"][1, 4:].isnan().all()
    assert not batch["past_observed_mask"][1, 4:].any()
    assert not batch["past_observed_mask"][1, 1, 0]
    assert batch["past_observed_mask"].sum() == 18 + 7
    np.testing.assert_allclose(batch["past_values"][0], extractor.transform(series)[0])


@pytest.mark.parametrize(
    "hold",
    [
        lambda series: series,
        lambda series: torch.from_numpy(series),
        lambda series: series[None],
        lambda series: [torch.from_numpy(series)],
        lambda series: pd.DataFrame(series[:, ::-1], columns=["oil", "load"]),
        lambda series: pd.DataFrame({"text": ["a"] * 9, "load": series[:, 0], "oil": series[:, 1]}),
        lambda series: [pl.DataFrame({"oil": series[:, 1], "load": series[:, 0]})],
        lambda series: pd.DataFrame(series, columns=["load", "oil"]).astype("Float32"),
    ],
)
def test_every_holder_of_one_series_gives_the_same(extractor, series, hold):
    results = extractor.transform(hold(series))
    assert len(results) == 1
    np.testing.assert_allclose(results[0], (series - MEAN) / SCALE, rtol=1e-6)


def test_one_channel_needs_no_channel_axis():
    extractor = TimeSeriesFeatureExtractor(1, mean=[2.0], scale=[4.0])
    np.testing.assert_array_equal(extractor.transform([2.0, 6.0])[0], [[0.0], [1.0]])
    assert [len(one) for one in extractor.transform([np.zeros(3), np.zeros(5)])] == [3, 5]


def test_calendar_features_are_those_of_the_corpora():
    from hf_tsrep.data import time_features

    timestamps = np.concatenate(
        [
            pd.date_range("1969-12-28", periods=900, freq="7h"),
            pd.date_range("2015-12-25", periods=4000, freq="31h13min"),
        ]
    ).astype("datetime64[ms]")
    np.testing.assert_array_equal(calendar_features(timestamps), time_features(timestamps))


def test_time_features_come_before_the_channels(dated, series):
    index = pd.date_range("2020-02-27", periods=9, freq="h")
    expected = (calendar_features(index.to_numpy()) - np.arange(7)) / np.arange(1, 8)
    (scaled,) = dated.transform(series, index)
    assert scaled.shape == (9, 9)
    assert dated.num_input_channels == 9
    assert dated.input_channel_names[:2] == ["minute", "hour"]
    np.testing.assert_allclose(scaled[:, :7], expected, rtol=1e-6)
    np.testing.assert_allclose(scaled[:, 7:], (series - MEAN) / SCALE, rtol=1e-6)
    np.testing.assert_allclose(dated.inverse_transform(scaled), series, atol=1e-6)
    for same in (
        dated.transform(series, [str(date) for date in index]),
        dated.transform(series, index.to_series()),
        dated.transform(series, index.tz_localize("UTC")),
        dated.transform(pd.DataFrame(series, index=index)),
        dated.transform(pd.DataFrame({"a": series[:, 0], "when": index, "b": series[:, 1]})),
        dated.transform([series], [index.to_pydatetime().tolist()]),
        dated.transform(series[None], index.to_numpy()[None]),
    ):
        np.testing.assert_array_equal(same[0], scaled)
    first, second = dated.transform([series, series[:4]], [index, index[:4]])
    np.testing.assert_array_equal(second, first[:4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.T, r"\(2, 9\).*2 channels: load, oil.*Transpose"),
        (lambda values: values[:, :1], r"\(9, 1\).*2 channels: load, oil"),
        (lambda values: [values, values[:0]], "series 1 has no timestamps"),
        (lambda values: np.where(values == values[3, 1], np.inf, values), "infinite at timestamp 3, channel 1"),
        (lambda values: [["a", "b"]], "does not hold numbers"),
        (lambda values: pd.DataFrame(values, columns=["load", "gas"]), "lacks oil.*load, gas.*expected 2 channels"),
        (lambda values: pd.DataFrame({"load": ["x"] * 9, "oil": 1.0}), "column 'load' holds str, not numbers"),
        (lambda values: {"series": values}, r"dataset\['series'\]"),
    ],
)
def test_bad_series_are_named(extractor, series, change, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        extractor.transform(change(series))


@pytest.mark.parametrize(
    ("timestamps", "message"),
    [
        (None, "series 0 has no timestamps"),
        (np.arange(9), "plain numbers"),
        (["yesterday"] * 9, "are not dates"),
        (pd.date_range("2020", periods=8), "9 steps, but timestamps of shape"),
        (pd.date_range("2020", periods=9).where(np.arange(9) > 0), "no date at step 0"),
        ([pd.date_range("2020", periods=9)] * 2, "timestamps of 2 series, but 1 series"),
    ],
)
def test_bad_timestamps_are_named(dated, series, timestamps, message):
    with pytest.raises(ValueError, match=message):
        dated.transform(series, timestamps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [1.0]}, "mean has 1 numbers; 2"),
        ({"scale": [1.0, 0.0]}, "scale .* zero"),
        ({"mean": [1.0, np.nan]}, "mean .* finite"),
        ({"channel_names": ["a"]}, "1 names, but num_channels is 2"),
        ({"time_feature_mean": [0.0] * 7}, "need time_features=True"),
    ],
)
def test_contradicting_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeSeriesFeatureExtractor(2, **arguments)


def test_the_extractor_saves_its_numbers_and_its_code(dated, series, tmp_path):
    dated.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["mean"] == MEAN
    assert stored["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_time_series.TimeSeriesFeatureExtractor"}
    assert (tmp_path / "feature_extraction_time_series.py").is_file()
    reloaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(reloaded) is TimeSeriesFeatureExtractor
    index = pd.date_range("2020", periods=9)
    np.testing.assert_array_equal(reloaded.transform(series, index)[0], dated.transform(series, index)[0])
    assert reloaded.to_dict() == {**dated.to_dict(), "auto_map": stored["auto_map"]}


def test_raw_series_are_prepared_as_the_training_corpus_was(tmp_path):
    from hf_tsrep.data import corpus_metadata, get_series, load_corpus
    from hf_tsrep.hub import feature_extractor_of_corpus

    generator = np.random.default_rng(3)
    frame = pd.DataFrame({"date": pd.date_range("2021-05-03", periods=400, freq="h")})
    frame["load"], frame["oil"] = generator.normal(5.0, 3.0, 400), generator.normal(1e4, 7.0, 400)
    frame.loc[11, "oil"] = np.nan
    frame.to_csv(tmp_path / "raw.csv", index=False)
    corpus = load_corpus(tmp_path / "raw.csv", scaler="standard", time_features=True)
    extractor = feature_extractor_of_corpus(corpus_metadata(corpus))
    (expected,) = get_series(corpus["train"])
    (prepared,) = extractor.transform(frame)
    np.testing.assert_allclose(prepared, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(extractor.inverse_transform(prepared)[:, 0], frame["load"], rtol=1e-5, atol=1e-5)
    raw = load_corpus(tmp_path / "raw.csv", scaler=None)["train"]
    (of_rows,) = extractor.transform(raw["series"], raw["timestamp"])
    np.testing.assert_allclose(of_rows, prepared, atol=1e-3)  # the rows of a corpus are float32
