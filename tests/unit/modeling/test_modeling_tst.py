"""TST's masks, variants and heads: what the contract suite tests for one variant holds for all."""

import itertools
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from benchmark.cases_tst import CASES
from company import assert_company_changes_nothing
from torch.utils.flop_counter import FlopCounterMode

from hf_tsrep import (
    TSTConfig,
    TSTForPreTraining,
    TSTForTimeSeriesClassification,
    TSTForTimeSeriesPrediction,
    TSTModel,
)
from hf_tsrep.modeling.layers_attention import window_mask
from hf_tsrep.modeling.layers_normalization import MaskedBatchNorm
from hf_tsrep.modeling.layers_patching import align_series
from hf_tsrep.modeling.modeling_tst import (
    ConvolutionalProjection,
    TSTDraws,
    compensate_masking,
    draw_masks,
    draw_step,
    masked_errors,
    transduction_mask,
)

LONG = {"input_projection": "convolution", "projection_kernel_size": 5, "projection_stride": 3}
VARIANTS = [
    {"normalization": normalization, "position_embedding": positions, "attention_window": window, **projection}
    for normalization, positions, window, projection in itertools.product(
        ("batch", "layer"), ("fixed", "learned"), (None, 7), ({}, LONG)
    )
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
HEADS = (TSTForPreTraining, TSTForTimeSeriesClassification, TSTForTimeSeriesPrediction)


def build(model_class=TSTModel, **fields):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    given = {"num_input_channels": 3, "prediction_length": 5, "num_labels": 4, "context_length": 24, **sizes, **fields}
    return model_class(TSTConfig(**given)).eval()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def inputs_of(model_class, values):
    if model_class is TSTForTimeSeriesClassification:
        return {"past_values": values, "labels": torch.arange(len(values)) % 4}
    if model_class is TSTForTimeSeriesPrediction:
        return {"past_values": values, "future_values": random(len(values), 5, 3, seed=9)}
    return {"past_values": values}


@every_variant
def test_company_changes_nothing(variant):
    assert_company_changes_nothing(build(**variant))


@every_variant
@pytest.mark.parametrize("model_class", HEADS)
def test_padding_changes_no_head_and_every_parameter_learns(variant, model_class):
    model = build(model_class, **variant, dropout=0.0, head_dropout=0.0, classifier_dropout=0.0).train()
    values = random(4, 20, 3)
    values[1, 4:9] = torch.nan
    values[2, :, 1] = torch.nan
    padded = F.pad(values, (0, 0, 2, 2), value=torch.nan)
    losses = []
    for one, keep in ((values, slice(None)), (padded, slice(2, 22))):
        inputs = inputs_of(model_class, one)
        if model_class is TSTForPreTraining:
            kept = torch.ones(4, one.shape[1], 3, dtype=torch.bool)
            kept[:, keep] = draw_masks(model.config, 4, 20, generator())
            inputs["draws"] = TSTDraws(0, kept)
        losses.append(model(**inputs).loss)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    losses[0].backward()
    assert not [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]


def test_padding_counts_in_the_statistics_where_the_config_says_so():
    found = {}
    for over_padding, length in itertools.product((False, True), (20, 24)):
        model = build(TSTForPreTraining, normalize_over_padding=over_padding, dropout=0.0, head_dropout=0.0).train()
        values = F.pad(random(4, 20, 3), (0, 0, 0, length - 20), value=torch.nan)
        keep = torch.ones(4, 24, 3, dtype=torch.bool)
        keep[:, :20] = draw_masks(model.config, 4, 20, generator())
        model(values, draws=TSTDraws(0, keep[:, :length]))
        found[over_padding, length] = model.model.encoder.layers[0].attention_norm.running_mean
    torch.testing.assert_close(found[False, 20], found[False, 24])
    torch.testing.assert_close(found[True, 20], found[True, 24], msg="a shorter batch is padded to the context")
    assert not torch.allclose(found[True, 20], found[False, 20], rtol=1e-2)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 23])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (4, 1), (3, 3), (7, 3), (8, 5)])
