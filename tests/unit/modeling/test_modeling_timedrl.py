"""TimeDRL's variants: what the contract suite tests for the paper's encoder holds for all of them."""

import itertools
from dataclasses import replace

import pytest
import torch
from benchmark.plain_timedrl import PlainTimeDRL
from company import assert_company_changes_nothing

from hf_tsrep import (
    TimeDRLConfig,
    TimeDRLForPreTraining,
    TimeDRLForTimeSeriesClassification,
    TimeDRLForTimeSeriesPrediction,
    TimeDRLModel,
)
from hf_tsrep.modeling.backbones_timedrl import TokenRows
from hf_tsrep.modeling.configuration_timedrl import AUGMENTATIONS, CAUSAL_ENCODERS, ENCODERS, INSTANCE_EMBEDDINGS
from hf_tsrep.modeling.distributed_time_series import mean_over_processes
from hf_tsrep.modeling.layers_patching import AlignedSeries, align_series
from hf_tsrep.modeling.modeling_timedrl import (
    TimeDRLViews,
    draw_views,
    negative_cosine,
    normalize_series,
    predictive_errors,
)

VARIANTS = [
    *({"encoder": encoder} for encoder in ENCODERS),
    *({"encoder": encoder, "channel_mode": "independent"} for encoder in ("transformer", "bilstm")),
    *({"instance_embedding": kind} for kind in INSTANCE_EMBEDDINGS if kind != "cls"),
    {"instance_embedding": "last", "channel_mode": "independent", "encoder": "causal_transformer"},
    {"encoder": "causal_transformer", "cls_position": "first"},
    {"encoder": "bilstm", "cls_position": "last", "recurrent_hidden_size": 5},
    {"token_embedding": "linear", "position_embedding": "none"},
    {"position_embedding": "learned", "patch_stride": 5, "patch_length": 5, "token_kernel_size": 5},
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))


def build(model_class=TimeDRLModel, **fields):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "patch_length": 4, "patch_stride": 2, "context_length": 24}
    return model_class(TimeDRLConfig(**{"num_input_channels": 3, **sizes, **fields})).eval()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@every_variant
@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 9), (3, 30)])
def test_padding_changes_nothing(variant, left, right):
    model, values = build(**variant), random(2, 17, 3)
    values[0, 6:8] = torch.nan
    values[1, 4, 1] = torch.nan
    padded = torch.nn.functional.pad(values, (0, 0, left, right), value=torch.nan)
    with torch.no_grad():
        alone, output = model(values), model(padded)
        count = alone.last_hidden_state.shape[-2]
        torch.testing.assert_close(output.pooler_output, alone.pooler_output, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(output.last_hidden_state[..., :count, :], alone.last_hidden_state)
        assert (output.last_hidden_state[..., count:, :] == 0).all()
        steps, _ = model.embed_timestamps(padded)
        torch.testing.assert_close(steps[:, left : left + 17], model.embed_timestamps(values)[0])


@every_variant
def test_series_of_any_length_in_any_company(variant):
    assert_company_changes_nothing(build(**variant))


@every_variant
def test_nothing_is_nan_and_every_parameter_learns(variant):
    model = build(TimeDRLForPreTraining, **variant).train()
    values = random(6, 24, 3)
    values[0] = torch.nan
    values[1, :, 2] = torch.nan
    values[2, :20] = torch.nan
    output = model(values)
    assert all(torch.isfinite(value).all() for value in output.values())
    output.loss.backward()
    without = [name for name, value in model.named_parameters() if not value.grad.abs().sum() > 0]
    assert not without
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())


@every_variant
def test_heads_are_saved_and_opened_again(variant, tmp_path):
    for model_class in (TimeDRLForPreTraining, TimeDRLForTimeSeriesClassification, TimeDRLForTimeSeriesPrediction):
        model = build(model_class, num_labels=4, prediction_length=5, **variant)
        model.save_pretrained(tmp_path)
        loaded = model_class.from_pretrained(tmp_path).eval()
        values, arguments = random(3, 24, 3), {}
        if model_class is TimeDRLForPreTraining:
            arguments = {"views": TimeDRLViews(dropout_seed=1)}
        for key, expected in model(values, **arguments).items():
            torch.testing.assert_close(loaded(values, **arguments)[key], expected, rtol=0, atol=0)


