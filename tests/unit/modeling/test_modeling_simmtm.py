"""SimMTM's masks, equations, variants and heads: what the contract suite tests for one variant holds for all."""

import itertools

import numpy as np
import pytest
import torch
from benchmark.plain_simmtm import plain_loss
from company import assert_company_changes_nothing

from hf_tsrep import (
    SimMTMConfig,
    SimMTMForPreTraining,
    SimMTMForTimeSeriesClassification,
    SimMTMForTimeSeriesPrediction,
    SimMTMModel,
)
from hf_tsrep.modeling.backbones_simmtm import ConvolutionEncoder, TimestampTransformer
from hf_tsrep.modeling.layers_masking import geometric_mask, geometric_mask_at_once, random_mask
from hf_tsrep.modeling.layers_patching import take_context
from hf_tsrep.modeling.modeling_simmtm import (
    SimMTMDraws,
    aggregation_weights,
    constraint_losses,
    draw_masks,
    draw_step,
    end_mask,
    pair_views,
    weigh_losses,
)

VARIANTS = [
    {"encoder_type": encoder, "channel_mode": mode, "instance_normalization": normalised}
    for encoder, mode, normalised in itertools.product(
        ("transformer", "resnet"), ("independent", "joint"), (True, False)
    )
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))


def build(model_class=SimMTMModel, **fields):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "context_length": 24}
    return model_class(SimMTMConfig(**{"num_input_channels": 3, "prediction_length": 5, **sizes, **fields})).eval()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_chains(shape, mask_ratio=0.5, mean_mask_length=3.0, across=False, seed=0):
    config = SimMTMConfig(mask_ratio=mask_ratio, mean_mask_length=mean_mask_length, mask_across_series=across)
    return draw_masks(config, shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 2, 400])
@pytest.mark.parametrize(
    ("mask_ratio", "mean_mask_length"), [(0.5, 3.0), (0.2, 5.0), (0.75, 2.0), (0.9, 1.5), (0.4, 1.0)]
)
def test_the_mask_at_once_is_the_chain_step_by_step(mask_ratio, mean_mask_length, length):
    uniforms = torch.rand(6, 1 + length, generator=torch.Generator().manual_seed(length))
    at_once = geometric_mask_at_once(uniforms, mask_ratio, mean_mask_length)
    assert torch.equal(at_once, geometric_mask(uniforms, mask_ratio, mean_mask_length))


def test_the_chain_leaves_a_state_where_the_number_is_below_its_probability():
    # Masked stretches are left below 1/4, kept ones below 1/12.
    uniforms = torch.tensor([0.1, 0.3, 0.2, 0.2, 0.05, 0.9])
    assert geometric_mask(uniforms, 0.25, 4.0).tolist() == [False, False, True, True, False]


def stretch_lengths(keep, value):
    """Lengths of the stretches of `value` inside a long mask, those at the ends left out."""
    borders = (keep[1:] != keep[:-1]).nonzero().flatten()
    lengths, values = borders.diff(), keep[1:][borders[:-1]]
    return lengths[values == value].float()


@pytest.mark.parametrize(("mask_ratio", "mean_mask_length"), [(0.5, 3.0), (0.25, 4.0), (0.75, 6.0)])
def test_masked_and_kept_stretches_have_geometric_lengths(mask_ratio, mean_mask_length):
    keep = draw_chains((200_000,), mask_ratio, mean_mask_length)
    assert abs((~keep).float().mean() - mask_ratio) < 0.01
    for value, mean in ((False, mean_mask_length), (True, mean_mask_length * (1 - mask_ratio) / mask_ratio)):
        lengths = stretch_lengths(keep, value)
        assert abs(lengths.mean() / mean - 1.0) < 0.03
        for count in (1, 2, 5):
            expected = (1.0 / mean) * (1.0 - 1.0 / mean) ** (count - 1)
            assert abs((lengths == count).float().mean() - expected) < 0.01


def test_every_step_is_masked_with_the_same_probability():
    keep = draw_chains((40_000, 12), mask_ratio=0.3, seed=1)
    torch.testing.assert_close((~keep).float().mean(0), torch.full((12,), 0.3), rtol=0, atol=0.01)


