"""Cards, publishing, and conversion of official checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..modeling.conversion_time_series import ConversionError
    from .cards import build_model_card
    from .convert import convert_checkpoint
    from .export import ExportError, export_model
    from .folders import IncompleteModelError, accept_files, check_sums, feature_extractor_of_corpus
    from .publish import check_model_folder, push_to_hub

_MODULE_OF_NAME = {
    "ConversionError": "convert",
    "ExportError": "export",
    "IncompleteModelError": "folders",
    "accept_files": "folders",
    "build_model_card": "cards",
    "check_model_folder": "publish",
    "check_sums": "folders",
    "convert_checkpoint": "convert",
    "export_model": "export",
    "feature_extractor_of_corpus": "folders",
    "push_to_hub": "publish",
}

__all__ = [
    "ConversionError",
    "ExportError",
    "IncompleteModelError",
    "accept_files",
    "build_model_card",
    "check_model_folder",
    "check_sums",
    "convert_checkpoint",
    "export_model",
    "feature_extractor_of_corpus",
    "push_to_hub",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
