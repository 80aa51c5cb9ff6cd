"""What `encode` promises, for every method; random series, orders and threads: tests/attacks."""

import inspect
import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from contract_support import HEADS, METHOD_NAMES, build
from datasets import Array2D, Dataset, Features
from transformers import AutoModel

from hf_tsrep import TimeSeriesFeatureExtractor, get_method
from hf_tsrep.data import SeriesList, corpus_metadata, get_series
from hf_tsrep.data.corpus import attach_metadata
from hf_tsrep.modeling import batching_time_series, kernels_attention
from hf_tsrep.modeling.batching_time_series import warn_of_attention
from hf_tsrep.modeling.modeling_time_series import TimeSeriesPreTrainedModel

every_method = pytest.mark.parametrize("name", METHOD_NAMES)
MODELS = {name: build(name, "model") for name in METHOD_NAMES}


def series_of(lengths, missing=0.0, seed=0):
    generator = np.random.default_rng(seed)
    series = [generator.standard_normal((length, 3)).astype(np.float32) for length in lengths]
    for values in series:
        values[generator.random(len(values)) < missing] = np.nan
    return SeriesList(series)


@every_method
def test_a_causal_embedding_does_not_see_the_future(name):
    model = MODELS[name]
    (values,) = series_of([50])
    changed = values.copy()
    changed[30:] += 5.0
    arguments = {"level": "timestamp", "window_length": 12, "causal": True}
    before, after = model.encode(values, **arguments), model.encode(changed, **arguments)
    np.testing.assert_allclose(before[:30], after[:30], rtol=1e-5, atol=1e-6)
    assert np.abs(before[30:] - after[30:]).max() > 1e-3


@every_method
def test_every_holder_of_series_is_taken(name):
    import datasets
    import pandas as pd
    import polars as pl

    model, series = MODELS[name], series_of([20, 20])
    expected = model.encode(series)
    stacked = np.stack(series)
    column = datasets.Dataset.from_dict({"series": [values.tolist() for values in series]})["series"]
    for holder in (tuple(series), stacked, torch.from_numpy(stacked), stacked.astype(np.float64), column):
        np.testing.assert_allclose(model.encode(holder), expected, rtol=1e-5, atol=1e-6)
    for frame in (pd.DataFrame(series[0], columns=list("abc")), pl.DataFrame(series[0], schema=list("abc"))):
        np.testing.assert_allclose(model.encode(frame), expected[0], rtol=1e-5, atol=1e-6)


