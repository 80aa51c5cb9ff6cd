"""Official CrossTimeNet checkpoints (github.com/Mingyue-Cheng/CrossTimeNet): their parameters under our names.

A tokenizer's checkpoint becomes a codec of one domain; a model's holds three tokenizers, a BERT, the layer that
recovers tokens and a classification head a data set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..modeling.conversion_time_series import ConversionError

NUM_SPECIAL_TOKENS = 4
MASK_TOKEN_ID = 1
_TOKENIZER_PREFIX = "vqvae_model."
_BACKBONE_PREFIX = "encoder.bert."
# Parameters that the official code creates and no computation reads.
_UNUSED = re.compile(
    r"mask|encoder\.bert\.embeddings\.(word_embeddings\.weight|position_ids)|encoder\.cls\.predictions\.bias"
)
_UNUSED_OF_CODEC = re.compile(r"(enc|dec)\.blocks\.broadcast_head\.(weight|bias)")

_CODEC_NAMES = (
    ("enc.blocks.residual_blocks", "encoder.blocks"),
    ("dec.blocks.residual_blocks", "decoder.blocks"),
    ("enc.blocks.output", "encoder.output_projection"),
    ("dec.blocks.output", "decoder.output_projection"),
    ("enc.input_projection", "input_projection"),
    ("dec.output_projection", "output_projection"),
    (".conv1.", ".convolutions.0."),
    (".conv2.", ".convolutions.1."),
    (".ln1.", ".norms.0."),
    (".ln2.", ".norms.1."),
    ("quantize_input", "patch_projection"),
    ("quantize_output", "expansion"),
    ("quantize.embed_avg", "codebook.sums"),
    ("quantize.embed", "codebook.codes"),
    ("quantize.cluster_size", "codebook.counts"),
)
_HEAD_NAMES = {
    "encoder.cls.predictions.transform.dense.weight": "head.dense.weight",
    "encoder.cls.predictions.transform.dense.bias": "head.dense.bias",
    "encoder.cls.predictions.transform.LayerNorm.weight": "head.norm.weight",
    "encoder.cls.predictions.transform.LayerNorm.bias": "head.norm.bias",
}


def rename_codec_key(key: str) -> str:
    """Return our name, below a domain, of an official tokenizer's parameter."""
    for official, ours in _CODEC_NAMES:
        key = key.replace(official, ours)
    return f"{key.removesuffix('.a')}.gate" if key.endswith(".a") else key


