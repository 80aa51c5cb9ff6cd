"""Which domain of a model a protocol reads a corpus in, and how it is told to `encode` and to the record."""

from __future__ import annotations

from typing import Any

from ..data import corpus_metadata
from ..data.domains import find_domain


def choose_domain(model: Any, corpus: Any, domain: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Choose the domain by the option, else by the corpus's name; the only one where there is one.

    Args:
        model: anything with `encode`; its `config`, where it has one, tells the domains.
        corpus: DatasetDict, which knows its name.
        domain: what the protocol was told, or None.

    Returns:
        What `encode` is given besides: the domain where the model has domains, else nothing. And what goes into the
        settings of the result: the domain where the model has several, of which one had to be chosen.

    Raises:
        ValueError: see `hf_tsrep.data.domains.find_domain`.
    """
    config: Any = getattr(model, "config", None)
    chosen = find_domain(config, domain, "", corpus_metadata(corpus).name)
    if chosen is None:
        return {}, {}
    told = {"domain": chosen}
    return told, told if len(config.domains) > 1 else {}
