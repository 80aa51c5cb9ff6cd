"""Answers of trained models to new series: embeddings as they come in, alarms, neighbours, clusters, filled gaps.

Where they come from, and their embeddings in fewer bits. Nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .quantization import dequantize_embeddings, quantize_embeddings
    from .streaming import StreamingEncoder

_MODULE_OF_NAME = {
    "StreamingEncoder": "streaming",
    "dequantize_embeddings": "quantization",
    "quantize_embeddings": "quantization",
}

__all__ = [
    "StreamingEncoder",
    "dequantize_embeddings",
    "quantize_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