def test_a_token_of_the_convolution_sees_its_timestamps_and_those_around(length, kernel_size, stride):
    torch.manual_seed(0)
    projection = ConvolutionalProjection(2, 5, kernel_size, stride)
    values = random(3, length, 2)
    found = projection(values)
    assert found.shape == (3, -(-length // stride), 5)
    before = (kernel_size - stride) // 2
    for token in range(found.shape[1]):
        places = [token * stride - before + tap for tap in range(kernel_size)]
        seen = torch.stack([values[:, at] if 0 <= at < length else torch.zeros(3, 2) for at in places], dim=-1)
        expected = torch.einsum("bck,hck->bh", seen, projection.convolution.weight) + projection.convolution.bias
        torch.testing.assert_close(found[:, token], expected)


def test_a_convolution_of_one_timestamp_is_the_linear_projection():
    linear = build()
    convolution = build(input_projection="convolution", projection_kernel_size=1)
    state = linear.state_dict()
    weight = state.pop("encoder.projection.weight").unsqueeze(-1)
    bias = state.pop("encoder.projection.bias")
    state |= {"encoder.projection.convolution.weight": weight, "encoder.projection.convolution.bias": bias}
    convolution.load_state_dict(state)
    values = random(2, 17, 3)
    torch.testing.assert_close(convolution(values).last_hidden_state, linear(values).last_hidden_state)


def test_timestamps_of_one_token_share_its_embedding():
    hidden = build(**LONG)(F.pad(random(1, 8, 3), (0, 0, 2, 0), value=torch.nan)).last_hidden_state[0]
    assert not hidden[:2].any()
    groups = [hidden[2:5], hidden[5:8], hidden[8:10]]
    for group in groups:
        assert torch.equal(group, group[:1].expand_as(group))
    assert not torch.equal(groups[0][0], groups[1][0])


def plainly(model, values):
    """The encoder with all attention weights in memory, under the mask of the window."""
    encoder, observed = model.encoder, ~values.isnan()
    hidden = encoder._embed(torch.where(observed, values, 0.0), None)
    mask = window_mask(observed.any(-1)[:, None, None], model.config.attention_window or values.shape[1])
    for layer in encoder.layers:
        attention = layer.attention
        query, key, value = (
            part.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for part in attention.input_projection(hidden).chunk(3, dim=-1)
        )
        scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        hidden = layer.attention_norm(hidden + attention.output_projection(attended))
        hidden = layer.output_norm(hidden + layer.contraction(layer.activate(layer.expansion(hidden))))
    return hidden


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("length", [1, 9, 10, 11, 40])
def test_attention_is_whole_up_to_the_window_and_near_beyond_it(length, normalization):
    model = build(attention_window=10, normalization=normalization)
    values = random(3, length, 3)
    values[1, 1:3] = torch.nan
    torch.testing.assert_close(model(values).last_hidden_state, plainly(model, values), rtol=1e-4, atol=1e-5)
    whole = build(normalization=normalization)
    same = torch.allclose(model(values).last_hidden_state, whole(values).last_hidden_state, rtol=1e-3, atol=1e-4)
    assert same == (length <= 10)


def test_a_short_series_beside_a_long_one_still_sees_all_of_itself():
    model, values = build(attention_window=10), random(2, 60, 3)
    values[1, 10:] = torch.nan
    alone = model(values[1:, :10]).last_hidden_state
    torch.testing.assert_close(model(values).last_hidden_state[1:, :10], alone, rtol=1e-4, atol=1e-5)


def test_a_gap_wider_than_the_window_is_no_trouble():
    model, values = build(attention_window=6), random(1, 40, 3)
    values[:, 10:30] = torch.nan
    embeddings, pooled = model.embed_timestamps(values)
    assert embeddings.isfinite().all()
    assert not pooled[0, 10:30].any()


def test_the_cost_of_a_window_grows_with_the_length_alone():
    def operations(length, window):
        # With dropout of the weights, whose products are all counted.
        model = build(attention_window=window, attention_dropout=0.1, context_length=4096).train()
        with FlopCounterMode(display=False) as counter:
            model(random(1, length, 3))
        return counter.get_total_flops()

    assert operations(1024, 64) < 2.1 * operations(512, 64)
    assert operations(512, None) > 4 * operations(512, 64)


EXPORTED = [
    ({"attention_window": 7}, (5, 30, 77)),
    ({"position_embedding": "learned"}, (5, 30, 77)),
    ({**LONG, "projection_stride": 1}, (5, 30, 77)),
    (LONG, (30,)),
]


@pytest.mark.parametrize(("variant", "lengths"), EXPORTED)
def test_torch_export_takes_every_variant(variant, lengths):
    model = build(**variant)
    time = torch.export.Dim("time", min=4, max=1024) if len(lengths) > 1 else torch.export.Dim.STATIC
    shapes = {"past_values": {0: torch.export.Dim("batch", max=64), 1: time}}
    inputs = {"past_values": random(2, 30, 3)}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)
    for length in lengths:
        values = random(3, length, 3)
        values[0, :2] = torch.nan
        values[1, -2:] = torch.nan
        found, expected = exported.module()(past_values=values), model(values)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_a_series_longer_than_the_learned_positions_is_one_clear_error():
    model = build(position_embedding="learned", max_position_embeddings=24)
    padded = F.pad(random(1, 24, 3), (0, 0, 9, 30), value=torch.nan)
    torch.testing.assert_close(
        model(padded).last_hidden_state[:, 9:33], model(random(1, 24, 3)).last_hidden_state, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"25 tokens.*24 positions.*window_length"):
        model(random(1, 25, 3))
    long = random(40, 3).numpy()
    assert model.encode(long, level="timestamp", window_length=23).shape == (40, 8)


def test_layers_begin_as_in_the_official_code():
    model = build(position_embedding="learned", hidden_size=64, max_position_embeddings=500)
    attention = model.encoder.layers[1].attention
    assert not attention.input_projection.bias.any()
    assert not attention.output_projection.bias.any()
    bound = (6 / (64 + 3 * 64)) ** 0.5
    assert 0.95 * bound < attention.input_projection.weight.abs().max() <= bound
    positions = model.encoder.positions.weight
    assert 0.019 < positions.abs().max() <= 0.02
    assert abs(positions.std() - 0.04 / 12**0.5) < 2e-4


@pytest.mark.parametrize(("rule", "mean_length"), [("geometric", 3.0), ("geometric", 6.0), ("bernoulli", 1 / 0.85)])
def test_masks_have_their_share_and_their_mean_length(rule, mean_length):
    config = TSTConfig(num_input_channels=2, mask_rule=rule, mean_mask_length=max(mean_length, 1.5))
    keep = draw_masks(config, 200, 500, generator())
    assert abs((~keep).float().mean() - 0.15) < 0.01
    begins = ~keep[:, 1:] & keep[:, :-1]
    assert abs((~keep[:, 1:]).sum() / begins.sum() / mean_length - 1) < 0.05
    agreement = (keep[..., 0] == keep[..., 1]).float().mean()
    assert abs(agreement - (0.85**2 + 0.15**2)) < 0.02


@pytest.mark.parametrize("rule", ["geometric", "bernoulli"])
def test_channels_are_masked_together_or_never_where_asked(rule):
    together = TSTConfig(num_input_channels=3, mask_rule=rule, mask_channels_together=True, mask_ratio=0.5)
    keep = draw_masks(together, 4, 50, generator())
    assert torch.equal(keep, keep[..., :1].expand_as(keep))
    assert 0.2 < keep.float().mean() < 0.8
    spared = TSTConfig(num_input_channels=3, mask_rule=rule, unmasked_channels=[0, 2], mask_ratio=0.5)
    keep = draw_masks(spared, 4, 50, generator())
    assert keep[..., [0, 2]].all()
    assert not keep[..., 1].all()


def test_transduction_masks_channels_between_the_hints():
    config = TSTConfig(
        num_input_channels=3, mask_rule="transduction", masked_channels=[0, 2], start_hint=0.25, end_hint=0.5
    )
    keep = transduction_mask(torch.tensor([0, 2]), torch.tensor([8, 4]), (8, 3), config)
    assert keep[..., 1].all()
    assert (~keep[0, :, 0]).nonzero().flatten().tolist() == [2, 3]
    assert (~keep[1, :, 2]).nonzero().flatten().tolist() == [3]
    model = build(TSTForPreTraining, mask_rule="transduction", masked_channels=[1]).train()
    values = random(2, 30, 3)
    first, second = model.eval()(values, generator=generator(1)), model(values, generator=generator(1))
    assert first.is_masked[..., 1].all()
    assert not first.is_masked[..., [0, 2]].any()
    assert first.loss == second.loss


def test_what_is_masked_is_not_seen_and_what_is_missing_is_not_asked():
    model = build(TSTForPreTraining)
    values = random(2, 20, 3)
    values[0, 5:9, 1] = torch.nan
    values[1, 12:] = torch.nan
    keep = draw_masks(model.config, 2, 20, generator(3))
    keep[0, 5:7, 1] = False
    output = model(values, draws=TSTDraws(0, keep))
    asked = ~keep & ~values.isnan()
    assert torch.equal(output.is_masked, asked)
    changed = torch.where(asked, values + 100.0, values)
    again = model(changed, draws=TSTDraws(0, keep))
    torch.testing.assert_close(again.reconstruction, output.reconstruction)
    expected = (output.reconstruction - values)[asked].square().mean()
    torch.testing.assert_close(output.loss, expected)
    assert not output.reconstruction[1, 12:].any()


def test_without_a_masked_value_the_loss_is_zero():
    model = build(TSTForPreTraining).train()
    loss = model(random(2, 20, 3), draws=TSTDraws(0, torch.ones(2, 20, 3, dtype=torch.bool))).loss
    loss.backward()
    assert loss == 0
    assert not any(one.grad.any() for one in model.parameters() if one.grad is not None)


def test_errors_are_squared_and_left_out_where_nothing_is_asked():
    asked = torch.tensor([[[True, False], [True, True]]])
    values = torch.tensor([[[1.0, torch.nan], [2.0, -1.0]]])
    errors = masked_errors(torch.zeros(1, 2, 2), values, asked)
    assert errors.tolist() == [[[1.0, 0.0], [4.0, 1.0]]]


def test_masking_is_compensated_by_timestamp():
    keep = torch.tensor([[[True, False, True], [False, False, False]]])
    assert compensate_masking(torch.ones(1, 2, 3) * keep, keep).tolist() == [[[1.5, 0.0, 1.5], [0.0, 0.0, 0.0]]]


def test_of_a_longer_series_a_random_window_is_taken():
    config = build(TSTForPreTraining).config
    starts = {draw_step(config, 1, 30, generator(seed)).start for seed in range(60)}
    assert starts == set(range(7))
    output = build(TSTForPreTraining)(random(2, 30, 3), generator=generator())
    assert output.reconstruction.shape == (2, 24, 3)


@pytest.mark.parametrize("model_class", HEADS)
def test_the_norm_of_the_output_layer_counts_in_training_alone(model_class):
    losses = {}
    for weight, training in itertools.product((0.0, 0.5), (False, True)):
        fields = {"dropout": 0.0, "head_dropout": 0.0, "classifier_dropout": 0.0, "output_l2_weight": weight}
        model = build(model_class, **fields).train(training)
        given = {"generator": generator()} if model_class is TSTForPreTraining else {}
        losses[weight, training] = model(**inputs_of(model_class, random(3, 24, 3)), **given).loss
        layer = model.decoder if model_class is TSTForPreTraining else model.head.projection
    assert losses[0.5, False] == losses[0.0, False]
    torch.testing.assert_close(losses[0.5, True], losses[0.0, True] + 0.5 * layer.weight.square().sum())


@pytest.mark.parametrize("model_class", HEADS)
def test_a_frozen_encoder_neither_learns_nor_drops(model_class, tmp_path):
    build(model_class, freeze_encoder=True).save_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path).train()
    for one in (model, build(model_class, freeze_encoder=True).train()):
        probabilities = {name: part.p for name, part in one.named_modules() if isinstance(part, torch.nn.Dropout)}
        assert sum(value > 0 for value in probabilities.values()) == 1, "the dropout before the output layer stays"
        assert not any(value for name, value in probabilities.items() if name.startswith("model."))
        one(**inputs_of(model_class, random(3, 24, 3))).loss.backward()
        learned = {name for name, value in one.named_parameters() if value.grad is not None}
        layer = next(
            name
            for name in ("decoder", "classifier.projection", "head.projection")
            if name in dict(one.named_modules())
        )
        assert learned == {f"{layer}.weight", f"{layer}.bias"}