def convert_codec_state_dict(
    state_dict: Mapping[str, Tensor], name: str = "series"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Turn an official tokenizer's state dict into a domain of ours, with the published decoder for one length.

    Args:
        state_dict: Of the official VQVAE.
        name: What to call the domain.

    Returns:
        Fields of a CodecDomain, and the parameters and buffers of a DomainCodec.

    Raises:
        ConversionError: Parameters are missing, unknown or of shapes that do not fit each other; all are listed.
    """
    official = {key: value for key, value in state_dict.items() if not _UNUSED_OF_CODEC.fullmatch(key)}
    fields = {"name": name, **_codec_fields(official)}
    ours = {rename_codec_key(key): _codec_tensor(key, value) for key, value in official.items()}
    ours["channel_mean"] = torch.zeros(fields["num_input_channels"])
    ours["channel_scale"] = torch.ones(fields["num_input_channels"])
    _check_codec(fields, ours, official)
    return fields, ours


def _codec_tensor(key: str, value: Tensor) -> Tensor:
    if key in ("quantize.embed", "quantize.embed_avg"):
        return value.t().contiguous()
    if key == "quantize_input.weight":
        return value.flatten(1)
    if key == "quantize_output.weight":
        return value.squeeze(-1)
    return value.squeeze(2) if re.search(r"\.conv\d\.weight$", key) and value.ndim == 4 else value


def _codec_fields(official: Mapping[str, Tensor]) -> dict[str, Any]:
    shapes = {
        "enc.input_projection.weight": 2,
        "quantize_input.weight": 4,
        "quantize_output.weight": 3,
        "quantize.embed": 2,
    }
    missing = [key for key in shapes if key not in official]
    if missing:
        raise ConversionError(f"This is no tokenizer of CrossTimeNet: {', '.join(missing)} is missing.")
    wrong = [f"{key} {tuple(official[key].shape)}" for key, rank in shapes.items() if official[key].ndim != rank]
    if wrong:
        raise ConversionError(f"The sizes of the tokenizer cannot be told from {', '.join(wrong)}.")
    blocks = [re.match(r"enc\.blocks\.residual_blocks\.(\d+)\.", key) for key in official]
    num_blocks = len({match[1] for match in blocks if match})
    length, num_tokens, _ = official["quantize_output.weight"].shape
    patch_length = official["quantize_input.weight"].shape[2]
    if num_tokens * patch_length != length or num_blocks % 2 or not num_blocks:
        raise ConversionError(
            f"The sizes of the tokenizer contradict each other: {num_tokens} tokens of {patch_length} timestamps for "
            f"{length} timestamps, {num_blocks} residual blocks in the encoder (an even number, at least 2)."
        )
    return {
        "num_input_channels": official["enc.input_projection.weight"].shape[1],
        "patch_length": patch_length,
        "codebook_size": official["quantize.embed"].shape[1],
        "hidden_size": official["quantize.embed"].shape[0],
        "num_blocks": num_blocks // 2,
        "decoder": "fixed_length",
        "context_length": length,
    }


def _check_codec(fields: Mapping[str, Any], ours: Mapping[str, Tensor], official: Mapping[str, Tensor]) -> None:
    from hf_tsrep.tokenization.codec_crosstimenet import DomainCodec
    from hf_tsrep.tokenization.configuration_crosstimenet_codec import CodecDomain

    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in DomainCodec(CodecDomain(**fields)).state_dict().items()}
    names = {rename_codec_key(key): key for key in official}
    faults = [f"missing: {key}" for key in sorted(set(expected) - set(ours))]
    faults += [f"unknown: {names[key]}" for key in sorted(set(ours) - set(expected))]
    faults += [
        f"{names.get(key, key)} has shape {tuple(value.shape)}, our {key} {expected[key]}"
        for key, value in ours.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    faults += [f"{names.get(key, key)} is not finite" for key, value in ours.items() if not value.isfinite().all()]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ConversionError(f"The parameters are not those of a tokenizer: {'; '.join(faults[:8])}{more}.")


def split_codecs(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tokenizers' state dicts of a model's by the official name of their data set, in the order of ids.

    The official code counts its data sets ecg-data, eeg-data, har-data, which is also their alphabetical order.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key in sorted(state_dict):
        if key.startswith(_TOKENIZER_PREFIX):
            data_set, name = key.removeprefix(_TOKENIZER_PREFIX).split(".", 1)
            parts.setdefault(data_set, {})[name] = state_dict[key]
    return parts


def domain_of_data_set(data_set: str) -> str:
    """Return what we call the domain of an official data set: "har" for "har-data"."""
    return data_set.removesuffix("-data")


def convert_model_state_dict(
    state_dict: Mapping[str, Tensor], num_attention_heads: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor], list[tuple[dict[str, Any], dict[str, Tensor]]]]:
    """Turn an official model's state dict into ours.

    Args:
        state_dict: Of the official bert4ts.
        num_attention_heads: Of its BERT, which no shape tells; None for one a 64 numbers of its width, as in BERT.

    Returns:
        Fields of CrossTimeNetConfig; the parameters of CrossTimeNetForPreTraining; those of the classification heads
        of CrossTimeNetForTimeSeriesClassification (classifier="flatten"); and for every domain what
        convert_codec_state_dict returns.

    Raises:
        ConversionError: Parameters are missing, unknown or of shapes that do not fit each other.
    """
    parts = split_codecs(state_dict)
    codecs = [convert_codec_state_dict(part, domain_of_data_set(data_set)) for data_set, part in parts.items()]
    rest = {
        key: value
        for key, value in state_dict.items()
        if not key.startswith(_TOKENIZER_PREFIX) and not _UNUSED.fullmatch(key)
    }
    domains, classifiers = _domains_and_heads(rest, parts, [fields for fields, _ in codecs])
    num_codes = sum(fields["codebook_size"] for fields, _ in codecs)
    parameters: dict[str, Tensor] = {}
    unknown = []
    for key, value in rest.items():
        if key.startswith(_BACKBONE_PREFIX):
            parameters[f"model.backbone.{key.removeprefix(_BACKBONE_PREFIX)}"] = value
        elif key in ("emb_layer.weight", "encoder.cls.predictions.decoder.weight"):
            ours = "model.backbone.embeddings.word_embeddings" if key.startswith("emb") else "head.decoder"
            parameters[f"{ours}.weight"] = rows_of_our_vocabulary(value, num_codes)
        elif key in _HEAD_NAMES:
            parameters[_HEAD_NAMES[key]] = value
        elif not key.startswith("head."):
            unknown.append(key)
    if unknown:
        raise ConversionError(f"The official model has no parameters {', '.join(sorted(unknown)[:8])}.")
    fields = {
        "domains": domains,
        "backbone_config": _bert_fields(rest, num_attention_heads),
        "never_predicted_ids": [one for one in range(NUM_SPECIAL_TOKENS) if one != MASK_TOKEN_ID],
        "classifier": "flatten",
    }
    return fields, parameters, classifiers, codecs


def rows_of_our_vocabulary(table: Tensor, num_codes: int) -> Tensor:
    """Put the rows of an official table, codes and then the mask token, at our ids; zeros where it has none.

    Args:
        table: (num_codes + 1, width).
        num_codes: Number of codes of all domains.

    Returns:
        (4 + num_codes, width).
    """
    if table.ndim != 2 or len(table) != num_codes + 1:
        raise ConversionError(
            f"A table of tokens has shape {tuple(table.shape)}; {num_codes + 1} rows are needed, the {num_codes} "
            "codes of the tokenizers and the mask token."
        )
    rows = table.new_zeros(NUM_SPECIAL_TOKENS + num_codes, table.shape[1])
    rows[MASK_TOKEN_ID] = table[-1]
    rows[NUM_SPECIAL_TOKENS:] = table[:-1]
    return rows


def _domains_and_heads(
    rest: Mapping[str, Tensor], parts: Mapping[str, Any], codec_fields: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    domains, heads = [], {}
    for place, (data_set, fields) in enumerate(zip(parts, codec_fields, strict=True)):
        domain = {name: fields[name] for name in ("name", "num_input_channels", "patch_length", "codebook_size")}
        for layer, ours in (("1", "norm"), ("2", "projection")):
            for kind in ("weight", "bias"):
                key = f"head.{data_set}.{layer}.{kind}"
                if key not in rest:
                    raise ConversionError(f"This is no whole model of CrossTimeNet: {key} is missing.")
                heads[f"head.heads.{place}.{ours}.{kind}"] = rest[key]
        domain["num_labels"] = len(rest[f"head.{data_set}.2.bias"])
        domain["num_tokens"] = fields["context_length"] // fields["patch_length"]
        domains.append(domain)
    return domains, heads


def _bert_fields(rest: Mapping[str, Tensor], num_attention_heads: int | None) -> dict[str, Any]:
    names = {
        "hidden": "encoder.bert.embeddings.LayerNorm.weight",
        "positions": "encoder.bert.embeddings.position_embeddings.weight",
        "types": "encoder.bert.embeddings.token_type_embeddings.weight",
        "intermediate": "encoder.bert.encoder.layer.0.intermediate.dense.weight",
    }
    missing = [key for key in (*names.values(), "emb_layer.weight") if key not in rest]
    if missing:
        raise ConversionError(f"This is no model of CrossTimeNet: {', '.join(missing)} is missing.")
    hidden = len(rest[names["hidden"]])
    if num_attention_heads is None and hidden % 64:
        raise ConversionError(
            f"The number of attention heads cannot be told from the width {hidden}; give num_attention_heads in the "
            "hyper-parameters."
        )
    layers = {key.split(".")[4] for key in rest if key.startswith("encoder.bert.encoder.layer.")}
    return {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": num_attention_heads or hidden // 64,
        "intermediate_size": len(rest[names["intermediate"]]),
        "max_position_embeddings": len(rest[names["positions"]]),
        "type_vocab_size": len(rest[names["types"]]),
    }
