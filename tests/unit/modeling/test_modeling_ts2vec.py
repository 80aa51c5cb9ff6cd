"""TS2Vec: its equations and the tiles that compute them, views, masks, and what is warned of."""

import json

import pytest
import torch
import torch.nn.functional as F
from benchmark.plain_ts2vec import PlainTS2Vec
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep import TS2VecConfig, TS2VecForPreTraining, TS2VecModel
from hf_tsrep.modeling import kernels_contrast, modeling_ts2vec
from hf_tsrep.modeling.encoding_time_series import slide_by_windows
from hf_tsrep.modeling.modeling_ts2vec import (
    binomial_mask,
    continuous_mask,
    draw_views,
    dual_loss,
    hierarchical_contrastive_loss,
    instance_contrast,
    scale_observed,
    take_steps,
    temporal_contrast,
    timestamp_mask,
)

TINY = {"hidden_size": 8, "embedding_size": 8, "num_hidden_layers": 3}


def random_views(batch_size, length, size=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2, batch_size, length, size, generator=generator, dtype=dtype)
    return [view.clone().requires_grad_() for view in views]


def draw_observed(batch_size, length, missing, seed):
    return torch.rand(batch_size, length, generator=torch.Generator().manual_seed(seed)) >= missing


def test_equations_1_and_2_are_those_of_the_paper():
    """Written out for every series i and timestamp t: r is a vector of the first view, s of the second."""
    r, s = random_views(3, 5)
    temporal, instance = (of(torch.stack([r, s], 1)) for of in (temporal_contrast, instance_contrast))
    for i in range(3):
        for t in range(5):
            partner = (r[i, t] @ s[i, t]).exp()
            others = sum((r[i, t] @ r[i, step]).exp() for step in range(5) if step != t)
            everything = others + sum((r[i, t] @ s[i, step]).exp() for step in range(5))
            torch.testing.assert_close(temporal[i, t], -(partner / everything).log())
            others = sum((r[i, t] @ r[j, t]).exp() for j in range(3) if j != i)
            everything = others + sum((r[i, t] @ s[j, t]).exp() for j in range(3))
            torch.testing.assert_close(instance[t, i], -(partner / everything).log())


def test_algorithm_1_averages_the_dual_losses_of_max_pooled_views():
    first, second = random_views(3, 13)
    views, terms = (first, second), []
    while True:
        terms.append(dual_loss(torch.stack(views, 1), 0.3, len(terms) >= 1)[0])
        if views[0].shape[1] == 1:
            break
        views = [F.max_pool1d(view.transpose(1, 2), 2).transpose(1, 2) for view in views]
    found = hierarchical_contrastive_loss(first, second, 0.3, 1, loss_of_level=dual_loss)[0]
    torch.testing.assert_close(found, torch.stack(terms).mean())


@given(
    batch_size=st.integers(1, 5),
    length=st.integers(1, 40),
    alpha=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    temporal_unit=st.integers(0, 3),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
    tile=st.sampled_from([2, 7, 512]),
    num_processes=st.sampled_from([1, 1, 2, 7]),
    seed=st.integers(0, 100),
)
@settings(max_examples=80, deadline=None)
def test_tiles_give_the_loss_and_the_gradient_of_the_equations(
    batch_size, length, alpha, temporal_unit, missing, tile, num_processes, seed
):
    views, tiled_views = (random_views(batch_size, length, seed=seed) for _ in range(2))
    observed = draw_observed(batch_size, length, missing, seed) if missing else None
    expected = hierarchical_contrastive_loss(*views, alpha, temporal_unit, observed, dual_loss)

    def share(index):
        def loss_of_level(*arguments):
            return kernels_contrast.dual_loss(*arguments, share=(index, num_processes))

        return hierarchical_contrastive_loss(*tiled_views, alpha, temporal_unit, observed, loss_of_level)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels_contrast, "_TILE_ON_CPU", tile)
        found = [torch.stack(terms).mean() for terms in zip(*map(share, range(num_processes)), strict=True)]
        (3 * found[0]).backward()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    if expected[0].requires_grad:
        (3 * expected[0]).backward()
    for tiled, plain in zip(tiled_views, views, strict=True):
        gradient = torch.zeros_like(plain) if plain.grad is None else plain.grad
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(tiled.grad, gradient)


