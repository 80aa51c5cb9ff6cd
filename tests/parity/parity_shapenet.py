"""How each kind of ShapeNet fixture is computed by our code.

There is no official fixture of ShapeNet. `encoder` is one of the official encoder that the paper takes, T-Loss'
(Franceschi et al., 2019); `pretraining` and `shapelets` are our own, by tests/support/shapenet_equations.py.
"""

import torch
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep import (
    ShapeNetConfig,
    ShapeNetForPreTraining,
    ShapeNetForTimeSeriesClassification,
)
from hf_tsrep.modeling.layers_convolution import CausalEncoder
from hf_tsrep.modeling.modeling_shapenet import (
    ShapeNetDraws,
    convert_shapenet_state_dict,
    rename_causal_encoder_parameter,
)


def check_encoder(fixture):
    sizes = fixture.config["model"]
    encoder = CausalEncoder(
        input_channels=sizes["in_channels"],
        hidden_size=sizes["channels"],
        num_layers=sizes["depth"] + 1,
        reduced_size=sizes["reduced_size"],
        output_size=sizes["out_channels"],
        kernel_size=sizes["kernel_size"],
    )
    named = {rename_causal_encoder_parameter(name): value for name, value in fixture.parameters.items()}
    encoder.load_state_dict({key: value.flatten() if "magnitude" in key else value for key, value in named.items()})
    for length in fixture.config["lengths"]:
        values = fixture.inputs[f"x_len{length}"].transpose(1, 2)
        fixture.assert_shapes({"B": len(values)})
        observed = torch.ones(values.shape[:2], dtype=torch.bool)
        fixture.check(f"len{length}", encoder(values, observed))
    hidden = values.transpose(0, 1).contiguous()
    for block in encoder.blocks:
        hidden = block(hidden)
    fixture.check("causal_cnn", hidden.permute(1, 2, 0))


def build_model(fixture, model_class):
    """Our model with the parameters and arguments of a fixture of our own."""
    fields = {name: fixture.config[name] for name in fixture.config if name in ShapeNetConfig.field_names()}
    of_shapes, state_dict = convert_shapenet_state_dict(fixture.parameters)
    assert all(fields.get(name, value) == value for name, value in of_shapes.items())
    length = fixture.inputs["series"].shape[1]
    classes = {"num_labels": 3} if "num_shapelets" in fields else {}
    model = model_class(ShapeNetConfig(**{**of_shapes, **fields, **classes}, shapelet_length=length))
    model.base_model.load_state_dict(state_dict)
    return model.eval()


def check_pretraining(fixture):
    model = build_model(fixture, ShapeNetForPreTraining).train()
    keys = [fixture.inputs[f"keys{number}"] for number in range(len(model.config.segment_ratios))]
    loss = model(fixture.inputs["series"], draws=ShapeNetDraws(fixture.inputs["centres"], keys)).loss
    loss.backward()
    fixture.check("loss", loss)
    ours = {name: value.grad for name, value in model.model.named_parameters()}
    for name in fixture.gradients:
        official = name.removeprefix("loss.")
        gradient = ours[f"segments.encoder.{rename_causal_encoder_parameter(official)}"]
        fixture.check(name, gradient.view_as(fixture.parameters[official]), GRADIENT_TOLERANCE, of="gradients")


def check_shapelets(fixture):
    model = build_model(fixture, ShapeNetForTimeSeriesClassification)
    series = fixture.inputs["series"]
    generator = torch.Generator().manual_seed(fixture.config["seed"])
    model.select_shapelets(series, fixture.inputs["labels"], generator=generator)
    fixture.check_equal("origins", model.head.origins)
    fixture.check("distances", model.compute_head_inputs(series).head_inputs["distances"])


KINDS = {"encoder": check_encoder, "pretraining": check_pretraining, "shapelets": check_shapelets}
