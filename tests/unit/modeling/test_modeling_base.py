"""What all models have in common: which timestamps count as observed, and files of weights that cannot be read."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from hf_tsrep import get_method, list_methods
from hf_tsrep.modeling import encoding_time_series
from hf_tsrep.modeling.reading_time_series import is_one_series, read_series

every_method = pytest.mark.parametrize("name", list_methods())


def build(name):
    method = get_method(name)
    torch.manual_seed(0)
    model = method.model_class(method.config_class(**method.tiny_config)).eval()
    if method.tokenizer_class is None:
        return model
    return model.set_tokenizer(method.tokenizer_class(domains=[dict(one) for one in method.tiny_tokenizer]))


def warnings_of(model, series, monkeypatch):
    said = []
    monkeypatch.setattr(encoding_time_series.logger, "warning", said.append)
    model.encode(series)
    return said


@every_method
def test_only_a_series_that_says_nothing_is_warned_of(name, monkeypatch):
    model = build(name)
    whole = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    partly, empty = whole.copy(), np.full_like(whole, np.nan)
    partly[:, 1] = np.nan
    assert not warnings_of(model, [whole], monkeypatch)
    (said,) = warnings_of(model, [whole, empty], monkeypatch)
    assert "1 series have no timestamp" in said
    assert "the first is series 1" in said
    says_something = not np.allclose(model.encode(partly), model.encode(empty))
    said = warnings_of(model, [whole, partly], monkeypatch)
    assert bool(said) == (not says_something) == (name == "ts2vec")


@every_method
def test_windows_are_pooled_over_what_the_method_reads(name):
    model = build(name)
    series = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    series[:, 1] = np.nan
    by_window = model.encode(series, window_length=5, causal=True, pooling="mean")
    assert bool(by_window.any()) == (name != "ts2vec")


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
