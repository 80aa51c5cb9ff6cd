"""LoRA: small matrices that learn in place of the encoder's own weights (Hu et al., ICLR 2022)."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import nn

from ...errors import SettingsError
from ...modeling.layers_convolution import CausalConvolution, DilatedConvolution

logger = logging.getLogger(__name__)

_CONVOLUTIONS = (nn.Conv1d, DilatedConvolution, CausalConvolution)


def require_peft() -> Any:
    """Import and return peft.

    Raises:
        SettingsError: It is not installed; the message has the command.
    """
    try:
        import peft
    except ImportError as error:
        raise SettingsError('mode=lora needs the package peft: pip install "peft>=0.21"') from error
    return peft


def lora_config(model: Any, rank: int = 8, alpha: float = 16.0, **fields: Any) -> Any:
    """Return a `peft.LoraConfig` that reaches every linear layer and convolution of a model's encoder.

    peft's own "all-linear" leaves convolutions alone, and its low-rank convolution forgets their dilation: here they
    have a layer of their own. peft does not write it down, so that `PeftModel.from_pretrained` needs the same config:
    `PeftModel.from_pretrained(model, folder, config=lora_config(model, rank))`.

    Args:
        model: A model of this library, with or without a head.
        rank: Rank of the changes.
        alpha: Their scale is alpha / rank.
        fields: Further fields of `peft.LoraConfig`, such as task_type="SEQ_CLS", which trains and keeps the head, too.

    Raises:
        SettingsError: peft is not installed, or the encoder has no linear layer or convolution.

    Source: LoRA (Hu et al., ICLR 2022). Recurrent layers stay as they are.
    """
    from transformers.pytorch_utils import Conv1D

    peft = require_peft()
    prefix = "" if model is model.base_model else f"{model.base_model_prefix}."
    # Subclasses of a linear layer are left alone: attention may read their weights past the forward that peft wraps.
    # Conv1D is what GPT-2 calls a linear layer.
    targets = [
        name
        for name, layer in model.named_modules()
        if name.startswith(prefix) and (type(layer) in (nn.Linear, Conv1D) or isinstance(layer, _CONVOLUTIONS))
    ]
    if not targets:
        encoder = type(model.base_model).__name__
        raise SettingsError(f"mode=lora: the encoder {encoder} has no linear layer or convolution to change.")
    config = peft.LoraConfig(**{"r": rank, "lora_alpha": alpha, "target_modules": targets, **fields})
    config._register_custom_module(dict.fromkeys(_CONVOLUTIONS, _convolution_with_lora()))
    return config


@functools.cache
def _convolution_with_lora() -> type[nn.Module]:
    """Return the class of a convolution with LoRA's weights; peft, whose class it extends, is not always there."""
    peft = require_peft()

    lora_layer: Any = type("_Layer", (nn.Module, peft.tuners.lora.LoraLayer), {})

    class LoraConvolution(lora_layer):
        """A convolution whose weight, (output_channels, input_channels * kernel_size), has a low-rank change.

        The change is added to the weight and not to the output, as an activation may lie before or after the products.
        Dropout is that of the change's weights.
        """

        def __init__(
            self, base_layer: nn.Module, adapter_name: str, config: Any, r: int, lora_alpha: float, **options: Any
        ) -> None:
            nn.Module.__init__(self)
            peft.tuners.lora.LoraLayer.__init__(self, base_layer, **options)
            self._active_adapter = adapter_name
            self.update_layer(adapter_name, r, lora_alpha, config=config, **options)

        def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
            weight = getattr(module, _name_of_weight(module))
            return weight[0].numel(), len(weight)

        def get_delta_weight(self, adapter: str) -> torch.Tensor:
            """Return the change of the weight by an adapter, in the weight's shape."""
            base = self.get_base_layer()
            narrow = self.lora_dropout[adapter](self.lora_A[adapter].weight)
            change = self.scaling[adapter] * (self.lora_B[adapter].weight @ narrow)
            return change.view_as(getattr(base, _name_of_weight(base)))

        def forward(self, *inputs: Any, **options: Any) -> torch.Tensor:
            """Convolve with the changed weight; inputs are those of the convolution."""
            base = self.get_base_layer()
            adapters = [one for one in self.active_adapters if one in self.lora_A]
            if self.disable_adapters or self.merged or not adapters:
                return base(*inputs, **options)
            name = _name_of_weight(base)
            weight = getattr(base, name) + sum(self.get_delta_weight(adapter) for adapter in adapters)
            return torch.func.functional_call(base, {name: weight}, inputs, options)

        def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            """Add the changes to the weight; see peft's LoraLayer."""
            base = self.get_base_layer()
            for adapter in check_adapters_to_merge(self, adapter_names):
                getattr(base, _name_of_weight(base)).data += self.get_delta_weight(adapter).detach()
                self.merged_adapters.append(adapter)

        def unmerge(self) -> None:
            """Take the merged changes from the weight again."""
            base = self.get_base_layer()
            while self.merged_adapters:
                change = self.get_delta_weight(self.merged_adapters.pop()).detach()
                getattr(base, _name_of_weight(base)).data -= change

    from peft.tuners.tuners_utils import check_adapters_to_merge

    return LoraConvolution


def _name_of_weight(convolution: nn.Module) -> str:
    """Return the name of the parameter that a change is added to."""
    return "direction" if isinstance(convolution, CausalConvolution) else "weight"


def add_lora(model: Any, rank: int, alpha: float) -> None:
    """Freeze the encoder and give its linear layers and convolutions LoRA's weights that learn.

    Weights that start anew (adapt_input) learn as the head does.

    Args:
        model: A model with a head; the head learns as before.
        rank: Rank of the changes.
        alpha: Their scale is alpha / rank.

    Raises:
        SettingsError: peft is not installed, or the encoder has no linear layer or convolution.
    """
    peft = require_peft()
    head = [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]
    config = lora_config(model, rank, alpha)
    peft.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in head or "lora_" in name or getattr(parameter, "_starts_anew", False)
    logger.info("LoRA changes %d layers of the encoder.", len(config.target_modules))


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
