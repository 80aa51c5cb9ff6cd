"""What all models have in common: which timestamps count as observed, and files of weights that cannot be read."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from hf_tsrep import TimeSeriesFeatureExtractor, get_method, list_methods
from hf_tsrep.modeling import batching_time_series
from hf_tsrep.modeling.reading_time_series import is_one_series, read_series

every_method = pytest.mark.parametrize("name", list_methods())


def build(name, **fields):
    method = get_method(name)
    torch.manual_seed(0)
    model = method.model_class(method.config_class(**{**method.tiny_config, **fields})).eval()
    if method.tokenizer_class is None:
        return model
    return model.set_tokenizer(method.tokenizer_class(domains=[dict(one) for one in method.tiny_tokenizer]))


def warnings_of(model, series, monkeypatch):
    said = []
    monkeypatch.setattr(batching_time_series.logger, "warning", said.append)
    model.encode(series)
    return said


@every_method
def test_a_series_without_values_and_a_channel_without_them_are_named(name, monkeypatch):
    model = build(name)
    whole = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    partly, empty = whole.copy(), np.full_like(whole, np.nan)
    partly[:, 1] = np.nan
    partly[3, 0] = np.nan
    assert not warnings_of(model, [whole], monkeypatch)
    (said,) = warnings_of(model, [whole, empty], monkeypatch)
    assert "channel 2 has no value in 1 of 2 series (the first is series 1)" in said
    assert "reads no timestamp of 1 of 2 series (the first is series 1)" in said
    assert warnings_of(model, [whole, partly], monkeypatch) == [
        "channel 1 has no value in 1 of 2 series (the first is series 1)."
    ]
    model.preparation = TimeSeriesFeatureExtractor(num_channels=3, channel_names=["flow", "heat", "load"])
    (said,) = warnings_of(model, partly, monkeypatch)
    assert said == "channel 1 ('heat') has no value in the series."


@every_method
def test_a_dead_channel_silences_no_other(name):
    """One sensor without a value leaves what the others say, at every level and in a head."""
    model, generator = build(name), np.random.default_rng(0)
    one, other = (generator.normal(size=(20, 3)).astype(np.float32) for _ in range(2))
    for series in (one, other):
        series[:, 1] = np.nan
    for arguments in ({}, {"level": "timestamp"}, {"window_length": 5, "causal": True, "pooling": "mean"}):
        found = [model.encode(series, **arguments) for series in (one, other)]
        assert np.isfinite(found).all()
        assert np.abs(found[0] - found[1]).max() > 1e-3


def test_where_a_missing_channel_takes_its_timestamp_the_warning_says_that_nothing_is_read(monkeypatch):
    model = build("ts2vec", missing_values="timestamp")
    series = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    series[:, 1] = np.nan
    (said,) = warnings_of(model, series, monkeypatch)
    assert said == (
        "channel 1 has no value in the series; TS2VecModel reads no timestamp of the series, so that what it says "
        "does not depend on it."
    )
    for arguments in ({}, {"window_length": 5, "causal": True, "pooling": "mean"}):
        assert not model.encode(series, **arguments).any()


@every_method
def test_a_cut_file_of_weights_is_named(name, tmp_path):
    build(name).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"model/model\.safetensors cannot be read as safetensors .*again"):
        AutoModel.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model/model\.safetensors cannot be read as safetensors .*again"):
        AutoModel.from_pretrained(tmp_path, subfolder="model")


RAGGED = np.array([np.zeros((2, 1)), np.zeros((3, 1)), None], dtype=object)[:2]


@pytest.mark.parametrize(
    ("series", "num_channels", "lengths"),
    [
        ([1.0, None, 3.0], None, [3]),
        (np.array([1.0, None, 3.0], dtype=object), None, [3]),
        (torch.zeros(3, dtype=torch.bfloat16), None, [3]),
        (torch.zeros(2, 3, 1), None, [3, 3]),
        (RAGGED, None, [2, 3]),
        ([[1.0], [2.0]], None, [1, 1]),  # a list of lists is a batch, unless the channels are told
        ([[1.0], [2.0]], 1, [2]),
        ([[1.0, 2.0], [3.0]], 1, [2, 1]),
        ([], 1, []),
    ],
)
def test_one_series_and_batches_are_told_apart(series, num_channels, lengths):
    is_one = is_one_series(series, num_channels)
    read = list(read_series(series, 1, is_one))
    assert [len(one) for one in read] == lengths
    assert {one.dtype for one in read} <= {np.dtype("float32")}
    assert is_one == (len(lengths) == 1)