@every_method
def test_every_level_has_its_shape(name):
    model, size = MODELS[name], MODELS[name].config.embedding_size
    even, ragged = series_of([20, 20, 20]), series_of([20, 7, 1])
    assert model.encode(even).shape == (3, size)
    assert model.encode(even[0]).shape == (size,)
    assert model.encode(even, level="timestamp").shape == (3, 20, size)
    assert [len(one) for one in model.encode(ragged, level="timestamp")] == [20, 7, 1]
    assert model.encode(even[0], level="window", window_length=8).shape == (3, size)
    assert [len(one) for one in model.encode(ragged, level="window", window_length=8, stride=4)] == [4, 1, 1]
    assert model.encode([]).shape == (0, size)
    windows = model.encode(even[0], level="window", window_length=8)
    np.testing.assert_allclose(windows[1], model.encode(even[0][8:16]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(windows[2], model.encode(even[0][16:]), rtol=1e-5, atol=1e-6)


@every_method
def test_normalisation_pooling_and_dtype_are_options(name):
    model, series = MODELS[name], series_of([20, 9])
    np.testing.assert_allclose(np.linalg.norm(model.encode(series, normalize=True), axis=1), 1.0, rtol=1e-5)
    steps = model.encode(series, level="timestamp")
    for pooling, function in (("max", np.max), ("mean", np.mean), ("last", lambda rows, axis: rows[-1])):
        expected = np.stack([function(rows, axis=0) for rows in steps])
        np.testing.assert_allclose(model.encode(series, pooling=pooling), expected, rtol=1e-5, atol=1e-6)
    assert model.encode(series).dtype == np.float32


@every_method
def test_encode_leaves_the_model_as_it_was(name):
    model = build(name, "pretraining").train()
    model.model.dropout.eval() if hasattr(model.model, "dropout") else None
    states = [module.training for module in model.modules()]
    first, second = model.encode(series_of([20])), model.encode(series_of([20]))
    np.testing.assert_array_equal(first, second)
    assert [module.training for module in model.modules()] == states


WRONG = {
    "level": ({"level": "step"}, "level='step'"),
    "batch size": ({"batch_size": 0}, "batch_size=0"),
    "stride without window": ({"stride": 2}, "needs window_length"),
    "causal without window": ({"causal": True}, "needs window_length"),
    "stride over window": ({"level": "timestamp", "window_length": 4, "stride": 5}, "stride=5"),
    "uneven window": ({"level": "timestamp", "window_length": 4, "stride": 1}, "use window_length=5"),
    "window without length": ({"level": "window"}, "needs window_length"),
    "pooling of instances": ({"pooling": "multiscale"}, "multiscale"),
    "pooling of timestamps": ({"level": "timestamp", "pooling": "mean"}, "pooling='mean'"),
}


@every_method
@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_named_with_the_fix(name, case):
    arguments, words = WRONG[case]
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        MODELS[name].encode(series_of([20]), **arguments)


@every_method
def test_wrong_series_are_named_with_the_place(name):
    model, (good,) = MODELS[name], series_of([10])
    infinite = good.copy()
    infinite[4, 2] = np.inf
    frame = pd.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0]})
    cases = [
        ([good, good.T], "series 1 has shape (3, 10)"),
        (good[:, :2], "3 channel(s) last"),
        ([good, good[:0]], "series 1 has no timestamps"),
        ([good, infinite], "series 1 is infinite at timestamp 4, channel 2"),
        ([good, [["a", "b", "c"]]], "series 1 does not hold numbers"),
        (frame, "column 'b' holds"),
    ]
    for series, words in cases:
        with pytest.raises(ValueError, match=re.escape(words)):
            model.encode(series)
    with pytest.raises(TypeError, match="dataset\\['series'\\]"):
        model.encode({"series": [good]})
    with pytest.raises(TypeError, match=r"no argument 'windw_length'. Did you mean 'window_length'\? It takes series"):
        model.encode(good, windw_length=3)


