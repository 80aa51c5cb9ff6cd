"""Official SimMTM checkpoints (github.com/thuml/SimMTM): of its classification and of its forecasting code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..modeling.conversion_time_series import ConversionError, convert_transformer_layer, official_layer_names

# Official arguments that shape the model or its tasks -> our config fields.
MODEL_HYPERPARAMETERS = {
    "C": "num_input_channels",
    "enc_in": "num_input_channels",
    "input_channels": "num_input_channels",
    "seq_len": "context_length",
    "L": "context_length",
    "TSlength_aligned": "context_length",
    "pred_len": "prediction_length",
    "d_model": "hidden_size",
    "final_out_channels": "hidden_size",
    "n_heads": "num_attention_heads",
    "e_layers": "num_hidden_layers",
    "d_ff": "intermediate_size",
    "kernel_size": "first_kernel_size",
    "stride": "first_stride",
    "dropout": "dropout",
    "head_dropout": "head_dropout",
    "mask_rate": "mask_ratio",
    "masking_ratio": "mask_ratio",
    "lm": "mean_mask_length",
    "positive_nums": "num_masked_views",
    "temperature": "temperature",
}
# Arguments that concern training alone, or that follow from others.
TRAINING_HYPERPARAMETERS = frozenset(
    {"training_mode", "CNNoutput_channel", "num_classes", "num_classes_target", "task_name", "lr", "seed"}
    | {"batch_size", "learning_rate", "train_epochs", "patience"}
)
# Fields that the shapes of the parameters may tell.
FIELDS_OF_SHAPES = (
    *("encoder_type", "channel_mode", "hidden_size", "num_hidden_layers", "intermediate_size"),
    *("first_kernel_size", "context_length", "prediction_length", "projector_hidden_size", "projection_size"),
    "classifier_hidden_size",
)

_TOKENS = "enc_embedding.value_embedding.tokenConv.weight"
_UNUSED = frozenset({"enc_embedding.position_embedding.pe", "enc_embedding.temporal_embedding.embed.weight"})
_LAYER = re.compile(r"encoder\.attn_layers\.(\d+)\.")
_NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
_BLOCKS = {
    **{f"conv_block{index + 1}.0": f"encoder.network.blocks.{index}.convolution" for index in range(3)},
    **{f"conv_block{index + 1}.1": f"encoder.network.blocks.{index}.norm" for index in range(3)},
}
# Layers of both codes that are not the encoder's -> ours, in SimMTMForPreTraining and the models with a task's head.
_HEADS = {
    "dense.0": "projector.expansion",
    "dense.1": "projector.norm",
    "dense.3": "projector.projection",
    "pooler.pooler.1": "projector.expansion",
    "pooler.pooler.2": "projector.norm",
    "pooler.pooler.4": "projector.projection",
    "projection.linear": "decoder.projection",
    "classifier.logits": "head.hidden",
    "classifier.logits_simple": "head.projection",
    "head.linear": "head.projection",
}
_DECODER_OF_CLASSIFICATION = "head"
_PRETEXT_LAYERS = {
    "resnet": {"dense.0", "dense.1", "dense.3", _DECODER_OF_CLASSIFICATION, "awl"},
    "transformer": {"pooler.pooler.1", "pooler.pooler.2", "pooler.pooler.4", "projection.linear", "awl"},
}
# Linear layers on flattened features, which the classification code flattens feature by feature and we place by place.
_FLATTENED = frozenset({"dense.0", _DECODER_OF_CLASSIFICATION, "classifier.logits"})


def convert_simmtm_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Turn an official state dict into that of our encoder.

    Args:
        state_dict: Of the official classification model (TFC) or the official forecasting model, in pre-training or
            fine-tuning; the layers behind the encoder may be there.

    Returns:
        Fields for SimMTMConfig, with what the official code does otherwise than the paper; and the parameters of
        SimMTMModel.

    Raises:
        ConversionError: Parameters are missing or unknown.
    """
    official = {key: value for key, value in state_dict.items() if not _is_head(key) and key not in _UNUSED}
    if any(key.startswith("conv_block") for key in official):
        return _convert_classification(official, state_dict)
    return _convert_forecasting(official, state_dict)


def convert_simmtm_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official layers behind the encoder into those of our models with heads.

    Args:
        state_dict: Official parameters.

    Returns:
        Parameters and buffers named as in SimMTMForPreTraining (projector, decoder, loss_weights) and in the models
        for classification and prediction (head).
    """
    last_block = state_dict.get("conv_block3.0.weight")
    ours = {}
    for key, value in state_dict.items():
        layer, _, kind = key.rpartition(".")
        if layer in _FLATTENED and kind == "weight" and last_block is not None:
            value = value.unflatten(1, (last_block.shape[0], -1)).transpose(1, 2).flatten(1)
        if key == "awl.params":
            ours["loss_weights"] = value
        elif layer == _DECODER_OF_CLASSIFICATION:
            ours[f"decoder.projection.{kind}"] = value
        elif layer in _HEADS:
            ours[f"{_HEADS[layer]}.{kind}"] = value
    return ours


def choose_simmtm_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Tell which of our models the layers behind the encoder make.

    Args:
        state_dict: Official parameters.
        fields: All fields of the config.

    Returns:
        "prediction", "classification", "pretraining" or "model", and the fields of its head.

    Raises:
        ConversionError: The forecasting head is there, and nothing tells how many channels it predicts.
    """
    layers = {key.rpartition(".")[0] for key in state_dict}
    if "head.linear" in layers:
        if "num_input_channels" not in fields:
            raise ConversionError(
                "The parameters do not tell num_input_channels (official name enc_in): one forecasting head serves "
                "any number of them. Give it as a hyper-parameter, as training had it."
            )
        return "prediction", {"prediction_length": state_dict["head.linear.weight"].shape[0]}
    if "classifier.logits_simple" in layers:
        return "classification", {"num_labels": state_dict["classifier.logits_simple.weight"].shape[0]}
    return ("pretraining" if _PRETEXT_LAYERS[fields["encoder_type"]] <= layers else "model"), {}


