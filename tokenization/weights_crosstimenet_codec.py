"""Weights of CrossTimeNet's codec: from a file and into one, whether they can be right, and official checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from .codec_crosstimenet import CrossTimeNetCodec, DomainCodec, device_of
from .configuration_crosstimenet_codec import CodecDomain, CrossTimeNetCodecConfig, near_match_hint
from .files_time_series import draft_of, full_disk_named


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
    """Return a frozen codec with copies of all domains of a second one after those of the first.

    Raises:
        ValueError: Weights cannot be right.
    """
    weights, device = dict(codec.state_dict()), device_of(codec)
    known = codec.config.codec_domains
    for name, value in added.state_dict().items():
        prefix, place, rest = name.split(".", 2)
        weights[f"{prefix}.{len(known) + int(place)}.{rest}"] = value.detach().clone().to(device)
    return codec_of_weights([*known, *added.config.codec_domains], weights, "the codec")


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
    state = _state(codec)
    num_bytes = sum(value.numel() * value.element_size() for value in state.values())
    with draft_of(path) as draft, full_disk_named(path, num_bytes):
        mode = draft.stat().st_mode
        safetensors.torch.save_file(state, draft, metadata=metadata)
        draft.chmod(mode)  # safetensors writes for the owner alone
        draft.replace(path)


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


# The official implementation (github.com/Mingyue-Cheng/CrossTimeNet, TStokenizer/model.py): its names -> ours.
_OFFICIAL_NAMES = (
    ("enc.blocks.residual_blocks", "encoder.blocks"),
    ("dec.blocks.residual_blocks", "decoder.blocks"),
    ("enc.blocks.output", "encoder.output_projection"),
    ("dec.blocks.output", "decoder.output_projection"),
    ("enc.input_projection", "input_projection"),
    ("dec.output_projection", "output_projection"),
    (".conv1.", ".convolutions.0."),
    (".conv2.", ".convolutions.1."),
    (".ln1.", ".norms.0."),
    (".ln2.", ".norms.1."),
    ("quantize_input", "patch_projection"),
    ("quantize_output", "expansion"),
    ("quantize.embed_avg", "codebook.sums"),
    ("quantize.embed", "codebook.codes"),
    ("quantize.cluster_size", "codebook.counts"),
)
# Arguments of the official VQVAE, TCN, Quantize and MSE -> fields of a CodecDomain.
OFFICIAL_ARGUMENTS = {
    "hidden_dim": "hidden_size",
    "d_model": "hidden_size",
    "n_embed": "codebook_size",
    "block_num": "num_blocks",
    "wave_length": "patch_length",
    "dilations": "dilations",
    "kernel_size": "kernel_size",
    "enable_res_parameter": "gated_blocks",
    "dropout": "dropout",
    "decay": "codebook_decay",
    "eps": "codebook_epsilon",
    "latent_loss_weight": "commitment_weight",
}
# Parameters that the official code creates and no computation reads.
_UNUSED_PARAMETERS = re.compile(r"(enc|dec)\.blocks\.broadcast_head\.(weight|bias)")
_OFFICIAL_GATE = re.compile(r"(enc|dec)\.blocks\.residual_blocks\.\d+\.a")


def rename_official_codec_parameter(key: str) -> str:
    """Return our name, below a domain, of an official tokenizer's parameter."""
    for official, ours in _OFFICIAL_NAMES:
        key = key.replace(official, ours)
    return f"{key.removesuffix('.a')}.gate" if key.endswith(".a") else key


def convert_official_codec(
    state_dict: Mapping[str, torch.Tensor], name: str = "series", arguments: Mapping[str, Any] | None = None
) -> tuple[CodecDomain, dict[str, torch.Tensor]]:
    """Turn an official tokenizer's state dict into a domain of ours, with the published decoder for one length.

    Args:
        state_dict: Of the official VQVAE.
        name: What to call the domain.
        arguments: Official arguments, compared with the shapes that tell them: `data_shape` (length, channels),
            `beta`, and those of OFFICIAL_ARGUMENTS.

    Returns:
        The domain, and the parameters and buffers of a DomainCodec.

    Raises:
        ValueError: Parameters are missing, unknown or of shapes that do not fit each other, all of which are listed;
            or arguments are unknown or contradict the shapes.
    """
    given = _given_fields(arguments or {})
    official = {key: value for key, value in state_dict.items() if not _UNUSED_PARAMETERS.fullmatch(key)}
    if not given.get("gated_blocks", True):
        official = {key: value for key, value in official.items() if not _OFFICIAL_GATE.fullmatch(key)}
    dilations = given.get("dilations", (1, 4))
    of_shapes = _fields_of_shapes(official, len(dilations))
    faults = [
        f"{field}={value!r} was given, but the parameters have {field}={of_shapes[field]!r}"
        for field, value in given.items()
        if field in of_shapes and value != of_shapes[field]
    ]
    if faults:
        raise ValueError(f"The hyper-parameters contradict the file: {'; '.join(faults)}.")
    domain = CodecDomain.from_dict({"name": name, **of_shapes, **given})
    ours = {rename_official_codec_parameter(key): _converted_tensor(key, value) for key, value in official.items()}
    ours["channel_mean"] = torch.zeros(domain.num_input_channels)
    ours["channel_scale"] = torch.ones(domain.num_input_channels)
    _check_converted(domain, ours, official)
    return domain, {key: value.float() for key, value in ours.items()}


