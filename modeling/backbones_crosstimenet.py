"""Transformers of any kind as readers of tokens, and language models as their source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .configuration_crosstimenet import CrossTimeNetConfig
from .configuration_time_series import near_match_hint
from .conversion_time_series import ConversionError, list_names

logger = logging.get_logger(__name__)

NUM_CENTROID_ITERATIONS = 10
_NUMBERS_AT_ONCE = 2**24


def build_backbone(config: PreTrainedConfig, attn_implementation: str | None = None) -> PreTrainedModel:
    """Build a transformer without a pooling layer, which nothing would read.

    Args:
        config: Of the transformer.
        attn_implementation: How it attends, as transformers names it; None for transformers' choice.
    """
    backbone = AutoModel.from_config(config, attn_implementation=attn_implementation)
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    return cast(PreTrainedModel, backbone)


def num_positions(backbone: PreTrainedModel) -> int | None:
    """Return how many tokens the backbone takes at once; None for any number."""
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    # RoBERTa and its kin keep the first rows for padding.
    kept = getattr(table, "padding_idx", None)
    return positions if kept is None else positions - kept - 1


def leading_places(attention_mask: torch.Tensor) -> torch.Tensor | None:
    """Return the places that tokens go to for a row's tokens to lie before its padding; None where all lie so already.

    Args:
        attention_mask: (batch_size, num_tokens) bool, True = token.

    Returns:
        (batch_size, num_tokens) int64, or None.
    """
    if not torch.compiler.is_compiling() and not bool((attention_mask[:, 1:] & ~attention_mask[:, :-1]).any()):
        return None
    # Counted, not sorted: ONNX has no stable sort.
    num_tokens = attention_mask.sum(1, keepdim=True)
    return torch.where(attention_mask, attention_mask.cumsum(1), num_tokens + (~attention_mask).cumsum(1)) - 1


def read_tokens(
    backbone: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, wants_states: bool
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
    """Run the backbone; padding on either side changes nothing, and its embeddings are zero.

    Positions count from a row's first token. A row with more tokens than the backbone has positions is read in
    stretches of so many tokens, which do not see each other.

    Args:
        backbone: The transformer.
        input_ids: (batch_size, num_tokens) int64.
        attention_mask: (batch_size, num_tokens) bool, True = token.
        wants_states: Whether to return the hidden states.

    Returns:
        The last hidden state (batch_size, num_tokens, hidden_size), and the hidden states of that shape or None.
    """
    places = leading_places(attention_mask)
    seen = attention_mask
    if places is not None:
        input_ids = torch.zeros_like(input_ids).scatter(1, places, input_ids)
        seen = torch.zeros_like(seen).scatter(1, places, seen)
    states = _read_stretches(backbone, input_ids, seen, wants_states)
    states = [torch.where(seen.unsqueeze(-1), state, 0.0) for state in states]
    if places is not None:
        states = [state.gather(1, places.unsqueeze(-1).expand(-1, -1, state.shape[-1])) for state in states]
    return states[0], tuple(states[1:]) if wants_states else None


def _read_stretches(
    backbone: PreTrainedModel, input_ids: torch.Tensor, seen: torch.Tensor, wants_states: bool
) -> list[torch.Tensor]:
    limit = num_positions(backbone)
    if torch.compiler.is_compiling() or limit is None or input_ids.shape[1] <= limit:
        return _read_once(backbone, input_ids, seen, wants_states)
    logger.warning_once(
        f"A series has {input_ids.shape[1]} tokens, but the backbone {limit} positions: it is read in stretches of "
        f"{limit} tokens that do not see each other. A backbone_config with more positions reads it at once."
    )
    pairs = zip(input_ids.split(limit, 1), seen.split(limit, 1), strict=True)
    parts = [_read_once(backbone, ids, mask, wants_states) for ids, mask in pairs]
    return [torch.cat(states, dim=1) for states in zip(*parts, strict=True)]


def _read_once(
    backbone: PreTrainedModel, input_ids: torch.Tensor, seen: torch.Tensor, wants_states: bool
) -> list[torch.Tensor]:
    # A row of padding alone would attend to nothing, and a softmax over nothing is NaN.
    first = torch.arange(seen.shape[1], device=seen.device) == 0
    attended = seen | (first & ~seen.any(1, keepdim=True))
    output = backbone(input_ids=input_ids, attention_mask=attended.long(), output_hidden_states=wants_states)
    return [output.last_hidden_state, *(output.hidden_states if wants_states else ())]


def load_language_model(name_or_path: str, **options: Any) -> PreTrainedModel:
    """Load a language model's transformer.

    Args:
        name_or_path: Id on the Hub, or folder.
        options: Arguments of AutoModel.from_pretrained, such as revision.

    Raises:
        ValueError: It is no single encoder or decoder of text.
    """
    model = cast(PreTrainedModel, AutoModel.from_pretrained(name_or_path, **options))
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding) or model.config.is_encoder_decoder:
        raise ValueError(
            f"{name_or_path} is a {model.config.model_type!r} model; a backbone is one encoder or one decoder of "
            "token ids, such as BERT, GPT-2 or ModernBERT."
        )
    return model


def copy_layers(language_model: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """Give the backbone all weights of a language model but the word table.

    Raises:
        ValueError: The language model lacks a weight of the backbone.
    """
    table = cast(nn.Embedding, language_model.get_input_embeddings()).weight
    names = {name for name, value in language_model.named_parameters(remove_duplicate=False) if value is table}
    weights = {name: value for name, value in language_model.state_dict().items() if name not in names}
    missing, _ = backbone.load_state_dict(weights, strict=False)
    lacking = sorted(set(missing) - names)
    if lacking:
        raise ValueError(f"The language model lacks weights of the backbone: {', '.join(lacking[:6])}.")


def name_of_language_model(name_or_path: str | os.PathLike) -> str:
    """Return a Hub id as it is, and the last part of a path: where a folder lies is nobody's business."""
    return Path(name_or_path).resolve().name if os.path.isdir(name_or_path) else str(name_or_path)


