"""Small models of every registered method, and inputs for them."""

import torch

from hf_tsrep import get_method, list_methods

METHOD_NAMES = list_methods()
HEADS = ("pretraining", "classification", "prediction")


def all_models():
    return [(name, kind) for name in METHOD_NAMES for kind in ("model", *HEADS)]


def build_config(name):
    method = get_method(name)
    return method.config_class(**method.tiny_config, num_labels=4, prediction_length=5)


def build(name, kind, seed=0):
    torch.manual_seed(seed)
    return get_method(name).model_classes[kind](build_config(name)).eval()


def random_values(model, batch_size, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, length, model.config.num_input_channels, generator=generator)


def head_inputs(model, kind, batch_size, length):
    inputs = {"past_values": random_values(model, batch_size, length)}
    if kind == "classification":
        inputs["labels"] = torch.arange(batch_size) % model.config.num_labels
    if kind == "prediction":
        inputs["future_values"] = torch.randn(
            batch_size,
            model.config.prediction_length,
            model.config.num_input_channels,
            generator=torch.Generator().manual_seed(2),
        )
        inputs["future_values"][0, 1, 0] = torch.nan
    return inputs
