"""How each kind of TS2Vec fixture is computed by our code."""

import numpy as np
import torch
from parity_support import GRADIENT_TOLERANCE, STEPPED_PARAMETER_TOLERANCE

from hf_tsrep import TS2VecConfig, TS2VecForPreTraining, TS2VecModel
from hf_tsrep.modeling import kernels_contrast
from hf_tsrep.modeling.modeling_ts2vec import (
    TS2VecViews,
    convert_ts2vec_state_dict,
    dual_loss,
    hierarchical_contrastive_loss,
    take_steps,
)
from hf_tsrep.training import batches, data
from hf_tsrep.training.callbacks import WeightAveragingCallback


def official_parameters(fixture, prefix=""):
    """The official state dict that is stored under `prefix` of the outputs, or as the parameters."""
    if not prefix:
        return fixture.parameters
    return {name.removeprefix(prefix): value for name, value in fixture.outputs.items() if name.startswith(prefix)}


def build_model(fixture, model_class=TS2VecModel):
    """Our model of the parameters and arguments of a fixture; dropout, which stays random, is off in all of them."""
    of_shapes, state_dict = convert_ts2vec_state_dict(fixture.parameters)
    converter = TS2VecModel.converter
    training = {"lr", "batch_size", "max_train_length"}  # looked up where they change what is compared
    understood = set(converter.hyperparameter_names) - training
    given = converter.fields_of_hyperparameters(fixture.hyperparameters(understood, within="model"))
    assert all(given.get(name, value) == value for name, value in of_shapes.items())
    model = model_class(TS2VecConfig(**{**of_shapes, **given}, output_dropout=0.0))
    model.base_model.load_state_dict(state_dict)
    return fixture.set_mode(model)


def check_encoder(fixture):
    model = build_model(fixture)
    values = fixture.inputs["x"]
    batch_size, length, _ = values.shape
    fixture.assert_shapes({"B": batch_size, "T": length})
    last = torch.ones(batch_size, length, dtype=torch.bool)
    last[:, -1] = False
    masks = {
        "all_true": None,
        "all_false": torch.zeros(batch_size, length, dtype=torch.bool),
        "mask_last": last,
        "binomial": fixture.inputs["mask"].bool(),
    }
    with torch.no_grad():
        for name, mask in masks.items():
            fixture.check(name, model(values, timestamp_mask=mask).last_hidden_state)
        fixture.check("clean", model(values.nan_to_num(0.25)).last_hidden_state)
    return fixture.compared


def check_losses(fixture):
    """The losses as the equations write them, and by tiles."""
    for loss_of_level in (dual_loss, kernels_contrast.dual_loss):
        check_losses_of(fixture, loss_of_level)
    return fixture.compared


def check_losses_of(fixture, loss_of_level):
    first, second, config = fixture.inputs["z1"], fixture.inputs["z2"], fixture.config
    fixture.assert_shapes(dict(zip("BTC", first.shape, strict=True)))

    def hierarchical(alpha=0.5, temporal_unit=0):
        return lambda *views: hierarchical_contrastive_loss(
            *views, alpha=alpha, temporal_unit=temporal_unit, loss_of_level=loss_of_level
        )[0]

    def one_term(alpha):
        return lambda *views: loss_of_level(torch.stack(views, dim=1), alpha=alpha)[0]

    whole = (slice(None), slice(None))
    cases = {
        "hier_alpha": (hierarchical(config["alpha"]), whole),
        "hier_a0": (hierarchical(0.0), whole),
        "hier_a1": (hierarchical(1.0), whole),
        "hier_even": (hierarchical(), (slice(None), slice(config["T_even"]))),
        "hier_B1": (hierarchical(), (slice(1), slice(None))),
        "hier_T1": (hierarchical(), (slice(None), slice(1))),
        "hier_T2": (hierarchical(), (slice(None), slice(2))),
        "instance": (one_term(1.0), whole),
        "instance_B1": (one_term(1.0), (slice(1), slice(None))),
        "temporal": (one_term(0.0), whole),
        "temporal_T1": (one_term(0.0), (slice(None), slice(1))),
    }
    for unit in range(3):
        cases[f"hier_a05_tu{unit}"] = (hierarchical(0.5, unit), whole)
    for name, (loss_of, part) in cases.items():
        views = [view[part].clone().requires_grad_() for view in (first, second)]
        loss = loss_of(*views)
        if loss.requires_grad:
            loss.backward()
        fixture.check(name, loss)
        for label, view in zip(("z1", "z2"), views, strict=True):
            gradient = torch.zeros_like(view) if view.grad is None else view.grad
            fixture.check(f"{name}.{label}", gradient, GRADIENT_TOLERANCE, of="gradients")


