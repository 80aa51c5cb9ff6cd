"""Pre-training and fine-tuning: the Trainer, what it adds, recipes and the calls `pretrain` and `finetune`."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# A step's blocks are mapped and given back one by one (`give_back_freed_blocks`), which only huge pages make cheap.
# PyTorch reads this at its first block, and transformers' Trainer asks for one when imported: a function is too late.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from ..errors import SettingsError
    from ..visualization import plot_loss_curve
    from .callbacks import CollapseMonitor, WeightAveragingCallback, effective_rank
    from .checkpoints import find_last_checkpoint
    from .finetuning.lora import lora_config
    from .finetuning.run import finetune, run_finetuning
    from .pretraining import pretrain, run_pretraining
    from .recipe_files import list_recipes, load_recipe, recipe_for_corpus
    from .resolve import finetuning_fields, pretraining_fields, resolve_finetuning, resolve_settings
    from .saving import FinetuningResult, PretrainingResult
    from .settings import FinetuneSettings, PretrainSettings
    from .trainer import NonFiniteLossError, TimeSeriesTrainer

_MODULE_OF_NAME = {
    "CollapseMonitor": "callbacks",
    "FinetuneSettings": "settings",
    "FinetuningResult": "saving",
    "NonFiniteLossError": "trainer",
    "PretrainSettings": "settings",
    "PretrainingResult": "saving",
    "SettingsError": ".errors",
    "TimeSeriesTrainer": "trainer",
    "WeightAveragingCallback": "callbacks",
    "effective_rank": "callbacks",
    "find_last_checkpoint": "checkpoints",
    "finetune": "finetuning.run",
    "finetuning_fields": "resolve",
    "list_recipes": "recipe_files",
    "lora_config": "finetuning.lora",
    "load_recipe": "recipe_files",
    "plot_loss_curve": ".visualization",
    "pretrain": "pretraining",
    "pretraining_fields": "resolve",
    "recipe_for_corpus": "recipe_files",
    "resolve_finetuning": "resolve",
    "resolve_settings": "resolve",
    "run_finetuning": "finetuning.run",
    "run_pretraining": "pretraining",
}

__all__ = [
    "CollapseMonitor",
    "FinetuneSettings",
    "FinetuningResult",
    "NonFiniteLossError",
    "PretrainSettings",
    "PretrainingResult",
    "SettingsError",
    "TimeSeriesTrainer",
    "WeightAveragingCallback",
    "effective_rank",
    "find_last_checkpoint",
    "finetune",
    "finetuning_fields",
    "list_recipes",
    "load_recipe",
    "lora_config",
    "plot_loss_curve",
    "pretrain",
    "pretraining_fields",
    "recipe_for_corpus",
    "resolve_finetuning",
    "resolve_settings",
    "run_finetuning",
    "run_pretraining",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import hf_tsrep.training` is light."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF_NAME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
