import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from hf_tsrep.data import ChannelScaler, CorpusError, corpus_metadata, get_series, load_corpus


def test_the_scaler_agrees_with_scikit_learn_on_missing_values():
    values = np.random.default_rng(0).normal(3, 7, (50, 3))
    values[::7, 1] = np.nan
    theirs = StandardScaler().fit(values)
    ours = ChannelScaler.fit([values[:20], values[20:]])
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.transform(values), theirs.transform(values), rtol=1e-12)


def test_constant_and_empty_channels_have_scale_one(caplog):
    values = np.stack([np.full(9, 0.1), np.full(9, np.nan), np.arange(9.0)], axis=1)
    scaler = ChannelScaler.fit([values])
    assert scaler.scale[:2].tolist() == [1, 1]
    assert scaler.mean[1] == 0
    assert "Channel 1 has no observed value" in caplog.text


def test_the_global_scaler_has_one_mean_for_all_channels():
    values = np.array([[0.0, 10.0], [np.nan, 20.0]])
    scaler = ChannelScaler.fit([values], kind="global")
    np.testing.assert_allclose(scaler.mean, [10, 10])
    np.testing.assert_allclose(scaler.scale, np.std([0, 10, 20]))
    with pytest.raises(ValueError, match="robust"):
        ChannelScaler.fit([values], kind="robust")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=1, max_size=20))
def test_scaling_back_gives_the_values_again(rows):
    values = np.array(rows)
    scaler = ChannelScaler.from_dict(ChannelScaler.fit([values]).to_dict())
    scaled = scaler.transform(values)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaler.inverse_transform(scaled), values, rtol=1e-9, atol=1e-6)


def test_the_scaler_of_a_corpus_sees_the_training_part_only(hourly_frame):
    spoiled = hourly_frame.copy()
    spoiled.loc[70:, "load"] = 1e6
    stored = [
        corpus_metadata(load_corpus(frame, split="70/10/20", scaler="standard")).scaler
        for frame in (hourly_frame, spoiled)
    ]
    assert stored[0] == stored[1]
    corpus = load_corpus(hourly_frame, split="70/10/20", scaler="standard")
    np.testing.assert_allclose(get_series(corpus["train"])[0].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(get_series(corpus["train"])[0].std(axis=0), 1, atol=1e-5)
    scaler = ChannelScaler.from_dict(stored[0])
    raw = hourly_frame[["load", "OT"]].to_numpy()
    np.testing.assert_allclose(scaler.inverse_transform(get_series(corpus["test"])[0]), raw[80:], rtol=1e-5, atol=1e-5)


def test_an_unknown_scaler_or_a_missing_training_part_is_named(hourly_frame, tmp_path):
    with pytest.raises(CorpusError, match=r"Unknown scaler 'standart'.*Did you mean 'standard'"):
        load_corpus(hourly_frame, scaler="standart")
    np.savez(tmp_path / "t.npz", x_test=np.ones((2, 3)))
    with pytest.raises(CorpusError, match="no 'train' split"):
        load_corpus(tmp_path / "t.npz", scaler="standard")
