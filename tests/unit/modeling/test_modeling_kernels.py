"""Fast paths are equal to their plain functions, forward and backward: here the attention of narrow heads.

The tiles of the contrast are tested in test_modeling_ts2vec.py, sliding convolutions in tests/contract/test_encode.py.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.modeling import kernels_attention
from hf_tsrep.modeling.kernels_attention import attend, narrow_attention
from hf_tsrep.modeling.layers_transformer import scaled_dot_product_attention


def heads_of(rows, heads, length, size, scale=1.0):
    """Queries, keys and values as a layer makes them: views of one product's result."""
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(rows, length, 3, heads, size, generator=generator) * scale
    return product.requires_grad_()


def run(function, product, mask):
    """Return the attended values and the gradient of a loss that weighs all of them differently."""
    product = product.detach().clone().requires_grad_()
    attended = function(*product.permute(2, 0, 3, 1, 4), mask)
    weights = torch.linspace(-1, 1, attended.numel(), dtype=product.dtype).view(attended.shape)
    (attended * weights).sum().backward()
    return attended.detach(), product.grad


def key_mask(rows, length):
    mask = torch.ones(rows, 1, 1, length, dtype=torch.bool)
    for row in range(rows):
        mask[row, ..., length - row * length // rows :] = False
        mask[row, ..., 1] = row % 2 == 0
    mask[..., 0] = True
    return mask


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 5),
    heads=st.integers(1, 5),
    length=st.integers(2, 40),
    size=st.integers(1, 9),
    masked=st.booleans(),
    together=st.integers(1, 30),
)
def test_the_kernel_is_exact_whatever_the_shape_the_mask_and_the_chunks(rows, heads, length, size, masked, together):
    product, mask = heads_of(rows, heads, length, size), key_mask(rows, length) if masked else None
    expected = run(scaled_dot_product_attention, product.double(), mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels_attention, "SCORES_A_THREAD", together * length**2)
        found = run(narrow_attention, product, mask)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 30.0, 300.0])
def test_tiny_and_huge_scores_are_no_worse_than_with_the_fused_kernel(scale):
    product = heads_of(3, 4, 50, 2, scale)
    exact = run(F.scaled_dot_product_attention, product.double(), None)
    fused = run(F.scaled_dot_product_attention, product, None)
    found = run(narrow_attention, product, None)
    for ours, theirs, truth in zip(found, fused, exact, strict=True):
        assert torch.isfinite(ours).all()
        assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max() + 1e-6 * truth.abs().max()


@pytest.mark.parametrize("masked", [False, True])
def test_the_plain_attention_is_pytorchs(masked):
    product, mask = heads_of(4, 3, 20, 5).double(), key_mask(4, 20) if masked else None
    for ours, theirs in zip(
        run(scaled_dot_product_attention, product, mask),
        run(F.scaled_dot_product_attention, product, mask),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_attention_takes_the_kernel_only_where_it_gains(monkeypatch):
    class Refused(torch.autograd.Function):
        @staticmethod
        def forward(context, *inputs):
            raise AssertionError("the narrow way was taken")

    def split(length=64, size=2, **kind):
        return heads_of(2, 3, length, size).to(**kind).permute(2, 0, 3, 1, 4)

    monkeypatch.setattr(kernels_attention, "NarrowAttention", Refused)
    queries_differ = torch.ones(64, 64, dtype=torch.bool).tril()
    for inputs, options in (
        (split(size=16), {}),
        (split(length=8), {}),
        (split(length=520), {}),
        (split(dtype=torch.bfloat16), {}),
        (split(dtype=torch.float64), {}),
        (split(), {"dropout": 0.1}),
        (split(), {"attention_mask": queries_differ}),
        (split(), {"attention_mask": queries_differ.expand(2, 1, 64, 64)}),
    ):
        assert attend(*inputs, **options).shape == inputs[0].shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attend(*split())
    for options in ({}, {"attention_mask": key_mask(2, 64)}):
        with pytest.raises(AssertionError, match="the narrow way"):
            attend(*split(), **options)
