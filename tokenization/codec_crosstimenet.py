"""CrossTimeNet's codec: series to codes and back (Cheng et al., WSDM 2025, arXiv 2403.12372, section 3.2).

Every domain has networks and a codebook of its own, because domains differ in channels, scale and speed:
series -> causal dilated encoder -> one vector a patch -> nearest code -> decoder -> series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .codebook_vector_quantization import Codebook, commitment_loss, perplexity_of_counts, straight_through
from .configuration_crosstimenet_codec import CodecDomain, CrossTimeNetCodecConfig, near_match_hint
from .layers_causal_convolution import CausalConvolution, CausalConvolutionNetwork, GatedResidualBlock
from .reading_time_series import observed_values

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
            if module.gate is not None:
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
        raise ValueError(
            f"Unknown domain {domain!r}.{near_match_hint(domain, names)} Domains: {', '.join(names) or 'none'}."
        )

    def domain_codec(self, domain: str | int | None) -> DomainCodec:
        """Return networks and codebook of a domain, by its name or place; None will do where there is only one."""
        return cast(DomainCodec, self.domains[self.domain_index(domain)])

    def add_domain(self, domain: CodecDomain | Mapping[str, Any]) -> None:
        """Add a domain with fresh weights after the others, which keep their places.

        Raises:
            ValueError: The name is taken, or a field is out of its range.
        """
        described = CodecDomain.from_dict(domain)
        config = CrossTimeNetCodecConfig(domains=[*(self.config.domains or []), described.to_dict()])
        # Through a codec of its own, whose post_init draws the published initialisation for the new weights alone.
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
        length = past_values.shape[1]
        reconstruction = network.reconstruct(straight_through(latents, quantised))[:, :length]
        known = patches_with_values(observed, network.domain).t()
        reconstruction_error = reconstruction_loss(reconstruction, values[:, :length], observed)
        commitment = commitment_loss(latents, quantised, known)
        # A patch without a value would teach the codebook what was filled in.
        used = known.reshape(-1)
        counts = torch.bincount(indices[used], minlength=len(network.codebook.codes))
        if self.training:
            network.codebook.update(flat[used], indices[used], generator)
        output = CrossTimeNetCodecOutput(
            loss=reconstruction_error + network.domain.commitment_weight * commitment,
            reconstruction_loss=reconstruction_error,
            commitment_loss=commitment,
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
        return torch.cat(parts), patches_with_values(observed, network.domain)

    def decode_codes(
        self, codes: torch.Tensor, domain: str | int | None = None, length: int | None = None
    ) -> torch.Tensor:
        """Turn codes into series.

        Args:
            codes: (batch_size, num_patches) int64 indices into the domain's codebook.
            domain: Name or place of the domain; None where there is only one.
            length: Number of timestamps to return; None for all that the tokens stand for.

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
        taker = f"domain {domain.name!r}"
        observed = observed_values(past_values, past_observed_mask, domain.num_input_channels, taker, 1)
        fixed = domain.context_length
        if fixed is not None and past_values.shape[1] != fixed:
            raise ValueError(
                f"A series has {past_values.shape[1]} timestamps, but domain {domain.name!r} has the published "
                f"decoder for {fixed}; a domain with decoder='any_length' takes any number."
            )
        return observed


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
        blocks = (domain.num_blocks, domain.dropout, domain.dilations, domain.kernel_size, domain.gated_blocks)
        self.encoder = CausalConvolutionNetwork(hidden_size, *blocks)
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
        self.decoder = CausalConvolutionNetwork(hidden_size, *blocks)
        self.output_projection = nn.Linear(hidden_size, num_channels)

    def normalise(self, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Scale by the domain's statistics, fill what is missing and add missing steps up to a whole patch."""
        values = (values - self.channel_mean) / self.channel_scale
        beyond = self.domain.num_patches(values.shape[1]) * self.domain.patch_length - values.shape[1]
        if beyond > 0:
            values, observed = F.pad(values, (0, 0, 0, beyond)), F.pad(observed, (0, 0, 0, beyond))
        return fill_missing(values, observed).to(self.input_projection.weight.dtype)

    def latents(self, values: torch.Tensor) -> torch.Tensor:
        """Encode the patches of normalised values: (num_patches, batch_size, hidden_size)."""
        hidden = self.encoder(self.input_projection(values.transpose(0, 1)))
        length, batch_size, hidden_size = hidden.shape
        # What is left over after the last whole patch has no token in the published model.
        hidden = hidden[: length // self.domain.patch_length * self.domain.patch_length]
        patches = hidden.view(-1, self.domain.patch_length, batch_size, hidden_size).transpose(1, 2)
        return self.patch_projection(patches.reshape(-1, batch_size, self.domain.patch_length * hidden_size))

    def reconstruct(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Decode (num_patches, batch_size, hidden_size) to normalised (batch_size, time, num_input_channels)."""
        return self.output_projection(self.decoder(self.expansion(embeddings))).transpose(0, 1)


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


def reconstruction_loss(reconstruction: torch.Tensor, values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the observed values (paper, section 3.2): a scalar, 0 where there is none.

    Args:
        reconstruction: (batch_size, time, num_channels).
        values: The same shape, finite everywhere.
        observed: The same shape, bool.
    """
    error = torch.where(observed, reconstruction.float() - values.float(), 0.0)
    return error.square().sum() / observed.float().sum().clamp(min=1)


def patches_with_values(observed: torch.Tensor, domain: CodecDomain) -> torch.Tensor:
    """Tell which patches hold an observed value.

    Args:
        observed: (batch_size, time, num_channels) bool.
        domain: Gives the patches.

    Returns:
        (batch_size, num_patches) bool.
    """
    num_patches = domain.num_patches(observed.shape[1])
    # Padding below zero cuts off: what is left over after the last whole patch has no token in the published model.
    steps = F.pad(observed.any(-1), (0, num_patches * domain.patch_length - observed.shape[1]))
    return steps.view(len(observed), num_patches, domain.patch_length).any(-1)


def fill_missing(values: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Repeat the last observed value of a channel where it is missing; 0, the mean, before the first one.

    Args:
        values: (batch_size, time, num_channels), normalised.
        observed: The same shape, bool.
    """
    if not torch.compiler.is_compiling() and bool(observed.all()):
        return values
    last = last_true(observed)
    filled = torch.where(observed, values, 0.0).gather(1, last.clamp(min=0))
    return torch.where(last < 0, 0.0, filled)


def last_true(mask: torch.Tensor) -> torch.Tensor:
    """Return, for every place on the second axis, the last place up to it where the mask is true, or -1."""
    places = torch.arange(mask.shape[1], device=mask.device).view(1, -1, *[1] * (mask.ndim - 2))
    return torch.where(mask, places, -1).cummax(dim=1).values if mask.shape[1] else places.expand_as(mask)


def device_of(codec: CrossTimeNetCodec) -> torch.device:
    """Return where a codec is; the CPU for one without domains."""
    return next((value.device for value in codec.parameters()), torch.device("cpu"))


CrossTimeNetCodec.register_for_auto_class("AutoModel")
