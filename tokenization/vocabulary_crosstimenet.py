"""The shared vocabulary of CrossTimeNet's tokenizer: special tokens, then the codes of one domain after the other."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import numpy as np

from .configuration_crosstimenet_codec import CodecDomain

_CODE = re.compile(r"<(?P<domain>[^<>\s]*)_(?P<code>0|[1-9][0-9]*)>")
_PIECES = re.compile(r"<[^<>\s]*>|[^<>\s]+|[<>]")


def split_tokens(text: str) -> list[str]:
    """Split text into tokens, with or without spaces between them."""
    return _PIECES.findall(text)


class CodeVocabulary:
    """Which id stands for which code of which domain.

    Ids never move: a new domain's come behind all others, also behind tokens that were added in the meantime.

    Args:
        special_tokens: The tokens with the ids 0, 1, ...
        domains: The domains in the order of their ids.
        first_ids: Id of every domain's code 0; None for one domain after the other.

    Raises:
        ValueError: The first ids do not fit the domains.
    """

    def __init__(
        self, special_tokens: Sequence[str], domains: Sequence[CodecDomain], first_ids: Sequence[int] | None = None
    ) -> None:
        self.special_tokens = list(special_tokens)
        self.domains: list[CodecDomain] = []
        self.first_ids: list[int] = []
        if first_ids is not None and len(first_ids) != len(domains):
            raise ValueError(f"There are {len(first_ids)} first_ids for {len(domains)} domains; give one a domain.")
        for place, domain in enumerate(domains):
            self.add(domain, self.next_id if first_ids is None else int(first_ids[place]))

    @property
    def next_id(self) -> int:
        """The first id behind all codes."""
        if not self.domains:
            return len(self.special_tokens)
        return self.first_ids[-1] + self.domains[-1].codebook_size

    @property
    def num_tokens(self) -> int:
        """Number of special tokens and codes."""
        return len(self.special_tokens) + sum(domain.codebook_size for domain in self.domains)

    def add(self, domain: CodecDomain, first_id: int) -> None:
        """Add a domain.

        Raises:
            ValueError: Its ids are not behind all others.
        """
        if first_id < self.next_id:
            raise ValueError(
                f"Domain {domain.name!r} begins at id {first_id}, but {self.next_id} is the first free one."
            )
        self.domains.append(domain)
        self.first_ids.append(first_id)

    def ids_of_tokens(self) -> dict[str, int]:
        """Return all tokens with their ids."""
        ids = {token: index for index, token in enumerate(self.special_tokens)}
        for domain, first_id in zip(self.domains, self.first_ids, strict=True):
            ids.update({f"<{domain.name}_{code}>": first_id + code for code in range(domain.codebook_size)})
        return ids

    def id_of(self, token: str) -> int:
        """Return the id of a token.

        Raises:
            ValueError: There is no such token; the message names it and what comes near.
        """
        if token in self.special_tokens:
            return self.special_tokens.index(token)
        match = _CODE.fullmatch(token)
        names = [domain.name for domain in self.domains]
        if match is None or match["domain"] not in names:
            raise ValueError(f"Unknown token {token!r}.{self._hint(token, match, names)}")
        place, code = names.index(match["domain"]), int(match["code"])
        size = self.domains[place].codebook_size
        if code >= size:
            raise ValueError(f"Unknown token {token!r}: domain {names[place]!r} has codes 0 to {size - 1}.")
        return self.first_ids[place] + code

    def _hint(self, token: str, match: re.Match[str] | None, names: list[str]) -> str:
        if match is not None:
            near = difflib.get_close_matches(match["domain"], names, n=1)
            guess = f" Did you mean '<{near[0]}_{match['code']}>'?" if near else ""
            return f"{guess} Domains: {', '.join(names) or 'none'}."
        near = difflib.get_close_matches(token, self.special_tokens, n=1, cutoff=0.5)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        examples = [*self.special_tokens, *(f"<{name}_0>" for name in names)]
        return f"{guess} Tokens look like {', '.join(examples)}."

    def token_of(self, index: int) -> str:
        """Return the token of an id.

        Raises:
            ValueError: There is no such id.
        """
        if 0 <= index < len(self.special_tokens):
            return self.special_tokens[index]
        places, codes = self.codes_of(np.asarray([index]))
        if places[0] < 0:
            raise ValueError(f"Id {index} stands for no token. {self.describe_ids()}")
        return f"<{self.domains[places[0]].name}_{codes[0]}>"

    def codes_of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of the domain and the code of ids of any shape; -1 for what is no code."""
        places = np.searchsorted(np.asarray(self.first_ids, dtype=np.int64), ids, side="right") - 1
        if not self.domains:
            return places, places
        codes = ids - np.asarray(self.first_ids)[places]
        sizes = np.asarray([domain.codebook_size for domain in self.domains])
        is_code = (places >= 0) & (codes < sizes[places])
        return np.where(is_code, places, -1), np.where(is_code, codes, -1)

    def describe_ids(self) -> str:
        """Say in a sentence which ids there are."""
        spans = [f"0 to {len(self.special_tokens) - 1} are special tokens"]
        for domain, first_id in zip(self.domains, self.first_ids, strict=True):
            spans.append(f"{first_id} to {first_id + domain.codebook_size - 1} codes of {domain.name!r}")
        return f"Ids {', '.join(spans)}."

    def __repr__(self) -> str:
        domains = ", ".join(
            f"{domain.name}: {domain.num_input_channels} channels, {domain.patch_length} timestamps a token, "
            f"{domain.codebook_size} codes from id {first_id}"
            for domain, first_id in zip(self.domains, self.first_ids, strict=True)
        )
        return f"domains=[{domains}]"
