"""Opening a model that is named by its folder or its Hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from .errors import near_matches
from .modeling.types_time_series import is_of_type, read_settings, require_types
from .registry import METHODS, get_method

SETTINGS_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
_TYPES_OF_KEYS: dict[str, Any] = {
    "auto_map": dict[str, str | list],
    "feature_extractor_type": str,
    "model_type": str,
    "tokenizer_class": str,
}
# Endings of files that hold weights: a name with one of them is that of a file.
FILES_OF_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".onnx", ".h5", ".json")


def is_place(name: str) -> bool:
    """Return whether a name can only be meant as a path of this machine, and is no id of the Hub."""
    path = Path(name)
    if name.startswith((".", "/", "~")) or "\\" in name or path.suffix.lower() in FILES_OF_WEIGHTS:
        return True
    return name.count("/") > 1 or ("/" in name and path.parent.is_dir())


def local_folder(name: str) -> Path | None:
    """Return the folder that a model's name means; None for an id of the Hub.

    Raises:
        FileNotFoundError: A path without a model. The message names what is missing, and the near matches.
    """
    path = Path(name)
    if path.is_dir():
        if (path / "config.json").is_file():
            check_settings_files(path)
            return path
        checkpoints = sorted(path.glob("checkpoint-*"), key=lambda one: one.stat().st_mtime)
        unfinished = "Its training has not finished: go on with --resume (resume_from_checkpoint=True), or use"
        hint = f" {unfinished} {checkpoints[-1]}." if checkpoints else ""
        raise FileNotFoundError(f"{name} holds no model: config.json is missing.{hint}")
    if path.is_file():
        raise FileNotFoundError(f"{name} is a file; a model is a folder with config.json, or a Hub id.")
    if is_place(name):
        siblings = [one.name for one in path.parent.iterdir() if one.is_dir()] if path.parent.is_dir() else []
        hint = near_matches(path.name, siblings, count=2, cutoff=0.5, spell=lambda one: str(path.parent / one))
        raise FileNotFoundError(f"There is no folder {name}.{hint}")
    return None


def check_settings_files(folder: Path) -> None:
    """Refuse files of settings that transformers would stumble over before a method's class reads them.

    Args:
        folder: Folder of a model or a tokenizer.

    Raises:
        ValueError: A file is no JSON or no mapping, or a key that says which class reads it is not of its type. The
            message names file, key, value and fix.
    """
    for name in SETTINGS_FILES:
        path = folder / name
        if not path.is_file():
            continue
        values = read_settings(path)
        require_types(str(path), values, _TYPES_OF_KEYS)
        _require_tokenizer_classes(path, values)
        if name == "config.json" and not values.get("model_type"):
            raise ValueError(f"{path}: model_type is missing; it says which method it is. Save the model again.")


def _require_tokenizer_classes(path: Path, values: dict[str, Any]) -> None:
    """Raise ValueError where the classes of a tokenizer's own code are no pair, of which transformers takes one."""
    classes = values.get("auto_map", {}).get("AutoTokenizer", [None, ""])
    is_pair = isinstance(classes, list) and len(classes) == 2 and is_of_type(classes, list[str | None])
    if not is_pair or classes == [None, None]:
        raise ValueError(
            f"{path}: auto_map.AutoTokenizer is {classes!r}; it must be a list of two, a slow and a fast class, of "
            "which one may be null. Save the tokenizer again."
        )


def load_encoder(model: Any) -> Any:
    """Return the encoder that is named, or the one that is given.

    Args:
        model: Folder or Hub id of a model, or a model.

    Raises:
        FileNotFoundError: There is no such folder, or no finished model in it.
        OSError: It is not on the Hub, or the Hub cannot be reached.
        ValueError: It is no encoder of time series.
    """
    from transformers import AutoModel

    if isinstance(model, (str, Path)):
        local_folder(str(model))
        config = read_config(str(model))
        model = AutoModel.from_pretrained(str(model), config=config).eval()
    if not hasattr(model, "encode"):
        raise ValueError(f"{type(model).__name__} has no encode: it is no encoder of time series.")
    return model


def read_config(name: str) -> Any:
    """Return the config of a folder or Hub id."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except OSError as error:
        if Path(name).is_dir():
            raise OSError(f"{name} cannot be read: {error}") from error
        raise OSError(
            f"{name!r} is no folder here, no method of hf_tsrep, and cannot be had from the Hub: {error}"
        ) from error


@contextmanager
def without_file_bars() -> Iterator[None]:
    """Keep transformers' bars for the loading and writing of files away; those of `encode` are asked for later."""
    from transformers.utils import logging

    active = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if active:
            logging.enable_progress_bar()


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
