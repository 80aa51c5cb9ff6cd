"""Series of any number and length through CrossTimeNet's codec, in chunks of bounded size.

Encoder and decoder are causal and see a bounded past, so that a long series can be cut: every piece but the first is
given the past that its first patch sees, and the patches of that past are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch

from .codec_crosstimenet import CrossTimeNetCodec, DomainCodec
from .exact_codes_crosstimenet import distinct_codes, exact_codes
from .layers_causal_convolution import KERNEL_SIZE, CausalConvolution

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
