"""An Auto class that transformers lacks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from .registry import HEADS, METHODS

_MAPPING: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForTimeSeriesClassification(_BaseAutoModelClass):
    """Opens any checkpoint of the house with its classification head; transformers exports no such class."""

    _model_mapping = _MAPPING


for _method in METHODS.values():
    _lazy = _method.lazy_classes[f"{_method.title}{HEADS['classification']}"]
    _MAPPING.register(_method.config_class, _lazy, exist_ok=True)
