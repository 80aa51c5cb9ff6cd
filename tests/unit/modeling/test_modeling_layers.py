"""The blocks that methods share; the kernel of attention is equal to its plain function, forward and backward.

The tiles of the contrast are tested in test_modeling_ts2vec.py, sliding convolutions in tests/contract/test_encode.py.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from hf_tsrep.modeling import kernels_attention
from hf_tsrep.modeling.kernels_attention import attend, attend_by_blocks, narrow_attention
from hf_tsrep.modeling.layers_attention import (
    SelfAttention,
    scaled_dot_product_attention,
    window_mask,
    windowed_attention,
)
from hf_tsrep.modeling.layers_convolution import DilatedConvolution, DilatedResidualBlock
from hf_tsrep.modeling.layers_dropout import DropoutDraws, SeededDropout
from hf_tsrep.modeling.layers_masking import observed_neighbours
from hf_tsrep.modeling.layers_normalization import (
    MaskedBatchNorm,
    denormalize_instances,
    instance_statistics,
    normalize_instances,
)
from hf_tsrep.modeling.layers_patching import PatchLayout, align_series
from hf_tsrep.modeling.layers_pooling import max_pool_window, multiscale_windows, pool_instance, pool_timestamps
from hf_tsrep.modeling.layers_transformer import (
    BatchNormTransformerLayer,
    CircularTokenEmbedding,
    LearnedPositions,
    TransformerEncoder,
    TransformerLayer,
    sinusoidal_positions,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_alignment_moves_every_series_to_the_first_position():
    values = torch.arange(12.0).view(2, 6, 1)
    observed = torch.ones(2, 6, 1, dtype=torch.bool)
    observed[0, :2] = observed[0, 3] = observed[1, 5] = False
    series = align_series(values, observed)
    assert series.start.tolist() == [2, 0]
    assert series.length.tolist() == [4, 5]
    assert series.values[0, :4, 0].tolist() == [2, 3, 4, 5]
    assert series.observed[:, :, 0].tolist() == [[True, False, True, True, False, False], [True] * 5 + [False]]


def test_a_series_without_an_observed_value_has_one_empty_patch():
    series = align_series(random(1, 6, 2), torch.zeros(1, 6, 2, dtype=torch.bool))
    assert series.length.tolist() == [1]
    assert not series.observed.any()
    assert PatchLayout(4, 2).num_patches_of_rows(series.length).tolist() == [1]


@pytest.mark.parametrize(("patch_length", "patch_stride"), [(4, 4), (4, 2), (5, 3), (1, 1), (16, 8)])
@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
def test_patches_are_windows_of_the_series_with_its_last_value_repeated(length, patch_length, patch_stride):
    layout, values = PatchLayout(patch_length, patch_stride), random(2, length, 3)
    found = layout.cut(values, torch.tensor([length, length]))
    needed = max(patch_stride, patch_length - length)
    longer = torch.cat((values, values[:, -1:].expand(-1, needed, -1)), dim=1)
    expected = longer.unfold(1, patch_length, patch_stride).transpose(2, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert layout.num_patches_of_rows(torch.tensor([length])).tolist() == [expected.shape[1]]
    if length >= patch_length:
        assert expected.shape[1] == (length - patch_length) // patch_stride + 2  # as the official code counts


@pytest.mark.parametrize(("patch_length", "patch_stride"), [(4, 4), (4, 2), (5, 3), (1, 1)])
def test_a_timestamp_is_the_mean_of_the_patches_that_hold_it(patch_length, patch_stride):
    layout = PatchLayout(patch_length, patch_stride)
    observed = torch.ones(2, 14, 1, dtype=torch.bool)
    observed[0, :3] = False
    observed[1, 12:] = False
    series = align_series(random(2, 14, 1), observed)
    embeddings = random(2, layout.num_patches(14), 6, seed=1)
    found = layout.to_timestamps(embeddings, series)
    for row, (start, length) in enumerate(zip(series.start.tolist(), series.length.tolist(), strict=True)):
        count = int(layout.num_patches_of_rows(series.length)[row])
        for step in range(14):
            place = step - start
            holding = [
                embeddings[row, patch]
                for patch in range(count)
                if patch * patch_stride <= place < patch * patch_stride + patch_length
            ]
            expected = torch.stack(holding).mean(0) if 0 <= place < length else torch.zeros(6)
            torch.testing.assert_close(found[row, step], expected)


def test_instance_normalisation_sees_only_what_is_observed_and_can_be_undone():
    values = random(2, 20, 3) * 5 + 100
    observed = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    observed[1, :, 2] = False
    statistics = instance_statistics(values.masked_fill(~observed, torch.nan), observed)
    seen = values[0, observed[0, :, 1], 1]
    torch.testing.assert_close(statistics.mean[0, 0, 1], seen.mean())
    torch.testing.assert_close(statistics.deviation[0, 0, 1], (seen.var(correction=0) + 1e-5).sqrt())
    normalized = normalize_instances(values.masked_fill(~observed, 1e30), observed, statistics)
    assert (normalized[~observed] == 0).all()
    torch.testing.assert_close(denormalize_instances(normalized, statistics)[observed], values[observed])


def test_the_mean_of_large_values_is_not_rounded():
    values = torch.full((1, 3000, 1), 12345.678)
    observed = torch.ones_like(values, dtype=torch.bool)
    assert normalize_instances(values, observed, instance_statistics(values, observed)).abs().max() < 1e-3


def test_circular_embedding_is_a_circular_convolution_of_each_rows_own_tokens():
    embedding, tokens = CircularTokenEmbedding(3, 8, 5), random(2, 9, 3)
    padded = torch.nn.functional.pad(tokens.transpose(1, 2), (2, 2), mode="circular")
    expected = torch.nn.functional.conv1d(padded, embedding.weight).transpose(1, 2)
    torch.testing.assert_close(embedding(tokens), expected)
    ragged = embedding(tokens, torch.tensor([9, 4]))
    torch.testing.assert_close(ragged[0], expected[0])
    torch.testing.assert_close(ragged[1:, :4], embedding(tokens[1:, :4]))


def test_positions_are_sinusoidal_or_learned_up_to_their_number():
    table = sinusoidal_positions(50, 6, torch.device("cpu"))
    torch.testing.assert_close(table[7, 2], torch.sin(torch.tensor(7 / 10000 ** (2 / 6))))
    torch.testing.assert_close(table[7, 5], torch.cos(torch.tensor(7 / 10000 ** (4 / 6))))
    assert sinusoidal_positions(4, 5, torch.device("cpu")).shape == (4, 5)
    with pytest.raises(ValueError, match=r"6 tokens.*5 positions"):
        LearnedPositions(5, 4)(6)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_drawn_dropout_has_its_rate_and_scale_and_depends_on_seed_and_site(probability):
    hidden = torch.ones(40, 50, 60)
    dropout = SeededDropout(probability, site=3).eval()
    dropped = dropout(hidden, DropoutDraws(7))
    assert abs((dropped == 0).float().mean() - probability) < 0.01
    assert abs(dropped.mean() - 1) < 0.01
    torch.testing.assert_close(dropped, dropout(hidden, DropoutDraws(7)), rtol=0, atol=0)
    for other in (
        dropout(hidden, DropoutDraws(8)),
        SeededDropout(probability, site=4).eval()(hidden, DropoutDraws(7)),
    ):
        agreeing = ((other == 0) == (dropped == 0)).float().mean()
        assert abs(agreeing - (probability**2 + (1 - probability) ** 2)) < 0.01
    torch.testing.assert_close(dropout(hidden), hidden, rtol=0, atol=0)
    assert abs((dropout.train()(hidden) == 0).float().mean() - probability) < 0.01


def test_each_process_drops_its_rows_of_the_global_batch():
    dropout, hidden = SeededDropout(0.5, site=0), torch.ones(2 * 6, 3)
    whole = dropout(hidden, DropoutDraws(1, num_views=2)).view(2, 6, 3)
    for rank in range(3):
        part = dropout(torch.ones(2 * 2, 3), DropoutDraws(1, num_views=2, rank=rank, num_processes=3))
        torch.testing.assert_close(part.view(2, 2, 3), whole[:, 2 * rank : 2 * rank + 2], rtol=0, atol=0)


def test_attention_with_drawn_dropout_is_the_fused_one_with_that_mask():
    attention = SelfAttention(12, 3, dropout=1e-9, first_site=0)  # nothing is dropped, but the other path is taken
    hidden = random(2, 7, 12)
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[0, ..., 4:] = False
    for seen in (None, mask):
        torch.testing.assert_close(attention(hidden, seen, DropoutDraws(0)), attention.eval()(hidden, seen))
    short = attention(hidden[:1, :4])
    torch.testing.assert_close(attention(hidden, mask)[:1, :4], short)


def test_gradient_checkpointing_draws_the_same_dropout_again():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = TransformerEncoder(8, 2, 2, 16, dropout=0.4).train()
        for layer in encoder.layers:
            layer.gradient_checkpointing = checkpointing
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        encoder(random(3, 5, 8).requires_grad_(), None, DropoutDraws(3)).square().sum().backward()
        gradients.append([value.grad for value in encoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_counts_a_batch_once(use_reentrant):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        layer = BatchNormTransformerLayer(8, 2, 16, dropout=0.4).train()
        layer.gradient_checkpointing = checkpointing
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=use_reentrant)
        layer(random(3, 5, 8).requires_grad_(), None, DropoutDraws(3)).square().sum().backward()
        assert layer.attention_norm.num_batches_tracked == layer.output_norm.num_batches_tracked == 1
        found.append([value.grad for value in layer.parameters()] + list(layer.buffers()))
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_layer_is_pytorchs(activation):
    ours = TransformerLayer(12, 3, 20, dropout=0.0, activation=activation)
    theirs = torch.nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, activation=activation, batch_first=True)
    names = {
        "attention.input_projection.": "self_attn.in_proj_",
        "attention.output_projection": "self_attn.out_proj",
        "expansion": "linear1",
        "contraction": "linear2",
        "attention_norm": "norm1",
        "output_norm": "norm2",
    }
    state = {}
    for name, value in ours.state_dict().items():
        (ours_name,) = [one for one in names if name.startswith(one)]
        state[name.replace(ours_name, names[ours_name])] = value
    theirs.load_state_dict(state)
    mask = key_mask(4, 7)
    torch.testing.assert_close(
        ours(random(4, 7, 12), mask), theirs(random(4, 7, 12), src_key_padding_mask=~mask[:, 0, 0])
    )


def test_batch_normalisation_is_pytorchs_on_the_observed_rows_of_each_view():
    ours, theirs = MaskedBatchNorm(4), torch.nn.BatchNorm1d(4)
    rows, observed = random(2 * 9, 4) * 3 + 1, torch.rand(18, generator=torch.Generator().manual_seed(1)) < 0.7
    found = ours(rows, observed, num_views=2)
    for view in range(2):
        part = slice(9 * view, 9 * view + 9)
        expected = theirs(rows[part][observed[part]])
        torch.testing.assert_close(found[part][observed[part]], expected)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 2
    torch.testing.assert_close(ours.eval()(rows), theirs.eval()(rows))
    before = ours.running_mean.clone()
    assert torch.isfinite(ours.train()(rows, torch.zeros(18, dtype=torch.bool))).all()
    torch.testing.assert_close(ours.running_mean, before, rtol=0, atol=0)


@given(
    length=st.integers(1, 30),
    batch_size=st.integers(1, 4),
    dilation=st.sampled_from([1, 2, 5, 64]),
    gated=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_dilated_convolution_and_its_gradients_are_conv1d_after_gelu(length, batch_size, dilation, gated):
    torch.manual_seed(0)
    layer = DilatedConvolution(3, 5, dilation).double()
    hidden = torch.randn(length, batch_size, 3, dtype=torch.float64, requires_grad=True)
    gate = (torch.rand(length, batch_size) > 0.3).double() if gated else None
    output = layer(hidden, gate)
    weight = torch.randn_like(output)
    found = torch.autograd.grad((output * weight).sum(), (hidden, layer.weight, layer.bias))
    rows = F.gelu(hidden) if gate is None else F.gelu(hidden) * gate.unsqueeze(-1)
    expected = F.conv1d(rows.permute(1, 2, 0), layer.weight, layer.bias, padding=dilation, dilation=dilation)
    expected = expected.permute(2, 0, 1)
    torch.testing.assert_close(output, expected)
    gradients = torch.autograd.grad((expected * weight).sum(), (hidden, layer.weight, layer.bias))
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_block_projects_its_residual_only_where_told():
    assert DilatedResidualBlock(4, 4, 1, project_residual=False).residual_projection is None
    block = DilatedResidualBlock(4, 6, 1, project_residual=True)
    assert block(torch.randn(7, 2, 4)).shape == (7, 2, 6)


def test_window_pooling_is_the_maximum_of_the_neighbourhood():
    values = torch.randn(2, 11, 3)
    observed = torch.rand(2, 11) > 0.3
    for window in (1, 2, 3, 6, 25):
        pooled, seen_pooled = max_pool_window(values, window), max_pool_window(values, window, observed)
        for row in range(2):
            for step in range(11):
                around = range(max(0, step - window // 2), min(11, step - window // 2 + window))
                torch.testing.assert_close(pooled[row, step], values[row, list(around)].amax(0))
                seen = [index for index in around if observed[row, index]]
                expected = values[row, seen].amax(0) if seen else torch.zeros(3)
                torch.testing.assert_close(seen_pooled[row, step], expected)


def test_the_windows_of_multiscale_pooling_follow_the_paper():
    assert multiscale_windows(2) == []
    assert multiscale_windows(3) == [3]
    assert multiscale_windows(10) == [3, 5, 9, 17]
    with pytest.raises(ValueError, match="at least 3 timestamps"):
        pool_timestamps(torch.zeros(1, 2, 4), "multiscale")


def test_pooling_an_unobserved_series_is_zero():
    values = torch.randn(2, 5, 3)
    observed = torch.tensor([[False] * 5, [True, True, False, True, False]])
    for pooling in ("max", "mean", "last"):
        pooled = pool_instance(values, observed, pooling)
        assert (pooled[0] == 0).all()
    torch.testing.assert_close(pool_instance(values, observed, "last")[1], values[1, 3])
    torch.testing.assert_close(pool_instance(values, observed, "mean")[1], values[1, [0, 1, 3]].mean(0))


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
    masked=st.sampled_from(["not", "keys", "square"]),
    together=st.integers(1, 30),
)
def test_the_kernel_is_exact_whatever_the_shape_the_mask_and_the_chunks(rows, heads, length, size, masked, together):
    causal = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    mask = {"not": None, "keys": key_mask(rows, length), "square": causal}[masked]
    product = heads_of(rows, heads, length, size)
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


def window_of(length, window, missing, rows=3):
    """Rows of several lengths, the first with a stretch of hidden tokens."""
    observed = torch.ones(rows, length, dtype=torch.bool)
    for row in range(rows):
        observed[row, length - row * length // rows :] = False
    observed[0, 1 : 1 + missing] = False
    observed[:, 0] = True
    return observed[:, None, None]


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 50),
    window=st.integers(1, 60),
    heads=st.integers(1, 3),
    missing=st.integers(0, 40),
    is_dropping=st.booleans(),
)
def test_attention_by_blocks_is_the_one_under_the_mask_of_the_window(length, window, heads, missing, is_dropping):
    product, mask = heads_of(3, heads, length, 4).double(), window_of(length, window, missing)
    expected = run(lambda *parts: windowed_attention(*parts, window), product, mask)
    drop = (lambda weights: weights) if is_dropping else None
    found = run(lambda *parts: attend_by_blocks(*parts, window, drop), product, mask)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_window_hides_what_is_far_in_rows_that_are_longer():
    observed = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True, False, False, False, False, True]])
    seen = window_mask(observed[:, None, None], 4)[:, 0]
    places = torch.arange(6)
    assert torch.equal(seen[0], (places.unsqueeze(1) - places).abs() <= 2)
    assert seen[1, :4, :4].all(), "a row of the window's length sees all of itself"
    assert not seen[1, :4, 4:].any()
    assert seen[2].tolist()[2] == [True, False, False, False, False, False]
    lonely = window_mask(torch.tensor([[True] + [False] * 8 + [True]])[:, None, None], 4)[0, 0, 4]
    assert lonely.nonzero().tolist() == [[4]], "a token that sees nothing sees itself"


@pytest.mark.parametrize("probability", [0.0, 1e-9])
@pytest.mark.parametrize("length", [6, 7, 40])
def test_attention_of_a_window_is_whole_up_to_it_and_exported_as_it_runs(length, probability):
    torch.manual_seed(0)
    bounded = SelfAttention(12, 3, probability, window=6)
    whole = SelfAttention(12, 3, probability)
    whole.load_state_dict(bounded.state_dict())
    hidden, mask = random(3, length, 12), window_of(length, 6, missing=0)
    for seen in (torch.ones_like(mask), mask):
        inside = seen[:, 0, 0]  # what a token beyond its row sees is nobody's concern
        expected = whole(hidden, window_mask(seen, 6))[inside]
        torch.testing.assert_close(bounded(hidden, seen)[inside], expected)
        torch.testing.assert_close(bounded(hidden, seen, DropoutDraws(0))[inside], expected)
        if length <= 6:
            torch.testing.assert_close(whole(hidden, seen)[inside], expected)
    torch.testing.assert_close(bounded(hidden), bounded(hidden, torch.ones_like(mask)))
    exported = torch.export.export(bounded.eval(), (hidden, mask))
    torch.testing.assert_close(exported.module()(hidden, mask)[inside], expected)


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
    for options in ({}, {"attention_mask": key_mask(2, 64)}, {"attention_mask": queries_differ[None, None]}):
        with pytest.raises(AssertionError, match="the narrow way"):
            attend(*split(), **options)


@pytest.mark.parametrize("seed", range(8))
def test_observed_neighbours_are_those_of_the_cumulative_maximum(seed):
    generator = torch.Generator().manual_seed(seed)
    observed = torch.rand(3, 1 + seed, 2, generator=generator) < 0.4
    steps = torch.arange(1 + seed).view(1, -1, 1).expand_as(observed)
    before, after = observed_neighbours(observed)
    assert torch.equal(before, torch.where(observed, steps, -1).cummax(1).values)
    assert torch.equal(after, torch.where(observed, steps, 1 + seed).flip(1).cummin(1).values.flip(1))
