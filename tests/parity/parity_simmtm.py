"""How each kind of SimMTM fixture is computed by our code."""

import torch
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep import (
    SimMTMConfig,
    SimMTMForPreTraining,
    SimMTMForTimeSeriesClassification,
    SimMTMForTimeSeriesPrediction,
)
from hf_tsrep.modeling.distributed_time_series import GlobalBatch
from hf_tsrep.modeling.layers_masking import geometric_mask, random_mask
from hf_tsrep.modeling.layers_patching import align_series
from hf_tsrep.modeling.modeling_simmtm import (
    SimMTMDraws,
    aggregation_weights,
    complete_simmtm_fields,
    convert_simmtm_heads,
    convert_simmtm_state_dict,
    cosine_similarity,
    end_mask,
    simmtm_fields_of_hyperparameters,
)


def converted(parameters):
    """All our parameters and buffers of official ones, those of every head."""
    encoder = {f"model.{name}": value for name, value in convert_simmtm_state_dict(parameters)[1].items()}
    return encoder | convert_simmtm_heads(parameters)


def build_model(fixture, model_class, **fields):
    of_shapes, _ = convert_simmtm_state_dict(fixture.parameters)
    given = simmtm_fields_of_hyperparameters(fixture.hyperparameters(model_class.converter.hyperparameter_names))
    assert all(given.get(name, value) == value for name, value in of_shapes.items())
    model = model_class(SimMTMConfig(**{**complete_simmtm_fields(of_shapes, given), **fields}))
    own = model.state_dict()
    model.load_state_dict({name: value for name, value in converted(fixture.parameters).items() if name in own})
    return fixture.set_mode(model)


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
        found = gradients[numbers[name].long()]
        fixture.check(name, found, GRADIENT_TOLERANCE, of="gradients")


def check_classify_encoder(fixture):
    values = fixture.inputs["x"].transpose(1, 2)
    projecting = build_model(fixture, SimMTMForPreTraining)
    states = []
    with torch.no_grad():
        aligned = align_series(values, torch.ones_like(values, dtype=torch.bool))
        features = projecting.model.encoder(aligned, states=states).hidden
        for index, state in enumerate(states):
            fixture.check(f"block{index + 1}", state.transpose(1, 2))
        fixture.check("h", features.transpose(2, 3).flatten(1))
        fixture.check("z", projecting.projector(features.flatten(1)))
    model = build_model(fixture, SimMTMForTimeSeriesClassification, num_labels=fixture.config["num_classes_target"])
    output = model(values, labels=fixture.inputs["labels"])
    output.loss.backward()
    fixture.check("logits", output.logits)
    fixture.check("loss", output.loss)
    check_gradients(fixture, model)
    return fixture.compared


def official_mask(fixture, config, shape):
    """The mask of the fixture's draws, of the official array's shape.

    The official command line names a rule, but only the function that masks takes one: how many numbers were drawn
    tells which it was.
    """
    draws = fixture.inputs.get("mask_draws")
    if draws is None:
        return end_mask(shape[-1], config.mask_ratio, config.mask_rule).expand(shape)
    if len(draws.flatten()) == 1 + torch.Size(shape).numel():
        return geometric_mask(draws.flatten(), config.mask_ratio, config.mean_mask_length).view(shape)
    return random_mask(draws.reshape(shape), config.mask_ratio)