def test_one_chain_runs_through_all_series_and_separate_ones_do_not():
    through, apart = (
        draw_chains((20_000, 2), mean_mask_length=8.0, across=across, seed=2) for across in (True, False)
    )
    agreement = [(keep[:-1, -1] == keep[1:, 0]).float().mean() for keep in (through, apart)]
    assert abs(agreement[0] - 7 / 8) < 0.01
    assert abs(agreement[1] - 1 / 2) < 0.015


def test_the_other_rules_mask_single_values_or_an_end():
    assert random_mask(torch.tensor([0.0, 0.69, 0.7, 0.99]), 0.3).tolist() == [True, True, False, False]
    assert end_mask(5, 0.5, "head").tolist() == [False, False, False, True, True]
    assert end_mask(5, 0.5, "tail").tolist() == [True, True, True, False, False]
    single = draw_masks(
        SimMTMConfig(mask_rule="random", mask_ratio=0.25), (200_000,), torch.Generator().manual_seed(0)
    )
    assert abs((~single).float().mean() - 0.25) < 0.01
    assert abs((single[1:] == single[:-1]).float().mean() - (0.75**2 + 0.25**2)) < 0.01


@pytest.mark.parametrize("rule", ["random", "head", "tail"])
def test_the_pretext_task_learns_from_masks_of_every_rule(rule):
    model = build(SimMTMForPreTraining, mask_rule=rule).train()
    draws = draw_step(model.config, 4, 24, torch.Generator().manual_seed(0))
    assert draws.keep.shape == (3, 4, 24, 3)
    if rule == "head":
        assert not draws.keep[:, :, :12].any()
        assert draws.keep[:, :, 12:].all()
    model(random(4, 24, 3), draws=draws).loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_transformer_is_pytorchs_after_the_embedding(activation):
    """torch.nn.TransformerEncoderLayer normalises after each branch too, and has both activations."""
    config = SimMTMConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16, activation=activation, dropout=0)
    torch.manual_seed(0)
    ours, states = TimestampTransformer(config).eval(), []
    values = random(3, 10, 1)
    with torch.no_grad():
        found = hidden = ours(values, states=states)
        for index, layer in enumerate(ours.transformer.layers):
            theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True).train()
            theirs.load_state_dict(
                {
                    "self_attn.in_proj_weight": layer.attention.input_projection.weight,
                    "self_attn.in_proj_bias": layer.attention.input_projection.bias,
                    "self_attn.out_proj.weight": layer.attention.output_projection.weight,
                    "self_attn.out_proj.bias": layer.attention.output_projection.bias,
                    "linear1.weight": layer.expansion.weight,
                    "linear1.bias": layer.expansion.bias,
                    "linear2.weight": layer.contraction.weight,
                    "linear2.bias": layer.contraction.bias,
                    "norm1.weight": layer.attention_norm.weight,
                    "norm1.bias": layer.attention_norm.bias,
                    "norm2.weight": layer.output_norm.weight,
                    "norm2.bias": layer.output_norm.bias,
                }
            )
            hidden = theirs(states[index])
            torch.testing.assert_close(states[index + 1], hidden)
        torch.testing.assert_close(found, ours.transformer.norm(hidden))


@every_variant
@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 9), (3, 30)])
def test_padding_changes_nothing(variant, left, right):
    model, values = build(**variant), random(2, 17, 3)
    values[0, 6:8] = torch.nan
    values[1, 4, 1] = torch.nan
    padded = torch.nn.functional.pad(values, (0, 0, left, right), value=torch.nan)
    with torch.no_grad():
        torch.testing.assert_close(model(padded).pooler_output, model(values).pooler_output, rtol=1e-5, atol=1e-6)
        steps, _ = model.embed_timestamps(padded)
        torch.testing.assert_close(steps[:, left : left + 17], model.embed_timestamps(values)[0])
        assert (steps[:, :left] == 0).all()
        assert (steps[:, left + 17 :] == 0).all()


@every_variant
@pytest.mark.parametrize("head", [SimMTMForTimeSeriesClassification, SimMTMForTimeSeriesPrediction])
def test_padding_changes_the_output_of_no_head(variant, head):
    model, values = build(head, **variant), random(2, 17, 3)
    key = "logits" if head is SimMTMForTimeSeriesClassification else "prediction_outputs"
    padded = torch.nn.functional.pad(values, (0, 0, 4, 2), value=torch.nan)
    with torch.no_grad():
        torch.testing.assert_close(model(padded)[key], model(values)[key], rtol=1e-5, atol=1e-5)


