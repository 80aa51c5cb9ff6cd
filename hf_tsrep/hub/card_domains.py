"""What a card says of the domains of a model that reads several unlike corpora, and the series that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINDOW_LENGTH = 50
_USUAL_LENGTH = 200


@dataclass(frozen=True)
class ShownSeries:
    """The series of a card's lines of code.

    Args:
        num_channels: Number of raw channels.
        length: Number of steps.
        domain: Name of the domain that it is of; None for a model without domains.
        argument: What the lines tell the model besides the series: `, domain="..."` where it has several domains.
    """

    num_channels: int
    length: int
    domain: str | None
    argument: str

    @property
    def num_windows(self) -> int:
        """Number of windows of WINDOW_LENGTH steps."""
        return -(-self.length // WINDOW_LENGTH)


def shown_series(config: Any, extractor: Mapping[str, Any] | None, domain: str | None) -> ShownSeries:
    """Choose the series of a card's lines of code.

    Args:
        config: The model's.
        extractor: Content of preprocessor_config.json, or None.
        domain: Domain that the model was trained for last, or None where that is not known.

    Returns:
        Its domain is the one given, else the one with a head, else the first.

    Raises:
        ValueError: The model has no such domain.
    """
    domains = list_domains(config)
    if not domains:
        channels = extractor["num_channels"] if extractor else config.num_input_channels
        return ShownSeries(channels, _USUAL_LENGTH, None, "")
    with_head = [one for one in domains if "num_labels" in one]
    described = domains[config.domain_index(domain)] if domain is not None else (with_head or domains)[0]
    length = _USUAL_LENGTH
    if getattr(config, "classifier", "") == "flatten":  # a head for series of one length
        num_tokens = described.get("num_tokens") or config.num_tokens
        length = num_tokens * described["patch_length"] if num_tokens else length
    argument = f', domain="{described["name"]}"' if len(domains) > 1 else ""
    return ShownSeries(described["num_input_channels"], length, described["name"], argument)


def list_domains(config: Any) -> list[dict[str, Any]]:
    """Return the entries of a config's domains; none for a method without domains."""
    return list(getattr(config, "domains", None) or [])


def describe_input(config: Any) -> str:
    """Return the words for what a model takes, such as "a series of 3 input channels"."""
    domains = list_domains(config)
    if len(domains) > 1:
        channels = ", ".join(f"{one['name']} with {_channels(one['num_input_channels'])}" for one in domains)
        return f"a series of one of its {len(domains)} domains ({channels})"
    return f"a series of {_channels(config.num_input_channels, 'input ')}"


def _channels(number: int, which: str = "") -> str:
    return f"{number} {which}channel{'' if number == 1 else 's'}"
