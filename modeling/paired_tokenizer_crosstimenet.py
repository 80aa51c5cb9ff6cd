"""The tokenizer of a CrossTimeNet model: where it lies, and whether it is the one that the model learnt with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import cached_file

from .configuration_crosstimenet import CrossTimeNetConfig, domains_of_tokenizer

SETTINGS_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (SETTINGS_FILE, "codec.safetensors")
# What from_pretrained was told of where a model lies, and the tokenizer beside it.
_PLACE_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
_SIZES = ("name", "first_id", "codebook_size", "num_input_channels", "patch_length")


@dataclass(frozen=True)
class TokenizerPlace:
    """Where a model was loaded from, beside which its tokenizer lies.

    Args:
        name_or_path: Absolute path of a folder, or id on the Hub.
        options: Arguments of from_pretrained, such as revision.
    """

    name_or_path: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name_or_path: str | os.PathLike, arguments: Mapping[str, Any]) -> TokenizerPlace:
        """Remember what from_pretrained was given: a folder by its absolute path, which a change of folder leaves."""
        place = os.fspath(name_or_path)
        options = {name: arguments[name] for name in _PLACE_ARGUMENTS if arguments.get(name) is not None}
        return cls(os.path.abspath(place) if os.path.isdir(place) else place, options)

    def holds_tokenizer(self) -> bool:
        """Whether there is any file of a tokenizer.

        Raises:
            OSError: It is no folder, and the Hub cannot be asked or does not have it.
        """
        if os.path.isdir(self.name_or_path):
            folder = Path(self.name_or_path, self.options.get("subfolder", ""))
            return any((folder / name).is_file() for name in TOKENIZER_FILES)
        return any(map(self._is_on_hub, TOKENIZER_FILES))

    def _is_on_hub(self, name: str) -> bool:
        options = {key: value for key, value in self.options.items() if key != "force_download"}
        try:
            return cached_file(self.name_or_path, name, **options) is not None
        except OSError as error:
            if error.__cause__ is None:  # the repository was looked at; otherwise the error has a cause
                return False
            raise

    def load(self, owner: type) -> Any:
        """Load the tokenizer.

        Args:
            owner: Class of the model: who trusted its code trusts the code of the tokenizer beside it.

        Raises:
            ValueError: There is none, or it cannot be loaded; the message says which and why.
        """
        trusted = owner.__module__.startswith("transformers_modules")
        try:
            with torch.inference_mode(False):
                return AutoTokenizer.from_pretrained(
                    self.name_or_path, trust_remote_code=trusted or None, **self.options
                )
        except (OSError, ValueError, ImportError, TypeError, KeyError, AttributeError) as error:
            reason = f"{SETTINGS_FILE} is no JSON: {error}" if isinstance(error, json.JSONDecodeError) else error
            problem = "cannot load the" if self._seems_to_hold_one() else "found no"
            raise ValueError(
                f"{owner.__name__} {problem} tokenizer to read series with beside its checkpoint {self.name_or_path} "
                f"({reason}); call model.set_tokenizer(tokenizer), or pass input_ids."
            ) from error

    def _seems_to_hold_one(self) -> bool:
        try:
            return self.holds_tokenizer()
        except OSError:
            return False


def check_common_domains(config: CrossTimeNetConfig, tokenizer: Any) -> list[dict[str, Any]]:
    """Check that the tokenizer's first domains are those of the model, with the weights that it learnt with.

    Args:
        config: The model's configuration.
        tokenizer: A CrossTimeNetTokenizer, which may have more domains.

    Returns:
        Its domains, as CrossTimeNetConfig.domains has them.

    Raises:
        ValueError: It is no tokenizer, lacks a domain or has another one. The message names the first that differs.
    """
    if not all(hasattr(tokenizer, name) for name in ("tokenize_values", "domains", "first_id", "fingerprint")):
        hint = f" AutoTokenizer.from_pretrained({tokenizer!r}) loads one." if isinstance(tokenizer, str) else ""
        raise ValueError(f"A model reads series with a CrossTimeNetTokenizer, not a {type(tokenizer).__name__}.{hint}")
    ours, theirs = config.domains or [], domains_of_tokenizer(tokenizer)
    for place, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        wrong = [f"{key}={other[key]!r} instead of {own[key]!r}" for key in _SIZES if own[key] != other[key]]
        if wrong:
            raise ValueError(f"The tokenizer's domain {place} has {', '.join(wrong)}; it belongs to another model.")
    if len(theirs) < len(ours):
        names = ", ".join(one["name"] for one in ours[len(theirs) :])
        raise ValueError(
            f"The tokenizer has {len(theirs)} domains and the model {len(ours)}; the difference: {names}. Take the "
            "tokenizer that the model was trained with, such as the one beside its checkpoint."
        )
    for place, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        known = own.get("tokenizer_fingerprint")
        if known is not None and known != other["tokenizer_fingerprint"]:
            raise ValueError(
                f"The tokenizer's domain {own['name']!r} has other weights than the one that the model was made for: "
                "equal ids mean other series. Take the tokenizer beside the model's checkpoint; for a model that is "
                f"to learn the new ids, first call model.config.domains[{place}].pop('tokenizer_fingerprint')."
            )
    return theirs


def paired_domains(config: CrossTimeNetConfig, tokenizer: Any) -> list[dict[str, Any]]:
    """Check that a tokenizer is the model's, and return the model's domains with the tokenizer's fingerprints.

    Raises:
        ValueError: See check_common_domains; or it has more domains or tokens than the model.
    """
    ours, theirs = config.domains or [], check_common_domains(config, tokenizer)
    if len(theirs) > len(ours):
        names = ", ".join(one["name"] for one in theirs[len(ours) :])
        raise ValueError(
            f"The tokenizer has {len(theirs)} domains and the model {len(ours)}; the difference: {names}. "
            "model.add_domains(tokenizer) gives the model those that it lacks."
        )
    if len(tokenizer) > int(config.vocab_size or 0):
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model embeddings of {config.vocab_size}: tokens were "
            "added to it. model.add_domains(tokenizer) gives the model those that it lacks."
        )
    return [
        {**own, "tokenizer_fingerprint": other["tokenizer_fingerprint"]}
        for own, other in zip(ours, theirs, strict=True)
    ]