class PretrainingStep:
    """One step of our code on the fixture's draws, its rows put into the official order: views before series."""

    def __init__(self, fixture, values, channels_last):
        model = build_model(fixture, SimMTMForPreTraining, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
        self.model = fixture.set_mode(model, default="train")
        config = self.model.config
        num_views, (batch_size, length, num_channels) = config.num_masked_views, values.shape
        # One code masks arrays whose last axis is time, the other one such whose last axis is that of the channels.
        shape = (num_views, batch_size, *((length, num_channels) if channels_last else (num_channels, length)))
        keep = official_mask(fixture, config, shape)
        self.keep = keep if channels_last else keep.transpose(2, 3)
        self.values, self.num_views = values, 1 + num_views
        with torch.no_grad():
            self._run_in_parts()
        self.model.load_state_dict(
            {**self.model.state_dict(), **{name: value for name, value in converted(fixture.parameters).items()}}
        )
        self.output = self.model(values, draws=SimMTMDraws(0, self.keep))
        self.output.loss.backward()

    def _run_in_parts(self):
        """What lies between input and loss."""
        observed = torch.ones_like(self.values, dtype=torch.bool)
        rows, statistics = self.model.encode_views(self.values, observed, self.keep)
        pairs = self.model.pair_views(observed, self.num_views, GlobalBatch())
        projected = self.model.project(rows, pairs)
        similarity = cosine_similarity(projected, projected)
        weights = aggregation_weights(similarity, pairs.compared, self.model.config.temperature)
        self.rows, self.projections = self.by_view(rows.flatten(0, 1)), self.by_view(projected)
        self.similarity, self.weights, self.positive = (
            self.by_view(self.by_view(pair).T).T for pair in (similarity, weights, pairs.positive)
        )
        self.aggregated = self.by_view(weights @ rows.flatten(0, 1))
        self.decoded = self.model.decode(self.model.aggregate(rows, similarity, pairs, GlobalBatch()), statistics)

    def by_view(self, rows):
        return rows.unflatten(0, (-1, self.num_views)).transpose(0, 1).flatten(0, 1)

    @property
    def logits(self):
        """Similarities of every row: those of its positives, then those of its negatives."""
        others = ~torch.eye(len(self.similarity), dtype=torch.bool)
        parts = [
            torch.cat([row[positive], row[~positive & other]])
            for row, positive, other in zip(self.similarity, self.positive, others, strict=True)
        ]
        return torch.stack(parts)


def check_classify_pretrain(fixture):
    values = fixture.inputs["x"].transpose(1, 2)
    step = PretrainingStep(fixture, values, channels_last=True)
    width = step.model.config.hidden_size
    masks = step.keep.flatten(0, 1).transpose(1, 2)
    fixture.check("mask", masks)
    fixture.check("x_masked", fixture.inputs["x"].repeat(step.num_views - 1, 1, 1) * masks)
    fixture.check("point_wise", step.rows.unflatten(1, (-1, width)).transpose(1, 2))
    fixture.check("aggregated", step.aggregated.unflatten(1, (-1, width)).transpose(1, 2))
    fixture.check("z", step.projections)
    fixture.check("similarity", step.similarity)
    fixture.check("pred", step.decoded.flatten(0, 1).transpose(1, 2).flatten(1))
    norm = step.model.model.encoder.network.blocks[0].norm
    fixture.check("bn1_running_mean_after", norm.running_mean)
    fixture.check("bn1_running_var_after", norm.running_var)
    return check_losses(fixture, step)


def check_losses(fixture, step):
    """What both pre-training kinds have."""
    fixture.check("positives_mask", step.positive)
    fixture.check("logits", step.logits)
    fixture.check("weights", step.weights)
    fixture.check("loss", step.output.loss)
    fixture.check("loss_cl", step.output.constraint_loss)
    fixture.check("loss_rb", step.output.reconstruction_loss)
    check_gradients(fixture, step.model)
    return fixture.compared


def check_forecast_pretrain(fixture):
    values = fixture.inputs["x"]
    step = PretrainingStep(fixture, values, channels_last=False)
    states = []
    with torch.no_grad():
        views = values.repeat(step.num_views, 1, 1)
        visible = torch.cat([torch.ones_like(step.keep[:1]), step.keep]).flatten(0, 1)
        aligned = align_series(views, torch.ones_like(visible))
        step.model.model.encoder(aligned, visible, states)
    fixture.check("mask", step.keep.flatten(0, 1))
    fixture.check("x_masked", values.repeat(step.num_views - 1, 1, 1) * step.keep.flatten(0, 1))
    fixture.check("embedding", states[0])
    fixture.check("point_wise", step.rows.unflatten(1, (values.shape[1], -1)))
    fixture.check("series_wise", step.projections)
    fixture.check("pred", step.output.reconstruction)
    fixture.check("bn_running_mean_after", step.model.projector.norm.running_mean)
    return check_losses(fixture, step)


def check_forecast_finetune(fixture):
    model = build_model(fixture, SimMTMForTimeSeriesPrediction)
    values = fixture.inputs["x"]
    states = []
    with torch.no_grad():
        aligned = align_series(values, torch.ones_like(values, dtype=torch.bool))
        features = model.model.encoder(aligned, states=states)
    fixture.check("embedding", states[0])
    fixture.check("encoder", features.hidden.flatten(0, 1))
    output = model(values, future_values=fixture.inputs["y"])
    output.loss.backward()
    fixture.check("forecast", output.prediction_outputs)
    fixture.check("loss", output.loss)
    check_gradients(fixture, model)
    return fixture.compared


KINDS = {
    "classify_encoder": check_classify_encoder,
    "classify_pretrain": check_classify_pretrain,
    "forecast_finetune": check_forecast_finetune,
    "forecast_pretrain": check_forecast_pretrain,
}