@every_method
def test_series_with_time_last_are_read_where_it_is_said(name):
    model, batch = MODELS[name], np.stack(series_of([24, 24]))
    expected = model.encode(batch)
    np.testing.assert_array_equal(model.encode(batch.transpose(0, 2, 1), layout="nct"), expected)
    np.testing.assert_array_equal(model.encode([one.T for one in batch], layout="nct"), expected)
    np.testing.assert_allclose(model.encode(batch[0].T, layout="nct"), expected[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(3, 24\).*layout='nct'"):
        model.encode(batch.transpose(0, 2, 1))
    with pytest.raises(ValueError, match="layout='tnc' is unknown"):
        model.encode(batch, layout="tnc")


@every_method
def test_a_square_is_refused_unless_its_layout_is_known(name):
    model, (square, longer) = MODELS[name], series_of([3, 24])
    for series in (square, square[None], [square, square]):
        with pytest.raises(ValueError, match=r"as many steps as channels, 3, .*layout='ntc'.*layout='nct'"):
            model.encode(series)
    told = model.encode(square, layout="ntc")
    np.testing.assert_array_equal(model.encode(square.T, layout="nct"), told)
    np.testing.assert_array_equal(model.encode(pd.DataFrame(square)), told)
    np.testing.assert_allclose(
        model.encode([square, longer])[0], told, rtol=1e-5, atol=1e-6
    )  # the longer one shows the layout
    np.testing.assert_array_equal(model.encode(SeriesList([square]))[0], told)


@every_method
def test_holders_of_several_series_are_no_single_one(name):
    model, series = MODELS[name], series_of([20, 30])
    expected = model.encode(series)
    index = [(item, step) for item, one in zip("ba", series, strict=True) for step in range(len(one))]
    items = pd.DataFrame(np.concatenate(series), index=pd.MultiIndex.from_tuples(index, names=["item", "time"]))
    nested = pd.DataFrame({channel: [pd.Series(one[:, channel]) for one in series] for channel in range(3)})
    ragged = np.empty(2, dtype=object)
    ragged[:] = series
    for holder in (items, nested, ragged, pd.Series(list(series))):
        np.testing.assert_array_equal(model.encode(holder), expected)
    with pytest.raises(ValueError, match="item 'b': its times are not in order"):
        model.encode(items.iloc[[1, 0, *range(2, 50)]])


@every_method
def test_a_mask_means_missing(name):
    (one,) = series_of([30])
    masked = np.ma.masked_array(np.where(np.isnan(one), 7.0, one), mask=np.isnan(one))
    masked[2, :] = np.ma.masked
    missing = one.copy()
    missing[2] = np.nan
    for holder in (masked, [masked], masked[None]):
        np.testing.assert_array_equal(np.reshape(MODELS[name].encode(holder), -1), MODELS[name].encode(missing))


@every_method
def test_what_holds_no_real_numbers_of_float32_is_refused(name):
    import pandas as pd

    (one,) = series_of([20])
    large = one.astype(np.float64)
    large[4, 2] = 1e300
    cases = [
        (one.astype(str), "text"),
        (one.astype(complex), "complex128"),
        (torch.tensor(one, dtype=torch.complex64), "complex64"),
        (np.zeros((20, 3), dtype="timedelta64[s]"), "timedelta64"),
        (pd.DataFrame(one).astype(complex), "complex128"),
        (pd.DataFrame(one).astype(str), "column 0 holds"),
        (large, r"has 1e\+300 at timestamp 4, channel 2: beyond float32"),
        (pd.DataFrame(large), r"has 1e\+300 at timestamp 4, channel 2: beyond float32"),
    ]
    for series, words in cases:
        with pytest.raises(ValueError, match=words):
            MODELS[name].encode(series)


@every_method
def test_further_arguments_of_a_method_are_in_signature_and_help_of_every_class(name):
    declared = inspect.signature(MODELS[name].encode_arguments).parameters
    for kind in ("model", *HEADS):
        encode = get_method(name).model_classes[kind].encode
        shared = [*inspect.signature(TimeSeriesPreTrainedModel.encode).parameters]
        assert [*inspect.signature(encode).parameters] == [*shared, *declared]
        assert all(f"\n            {argument}: " in encode.__doc__ for argument in declared)
        assert "method_arguments" not in [*shared, *declared]


def prepared_model(name, **given):
    model = build(name, "classification")
    statistics = {"mean": [10.0, -2.0, 0.5], "scale": [4.0, 0.5, 3.0]}
    model.preparation = TimeSeriesFeatureExtractor(3, **statistics, channel_names=["x", "y", "z"], **given)
    return model


@every_method
def test_a_model_prepares_raw_series_once(name, tmp_path):
    model, raw = prepared_model(name), [10 + 4 * one for one in series_of([12, 20, 20], 0.1)]
    inputs = [(one - [10.0, -2.0, 0.5]) / [4.0, 0.5, 3.0] for one in raw]
    expected = model.encode(inputs, prepared=True)
    assert not np.array_equal(model.encode(inputs), expected)  # methods that normalise every series are near
    frames = [pd.DataFrame(one, columns=["x", "y", "z"])[["z", "x", "y"]] for one in raw]
    features = Features({"series": Array2D((None, 3), "float32")})
    corpus = Dataset.from_dict({"series": [one.astype(np.float32) for one in inputs]}, features=features)
    scaled = attach_metadata(corpus, replace(corpus_metadata(corpus), scaler={"mean": [0.0] * 3, "scale": [1.0] * 3}))
    model.save_pretrained(tmp_path)
    opened = AutoModel.from_pretrained(tmp_path)
    assert opened.preparation.to_dict() == model.preparation.to_dict()
    for case, found in {
        "arrays": model.encode(raw),
        "frames, whose columns have another order": model.encode(frames),
        "what transform made": model.encode(model.preparation.transform(raw)),
        "series of a scaled corpus": model.encode(get_series(scaled)),
        "the encoder of a model with a head": model.base_model.encode(raw),
        "loaded from a folder": opened.encode(raw),
    }.items():
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, err_msg=case)
    np.testing.assert_allclose(model.encode(raw[1]), expected[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [one for one in METHOD_NAMES if get_method(one).tokenizer_class is None])
def test_dates_are_read_where_calendar_features_need_them(name):
    model = build(name, "model", num_input_channels=10)
    model.preparation = TimeSeriesFeatureExtractor(3, time_features=True)
    (one,) = series_of([20])
    dates = np.datetime64("2024-01-01", "h") + np.arange(20)
    expected = model.encode(model.preparation.transform(one, dates)[0], prepared=True)
    np.testing.assert_allclose(model.encode(one, timestamps=dates), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="has no timestamps"):
        model.encode(one)


def test_dates_that_nothing_reads_are_refused():
    model = MODELS[METHOD_NAMES[0]]
    with pytest.raises(ValueError, match="nothing reads them"):
        model.encode(series_of([5]), timestamps=np.datetime64("2024-01-01", "h") + np.arange(5))


def test_a_model_with_hooks_in_training_mode_runs_them_in_evaluation_mode():
    model, series = build("ts2vec", "model", output_dropout=0.9), series_of([30])
    expected = model.encode(series)
    seen = []

    class Spy(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            seen.append(module.training)
            return args, kwargs

    for module in model.modules():
        add_hook_to_module(module, Spy())
    np.testing.assert_array_equal(model.train().encode(series), expected)
    assert seen
    assert not any(seen)
    assert all(module.training for module in model.modules())


SHAPES = {
    "alternating": (-1.0) ** np.arange(40),
    "one": np.eye(40)[20],
    "ramp": np.linspace(-1.0, 1.0, 40),
}


@every_method
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-30, 1e6, 1e15, 1e19, 1e25, 1e38, 3e38])
def test_finite_values_have_finite_embeddings_or_are_refused_by_name(name, shape, size):
    series = [np.ones((7, 3)), np.repeat(size * SHAPES[shape][:, None], 3, axis=1)]
    named = rf"series 1, whose largest value is {re.escape(f'{size:.3g}')}, is not finite"
    for asked in ({}, {"normalize": True}, {"level": "timestamp"}, {"level": "window", "window_length": 16}):
        refused = pytest.raises(ValueError, match=named) if size > 1e18 else nullcontext()
        with refused:
            embedding = MODELS[name].encode(series, **asked)[1]
            assert np.isfinite(embedding).all()
            if asked == {"normalize": True}:
                assert np.linalg.norm(embedding) == pytest.approx(1.0, rel=1e-5)
            if size > 1e18:  # some methods take such values, and then all is well
                raise ValueError(f"series 1, whose largest value is {size:.3g}, is not finite")


def test_a_scaled_value_beyond_float32_is_named():
    preparation = TimeSeriesFeatureExtractor(2, mean=[0.0, 0.0], scale=[1.0, 1e-30], channel_names=["load", "speed"])
    with pytest.raises(ValueError, match=r"series 1, step 2, channel 'speed'.*beyond float32"):
        preparation.transform([np.zeros((3, 2)), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1e20]])])