def test_the_head_reads_the_context_and_nothing_of_missing_timestamps():
    model = build(TSTForTimeSeriesClassification)
    values = random(2, 30, 3)
    torch.testing.assert_close(model(values).logits, model(values[:, :24]).logits)
    values[0, 3:5] = torch.nan
    features = model.compute_head_inputs(values).head_inputs["features"].unflatten(1, (24, 8))
    assert not features[0, 3:5].any()
    assert features[0, [2, 5]].any(-1).all()
    short = model.compute_head_inputs(values[:, :7]).head_inputs["features"].unflatten(1, (24, 8))
    assert not short[:, 7:].any()


def test_a_prediction_reads_the_last_timestamps_at_the_end():
    model = build(TSTForTimeSeriesPrediction)
    values = random(2, 30, 3)
    torch.testing.assert_close(model(values).prediction_outputs, model(values[:, -24:]).prediction_outputs)
    features = model.compute_head_inputs(values[:, :7]).head_inputs["features"].unflatten(1, (24, 8))
    assert not features[:, :17].any()
    hidden = F.gelu(model.model(values[:, :7]).last_hidden_state)
    torch.testing.assert_close(features[:, 17:], hidden)
    changed = build(TSTForTimeSeriesPrediction, num_output_channels=5)
    assert changed(values).prediction_outputs.shape == (2, 5, 5)


