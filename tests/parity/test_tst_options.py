"""TST's official options that no shipped fixture has: fixtures of the same kinds, made with PyTorch's own Transformer.

What differs from it is written down here once more, by the description of the official code: batch normalisation over
(batch, time), the scale of the projection, the tables of positions, the masks and the loss.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from parity_support import Fixture, OfficialConfig
from parity_tst import KINDS
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


class BatchNormLayer(nn.TransformerEncoderLayer):
    def __init__(self, width, *arguments, **options):
        super().__init__(width, *arguments, **options)
        self.norm1, self.norm2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        def normalize(norm, hidden):
            return norm(hidden.transpose(1, 2)).transpose(1, 2)

        src = normalize(self.norm1, src + self._sa_block(src, src_mask, src_key_padding_mask))
        return normalize(self.norm2, src + self._ff_block(src))


class Positions(nn.Module):
    def __init__(self, kind, length, width):
        super().__init__()
        angles = torch.arange(length).unsqueeze(1) / 10000 ** (torch.arange(0, width, 2) / width)
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width].unsqueeze(1)
        if kind == "fixed":
            self.register_buffer("pe", table)
        else:
            self.pe = nn.Parameter(torch.rand(length, 1, width) * 0.04 - 0.02)


class OfficialTST(nn.Module):
    """With the official names of parameters; batch first."""

    def __init__(self, config, num_outputs, num_inputs):
        super().__init__()
        width, self.activate = config["d_model"], ACTIVATIONS[config["activation"]]
        self.project_inp = nn.Linear(config["feat_dim"], width)
        self.pos_enc = Positions(config["pos_encoding"], config["max_len"], width)
        layer = (nn.TransformerEncoderLayer if config["norm"] == "LayerNorm" else BatchNormLayer)(
            width, config["n_heads"], config["dim_feedforward"], 0.0, self.activate, batch_first=True
        )
        self.transformer_encoder = nn.TransformerEncoder(layer, config["num_layers"], enable_nested_tensor=False)
        self.output_layer = nn.Linear(num_inputs, num_outputs)

    def encode(self, values, inside):
        projected = self.project_inp(values)
        hidden = projected * math.sqrt(projected.shape[-1]) + self.pos_enc.pe[: values.shape[1]].squeeze(1)
        return projected, hidden, self.transformer_encoder(hidden, src_key_padding_mask=~inside)


def official_model(config, num_outputs, num_inputs):
    torch.manual_seed(0)
    model = OfficialTST(config, num_outputs, num_inputs)
    with torch.no_grad():
        for value in model.parameters():  # layers begin as copies of each other
            value.add_(torch.randn_like(value) * 0.05)
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
            norm.momentum = 0.9  # statistics of some batch, as after a training
        model.encode(*batch_of(config)[::2])
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.momentum = 0.1
    return model


def batch_of(config):
    lengths = torch.tensor([config["max_len"], max(config["max_len"] // 2, 1), 1])
    inside = torch.arange(config["max_len"]) < lengths.unsqueeze(1)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, config["max_len"], config["feat_dim"], generator=generator) * inside.unsqueeze(-1)
    return values, lengths, inside


def fixture_of(kind, config, parameters, inputs, outputs, loss=None, model=None):
    gradients = {}
    if loss is not None:
        loss.backward()
        gradients = {name: value.grad for name, value in model.named_parameters()}
    outputs = {name: value.detach() for name, value in outputs.items()}
    return Fixture("tst", kind, OfficialConfig(config), inputs, outputs, gradients, parameters)


def parameters_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


SIZES = {"feat_dim": 3, "max_len": 14, "d_model": 12, "n_heads": 3, "num_layers": 2, "dim_feedforward": 10}
DEFAULTS = {"dropout": 0.1, "pos_encoding": "fixed", "activation": "gelu", "norm": "BatchNorm"}
CONSTRUCTORS = [
    {"activation": activation, "pos_encoding": positions, "norm": norm}
    for activation, positions, norm in itertools.product(
        ("gelu", "relu"), ("fixed", "learnable"), ("BatchNorm", "LayerNorm")
    )
]
CONSTRUCTORS += [
    {"freeze": True},
    {"freeze": False, "num_layers": 1, "dropout": 0.0},
    {"feat_dim": 1, "d_model": 6, "n_heads": 1, "dim_feedforward": 1, "pos_encoding": "learnable"},
    {"max_len": 1, "pos_encoding": "learnable", "norm": "LayerNorm"},
    {"max_len": 120, "n_heads": 12, "num_layers": 4},
]
every_constructor = pytest.mark.parametrize(
    "options", CONSTRUCTORS, ids=lambda options: "-".join(map(str, options.values()))
)


def checked(fixture):
    KINDS[fixture.kind](fixture)
    fixture.assert_complete()


@every_constructor
def test_the_encoder_of_every_constructor(options):
    config = {**SIZES, **DEFAULTS, **options}
    model = official_model(config, config["feat_dim"], config["d_model"]).eval()
    values, _, inside = batch_of(config)
    with torch.no_grad():
        projected, embedded, hidden = model.encode(values, inside)
        prediction = model.output_layer(model.activate(hidden))
    outputs = {"projected": projected, "with_positions": embedded, "encoder": hidden, "prediction": prediction}
    inputs = {"X": values, "padding_masks": inside.long()}
    checked(fixture_of("encoder", config, parameters_of(model), inputs, outputs))


@every_constructor
def test_the_classifier_of_every_constructor(options):
    config = {**SIZES, **DEFAULTS, "num_classes": 5, **options}
    model = official_model(config, 5, config["d_model"] * config["max_len"]).eval()
    values, lengths, inside = batch_of(config)
    labels = torch.tensor([4, 0, 2])
    parameters = parameters_of(model)
    hidden = model.encode(values, inside)[2]
    logits = model.output_layer((model.activate(hidden) * inside.unsqueeze(-1)).flatten(1))
    each = F.cross_entropy(logits, labels, reduction="none")
    outputs = {"encoder": hidden, "logits": logits, "per_sample_loss": each, "loss": each.mean()}
    inputs = {"x": values, "lengths": lengths, "labels": labels}
    checked(fixture_of("classify", config, parameters, inputs, outputs, each.mean(), model))


def geometric(length, ratio, mean_length, generator):
    """A chain by the numbers it draws, and these."""
    drawn = generator.random(1 + length).astype(np.float32)
    leaves_mask = 1 / mean_length
    leaves_kept = leaves_mask * ratio / (1 - ratio)
    kept, mask = bool(drawn[0] > ratio), []
    for number in drawn[1:]:
        mask.append(kept)
        kept = kept != bool(number < (leaves_kept if kept else leaves_mask))
    return np.array(mask), drawn


def official_mask(config, length, num_channels, generator):
    """(length, num_channels), True = kept, and the numbers in the order in which they are drawn."""
    ratio, mean_length = config.get("masking_ratio", 0.15), config.get("mean_mask_length", 3)
    together = config.get("mask_mode") == "concurrent"
    if config.get("task") == "transduction":
        mask = np.ones((length, num_channels), dtype=bool)
        first = int(config.get("start_hint", 0.0) * length)
        mask[first : max(first, int((1 - config.get("end_hint", 0.0)) * length)), config["mask_feats"]] = False
        return mask, []
    if config.get("mask_distribution") == "bernoulli":  # what is excluded is masked nonetheless
        drawn = generator.random((length, 1 if together else num_channels)).astype(np.float32)
        return np.tile(drawn < np.float32(1 - ratio), (1, num_channels // drawn.shape[1])), [drawn.ravel()]
    if together:
        mask, drawn = geometric(length, ratio, mean_length, generator)
        return np.tile(mask[:, None], num_channels), [drawn]
    mask, drawn = np.ones((length, num_channels), dtype=bool), []
    for channel in range(num_channels):
        if channel not in (config.get("exclude_feats") or ()):
            mask[:, channel], numbers = geometric(length, ratio, mean_length, generator)
            drawn.append(numbers)
    return mask, drawn


PRETEXTS = [
    *CONSTRUCTORS,
    {"masking_ratio": 0.4, "mean_mask_length": 5, "mask_mode": "separate", "mask_distribution": "geometric"},
    {"mask_mode": "concurrent"},
    {"mask_distribution": "bernoulli"},
    {"mask_distribution": "bernoulli", "mask_mode": "concurrent", "masking_ratio": 0.5},
    {"exclude_feats": [1]},
    {"exclude_feats": [1], "mask_mode": "concurrent"},
    {"exclude_feats": [0, 2], "mask_distribution": "bernoulli"},
    {"exclude_feats": None, "l2_reg": 0.03},
    {"l2_reg": 0.03, "global_reg": True},
    {"l2_reg": 0.0, "global_reg": False, "harden": True, "task": "imputation", "mode": "eval"},
    {"task": "transduction", "mask_feats": [0, 2], "start_hint": 0.2, "end_hint": 0.3},
    {"task": "transduction", "mask_feats": [1], "start_hint": 0.7, "end_hint": 0.7, "masking_ratio": 0.3},
    {"mask_compensation": True, "masking_ratio": 0.5},
    {"mask_feats": "0, 1", "start_hint": 0.0, "end_hint": 0.0, "exclude_feats": "0, 2"},
]


@pytest.mark.parametrize("options", PRETEXTS, ids=lambda options: "-".join(map(str, options.values())))
def test_the_pretext_step_of_every_option(options):
    config = {**SIZES, **DEFAULTS, "masking_ratio": 0.15, "mean_mask_length": 3, **options}
    read = {**config, "exclude_feats": [0, 2]} if config.get("exclude_feats") == "0, 2" else config
    model = official_model(config, config["feat_dim"], config["d_model"]).train(config.get("mode") != "eval")
    parameters, (values, lengths, inside) = parameters_of(model), batch_of(config)
    keep, drawn, generator = torch.zeros(values.shape, dtype=torch.bool), [], np.random.default_rng(2)
    for row, length in enumerate(lengths.tolist()):
        mask, numbers = official_mask(read, length, values.shape[-1], generator)
        keep[row, :length] = torch.from_numpy(mask)
        drawn += numbers
    masked = values * keep
    if config.get("mask_compensation"):
        masked = masked * values.shape[-1] / keep.sum(-1, keepdim=True).clamp(min=1)
    asked = ~keep & inside.unsqueeze(-1)
    prediction = model.output_layer(model.activate(model.encode(masked, inside)[2]))
    loss = (prediction[asked] - values[asked]).square().mean() if asked.any() else prediction.sum() * 0.0
    weight = 0.0 if config.get("global_reg") else config.get("l2_reg", 0.0)
    total = loss + weight * model.output_layer.weight.square().sum() if model.training else loss
    outputs = {"X_masked": masked, "targets": values, "target_masks": asked, "padding_masks": inside}
    outputs |= {"prediction": prediction, "loss": loss, "total_loss": total}
    if config["norm"] == "BatchNorm":
        norm = model.transformer_encoder.layers[0].norm1
        outputs |= {"bn_running_mean_after": norm.running_mean, "bn_running_var_after": norm.running_var}
    inputs = {"x": values, "lengths": lengths}
    if drawn:
        inputs["mask_draws"] = torch.from_numpy(np.concatenate(drawn))
    checked(fixture_of("pretrain", config, parameters, inputs, outputs, total, model))


def test_another_model_class_is_refused_by_name():
    config = {**SIZES, **DEFAULTS, "model": "LINEAR"}
    model = official_model(config, config["feat_dim"], config["d_model"])
    fixture = fixture_of("encoder", config, parameters_of(model), {}, {})
    with pytest.raises(ValueError, match="model='LINEAR' is not converted"):
        KINDS["encoder"](fixture)
