"""Official checkpoints into model folders of the house."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import near_matches
from ..files import written_atomically
from ..modeling.conversion_time_series import ConversionError, Converter, FolderConverter, load_converted
from ..modeling.files_time_series import write_sums
from ..registry import Method, get_method
from .cards import build_model_card

logger = logging.getLogger(__name__)

PICKLED_SUFFIXES = (".pkl", ".pt", ".pth", ".bin", ".ckpt")


def convert_checkpoint(
    method: str,
    checkpoint: str | Path,
    output_directory: str | Path,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **config_fields: Any,
) -> Path:
    """Turn an official checkpoint into a model folder: config, weights, code, feature extractor and card.

    The layers after the encoder decide which model it is: one with a task's head, else one with the pretext task,
    else the encoder. Layers that this model does not have are named in the log. The folder appears complete or not at
    all.

    Args:
        method: Name of the method, such as "ts2vec".
        checkpoint: A file of a state dict: .safetensors, or .pkl, .pt, .pth, .bin, .ckpt; no code in it is run.
        output_directory: The folder to write.
        hyperparameters: Arguments that the official code was given, by their official names; those that the shapes of
            the parameters tell are compared with them.
        overwrite: Whether an existing folder is replaced.
        config_fields: Further config fields by our names, such as num_input_channels or pooling; compared in the same
            way.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        FileExistsError: The folder exists and `overwrite` is False.
        ConversionError: The file is damaged or would run code, its parameters are not those of the method, or the
            hyper-parameters contradict their shapes or are unknown.
    """
    described = get_method(method)
    converter = cast(Any, described.model_class).converter
    if isinstance(converter, FolderConverter):
        given_names = {**(hyperparameters or {}), **config_fields}
        return _convert_folder(described, converter, Path(checkpoint), output_directory, given_names, overwrite)
    if converter is None:
        raise ConversionError(f"{described.title} has no converter of official checkpoints.")
    given = _given_fields(described, converter, dict(hyperparameters or {}), config_fields)
    path = Path(checkpoint)
    with _named(path):
        official = read_state_dict(path)
        fields, encoder = converter.convert(official)
        _check_agreement(given, {name: fields[name] for name in converter.fields_of_shapes if name in fields})
        fields = converter.complete(fields, given)
        kind, of_head = converter.choose_model(official, fields)
        _check_agreement(given, of_head)
        model = _build(described, kind, {**fields, **of_head}, encoder, converter.heads(official))
    left_out = _left_out(official, converter, model)
    if left_out:
        logger.warning("Left out, because %s has no such layers: %s.", type(model).__name__, ", ".join(left_out))
    with written_atomically(output_directory, overwrite) as draft:
        _save(described, model, draft, path.name)
        write_sums(draft)
    logger.info("Converted %s into %s, a %s.", checkpoint, output_directory, type(model).__name__)
    return Path(output_directory)


def _convert_folder(
    method: Method,
    converter: FolderConverter,
    path: Path,
    output_directory: str | Path,
    hyperparameters: Mapping[str, Any],
    overwrite: bool,
) -> Path:
    with _named(path):
        prepared = converter.prepare_folder(read_state_dict(path), hyperparameters, method)
    with written_atomically(output_directory, overwrite) as draft:
        prepared.content.save_pretrained(draft)
        if prepared.card is None:
            _save_card(method, prepared.content, draft, path.name)
        else:
            (draft / "README.md").write_text(prepared.card.replace("{source}", path.name), encoding="utf-8")
        write_sums(draft)
    logger.info("Converted %s into %s.", path, output_directory)
    return Path(output_directory)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a file, running no code of it.

    Args:
        path: .safetensors, or a file of torch.save.

    Returns:
        Tensors on the CPU by name.

    Raises:
        FileNotFoundError: There is no such file.
        ConversionError: It cannot be read, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLED_SUFFIXES:
        raise ConversionError(f"Unknown kind of file; give .safetensors, {', '.join(PICKLED_SUFFIXES)}.")
    loaded = _read_pickled(path)
    for name in ("state_dict", "model_state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping):
        raise ConversionError(f"It holds a {type(loaded).__name__}, not a state dict; save model.state_dict().")
    others = {str(key): type(value).__name__ for key, value in loaded.items() if not isinstance(value, Tensor)}
    if others:
        raise ConversionError(f"A state dict holds tensors only, but here {others}; save model.state_dict().")
    return {str(key): value for key, value in loaded.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ConversionError(f"The file is damaged or no safetensors file ({error}); copy it again.") from error


def _read_pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _may_be_pickle(path):
            raise ConversionError(
                "The file holds more than tensors, and reading it would run code of it, so it is refused. If you "
                "trust it, load it with the official code and save model.state_dict(), better as safetensors. "
                f"({str(error).strip().splitlines()[0]})"
            ) from error
        raise ConversionError(f"The file is damaged or no file of torch.save ({error}); copy it again.") from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConversionError(f"The file is damaged or no file of torch.save ({reason}); copy it again.") from error


def _may_be_pickle(path: Path) -> bool:
    """Whether the file is a pickle, or an archive of one, as torch.save writes them."""
    if zipfile.is_zipfile(path):
        return True
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _given_fields(
    method: Method, converter: Converter, hyperparameters: dict[str, Any], config_fields: dict[str, Any]
) -> dict[str, Any]:
    """Return config fields that the caller gave, checked by name."""
    ours = {one.name for one in dataclasses.fields(cast(Any, method.config_class))}  # every config is a dataclass
    for names, known in ((hyperparameters, ours | set(converter.hyperparameter_names)), (config_fields, ours)):
        for name in names:
            if name not in known:
                hint = near_matches(name, sorted(known), count=1)
                raise ConversionError(f"{method.title} has no hyper-parameter {name!r}.{hint}")
    fields = converter.fields_of_hyperparameters(hyperparameters)
    for name, value in config_fields.items():
        if value is not None and fields.setdefault(name, value) != value:
            raise ConversionError(f"{name}={value!r} contradicts the hyper-parameters, which give {fields[name]!r}.")
    return fields


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error.__cause__


def _check_agreement(given: Mapping[str, Any], of_shapes: Mapping[str, Any]) -> None:
    contradictions = [
        f"{name}={given[name]!r} was given, but the parameters have {name}={value!r}"
        for name, value in of_shapes.items()
        if given.get(name, value) != value
    ]
    if contradictions:
        raise ConversionError(f"The hyper-parameters contradict the file: {'; '.join(contradictions)}.")


def _build(
    method: Method,
    kind: str,
    fields: Mapping[str, Any],
    encoder: Mapping[str, Tensor],
    heads: Mapping[str, Tensor],
) -> Any:
    """Return the model of this kind with the encoder's parameters and those of `heads` that it has."""
    model: Any = method.model_classes[kind](method.config_class(**fields))
    prefix = "" if kind == "model" else f"{model.base_model_prefix}."
    own = model.state_dict()
    parameters = {f"{prefix}{name}": value for name, value in encoder.items()}
    parameters |= {name: value for name, value in heads.items() if name in own}
    return load_converted(model, parameters)


def _left_out(official: Mapping[str, Tensor], converter: Converter, model: Any) -> list[str]:
    """Return the official names of layers after the encoder that the model does not have."""
    own = set(model.state_dict())
    # One parameter at a time: their names are wanted, and ours do not tell them.
    named = {key: set(converter.heads({key: value})) for key, value in official.items()}
    # A layer may have a place in each of several models.
    return sorted({key.rpartition(".")[0] for key, names in named.items() if names and not names & own})


def converted_class(folder: str | Path) -> str:
    """Return the name of the class that a converted folder holds; empty for a tokenizer's folder."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        return ""
    return str((json.loads(config.read_text(encoding="utf-8")).get("architectures") or [""])[0])


def _save(method: Method, model: Any, folder: Path, source: str) -> None:
    model.save_pretrained(folder)
    _save_card(method, model, folder, source)


def _save_card(method: Method, model: Any, folder: Path, source: str) -> None:
    card = build_model_card(model, method=method.name, converted_from=source, license="unknown")
    card.save(folder / "README.md")