def test_numbers_are_predicted_where_the_problem_is_a_regression(tmp_path):
    build(TSTForTimeSeriesClassification, num_labels=2, problem_type="regression").save_pretrained(tmp_path)
    model = TSTForTimeSeriesClassification.from_pretrained(tmp_path)
    values, numbers = random(3, 20, 3), torch.tensor([[1.0, 2.0], [0.5, torch.nan], [-1.0, 0.0]])
    output = model(values, labels=numbers)
    expected = torch.where(numbers.isnan(), 0.0, output.logits - numbers).nan_to_num().square().sum(-1).mean()
    torch.testing.assert_close(output.loss, expected)
    one = build(TSTForTimeSeriesClassification, num_labels=1, problem_type="regression")
    found = one(values, labels=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found.loss, F.mse_loss(found.logits[:, 0], torch.tensor([1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match=r"labels has shape \(3, 3\).*\(3, 2\)"):
        model(values, labels=torch.zeros(3, 3))


def test_one_timestamp_one_channel_and_one_series_are_enough():
    for model_class in HEADS:
        model = build(model_class, num_input_channels=1, context_length=1).train()
        inputs = inputs_of(model_class, random(1, 1, 1))
        if model_class is TSTForTimeSeriesPrediction:
            inputs["future_values"] = random(1, 5, 1)
        assert model(**inputs).loss.isfinite()
        assert all(one.isfinite().all() for one in model.buffers())


def test_a_channel_without_a_value_is_zero_for_the_encoder():
    model, values = build(), random(2, 12, 3)
    values[..., 1] = torch.nan
    zeros = values.nan_to_num(0.0)
    torch.testing.assert_close(model(values).last_hidden_state, model(zeros).last_hidden_state)


def test_hidden_states_are_the_embedded_tokens_and_every_layers_output():
    model, values = build(**LONG), random(2, 20, 3)
    output = model(values, output_hidden_states=True)
    assert [state.shape for state in output.hidden_states] == [(2, 7, 8)] * 3
    series = align_series(values, ~values.isnan())
    torch.testing.assert_close(model.encoder.in_place(output.hidden_states[-1], series), output.last_hidden_state)


def test_the_pretext_task_learns_to_fill_gaps():
    torch.manual_seed(0)
    model = build(TSTForPreTraining, hidden_size=16, num_input_channels=2, dropout=0.0, head_dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    phases = torch.rand(64, 1, generator=generator(1)) * 6.28
    steps = torch.arange(24) / 3
    values = torch.stack([(steps + phases).sin(), (steps + phases).cos()], dim=-1)
    losses = []
    for step in range(150):
        loss = model(values, generator=generator(step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10]), (losses[:3], losses[-3:])
    assert isinstance(model.model.encoder.layers[0].output_norm, MaskedBatchNorm)


REFUSED = {
    "embedding_size is 5": {"embedding_size": 5},
    "multiple of num_attention_heads": {"num_attention_heads": 3},
    "channel_mode is 'independent'": {"channel_mode": "independent"},
    "normalization is 'BatchNorm'": {"normalization": "BatchNorm"},
    "activation is 'tanh'": {"activation": "tanh"},
    "mask_rule is 'tail'": {"mask_rule": "tail"},
    "mask_ratio is 1.0": {"mask_ratio": 1.0},
    "attention_window is 0": {"attention_window": 0},
    "projection_kernel_size is 2; below": {**LONG, "projection_kernel_size": 2},
    "there are 20 learned positions": {"position_embedding": "learned", "max_position_embeddings": 20},
    "unmasked_channels holds 3; channels are 0 to 2": {"unmasked_channels": [3]},
    "unmasked_channels holds all": {"unmasked_channels": [0, 1, 2]},
    "predicts masked_channels; name at least one": {"mask_rule": "transduction"},
}


@pytest.mark.parametrize("words", REFUSED)
def test_fields_that_do_not_fit_are_named(words):
    with pytest.raises(ValueError, match=words):
        build(**REFUSED[words])


def test_a_task_with_longer_series_than_learned_positions_is_refused_and_a_given_context_serves(caplog):
    from hf_tsrep.modeling.configuration_time_series import TaskShape

    caplog.set_level(logging.WARNING)
    config = build(position_embedding="learned", max_position_embeddings=24).config
    task = TaskShape(num_input_channels=3, sequence_length=100, class_names=("a", "b"))
    with pytest.raises(ValueError, match=r"context_length is 100.*24 learned positions"):
        config.fit_to_task(task)
    config.fit_to_task(task, context_length=24)
    assert config.context_length == 24
    assert config.head_reads_context


@pytest.mark.parametrize("case", ["tst_step", "tst_long_step", "tst_encode"])
def test_the_measured_steps_are_the_plain_ones(case):
    sizes = {"length": 300 if "long" in case else 40, "batch_size": 2}
    ours, plain = (CASES[case](side, **sizes)["sample"] for side in (False, True))
    if case == "tst_encode":
        assert np.std(plain) > 0
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
