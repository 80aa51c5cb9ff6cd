"""LoRA: small matrices that learn in place of the encoder's own weights (Hu et al., ICLR 2022)."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from ...errors import SettingsError

logger = logging.getLogger(__name__)


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


def add_lora(model: Any, rank: int, alpha: float) -> None:
    """Freeze the encoder and give its linear layers and convolutions LoRA's weights that learn.

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


def merge_lora(model: Any) -> None:
    """Add the LoRA's weights to the weights and put the plain layers back, so that the model needs no peft."""
    peft = require_peft()
    for name, module in list(model.named_modules()):
        if isinstance(module, peft.tuners.lora.LoraLayer):
            parent, _, child = name.rpartition(".")
            changed: Any = module
            changed.merge()
            setattr(model.get_submodule(parent), child, changed.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad = True
