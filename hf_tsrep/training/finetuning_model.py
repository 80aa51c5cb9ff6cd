"""The model of a fine-tuning: a pretrained encoder with a new head, and which of its weights learn."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import SettingsError
from .finetuning_data import FinetuningData
from .settings import FinetuneSettings
from .starting_model import config_of, is_method_name
from .training_record import read_training_record

logger = logging.getLogger(__name__)


def training_record(model: Any) -> dict[str, Any]:
    """Return the record of a model's training; empty for a method's name and for a model without a folder."""
    named = isinstance(model, (str, Path)) and not is_method_name(model)
    return read_training_record(str(model)) if named else {}


def reading_options(settings: FinetuneSettings) -> dict[str, Any]:
    """Return how the corpus is scaled and extended: as said, else as in the model's training, else as recommended.

    A method that reads tokens takes raw values: its tokenizer scales them by itself.
    """
    from ..registry import get_method

    encoder_class: Any = get_method(settings.method).model_class
    usual = "recommended" if encoder_class.main_input_name == "past_values" else None
    recorded = training_record(settings.model).get("data") or {}
    scaler = settings.data.scaler if "scaler" in settings.sources else recorded.get("scaler", usual)
    features = settings.data.time_features
    return {
        "scaler": scaler,
        "time_features": bool(recorded.get("time_features")) if features is None else features,
    }


def domain_of(settings: FinetuneSettings, canonical: str) -> str | None:
    """Return which of the model's domains the corpus is; None for a method without domains.

    Args:
        settings: Name the model, the corpus and perhaps the domain.
        canonical: Name in the corpus's metadata.

    Raises:
        SettingsError: The method has domains, and the model none.
        ValueError: See `hf_tsrep.data.domains.find_domain`.
    """
    from ..data.domains import find_domain

    config, given = config_of(settings.model), settings.data.domain
    if hasattr(config, "domain_index") and not config.domains:
        raise SettingsError(
            f"{settings.model_name} has no domains and no tokenizer, which {settings.method} reads series with. Give "
            "the folder of a pretrained model; from_scratch=True (--from-scratch) leaves its weights and keeps these."
        )
    written = str(settings.corpus) if isinstance(settings.corpus, (str, Path)) else ""
    return find_domain(config, given, written, canonical)


def build_model(settings: FinetuneSettings, data: FinetuningData) -> Any:
    """Build the head of the task on the model's encoder. The head is new, whatever the model had.

    Args:
        settings: Name the model.
        data: Gives the classes or the numbers of channels and steps.

    Returns:
        The model in training mode, on the CPU, with the tokenizer of the pretrained model where that has one.

    Raises:
        ValueError: The encoder's weights do not fit the corpus; the message says what to do.
    """
    from ..registry import get_method

    method = get_method(settings.method)
    head_class: Any = method.classification_class if data.class_names else method.prediction_class
    model = head_class(head_config(settings, data))
    if is_method_name(settings.model):
        return model
    encoder = _pretrained_encoder(settings)
    if settings.is_pretrained:
        _load_encoder(model, encoder, settings)
    if hasattr(model, "set_tokenizer"):
        model.set_tokenizer(encoder.tokenizer)
    return model


def prediction_length_of(settings: FinetuneSettings) -> int:
    """Return the number of steps to predict: as said, else as the model's config has it."""
    return int(settings.config.get("prediction_length", config_of(settings.model).prediction_length))


def head_config(settings: FinetuneSettings, data: FinetuningData) -> Any:
    """Return the model's config with the labels, channels and lengths of this task."""
    config = config_of(settings.model)
    values: dict[str, Any] = {}
    if data.domain is None:
        values["num_input_channels"] = data.num_input_channels
    if data.class_names:
        values["id2label"] = dict(enumerate(data.class_names))
        values["label2id"] = {name: index for index, name in enumerate(data.class_names)}
    else:
        values["num_output_channels"] = data.num_input_channels - data.metadata.num_time_features
        if hasattr(config, "target_scale"):
            values |= target_statistics(data)
    if hasattr(config, "context_length"):
        is_given = settings.task == "classification" and settings.is_given("context_length")
        values["context_length"] = settings.data.context_length if is_given else data.sequence_length
    for name, value in {**values, **settings.config}.items():
        setattr(config, name, value)
    if data.domain is not None:
        _fit_domain(config, data)
    config.check_ranges()
    return config


def target_statistics(data: FinetuningData) -> dict[str, list[float]]:
    """Return mean and scale of the predicted channels for a config, of the training part.

    The head then learns, and is measured, on what the corpus would be with scaler=standard, while the tokenizer reads
    the raw values that it was trained for.
    """
    from ..data import get_series
    from ..data.scaling import TARGET_SCALER, ChannelScaler

    targets = [series[:, data.metadata.num_time_features :] for series in get_series(data.corpus["train"])]
    scaler = ChannelScaler.fit(targets, kind=TARGET_SCALER)
    return {"target_mean": scaler.mean.tolist(), "target_scale": scaler.scale.tolist()}