def check_encode(fixture):
    model, config = build_model(fixture), fixture.config
    values = fixture.inputs["data"].numpy()
    fixture.assert_shapes(dict(zip("BT", values.shape, strict=False)))
    assert config["model"]["batch_size"] > len(values), "the official path with buffers, but for `unbuffered`"
    length, stride, padding = values.shape[1], config["sliding_length"], config["sliding_padding"]
    one_step = {"level": "timestamp", "window_length": padding + 1, "stride": 1, "causal": True}
    fixture.check("timestamp", model.encode(values, level="timestamp"))
    fixture.check("full_series", model.encode(values, pooling="max"))
    for name in ("window_odd", "window_even"):
        fixture.check(name, model.encode(values, level="timestamp", pooling=config[name]))
    fixture.check("multiscale", model.encode(values, level="timestamp", pooling="multiscale"))
    fixture.check("sliding_causal", model.encode(values, **one_step))
    fixture.check("sliding_causal_mask_last", model.encode(values, mask="mask_last", **one_step))
    clean = np.nan_to_num(values, nan=0.25)
    fixture.check("clean_sliding_causal", model.encode(clean, **one_step))
    fixture.check("clean_sliding_causal_unbuffered", model.encode(clean, batch_size=2, **one_step))
    # The official output runs beyond the series to a multiple of the stride; with so many missing steps after it,
    # ours does too.
    beyond = -length % stride
    longer = np.pad(values, ((0, 0), (0, beyond), (0, 0)), constant_values=np.nan)
    causal = {"level": "timestamp", "window_length": padding + stride, "stride": stride, "causal": True}
    centred = {"level": "timestamp", "window_length": 2 * padding + stride, "stride": stride}
    fixture.check("sliding_causal_len", model.encode(longer, **causal))
    assert model.encode(values, **causal).shape[1] == length
    fixture.check("sliding_noncausal", model.encode(longer, **centred))
    full_series = model.encode(longer, **{**causal, "level": "instance", "pooling": "max"})
    fixture.check("sliding_full_series", full_series[:, :, None])
    fixture.check("sliding_window_odd", model.encode(longer, pooling=config["window_odd"], **centred))
    fixture.check("sliding_multiscale", model.encode(longer, pooling="multiscale", **centred))
    _check_unbuffered(fixture, model, padding)
    return fixture.compared


def _check_unbuffered(fixture, model, padding):
    """The official path without buffers writes zeros over NaN in the batch itself as it goes, which ours does not do.

    So its output is ours on the data as the official loop left them at each step: from the first window that lies
    wholly inside the series on, every window is a view of the batch, and its missing rows become zeros for the
    windows after it.
    """
    values = fixture.inputs["data"].numpy().copy()
    expected = []
    for step in range(values.shape[1]):
        window = {"level": "timestamp", "window_length": padding + 1, "stride": 1, "causal": True}
        expected.append(model.encode(values[:, : step + 1], layout="ntc", **window)[:, -1])
        first = step - padding
        if first >= 0:
            values[:, first : step + 1] = _with_zeros(values[:, first : step + 1])
    fixture.check("sliding_causal_unbuffered", np.stack(expected, axis=1))


def _with_zeros(values):
    missing = np.isnan(values).any(axis=-1, keepdims=True)
    return np.where(missing, 0.0, values)


def check_fit(fixture):
    model = fixture.set_mode(build_model(fixture, TS2VecForPreTraining), default="train")
    inputs, settings = fixture.inputs, fixture.config["model"]
    fixture.assert_shapes(dict(zip("NT", inputs["train_data"].shape, strict=False)))
    assert settings["batch_size"] == inputs["batch_index"].shape[1]
    assert (settings.get("max_train_length") or inputs["train_data"].shape[1]) >= inputs["train_data"].shape[1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"])
    average = WeightAveragingCallback()
    average.update(model)
    losses = []
    for step in range(fixture.config["n_iters"]):
        loss = model(inputs["train_data"][inputs["batch_index"][step]], views=_stored_views(inputs, step)).loss
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            named = _official_names(fixture, {name: value.grad for name, value in model.model.named_parameters()})
            for name in fixture.config["grad_keys"]:
                fixture.check(f"iter0.{name}", named[name], GRADIENT_TOLERANCE, of="gradients")
        optimizer.step()
        average.update(model)
        losses.append(loss.item())
    fixture.check("loss", torch.tensor(losses))
    fixture.check("n_averaged", torch.tensor(average.num_averaged))
    averaged = {name.removeprefix("model."): value for name, value in average.averaged.items()}
    for prefix, state in (("net.", dict(model.model.named_parameters())), ("swa.", averaged)):
        for name, value in _official_names(fixture, state).items():
            fixture.check(prefix + name, value, STEPPED_PARAMETER_TOLERANCE)
    return fixture.compared


def _official_names(fixture, ours):
    """Our tensors under the official names, found by converting the names themselves."""
    markers = {name: torch.full_like(value, index) for index, (name, value) in enumerate(fixture.parameters.items())}
    _, converted = convert_ts2vec_state_dict(markers)
    names = list(fixture.parameters)
    return {names[int(marker.flatten()[0])]: ours[name] for name, marker in converted.items()}


def _stored_views(inputs, step):
    offset = inputs["crop_offset"][step]
    length, left = int(inputs["crop_l"][step]), int(inputs["crop_left"][step])
    outer_left, outer_right = int(inputs["crop_eleft"][step]), int(inputs["crop_eright"][step])
    return TS2VecViews(
        crop_length=length,
        first_start=offset + outer_left,
        first_length=left + length - outer_left,
        second_start=offset + left,
        second_length=outer_right - left,
        first_mask=inputs[f"mask_view1_iter{step}"].bool(),
        second_mask=inputs[f"mask_view2_iter{step}"].bool(),
    )


def check_preprocess(fixture):
    values, config = fixture.inputs["x"], fixture.config
    length = values.shape[1]
    fixture.assert_shapes({"T": length})
    fixture.check_equal("centerized", data.centre_observed_span(values))
    fixture.check_equal("split", data.split_with_missing(values, config["sections"]))
    fixture.check_equal("pad_right", batches.pad_with_missing(values, length + 5))
    fixture.check_equal("pad_both", batches.pad_with_missing(values, length + 5, both_sides=True))
    fixture.check_equal("torch_pad", batches.pad_with_missing_steps(values, left=3, right=2))
    fixture.check_equal("take_per_row", take_steps(values, fixture.inputs["index"], config["num_elem"]))
    return fixture.compared


KINDS = {
    "encoder": check_encoder,
    "losses": check_losses,
    "encode": check_encode,
    "fit": check_fit,
    "preprocess": check_preprocess,
}
