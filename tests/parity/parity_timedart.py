"""How each kind of TimeDART fixture is computed by our code."""

import torch
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep import (
    TimeDARTConfig,
    TimeDARTForPreTraining,
    TimeDARTForTimeSeriesClassification,
    TimeDARTForTimeSeriesPrediction,
)
from hf_tsrep.modeling.layers_patching import whole_series
from hf_tsrep.modeling.modeling_timedart import (
    TimeDARTDraws,
    choose_timedart_model,
    complete_timedart_fields,
    convert_timedart_heads,
    convert_timedart_state_dict,
    noise_levels,
    noised_patches,
    timedart_fields_of_hyperparameters,
)

MODELS = {
    "pretraining": TimeDARTForPreTraining,
    "classification": TimeDARTForTimeSeriesClassification,
    "prediction": TimeDARTForTimeSeriesPrediction,
}


def converted(parameters):
    """All our parameters of official ones, those of every head."""
    encoder = {f"model.{name}": value for name, value in convert_timedart_state_dict(parameters)[1].items()}
    return encoder | convert_timedart_heads(parameters)


def build_model(fixture, default_mode, **fields):
    of_shapes, _ = convert_timedart_state_dict(fixture.parameters)
    understood = TimeDARTForPreTraining.converter.hyperparameter_names
    given = timedart_fields_of_hyperparameters(fixture.hyperparameters(understood))
    shapes = TimeDARTForPreTraining.converter.fields_of_shapes
    assert all(given.get(name, of_shapes[name]) == of_shapes[name] for name in shapes if name in of_shapes)
    given.setdefault("num_input_channels", fixture.inputs["x"].shape[-1])
    all_fields = complete_timedart_fields(of_shapes, given)
    kind, of_head = choose_timedart_model(fixture.parameters, all_fields)
    model = MODELS[kind](TimeDARTConfig(**{**all_fields, **of_head, **fields}))
    own = model.state_dict()
    ours = converted(fixture.parameters)
    model.load_state_dict({name: ours[name] for name in own})
    return fixture.set_mode(model, default=default_mode)


def without_dropout(fixture):
    """The fixtures of training mode were made with every dropout 0, whatever the arguments say."""
    return (
        {} if fixture.config.get("mode") == "eval" else {"dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
    )


def check_gradients(fixture, model):
    """Find our gradients' places in the official parameters by converting the numbers of the places themselves."""
    numbers, start = {}, 0
    for name, value in fixture.parameters.items():
        numbers[name] = torch.arange(start, start + value.numel(), dtype=torch.float64).view(value.shape)
        start += value.numel()
    gradients = torch.full((start,), torch.nan)
    places = converted(numbers)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[places[name].long().flatten()] = parameter.grad.flatten()
    for name in fixture.gradients:
        own = "sos_token" if name == "add_sos_token_and_drop_last.sos_token" else name  # it is there twice
        fixture.check(name, gradients[numbers[own].long()], GRADIENT_TOLERANCE, of="gradients")


def official_draws(fixture, config):
    """Noise and hidden pairs of a fixture; with independent channels its rows get an axis of channels."""
    steps, noise, batch_size = fixture.inputs["time_steps"], fixture.inputs["noise"], len(fixture.inputs["x"])
    if config.channel_mode == "independent":
        steps, noise = steps.unflatten(0, (batch_size, -1)), noise.unflatten(0, (batch_size, -1))
    orders = fixture.inputs.get("decoder_perm") if 0.0 < config.mask_ratio < 1.0 else None
    if orders is not None and len(orders) == 1:
        orders = orders.expand(2, -1)
    return TimeDARTDraws(steps, noise, orders)


def check_optional(fixture, name, value):
    if name in fixture.outputs:
        fixture.check(name, value)


def check_pretrain(fixture):
    assert fixture.config.get("task_name", "pretrain") == "pretrain"
    model = build_model(fixture, "train", **without_dropout(fixture))
    values, draws = fixture.inputs["x"], official_draws(fixture, model.config)
    with torch.no_grad():
        series, _ = model.model.normalize(whole_series(values, torch.ones_like(values, dtype=torch.bool)))
        found = model.denoise(series, draws)
    noised = found.noised
    if model.config.channel_mode == "joint":  # the official model noises the series
        levels = noise_levels(model.config)[draws.time_steps].unsqueeze(-1)
        noised = levels.sqrt() * values + (1 - levels).sqrt() * draws.noise
    output = model(values, draws=draws)
    output.loss.backward()
    check_optional(fixture, "gamma", noise_levels(model.config))
    check_optional(fixture, "noisy_input", noised)
    check_optional(fixture, "encoder", found.encoded)
    check_optional(fixture, "decoder", found.decoded)
    is_causal = model.config.pretraining_head == "causal"
    fixture.check("prediction", output.reconstruction.flatten(1, 2) if is_causal else output.reconstruction)
    fixture.check("loss", output.loss)
    check_gradients(fixture, model)
    return fixture.compared


def check_finetune(fixture):
    model = build_model(fixture, "eval", **({} if fixture.config.get("mode") != "train" else without_dropout(fixture)))
    values = fixture.inputs["x"]
    with torch.no_grad():
        series, _ = model.model.normalize(whole_series(values, torch.ones_like(values, dtype=torch.bool)))
        check_optional(fixture, "encoder", model.model.encode_patches(series)[0])
    if "labels" in fixture.inputs:
        output = model(values, labels=fixture.inputs["labels"])
        fixture.check("prediction", output.logits)
    else:
        output = model(values, future_values=fixture.inputs["y"])
        fixture.check("prediction", output.prediction_outputs)
    output.loss.backward()
    fixture.check("loss", output.loss)
    check_gradients(fixture, model)
    return fixture.compared


def check_v2_train(fixture):
    model = build_model(fixture, "train", dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    model.train()  # forecast_train, which sees the future, in whichever mode it is
    values, future = fixture.inputs["x"], fixture.inputs["y"]
    draws = official_draws(fixture, model.config)
    captured = {}
    denoiser = model.head.denoiser
    hooks = [
        denoiser.norm.register_forward_hook(lambda *call: captured.update(decoder=call[-1])),
        model.model.encoder.register_forward_hook(lambda *call: captured.update(encoder=call[-1])),
    ]
    output = model(values, future_values=future, draws=draws)
    for hook in hooks:
        hook.remove()
    output.loss.backward()
    noised = noised_patches(
        model.config, model.head.layout, whole_series(future, torch.ones_like(future, dtype=torch.bool)), draws
    )
    check_optional(fixture, "gamma", noise_levels(model.config))
    check_optional(fixture, "noisy_input", noised)
    check_optional(fixture, "encoder", captured["encoder"])
    check_optional(fixture, "decoder", captured["decoder"])
    fixture.check("prediction", output.prediction_outputs)
    fixture.check("loss", output.loss)
    check_gradients(fixture, model)
    return fixture.compared


def check_v2_generate(fixture):
    model = build_model(fixture, "eval")
    noise = fixture.inputs["gaussian_noise"]
    output = model(fixture.inputs["x"], draws=TimeDARTDraws(torch.zeros(0), noise))
    fixture.check("prediction", output.prediction_outputs)
    return fixture.compared


KINDS = {
    "finetune": check_finetune,
    "pretrain": check_pretrain,
    "v2_generate": check_v2_generate,
    "v2_train": check_v2_train,
}
