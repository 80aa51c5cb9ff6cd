"""Official TimeDRL checkpoints (github.com/blacksnail789521/TimeDRL): parameter names, and what their shapes tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .conversion_transformer import convert_transformer_layer, official_layer_names
from .errors import ConversionError

# Official arguments that shape the model or its tasks -> our config fields.
MODEL_HYPERPARAMETERS = {
    "C": "num_input_channels",
    "enc_in": "num_input_channels",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "dropout": "dropout",
    "patch_len": "patch_length",
    "stride": "patch_stride",
    "seq_len": "context_length",
    "pred_len": "prediction_length",
    "token_embed_type": "token_embedding",
    "token_embed_kernel_size": "token_kernel_size",
    "pos_embed_type": "position_embedding",
    "get_i": "instance_embedding",
    "data_aug": "augmentation",
    "contrastive_weight": "contrastive_weight",
    "enable_channel_independence": "channel_mode",
}
# Official values of these arguments -> ours; values that are not here are the same.
VALUES: dict[str, dict[Any, Any]] = {
    "token_embed_type": {"conv": "convolution"},
    "pos_embed_type": {"learnable": "learned"},
    "enable_channel_independence": {True: "independent", False: "joint"},
}
# Arguments that concern training and evaluation alone, and the width before it is multiplied by the heads.
TRAINING_HYPERPARAMETERS = frozenset(
    {"K", "base_d_model", "fixed_dropout_p", "seed", "batch_size", "linear_eval_epochs", "pretrain_epochs"}
    | {f"{stage}_{name}" for stage in ("pretrain", "linear_eval") for name in ("optim", "learning_rate", "lradj")}
    | {f"{stage}_weight_decay" for stage in ("pretrain", "linear_eval")}
)
# Fields that the shapes of the parameters tell.
FIELDS_OF_SHAPES = (
    *("hidden_size", "num_hidden_layers", "intermediate_size"),
    *("token_embedding", "token_kernel_size", "position_embedding", "max_position_embeddings"),
)
# Fields that they do not tell, and which change what the parameters compute.
REQUIRED_FIELDS = {
    "num_attention_heads": "n_heads",
    "patch_length": "patch_len",
    "patch_stride": "stride",
    "channel_mode": "enable_channel_independence",
}

_LAYER = re.compile(r"encoder\.attn_layers\.(\d+)\.(.+)\.(weight|bias)")
_ENCODER = "patch_encoder.encoder.transformer"
_OUR_NAME = {
    "cls_token": "patch_encoder.cls_token",
    "input_layer.token_embedding.tokenConv.weight": "patch_encoder.token_embedding.weight",
    "input_layer.token_embedding.weight": "patch_encoder.token_embedding.weight",
    "encoder.norm.weight": f"{_ENCODER}.norm.weight",
    "encoder.norm.bias": f"{_ENCODER}.norm.bias",
}
_POSITIONS = "input_layer.position_embedding.pe"
_HEADS = {
    "predictive_linear.1": "timestamp_predictor.projection",
    "contrastive_predictor.0": "contrastive_predictor.contraction",
    "contrastive_predictor.1": "contrastive_predictor.norm",
    "contrastive_predictor.4": "contrastive_predictor.expansion",
    "linear_eval.linear": "head.projection",
}
_PRETEXT_LAYERS = set(_HEADS) - {"linear_eval.linear"}


def convert_timedrl_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Turn an official state dict into that of our encoder.

    Args:
        state_dict: Of the official model with the Transformer encoder; the pretext tasks' layers may be there.

    Returns:
        Fields for TimeDRLConfig that the shapes tell, the official predictive target, and `cls_shape`, from which
        `complete_timedrl_fields` tells the channels; and the parameters of TimeDRLModel.

    Raises:
        ConversionError: Parameters are missing or unknown.
    """
    official = {key: value for key, value in state_dict.items() if key.rpartition(".")[0] not in _HEADS}
    layers = sorted({int(match[1]) for key in official if (match := _LAYER.fullmatch(key))})
    _check_names(official, len(layers))
    ours = {_OUR_NAME[key]: value for key, value in official.items() if key in _OUR_NAME}
    for index in layers:
        ours |= convert_transformer_layer(official, f"encoder.attn_layers.{index}", f"{_ENCODER}.layers.{index}")
    positions = official.get(_POSITIONS)
    if positions is not None and positions.ndim == 2:  # the fixed table has another axis in front
        ours["patch_encoder.positions.weight"] = positions
    return _fields_of_shapes(official, len(layers)), ours


