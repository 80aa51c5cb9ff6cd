"""Small models of every registered method, and inputs for them.

HF_TSREP_METHODS=one,other leaves the contract to these methods, such as while one is written.
"""

import os

import torch

from hf_tsrep import get_method, list_methods

METHOD_NAMES = [one for one in os.environ.get("HF_TSREP_METHODS", "").split(",") if one] or list_methods()
HEADS = ("pretraining", "classification", "prediction")


def all_models():
    return [(name, kind) for name in METHOD_NAMES for kind in ("model", *HEADS)]


def build_config(name, **fields):
    method = get_method(name)
    return method.config_class(**{**method.tiny_config, "num_labels": 4, "prediction_length": 5, **fields})


def build_tokenizer(name):
    """A small tokenizer with random weights, or None for a method that reads values."""
    method = get_method(name)
    if method.tokenizer_class is None:
        return None
    torch.manual_seed(0)
    return method.tokenizer_class(domains=[dict(domain) for domain in method.tiny_tokenizer])


def build(name, kind, seed=0, **fields):
    tokenizer = build_tokenizer(name)
    torch.manual_seed(seed)
    model = get_method(name).model_classes[kind](build_config(name, **fields)).eval()
    return model if tokenizer is None else model.set_tokenizer(tokenizer)


def random_values(model, batch_size, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, length, model.config.num_input_channels, generator=generator)


def task_inputs(model, kind, batch_size, length):
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
