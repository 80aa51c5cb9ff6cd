"""hf_tsrep: pretrained time-series encoders on the Hugging Face stack.

Importing it registers every method with transformers' Auto classes; classes are loaded on first use. The classes of
the methods are those of `registry.lazy_classes`; `__init__.pyi` lists them for type checkers (`make stubs`).
"""

from __future__ import annotations

import importlib
from typing import Any

from .errors import near_matches
from .registry import METHODS, Method, Paper, get_method, lazy_classes, list_methods, list_models, register_methods

__version__ = "0.1.0"

_FUNCTIONS = {
    "AutoModelForTimeSeriesClassification": "auto",
    "StreamingEncoder": "inference",
    "dequantize_embeddings": "inference",
    "quantize_embeddings": "inference",
    "TimeSeriesFeatureExtractor": "tokenization.feature_extraction_time_series",
    "build_model_card": "hub",
    "cluster": "inference.clustering",
    "convert_checkpoint": "hub",
    "detect": "inference.detection",
    "evaluate": "training.protocols",
    "finetune": "training",
    "impute": "inference.imputation",
    "load_corpus": "data",
    "predict": "inference.prediction",
    "pretrain": "training",
    "push_to_hub": "hub",
    "search": "inference.searching",
}
_SUBPACKAGES = ("data", "evaluation", "hub", "inference", "modeling", "sklearn", "tokenization", "training")

__all__ = [
    "METHODS",
    "Method",
    "Paper",
    "__version__",
    "get_method",
    "list_methods",
    "list_models",
    *sorted([*_FUNCTIONS, *lazy_classes()]),
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name in _FUNCTIONS:
        value = getattr(importlib.import_module(f".{_FUNCTIONS[name]}", __name__), name)
    elif name in lazy_classes():
        value = lazy_classes()[name].resolve()
    else:
        hint = "" if name.startswith("_") else near_matches(name, __all__)
        raise AttributeError(f"module 'hf_tsrep' has no attribute {name!r}.{hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])


register_methods()