def convert_timedrl_heads(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the official layers of the pretext tasks and of linear evaluation into those of our models with heads.

    Args:
        state_dict: Official parameters; others than of these layers are left out.

    Returns:
        Parameters and buffers named as in TimeDRLForPreTraining and the models with a task's head.
    """
    ours = {}
    for key, value in state_dict.items():
        layer, _, kind = key.rpartition(".")
        if layer in _HEADS:
            ours[f"{_HEADS[layer]}.{kind}"] = value
    return ours


def choose_timedrl_model(state_dict: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Tell which of our models the layers behind the encoder make.

    The layer of linear evaluation classifies where it reads one instance embedding, and predicts where it reads all
    patches of the context, of which there are at least two. Where the instance embedding is all patches, a
    prediction_length among the fields tells.

    Args:
        state_dict: Official parameters.
        fields: All fields of the config.

    Returns:
        "prediction", "classification", "pretraining" or "model", and the fields of its head.

    Raises:
        ConversionError: The layer's shape fits neither the patches of the context nor an embedding.
    """
    weight = state_dict.get("linear_eval.linear.weight")
    if weight is None:
        layers = {key.rpartition(".")[0] for key in state_dict}
        return ("pretraining" if layers >= _PRETEXT_LAYERS else "model"), {}
    num_outputs, num_inputs = weight.shape
    embeds_all_patches = fields.get("instance_embedding") == "all"
    if num_inputs == fields["hidden_size"] or (embeds_all_patches and "prediction_length" not in fields):
        return "classification", {"num_labels": num_outputs}
    return "prediction", {"prediction_length": _prediction_length(num_outputs, num_inputs, fields)}


def _prediction_length(num_outputs: int, num_inputs: int, fields: Mapping[str, Any]) -> int:
    from hf_tsrep.modeling.layers_patching import PatchLayout

    length = fields.get("context_length")
    if length is None:
        raise ConversionError(
            "The parameters do not tell context_length (official name seq_len), which linear_eval.linear reads; give "
            "it as a hyper-parameter, as training had it."
        )
    needed = PatchLayout(fields["patch_length"], fields["patch_stride"]).num_patches(length) * fields["hidden_size"]
    channels = 1 if fields["channel_mode"] == "independent" else fields["num_input_channels"]
    if num_inputs != needed or num_outputs % channels:
        raise ConversionError(
            f"linear_eval.linear maps {num_inputs} numbers to {num_outputs}, but the patches of context_length="
            f"{length} timestamps are {needed} numbers, and {channels} channels are predicted together; correct "
            "seq_len, patch_len or stride."
        )
    return num_outputs // channels


def timedrl_fields_of_hyperparameters(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Turn arguments of the official code into fields of TimeDRLConfig, but for what concerns training alone.

    Args:
        hyperparameters: By their official names, such as n_heads, patch_len, stride, enable_channel_independence.

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
        value = VALUES.get(name, {}).get(value, value)
        if fields.setdefault(field, value) != value:
            raise ConversionError(
                f"{name}={hyperparameters[name]!r} contradicts {field}={fields[field]!r}, also given."
            )
    if {"base_d_model", "n_heads"} <= set(hyperparameters):
        fields.setdefault("hidden_size", hyperparameters["base_d_model"] * hyperparameters["n_heads"])
    return fields


def complete_timedrl_fields(of_shapes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what the shapes and the arguments tell.

    Args:
        of_shapes: From convert_timedrl_state_dict.
        given: Fields that the caller gave.

    Returns:
        All fields of the config.

    Raises:
        ConversionError: A field is missing that neither tells, or they contradict each other.
    """
    missing = [f"{name} (official name {official})" for name, official in REQUIRED_FIELDS.items() if name not in given]
    if missing:
        raise ConversionError(
            f"The parameters do not tell {', '.join(missing)}; give them as hyper-parameters, as training had them."
        )
    fields = {**of_shapes, **given}
    rows, token_size = fields.pop("cls_shape")
    independent, patch_length = fields["channel_mode"] == "independent", fields["patch_length"]
    channels = rows if independent else token_size // patch_length
    if (independent and token_size != patch_length) or (not independent and (token_size % patch_length or rows != 1)):
        raise ConversionError(
            f"cls_token has {rows} rows of {token_size} values, which patches of {patch_length} timestamps with "
            f"channel_mode={fields['channel_mode']!r} do not make; correct patch_len or enable_channel_independence."
        )
    if fields.setdefault("num_input_channels", channels) != channels:
        raise ConversionError(
            f"num_input_channels={fields['num_input_channels']!r} was given, but the parameters have {channels}."
        )
    return fields


def _check_names(official: Mapping[str, Tensor], num_layers: int) -> None:
    expected: set[str] = set()
    for index in range(num_layers):
        expected |= official_layer_names(f"encoder.attn_layers.{index}")
    expected |= {"cls_token", "encoder.norm.weight", "encoder.norm.bias"}
    embeddings = [key for key in official if key.startswith("input_layer.token_embedding.") and key in _OUR_NAME]
    expected |= {embeddings[0] if embeddings else "input_layer.token_embedding.weight"}
    missing = sorted(expected - set(official))
    unknown = sorted(set(official) - expected - {_POSITIONS})
    if missing or unknown or not num_layers:
        wrong = [
            f"{what}: {', '.join(keys[:8])}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys
        ]
        raise ConversionError(
            f"The parameters are not those of a TimeDRL with {num_layers} Transformer layers; {'; '.join(wrong)}."
        )


def _fields_of_shapes(official: Mapping[str, Tensor], num_layers: int) -> dict[str, Any]:
    convolution = official.get("input_layer.token_embedding.tokenConv.weight")
    positions = official.get(_POSITIONS)
    fields: dict[str, Any] = {
        "hidden_size": official["encoder.norm.weight"].shape[0],
        "num_hidden_layers": num_layers,
        "intermediate_size": official["encoder.attn_layers.0.conv1.weight"].shape[0],
        "token_embedding": "linear" if convolution is None else "convolution",
        "position_embedding": "none" if positions is None else "learned" if positions.ndim == 2 else "fixed",
        "prediction_target": "raw",
        "cls_shape": tuple(official["cls_token"].shape[1:]),
    }
    if convolution is not None:
        fields["token_kernel_size"] = convolution.shape[2]
    if fields["position_embedding"] == "learned" and positions is not None:
        fields["max_position_embeddings"] = positions.shape[0]
    return fields
