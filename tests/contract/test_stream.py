"""A series that is embedded as it comes has the embeddings of the causal batch, for every method."""

import numpy as np
import pytest
import torch
from contract_support import METHOD_NAMES, build
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.modeling.streaming_time_series import WindowStream

every_method = pytest.mark.parametrize("name", METHOD_NAMES)
MODELS = {name: build(name, "model") for name in METHOD_NAMES}


def series_with_gaps(length, before, gap, after, missing, seed):
    """Random series that begins with missing steps, has a gap, ends with missing steps, and lacks single values."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((length, 3)).astype(np.float32)
    values[generator.random(values.shape) < missing] = np.nan
    values[:before] = np.nan
    values[length // 2 : length // 2 + gap] = np.nan
    values[length - after :] = np.nan
    return values


def in_pieces(stream, values, sizes):
    """Push a series in pieces of these sizes, over and over."""
    found, start, turn = [], 0, 0
    while start < len(values):
        size = sizes[turn % len(sizes)]
        found.append(stream.push(torch.from_numpy(values[start : start + size])))
        start, turn = start + size, turn + 1
    return torch.cat(found).numpy()


@every_method
@given(
    window_length=st.integers(1, 40),
    length=st.integers(1, 70),
    before=st.integers(0, 6),
    gap=st.integers(0, 45),
    after=st.integers(0, 6),
    missing=st.sampled_from([0.0, 0.0, 0.2]),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
@torch.inference_mode()
def test_a_stream_has_the_embeddings_of_the_causal_batch(
    name, window_length, length, before, gap, after, missing, sizes, seed
):
    model = MODELS[name]
    values = series_with_gaps(length, before, gap, after, missing, seed)
    arguments = {"level": "timestamp", "causal": True, "prepared": True, "layout": "ntc"}  # also of three steps
    expected = model.encode(values, window_length=window_length, **arguments)
    stream = model.stream(window_length)
    for _ in range(2):
        np.testing.assert_allclose(in_pieces(stream, values, sizes), expected, rtol=1e-5, atol=2e-6)
        stream.reset()


@every_method
def test_a_gap_at_the_end_is_no_knowledge_of_the_future(name):
    """Whether later steps are observed changes no causal embedding, missing steps included."""
    values = series_with_gaps(50, 0, 0, 0, 0.0, 0)
    values[20:30] = np.nan
    arguments = {"level": "timestamp", "window_length": 12, "causal": True}
    whole = MODELS[name].encode(values, **arguments)
    np.testing.assert_allclose(MODELS[name].encode(values[:27], **arguments), whole[:27], rtol=1e-5, atol=1e-6)


@every_method
@pytest.mark.parametrize("pooling", [3, "multiscale"])
@torch.inference_mode()
def test_a_stream_pools_as_the_causal_batch(name, pooling):
    model, values = MODELS[name], series_with_gaps(20, 0, 0, 0, 0.0, 0)
    arguments = {"window_length": 9, "pooling": pooling}
    expected = model.encode(values, level="timestamp", causal=True, prepared=True, **arguments)
    np.testing.assert_allclose(in_pieces(model.stream(**arguments), values, [4]), expected, rtol=1e-5, atol=1e-6)


@every_method
def test_a_stream_refuses_what_encode_refuses(name):
    with pytest.raises(ValueError, match="window_length=0 must be a whole number of at least 1"):
        MODELS[name].stream(0)
    with pytest.raises(TypeError, match="has no argument 'windows'"):
        MODELS[name].stream(5, windows=3)


@pytest.mark.parametrize(
    ("gate_padding", "missing_values"), [(True, "value"), (True, "timestamp"), (False, "value"), (False, "timestamp")]
)
@pytest.mark.parametrize("mask", [None, "mask_last"])
@given(
    window_length=st.integers(1, 60),
    num_blocks=st.integers(1, 6),
    before=st.integers(0, 3),
    missing=st.sampled_from([0.0, 0.1]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    seed=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None)
@torch.inference_mode()
def test_the_state_of_dilated_convolutions_is_equal_to_whole_windows(
    mask, gate_padding, missing_values, window_length, num_blocks, before, missing, sizes, seed
):
    fields = {"num_hidden_layers": num_blocks, "gate_padding": gate_padding, "missing_values": missing_values}
    model = build("ts2vec", "model", **fields)
    values = series_with_gaps(70, before, 4, 3, missing, seed)
    values[np.random.default_rng(seed).random(values.shape) < missing] = np.nan  # of single channels
    direct = in_pieces(WindowStream(model, window_length, 32, None, mask=mask), values, [11])
    stream = model.stream(window_length, mask=mask)
    assert not isinstance(stream, WindowStream)
    np.testing.assert_allclose(in_pieces(stream, values, sizes), direct, rtol=1e-5, atol=2e-6)
