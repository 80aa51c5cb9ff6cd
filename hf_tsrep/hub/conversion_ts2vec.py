"""Official TS2Vec checkpoints (github.com/zhihanyue/ts2vec): their parameter names, and what their shapes tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..modeling.conversion_time_series import ConversionError

# Written by torch's AveragedModel around the network, which is what TS2Vec.save stores.
AVERAGED_PREFIX = "module."
AVERAGED_COUNTER = "n_averaged"

# Arguments of the official TS2Vec class and of its command line that shape the model -> our config fields.
MODEL_HYPERPARAMETERS = {
    "input_dims": "num_input_channels",
    "hidden_dims": "hidden_size",
    "output_dims": "embedding_size",
    "repr_dims": "embedding_size",
    "depth": "num_hidden_layers",
    "mask_mode": "mask_mode",
    "temporal_unit": "temporal_unit",
}
# Arguments that concern its training alone: nothing of the model depends on them.
TRAINING_HYPERPARAMETERS = frozenset(
    {"batch_size", "device", "epochs", "gpu", "iters", "lr", "max_threads", "max_train_length", "n_epochs", "n_iters"}
    | {"after_epoch_callback", "after_iter_callback", "save_every", "seed"}
)
# Fields that the shapes of the parameters tell.
FIELDS_OF_SHAPES = ("num_input_channels", "hidden_size", "embedding_size", "num_hidden_layers")

_BLOCK = re.compile(r"feature_extractor\.net\.(\d+)\.(conv1\.conv|conv2\.conv|projector)\.(weight|bias)")
_OUR_LAYER = {
    "conv1.conv": "first_convolution",
    "conv2.conv": "second_convolution",
    "projector": "residual_projection",
}


def rename_ts2vec_key(key: str) -> str | None:
    """Return our name of an official parameter, or None where the official code has no such parameter."""
    if key in ("input_fc.weight", "input_fc.bias"):
        return key.replace("input_fc", "input_projection")
    match = _BLOCK.fullmatch(key)
    return None if match is None else f"blocks.{match[1]}.{_OUR_LAYER[match[2]]}.{match[3]}"


def convert_ts2vec_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Turn an official state dict into ours.

    Args:
        state_dict: Of the official TSEncoder, or of the AveragedModel around it that TS2Vec.save stores.

    Returns:
        Fields for TS2VecConfig, with the official treatment of missing values (gate_padding=False), and the parameters
        of TS2VecModel.

    Raises:
        ConversionError: Parameters are missing, unknown or of shapes that do not fit each other; all are listed.
    """
    official = _without_averaging(state_dict)
    renamed = {key: rename_ts2vec_key(key) for key in official}
    unknown = sorted(key for key, name in renamed.items() if name is None)
    ours = {name: official[key] for key, name in renamed.items() if name is not None}
    if not ours:
        raise ConversionError(
            f"This is no TS2Vec checkpoint: it holds {_listing(sorted(state_dict)) or 'nothing'}, and none of "
            "input_fc.weight, feature_extractor.net.0.conv1.conv.weight, ..."
        )
    num_blocks = 1 + max((int(name.split(".")[1]) for name in ours if name.startswith("blocks.")), default=-1)
    if num_blocks > len(ours):
        raise ConversionError(
            f"Blocks are numbered up to {num_blocks - 1}, but there are only {len(ours)} parameters."
        )
    expected = _official_names(num_blocks)
    missing = sorted(set(expected) - set(official))
    unknown += sorted(set(official) - set(expected) - set(unknown))
    if missing or unknown:
        wrong = [f"{what}: {_listing(keys)}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
        raise ConversionError(f"The parameters are not those of a TS2Vec of {num_blocks} blocks; {'; '.join(wrong)}.")
    fields = _fields_of_shapes(official, num_blocks)
    _check_shapes(official, fields)
    return {**fields, "gate_padding": False}, ours


def ts2vec_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official TS2Vec class into fields of TS2VecConfig, but for what concerns training alone.

    Args:
        hyperparameters: Official names, such as input_dims, hidden_dims, output_dims, depth.

    Returns:
        Fields. A depth of 10 means 11 blocks.

    Raises:
        ConversionError: Two arguments contradict each other.
    """
    fields: dict[str, Any] = {}
    for name, value in hyperparameters.items():
        if name in TRAINING_HYPERPARAMETERS or value is None:
            continue
        field = MODEL_HYPERPARAMETERS.get(name, name)
        if name == "depth":
            if not isinstance(value, int):
                raise ConversionError(f"depth={value!r} is no whole number.")
            value += 1
        if fields.setdefault(field, value) != value:
            raise ConversionError(
                f"{name}={hyperparameters[name]!r} contradicts {field}={fields[field]!r}, also given."
            )
    return fields


def _without_averaging(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(AVERAGED_PREFIX): value for key, value in state_dict.items() if key != AVERAGED_COUNTER}


def _official_names(num_blocks: int) -> list[str]:
    layers = [(index, layer) for index in range(num_blocks) for layer in ("conv1.conv", "conv2.conv")]
    layers += [(num_blocks - 1, "projector")] if num_blocks else []
    names = ["input_fc", *(f"feature_extractor.net.{index}.{layer}" for index, layer in layers)]
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def _fields_of_shapes(official: Mapping[str, Tensor], num_blocks: int) -> dict[str, int]:
    projection = official["input_fc.weight"]
    last = official[f"feature_extractor.net.{num_blocks - 1}.conv2.conv.weight"] if num_blocks else projection
    if not num_blocks or projection.ndim != 2 or last.ndim != 3:
        raise ConversionError(
            f"The sizes of the model cannot be told: {num_blocks} blocks, input_fc.weight has shape "
            f"{tuple(projection.shape)} and the last convolution {tuple(last.shape)}."
        )
    return {
        "num_input_channels": projection.shape[1],
        "hidden_size": projection.shape[0],
        "embedding_size": last.shape[0],
        "num_hidden_layers": num_blocks,
    }


def _check_shapes(official: Mapping[str, Tensor], fields: Mapping[str, int]) -> None:
    hidden, embedding, num_blocks = fields["hidden_size"], fields["embedding_size"], fields["num_hidden_layers"]
    expected = {"input_fc.weight": (hidden, fields["num_input_channels"]), "input_fc.bias": (hidden,)}
    for index in range(num_blocks):
        block, width = f"feature_extractor.net.{index}", embedding if index == num_blocks - 1 else hidden
        expected[f"{block}.conv1.conv.weight"] = (width, hidden, 3)
        expected[f"{block}.conv2.conv.weight"] = (width, width, 3)
        expected[f"{block}.projector.weight"] = (width, hidden, 1)
        expected |= {f"{block}.{layer}.bias": (width,) for layer in ("conv1.conv", "conv2.conv", "projector")}
    wrong = [
        f"{key} has shape {tuple(value.shape)} instead of {expected[key]}"
        for key, value in official.items()
        if tuple(value.shape) != expected[key]
    ]
    if wrong:
        raise ConversionError(f"The parameters do not fit each other: {'; '.join(wrong)}.")


def _listing(keys: list[str], most: int = 12) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(map(str, keys[:most])) + more