def word_mapping(
    words: torch.Tensor, num_codes: int, initialization: str, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Make embeddings of codes out of a language model's word table, so that it reads codes as words (section 3.3).

    Args:
        words: (num_words, hidden_size).
        num_codes: Number of embeddings wanted.
        initialization: "word_sample" for distinct words, or "word_centroids" for k-means centroids.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        (num_codes, hidden_size), float32.

    Raises:
        ValueError: There are fewer words than codes.
    """
    if num_codes > len(words):
        raise ValueError(
            f"The language model has {len(words)} words, too few for {num_codes} codes with "
            f"embedding_initialization={initialization!r}; use 'random', or smaller codebooks."
        )
    words = words.detach().float()
    chosen = torch.randperm(len(words), generator=generator)[:num_codes].to(words.device)
    starts = words[chosen]
    return starts if initialization == "word_sample" else _centroids(words, starts)


def _centroids(words: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Move the centroids by Lloyd's iterations; one that has no word stays where it is."""
    rows = max(1, _NUMBERS_AT_ONCE // len(centroids))
    for _ in range(NUM_CENTROID_ITERATIONS):
        offset = -0.5 * centroids.square().sum(1)
        nearest = torch.cat([torch.addmm(offset, part, centroids.t()).argmax(1) for part in words.split(rows)])
        counts = torch.bincount(nearest, minlength=len(centroids)).unsqueeze(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, words)
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids


def activation_name(config: PreTrainedConfig) -> str:
    """Return the name of the backbone's activation function; "gelu" where it names none."""
    for name in ("hidden_act", "hidden_activation", "activation_function", "activation"):
        value = getattr(config, name, None)
        if isinstance(value, str):
            return value
    return "gelu"


def normalization_epsilon(config: PreTrainedConfig) -> float:
    """Return the epsilon of the backbone's layer normalisation."""
    for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rms_norm_eps"):
        value = getattr(config, name, None)
        if isinstance(value, float):
            return value
    return 1e-12


# The BERT inside official checkpoints: what its config says, and what the shapes of its parameters tell.

BERT_PREFIX = "encoder.bert."
_BERT_SIZES = {
    "hidden_size": "embeddings.LayerNorm.weight",
    "max_position_embeddings": "embeddings.position_embeddings.weight",
    "type_vocab_size": "embeddings.token_type_embeddings.weight",
    "intermediate_size": "encoder.layer.0.intermediate.dense.weight",
}
# No shape tells these.
BERT_OPTIONS = frozenset(
    {"attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "initializer_range", "is_decoder"}
    | {"layer_norm_eps", "num_attention_heads"}
)
_BERT_FIELDS = BERT_OPTIONS | set(_BERT_SIZES) | {"num_hidden_layers", "position_embedding_type"}
BERT_ARGUMENTS = _BERT_FIELDS | {"bert_config"}
# Nothing depends on these once the parameters are there and the embeddings are those of codes.
_BERT_DETAILS = frozenset(
    {"architectures", "classifier_dropout", "gradient_checkpointing", "model_type", "output_attentions"}
    | {"output_hidden_states", "pad_token_id", "tie_word_embeddings", "torch_dtype", "transformers_version"}
    | {"use_cache", "vocab_size"}
)


# Official arguments of training alone, and some that the official model reads nowhere: its sizes stand in its code.
TRAINING_ARGUMENTS = frozenset(
    {"batch_size", "class_num", "data_path", "device", "feat_dim", "fine_tuning_all", "frozen"}
    | {"learning_rate", "learning_rate_pretrain", "load_pretrain", "lr", "lr_decay", "lr_decay_rate"}
    | {"lr_decay_steps", "model_path", "num_epoch", "num_epochs", "pretrain_mlp_num_epochs", "pretrain_num_epochs"}
    | {"pretrain_stage", "results_dir", "save_path", "seed", "seq_len", "sub_dir", "test_batch_size"}
    | {"train_batch_size", "train_batch_size_pretrain", "train_ratio", "vqvae_model_path", "weight_decay"}
    | {"wordmapping"}
)
# Where the words come from is read by its name; the sizes of the command line are those of no tokenizer of the model.
_UNREAD_ARGUMENTS = frozenset({"embeding", "local_model_path", "n_embed", "params", "task_type", "wave_length"})
_TOLD_BY_SHAPES = frozenset(
    {"backbone_config", "domains", "embedding_size", "num_input_channels", "num_tokens", "vocab_size"}
)


def fields_of_official_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the official model's arguments into fields of CrossTimeNetConfig.

    Args:
        given: Arguments of the official command line, of its BERT (alone or as `bert_config`), and fields of ours.

    Returns:
        Fields; `backbone_config` holds what was said of the BERT.

    Raises:
        ConversionError: An argument is unknown, or asks for what is not converted.
    """
    ours = CrossTimeNetConfig.field_names() - _TOLD_BY_SHAPES
    known = ours | _UNREAD_ARGUMENTS | BERT_ARGUMENTS
    for name in given:
        if name not in known:
            hint = near_match_hint(name, known)
            raise ConversionError(f"CrossTimeNet's model has no hyper-parameter {name!r}.{hint}")
    fields = {name: value for name, value in given.items() if name in ours}
    if isinstance(fields.get("classifier"), int):
        del fields["classifier"]  # an official switch of that name, which nothing reads
    is_language_model = bool(given.get("params"))
    if is_language_model:
        fields.setdefault("backbone_name", given.get("local_model_path", "bert-base-uncased"))
    # Rows of an untrained word table are random numbers; the official code draws both kinds under one name.
    mapped = given.get("embeding", given.get("task_type", "word_mapping")) == "word_mapping"
    fields.setdefault("embedding_initialization", "word_sample" if mapped and is_language_model else "random")
    return {**fields, "backbone_config": fields_of_official_bert(given)}


def fields_of_official_bert(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what official arguments say of the BERT.

    Args:
        given: Arguments of any kind: those of BertConfig alone, or as a mapping `bert_config`.

    Returns:
        Fields of BertConfig.

    Raises:
        ConversionError: `bert_config` has what is not converted.
    """
    inside = given.get("bert_config", {})
    for name in inside:
        if name not in _BERT_FIELDS | _BERT_DETAILS:
            hint = near_match_hint(name, _BERT_FIELDS)
            known = list_names(sorted(_BERT_FIELDS), most=len(_BERT_FIELDS))
            raise ConversionError(f"bert_config.{name} is not converted.{hint} Known are {known}.")
    fields = {name: value for name, value in {**given, **inside}.items() if name in _BERT_FIELDS}
    if fields.pop("position_embedding_type", "absolute") != "absolute":
        raise ConversionError("Only position_embedding_type='absolute' is converted: transformers dropped the others.")
    return fields


def official_bert_config(official: Mapping[str, torch.Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the BERT's config by the shapes of its parameters and by what was said of it.

    Args:
        official: Parameters of the official model.
        given: Fields of BertConfig that the caller says, compared with the shapes that tell them.

    Raises:
        ConversionError: Parameters are missing, contradict what was said, or do not tell the number of heads.
    """
    keys = {name: f"{BERT_PREFIX}{key}" for name, key in _BERT_SIZES.items()}
    missing = [key for key in keys.values() if key not in official]
    if missing:
        raise ConversionError(f"This is no model of CrossTimeNet: {', '.join(missing)} is missing.")
    fields: dict[str, Any] = {name: len(official[key]) for name, key in keys.items()}
    layers = {key.split(".")[4] for key in official if key.startswith(f"{BERT_PREFIX}encoder.layer.")}
    fields["num_hidden_layers"] = len(layers)
    contradictions = [
        f"{name}={given[name]!r} was given, but the parameters have {name}={value!r}"
        for name, value in fields.items()
        if given.get(name, value) != value
    ]
    if contradictions:
        raise ConversionError(f"The hyper-parameters contradict the file: {'; '.join(contradictions)}.")
    width = fields["hidden_size"]
    if "num_attention_heads" not in given and width % 64:
        raise ConversionError(
            f"The number of attention heads cannot be told from the width {width}; give num_attention_heads in the "
            "hyper-parameters."
        )
    # One head a 64 numbers of the width, as every published BERT has them, where nothing else is said.
    return {"model_type": "bert", "num_attention_heads": width // 64, **fields, **given}