def _given_fields(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Turn official arguments into fields of a CodecDomain."""
    fields: dict[str, Any] = {}
    known = (*OFFICIAL_ARGUMENTS, "data_shape", "beta")  # 1 + beta multiplies a loss' value, never its gradient
    for name, value in arguments.items():
        if name not in known:
            raise ValueError(
                f"CrossTimeNet's tokenizer has no hyper-parameter {name!r}.{near_match_hint(name, known)}"
            )
        if value is None or name == "beta":
            continue
        found = {OFFICIAL_ARGUMENTS.get(name, ""): value}
        if name == "data_shape":
            found = dict(zip(("context_length", "num_input_channels"), value, strict=True))
        elif name == "dilations":
            found = {"dilations": tuple(value)}
        elif name == "enable_res_parameter":
            found = {"gated_blocks": bool(value)}
        for field, ours in found.items():
            if fields.setdefault(field, ours) != ours:
                raise ValueError(f"{name}={value!r} contradicts {field}={fields[field]!r}, also given.")
    return fields


def _fields_of_shapes(official: Mapping[str, torch.Tensor], num_dilations: int) -> dict[str, Any]:
    ranks = {
        "enc.input_projection.weight": 2,
        "enc.blocks.residual_blocks.0.conv1.weight": 4,
        "quantize_input.weight": 4,
        "quantize_output.weight": 3,
        "quantize.embed": 2,
    }
    missing = [key for key in ranks if key not in official]
    if missing:
        raise ValueError(f"This is no tokenizer of CrossTimeNet: {', '.join(missing)} is missing.")
    wrong = [f"{key} {tuple(official[key].shape)}" for key, rank in ranks.items() if official[key].ndim != rank]
    if wrong:
        raise ValueError(f"The sizes of the tokenizer cannot be told from {', '.join(wrong)}.")
    blocks = [re.match(r"enc\.blocks\.residual_blocks\.(\d+)\.", key) for key in official]
    num_residual_blocks = len({match[1] for match in blocks if match})
    length, num_tokens, _ = official["quantize_output.weight"].shape
    patch_length = official["quantize_input.weight"].shape[2]
    if length // patch_length != num_tokens or num_residual_blocks % num_dilations:
        raise ValueError(
            f"The sizes of the tokenizer contradict each other: {num_tokens} tokens of {patch_length} timestamps for "
            f"{length} timestamps, {num_residual_blocks} residual blocks in the encoder for {num_dilations} dilations."
        )
    return {
        "num_input_channels": official["enc.input_projection.weight"].shape[1],
        "patch_length": patch_length,
        "codebook_size": official["quantize.embed"].shape[1],
        "hidden_size": official["quantize.embed"].shape[0],
        "num_blocks": num_residual_blocks // num_dilations,
        "kernel_size": official["enc.blocks.residual_blocks.0.conv1.weight"].shape[3],
        "decoder": "fixed_length",
        "context_length": length,
    }


def _converted_tensor(key: str, value: torch.Tensor) -> torch.Tensor:
    if key in ("quantize.embed", "quantize.embed_avg"):
        return value.t().contiguous()
    if key == "quantize_input.weight":
        return value.flatten(1)
    if key == "quantize_output.weight":
        return value.squeeze(-1)
    return value.squeeze(2) if re.search(r"\.conv\d\.weight$", key) and value.ndim == 4 else value


def _check_converted(
    domain: CodecDomain, ours: Mapping[str, torch.Tensor], official: Mapping[str, torch.Tensor]
) -> None:
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in DomainCodec(domain).state_dict().items()}
    names = {rename_official_codec_parameter(key): key for key in official}
    faults = [f"missing: {key}" for key in sorted(set(expected) - set(ours))]
    faults += [f"unknown: {names[key]}" for key in sorted(set(ours) - set(expected))]
    faults += [
        f"{names.get(key, key)} has shape {tuple(value.shape)}, our {key} {expected[key]}"
        for key, value in ours.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    faults += [f"{names.get(key, key)} is not finite" for key, value in ours.items() if not value.isfinite().all()]
    if faults:
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"The parameters are not those of a tokenizer: {'; '.join(faults[:8])}{more}.")