def test_large_similarities_do_not_overflow():
    views = [(100 * view).detach().requires_grad_() for view in random_views(3, 20, dtype=torch.float32)]
    loss = hierarchical_contrastive_loss(*views)[0]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(view.grad).all() for view in views)
    expected = hierarchical_contrastive_loss(*views, loss_of_level=dual_loss)[0]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("loss_of_level", [dual_loss, kernels_contrast.dual_loss], ids=["equations", "tiles"])
def test_what_is_not_observed_counts_as_if_it_were_not_there(loss_of_level):
    first, second = random_views(1, 9)
    observed = torch.ones(1, 9, dtype=torch.bool)
    observed[0, [2, 5, 6]] = False
    found = loss_of_level(torch.stack([first, second], 1), 0.0, True, observed)[0]
    kept = torch.stack([view[:, observed[0]] for view in (first, second)], 1)
    torch.testing.assert_close(found, temporal_contrast(kept).mean())
    found.backward()
    assert (first.grad[0, ~observed[0]] == 0).all()
    assert (first.grad[0, observed[0]] != 0).any()


def test_values_that_are_not_observed_change_nothing_at_any_level():
    views, observed = random_views(2, 9), draw_observed(2, 9, 0.4, seed=3)
    noisy = [torch.where(observed.unsqueeze(-1), view.detach(), 1e3) for view in views]
    found, expected = (hierarchical_contrastive_loss(*one, observed=observed)[0] for one in (noisy, views))
    torch.testing.assert_close(found, expected)


def test_no_gradient_is_made_when_none_is_wanted(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(kernels_contrast._Similarities, "write_gradient", refuse)
    views = random_views(3, 8)
    with torch.no_grad():
        hierarchical_contrastive_loss(*views)
    hierarchical_contrastive_loss(*(view.detach() for view in views))
    with pytest.raises(AssertionError, match="a gradient"):
        hierarchical_contrastive_loss(*views)


def test_bfloat16_views_give_a_float32_loss_near_the_exact_one():
    views = random_views(3, 30, dtype=torch.float32)
    exact = hierarchical_contrastive_loss(*views)[0]
    rounded = hierarchical_contrastive_loss(*(view.bfloat16() for view in views))[0]
    rounded.backward()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_the_initial_weights_are_pytorchs():
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
def test_the_model_trains_with_every_mask_mode(mode):
    config = TS2VecConfig(**TINY, mask_mode=mode)
    model = TS2VecForPreTraining(config).train()
    loss = model(torch.randn(3, 20, 1)).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_series_of_a_few_timestamps_train(length):
    model = TS2VecForPreTraining(TS2VecConfig(**TINY)).train()
    loss = model(torch.randn(4, length, 1)).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_a_batch_of_one_series_is_warned_of_once_and_only_where_the_instance_loss_is_wanted(monkeypatch):
    said = []
    monkeypatch.setattr(modeling_ts2vec.logger, "warning_once", said.append)
    model = TS2VecForPreTraining(TS2VecConfig(**TINY)).train()
    model(torch.randn(2, 20, 1))
    model.eval()(torch.randn(1, 20, 1))
    model.config.alpha = 0.0
    model.train()(torch.randn(1, 20, 1))
    assert not said
    model.config.alpha = 0.5
    assert model(torch.randn(1, 20, 1)).instance_loss == 0
    (warning,) = said
    assert "one series" in warning
    assert "max_train_length" in warning


def test_the_plain_side_of_the_benchmark_computes_the_same():
    torch.manual_seed(0)
    config = TS2VecConfig(num_input_channels=3, output_dropout=0.0, gate_padding=False, **TINY)
    model = TS2VecForPreTraining(config).eval()
    plain = PlainTS2Vec(model.model).eval()
    values = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    views = draw_views(2, 40, config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain.loss(values, views), model(values, views=views).loss)
        slid = plain.slide_causally(values[0], 21, batch_size=16)
    ours = model.model.encode(values[0].numpy(), level="timestamp", window_length=21, causal=True)
    torch.testing.assert_close(slid, torch.from_numpy(ours))


def test_observed_channels_stand_in_for_missing_ones():
    """The projection of n observed of m channels is m / n times that of the observed ones, without the bias."""
    torch.manual_seed(0)
    model = TS2VecModel(TS2VecConfig(num_input_channels=4, missing_values="value", **TINY))
    values = torch.tensor([[1.0, 2.0, torch.nan, 3.0], [torch.nan, torch.nan, 5.0, torch.nan], [torch.nan] * 4])
    observed = ~values.isnan()
    projected = model.project(values, observed)
    weight, bias = model.input_projection.weight, model.input_projection.bias
    torch.testing.assert_close(projected[0], weight[:, [0, 1, 3]] @ values[0, [0, 1, 3]] * 4 / 3 + bias)
    torch.testing.assert_close(projected[1], weight[:, 2] * 5 * 4 + bias)
    assert not projected[2].any()
    masked = model.project(values, observed, torch.tensor([True, False, True]))
    torch.testing.assert_close(masked[0], projected[0])
    assert not masked[1].any()
    whole = torch.randn(3, 7)
    assert torch.equal(scale_observed(whole, torch.ones_like(whole, dtype=torch.bool)), whole)


@pytest.mark.parametrize("gate_padding", [True, False])
def test_both_treatments_of_missing_values_are_one_where_timestamps_are_whole(gate_padding):
    views, losses = None, []
    values = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(1))
    values[0, 4:7] = torch.nan
    for missing_values in ("timestamp", "value"):
        torch.manual_seed(0)
        config = TS2VecConfig(
            num_input_channels=2, missing_values=missing_values, gate_padding=gate_padding, output_dropout=0.0, **TINY
        )
        views = views or draw_views(3, 20, config, torch.Generator().manual_seed(0))
        losses.append(TS2VecForPreTraining(config)(values, views=views).loss)
    assert losses[0] == losses[1]


