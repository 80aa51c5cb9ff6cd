"""An Auto class that transformers lacks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from .registry import METHODS, LazyClass

_MAPPING: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForTimeSeriesClassification(_BaseAutoModelClass):
    """Opens any checkpoint of the house with its classification head; transformers exports no such class."""

    _model_mapping = _MAPPING


for _method in METHODS.values():
    _MAPPING.register(
        _method.config_class,
        LazyClass(f"modeling.modeling_{_method.name}", f"{_method.title}ForTimeSeriesClassification"),
        exist_ok=True,
    )