@every_variant
def test_series_of_any_length_in_any_company(variant):
    assert_company_changes_nothing(build(**variant))


@every_variant
@pytest.mark.parametrize("length", [1, 24, 50])
def test_nothing_is_nan_and_every_parameter_learns(variant, length):
    model = build(SimMTMForPreTraining, **variant).train()
    values = random(6, length, 3)
    values[0] = torch.nan
    values[1, :, 2] = torch.nan
    values[2, : length // 2] = torch.nan
    output = model(values)
    assert all(torch.isfinite(value).all() for value in output.values())
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert length == 1 or parameter.grad.abs().sum() > 0, name


@every_variant
def test_a_series_without_values_changes_no_other_ones_loss(variant):
    model = build(SimMTMForPreTraining, **variant)
    values = random(4, 24, 3)
    draws = draw_step(model.config, 4, 24, torch.Generator().manual_seed(0))
    values[2] = torch.nan
    others = [0, 1, 3]
    with torch.no_grad():
        found = model(values, draws=draws)
        expected = model(values[others], draws=SimMTMDraws(0, draws.keep[:, others]))
    for key in ("loss", "constraint_loss", "reconstruction_loss"):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-6)


def test_a_step_is_what_the_equations_say():
    """Row by row, from the encoder's and the projector's outputs."""
    model = build(SimMTMForPreTraining, num_input_channels=2, temperature=0.5)
    values, num_views = random(3, 24, 2), 4
    draws = draw_step(model.config, 3, 24, torch.Generator().manual_seed(0))
    views = [values, *(torch.where(keep, values, torch.nan) for keep in draws.keep)]
    with torch.no_grad():
        output = model(values, draws=draws)
        observed = torch.ones_like(values, dtype=torch.bool)
        rows, statistics = model.encode_views(values, observed, draws.keep)
        projected = model.projector(rows.flatten(0, 1)).unflatten(0, (6, num_views))
        constraint, error = 0.0, 0.0
        for series, view in itertools.product(range(6), range(num_views)):
            anchor, scores, total = projected[series, view], {}, torch.zeros(())
            for other in itertools.product(range(6), range(num_views)):
                if other != (series, view):
                    scores[other] = torch.cosine_similarity(anchor, projected[other], dim=0) / 0.5
            normaliser = torch.stack(list(scores.values())).logsumexp(0)
            constraint -= sum(scores[series, other] - normaliser for other in range(num_views) if other != view)
            if view == 0:
                total = sum((score - normaliser).exp() * rows[other] for other, score in scores.items())
                sample, channel = divmod(series, 2)
                decoded = model.decoder(total)[:, 0]
                own = views[0][sample, :, channel]
                decoded = decoded * (own.var(correction=0) + 1e-5).sqrt() + own.mean()
                error += (decoded - own).square().mean() / 6
    torch.testing.assert_close(output.constraint_loss, constraint / 24)
    torch.testing.assert_close(output.reconstruction_loss, error)
    torch.testing.assert_close(output.loss, 0.5 * (constraint / 24 + error) + 2 * torch.tensor(2.0).log())
    # The statistics of a masked view are those of what it shows.
    shown = views[2][1, :, 0]
    torch.testing.assert_close(statistics.mean[2 * 3 + 1, 0, 0], shown.nanmean())


def test_the_plain_side_of_the_benchmark_computes_the_same():
    model = build(SimMTMForPreTraining, dropout=0.3).eval()
    values = random(4, 24, 3)
    draws = draw_step(model.config, 4, 24, torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain_loss(model, values, draws.keep), model(values, draws=draws).loss)


