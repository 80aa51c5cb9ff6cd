"""Checks of the token ids that CrossTimeNet's models are given."""

from __future__ import annotations

import torch

from .configuration_crosstimenet import CrossTimeNetConfig


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