def _fit_domain(config: Any, data: FinetuningData) -> None:
    """Check the corpus against its domain, and have one head, which is this task's and of this domain alone."""
    domain = config.domains[config.domain_index(data.domain)]
    if domain["num_input_channels"] != data.num_input_channels:
        raise ValueError(
            f"Domain {data.domain!r} of the model has {domain['num_input_channels']} channels, but the corpus has "
            f"{data.num_input_channels}. Choose another domain, or the corpus's channels with target."
        )
    config.domains = [
        {name: value for name, value in one.items() if name not in ("num_labels", "num_tokens")}
        for one in config.domains
    ]
    if data.class_names:
        config.domains[config.domain_index(data.domain)]["num_labels"] = len(data.class_names)
    if getattr(config, "classifier", "") == "flatten":
        config.num_tokens = -(-data.sequence_length // domain["patch_length"])


def _load_encoder(model: Any, encoder: Any, settings: FinetuneSettings) -> None:
    """Load the pretrained encoder's weights into the model, and nothing of its head."""
    weights: Mapping[str, Tensor] = encoder.state_dict()
    own = model.base_model.state_dict()
    missing = sorted(set(own) - set(weights))
    if missing:
        raise ValueError(
            f"The pretrained encoder lacks {len(missing)} weights that it needs with these settings, such as "
            f"{missing[0]}. Leave out what changes its layers ({', '.join(settings.config) or 'nothing was set'})."
        )
    mismatched = {
        name: (tuple(weights[name].shape), tuple(own[name].shape))
        for name in own
        if own[name].shape != weights[name].shape
    }
    _check_shapes(mismatched, settings, model.config)
    model.base_model.load_state_dict({name: (own if name in mismatched else weights)[name] for name in own})
    for name, parameter in model.base_model.named_parameters():
        parameter._starts_anew = name in mismatched  # peft renames layers, and keeps their parameters


def _pretrained_encoder(settings: FinetuneSettings) -> Any:
    from ..registry import get_method

    if not isinstance(settings.model, (str, Path)):
        return settings.model.base_model
    encoder_class: Any = get_method(settings.method).model_class
    encoder, loading = encoder_class.from_pretrained(str(settings.model), output_loading_info=True)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"{settings.model} lacks {len(missing)} weights of a {encoder_class.__name__}, such as {missing[0]}: it "
            "is no whole checkpoint."
        )
    return encoder


def _check_shapes(mismatched: Mapping[str, tuple[Any, Any]], settings: FinetuneSettings, config: Any) -> None:
    if not mismatched:
        return
    shown = ", ".join(
        f"{name} {given} instead of {needed}" for name, (given, needed) in sorted(mismatched.items())[:3]
    )
    if not settings.run.adapt_input:
        raise ValueError(
            f"{len(mismatched)} weights of the pretrained encoder do not fit a corpus of {config.num_input_channels} "
            f"channels and these settings ({shown}). Choose the model's channels with target, or let these weights "
            "start anew with adapt_input=True (--adapt-input)."
        )
    logger.warning("%d weights do not fit and start anew: %s.", len(mismatched), shown)
    if settings.run.mode == "linear-probe":
        logger.warning(
            "mode=linear-probe leaves them random: it freezes the encoder. mode=full and mode=lora train them."
        )


def encoder_fingerprint(model: Any) -> str:
    """Return a sha256 over the names, shapes and values of the encoder's weights: what the run starts from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.base_model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def freeze_encoder(model: Any) -> None:
    """Keep every weight of the encoder as it is."""
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False


def require_peft() -> Any:
    """Import and return peft.

    Raises:
        SettingsError: It is not installed; the message has the command.
    """
    try:
        import peft
    except ImportError as error:
        raise SettingsError('mode=lora needs the package peft: pip install "peft>=0.17"') from error
    return peft


def add_low_rank_changes(model: Any, rank: int, alpha: float) -> None:
    """Freeze the encoder and give its linear layers and convolutions low-rank changes that learn.

    Source: LoRA (Hu et al., ICLR 2022). Layers of another kind stay as they are: recurrent ones, and dilated
    convolutions (all of TS2Vec's). Weights that start anew (adapt_input) learn as the head does.

    Args:
        model: A model with a head; the head learns as before.
        rank: Rank of the changes.
        alpha: Their scale is alpha / rank.

    Raises:
        SettingsError: peft is not installed, or the encoder has no linear layer or convolution.
    """
    from transformers.pytorch_utils import Conv1D

    peft = require_peft()
    prefix = f"{model.base_model_prefix}."
    encoder_layers = [(name, layer) for name, layer in model.named_modules() if name.startswith(prefix)]
    # Subclasses are left alone: they may read their weights past the forward that peft wraps, as attention layers do.
    # Conv1D is what GPT-2 calls a linear layer, and peft's low-rank convolution forgets the dilation of nn.Conv1d.
    targets = [
        name
        for name, layer in encoder_layers
        if type(layer) in (nn.Linear, Conv1D) or (type(layer) is nn.Conv1d and layer.dilation == (1,))
    ]
    if not targets:
        encoder = type(model.base_model).__name__
        raise SettingsError(f"mode=lora: the encoder {encoder} has no linear layer or convolution to change.")
    head = [name for name, _ in model.named_parameters() if not name.startswith(prefix)]
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in head or "lora_" in name or getattr(parameter, "_starts_anew", False)
    logger.info("LoRA changes %d layers of the encoder.", len(targets))


def merge_low_rank_changes(model: Any) -> None:
    """Add the low-rank changes to the weights and put the plain layers back, so that the model needs no peft."""
    peft = require_peft()
    for name, module in list(model.named_modules()):
        if isinstance(module, peft.tuners.lora.LoraLayer):
            parent, _, child = name.rpartition(".")
            changed: Any = module
            changed.merge()
            setattr(model.get_submodule(parent), child, changed.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad = True
