"""How each kind of TST fixture is computed by our code."""

import torch
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep import TSTConfig, TSTForPreTraining, TSTForTimeSeriesClassification, TSTModel
from hf_tsrep.modeling.layers_masking import geometric_mask, random_mask
from hf_tsrep.modeling.layers_patching import AlignedSeries
from hf_tsrep.modeling.modeling_tst import (
    TSTDraws,
    complete_tst_fields,
    convert_tst_heads,
    convert_tst_state_dict,
    tst_fields_of_hyperparameters,
)


def converted(parameters):
    """All our parameters and buffers of official ones, those of every head."""
    encoder = {f"model.{name}": value for name, value in convert_tst_state_dict(parameters)[1].items()}
    return encoder | convert_tst_heads(parameters)


def build_model(fixture, model_class, **fields):
    of_shapes, _ = convert_tst_state_dict(fixture.parameters)
    given = tst_fields_of_hyperparameters(fixture.hyperparameters(TSTModel.converter.hyperparameter_names))
    assert all(given.get(name, value) == value for name, value in of_shapes.items())
    model = model_class(TSTConfig(**{**complete_tst_fields(of_shapes, given), **fields}))
    own = model.state_dict()
    state = {name: value for name, value in converted(fixture.parameters).items() if name in own}
    model.load_state_dict(state, strict=True)
    # The fixtures have the gradients of what is frozen, too: the official constructor leaves that to the training.
    return fixture.set_mode(model).requires_grad_(True)


def padded_series(values, inside):
    """A batch as the official collation makes it: series from the first position on, then zeros."""
    observed = inside.bool().unsqueeze(-1).expand_as(values)
    return AlignedSeries(values, observed, torch.zeros(len(values), dtype=torch.long), inside.long().sum(1))


def check_gradients(fixture, model):
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    for official, expected in fixture.gradients.items():
        place = fixture.parameters[official].data_ptr()  # the converter copies no parameter of this method
        ours = [name for name, value in converted(fixture.parameters).items() if value.data_ptr() == place]
        (name,) = [one for one in ours if one in gradients]
        fixture.check(official, gradients[name].view_as(expected), GRADIENT_TOLERANCE, of="gradients")


def check_encoder(fixture):
    model = build_model(fixture, TSTForPreTraining)
    encoder, values = model.model.encoder, fixture.inputs["X"]
    inside = fixture.inputs["padding_masks"].bool()
    states = []  # asked for them, the encoder also computes what lies beyond all series
    with torch.no_grad():
        encoded = encoder.encode_tokens(padded_series(values, inside), states=states)
        fixture.check("projected", encoder.projection(values))
        fixture.check("with_positions", states[0])
        fixture.check("encoder", encoded.hidden)
        fixture.check("prediction", model.reconstruct(encoded.hidden))
        embedded = model.model(values, inside.unsqueeze(-1).expand_as(values)).last_hidden_state
        torch.testing.assert_close(embedded[inside], encoded.hidden[inside], rtol=1e-5, atol=1e-5)
        assert not embedded[~inside].any()
    return fixture.compared


def check_classify(fixture):
    model = build_model(fixture, TSTForTimeSeriesClassification)
    values, labels = fixture.inputs["x"], fixture.inputs["labels"]
    inside = torch.arange(values.shape[1]) < fixture.inputs["lengths"].unsqueeze(1)
    with torch.no_grad():
        hidden = model.model.encoder.encode_tokens(padded_series(values, inside), states=[]).hidden
        fixture.check("encoder", hidden)
    output = model(values, inside.unsqueeze(-1).expand_as(values), labels=labels)
    output.loss.backward()
    fixture.check("logits", output.logits)
    losses = torch.nn.functional.cross_entropy(output.logits, labels, reduction="none")
    fixture.check("per_sample_loss", losses)
    fixture.check("loss", output.loss)
    check_gradients(fixture, model)
    return fixture.compared


def official_masks(fixture, config, lengths, shape):
    """What is kept, of the numbers as they were drawn: one series after the other, and of one its channels."""
    draws, keep = fixture.inputs["mask_draws"], torch.ones(shape, dtype=torch.bool)
    channels = [one for one in range(shape[-1]) if one not in (config.unmasked_channels or ())]
    num_chains, used = (1 if config.mask_channels_together else len(channels)), 0
    for row, length in enumerate(lengths.tolist()):
        if config.mask_rule == "geometric":
            numbers = draws[used : used + num_chains * (1 + length)].view(num_chains, -1)
            mask = geometric_mask(numbers, config.mask_ratio, config.mean_mask_length).T
        else:
            numbers = draws[used : used + num_chains * length].view(length, -1)
            mask = random_mask(numbers, config.mask_ratio)
        used += numbers.numel()
        keep[row, :length, channels] = mask.expand(-1, len(channels))
    assert used == draws.numel(), f"{draws.numel()} numbers were drawn, of which the masks need {used}"
    return keep


def check_pretrain(fixture):
    model = build_model(fixture, TSTForPreTraining, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    fixture.set_mode(model, default="train")
    values, lengths, config = fixture.inputs["x"], fixture.inputs["lengths"], model.config
    inside = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
    observed = inside.unsqueeze(-1).expand_as(values)
    keep = None
    if config.mask_rule != "transduction":
        keep = official_masks(fixture, config, lengths, values.shape)
    seen = []
    model.model.encoder.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.dropout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    output = model(values, observed, draws=TSTDraws(0, keep))
    output.loss.backward()
    masked, activated = seen
    fixture.check("X_masked", masked)
    fixture.check("targets", torch.where(observed, values, 0.0))
    fixture.check("target_masks", output.is_masked)
    fixture.check("padding_masks", inside)
    # What is predicted for padding is no output of ours.
    fixture.check("prediction", model.decoder(activated))
    torch.testing.assert_close(output.reconstruction[inside], fixture.outputs["prediction"][inside])
    fixture.check("loss", output.reconstruction_loss)
    fixture.check("total_loss", output.loss)
    if config.normalization == "batch":
        norm = model.model.encoder.layers[0].attention_norm
        fixture.check("bn_running_mean_after", norm.running_mean)
        fixture.check("bn_running_var_after", norm.running_var)
    check_gradients(fixture, model)
    return fixture.compared


KINDS = {"encoder": check_encoder, "classify": check_classify, "pretrain": check_pretrain}
