"""What `impute` promises, for the pre-training model of every method."""

import numpy as np
import pandas as pd
import pytest
import torch
from contract_support import METHOD_NAMES, build

import hf_tsrep
from hf_tsrep import TimeSeriesFeatureExtractor, get_method
from hf_tsrep.modeling.modeling_time_series import TimeSeriesPreTrainedModel

MODELS = {name: build(name, "pretraining") for name in METHOD_NAMES}
ABLE = [name for name in METHOD_NAMES if get_method(name).config_class.reconstructs]
every_able_method = pytest.mark.parametrize("name", ABLE)


def series_of(lengths, missing=0.3, seed=0):
    generator = np.random.default_rng(seed)
    series = [generator.standard_normal((length, 3)).astype(np.float32) for length in lengths]
    for values in series:
        values[generator.random(values.shape) < missing] = np.nan
        values[0, 0] = 0.5
    return series


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_capability_is_what_the_config_says(name):
    own = type(MODELS[name]).reconstruct_series is not TimeSeriesPreTrainedModel.reconstruct_series
    assert own == get_method(name).config_class.reconstructs
    encoder = build(name, "model")
    with pytest.raises(ValueError, match="cannot reconstruct series"):
        encoder.reconstruct_series(torch.zeros(1, 4, 3))


@pytest.mark.parametrize("name", [name for name in METHOD_NAMES if name not in ABLE])
def test_other_methods_refuse_by_the_name_of_the_capability(name):
    with pytest.raises(ValueError, match=rf"is a {name}, .*config\.reconstructs.* Methods that do: {', '.join(ABLE)}"):
        hf_tsrep.impute(MODELS[name], series_of([20]))


@every_able_method
def test_gaps_are_filled_and_what_was_observed_stays(name):
    series = series_of([20, 50, 7, 20])
    found = hf_tsrep.impute(MODELS[name], series, batch_size=3)
    for one, values in zip(found, series, strict=True):
        missing = np.isnan(values)
        assert np.isfinite(one.values).all()
        np.testing.assert_array_equal(one.is_filled, missing)
        np.testing.assert_array_equal(one.values[~missing], values[~missing])
        alone = hf_tsrep.impute(MODELS[name], values)
        np.testing.assert_allclose(one.values, alone.values, rtol=1e-4, atol=1e-4)
    assert found[0].provenance["method"] == name


@every_able_method
def test_what_stands_in_a_gap_tells_nothing(name):
    model, (values,) = MODELS[name], series_of([16])
    told = torch.from_numpy(values)[None]
    observed = ~told.isnan()
    with torch.inference_mode():
        expected = model.reconstruct_series(told)
        found = model.reconstruct_series(torch.where(observed, told, 77.0), observed)
    torch.testing.assert_close(found, expected)
    assert expected.shape == told.shape


@every_able_method
def test_series_are_filled_in_their_own_units(name):
    model = build(name, "pretraining")
    plain = build(name, "pretraining")
    mean, scale = np.array([1.0, -2.0, 30.0]), np.array([2.0, 0.5, 10.0])
    model.preparation = TimeSeriesFeatureExtractor(
        num_channels=3, channel_names=["a", "b", "c"], mean=mean.tolist(), scale=scale.tolist()
    )
    (values,) = series_of([20])
    raw = (values * scale + mean).astype(np.float32)
    expected = hf_tsrep.impute(plain, values).values * scale + mean
    for holder in (raw, pd.DataFrame(raw[:, ::-1], columns=["c", "b", "a"])):
        found = hf_tsrep.impute(model, holder)
        np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(found.values[~found.is_filled], raw[~np.isnan(raw)])


@every_able_method
def test_ends_and_whole_timestamps_without_a_value_are_filled(name):
    (values,) = series_of([40], missing=0.0)
    values[:5] = values[20:29] = values[-6:] = np.nan
    values[:, 2] = np.nan
    found = hf_tsrep.impute(MODELS[name], values)
    assert np.isfinite(found.values).all()


@every_able_method
def test_a_channel_without_any_value_is_named_and_hides_no_other(name, caplog):
    model, series = MODELS[name], series_of([40] * 3, missing=0.0)
    for values in series:
        values[:, 2] = np.nan
    found = hf_tsrep.impute(model, series)
    assert "channel 2 has no value in 3 of 3 series" in caplog.text
    assert all(np.isfinite(one.values).all() for one in found)
    told = model.reconstruct_series(torch.from_numpy(np.stack(series)))
    assert np.ptp(told.detach()[..., :2].numpy(), axis=0).max() > 1e-3


@every_able_method
def test_a_folder_is_opened_and_one_without_the_pretext_layers_refused(name, tmp_path):
    (values,) = series_of([20])
    MODELS[name].save_pretrained(tmp_path / "whole")
    found = hf_tsrep.impute(tmp_path / "whole", values)
    np.testing.assert_allclose(found.values, hf_tsrep.impute(MODELS[name], values).values, rtol=1e-4, atol=1e-4)
    build(name, "classification").save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="saved without the layers of its pretext task"):
        hf_tsrep.impute(str(tmp_path / "head"), values)


@every_able_method
def test_wrong_settings_are_named(name):
    with pytest.raises(ValueError, match="window_length=0 must be at least 1"):
        hf_tsrep.impute(MODELS[name], series_of([20]), window_length=0)
    with pytest.raises(ValueError, match="series 1 has no value"):
        hf_tsrep.impute(MODELS[name], [*series_of([20]), np.full((9, 3), np.nan, np.float32)])
