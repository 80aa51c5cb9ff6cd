"""GPHT's equations, and its future token by token: the window that slides, and the one whose tokens are kept."""

import pytest
import torch
from benchmark.plain_gpht import plain_future, plain_future_in_place, plain_loss
from contract_support import build
from torch.testing import assert_close

from hf_tsrep import GPHTConfig
from hf_tsrep.modeling import modeling_gpht
from hf_tsrep.modeling.layers_attention import AttentionCache
from hf_tsrep.modeling.modeling_gpht import (
    GPHTDraws,
    SeriesTokens,
    TokenCache,
    align_ends,
    pool_in_tokens,
    shift_by_a_token,
)

NAN = torch.nan


def past(length=16, batch_size=2, channels=3, seed=0):
    return torch.randn(batch_size, length, channels, generator=torch.Generator().manual_seed(seed)).cumsum(1)


@pytest.fixture(scope="module")
def model():
    return build("gpht", "prediction", context_length=12)


def test_a_series_ends_with_the_last_token():
    values = torch.arange(7.0).view(1, 7, 1)
    values[0, 6] = values[0, 0] = NAN
    series = align_ends(values, ~values.isnan(), 3)
    assert series.values.shape == (1, 9, 1)
    assert torch.where(series.observed, series.values, NAN)[0, 4:, 0].tolist() == [1, 2, 3, 4, 5]
    assert not series.observed[0, :4].any()
    assert (series.start.item(), series.length.item()) == (-3, 5)
    same = past(6)
    assert align_ends(same, torch.ones_like(same, dtype=torch.bool), 3).values is same


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_missing_values_are_left_out_of_the_pooling(pooling):
    values = torch.tensor([[1.0, -5.0, 2.0, 7.0]]).unsqueeze(-1)
    pool = torch.nn.MaxPool1d(2) if pooling == "max" else torch.nn.AvgPool1d(2)
    assert_close(pool_in_tokens(values, None, 2, pooling), pool(values.transpose(1, 2)).transpose(1, 2))
    observed = torch.tensor([[False, True, False, False]]).unsqueeze(-1)
    assert pool_in_tokens(values, observed, 2, pooling).flatten().tolist() == [-5.0, 0.0]
    assert_close(
        pool_in_tokens(values, torch.ones_like(observed), 2, pooling), pool_in_tokens(values, None, 2, pooling)
    )


def test_a_residual_is_shifted_by_a_token():
    outputs = torch.arange(6.0).view(1, 3, 2, 1)
    assert shift_by_a_token(outputs).flatten().tolist() == [0, 0, 0, 1, 2, 3]
    assert shift_by_a_token(outputs[:, 1:2], outputs[:, :1]).flatten().tolist() == [0, 1]


def test_a_token_sees_none_after_it(model):
    values, changed = past(), past()
    changed[:, 12:] += 1.0
    observed = torch.ones_like(values, dtype=torch.bool)
    series = align_ends(values, observed, 4)
    statistics = modeling_gpht.instance_statistics(series.values, observed)
    cut = model.cut(series, statistics)
    other = model.cut(align_ends(changed, observed, 4), statistics)
    for before, after in zip(
        model.model.encode_tokens(cut).hidden, model.model.encode_tokens(other).hidden, strict=True
    ):
        assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
        assert not torch.equal(before[:, 3], after[:, 3])


def test_the_window_slides_as_if_every_forecast_were_a_new_series(model):
    values, parts = past(10), []
    whole = values
    for _ in range(4):
        parts.append(model.generate(whole[:, -12:], 4))
        whole = torch.cat((whole, parts[-1]), dim=1)
    assert_close(model.generate(values, 15), torch.cat(parts, dim=1)[:, :15], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [4, 6, 9, 12, 30])
