"""The model that a fine-tuning starts from, as it is named: its place, its config and its method."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from ..errors import near_matches
from ..opening import local_folder, read_config
from ..registry import METHODS, get_method


def is_method_name(model: Any) -> bool:
    """Return whether a method is named instead of a model; a folder of that name goes before it."""
    return isinstance(model, str) and model in METHODS and not Path(model).is_dir()


def method_of(model: Any) -> str:
    """Return the name of the method of a model.

    Args:
        model: Folder or Hub id of a model, a model, or the name of a method.

    Raises:
        FileNotFoundError: There is no such folder, or no finished model in it.
        OSError: It is not on the Hub, or the Hub cannot be reached.
        ValueError: Its method is not one of hf_tsrep, or a method's name is misspelt.
    """
    if not isinstance(model, (str, Path)):
        return get_method(str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))).name
    name = str(model)
    if is_method_name(name):
        return name
    local_folder(name)
    if "/" not in name and not Path(name).is_dir() and near_matches(name, METHODS, cutoff=0.7):
        return get_method(name).name  # raises, with the near match
    config = read_config(name)
    try:
        return get_method(config.model_type).name
    except ValueError as error:
        raise ValueError(
            f"{name} is a {config.model_type!r} model, which hf_tsrep cannot fine-tune. {error}"
        ) from None


def config_of(model: Any) -> Any:
    """Return the config of a model as it is, or a method's default one; a copy.

    Args:
        model: Folder or Hub id of a model, a model, or the name of a method.
    """
    if is_method_name(model):
        config_class: Any = get_method(model).config_class
        return config_class()
    return read_config(str(model)) if isinstance(model, (str, Path)) else deepcopy(model.config)
