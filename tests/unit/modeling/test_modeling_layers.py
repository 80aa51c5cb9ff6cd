"""Dilated convolutions, masks, pooling and views."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep import TS2VecConfig, TS2VecForPreTraining, TS2VecModel
from hf_tsrep.modeling.heads_time_series import max_pool_window, multiscale_windows, pool_instance, pool_timestamps
from hf_tsrep.modeling.layers_convolution import DilatedConvolution, DilatedResidualBlock
from hf_tsrep.modeling.modeling_ts2vec import binomial_mask, continuous_mask, draw_views, take_steps, timestamp_mask


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


def test_initial_weights_are_pytorchs():
    torch.manual_seed(0)
    model = TS2VecModel(TS2VecConfig(num_input_channels=3))
    bound = 1 / (64 * 3) ** 0.5
    for value in (model.blocks[0].first_convolution.weight, model.blocks[0].first_convolution.bias):
        assert value.abs().max() <= bound
        assert value.abs().max() > 0.9 * bound
    assert model.input_projection.weight.abs().max() <= 3**-0.5


def test_masks_mask_what_they_say():
    generator = torch.Generator().manual_seed(0)
    assert abs(binomial_mask(50, 400, 0.3, generator).float().mean() - 0.7) < 0.02
    masked = ~continuous_mask(200, 100, generator=generator)
    assert masked.any(1).all()
    assert masked.sum(1).max() <= 50
    runs = (masked[:, 1:] & ~masked[:, :-1]).sum(1) + masked[:, 0]
    assert (runs <= 5).all()
    assert (masked.sum(1) >= 10).all()
    assert timestamp_mask("all_true", 2, 5) is None
    assert not timestamp_mask("all_false", 2, 5).any()
    assert timestamp_mask("mask_last", 2, 5).tolist() == [[True] * 4 + [False]] * 2
    assert continuous_mask(2, 1).shape == (2, 1)
    with pytest.raises(ValueError, match="'random'"):
        timestamp_mask("random", 2, 5)


@given(
    length=st.integers(1, 60), temporal_unit=st.integers(0, 7), batch_size=st.integers(1, 4), seed=st.integers(0, 500)
)
@settings(max_examples=200, deadline=None)
def test_views_overlap_in_the_crop_and_stay_inside(length, temporal_unit, batch_size, seed):
    config = TS2VecConfig(temporal_unit=temporal_unit)
    views = draw_views(batch_size, length, config, torch.Generator().manual_seed(seed))
    assert min(2 ** (temporal_unit + 1), length) <= views.crop_length <= length
    first_stop, second_stop = views.first_start + views.first_length, views.second_start + views.second_length
    assert (views.first_start >= 0).all()
    assert (second_stop <= length).all()
    assert (views.first_start <= views.second_start).all()
    assert (first_stop <= second_stop).all()
    assert (first_stop - views.second_start == views.crop_length).all()
    assert views.first_mask.shape == (batch_size, views.first_length)
    assert views.second_mask.shape == (batch_size, views.second_length)


def test_views_reach_every_place():
    config = TS2VecConfig()
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_views(3, 12, config, generator) for _ in range(600)]
    assert {views.crop_length for views in drawn} == set(range(2, 13))
    assert {int(start) for views in drawn for start in views.first_start} >= set(range(8))
    assert any(len(set(views.first_start.tolist())) > 1 for views in drawn)


def test_take_steps_is_a_stretch_of_each_row():
    values = torch.arange(20).view(2, 10, 1)
    assert take_steps(values, torch.tensor([3, 0]), 4).squeeze(-1).tolist() == [[3, 4, 5, 6], [10, 11, 12, 13]]


@pytest.mark.parametrize("mode", ["binomial", "continuous", "all_true", "all_false", "mask_last"])
def test_every_mask_mode_trains(mode):
    config = TS2VecConfig(hidden_size=8, embedding_size=8, num_hidden_layers=3, mask_mode=mode)
    model = TS2VecForPreTraining(config).train()
    loss = model(torch.randn(3, 20, 1)).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_series_of_a_few_timestamps_train(length):
    model = TS2VecForPreTraining(TS2VecConfig(hidden_size=8, embedding_size=8, num_hidden_layers=3)).train()
    loss = model(torch.randn(4, length, 1)).loss
    loss.backward()
    assert torch.isfinite(loss)


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


def test_multiscale_windows_follow_the_paper():
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