@pytest.mark.parametrize("context_length", [4, 12])
@pytest.mark.parametrize("gaps", [False, True])
def test_cached_and_uncached_tokens_are_equal(length, context_length, gaps):
    model, values = build("gpht", "prediction", context_length=context_length), past(length)
    if gaps:
        values[0, : length // 2] = NAN
        values[1, 1:4, 0] = NAN
        values[1, -1] = NAN
    arguments = {"prediction_length": 29, "generation_window": "fixed"}
    cached = model.generate(values, use_cache=True, **arguments)
    assert torch.isfinite(cached).all()
    assert_close(cached, model.generate(values, use_cache=False, **arguments), rtol=1e-5, atol=1e-5)
    assert_close(cached, model.generate(values, **arguments), rtol=0, atol=0)
    assert not torch.allclose(cached, model.generate(values, 29), atol=1e-3)


def test_both_windows_begin_alike(model):
    values = past(12)
    first = model.generate(values, 4)
    assert_close(model.generate(values, 9, generation_window="fixed")[:, :4], first, rtol=1e-5, atol=1e-5)
    config = {"context_length": 12, "generation_window": "fixed", "prediction_length": 9}
    fixed = build("gpht", "prediction", **config)
    assert_close(fixed(values).prediction_outputs, model.generate(values, 9, generation_window="fixed"))


def test_a_kept_token_costs_the_same_however_many_came_before(model, monkeypatch):
    """Every step reads one token and at most the window's keys, however long the future is."""
    read, keys = [], []
    encode_tokens, extend = modeling_gpht.GPHTModel.encode_tokens, AttentionCache.extend

    def watched(self, tokens, *arguments, **named):
        read.append(tokens.values.shape[1])
        return encode_tokens(self, tokens, *arguments, **named)

    def watched_keys(self, *arguments):
        found = extend(self, *arguments)
        keys.append(found[0].shape[2])
        return found

    monkeypatch.setattr(modeling_gpht.GPHTModel, "encode_tokens", watched)
    monkeypatch.setattr(AttentionCache, "extend", watched_keys)
    model.generate(past(12), 80, generation_window="fixed")
    assert read == [3] + [1] * 19
    assert max(keys) == model.config.num_context_tokens == 3
    read.clear()
    model.generate(past(12), 80, generation_window="fixed", use_cache=False)
    assert read == list(range(3, 23))


def test_tokens_may_come_several_at_a_time():
    model, window = build("gpht", "model", context_length=12), 3
    values = torch.randn(2, 8, 4, 1, generator=torch.Generator().manual_seed(0))
    places = torch.arange(8).expand(2, -1)
    expected = model.encode_tokens(SeriesTokens(values, None, places), window=window).hidden
    cache, parts = TokenCache(window), []
    for start, stop in ((0, 3), (3, 5), (5, 6), (6, 8)):
        tokens = SeriesTokens(values[:, start:stop], None, places[:, start:stop])
        parts.append(model.encode_tokens(tokens, window=window, cache=cache).hidden)
    for stage, hidden in enumerate(expected):
        assert_close(torch.cat([part[stage] for part in parts], dim=1), hidden, rtol=1e-5, atol=1e-5)


def test_what_generate_cannot_use_is_refused(model):
    values = past(12)
    with pytest.raises(
        TypeError, match=r"no argument 'prediction_lenght'. Did you mean 'prediction_length'\? It takes"
    ):
        model.generate(values, prediction_lenght=5)
    for length in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match=rf"prediction_length={length} must be a whole number of at least 1"):
            model.generate(values, length)
    with pytest.raises(ValueError, match=r"3 timestamps, fewer than a token; give at least 4 .*at best 12"):
        model.generate(values[:, :3], 5)
    with pytest.raises(ValueError, match=r"use_cache=True with generation_window='sliding'.*='fixed'"):
        model.generate(values, 5, use_cache=True)
    with pytest.raises(ValueError, match="generation_window='slides'"):
        model.generate(values, 5, generation_window="slides")
    with pytest.raises(ValueError, match="num_input_channels=3"):
        model.generate(values[..., :2], 5)