def test_damaged_weights_are_told_from_large_values():
    model = build("ts2vec", "model")
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"series 0, whose largest value is 1, is not finite.*weights are damaged"):
        model.encode(np.ones((5, 3)))


@every_method
def test_a_window_of_pooling_beyond_the_series_costs_no_more_than_the_series(name):
    (values,) = series_of([30], 0.2)
    expected = MODELS[name].encode(values, level="timestamp", pooling=61)
    for window in (10**6 + 1, 10**9, 10**12):
        found = MODELS[name].encode(values, level="timestamp", pooling=window)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("series", "told"),
    [
        ([10**400], "the series does not hold numbers"),
        (torch.zeros(5, 3, device="meta"), "meta device"),
        (torch.zeros(5, 3, dtype=torch.complex64), "complex"),
        (np.zeros((5, 3), dtype=complex), "complex"),
        (np.array([["a", "b", "c"]]), "text"),
    ],
)
def test_what_holds_no_numbers_is_refused_by_name(series, told):
    with pytest.raises(ValueError, match=told):
        MODELS["ts2vec"].encode(series)


@every_method
def test_a_window_longer_than_the_series_costs_no_more_than_the_series(name):
    model, (values,) = MODELS[name], series_of([20])
    values[:2] = np.nan
    for arguments in ({}, {"causal": True}, {"level": "timestamp", "causal": True}, {"level": "timestamp"}):
        expected = model.encode(values, window_length=101, **arguments)
        found = model.encode(values, window_length=10**9 + 1, **arguments)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    whole = model.encode(values, level="timestamp", window_length=10**9, stride=10**9)
    np.testing.assert_allclose(whole, model.encode(values, level="timestamp"), rtol=1e-5, atol=1e-5)


