"""What the converters of official checkpoints share. Each lies in its method's modeling file, beside the layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FieldsAndParameters = tuple[dict[str, Any], dict[str, Tensor]]


class ConversionError(ValueError):
    """An official checkpoint cannot be converted; the message names the file, the parameter and the fix."""


def _join_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {**of_shapes, **given}


def _no_heads(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


def _encoder_alone(official: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return "model", {}


@dataclass(frozen=True)
class Converter:
    """How checkpoints of one method are converted; `XPreTrainedModel.converter` holds it.

    Args:
        convert: From an official state dict to config fields and our state dict.
        fields_of_hyperparameters: From official arguments to config fields.
        hyperparameter_names: Official arguments that are understood; others are refused by name.
        fields_of_shapes: Config fields that the shapes of the parameters may tell.
        complete: From these fields and those that the caller gave to all of them; it refuses what is missing.
        heads: From an official state dict to our parameters of the layers after the encoder, of any of our models.
        choose_model: From an official state dict and all fields to the model that these layers make ("model",
            "pretraining", "classification" or "prediction"), and the fields of its head.
    """

    convert: Callable[[Mapping[str, Tensor]], FieldsAndParameters]
    fields_of_hyperparameters: Callable[[Mapping[str, Any]], dict[str, Any]]
    hyperparameter_names: Collection[str]
    fields_of_shapes: tuple[str, ...]
    complete: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = _join_fields
    heads: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = _no_heads
    choose_model: Callable[[Mapping[str, Tensor], Mapping[str, Any]], tuple[str, dict[str, Any]]] = _encoder_alone


@dataclass(frozen=True)
class PreparedFolder:
    """What the folder of a converted checkpoint will hold.

    Args:
        content: A model, or whatever else has save_pretrained.
        card: Text of its README.md, with `{source}` where the checkpoint's name belongs; None for a model's card.
    """

    content: Any
    card: str | None = None


@dataclass(frozen=True)
class FolderConverter:
    """How checkpoints that hold more than one model's parameters are converted, such as a tokenizer's too.

    Args:
        prepare_folder: From an official state dict, official arguments and config fields by name, and the method's
            classes (`model_classes` by kind, `tokenizer_class`) to what the folder holds. It refuses by name what it
            does not understand; nothing can be wrong any more after it.
    """

    prepare_folder: Callable[[Mapping[str, Tensor], Mapping[str, Any], Any], PreparedFolder]


def rename_hyperparameters(
    hyperparameters: Mapping[str, Any],
    fields: Mapping[str, str],
    ignored: Collection[str] = (),
    values: Mapping[str, Mapping[Any, Any]] | None = None,
) -> dict[str, Any]:
    """Turn official arguments into config fields.

    Args:
        hyperparameters: By their official names, or by ours.
        fields: Our field of each official name; other names stay.
        ignored: Arguments that concern training alone.
        values: Of an official name, our value of each official value; other values stay.

    Returns:
        Fields; arguments that are None are left out.

    Raises:
        ConversionError: Two arguments contradict each other.
    """
    renamed: dict[str, Any] = {}
    for name, value in hyperparameters.items():
        if name in ignored or value is None:
            continue
        field, ours = fields.get(name, name), value
        if values is not None and name in values:  # else the value may be a list, which is no key
            ours = values[name].get(value, value)
        if renamed.setdefault(field, ours) != ours:
            raise ConversionError(f"{name}={value!r} contradicts {field}={renamed[field]!r}, also given.")
    return renamed


def require_parameters(official: Collection[str], expected: Collection[str], what: str) -> None:
    """Refuse a state dict that is not the expected one.

    Args:
        official: Names of its parameters.
        expected: Names that it should have.
        what: Which model they should be of, for the message.

    Raises:
        ConversionError: Parameters are missing or unknown; the first of them are named.
    """
    differences = {
        "missing": sorted(set(expected) - set(official)),
        "unknown": sorted(set(official) - set(expected)),
    }
    wrong = [f"{which}: {list_names(names)}" for which, names in differences.items() if names]
    if wrong:
        raise ConversionError(f"The parameters are not those of {what}; {'; '.join(wrong)}.")


def require_fields(given: Collection[str], required: Mapping[str, str]) -> None:
    """Refuse a conversion that lacks what the shapes of the parameters do not tell.

    Args:
        given: Names of the fields that are known.
        required: Official name of each field that has to be.

    Raises:
        ConversionError: Fields are missing; the message gives both names of each.
    """
    missing = [f"{name} (official name {official})" for name, official in required.items() if name not in given]
    if missing:
        raise ConversionError(
            f"The parameters do not tell {', '.join(missing)}; give them as hyper-parameters, as training had them."
        )


def load_converted(model: Any, parameters: Mapping[str, Tensor]) -> Any:
    """Load converted parameters into a model.

    Args:
        model: A model of ours.
        parameters: All of its parameters by our names, of any precision.

    Returns:
        The model in evaluation mode.

    Raises:
        ConversionError: Parameters lack, are too many, have another shape or are not finite.
    """
    try:
        model.load_state_dict({name: value.float() for name, value in parameters.items()}, strict=True)
    except RuntimeError as error:
        raise ConversionError(f"The parameters do not fit each other: {' '.join(str(error).split())}") from error
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ConversionError(f"Parameters are not finite: {list_names(broken)}; the training had diverged.")
    return model.eval()


def list_names(names: Collection[str], most: int = 8) -> str:
    """Return names as words, with the number of those that are left out."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more


# The post-norm Transformer layer that several official implementations share: official layer -> ours.
_OUR_LAYER = {
    "attention.out_projection": "attention.output_projection",
    "conv1": "expansion",
    "conv2": "contraction",
    "norm1": "attention_norm",
    "norm2": "output_norm",
}
_JOINED = tuple(f"attention.{part}_projection" for part in ("query", "key", "value"))


def official_layer_names(prefix: str) -> set[str]:
    """Return the official names of one Transformer layer's parameters."""
    return {f"{prefix}.{layer}.{kind}" for layer in (*_OUR_LAYER, *_JOINED) for kind in ("weight", "bias")}


def convert_transformer_layer(official: Mapping[str, Tensor], prefix: str, our_prefix: str) -> dict[str, Tensor]:
    """Turn one official Transformer layer into a TransformerLayer.

    Args:
        official: Official parameters; convolutions of one place stand for linear layers.
        prefix: What the layer's official names begin with, such as "encoder.attn_layers.0".
        our_prefix: What ours begin with.

    Returns:
        Our parameters.
    """
    converted = {}
    for kind in ("weight", "bias"):
        # Ours computes queries, keys and values in one product.
        parts = [official[f"{prefix}.{part}.{kind}"] for part in _JOINED]
        converted[f"{our_prefix}.attention.input_projection.{kind}"] = torch.cat(parts)
        for theirs, ours in _OUR_LAYER.items():
            value = official[f"{prefix}.{theirs}.{kind}"]
            converted[f"{our_prefix}.{ours}.{kind}"] = value.squeeze(-1) if value.ndim == 3 else value
    return converted
