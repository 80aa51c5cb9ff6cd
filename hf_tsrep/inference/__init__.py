"""Answers of trained models to new series: embeddings as they come in, alarms, neighbours, clusters, filled gaps.

And where they come from. Nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .streaming import StreamingEncoder

_MODULE_OF_NAME = {
    "StreamingEncoder": "streaming",
}

__all__ = [
    "StreamingEncoder",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
