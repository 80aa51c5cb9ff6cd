"""How each kind of TimeMAE fixture is computed by our code."""

import torch
from parity_support import GRADIENT_TOLERANCE, STEPPED_PARAMETER_TOLERANCE

from hf_tsrep import TimeMAEConfig, TimeMAEForPreTraining, TimeMAEForTimeSeriesClassification
from hf_tsrep.modeling.layers_patching import align_series
from hf_tsrep.modeling.modeling_timemae import (
    TimeMAEDraws,
    complete_timemae_fields,
    convert_timemae_heads,
    convert_timemae_state_dict,
    draw_codewords,
    timemae_fields_of_hyperparameters,
)


def converted(parameters):
    """All our parameters and buffers of official ones, those of every head."""
    encoder = {f"model.{name}": value for name, value in convert_timemae_state_dict(parameters)[1].items()}
    return encoder | convert_timemae_heads(parameters)


def build_model(fixture, model_class, mode="eval", **fields):
    of_shapes, _ = convert_timemae_state_dict(fixture.parameters)
    given = timemae_fields_of_hyperparameters(fixture.hyperparameters(model_class.converter.hyperparameter_names))
    sizes = {name: value for name, value in of_shapes.items() if name != "context_length"}
    assert all(given.get(name, value) == value for name, value in sizes.items())
    model = model_class(TimeMAEConfig(**{**complete_timemae_fields(of_shapes, given), **fields}))
    load(model, fixture.parameters)
    return fixture.set_mode(model, mode)


def load(model, parameters):
    own, state = model.state_dict(), converted(parameters)
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=True)


def official_places(parameters):
    """The numbers of the official parameters' places, and where the converter puts them among ours."""
    numbers, start = {}, 0
    for name, value in parameters.items():
        numbers[name] = torch.arange(start, start + value.numel(), dtype=torch.float64).view(value.shape)
        start += value.numel()
    return numbers, converted(numbers), start


def in_official_places(parameters, values):
    """Values by our names, put into the official places; NaN where there are none."""
    numbers, places, count = official_places(parameters)
    flat = torch.full((count,), torch.nan)
    for name, value in values.items():
        flat[places[name].long().flatten()] = value.detach().flatten()
    return {name: flat[number.long()] for name, number in numbers.items()}


def check_gradients(fixture, model):
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    found = in_official_places(fixture.parameters, ours)
    for name in fixture.gradients:
        fixture.check(name, found[name], GRADIENT_TOLERANCE, of="gradients")


def masked_noise(noise, permutation, batch_size, num_masked):
    """Gumbel noise of the masked windows, in the order of the permutation, from that of all windows."""
    return noise.view(batch_size, len(permutation), -1)[:, permutation[len(permutation) - num_masked :]]


def check_forward(fixture):
    values = fixture.inputs["x"]
    pretraining = build_model(fixture, TimeMAEForPreTraining)
    with torch.no_grad():
        windows, _ = pretraining.model.embed_windows(align_series(values, torch.ones_like(values, dtype=torch.bool)))
        fixture.check("patch_embedding", windows)
        scores = pretraining.tokenizer(windows)
        fixture.check_equal("tokens", draw_codewords(scores, fixture.inputs["gumbel_noise"].view_as(scores)))
    model = build_model(fixture, TimeMAEForTimeSeriesClassification)
    encoded = model.model(values)
    fixture.check("encoder", encoded.last_hidden_state)
    fixture.check("representation", encoded.pooler_output)
    output = model(values, labels=fixture.inputs["labels"])
    output.loss.backward()
    fixture.check("logits", output.logits)
    fixture.check("loss", output.loss)
    check_gradients(fixture, model)
    return fixture.compared


WITHOUT_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "regressor_dropout": 0.0}


def check_pretrain(fixture):
    model = build_model(fixture, TimeMAEForPreTraining, "train", **WITHOUT_DROPOUT)
    values, permutation = fixture.inputs["x"], fixture.inputs["perm"]
    num_masked = model.config.count_masked(len(permutation))
    noise = masked_noise(fixture.inputs["gumbel_noise"], permutation, len(values), num_masked)
    output = model(values, draws=TimeMAEDraws(0, permutation, noise))
    output.loss.backward()
    fixture.check("rep_mask", output.target_representations)
    fixture.check("rep_mask_prediction", output.predicted_representations)
    fixture.check("token_scores", output.codeword_scores)
    fixture.check_equal("tokens", output.codewords)
    fixture.check("align_loss", output.alignment_loss)
    fixture.check("ce_loss", output.codeword_loss)
    fixture.check("loss", output.loss)
    fixture.check("hits", output.codeword_accuracy * output.codewords.numel())
    fixture.check("ndcg10", output.codeword_ndcg)
    check_gradients(fixture, model)
    model.after_optimizer_step()
    after = in_official_places(fixture.parameters, momentum_encoder(model))
    fixture.check("momentum_attn_after", after["momentum_encoder.TRMs.0.attn.linear_layers.1.weight"])
    if "momentum_a_after" in fixture.outputs:
        fixture.check("momentum_a_after", after["momentum_encoder.TRMs.0.skipconnect1.a"])
    return fixture.compared


def momentum_encoder(model):
    return {f"momentum_encoder.{name}": value for name, value in model.momentum_encoder.named_buffers()}


def check_steps(fixture):
    """The official copy_weight lets the encoders share storage up to the first update, as a new model of ours does."""
    model = build_model(fixture, TimeMAEForPreTraining, "train", **WITHOUT_DROPOUT)
    model.num_momentum_updates.zero_()
    optimizer = torch.optim.AdamW(model.parameters(), lr=fixture.config["lr"])
    losses = []
    steps = (fixture.inputs[name] for name in ("x", "perm", "gumbel_noise"))
    for values, permutation, noise in zip(*steps, strict=True):
        num_masked = model.config.count_masked(len(permutation))
        noise = masked_noise(noise, permutation, len(values), num_masked)
        optimizer.zero_grad()
        output = model(values, draws=TimeMAEDraws(0, permutation, noise))
        output.loss.backward()
        optimizer.step()
        model.after_optimizer_step()
        losses.append(torch.stack([output.loss.detach(), output.alignment_loss, output.codeword_loss]))
    fixture.check("losses", torch.stack(losses), STEPPED_PARAMETER_TOLERANCE)
    trained = {**dict(model.named_parameters()), **momentum_encoder(model)}
    after = in_official_places(fixture.parameters, trained)
    for name in (one for one in fixture.outputs if one.startswith("after.")):
        official = name.removeprefix("after.")
        untouched = official.startswith("predict_head")  # not ours in pre-training, and without a gradient there
        found = fixture.parameters[official] if untouched else after[official]
        fixture.check(name, found, STEPPED_PARAMETER_TOLERANCE)
    return fixture.compared


KINDS = {"forward": check_forward, "pretrain": check_pretrain, "steps": check_steps}