@every_method
def test_a_mode_that_is_set_meanwhile_reaches_no_encode(name):
    fields = get_method(name).config_class.field_names() & {"dropout"}
    model, series = build(name, "model", **dict.fromkeys(fields, 0.5)), series_of([20, 20])
    expected = model.encode(series)
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv1d))
    first.register_forward_pre_hook(lambda *_: model.train() and None)
    np.testing.assert_array_equal(model.encode(series), expected)
    assert model.training


@every_method
def test_a_window_that_no_machine_holds_is_refused_with_the_length_that_fits(name):
    model, (values,) = MODELS[name], series_of([20])
    told = rf"window_length={10**11} would take .* GiB .*At most {2**34 // model.config.embedding_size} timestamps"
    with pytest.raises(ValueError, match=told):
        model.encode(values, level="timestamp", window_length=10**11, pooling="multiscale", causal=True)
    with pytest.raises(ValueError, match=told):
        model.stream(10**11)


@every_method
def test_the_longest_series_is_that_of_the_learned_positions(name):
    fields = get_method(name).config_class.field_names() & {"position_embedding"}
    model = build(name, "model", **dict.fromkeys(fields, "learned"))
    longest = model.config.longest_length
    if longest is None:
        assert not fields
        return
    values, longer = series_of([longest, longest + 1])
    assert np.isfinite(model.encode(values)).all()
    with pytest.raises(ValueError, match="max_position_embeddings"):
        model.encode(longer)


@every_method
def test_what_attention_takes_is_counted(name, monkeypatch):
    model, taken = MODELS[name], []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, *arguments, **named):
        taken.append(4 * query.numel() * key.shape[-2])
        return attend(query, key, *arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(kernels_attention, "LARGEST_HEAD_SIZE", 0)  # of the kernel that is watched by nobody
    for length in (300, 600, 1200):
        taken.clear()
        model.encode(series_of([length])[0])
        told = model.attention_operations(length)
        assert told <= sum(taken) <= 2 * told  # a window's blocks and attention to other things count as linear


@every_method
def test_a_series_that_takes_hours_is_not_begun_in_silence(name, caplog, monkeypatch):
    model = MODELS[name]
    (values,), mebi = series_of([64]), 2**20
    is_quadratic = model.attention_operations(2 * mebi) > 3 * model.attention_operations(mebi)
    monkeypatch.setattr(batching_time_series.logger, "propagate", True)
    warn_of_attention(model, mebi, {})
    assert bool(caplog.messages) == is_quadratic
    for arguments, words in (
        ({}, ("64 timestamps, read at once", "window_length=W")),
        ({"window_length": 31}, ("64 windows of 31", "larger stride")),
        ({"window_length": 31, "level": "window"}, ("3 windows of 31",)),
    ):
        caplog.clear()
        monkeypatch.setattr(batching_time_series, "LARGE_ATTENTION", 10**13)
        model.encode(values, **arguments)
        assert not caplog.messages
        monkeypatch.setattr(batching_time_series, "LARGE_ATTENTION", 0)
        model.encode(values, **arguments)
        has_attention = model.attention_operations(64) > 0
        assert has_attention == any(all(word in one for word in words) for one in caplog.messages), caplog.messages


def test_attention_that_would_hold_all_weights_of_a_long_row_is_refused():
    model = build("tst", "model")
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r'200000 x 200000 weights.*attn_implementation="sdpa"'):
        model.encode(np.zeros((200_000, 3), np.float32))
