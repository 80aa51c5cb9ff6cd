"""Configuration of CrossTimeNet's codec: one small vector-quantising autoencoder a domain."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers import PreTrainedConfig

DECODERS = ("any_length", "fixed_length")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def near_match_hint(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return " Did you mean 'x'?" where a known name is near, to put after what is wrong; else nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class CodecDomain:
    """A domain: series of one kind, with a codebook of their own.

    Args:
        name: Lower-case letters, digits and dashes; the domain's tokens are `<NAME_0>`, `<NAME_1>`, ...
        num_input_channels: Number of channels of a series.
        patch_length: Number of timestamps that one token stands for.
        codebook_size: Number of codes.
        hidden_size: Width of the networks and of a code.
        num_blocks: How often the residual blocks of all dilations follow each other, in encoder and decoder alike.
        dilations: Dilation of the first convolution of every residual block; the second has twice as much.
        kernel_size: Number of taps of a convolution.
        gated_blocks: Whether what a residual block adds is multiplied with a learnt number that starts near 0.
        dropout: Dropout probability in the residual blocks.
        decoder: "any_length", which turns every token into its timestamps with one map for all positions, or
            "fixed_length", the published one, which mixes the tokens with one weight a pair of token and timestamp.
        context_length: Number of timestamps of every series; for "fixed_length" only, at least patch_length. What is
            left over after the last whole patch has no token, as published; the decoder returns it nevertheless.
        codebook_decay: Decay of the moving averages that are the codebook.
        codebook_epsilon: Laplace smoothing of the codes' counts.
        commitment_weight: Weight of the commitment loss.
        dead_code_threshold: A code whose moving count falls below it is replaced by a latent of the batch; 0 never
            replaces one, as published.

    Raises:
        ValueError: A field is out of its range. The message names the domain, the field, the value and the range.
    """

    name: str
    num_input_channels: int
    patch_length: int
    codebook_size: int = 512
    hidden_size: int = 64
    num_blocks: int = 4
    dilations: tuple[int, ...] = (1, 4)
    kernel_size: int = 3
    gated_blocks: bool = True
    dropout: float = 0.1
    decoder: str = "any_length"
    context_length: int | None = None
    codebook_decay: float = 0.99
    codebook_epsilon: float = 1e-5
    commitment_weight: float = 0.25
    dead_code_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"A domain is called {self.name!r}; take lower-case letters, digits and dashes, such as 'har'."
            )
        for field in (
            "num_input_channels",
            "patch_length",
            "codebook_size",
            "hidden_size",
            "num_blocks",
            "kernel_size",
        ):
            if not _is_count(getattr(self, field)):
                self._refuse(field, "a whole number of at least 1")
        if (
            not isinstance(self.dilations, list | tuple)
            or not self.dilations
            or not all(map(_is_count, self.dilations))
        ):
            self._refuse("dilations", "one or more whole numbers of at least 1, such as [1, 4]")
        object.__setattr__(self, "dilations", tuple(self.dilations))  # a list in a file of JSON
        if not isinstance(self.gated_blocks, bool):
            self._refuse("gated_blocks", "true or false")
        for field in ("dropout", "codebook_decay"):
            if not 0.0 <= self._number(field) < 1.0:
                self._refuse(field, "at least 0 and below 1")
        for field in ("codebook_epsilon", "commitment_weight", "dead_code_threshold"):
            if not self._number(field) >= 0.0:
                self._refuse(field, "at least 0")
        self._check_decoder()

    def _check_decoder(self) -> None:
        if self.decoder not in DECODERS:
            self._refuse("decoder", f"one of {', '.join(DECODERS)}")
        if self.decoder == "fixed_length":
            if not _is_count(self.context_length) or self.num_patches(int(self.context_length or 0)) < 1:
                self._refuse("context_length", f"at least patch_length={self.patch_length} for this decoder")
        elif self.context_length is not None:
            self._refuse("context_length", "None: the decoder takes any length")

    def _number(self, field: str) -> float:
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._refuse(field, "a number")
        return value

    def _refuse(self, field: str, expected: str) -> None:
        raise ValueError(f"Domain {self.name!r}: {field} is {getattr(self, field)!r}; it must be {expected}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | CodecDomain) -> CodecDomain:
        """Read a domain from a mapping.

        Raises:
            ValueError: No mapping; an unknown or missing field, with the near match; or a value out of its range.
        """
        if isinstance(values, CodecDomain):
            return values
        if not isinstance(values, Mapping):
            raise ValueError(
                f"A domain is a CodecDomain or a mapping of its fields, such as {{'name': 'har', "
                f"'num_input_channels': 9, 'patch_length': 8}}; got {values!r}."
            )
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"Domain {values.get('name')!r} has no field {name!r}.{near_match_hint(name, known)}")
        missing = [name for name in ("name", "num_input_channels", "patch_length") if name not in values]
        if missing:
            raise ValueError(f"Domain {values.get('name')!r} lacks {', '.join(missing)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "dilations": list(self.dilations)}

    def num_patches(self, length: int) -> int:
        """Return how many tokens a series of `length` timestamps has; the last may stand for fewer timestamps."""
        tokens = -(-length // self.patch_length)
        return tokens if self.context_length is None else min(tokens, self.context_length // self.patch_length)

    def num_steps(self, num_patches: int) -> int:
        """Return how many timestamps so many tokens are decoded to; the published decoder adds what is left over."""
        if self.context_length is not None and num_patches == self.num_patches(self.context_length):
            return self.context_length
        return num_patches * self.patch_length


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class CrossTimeNetCodecConfig(PreTrainedConfig):
    """Configuration of CrossTimeNetCodec.

    Args:
        domains: The fields of a CodecDomain for each domain. Their order is the order of the tokens' ids and never
            changes; a new domain comes last.

    Raises:
        ValueError: Two domains have one name, or a field is out of its range.
    """

    model_type = "crosstimenet_codec"

    domains: list[dict[str, Any]] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the domains."""
        self.domains = [CodecDomain.from_dict(one).to_dict() for one in self.domains or []]
        names = [one["name"] for one in self.domains]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Several domains are called {', '.join(twice)}; every domain needs its own name.")
        super().__post_init__(**kwargs)

    @property
    def codec_domains(self) -> Sequence[CodecDomain]:
        """The domains in the order of their ids."""
        return [CodecDomain.from_dict(one) for one in self.domains or []]
