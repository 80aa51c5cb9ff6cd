"""How each kind of GPHT fixture is computed by our code."""

import torch
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep import GPHTConfig, GPHTForPreTraining, GPHTForTimeSeriesPrediction, GPHTModel
from hf_tsrep.modeling.modeling_gpht import (
    GPHTDraws,
    complete_gpht_fields,
    convert_gpht_heads,
    convert_gpht_state_dict,
    gpht_fields_of_hyperparameters,
)

# Official argument -> what the parameters must have been made with.
OF_SHAPES = ("token_length", "pooling_rates", "hidden_size", "num_hidden_layers", "intermediate_size")


def build_model(fixture, model_class, mode="eval"):
    of_shapes, state = convert_gpht_state_dict(fixture.parameters)
    given = gpht_fields_of_hyperparameters(fixture.hyperparameters(GPHTModel.converter.hyperparameter_names))
    for name in OF_SHAPES:
        assert given.get(name, of_shapes[name]) == of_shapes[name], f"{name}: the tensors have {of_shapes[name]}"
    model = model_class(GPHTConfig(**complete_gpht_fields(of_shapes, given)))
    state = {f"model.{name}": value for name, value in state.items()} | convert_gpht_heads(fixture.parameters)
    model.load_state_dict(state, strict=True)
    return fixture.set_mode(model, mode)


def check_prediction(fixture, output, length):
    fixture.check("prediction", output.prediction[:, -length:])
    for stage, values in enumerate(output.stage_outputs):
        fixture.check(f"stage{stage}", values[:, -length:])


def check_forward(fixture):
    model, values = build_model(fixture, GPHTForPreTraining), fixture.inputs["x"]
    length, token_length = values.shape[1], model.config.token_length
    # What comes after the window is what its last token predicts, whatever it is.
    whole = torch.cat((values, torch.zeros_like(values[:, :token_length])), dim=1)
    with torch.no_grad():
        check_prediction(fixture, model(whole, draws=GPHTDraws()), length)
    return fixture.compared


def official_gradients(model):
    """Gradients by their official names; the three parts of the attention's projection are one parameter of ours."""
    ours, num_stages, named = model.get_parameter, len(model.model.stages), {}
    for stage in range(num_stages):
        official, own = f"encoders.{stage}", f"model.stages.{stage}"
        named[f"{official}.patch_embedding.value_embedding.weight"] = ours(f"{own}.embedding.weight")
        forecast = "head" if stage == num_stages - 1 else f"model.forecasts.{stage}"
        names = {"encoder.norm": f"{own}.encoder.norm", "forecast_head": f"{forecast}.projection"}
        for index in range(model.config.num_hidden_layers):
            theirs, layer = f"encoder.attn_layers.{index}", f"{own}.encoder.layers.{index}"
            names |= {
                f"{theirs}.attention.out_projection": f"{layer}.attention.output_projection",
                f"{theirs}.conv1": f"{layer}.expansion",
                f"{theirs}.conv2": f"{layer}.contraction",
                f"{theirs}.norm1": f"{layer}.attention_norm",
                f"{theirs}.norm2": f"{layer}.output_norm",
            }
        for theirs, layer in names.items():
            named |= {f"{official}.{theirs}.{kind}": ours(f"{layer}.{kind}") for kind in ("weight", "bias")}
    gradients = {name: parameter.grad for name, parameter in named.items()}
    for stage in range(num_stages):
        for index in range(model.config.num_hidden_layers):
            attention = f"encoder.attn_layers.{index}.attention"
            for kind in ("weight", "bias"):
                joined = ours(f"model.stages.{stage}.encoder.layers.{index}.attention.input_projection.{kind}").grad
                for part, gradient in zip(("query", "key", "value"), joined.chunk(3), strict=True):
                    gradients[f"encoders.{stage}.{attention}.{part}_projection.{kind}"] = gradient
    return gradients


def check_pretrain(fixture):
    model = build_model(fixture, GPHTForPreTraining, mode="train")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    values, following = fixture.inputs["x"], fixture.inputs["y"]
    output = model(torch.cat((values, following), dim=1), draws=GPHTDraws())
    output.loss.backward()
    check_prediction(fixture, output, values.shape[1])
    fixture.check("target", output.target)
    fixture.check("loss", output.loss)
    gradients = official_gradients(model)
    for name in fixture.gradients:
        gradient = gradients[name]
        expected = fixture.gradients[name]
        fixture.check(name, gradient.view(expected.shape), GRADIENT_TOLERANCE, of="gradients")
    return fixture.compared


def check_autoregressive(fixture):
    model, values = build_model(fixture, GPHTForTimeSeriesPrediction), fixture.inputs["x"]
    length, token_length = fixture.config["ar_pred_len"], model.config.token_length
    forecast = model.generate(values)
    assert forecast.shape[1] == length
    fixture.check("forecast", forecast)
    torch.testing.assert_close(model(values).prediction_outputs, forecast)
    torch.testing.assert_close(model.generate(values, length), forecast)
    before_the_last = (length - 1) // token_length * token_length
    whole = torch.cat((values, forecast[:, :before_the_last]), dim=1)
    window = whole[:, -model.config.context_length :]
    fixture.check("last_window", window)
    fixture_end = model.generate(window, length - before_the_last)
    torch.testing.assert_close(fixture_end, forecast[:, before_the_last:], rtol=1e-5, atol=1e-5)
    return fixture.compared


KINDS = {"forward": check_forward, "pretrain": check_pretrain, "autoregressive": check_autoregressive}
