"""How each kind of TimeDRL fixture is computed by our code."""

import torch
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep import (
    TimeDRLConfig,
    TimeDRLForPreTraining,
    TimeDRLForTimeSeriesClassification,
    TimeDRLForTimeSeriesPrediction,
    TimeDRLModel,
)
from hf_tsrep.modeling.layers_patching import align_series, last_patches
from hf_tsrep.modeling.modeling_timedrl import (
    TimeDRLViews,
    complete_timedrl_fields,
    convert_timedrl_heads,
    convert_timedrl_state_dict,
    normalize_series,
    timedrl_fields_of_hyperparameters,
)


def build_model(fixture, model_class, **fields):
    of_shapes, state = convert_timedrl_state_dict(fixture.parameters)
    given = timedrl_fields_of_hyperparameters(fixture.hyperparameters(TimeDRLModel.converter.hyperparameter_names))
    config = TimeDRLConfig(**{**complete_timedrl_fields(of_shapes, given), **fields})
    assert config.hidden_size == fixture.config["base_d_model"] * fixture.config["n_heads"]
    model = model_class(config)
    state = {f"model.{name}": value for name, value in state.items()}
    own = model.state_dict()
    state |= {name: value for name, value in convert_timedrl_heads(fixture.parameters).items() if name in own}
    model.load_state_dict(state, strict=True)
    return fixture.set_mode(model)


def check_representations(fixture):
    """What every kind but the pretext step has: from the normalised series to both predictions."""
    model = build_model(fixture, TimeDRLForPreTraining)
    values = fixture.inputs["x"]
    observed = torch.ones_like(values, dtype=torch.bool)
    series, statistics = normalize_series(align_series(values, observed))
    states = []
    with torch.no_grad():
        encoded = model.model.patch_encoder(series, states=states)
        fixture.check("revin_mean", statistics.mean)
        fixture.check("revin_stdev", statistics.deviation)
        fixture.check("patches", model.model.patch_encoder.cut(series.values, series.length))
        fixture.check("embedded_tokens", states[0])
        fixture.check("timestamp_embedding", encoded.patches)
        fixture.check("instance_embedding", encoded.instances)
        fixture.check("x_pred", model.timestamp_predictor(encoded.patches))
        fixture.check("i_pred", model.contrastive_predictor(encoded.instances))
        output = model.model(values)
        torch.testing.assert_close(output.last_hidden_state, model.model.by_series(encoded.patches))
        if model.config.channel_mode == "joint":
            fixture.check("instance_embedding", torch.from_numpy(model.encode(values)))
    return fixture.compared


def check_head_gradients(fixture, model):
    for official, value in fixture.gradients.items():
        (name,) = (one for one in convert_timedrl_heads({official: value}) if one in model.state_dict())
        fixture.check(official, model.get_parameter(name).grad, GRADIENT_TOLERANCE, of="gradients")


def check_linear_forecast(fixture):
    check_representations(fixture)
    model = build_model(fixture, TimeDRLForTimeSeriesPrediction)
    values = fixture.inputs["x"]
    output = model(values, future_values=fixture.inputs["y"])
    output.loss.backward()
    fixture.check("forecast", output.prediction_outputs)
    fixture.check("loss", output.loss)
    check_head_gradients(fixture, model)
    num_patches = torch.full((len(values),), model.config.num_context_patches)
    with torch.no_grad():
        patches = last_patches(model.model(values).last_hidden_state, num_patches, model.config.num_context_patches)
        fixture.check("head_raw", model.head.normalized_prediction(patches))
    return fixture.compared


def check_linear_classify(fixture):
    check_representations(fixture)
    model = build_model(fixture, TimeDRLForTimeSeriesClassification, num_labels=fixture.config["K"])
    output = model(fixture.inputs["x"], labels=fixture.inputs["labels"])
    output.loss.backward()
    fixture.check("logits", output.logits)
    fixture.check("loss", output.loss)
    check_head_gradients(fixture, model)
    return fixture.compared


