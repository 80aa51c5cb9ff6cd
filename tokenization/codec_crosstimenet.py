"""CrossTimeNet's codec: series to codes and back (Cheng et al., WSDM 2025, arXiv 2403.12372, section 3.2).

Every domain has networks and a codebook of its own, because domains differ in channels, scale and speed:
series -> causal dilated encoder -> one vector a patch -> nearest code -> decoder -> series.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .codebook_vector_quantization import Codebook, perplexity_of_counts
from .configuration_crosstimenet_codec import CodecDomain, CrossTimeNetCodecConfig
from .layers_causal_convolution import KERNEL_SIZE, CausalConvolution, CausalConvolutionNetwork, GatedResidualBlock

# Timestamps that go through the encoder together when codes are asked for: their activations stay in the cache.
STEPS_IN_CACHE = 16_384


@dataclass
class CrossTimeNetCodecOutput(ModelOutput):
    """What the codec makes of a batch of one domain.

    Args:
        loss: Scalar: reconstruction_loss + commitment_weight * commitment_loss.
        reconstruction_loss: Mean squared error over the observed values, of normalised series; a scalar.
        commitment_loss: Mean squared distance of a latent to its code; a scalar.
        codebook_perplexity: How many codes the batch uses, as if evenly; a scalar.
        reconstruction: (batch_size, sequence_length, num_input_channels), in the units of the input.
        codes: (batch_size, num_patches) int64 indices into the domain's codebook.
        latents: (batch_size, num_patches, hidden_size), before quantisation.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    codebook_perplexity: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    latents: torch.Tensor | None = None