def test_generate_has_no_dropout_and_no_gradient(model):
    values, expected = past(12), model.generate(past(12), 9)
    model.train()
    assert_close(model.generate(values, 9), expected, rtol=0, atol=0)
    assert not model.generate(values, 9).requires_grad
    assert model.training
    model.eval()


def test_the_pretrained_model_is_the_one_that_predicts(tmp_path):
    pretrained, values = build("gpht", "pretraining"), past()
    pretrained.save_pretrained(tmp_path)
    opened = modeling_gpht.GPHTForTimeSeriesPrediction.from_pretrained(tmp_path)
    assert_close(opened.generate(values, 11), pretrained.generate(values, 11), rtol=0, atol=0)


def test_quantiles_go_on_from_the_median_and_rise():
    model = build("gpht", "prediction", quantiles=[0.1, 0.5, 0.9], prediction_length=10)
    output = model(past())
    assert (output.quantile_outputs.diff(dim=-1) >= 0).all()
    assert_close(model.generate(past()), output.prediction_outputs)


def test_series_of_any_number_of_channels_are_taken_where_the_config_says_so():
    model = build("gpht", "prediction", accepts_any_channels=True)
    values = past(channels=5)
    future = model.generate(values, 7)
    assert future.shape == (2, 7, 5)
    for channel in range(5):
        assert_close(model.generate(values[..., [channel]], 7)[..., 0], future[..., channel], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"accepts_any_channels is True.*channel_mode='joint'"):
        GPHTConfig(accepts_any_channels=True, channel_mode="joint")


def test_a_fine_tuning_may_learn_every_tokens_successor():
    """As published: the loss of the pre-training, whose target is the past and the first token of the future."""
    model = build("gpht", "prediction", forecast_loss="tokens", prediction_length=4)
    pretrained = build("gpht", "pretraining")
    pretrained.load_state_dict(model.state_dict())
    values, future = past(), past(4, seed=1)
    found = model(values, future_values=future)
    expected = pretrained(torch.cat((values, future), dim=1), draws=GPHTDraws())
    assert_close(found.loss, expected.loss)
    assert_close(found.prediction_outputs, expected.prediction[:, -4:])
    values[0, 3:9] = NAN
    values[1, :5] = NAN
    future[0, 2, 1] = NAN
    found = model(values, future_values=future, future_observed_mask=~future.isnan())
    assert_close(found.loss, pretrained(torch.cat((values, future), dim=1), draws=GPHTDraws()).loss)
    shorter = build("gpht", "prediction", forecast_loss="tokens", prediction_length=2)
    assert torch.isfinite(shorter(values, future_values=future[:, :2]).loss)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pooling_rates": [8, 5]}, r"pooling_rates is \[8, 5\].*divides token_length, 48"),
        ({"pooling_rates": []}, "pooling_rates is"),
        ({"context_length": 340}, "context_length is 340; it must be a multiple of token_length, 48, such as 336"),
        ({"num_attention_heads": 7}, "multiple of num_attention_heads"),
        ({"generation_window": "rolling"}, "generation_window is 'rolling'"),
        ({"embedding_size": 3}, "embedding_size is 3"),
        ({"num_output_channels": 2}, "num_output_channels is 2"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        GPHTConfig(**fields)


@pytest.mark.parametrize("rule", ["sliding", "fixed"])
def test_the_plain_implementation_computes_the_same(rule):
    model, values = build("gpht", "pretraining").train(), past(20)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss, expected = model(values).loss, plain_loss(model, values)
    assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(one, list(model.parameters())) for one in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)
    model.eval()
    tell = plain_future if rule == "sliding" else plain_future_in_place
    with torch.no_grad():
        future = tell(model, past(16), 11)
    assert_close(model.generate(past(16), 11, generation_window=rule), future, rtol=1e-5, atol=1e-5)