def simmtm_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of SimMTMConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, such as seq_len, n_heads, positive_nums.

    Returns:
        Fields.

    Raises:
        ConversionError: Two arguments contradict each other.
    """
    fields: dict[str, Any] = {}
    for name, value in hyperparameters.items():
        if name in TRAINING_HYPERPARAMETERS or value is None:
            continue
        field = MODEL_HYPERPARAMETERS.get(name, name)
        if fields.setdefault(field, value) != value:
            raise ConversionError(f"{name}={value!r} contradicts {field}={fields[field]!r}, also given.")
    return fields


def complete_simmtm_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_simmtm_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config.

    Raises:
        ConversionError: A field is missing that neither tells.
    """
    fields = {**of_shapes, **given}
    required = {"context_length": "seq_len or L"}
    if fields["encoder_type"] == "transformer":
        required["num_attention_heads"] = "n_heads"
    missing = [f"{name} (official name {official})" for name, official in required.items() if name not in fields]
    if missing:
        raise ConversionError(
            f"The parameters do not tell {', '.join(missing)}; give them as hyper-parameters, as training had them."
        )
    return fields


def _is_head(key: str) -> bool:
    return key == "awl.params" or key.rpartition(".")[0] in {*_HEADS, _DECODER_OF_CLASSIFICATION}


def _convert_classification(
    official: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    convolutions = [f"conv_block{index}.0.weight" for index in (1, 2, 3)]
    norms = [f"conv_block{index}.1.{kind}" for index in (1, 2, 3) for kind in ("weight", "bias", *_NORM_BUFFERS)]
    _check_names(official, {*convolutions, *norms}, "the classification code")
    ours = {f"{_BLOCKS[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in official.items()}
    first, last = official[convolutions[0]], official[convolutions[2]]
    fields: dict[str, Any] = {
        "encoder_type": "resnet",
        "channel_mode": "joint",
        "num_input_channels": first.shape[1],
        "first_kernel_size": first.shape[2],
        "hidden_size": last.shape[0],
        "instance_normalization": False,
        "mask_across_series": True,
        "reconstruct_masked_views": True,
    }
    if "head.bias" in state_dict:
        fields["context_length"] = state_dict["head.bias"].shape[0]
    if "dense.0.weight" in state_dict:
        fields["projector_hidden_size"] = state_dict["dense.0.weight"].shape[0]
        fields["projection_size"] = state_dict["dense.3.weight"].shape[0]
    if "classifier.logits.weight" in state_dict:
        fields["classifier_hidden_size"] = state_dict["classifier.logits.weight"].shape[0]
    return fields, ours


def _convert_forecasting(
    official: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    layers = sorted({int(match[1]) for key in official if (match := _LAYER.match(key))})
    expected = {_TOKENS, "encoder.norm.weight", "encoder.norm.bias"}
    for index in range(len(layers)):
        expected |= official_layer_names(f"encoder.attn_layers.{index}")
    _check_names(official, expected, f"the forecasting code with {len(layers)} layers")
    ours = {"encoder.network.token_embedding.weight": official[_TOKENS]}
    ours |= {
        f"encoder.network.transformer.norm.{kind}": official[f"encoder.norm.{kind}"] for kind in ("weight", "bias")
    }
    for index in layers:
        our_prefix = f"encoder.network.transformer.layers.{index}"
        ours |= convert_transformer_layer(official, f"encoder.attn_layers.{index}", our_prefix)
    hidden_size = official["encoder.norm.weight"].shape[0]
    fields: dict[str, Any] = {
        "encoder_type": "transformer",
        "channel_mode": "independent",
        "hidden_size": hidden_size,
        "num_hidden_layers": len(layers),
        "intermediate_size": official["encoder.attn_layers.0.conv1.weight"].shape[0],
        "instance_normalization": True,
        "mask_across_series": True,
    }
    for key in ("head.linear.weight", "projection.linear.weight"):
        if key in state_dict:
            fields["context_length"] = state_dict[key].shape[1] // hidden_size
    if "head.linear.bias" in state_dict:
        fields["prediction_length"] = state_dict["head.linear.bias"].shape[0]
    if "pooler.pooler.1.weight" in state_dict:
        fields["projector_hidden_size"] = state_dict["pooler.pooler.1.weight"].shape[0]
        fields["projection_size"] = state_dict["pooler.pooler.4.weight"].shape[0]
    return fields, ours


def _check_names(official: Mapping[str, Tensor], expected: set[str], what: str) -> None:
    missing, unknown = sorted(expected - set(official)), sorted(set(official) - expected)
    if missing or unknown:
        wrong = [
            f"{which}: {', '.join(keys[:8])}" for which, keys in (("missing", missing), ("unknown", unknown)) if keys
        ]
        raise ConversionError(f"The parameters are not those of SimMTM, {what}; {'; '.join(wrong)}.")
