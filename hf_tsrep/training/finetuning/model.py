"""The model of a fine-tuning: a pretrained encoder with a new head, and which of its weights learn."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data.checks import check_channel_order
from ...data.domains import find_domain
from ...data.scaling import TARGET_SCALER, ChannelScaler
from ...errors import SettingsError
from ...modeling.configuration_time_series import TaskShape
from ...opening import config_of, is_method_name
from ...registry import get_method
from ..saving import read_training_record
from ..settings import FinetuneSettings
from .data import FinetuningData

logger = logging.getLogger(__name__)


def training_record(model: Any) -> dict[str, Any]:
    """Return the record of a model's training; empty for a method's name and for a model without a folder."""
    named = isinstance(model, (str, Path)) and not is_method_name(model)
    return read_training_record(str(model)) if named else {}


def reading_options(settings: FinetuneSettings) -> dict[str, Any]:
    """Return how the corpus is scaled and extended: as said, else as in the model's training, else as recommended.

    A method that reads tokens takes raw values: its tokenizer scales them by itself.
    """
    config_class: Any = get_method(settings.method).config_class
    usual = None if config_class.reads_tokens else "recommended"
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
    config, given = config_of(settings.model), settings.data.domain
    if config.reads_tokens and not config.domain_names:
        raise SettingsError(
            f"{settings.model_name} has no domains and no tokenizer, which {settings.method} reads series with. Give "
            "the folder of a pretrained model; from_scratch=True (--from-scratch) leaves its weights and keeps these."
        )
    written = str(settings.corpus) if isinstance(settings.corpus, (str, Path)) else ""
    return find_domain(config, given, written, canonical)


def build_model(settings: FinetuneSettings, data: FinetuningData) -> Any:
    """Build the head of the task on the model's encoder. The head is new, whatever the model had.

    Only of a method that generates it is that of the pre-training: its pretext task is the future.

    Args:
        settings: Name the model.
        data: Gives the classes or the numbers of channels and steps.

    Returns:
        The model in training mode, on the CPU, with the tokenizer of the pretrained model where that has one.

    Raises:
        ValueError: The encoder's weights do not fit the corpus; the message says what to do.
    """
    method = get_method(settings.method)
    head_class: Any = method.classification_class if data.class_names else method.prediction_class
    model = head_class(head_config(settings, data))
    if is_method_name(settings.model):
        return model
    encoder = _pretrained_encoder(settings)
    if not settings.run.adapt_input:
        known = getattr(encoder.preparation, "channel_names", None) or ()
        given = data.metadata.channel_names[data.metadata.num_time_features :]
        check_channel_order(known, given, "The corpus", "the encoder")
    if settings.is_pretrained:
        _load_encoder(model, encoder, settings)
        if model.config.generates and not data.class_names:
            _load_head(model, settings)
    if model.config.reads_tokens:
        model.set_tokenizer(encoder.tokenizer)
    return model


def prediction_length_of(settings: FinetuneSettings) -> int:
    """Return the number of steps to predict: as said, else as the model's config has it."""
    return int(settings.config.get("prediction_length", config_of(settings.model).prediction_length))


def head_config(settings: FinetuneSettings, data: FinetuningData) -> Any:
    """Return the model's config with the labels, channels and lengths of this task."""
    config = config_of(settings.model)
    is_classifier = bool(data.class_names)
    covers = is_classifier and settings.is_given("context_length")
    statistics: dict[str, Any] = {} if is_classifier or not config.scales_targets else target_statistics(data)
    task = TaskShape(
        num_input_channels=data.num_input_channels,
        sequence_length=data.sequence_length,
        class_names=data.class_names,
        num_output_channels=None if is_classifier else data.num_input_channels - data.metadata.num_time_features,
        context_length=settings.data.context_length if covers else None,
        domain=data.domain,
        problem_type=data.problem_type,
        **data.label_statistics,
        **statistics,
    )
    config.fit_to_task(task, **settings.config)
    return config


def target_statistics(data: FinetuningData) -> dict[str, list[float]]:
    """Return mean and scale of the predicted channels for a config, of the training part.

    The head then learns, and is measured, on what the corpus would be with scaler=standard, while the tokenizer reads
    the raw values that it was trained for.
    """
    targets = [series[:, data.metadata.num_time_features :] for series in data.known_series()]
    scaler = ChannelScaler.fit(targets, kind=TARGET_SCALER)
    return {"target_mean": scaler.mean.tolist(), "target_scale": scaler.scale.tolist()}


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


def _load_head(model: Any, settings: FinetuneSettings) -> None:
    """Go on with the head that the pre-training left, where it fits."""
    source = settings.model
    if isinstance(source, (str, Path)):
        pretraining_class: Any = get_method(settings.method).pretraining_class
        source, loading = pretraining_class.from_pretrained(
            str(source), output_loading_info=True, ignore_mismatched_sizes=True
        )
        has_head = not loading["missing_keys"] and not loading["mismatched_keys"]
    else:
        has_head = source is not source.base_model and not hasattr(source, "classifier")
    weights: Mapping[str, Tensor] = source.head.state_dict() if has_head else {}
    own = model.head.state_dict()
    if {name: value.shape for name, value in weights.items()} == {name: value.shape for name, value in own.items()}:
        model.head.load_state_dict(weights)
    else:
        logger.warning("%s has no head that fits, so that one starts anew.", settings.model_name)


def _pretrained_encoder(settings: FinetuneSettings) -> Any:
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


def freeze_encoder(model: Any, trainable: str | None = None) -> None:
    """Keep the weights of the encoder as they are.

    Args:
        model: The model with a head.
        trainable: Regular expression; weights in whose names it is found learn on. None for none.

    Raises:
        SettingsError: It is no regular expression, or is found in no name.
    """
    try:
        pattern = None if trainable is None else re.compile(trainable)
    except re.error as error:
        raise SettingsError(f"trainable={trainable!r} is no regular expression: {error}.") from error
    kept = 0
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad = pattern is not None and pattern.search(name) is not None
        kept += parameter.requires_grad
    if pattern is not None and not kept:
        names = ", ".join(sorted({name.partition(".")[0] for name, _ in model.base_model.named_parameters()}))
        raise SettingsError(f"trainable={trainable!r} is found in the name of no weight; the encoder has {names}.")