def test_independent_channels_are_series_of_their_own():
    model, values = build(channel_mode="independent"), random(2, 30, 3)
    changed = values.clone()
    changed[:, :, 1] = random(2, 30, seed=5)
    before, after = model(values), model(changed)
    assert before.last_hidden_state.shape == (2, 3, 15, 8)
    torch.testing.assert_close(before.last_hidden_state[:, [0, 2]], after.last_hidden_state[:, [0, 2]])
    assert (before.last_hidden_state[:, 1] - after.last_hidden_state[:, 1]).abs().max() > 0.1
    missing = values.clone()
    missing[:, :, 1] = torch.nan
    encoded = model(values, torch.ones_like(values).bool(), output_hidden_states=True)
    instances = encoded.hidden_states[-1][:, :, 0]
    assert instances.shape == (2, 3, 8)
    norm = model.patch_encoder.encoder.transformer.norm
    torch.testing.assert_close(model(missing).pooler_output, norm(instances)[:, [0, 2]].mean(1))


def test_independent_channels_are_exported():
    model = build(channel_mode="independent")
    batch, time = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("time", min=2, max=512)
    shapes = {"past_values": {0: batch, 1: time}}
    exported = torch.export.export(model, (random(2, 30, 3),), dynamic_shapes=shapes, strict=False)
    values = random(4, 61, 3)
    values[0, 5:9], values[1, :8], values[2, :, 1] = torch.nan, torch.nan, torch.nan
    torch.testing.assert_close(
        exported.module()(values).pooler_output, model(values).pooler_output, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("encoder", CAUSAL_ENCODERS)
def test_a_causal_encoder_looks_back_only_and_its_cls_sees_all(encoder):
    model = build(encoder=encoder, token_embedding="linear", patch_length=4, patch_stride=4)
    series = AlignedSeries(
        random(1, 24, 3), torch.ones(1, 24, 3, dtype=torch.bool), torch.zeros(1).long(), torch.tensor([24])
    )
    changed = AlignedSeries(series.values.clone(), series.observed, series.start, series.length)
    changed.values[:, 12:] += 1.0
    before, after = model.patch_encoder(series), model.patch_encoder(changed)
    torch.testing.assert_close(before.patches[:, :3], after.patches[:, :3])
    assert (before.patches[:, 3:6] - after.patches[:, 3:6]).abs().amax((0, 2)).min() > 1e-4
    changed.values[:, 12:] -= 1.0
    changed.values[:, :4] += 1.0
    assert (before.instances - model.patch_encoder(changed).instances).abs().max() > 1e-4


def test_the_two_views_are_two_passes_with_their_own_dropout():
    """One batched pass of both views is what two passes with their halves of the masks would be."""
    model, values = build(TimeDRLForPreTraining, dropout=0.0), random(4, 20, 3)
    kept = torch.ones(2, 4, 11, 8)
    kept[1] = torch.rand(4, 11, 8, generator=torch.Generator().manual_seed(2)) < 0.5
    both = model(values, views=TimeDRLViews(0, embedding_kept=kept))
    for view in range(2):
        alone = model(values, views=TimeDRLViews(0, embedding_kept=kept[[view, view]]))
        torch.testing.assert_close(both.instance_embeddings[view], alone.instance_embeddings[0])
        torch.testing.assert_close(both.predicted_patches[view], alone.predicted_patches[0])
    assert (both.instance_embeddings[0] - both.instance_embeddings[1]).abs().max() > 0.1


def test_the_generator_decides_the_masks_in_training_too():
    model, values = build(TimeDRLForPreTraining).train(), random(4, 20, 3)
    losses = [model(values, generator=torch.Generator().manual_seed(seed)).loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_the_losses_are_the_sums_of_the_paper():
    predicted, target = random(2, 3, 4, 5), random(3, 4, 5, seed=1)
    observed = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    errors = [
        (predicted[view][index] - target[index]) ** 2
        for view in range(2)
        for index in zip(*torch.nonzero(observed, as_tuple=True), strict=True)
    ]
    loss = mean_over_processes(predictive_errors(predicted, target, observed), observed)
    torch.testing.assert_close(loss, torch.stack(errors).mean())
    first, second = random(2, 3, 6, seed=3).requires_grad_(), random(2, 3, 6, seed=4).requires_grad_()
    seen = torch.tensor([True, False, True])
    cosines = [
        torch.dot(first[view, row], second[1 - view, row]) / (first[view, row].norm() * second[1 - view, row].norm())
        for view, row in itertools.product(range(2), (0, 2))
    ]
    loss = mean_over_processes(negative_cosine(first, second), seen)
    torch.testing.assert_close(loss, -torch.stack(cosines).mean())
    loss.backward()
    assert first.grad is None
    assert second.grad[:, 1].abs().max() == 0
    mean_over_processes(negative_cosine(first, second, stop_gradient=False), seen).backward()
    assert first.grad.abs().max() > 0


@pytest.mark.parametrize("encoder", ["lstm", "bilstm"])
def test_the_recurrent_encoder_is_pytorchs_lstm_and_a_projection(encoder):
    model = build(encoder=encoder, cls_position="first", recurrent_hidden_size=7, num_hidden_layers=2)
    ours = model.patch_encoder.encoder
    reference = torch.nn.LSTM(8, 7, num_layers=2, batch_first=True, bidirectional=encoder == "bilstm")
    with torch.no_grad():
        for suffix, layers in (("", ours.forward_layers), ("_reverse", ours.backward_layers)):
            for index, layer in enumerate(layers):
                for name, value in layer.named_parameters():
                    reference.get_parameter(f"{name.removesuffix('_l0')}_l{index}{suffix}").copy_(value)
        tokens = random(3, 9, 8)
        expected = ours.projection(reference(tokens)[0])
        torch.testing.assert_close(ours(TokenRows(tokens, None, None)), expected)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("encoder", ["transformer", "causal_transformer"])
def test_the_transformer_is_pytorchs_with_the_cls_token_first(encoder, activation):
    model = build(encoder=encoder, cls_position="first", activation=activation, intermediate_size=20)
    transformer = model.patch_encoder.encoder.transformer
    tokens, is_causal = random(3, 9, 8), encoder == "causal_transformer"
    mask = torch.nn.Transformer.generate_square_subsequent_mask(9) if is_causal else None
    expected = tokens
    with torch.no_grad():
        for layer in transformer.layers:
            reference = torch.nn.TransformerEncoderLayer(8, 2, 20, activation=activation, batch_first=True)
            attention = {"in_proj": layer.attention.input_projection, "out_proj": layer.attention.output_projection}
            reference.self_attn.in_proj_weight.copy_(attention["in_proj"].weight)
            reference.self_attn.in_proj_bias.copy_(attention["in_proj"].bias)
            reference.self_attn.out_proj.load_state_dict(attention["out_proj"].state_dict())
            reference.linear1.load_state_dict(layer.expansion.state_dict())
            reference.linear2.load_state_dict(layer.contraction.state_dict())
            reference.norm1.load_state_dict(layer.attention_norm.state_dict())
            reference.norm2.load_state_dict(layer.output_norm.state_dict())
            expected = reference.eval()(expected, mask)
        expected = transformer.norm(expected)
        torch.testing.assert_close(model.patch_encoder.encoder(TokenRows(tokens, None, None)), expected)


def test_the_cls_token_stands_where_the_config_says():
    values = random(2, 24, 3)
    moves = {}
    for place in ("first", "last", "auto"):
        model = build(encoder="causal_transformer", cls_position=place, token_embedding="linear")
        series, _ = normalize_series(align_series(values, torch.ones_like(values, dtype=torch.bool)))
        other = replace(series, values=series.values + 1.0)
        with torch.no_grad():
            moves[place] = (model.patch_encoder(series).instances - model.patch_encoder(other).instances).abs().max()
    assert moves["first"] == 0  # it sees no patch before it
    assert moves["last"] == moves["auto"] > 0


def test_the_predictive_target_is_what_the_config_says():
    values = random(2, 16, 3) * 4 + 9
    values[0, 3, 1] = torch.nan
    raw = build(TimeDRLForPreTraining, prediction_target="raw", patch_stride=4)(values).target_patches
    normalized = build(TimeDRLForPreTraining, patch_stride=4)(values).target_patches
    torch.testing.assert_close(raw[1, 2], values[1, 8:12].t().flatten())
    one = values[1, :, 0]
    torch.testing.assert_close(normalized[1, 2, :4], ((one - one.mean()) / one.std(correction=0))[8:12])
    assert raw[0, 0, 4 + 3] == 0


@pytest.mark.parametrize("augmentation", [one for one in AUGMENTATIONS if one != "none"])
def test_augmentations_change_the_series_and_nothing_beyond_it(augmentation):
    model = build(TimeDRLForPreTraining, augmentation=augmentation, dropout=0.0)
    values = random(3, 20, 3)
    outputs = [model(values, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert outputs[0].loss == outputs[1].loss != outputs[2].loss
    views = draw_views(augmentation, 3, 20, 3, torch.Generator().manual_seed(1))
    observed = torch.ones(3, 20, 3, dtype=torch.bool)
    observed[0, 14:] = False
    length = torch.tensor([14, 20, 20])
    series = AlignedSeries(values * observed, observed, torch.zeros(3).long(), length)
    made = views.apply(series)
    assert made.values.shape == (6, 20, 3)
    assert (made.values[[0, 3], 14:] == 0).all()
    assert not made.observed[[0, 3], 14:].any()
    assert (made.values[3:] - made.values[:3]).abs().max() > 0
    part = views.rows(1, 3).apply(AlignedSeries(*(one[1:] for one in vars(series).values())))
    torch.testing.assert_close(part.values, made.values[[1, 2, 4, 5]])


def test_every_augmentation_does_what_its_name_says():
    values = torch.arange(1.0, 41.0).view(1, 20, 2)
    everything = torch.ones(1, 20, 2, dtype=torch.bool)
    series = AlignedSeries(values, everything, torch.zeros(1).long(), torch.tensor([20]))

    def views(augmentation):
        for seed in range(200):
            made = draw_views(augmentation, 1, 20, 2, torch.Generator().manual_seed(seed)).apply(series).values
            yield from made

    assert abs(torch.stack([view - values[0] for view in views("jitter")]).std() - 0.1) < 0.01
    factors = torch.stack([view / values[0] for view in views("scaling")])
    assert (factors.amax(1) - factors.amin(1)).max() < 1e-5
    assert abs(factors[:, 0].std() - 1.0) < 0.1
    assert all(view.abs().sum() == values.sum() for view in views("rotation"))
    moved = 0
    for view in views("permutation"):
        assert view[:, 0].sort().values.tolist() == values[0, :, 0].tolist()
        jumps = (view[1:, 0] - view[:-1, 0] != 2).sum()
        assert jumps <= 3
        moved += int(jumps > 0)
    assert moved > 200
    assert abs(torch.stack([view == 0 for view in views("masking")]).float().mean() - 0.3) < 0.02
    lengths = []
    for view in views("cropping"):
        kept = torch.nonzero(view[:, 0])[:, 0]
        assert kept[-1] - kept[0] + 1 == len(kept)
        torch.testing.assert_close(view[kept], values[0, kept])
        lengths.append(len(kept))
    assert min(lengths) == 10
    assert max(lengths) >= 18


def test_prediction_looks_at_the_last_context_and_no_further():
    for mode in ("joint", "independent"):
        model = build(TimeDRLForTimeSeriesPrediction, channel_mode=mode, prediction_length=5)
        values = random(2, 40, 3)
        expected = model(values[:, -24:]).prediction_outputs
        torch.testing.assert_close(model(values).prediction_outputs, expected)
        padded = torch.nn.functional.pad(values, (0, 0, 3, 6), value=torch.nan)
        torch.testing.assert_close(model(padded).prediction_outputs, expected)
        assert model(values[:, :7]).prediction_outputs.shape == (2, 5, 3)
        assert torch.isfinite(model(values[:, :1]).prediction_outputs).all()
        changed = values.clone()
        changed[:, -24:] = changed[:, -24:] * 3 + 7
        torch.testing.assert_close(model(changed).prediction_outputs, expected * 3 + 7, rtol=1e-3, atol=1e-3)


def test_a_prediction_is_of_the_last_channels():
    values = random(2, 24, 3)
    for mode in ("joint", "independent"):
        fields = {"channel_mode": mode, "prediction_length": 5, "num_output_channels": 2}
        model = build(TimeDRLForTimeSeriesPrediction, **fields)
        output = model(values, future_values=random(2, 5, 2))
        assert output.prediction_outputs.shape == (2, 5, 2)
        scaled = values * torch.tensor([1.0, 10.0, 100.0])
        ratio = model(scaled).prediction_outputs / output.prediction_outputs
        torch.testing.assert_close(ratio.mean((0, 1)), torch.tensor([10.0, 100.0]), rtol=1e-2, atol=0)


WRONG = {
    "heads": ({"hidden_size": 10, "num_attention_heads": 4}, "multiple of num_attention_heads, 4"),
    "stride": ({"patch_length": 4, "patch_stride": 5}, "timestamps would be in no patch"),
    "kernel": ({"token_kernel_size": 4}, "must be odd"),
    "embedding size": ({"embedding_size": 320}, "embedding_size is 320.*make it 128"),
    "encoder": ({"encoder": "gru"}, "encoder is 'gru'"),
    "outputs": ({"num_output_channels": 2}, "num_output_channels is 2"),
    "cls": ({"cls_position": "middle"}, "cls_position is 'middle'"),
    "weight": ({"contrastive_weight": -1.0}, "contrastive_weight is -1.0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_cannot_work_is_refused(case):
    fields, words = WRONG[case]
    with pytest.raises(ValueError, match=words):
        TimeDRLConfig(**fields)


def test_the_embedding_size_follows_from_the_kind_of_embedding():
    config = TimeDRLConfig(hidden_size=8, instance_embedding="all", context_length=64)
    assert config.embedding_size == 8 * 5
    config.context_length = 32
    config.check_ranges()
    assert config.embedding_size == 8 * 3
    assert TimeDRLConfig(**TimeDRLConfig(hidden_size=16).to_dict()).embedding_size == 16


def test_the_plain_side_of_the_benchmark_computes_the_same():
    fields = {"channel_mode": "independent", "position_embedding": "learned", "prediction_target": "raw"}
    model = build(TimeDRLForPreTraining, dropout=0.0, **fields).train()
    plain = PlainTimeDRL(model, 0.0).train()
    values = random(4, 24, 3)
    torch.testing.assert_close(plain.loss(values), model(values).loss)
