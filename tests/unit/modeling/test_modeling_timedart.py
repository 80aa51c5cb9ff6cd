"""What TimeDART promises beyond the contract: what its tokens see, how it goes on, and its layouts of patches."""

import pytest
import torch
from contract_support import build, build_config, random_values

from hf_tsrep import TimeDARTConfig, TimeDARTForPreTraining, TimeDARTForTimeSeriesPrediction
from hf_tsrep.modeling.backbones_timedart import DecoderAttention, DecoderMasks, partial_mask
from hf_tsrep.modeling.conversion_time_series import ConversionError
from hf_tsrep.modeling.layers_patching import PatchLayout, whole_series
from hf_tsrep.modeling.modeling_timedart import (
    diffuse,
    draw_step,
    noise_levels,
    timedart_fields_of_hyperparameters,
)


def whole(values):
    return whole_series(values, torch.ones_like(values, dtype=torch.bool))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_noise_takes_over_step_by_step_and_keeps_the_variance(schedule):
    levels = noise_levels(TimeDARTConfig(noise_schedule=schedule))
    assert levels.shape == (1000,)
    assert (levels.diff() < 0).all()
    assert levels[0] > 0.99
    assert levels[-1] < 1e-4
    values, noise = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    assert diffuse(values, levels[400], noise).std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("ratio", "hidden"), [(0.0, 0), (0.5, 7), (1.0, 15)])
def test_a_share_of_the_earlier_tokens_is_hidden(ratio, hidden):
    mask = partial_mask(torch.randperm(15, generator=torch.Generator().manual_seed(0)), 6, ratio)
    assert not mask.triu(1).any()
    assert mask.diagonal().all()
    assert int((~mask).tril(-1).sum()) == hidden


