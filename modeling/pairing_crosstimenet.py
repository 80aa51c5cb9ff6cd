"""What a CrossTimeNet model and its tokenizer must agree on: where the tokenizer lies, its domains, and the ids."""

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

# As transformers' collators mark tokens that nothing is asked of.
NO_LABEL = -100
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

    def holds_tokenizer_to_save(self, is_own: bool) -> bool:
        """Whether there is a tokenizer that must be saved with the model.

        Args:
            is_own: Whether the model's weights were loaded from here.

        Raises:
            ValueError: They were, and whether there is one cannot be told.
        """
        try:
            return self.holds_tokenizer()
        except OSError as error:
            if not is_own:
                return False
            raise ValueError(
                f"Whether there is a tokenizer beside the checkpoint {self.name_or_path} cannot be told ({error}), "
                "and the model would be saved without it. Make it available again, or call "
                "model.set_tokenizer(tokenizer) before saving."
            ) from error

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

    Args:
        config: The model's configuration.
        tokenizer: A CrossTimeNetTokenizer.

    Returns:
        The domains as CrossTimeNetConfig.domains has them.

    Raises:
        ValueError: As check_common_domains; or it has more domains or tokens than the model.
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


def check_token_ids(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, config: CrossTimeNetConfig) -> None:
    """Refuse ids of a wrong shape or kind, or out of range; values are not looked at while a model is compiled.

    Args:
        input_ids: (batch_size, num_tokens), whole numbers.
        attention_mask: (batch_size, num_tokens) or None.
        config: Gives the number of ids.

    Raises:
        ValueError: The message names what was given and what was expected.
    """
    is_whole = not (input_ids.is_floating_point() or input_ids.is_complex() or input_ids.dtype == torch.bool)
    if input_ids.ndim != 2 or not is_whole:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)} and {input_ids.dtype}; it must be (batch, tokens) int64."
        )
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, but input_ids {tuple(input_ids.shape)}; "
            "they must be equal."
        )
    if torch.compiler.is_compiling():
        return
    if not input_ids.numel():
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; give at least one row of at least one token (a series "
            f"without any observed value is one mask token, id {config.mask_token_id})."
        )
    low, high = (int(one) for one in input_ids.aminmax())
    most = int(config.vocab_size or 0) - 1
    if low < 0 or high > most:
        raise ValueError(
            f"input_ids has {low if low < 0 else high}; the model's ids are 0 to {most}. Was another tokenizer used?"
        )


def check_owner(input_ids: torch.Tensor, config: CrossTimeNetConfig, place: int) -> None:
    """Refuse codes of another domain than the one that was named; special tokens and added ones are of any domain.

    Args:
        input_ids: (batch_size, num_tokens) int64.
        config: Gives the domains.
        place: Place of the domain that was named.

    Raises:
        ValueError: The message names an id and its domain.
    """
    if torch.compiler.is_compiling():
        return
    domains = config.domains or []
    first = domains[place]["first_id"]
    for owner, described in enumerate(domains):
        start = described["first_id"]
        foreign = input_ids[(input_ids >= start) & (input_ids < start + described["codebook_size"])]
        if owner != place and len(foreign):
            raise ValueError(
                f"input_ids has {int(foreign[0])}, a code of domain {described['name']!r}, but "
                f"domain={domains[place]['name']!r} was named, whose codes are {first} to "
                f"{first + domains[place]['codebook_size'] - 1}; name the domain that the ids are of."
            )


def check_labels(
    labels: torch.Tensor, input_ids: torch.Tensor | None, mask: torch.Tensor | None, config: CrossTimeNetConfig
) -> None:
    """Refuse labels that do not fit.

    Args:
        labels: (batch_size, num_tokens) int64: what is to be recovered, NO_LABEL where nothing is asked.
        input_ids: The same shape, or what was given in its place.
        mask: The mask that was given, or None.
        config: Gives the ids.

    Raises:
        ValueError: Labels are given without ids or with a mask, have another shape or kind than the ids, or ask for
            an id that is never predicted.
    """
    if input_ids is None or input_ids.is_floating_point() or mask is not None:
        raise ValueError(
            "labels are for input_ids in which tokens are hidden already; leave them out for series and with a mask."
        )
    if labels.shape != input_ids.shape or labels.is_floating_point():
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and {labels.dtype}, but input_ids {tuple(input_ids.shape)}; they "
            "must be equal, and whole numbers."
        )
    wanted = labels[labels != NO_LABEL]
    never = torch.isin(
        wanted, torch.tensor(list(config.never_predicted_ids), dtype=labels.dtype, device=labels.device)
    )
    wrong = wanted[never | (wanted < 0) | (wanted >= int(config.vocab_size or 0))]
    if len(wrong):
        raise ValueError(
            f"labels has {int(wrong[0])}, which the model never predicts; write {NO_LABEL} where nothing is asked."
        )