def fill_missing(values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Repeat the last observed value of a channel where it is missing; 0, the mean, before the first one.

    Args:
        values: (batch_size, time, num_channels), normalised.
        observed: The same shape, bool.
    """
    if not torch.compiler.is_compiling() and bool(observed.all()):
        return values
    steps = torch.arange(values.shape[1], device=values.device).view(1, -1, 1)
    last = torch.where(observed, steps, -1).cummax(dim=1).values
    filled = torch.where(observed, values, 0.0).gather(1, last.clamp(min=0))
    return torch.where(last < 0, 0.0, filled)


class PatchExpansion(nn.Module):
    """The any-length decoder's first step: every token becomes its timestamps, by one map for all positions.

    Args:
        hidden_size: Width.
        patch_length: Number of timestamps of a token.
    """

    def __init__(self, hidden_size: int, patch_length: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, patch_length * hidden_size)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map (num_patches, batch_size, hidden_size) to (num_patches * patch_length, batch_size, hidden_size)."""
        num_patches, batch_size, hidden_size = embeddings.shape
        steps = self.projection(embeddings).view(num_patches, batch_size, -1, hidden_size)
        return steps.transpose(1, 2).reshape(-1, batch_size, hidden_size)


class TokenMixing(nn.Module):
    """The published decoder's first step: timestamps as weighted sums of all tokens; for one number of tokens.

    Args:
        num_patches: Number of tokens.
        num_steps: Number of timestamps.
    """

    def __init__(self, num_patches: int, num_steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_steps, num_patches))
        self.bias = nn.Parameter(torch.empty(num_steps))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Map (num_patches, batch_size, hidden_size) to (num_steps, batch_size, hidden_size)."""
        num_patches, batch_size, hidden_size = embeddings.shape
        mixed = F.linear(embeddings.reshape(num_patches, -1).t(), self.weight, self.bias)
        return mixed.t().reshape(-1, batch_size, hidden_size)


class DomainCodec(nn.Module):
    """Networks and codebook of one domain; series are (batch_size, time, num_input_channels).

    Args:
        domain: Sizes.
    """

    channel_mean: torch.Tensor
    channel_scale: torch.Tensor

    def __init__(self, domain: CodecDomain) -> None:
        super().__init__()
        self.domain = domain
        hidden_size, num_channels = domain.hidden_size, domain.num_input_channels
        self.register_buffer("channel_mean", torch.zeros(num_channels))
        self.register_buffer("channel_scale", torch.ones(num_channels))
        self.input_projection = nn.Linear(num_channels, hidden_size)
        self.encoder = CausalConvolutionNetwork(hidden_size, domain.num_blocks, domain.dropout)
        self.patch_projection = nn.Linear(domain.patch_length * hidden_size, hidden_size)
        self.codebook = Codebook(
            domain.codebook_size,
            hidden_size,
            domain.codebook_decay,
            domain.codebook_epsilon,
            domain.dead_code_threshold,
        )
        self.expansion: nn.Module
        if domain.decoder == "fixed_length":
            length = cast(int, domain.context_length)
            self.expansion = TokenMixing(domain.num_patches(length), length)
        else:
            self.expansion = PatchExpansion(hidden_size, domain.patch_length)
        self.decoder = CausalConvolutionNetwork(hidden_size, domain.num_blocks, domain.dropout)
        self.output_projection = nn.Linear(hidden_size, num_channels)

    def normalise(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Scale by the domain's statistics, fill what is missing and add missing steps up to a whole patch."""
        values = (values - self.channel_mean) / self.channel_scale
        beyond = -values.shape[1] % self.domain.patch_length
        if beyond:
            values, observed = F.pad(values, (0, 0, 0, beyond)), F.pad(observed, (0, 0, 0, beyond))
        return fill_missing(values, observed).to(self.input_projection.weight.dtype)

    def latents(self, values: torch.Tensor) -> torch.Tensor:
        """Encode whole patches of normalised values: (num_patches, batch_size, hidden_size)."""
        hidden = self.encoder(self.input_projection(values.transpose(0, 1)))
        _, batch_size, hidden_size = hidden.shape
        patches = hidden.view(-1, self.domain.patch_length, batch_size, hidden_size).transpose(1, 2)
        return self.patch_projection(patches.reshape(-1, batch_size, self.domain.patch_length * hidden_size))

    def reconstruct(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Decode (num_patches, batch_size, hidden_size) to normalised (batch_size, time, num_input_channels)."""
        return self.output_projection(self.decoder(self.expansion(embeddings))).transpose(0, 1)


class CrossTimeNetCodec(PreTrainedModel):
    """The codecs of all domains.

    Args:
        config: The domains.
    """

    config: CrossTimeNetCodecConfig
    config_class = CrossTimeNetCodecConfig
    base_model_prefix = "codec"
    main_input_name = "past_values"
    input_modalities = ("time",)  # type: ignore[assignment]  # transformers' own models have a tuple here too

    def __init__(self, config: CrossTimeNetCodecConfig) -> None:
        super().__init__(config)
        self.domains = nn.ModuleList(DomainCodec(domain) for domain in config.codec_domains)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The published initialisation: Xavier normal and a bias of 0.1 for linear maps, PyTorch's own for the rest.
        if isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)
            init.constant_(module.bias, 0.1)
        elif isinstance(module, (CausalConvolution, TokenMixing)):
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, GatedResidualBlock):
            init.constant_(module.gate, 1e-8)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Codebook):
            bound = (6.0 / module.codes.shape[0]) ** 0.5
            init.uniform_(module.codes, -bound, bound)
            init.copy_(module.sums, module.codes)
            init.zeros_(module.counts)
        elif isinstance(module, DomainCodec):
            init.zeros_(module.channel_mean)
            init.ones_(module.channel_scale)

    def domain_index(self, domain: str | int | None) -> int:
        """Return the place of a domain; None will do where there is only one.

        Raises:
            ValueError: There is no such domain, or None is not enough. The message names the near matches.
        """
        names = [one["name"] for one in self.config.domains or []]
        if domain is None:
            if len(names) == 1:
                return 0
            raise ValueError(f"The codec has {len(names)} domains; name one: domain={' or '.join(map(repr, names))}.")
        if isinstance(domain, int) and not isinstance(domain, bool) and 0 <= domain < len(names):
            return domain
        if domain in names:
            return names.index(cast(str, domain))
        near = difflib.get_close_matches(str(domain), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown domain {domain!r}.{hint} Domains: {', '.join(names) or 'none'}.")

    def domain_codec(self, domain: str | int | None) -> DomainCodec:
        """Return networks and codebook of a domain; see domain_index."""
        return cast(DomainCodec, self.domains[self.domain_index(domain)])

    def add_domain(self, domain: CodecDomain | Mapping[str, Any]) -> None:
        """Add a domain with fresh weights behind the others, which keep their places.

        Raises:
            ValueError: The name is taken, or a field is out of its range.
        """
        described = CodecDomain.from_dict(domain)
        config = CrossTimeNetCodecConfig(domains=[*(self.config.domains or []), described.to_dict()])
        added = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=[described.to_dict()])).domains[0]
        self.domains.append(added.to(self.device, self.dtype).train(self.training))
        self.config.domains = config.domains

    def forward(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> CrossTimeNetCodecOutput | tuple[torch.Tensor, ...]:
        """Encode, quantise, decode and compare; in training mode the codebook then moves by one step.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            past_observed_mask: The same shape, True = observed, or None.
            domain: Name or place of the domain; None where there is only one.
            generator: Source of the latents that replace dead codes, on the CPU; None for torch's global one.
            return_dict: Whether to return a CrossTimeNetCodecOutput instead of a tuple.

        Returns:
            Loss, its terms, reconstruction and codes.

        Raises:
            ValueError: A shape does not fit, or the domain is unknown.
        """
        network = self.domain_codec(domain)
        observed = self.observed_values(past_values, past_observed_mask, network.domain)
        values = network.normalise(past_values, observed)
        latents = network.latents(values)
        flat = latents.reshape(-1, latents.shape[-1])
        indices = network.codebook(flat)
        quantised = network.codebook.look_up(indices).view_as(latents).to(latents.dtype)
        # Straight-through: the decoder sees the code, the encoder gets its gradient (van den Oord et al., eq. 3).
        straight = latents + (quantised - latents).detach()
        length = past_values.shape[1]
        reconstruction = network.reconstruct(straight)[:, :length]
        known = self._patches_with_values(observed, network.domain).t()
        weight = observed.float()
        error = torch.where(observed, reconstruction.float() - values[:, :length].float(), 0.0)
        reconstruction_loss = error.square().sum() / weight.sum().clamp(min=1)
        distance = (latents.float() - quantised.float().detach()).square().mean(-1)
        commitment_loss = (distance * known).sum() / known.sum().clamp(min=1)
        used = known.reshape(-1)
        counts = torch.bincount(indices[used], minlength=len(network.codebook.codes))
        if self.training:
            network.codebook.update(flat[used], indices[used], generator)
        output = CrossTimeNetCodecOutput(
            loss=reconstruction_loss + network.domain.commitment_weight * commitment_loss,
            reconstruction_loss=reconstruction_loss,
            commitment_loss=commitment_loss,
            codebook_perplexity=perplexity_of_counts(counts),
            reconstruction=reconstruction * network.channel_scale + network.channel_mean,
            codes=indices.view(latents.shape[:2]).t(),
            latents=latents.transpose(0, 1),
        )
        return output if return_dict is not False else output.to_tuple()

    def encode_codes(
        self,
        past_values: torch.Tensor,
        past_observed_mask: torch.Tensor | None = None,
        domain: str | int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn series into codes.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing. The encoder is causal: what
                follows a patch, padding too, does not change its code.
            past_observed_mask: The same shape, True = observed, or None.
            domain: Name or place of the domain; None where there is only one.

        Returns:
            codes (batch_size, num_patches) int64, and which patches hold an observed value, the same shape, bool.

        Raises:
            ValueError: A shape does not fit, or the domain is unknown.
        """
        network = self.domain_codec(domain)
        observed = self.observed_values(past_values, past_observed_mask, network.domain)
        rows = len(past_values) if self.training else max(1, STEPS_IN_CACHE // past_values.shape[1])
        parts = []
        for values, known in zip(past_values.split(rows), observed.split(rows), strict=True):
            latents = network.latents(network.normalise(values, known))
            parts.append(network.codebook(latents.reshape(-1, latents.shape[-1])).view(latents.shape[:2]).t())
        return torch.cat(parts), self._patches_with_values(observed, network.domain)

    def decode_codes(
        self, codes: torch.Tensor, domain: str | int | None = None, length: int | None = None
    ) -> torch.Tensor:
        """Turn codes into series.

        Args:
            codes: (batch_size, num_patches) int64 indices into the domain's codebook.
            domain: Name or place of the domain; None where there is only one.
            length: Number of timestamps to return; None for num_patches * patch_length.

        Returns:
            (batch_size, length, num_input_channels), in the units of the training series.

        Raises:
            ValueError: A code is out of range, or the decoder takes another number of tokens.
        """
        network = self.domain_codec(domain)
        size = network.domain.codebook_size
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            wrong = int(codes.min()) if int(codes.min()) < 0 else int(codes.max())
            raise ValueError(
                f"Code {wrong} is out of range: domain {network.domain.name!r} has codes 0 to {size - 1}."
            )
        if network.domain.decoder == "fixed_length":
            expected = network.domain.num_patches(cast(int, network.domain.context_length))
            if codes.shape[1] != expected:
                raise ValueError(
                    f"Domain {network.domain.name!r} has the published decoder for {expected} tokens, but got "
                    f"{codes.shape[1]}; a domain with decoder='any_length' takes any number."
                )
        if not codes.shape[1]:
            return network.channel_mean.expand(codes.shape[0], 0, -1)
        values = network.reconstruct(network.codebook.look_up(codes.t()).to(self.dtype))
        return (values * network.channel_scale + network.channel_mean)[:, :length]

    def observed_values(
        self, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None, domain: CodecDomain
    ) -> torch.Tensor:
        """Return which values are observed: neither NaN nor masked out.

        Raises:
            ValueError: A shape does not fit. The message names it and what was expected.
        """
        expected = domain.num_input_channels
        if past_values.ndim != 3 or past_values.shape[-1] != expected or not past_values.shape[1]:
            raise ValueError(
                f"past_values has shape {tuple(past_values.shape)}; domain {domain.name!r} takes (batch_size, "
                f"sequence_length of at least 1, num_input_channels={expected})."
            )
        fixed = domain.context_length
        if fixed is not None and past_values.shape[1] != fixed:
            raise ValueError(
                f"A series has {past_values.shape[1]} timestamps, but domain {domain.name!r} has the published "
                f"decoder for {fixed}; a domain with decoder='any_length' takes any number."
            )
        observed = ~past_values.isnan()
        if past_observed_mask is None:
            return observed
        if past_observed_mask.shape != past_values.shape:
            raise ValueError(
                f"past_observed_mask has shape {tuple(past_observed_mask.shape)}, but past_values "
                f"{tuple(past_values.shape)}; they must be equal."
            )
        return observed & past_observed_mask.bool()

    @staticmethod
    def _patches_with_values(observed: torch.Tensor, domain: CodecDomain) -> torch.Tensor:
        """Tell which patches hold an observed value: (batch_size, num_patches) bool."""
        padded = F.pad(observed.any(-1), (0, -observed.shape[1] % domain.patch_length))
        return padded.view(len(observed), -1, domain.patch_length).any(-1)


CrossTimeNetCodec.register_for_auto_class("AutoModel")


# Differences of scores that rounding can make, as a share of the norms; float32 made at most 6e-7 of it.
_FLOAT32_DOUBT, _FLOAT64_DOUBT = 1e-6, 1e-13
_GROUPS = 32


def distinct_codes(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave out codes that equal another one.

    Args:
        codes: (codebook_size, hidden_size).

    Returns:
        The different codes (num_distinct, hidden_size), and the first place (num_distinct,) of each.
    """
    distinct, group = torch.unique(codes, dim=0, return_inverse=True)
    places = torch.arange(len(codes), device=codes.device)
    first = torch.full((len(distinct),), len(codes), device=codes.device)
    return distinct, first.scatter_reduce(0, group, places, "amin")


def exact_codes(network: DomainCodec, values: torch.Tensor, distinct: torch.Tensor) -> torch.Tensor:
    """Return the nearest codes of series.

    Args:
        network: The domain's networks, in evaluation mode.
        values: (batch_size, time, num_input_channels) float32, NaN = missing.
        distinct: Different codes (num_distinct, hidden_size).

    Returns:
        (batch_size, num_patches) int64 places in `distinct`.
    """
    rows = max(1, STEPS_IN_CACHE // values.shape[1])  # what is computed together stays in the cache
    found = [_nearest(network, part, distinct, _FLOAT32_DOUBT) for part in values.split(rows)]
    codes, doubtful = (torch.cat(parts) for parts in zip(*found, strict=True))
    unsure = doubtful.any(1).nonzero().squeeze(1)
    if len(unsure):
        precise = copy.deepcopy(network).double()
        for part in unsure.split(rows):
            codes[part], _ = _nearest(precise, values[part], distinct.double(), _FLOAT64_DOUBT)
    return codes


def _nearest(
    network: DomainCodec, values: torch.Tensor, distinct: torch.Tensor, doubt: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest codes, and which are in doubt, (batch_size, num_patches) each."""
    latents = network.latents(network.normalise(values, ~values.isnan()))
    shape = latents.shape[:2]
    latents = latents.reshape(-1, latents.shape[-1])
    # As in nearest_codes: the nearest code has the largest product minus half its own square.
    beyond = -len(distinct) % _GROUPS
    squares = F.pad(-0.5 * distinct.square().sum(1), (0, beyond), value=-torch.inf)
    scores = torch.addmm(squares, latents, F.pad(distinct, (0, 0, 0, beyond)).t())
    tolerance = doubt * latents.norm(dim=1) * distinct.norm(dim=1).amax()
    codes, count = _best_and_near(scores, tolerance)
    doubtful = count > 1
    if bool(doubtful.any()):
        codes[doubtful] = scores[doubtful].argmax(1)  # of equal ones the first
    return codes.view(shape).t(), doubtful.view(shape).t()


def _best_and_near(scores: torch.Tensor, tolerance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of the largest scores, and how many come near them.

    The scores are read once, for the largest of every group of places with one remainder; the rest looks at groups.

    Args:
        scores: (num_rows, num_places), num_places a multiple of the number of groups.
        tolerance: (num_rows,) what counts as near.

    Returns:
        (num_rows,) int64 each. The count is exact where it is 1, and else at least 2.
    """
    by_group = scores.view(len(scores), -1, _GROUPS)
    largest = by_group.amax(1)
    best, group = largest.max(1)
    nearly = (best - tolerance).unsqueeze(1)
    members = by_group.gather(2, group.view(-1, 1, 1).expand(-1, by_group.shape[1], 1)).squeeze(2)
    count = (largest >= nearly).sum(1) + (members >= nearly).sum(1) - 1
    return members.argmax(1) * _GROUPS + group, count


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


# Timestamps that go through the codec together.
STEPS_IN_CHUNK = 65_536


def align_series(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move every series to the left, so that it begins at its first timestamp with an observed value.

    Args:
        values: (batch_size, time, num_channels), NaN = missing.

    Returns:
        The series, the same shape, NaN behind the end; their first timestamps (batch_size,); and the number of
        timestamps from the first to the last observed one (batch_size,), 0 without any.
    """
    length = values.shape[1]
    if is_complete(values):
        first = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        return values, first, torch.full_like(first, length)
    observed = ~values.isnan().all(-1)
    first = observed.int().argmax(1)
    num_steps = (length - observed.flip(1).int().argmax(1) - first) * observed.any(1)
    if bool(first.any()):
        steps = torch.arange(length, device=values.device) + first.unsqueeze(1)
        moved = values.gather(1, steps.clamp(max=length - 1).unsqueeze(-1).expand_as(values))
        values = moved.masked_fill((steps >= length).unsqueeze(-1), torch.nan)
    return values, first, num_steps


def is_complete(values: torch.Tensor) -> bool:
    """Return whether no value is missing; a sum tells it in one pass. False is no promise: the sum may overflow."""
    return bool(values.sum().isfinite())


def encode_in_chunks(
    codec: CrossTimeNetCodec, values: torch.Tensor, domain: str | int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn series into codes.

    Args:
        codec: The codec; it is put in evaluation mode.
        values: (batch_size, time, num_input_channels) float32, NaN = missing.
        domain: Name or place of the domain.

    Returns:
        codes (batch_size, num_patches) int64, which do not depend on the other series of the batch; and which patches
        hold an observed value, the same shape, bool.
    """
    codec.eval()
    network = codec.domain_codec(domain)
    batch_size, length, _ = values.shape
    patch_length = network.domain.patch_length
    num_patches = network.domain.num_patches(length)
    observed = torch.nn.functional.pad(~values.isnan().all(-1), (0, num_patches * patch_length - length))
    known = observed.view(batch_size, num_patches, patch_length).any(-1)
    if num_patches > _patches_in_chunk(network):
        values = _carry_forward(values)  # a piece does not see what was observed long before
    codes = torch.empty(batch_size, num_patches, dtype=torch.int64, device=values.device)
    distinct, places = distinct_codes(network.codebook.codes)
    for rows, patches, past in _chunks(network, batch_size, num_patches):
        part = values[rows, (patches.start - past) * patch_length : patches.stop * patch_length]
        with torch.inference_mode(), torch.autocast(values.device.type, enabled=False):
            found = exact_codes(network, part, distinct)
        codes[rows, patches] = found[:, past:]
    return places[codes], known


def decode_in_chunks(codec: CrossTimeNetCodec, codes: torch.Tensor, domain: str | int | None) -> torch.Tensor:
    """Turn codes into series.

    Args:
        codec: The codec; it is put in evaluation mode.
        codes: (batch_size, num_patches) int64.
        domain: Name or place of the domain.

    Returns:
        (batch_size, num_patches * patch_length, num_input_channels) float32, in the units of the training series.

    Raises:
        ValueError: A code is out of range, or the decoder takes another number of tokens.
    """
    codec.eval()
    network = codec.domain_codec(domain)
    batch_size, num_patches = codes.shape
    patch_length = network.domain.patch_length
    values = torch.empty(
        batch_size, num_patches * patch_length, network.domain.num_input_channels, device=codes.device
    )
    for rows, patches, past in _chunks(network, batch_size, num_patches):
        part = codes[rows, patches.start - past : patches.stop]
        with torch.inference_mode(), torch.autocast(codes.device.type, enabled=False):
            found = codec.decode_codes(part, domain=domain)
        values[rows, patches.start * patch_length : patches.stop * patch_length] = found[:, past * patch_length :]
    return values


def fill_codes(codes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Repeat the code before one that is not known; the first known one before that, and code 0 if none is.

    Args:
        codes: (batch_size, num_patches) int64.
        known: The same shape, bool.
    """
    places = torch.arange(codes.shape[1], device=codes.device)
    last = torch.where(known, places, -1).cummax(1).values if codes.shape[1] else places.expand_as(codes)
    if codes.shape[1]:
        last = torch.where(last < 0, known.int().argmax(1, keepdim=True), last)
    return torch.where(known.any(1, keepdim=True), codes.gather(1, last), 0)


def _carry_forward(values: torch.Tensor) -> torch.Tensor:
    """Repeat the last observed value of a channel where it is missing; NaN stays before the first one."""
    steps = torch.arange(values.shape[1], device=values.device).view(1, -1, 1)
    last = torch.where(values.isnan(), 0, steps).cummax(dim=1).values
    return values.gather(1, last)


def _chunks(network: DomainCodec, batch_size: int, num_patches: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield rows and patches to compute together, and how many patches before them must be seen."""
    width = min(num_patches, _patches_in_chunk(network)) if num_patches else 0
    rows = max(1, STEPS_IN_CHUNK // max(1, width * network.domain.patch_length))
    for first_row in range(0, batch_size if width else 0, rows):
        for first in range(0, num_patches, width):
            past = min(first, _past_patches(network))
            yield slice(first_row, first_row + rows), slice(first, min(first + width, num_patches)), past


def _patches_in_chunk(network: DomainCodec) -> int:
    if network.domain.decoder == "fixed_length":  # it mixes all tokens and cannot be cut
        return network.domain.num_patches(cast(int, network.domain.context_length))
    # Pieces as long as the past that they see again would double the work.
    return max(4 * _past_patches(network), STEPS_IN_CHUNK // network.domain.patch_length, 1)


def _past_patches(network: DomainCodec) -> int:
    """Return how many patches before its own a token depends on, and a decoded patch likewise."""
    convolutions = [one for one in network.encoder.modules() if isinstance(one, CausalConvolution)]
    steps = sum((KERNEL_SIZE - 1) * one.dilation for one in convolutions)
    return network.domain.num_patches(steps)


@dataclass
class ReconstructionQuality:
    """Sums over series that are added batch by batch.

    Args:
        codec: The codec.
        domain: Name or place of the domain.
    """

    codec: CrossTimeNetCodec
    domain: str | int
    num_series: int = 0
    num_values: int = 0
    num_tokens: int = 0
    num_missing_tokens: int = 0
    squares: float = 0.0
    magnitudes: float = 0.0
    normalised_squares: float = 0.0
    counts: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no code seen."""
        self.counts = torch.zeros(self.codec.domain_codec(self.domain).domain.codebook_size, dtype=torch.int64)

    def add(self, values: torch.Tensor) -> None:
        """Tokenise series, turn the tokens back and compare.

        Args:
            values: (batch_size, time, num_input_channels) float32, NaN = missing.
        """
        network = self.codec.domain_codec(self.domain)
        values, _, num_steps = align_series(values.to(device_of(self.codec)))
        codes, known = encode_in_chunks(self.codec, values, self.domain)
        found = decode_in_chunks(self.codec, fill_codes(codes, known), self.domain)[:, : values.shape[1]]
        errors = (found - values).double()
        observed = ~values.isnan()
        scaled = (errors / network.channel_scale.double())[observed]
        errors = errors[observed]
        num_tokens = int((-(-num_steps // network.domain.patch_length)).clamp(min=1).sum())
        self.num_series += len(values)
        self.num_values += len(errors)
        self.num_tokens += num_tokens
        self.num_missing_tokens += num_tokens - int(known.sum())
        self.squares += float(errors.square().sum())
        self.magnitudes += float(errors.abs().sum())
        self.normalised_squares += float(scaled.square().sum())
        self.counts += torch.bincount(codes[known].cpu(), minlength=len(self.counts))

    def report(self) -> dict[str, float | int]:
        """Return the measures; see CrossTimeNetTokenizer.evaluate.

        Raises:
            ValueError: No value was observed.
        """
        if not self.num_values:
            raise ValueError(
                f"None of the {self.num_series} series has an observed value; there is nothing to compare."
            )
        return {
            "mse": self.squares / self.num_values,
            "mae": self.magnitudes / self.num_values,
            "normalised_mse": self.normalised_squares / self.num_values,
            "codebook_use": int((self.counts > 0).sum()) / len(self.counts),
            "codebook_perplexity": float(perplexity_of_counts(self.counts)),
            "num_series": self.num_series,
            "num_values": self.num_values,
            "num_tokens": self.num_tokens,
            "num_missing_tokens": self.num_missing_tokens,
        }


def codes_of_values(
    codec: CrossTimeNetCodec, place: int, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn a batch of series into codes; see CrossTimeNetTokenizer.tokenize_values.

    Args:
        codec: The codec.
        place: Place of the domain.
        past_values: (batch_size, time, num_input_channels), NaN = missing.
        past_observed_mask: The same shape, True = observed, or None.

    Returns:
        codes (batch_size, num_patches) int64; which patches hold an observed value, and which are real, the same
        shape, bool; and the first observed timestamps (batch_size,). On the device of past_values.

    Raises:
        ValueError: A shape does not fit, or an observed value is infinite.
    """
    domain = codec.config.codec_domains[place]
    device = past_values.device
    values = past_values.detach().to(torch.float32)
    if past_observed_mask is not None:
        if past_observed_mask.shape != past_values.shape:
            raise ValueError(
                f"past_observed_mask has shape {tuple(past_observed_mask.shape)}, but past_values "
                f"{tuple(past_values.shape)}; they must be equal."
            )
        values = values.masked_fill(~past_observed_mask.bool(), torch.nan)
    values = values.to(device_of(codec))
    num_patches = domain.num_patches(values.shape[1]) if values.ndim > 1 else 0
    fixed_length = domain.context_length or 0
    if values.ndim == 3 and 0 < values.shape[1] < fixed_length:
        # The published decoder takes one length only; its encoder does not mind a series that ends early.
        values = F.pad(values, (0, 0, 0, fixed_length - values.shape[1]), value=torch.nan)
    codec.observed_values(values, None, domain)  # checks the shape
    if not is_complete(values) and bool(values.isinf().any()):
        row, step, channel = values.isinf().nonzero()[0].tolist()
        raise ValueError(
            f"Series {row} is infinite at timestamp {step}, channel {channel}; write NaN for a missing value."
        )
    values, first_steps, num_steps = align_series(values)
    codes, known = encode_in_chunks(codec, values, place)
    counts = (-(-num_steps // domain.patch_length)).clamp(min=1)
    attention = torch.arange(codes.shape[1], device=codes.device) < counts.unsqueeze(1)
    found = (codes, known & attention, attention)
    codes, known, attention = (one[:, :num_patches].to(device) for one in found)
    return codes, known, attention, first_steps.to(device)


@torch.no_grad()
def series_of_codes(codec: CrossTimeNetCodec, place: int, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Turn rows of codes into series.

    Args:
        codec: The codec.
        place: Place of the domain.
        rows: Codes (num_patches,) of every series, -1 = unknown: taken to be the code before it; the mean of every
            channel where no code of the row is known. For the published decoder, which takes one number of tokens,
            what a shorter row lacks is unknown.

    Returns:
        (num_patches * patch_length, num_input_channels) float32 a series.

    Raises:
        ValueError: The decoder takes fewer tokens.
    """
    domain, mean = codec.config.codec_domains[place], codec.domain_codec(place).channel_mean
    lengths = [len(row) * domain.patch_length for row in rows]
    rows = _completed(rows, domain)
    # In order of length little is padded, and what is padded behind a series does not change it.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    series = [np.empty((0, domain.num_input_channels), dtype=np.float32)] * len(rows)
    size = max(1, STEPS_IN_CHUNK // max(1, domain.patch_length * max(map(len, rows), default=1)))
    # The published decoder takes one number of tokens, which padding must not hide.
    groups = _groups_of_length(order, rows) if domain.decoder == "fixed_length" else [order]
    for chosen in (group[start : start + size] for group in groups for start in range(0, len(group), size)):
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(rows[index]) for index in chosen], batch_first=True, padding_value=-1
        )
        codes = padded.to(device_of(codec))
        known = codes >= 0
        values = decode_in_chunks(codec, fill_codes(codes, known), place)
        values = torch.where(known.any(1).view(-1, 1, 1), values, mean).cpu()
        for index, found in zip(chosen, values, strict=True):
            series[index] = found[: lengths[index]].numpy().copy()
    return series


def _completed(rows: Sequence[np.ndarray], domain: CodecDomain) -> list[np.ndarray]:
    """Return the rows, short ones completed by unknown codes to the number of tokens that the decoder takes."""
    fewest = domain.num_patches(domain.context_length or 0)
    missing = [max(0, fewest - len(row)) for row in rows]
    return [np.pad(row, (0, more), constant_values=-1) for row, more in zip(rows, missing, strict=True)]


def _groups_of_length(order: Sequence[int], rows: Sequence[np.ndarray]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index in order:
        groups.setdefault(len(rows[index]), []).append(index)
    return list(groups.values())