def official_gradients(model):
    """Gradients by their official names; the three parts of the attention's projection are one parameter of ours."""
    ours = {name: value.grad for name, value in model.named_parameters()}
    named = {"cls_token": ours["model.patch_encoder.cls_token"]}
    names = {
        "predictive_linear.1": "timestamp_predictor.projection",
        "contrastive_predictor.0": "contrastive_predictor.contraction",
        "contrastive_predictor.1": "contrastive_predictor.norm",
        "contrastive_predictor.4": "contrastive_predictor.expansion",
    }
    encoder = "model.patch_encoder.encoder"
    if "lstm" in model.config.encoder:
        names["encoder.linear"] = f"{encoder}.projection"
        for suffix, layers in (("", "forward_layers"), ("_reverse", "backward_layers")):
            prefix = f"{encoder}.{layers}.0."
            named |= {
                f"encoder.lstm.{name.removeprefix(prefix)}{suffix}": gradient
                for name, gradient in ours.items()
                if name.startswith(prefix)
            }
    else:
        names["encoder.norm"] = f"{encoder}.transformer.norm"
    for index in range(model.config.num_hidden_layers if "transformer" in model.config.encoder else 0):
        official, own = f"encoder.attn_layers.{index}", f"{encoder}.transformer.layers.{index}"
        names |= {
            f"{official}.attention.out_projection": f"{own}.attention.output_projection",
            f"{official}.conv1": f"{own}.expansion",
            f"{official}.conv2": f"{own}.contraction",
            f"{official}.norm1": f"{own}.attention_norm",
            f"{official}.norm2": f"{own}.output_norm",
        }
        for kind in ("weight", "bias"):
            parts = ours[f"{own}.attention.input_projection.{kind}"].chunk(3)
            for part, gradient in zip(("query", "key", "value"), parts, strict=True):
                named[f"{official}.attention.{part}_projection.{kind}"] = gradient
    for official, own in names.items():
        named |= {f"{official}.{kind}": ours[f"{own}.{kind}"] for kind in ("weight", "bias")}
    embedding = ours["model.patch_encoder.token_embedding.weight"]
    named["input_layer.token_embedding.tokenConv.weight"] = named["input_layer.token_embedding.weight"] = embedding
    if model.config.position_embedding == "learned":
        named["input_layer.position_embedding.pe"] = ours["model.patch_encoder.positions.weight"]
    return named


def check_pretext(fixture):
    # Kept values are divided by 1 - dropout, whatever dropout the other layers would have had.
    dropout = fixture.config.get("fixed_dropout_p", fixture.config["dropout"])
    model = fixture.set_mode(build_model(fixture, TimeDRLForPreTraining, dropout=dropout), default="train")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = fixture.inputs
    noise = torch.stack([inputs[f"jitter_noise_{view}"] for view in (1, 2)]) if "jitter_noise_1" in inputs else None
    kept = torch.stack([inputs[f"keep_mask_{view}"] for view in (1, 2)]) if "keep_mask_1" in inputs else None
    output = model(inputs["x"], views=TimeDRLViews(dropout_seed=0, noise=noise, embedding_kept=kept))
    output.loss.backward()
    for name, tensor in (
        ("x_pred", output.predicted_patches),
        ("i", output.instance_embeddings),
    ):
        for view in (0, 1):
            fixture.check(f"{name}_{view + 1}", tensor[view])
    for view in (0, 1):
        fixture.check(f"i_{view + 1}_pred", output.predicted_embeddings[view])
    fixture.check("target_patches", output.target_patches)
    fixture.check("predictive_loss", output.predictive_loss)
    fixture.check("contrastive_loss", output.contrastive_loss)
    fixture.check("pretrain_loss", output.loss)
    norm = model.contrastive_predictor.norm
    before = fixture.parameters["contrastive_predictor.1.num_batches_tracked"]
    assert norm.num_batches_tracked == before + 2 * model.training
    fixture.check("bn_running_mean_after", norm.running_mean)
    fixture.check("bn_running_var_after", norm.running_var)
    gradients = official_gradients(model)
    for name in fixture.gradients:
        fixture.check(name, gradients[name], GRADIENT_TOLERANCE, of="gradients")
    return fixture.compared


KINDS = {
    "encoder": check_representations,
    "linear_forecast": check_linear_forecast,
    "linear_classify": check_linear_classify,
    "pretext": check_pretext,
}
