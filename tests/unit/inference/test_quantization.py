"""Embeddings in fewer bits and dimensions, and how alike they are."""

import numpy as np
import pytest
import torch

from hf_tsrep import TS2VecConfig, TS2VecModel, dequantize_embeddings, quantize_embeddings


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TS2VecModel(TS2VecConfig(num_input_channels=2, hidden_size=8, embedding_size=6, num_hidden_layers=2)).eval()


@pytest.fixture(scope="module")
def series():
    return np.random.default_rng(0).normal(size=(5, 30, 2))


def test_codes_end_at_their_range_and_come_back():
    ranges = [[-1.0, 2.0], [1.0, 2.0]]
    numbers = np.asarray([[-9.0, 2.0], [9.0, 2.0], [0.01, 2.0]], np.float32)
    codes = quantize_embeddings(numbers, "int8", ranges)
    np.testing.assert_array_equal(codes, [[-128, -128], [127, -128], [1, -128]])
    np.testing.assert_array_equal(quantize_embeddings(numbers, "uint8", ranges), codes.astype(int) + 128)
    np.testing.assert_array_equal(dequantize_embeddings(codes[:2], ranges), [[-1, 2], [1, 2]])
    known = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    found = dequantize_embeddings(quantize_embeddings(known, "uint8"), [known.min(0), known.max(0)])
    assert (np.abs(found - known) <= np.ptp(known, axis=0) / 255 * 0.501).all()
    of_others = quantize_embeddings(numbers, "int8", calibration_embeddings=np.asarray(ranges))
    np.testing.assert_array_equal(of_others, codes)


def test_one_bit_a_dimension_says_which_are_above_zero():
    numbers = np.asarray([[1, -1, 0, 2, -3, 4, 5, -6, 7]], np.float32)
    np.testing.assert_array_equal(quantize_embeddings(numbers, "ubinary"), [[0b10010110, 0b10000000]])
    np.testing.assert_array_equal(quantize_embeddings(numbers, "binary"), [[0b10010110 - 128, 0]])


def test_what_cannot_be_quantised_is_named():
    with pytest.raises(ValueError, match="precision='int4' is unknown"):
        quantize_embeddings(np.ones((2, 3)), "int4")
    with pytest.raises(ValueError, match=r"ranges has shape \(3, 2\); expected \(2, 3\)"):
        quantize_embeddings(np.ones((2, 3)), "int8", np.ones((3, 2)))
    with pytest.raises(ValueError, match="no embedding to take them from"):
        quantize_embeddings(np.ones((0, 3)), "int8")
    with pytest.raises(ValueError, match="not float64"):
        dequantize_embeddings(np.ones((2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize(
    "options", [{}, {"level": "timestamp"}, {"level": "window", "window_length": 7}, {"window_length": 9}]
)
def test_the_first_dimensions_are_kept_before_the_length_becomes_one(model, series, options):
    whole = model.encode(series, **options)
    np.testing.assert_array_equal(model.encode(series, truncate_dim=4, **options), whole[..., :4])
    short = model.encode(series, truncate_dim=4, normalize=True, **options)
    np.testing.assert_allclose(np.linalg.norm(short, axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(model.encode(series, truncate_dim=99, **options), whole)
    with pytest.raises(ValueError, match="truncate_dim=0 must be a whole number"):
        model.encode(series, truncate_dim=0, **options)


def test_similarity_is_that_of_every_pair(model, series):
    first, second = model.encode(series[:2]), model.encode(series)
    cosine = model.similarity(first, second)
    assert cosine.shape == (2, 5)
    torch.testing.assert_close(cosine[:, :2].diagonal(), torch.ones(2))
    torch.testing.assert_close(model.similarity(first, second, "dot"), torch.from_numpy(first @ second.T))
    distance = np.linalg.norm(first[:, None] - second, axis=-1)
    torch.testing.assert_close(
        model.similarity(first, second, "euclidean"), -torch.from_numpy(distance), atol=1e-4, rtol=0
    )
    manhattan = np.abs(first[:, None] - second).sum(-1)
    torch.testing.assert_close(model.similarity(first, second, "manhattan"), -torch.from_numpy(manhattan))
    assert model.similarity(first[0], second[0]).shape == (1, 1)
    with pytest.raises(ValueError, match="metric='l3' is unknown"):
        model.similarity(first, second, "l3")
    with pytest.raises(ValueError, match="cannot be compared"):
        model.similarity(first, second[:, :3])
