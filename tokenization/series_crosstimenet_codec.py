"""Many series of any length to codes and back: what CrossTimeNetTokenizer asks of the codec.

A series' codes depend on nothing that is computed beside it: not on the batch, not on padding, not on where a long
series is cut. Every piece sees as much of the past as the causal networks look back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F

from .codebook_vector_quantization import perplexity_of_counts
from .codec_crosstimenet import (
    STEPS_IN_CACHE,
    CrossTimeNetCodec,
    DomainCodec,
    device_of,
    last_true,
    patches_with_values,
)
from .configuration_crosstimenet_codec import CodecDomain
from .kernels_codes import distinct_codes, exact_codes, nearest_and_doubt
from .reading_time_series import check_batch

# Timestamps that go through the codec together: what a batch of a long series needs stays bounded.
STEPS_IN_CHUNK = 65_536


def codes_of_values(
    codec: CrossTimeNetCodec, place: int, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn a batch of series into codes; rows begin at their first timestamp with an observed value.

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
    check_batch(past_values, past_observed_mask, domain.num_input_channels, f"domain {domain.name!r}", 1)
    values = past_values.detach().to(torch.float32)
    if past_observed_mask is not None:
        values = values.masked_fill(~past_observed_mask.bool(), torch.nan)
    values = values.to(device_of(codec))
    num_patches = domain.num_patches(values.shape[1])
    fixed_length = domain.context_length or 0
    if values.shape[1] < fixed_length:
        # The published decoder takes one length only; its encoder does not mind a series that ends early.
        values = F.pad(values, (0, 0, 0, fixed_length - values.shape[1]), value=torch.nan)
    codec.observed_values(values, None, domain)  # checks the length
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


def align_series(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move every series to the left, so that it begins at its first timestamp with an observed value.

    Args:
        values: (batch_size, time, num_channels), NaN = missing.

    Returns:
        The series, the same shape, NaN after the end; their first timestamps (batch_size,); and the number of
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
    patch_length = network.domain.patch_length
    known = patches_with_values(~values.isnan(), network.domain)
    batch_size, num_patches = known.shape
    if num_patches > _patches_in_chunk(network):
        values = _carry_forward(values)  # a piece does not see what was observed long before
    codes = torch.empty(batch_size, num_patches, dtype=torch.int64, device=values.device)
    distinct, places = distinct_codes(network.codebook.codes)
    for rows, patches, past in _chunks(network, batch_size, num_patches):
        part = values[rows, (patches.start - past) * patch_length : patches.stop * patch_length]
        with torch.inference_mode(), torch.autocast(values.device.type, enabled=False):
            found = codes_of_series(network, part, distinct)
        codes[rows, patches] = found[:, past:]
    return places[codes], known


def codes_of_series(network: DomainCodec, values: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return the nearest codes of series, which no rounding decides; see kernels_codes.

    Args:
        network: The domain's networks, in evaluation mode.
        values: (batch_size, time, num_input_channels) float32, NaN = missing.
        codebook: Different codes (num_distinct, hidden_size).

    Returns:
        (batch_size, num_patches) int64 places in `codebook`.
    """
    rows = max(1, STEPS_IN_CACHE // values.shape[1])  # what is computed together stays in the cache
    found = []
    for part in values.split(rows):
        latents = network.latents(network.normalise(part, ~part.isnan()))
        sizes = latents.shape[:2]
        pair = nearest_and_doubt(latents.reshape(-1, latents.shape[-1]), codebook)
        found.append([one.view(sizes).t() for one in pair])
    codes, is_doubtful = (torch.cat(parts) for parts in zip(*found, strict=True))
    unsure = is_doubtful.any(1).nonzero().squeeze(1)
    if len(unsure):  # all of them together: the networks cost much for a few series
        precise = copy.deepcopy(network).double()
        for part in unsure.split(rows):
            latents = precise.latents(precise.normalise(values[part], ~values[part].isnan()))
            again = exact_codes(latents.reshape(-1, latents.shape[-1]), codebook)
            codes[part] = again.view(latents.shape[:2]).t()
    return codes


def _carry_forward(values: torch.Tensor) -> torch.Tensor:
    """Repeat the last observed value of a channel where it is missing; NaN stays before the first one."""
    return values.gather(1, last_true(~values.isnan()).clamp(min=0))


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
        (timestamps of its tokens, num_input_channels) float32 a series.

    Raises:
        ValueError: The decoder takes fewer tokens.
    """
    domain, mean = codec.config.codec_domains[place], codec.domain_codec(place).channel_mean
    lengths = [domain.num_steps(len(row)) for row in rows]
    rows = _completed(rows, domain)
    # In order of length little is padded, and what is padded after a series does not change it.
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


def decode_in_chunks(codec: CrossTimeNetCodec, codes: torch.Tensor, domain: str | int | None) -> torch.Tensor:
    """Turn codes into series.

    Args:
        codec: The codec; it is put in evaluation mode.
        codes: (batch_size, num_patches) int64.
        domain: Name or place of the domain.

    Returns:
        (batch_size, timestamps of so many tokens, num_input_channels) float32, in the units of the training series.

    Raises:
        ValueError: A code is out of range, or the decoder takes another number of tokens.
    """
    codec.eval()
    network = codec.domain_codec(domain)
    batch_size, num_patches = codes.shape
    described, patch_length = network.domain, network.domain.patch_length
    num_steps = described.num_steps(num_patches)
    values = torch.empty(batch_size, num_steps, described.num_input_channels, device=codes.device)
    for rows, patches, past in _chunks(network, batch_size, num_patches):
        part = codes[rows, patches.start - past : patches.stop]
        with torch.inference_mode(), torch.autocast(codes.device.type, enabled=False):
            found = codec.decode_codes(part, domain=domain)[:, past * patch_length :]
        first = patches.start * patch_length
        values[rows, first : first + found.shape[1]] = found
    return values


def fill_codes(codes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Repeat the code before one that is not known; the first known one before that, and code 0 if none is.

    Args:
        codes: (batch_size, num_patches) int64.
        known: The same shape, bool.
    """
    last = last_true(known)
    if codes.shape[1]:
        last = torch.where(last < 0, known.int().argmax(1, keepdim=True), last)
    return torch.where(known.any(1, keepdim=True), codes.gather(1, last), 0)


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
    return -(-network.encoder.num_past_steps // network.domain.patch_length)


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
        num_tokens = int((-(-num_steps // network.domain.patch_length)).clamp(1, codes.shape[1]).sum())
        self.num_series += len(values)
        self.num_values += len(errors)
        self.num_tokens += num_tokens
        self.num_missing_tokens += num_tokens - int(known.sum())
        self.squares += float(errors.square().sum())
        self.magnitudes += float(errors.abs().sum())
        self.normalised_squares += float(scaled.square().sum())
        self.counts += torch.bincount(codes[known].cpu(), minlength=len(self.counts))

    def report(self) -> dict[str, float | int]:
        """Return the measures by the names that CrossTimeNetTokenizer.evaluate explains.

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