@pytest.mark.parametrize("mask_ratio", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("channel_mode", ["independent", "joint"])
def test_the_causal_head_reconstructs_a_patch_from_nothing_later(mask_ratio, channel_mode):
    """Neither its own clean values nor later ones reach a patch; the flatten head's are reached by all."""
    fields = {"mask_ratio": mask_ratio, "channel_mode": channel_mode, "num_diffusion_steps": 1000}
    seen = {}
    for head in ("causal", "flatten"):
        model = build("timedart", "pretraining", pretraining_head=head, **fields)
        draws = draw_step(model.config, 1, 28, torch.Generator().manual_seed(0))
        pure = torch.full_like(draws.time_steps, 999)  # next to nothing of a patch itself is left
        values = random_values(model, 1, 28).requires_grad_()
        found = model.denoise(whole(values), draws.__class__(pure, draws.noise, draws.orders))
        told, _, _ = model.reconstruct(found.decoded, whole(values), model.model.normalize(whole(values.detach()))[1])
        told = told.flatten(1, 2) if head == "causal" else told
        (gradient,) = torch.autograd.grad(told[0, 8:12].sum(), values)
        seen[head] = gradient[0].abs().amax(1)
    earlier = seen["causal"][:8].max()
    assert earlier > 1e-4
    assert seen["causal"][8:12].max() < 1e-2 * earlier
    assert seen["causal"][12:].max() == 0
    assert seen["flatten"][12:].max() > 1e-2 * seen["flatten"][:8].max()


def test_a_token_that_sees_itself_alone_is_attention_under_that_mask():
    torch.manual_seed(0)
    attention, hidden, memory = DecoderAttention(8, 2, 0.0), torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    results = []
    for options in ({"only_itself": True}, {"attention_mask": torch.eye(5, dtype=torch.bool)[None, None]}):
        attention.zero_grad()
        result = attention.attend_to(hidden, attention.project(memory), **options)
        result.square().sum().backward()
        results.append((result, attention.input_projection.weight.grad.clone()))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channel_mode", ["independent", "joint"])
def test_going_on_patch_by_patch_is_one_pass_over_what_was_told(channel_mode):
    model = build("timedart", "prediction", prediction_length=14, channel_mode=channel_mode)
    values = random_values(model, 2, 40)
    values[0, 20:23] = torch.nan
    inputs = model.compute_head_inputs(values).head_inputs
    head, encoder = model.head, model.model.encoder
    patches, seen = inputs["patches"], inputs["seen"]
    if channel_mode == "independent":
        patches, seen = patches.flatten(0, 1), seen.flatten(0, 1)
    masks = DecoderMasks(of_memory=(seen | ~seen.any(-1, keepdim=True))[:, None, None])
    told = head.generate(patches, masks, encoder)
    start = head.denoiser.start_token.expand(len(told), -1, -1)
    hidden = torch.cat((start, encoder.embed(told[:, :-1])), dim=1)
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    again = head.denoiser.project(
        head.denoiser.decode(hidden, head.denoiser.read(patches), masks._replace(of_itself=causal))
    )
    torch.testing.assert_close(again, told, rtol=1e-4, atol=1e-5)
    future = head.by_timestamps(told)
    expected = future * inputs["deviation"] + inputs["mean"]
    torch.testing.assert_close(model(values).prediction_outputs, expected, rtol=1e-4, atol=1e-5)


def test_a_loss_in_evaluation_knows_nothing_of_the_future():
    model = build("timedart", "prediction")
    values = random_values(model, 2, 40)
    for future in (torch.zeros(2, 5, 3), torch.randn(2, 5, 3)):
        output = model(values, future_values=future)
        torch.testing.assert_close(output.prediction_outputs, model(values).prediction_outputs, rtol=0, atol=0)
    draws = [model.train()(values, future_values=future).prediction_outputs for _ in range(2)]
    assert not torch.allclose(*draws)  # there it is noised, anew in every step


@pytest.mark.parametrize("generation", ["start_token", "noise"])
def test_a_forecast_scales_with_its_series(generation):
    """What is put back into the window has the scale of the window, but in the official v2."""
    model = build("timedart", "prediction", generation=generation, prediction_length=12)
    values = random_values(model, 2, 40)
    expected = model(values).prediction_outputs * 100 + 7
    difference = (model(values * 100 + 7).prediction_outputs - expected).abs().max()
    assert (difference < 0.05) == (generation == "start_token")


def test_the_causal_head_keeps_the_decoder_of_a_pretraining(tmp_path):
    pretrained = build("timedart", "pretraining", seed=3)
    pretrained.save_pretrained(tmp_path)
    loaded = TimeDARTForTimeSeriesPrediction.from_pretrained(tmp_path)
    for name, value in pretrained.denoiser.state_dict().items():
        torch.testing.assert_close(loaded.head.denoiser.state_dict()[name], value, rtol=0, atol=0)
    assert type(TimeDARTForPreTraining.from_pretrained(tmp_path)) is TimeDARTForPreTraining


@pytest.mark.parametrize(
    ("rest", "lengths"),
    [
        ("repeat", {1: 1, 4: 1, 5: 2, 8: 2, 9: 3}),
        ("drop", {1: 1, 4: 1, 5: 1, 8: 2, 9: 2}),
        ("zeros", {4: 3, 5: 2, 8: 4, 9: 3}),
    ],
)
def test_what_fills_no_patch_is_repeated_dropped_or_padded(rest, lengths):
    layout = PatchLayout(4, 4, rest)
    for length, count in lengths.items():
        values = torch.arange(1.0, 1 + length).view(1, -1, 1)
        patches = layout.cut(values, torch.tensor([length]))[0, :, :, 0]
        assert len(patches) == layout.num_patches(length) == count
        zeros = int(layout.zeros_before(torch.tensor([length])))
        if rest == "zeros":  # as a convolution with that padding
            padded = torch.nn.functional.pad(values[0, :, 0], (zeros, zeros))
            torch.testing.assert_close(patches, padded.unfold(0, 4, 4), rtol=0, atol=0)
        else:
            told = values[0, :, 0].tolist() + [float(length)] * 4
            assert patches.flatten().tolist() == told[: 4 * count]
        embeddings = torch.arange(float(count)).view(1, -1, 1) + 1
        steps = layout.to_timestamps(embeddings, whole(values))[0, :, 0]
        expected = [min((step + zeros) // 4, count - 1) + 1 for step in range(length)]
        assert steps.tolist() == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"context_length": 3}, "context_length is 3, shorter than one patch, patch_length=4"),
        ({"prediction_length": 0}, "prediction_length is 0; it must be at least 1"),
        ({"patch_stride": 5}, "patch_stride is 5; beyond patch_length, 4"),
        ({"noise_schedule": "sine"}, "noise_schedule is 'sine'; choose one of cosine, linear"),
        ({"num_attention_heads": 3}, "hidden_size is 8; it must be a multiple of num_attention_heads, 3"),
        ({"channel_mode": "joint", "num_output_channels": 1}, "Set prediction_head='flatten', or predict all"),
        ({"num_output_channels": 4}, "num_output_channels is 4; at most num_input_channels, 3"),
        ({"embedding_size": 5}, "embedding_size is 5, but it always is hidden_size=8"),
    ],
)
def test_fields_that_cannot_work_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        build_config("timedart", **fields)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "SimMTM"}, "model='SimMTM' is another method"),
        ({"backbone": "Qwen2.5-0.5B"}, "not a language model"),
        ({"scheduler": "sigmoid"}, "scheduler='sigmoid' is unknown"),
        ({"features": "MS"}, "features='MS'"),
        ({"select_channels": 0.5}, "select_channels=0.5"),
        ({"model": "v1cls", "enc_in": 3, "c_out": 2}, "c_out=2 is not enc_in=3"),
    ],
)
def test_official_arguments_that_are_not_converted_are_refused(arguments, words):
    with pytest.raises(ConversionError, match=words):
        timedart_fields_of_hyperparameters(arguments)