def test_a_timestamp_with_an_observed_channel_is_compared():
    torch.manual_seed(0)
    config = TS2VecConfig(num_input_channels=2, missing_values="value", output_dropout=0.0, **TINY)
    model = TS2VecForPreTraining(config)
    values = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(1))
    values[:, :, 1] = torch.nan
    views = draw_views(3, 20, config, torch.Generator().manual_seed(0))
    model(values, views=views).loss.backward()
    gradient = model.model.input_projection.weight.grad
    assert gradient[:, 0].abs().sum() > 0
    assert not gradient[:, 1].any()


def test_a_folder_that_does_not_say_what_a_missing_value_takes_away_means_its_timestamp(tmp_path):
    TS2VecModel(TS2VecConfig(num_input_channels=2, **TINY)).save_pretrained(tmp_path)
    assert TS2VecConfig.from_pretrained(tmp_path).missing_values == TS2VecConfig().missing_values
    file = tmp_path / "config.json"
    written = json.loads(file.read_text())
    del written["missing_values"]
    written.pop("written_fields")  # an earlier folder does not list its fields
    file.write_text(json.dumps(written))
    assert TS2VecModel.from_pretrained(tmp_path).config.missing_values == "timestamp"
    assert TS2VecModel.from_pretrained(tmp_path, missing_values="value").config.missing_values == "value"
    with pytest.raises(ValueError, match="missing_values is 'channel'; choose one of timestamp, value"):
        TS2VecConfig(missing_values="channel")


@pytest.mark.parametrize("missing_values", ["timestamp", "value"])
@pytest.mark.parametrize("causal", [True, False])
def test_sliding_equals_its_windows_where_single_channels_are_missing(missing_values, causal):
    torch.manual_seed(0)
    model = TS2VecModel(TS2VecConfig(num_input_channels=3, missing_values=missing_values, **TINY)).eval()
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(50, 3, generator=generator)
    values[torch.rand(values.shape, generator=generator) < 0.2] = torch.nan
    values[20:28, 1] = torch.nan
    values[33] = torch.nan
    stride, around = 2, 9
    context = (around, 0) if causal else (around, around)
    with torch.inference_mode():
        expected = slide_by_windows(model, values, context, stride, 16, None)[: len(values)]
    found = model.encode(
        values.numpy(),
        level="timestamp",
        window_length=stride + sum(context),
        stride=stride,
        causal=causal,
        batch_size=7,
    )
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(expected).all()
