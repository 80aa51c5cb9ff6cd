"""Domains by name: what a corpus is called among the domains of a model that reads several unlike corpora."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .corpus import CorpusError
from .known_corpora import SHORT_NAMES


@runtime_checkable
class KnowsDomains(Protocol):
    """The configuration of a model of the house, whatever copy of its code it was made by."""

    @property
    def domain_names(self) -> list[str]:
        """Names of the domains; empty for a method without."""

    def domain_index(self, domain: Any) -> int:
        """Return the place of a domain; None will do where there is only one."""


def domain_name(name: str) -> str:
    """Return the domain that a corpus is: its name without folder and ending, in lower case, with dashes.

    `sensor/HAR` is "har", `ucr/ECG5000` is "ecg5000", `sensor/Epilepsy_TSTCC` is "epilepsy-tstcc", `mine.csv` is
    "mine" and `owner/name:config` is "name-config".

    Args:
        name: Name or path of a corpus.

    Raises:
        CorpusError: The name has no letter and no digit.
    """
    last = Path(name.rstrip("/")).name
    endings = r"(\.(csv|tsv|ts|arff|npz|npy|parquet|feather|orc|xlsx|txt))?(\.(gz|bz2|xz|zip))?$"
    stem = re.sub(endings, "", last, flags=re.IGNORECASE)
    domain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    if not domain:
        raise CorpusError(f"The corpus {name!r} gives no name of a domain: it has no letter and no digit.")
    return domain


def domain_names(written: str, canonical: str) -> list[str]:
    """Return what the domain of a corpus may be called; the first is what it is called when it is new.

    Args:
        written: How the user named the corpus; empty for an object.
        canonical: Name in the corpus's metadata.

    Returns:
        Names without repetition: as written, by its full name, by its short name.
    """
    shorts = [short for short, full in SHORT_NAMES.items() if full == canonical]
    return list(dict.fromkeys(domain_name(name) for name in (written or canonical, canonical, *shorts)))


def find_domain(config: Any, given: str | None, written: str, canonical: str) -> str | None:
    """Return which of a model's domains a corpus is; None for a model without domains.

    Args:
        config: The model's configuration; None or one of another library has no domains.
        given: The domain as the user says it, which goes before the corpus's names. Where it is None and no domain is
            called like the corpus, the model's only domain is taken.
        written: See `domain_names`.
        canonical: See there.

    Returns:
        The domain's name.

    Raises:
        ValueError: There is no such domain, or several and none is called like the corpus; or a domain is given for a
            model without. The message names the domains.
    """
    known = config if isinstance(config, KnowsDomains) else None
    names = [] if known is None else known.domain_names
    if known is None or not names:
        if given is not None:
            method = "the model" if known is None else config.model_type
            raise ValueError(f"domain={given!r}: {method} has no domains; leave it out.")
        return None
    if given is None and len(names) > 1:
        given = next((name for name in domain_names(written, canonical) if name in names), None)
    return names[known.domain_index(given)]