def test_constraint_and_weights_leave_out_the_anchor_and_rows_without_values():
    pairs = pair_views(torch.arange(4), 2, torch.tensor([True, True, False, False]))
    similarity = torch.tensor([[9.0, 1.0, 5.0, 5.0]] * 4)
    weights = aggregation_weights(similarity, pairs.compared, 1.0)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(constraint_losses(similarity, pairs, 1.0), torch.zeros(4))
    assert weigh_losses(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == pytest.approx(
        0.5 + np.log(2) + 3 / 8 + np.log(5)
    )


@pytest.mark.parametrize(
    ("fields", "absent"),
    [
        ({"use_constraint_loss": False}, "loss_weights"),
        ({"use_constraint_loss": False, "use_aggregation": False}, "projector"),
    ],
)
def test_ablations_learn_without_what_they_leave_out(fields, absent):
    model = build(SimMTMForPreTraining, **fields).train()
    output = model(random(4, 24, 3))
    assert getattr(model, absent) is None
    torch.testing.assert_close(output.loss, output.reconstruction_loss)
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_masked_modelling_sees_nothing_of_masked_values():
    model = build(SimMTMForPreTraining, use_constraint_loss=False, use_aggregation=False)
    values = random(2, 24, 3)
    draws = draw_step(model.config, 2, 24, torch.Generator().manual_seed(0))
    always_masked = ~draws.keep.any(0)
    assert always_masked.any()
    with torch.no_grad():
        first = model(values, draws=draws).reconstruction
        second = model(values + 5.0 * always_masked, draws=draws).reconstruction
    torch.testing.assert_close(first, second)


def test_of_a_longer_series_a_random_window_is_taken():
    config = build(SimMTMForPreTraining).config
    starts = {draw_step(config, 1, 30, torch.Generator().manual_seed(seed)).start for seed in range(60)}
    assert starts == set(range(7))
    assert draw_step(config, 1, 9, torch.Generator().manual_seed(0)).start == 0


def test_context_begins_or_ends_with_the_series():
    values = torch.tensor([[torch.nan, 1.0, 2.0, 3.0, torch.nan], [4.0, 5.0, 6.0, 7.0, 8.0]]).unsqueeze(-1)
    for at_end, expected in (
        (False, [[1.0, 2.0, 3.0, 0.0], [4.0, 5.0, 6.0, 7.0]]),
        (True, [[0.0, 1.0, 2.0, 3.0], [5.0, 6.0, 7.0, 8.0]]),
    ):
        found, observed = take_context(values, ~values.isnan(), 4, at_end)
        torch.testing.assert_close(torch.where(observed, found, 0.0).squeeze(-1), torch.tensor(expected))


def test_positions_of_the_convolutions_lie_where_their_fields_are_centred():
    torch.manual_seed(0)
    encoder, length = ConvolutionEncoder(SimMTMConfig(hidden_size=4, num_attention_heads=2)).eval(), 600
    with torch.no_grad():
        base = encoder(torch.zeros(1, length, 1))
        changed = (encoder(torch.diag(torch.full((length,), 50.0)).unsqueeze(-1)) - base).abs().amax(-1) > 0
    for position in range(6, base.shape[1] - 6):
        seen = changed[:, position].nonzero().flatten().float()
        centre = (seen.min() + seen.max()) / 2
        nearest = encoder.position_of_steps(centre.long())
        assert abs(nearest - position) <= 1
        assert encoder.position_of_steps(torch.tensor((8 * position - 6.5) * 3)) == position


def test_forecasts_keep_the_scale_and_are_of_the_last_channels():
    model = build(SimMTMForTimeSeriesPrediction, num_output_channels=2)
    values = random(2, 24, 3)
    with torch.no_grad():
        forecast = model(values).prediction_outputs
        moved = model(values * torch.tensor([2.0, 10.0, 100.0]) + torch.tensor([0.0, 7.0, -50.0])).prediction_outputs
    assert forecast.shape == (2, 5, 2)
    torch.testing.assert_close(
        moved, forecast * torch.tensor([10.0, 100.0]) + torch.tensor([7.0, -50.0]), rtol=1e-3, atol=1e-2
    )


def test_independent_channels_do_not_see_each_other_and_take_any_number():
    model = build()
    values = random(2, 24, 3)
    with torch.no_grad():
        alone = build(num_input_channels=1)
        alone.load_state_dict(model.state_dict())
        expected = alone(values[..., 1:2]).last_hidden_state[:, 0]
        torch.testing.assert_close(model(values).last_hidden_state[:, 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"encoder_type": "tcn"}, "encoder_type is 'tcn'"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
        ({"mask_rule": "middle"}, "mask_rule is 'middle'"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"hidden_size": 10, "num_attention_heads": 4}, "num_attention_heads=4 does not divide"),
        ({"embedding_size": 12}, "set hidden_size"),
        ({"num_output_channels": 3}, "num_output_channels is 3"),
        ({"reconstruct_masked_views": True, "use_aggregation": False}, "needs use_aggregation=True"),
        ({"num_masked_views": 0}, "num_masked_views is 0"),
    ],
)
def test_settings_out_of_range_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        SimMTMConfig(**fields)
