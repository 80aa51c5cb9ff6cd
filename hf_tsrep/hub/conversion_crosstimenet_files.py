"""Folders made of official CrossTimeNet checkpoints: a tokenizer's, or a model's with its tokenizer beside it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..modeling.conversion_time_series import ConversionError
from .conversion_crosstimenet import convert_codec_state_dict, convert_model_state_dict

HEADS = ("pretraining", "classification")
# Arguments of the official VQVAE -> fields of a CodecDomain; data_shape is (length, channels).
_CODEC_ARGUMENTS = {
    "hidden_dim": "hidden_size",
    "n_embed": "codebook_size",
    "block_num": "num_blocks",
    "wave_length": "patch_length",
}
# Official arguments that concern training alone: nothing of the model depends on them.
_TRAINING_ARGUMENTS = frozenset(
    {"device", "dropout", "embeding", "frozen", "learning_rate", "learning_rate_pretrain", "load_pretrain"}
    | {"local_model_path", "mask_ratio", "num_epochs", "params", "pretrain_num_epochs", "pretrain_stage", "seed"}
    | {"test_batch_size", "train_batch_size", "train_ratio"}
)
_CODEC_NAMES = frozenset({*_CODEC_ARGUMENTS, "data_shape", "domain"})
_MODEL_NAMES = frozenset({"num_attention_heads", "head", "hidden_act", "layer_norm_eps"})

FolderWriter = Callable[[Path, str], None]


def prepare_crosstimenet(state_dict: Mapping[str, Tensor], hyperparameters: Mapping[str, Any]) -> FolderWriter:
    """Convert an official checkpoint, of a tokenizer or of a model.

    Args:
        state_dict: Of the official VQVAE, or of the official bert4ts.
        hyperparameters: Official arguments, compared with the shapes that tell them; `domain`, the name of a lone
            tokenizer's domain; `num_attention_heads`, `hidden_act`, `layer_norm_eps` of the BERT; `head`:
            "pretraining" (the default) keeps the layer that recovers tokens, "classification" the data sets' heads,
            of which training leaves only one kind trained; and fields of CrossTimeNetConfig.

    Returns:
        What writes the folder, given it and the name of the checkpoint's file. Nothing can be wrong any more then.

    Raises:
        ConversionError: The parameters are no such checkpoint's, or a hyper-parameter is unknown or contradicts them.
    """
    from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig

    given = {
        name: value for name, value in hyperparameters.items() if value is not None and name not in _TRAINING_ARGUMENTS
    }
    is_model = any(key.startswith("vqvae_model.") for key in state_dict)
    told_by_shapes = {"backbone_config", "domains", "embedding_size", "num_input_channels", "num_tokens", "vocab_size"}
    ours = set(CrossTimeNetConfig.__dataclass_fields__) - told_by_shapes
    known = _MODEL_NAMES | ours if is_model else _CODEC_NAMES
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            what = "model" if is_model else "tokenizer"
            raise ConversionError(f"CrossTimeNet's {what} has no hyper-parameter {name!r}.{hint}")
    return _prepare_model(state_dict, given) if is_model else _prepare_tokenizer(state_dict, given)


def _prepare_tokenizer(state_dict: Mapping[str, Tensor], given: dict[str, Any]) -> FolderWriter:
    fields, parameters = convert_codec_state_dict(state_dict, str(given.pop("domain", "series")))
    length, channels = given.pop("data_shape", (fields["context_length"], fields["num_input_channels"]))
    wanted = {_CODEC_ARGUMENTS[name]: value for name, value in given.items()}
    wanted |= {"context_length": length, "num_input_channels": channels}
    _check_agreement(wanted, fields)
    tokenizer = _build_tokenizer([(fields, parameters)])

    def write(folder: Path, source: str) -> None:
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(_tokenizer_card(fields, source), encoding="utf-8")

    return write


def _prepare_model(state_dict: Mapping[str, Tensor], given: dict[str, Any]) -> FolderWriter:
    from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
    from hf_tsrep.registry import get_method

    head = given.pop("head", HEADS[0])
    if head not in HEADS:
        raise ConversionError(f"head={head!r} is unknown; choose one of {', '.join(map(repr, HEADS))}.")
    fields, parameters, classifiers, codecs = convert_model_state_dict(
        state_dict, given.pop("num_attention_heads", None)
    )
    for name in ("hidden_act", "layer_norm_eps"):
        if name in given:
            fields["backbone_config"][name] = given.pop(name)
    config = CrossTimeNetConfig(**{**fields, **given})
    method = get_method("crosstimenet")
    if head == "classification":
        parameters = {name: value for name, value in parameters.items() if name.startswith("model.")} | classifiers
    model: Any = (method.classification_class if head == "classification" else method.pretraining_class)(config)
    try:
        model.load_state_dict({name: value.float() for name, value in parameters.items()}, strict=True)
    except RuntimeError as error:
        raise ConversionError(f"The parameters do not fit each other: {' '.join(str(error).split())}") from error
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ConversionError(f"Parameters are not finite: {', '.join(broken[:8])}; the training had diverged.")
    model.eval().set_tokenizer(_build_tokenizer(codecs))

    def write(folder: Path, source: str) -> None:
        from .cards import build_model_card

        model.save_pretrained(folder)
        card = build_model_card(model, method="crosstimenet", converted_from=source, license="unknown")
        card.save(folder / "README.md")

    return write


def _build_tokenizer(codecs: list[tuple[dict[str, Any], dict[str, Tensor]]]) -> Any:
    from hf_tsrep.registry import get_method
    from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec
    from hf_tsrep.tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig

    codec = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=[fields for fields, _ in codecs]))
    for domain, (_, parameters) in zip(codec.domains, codecs, strict=True):
        domain.load_state_dict({name: value.float() for name, value in parameters.items()}, strict=True)
    tokenizer_class: Any = get_method("crosstimenet").tokenizer_class
    return tokenizer_class.from_codec(codec)


def _check_agreement(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    faults = [
        f"{name}={value!r} was given, but the parameters have {name}={found[name]!r}"
        for name, value in wanted.items()
        if value != found[name]
    ]
    if faults:
        raise ConversionError(f"The hyper-parameters contradict the file: {'; '.join(faults)}.")


def _tokenizer_card(fields: Mapping[str, Any], source: str) -> str:
    return (
        "---\nlibrary_name: hf-tsrep\nlicense: unknown\ntags:\n- time-series\n- tokenizer\n- crosstimenet\n---\n\n"
        f"# CrossTimeNet tokenizer of {fields['name']}\n\n"
        f"Converted from `{source}`, a checkpoint of the official implementation of CrossTimeNet (Cheng et al., WSDM "
        f"2025, arXiv 2403.12372). It turns series of {fields['context_length']} timestamps and "
        f"{fields['num_input_channels']} channels into {fields['context_length'] // fields['patch_length']} of "
        f"{fields['codebook_size']} codes; the published decoder takes that length only. The official training "
        "multiplied series by 2.5 before the tokenizer: whoever trained it so does the same before tokenising.\n"
    )
