"""CrossTimeNet's codec in bytes and in a file: written whole or not at all, and refused when it cannot be right."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from .codec_crosstimenet import CrossTimeNetCodec
from .configuration_crosstimenet_codec import CodecDomain, CrossTimeNetCodecConfig


def codec_of_weights(
    domains: Sequence[CodecDomain], weights: Mapping[str, torch.Tensor], source: str
) -> CrossTimeNetCodec:
    """Build a frozen codec in float32; no random number is drawn.

    Args:
        domains: Its domains.
        weights: State of the codec; the tensors are taken over without a copy where they fit.
        source: Where the weights come from, for messages.

    Returns:
        The codec in evaluation mode, without gradients.

    Raises:
        ValueError: Weights lack, are too many, have another shape, are not finite; or a codebook holds no codes.
    """
    with torch.device("meta"):
        codec = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=[domain.to_dict() for domain in domains]))
    _check_names_and_shapes(codec.state_dict(), weights, domains, source)
    codec.load_state_dict({name: value.detach().float() for name, value in weights.items()}, assign=True)
    check_codec(codec, source)
    return codec.eval().requires_grad_(False)


def fresh_codec(domains: Sequence[CodecDomain]) -> CrossTimeNetCodec:
    """Build a frozen codec with new weights, drawn from torch's global generator."""
    config = CrossTimeNetCodecConfig(domains=[domain.to_dict() for domain in domains])
    return CrossTimeNetCodec(config).eval().requires_grad_(False)


def joined_codec(codec: CrossTimeNetCodec, added: CrossTimeNetCodec) -> CrossTimeNetCodec:
    """Return a frozen codec with copies of all domains of a second one behind those of the first.

    Raises:
        ValueError: Weights cannot be right; see codec_of_weights.
    """
    weights, device = dict(codec.state_dict()), device_of(codec)
    known = codec.config.codec_domains
    for name, value in added.state_dict().items():
        prefix, place, rest = name.split(".", 2)
        weights[f"{prefix}.{len(known) + int(place)}.{rest}"] = value.detach().clone().to(device)
    return codec_of_weights([*known, *added.config.codec_domains], weights, "the codec")


def device_of(codec: CrossTimeNetCodec) -> torch.device:
    """Return where a codec is; the CPU for one without domains."""
    return next((value.device for value in codec.parameters()), torch.device("cpu"))


def _check_names_and_shapes(
    expected: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    domains: Sequence[CodecDomain],
    source: str,
) -> None:
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not known" for name in weights if name not in expected]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        names = ", ".join(domain.name for domain in domains) or "none"
        more = f" and {len(problems) - 3} more problems" if len(problems) > 3 else ""
        raise ValueError(
            f"The weights in {source} do not fit the domains ({names}): {'; '.join(problems[:3])}{more}. Save or "
            "download codec.safetensors and tokenizer_config.json together."
        )


def check_codec(codec: CrossTimeNetCodec, source: str) -> None:
    """Refuse a codec whose weights cannot be right.

    Args:
        codec: The codec.
        source: Where its weights come from, for messages.

    Raises:
        ValueError: Weights are not finite, a scale is not above 0, or a codebook holds no codes.
    """
    for domain in codec.config.codec_domains:
        network = codec.domain_codec(domain.name)
        codes = network.codebook.codes
        if not bool(codes.isfinite().all()) or not bool(codes.any()):
            found = "only zeros" if bool(codes.isfinite().all()) else "values that are not finite"
            raise ValueError(
                f"The codebook of domain {domain.name!r} in {source} holds {found}; train the tokenizer again, with a "
                "codebook that begins at latents (codebook_initialization 'kmeans' or 'data')."
            )
        wrong = [name for name, value in network.state_dict().items() if not bool(value.isfinite().all())]
        if wrong:
            raise ValueError(f"Weights of domain {domain.name!r} in {source} are not finite: {', '.join(wrong)}.")
        if not bool((network.channel_scale > 0).all()):
            raise ValueError(f"Domain {domain.name!r} in {source} has a channel_scale that is not above 0.")


def codec_to_bytes(codec: CrossTimeNetCodec) -> bytes:
    """Return the weights of a codec in the format of safetensors; equal weights give equal bytes."""
    return safetensors.torch.save(_state(codec))


def codec_from_bytes(domains: Sequence[CodecDomain], content: bytes) -> CrossTimeNetCodec:
    """Return the codec of codec_to_bytes."""
    return codec_of_weights(domains, safetensors.torch.load(content), "the pickled tokenizer")


def save_codec(codec: CrossTimeNetCodec, path: str | Path) -> None:
    """Write a codec to a file, which appears complete or stays as it was.

    Args:
        codec: The codec.
        path: The file; its folder exists.
    """
    path = Path(path)
    metadata = {"format": "pt", "domains": json.dumps([domain.to_dict() for domain in codec.config.codec_domains])}
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(descriptor)
    try:
        safetensors.torch.save_file(_state(codec), draft, metadata=metadata)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(draft, 0o666 & ~mask)  # a temporary file is for its owner alone
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def load_codec(path: str | Path, domains: Sequence[CodecDomain] | None) -> CrossTimeNetCodec:
    """Read a codec from a file.

    Args:
        path: The file.
        domains: The domains that it must hold, in order; None for those that it names.

    Returns:
        The codec, frozen.

    Raises:
        ValueError: The file cannot be read, was cut off, names other domains, or its weights cannot be right. The
            message names the file and the fix.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); it is damaged or was cut off. Download or save the "
            "tokenizer again."
        ) from error
    named = [CodecDomain.from_dict(one) for one in json.loads(metadata["domains"])] if "domains" in metadata else None
    if domains is None:
        if named is None:
            raise ValueError(f"{path} names no domains; its tokenizer_config.json must hold them as `domains`.")
        domains = named
    if named is not None and list(domains) != named:
        raise ValueError(
            f"{path} holds the domains {_names(named)}, but tokenizer_config.json describes {_names(domains)}, or "
            "other sizes; the files belong to different tokenizers. Save or download them together."
        )
    return codec_of_weights(domains, weights, str(path))


def _names(domains: Sequence[CodecDomain]) -> str:
    return ", ".join(domain.name for domain in domains) or "none"


def _state(codec: CrossTimeNetCodec) -> dict[str, torch.Tensor]:
    return {name: value.detach().float().cpu().contiguous().clone() for name, value in codec.state_dict().items()}
