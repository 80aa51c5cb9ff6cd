"""Nearest codes that do not depend on what else is in the batch.

The rounding of a matrix product depends on its shape, and so on the number and length of the series that are computed
together. Where two codes are so nearly equally far from a latent that rounding could decide, the series is encoded
again in float64: the code is then that of exact arithmetic, on every device.
"""

from __future__ import annotations

import copy

import torch

from .codec_crosstimenet import STEPS_IN_CACHE, DomainCodec

# Differences of scores that rounding can make, as a share of the norms; float32 made at most 6e-7 of it.
_FLOAT32_DOUBT, _FLOAT64_DOUBT = 1e-6, 1e-13


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
    scores = torch.addmm(-0.5 * distinct.square().sum(1), latents, distinct.t())
    tolerance = doubt * latents.norm(dim=1) * distinct.norm(dim=1).amax()
    # Where one code alone comes near the largest score, a product with the places tells it, faster than argmax does.
    near = (scores >= (scores.amax(1) - tolerance).unsqueeze(1)).to(scores.dtype)
    places = torch.arange(len(distinct), dtype=scores.dtype, device=scores.device)
    count, codes = (near @ torch.stack([torch.ones_like(places), places], dim=1)).long().unbind(1)
    doubtful = count > 1
    if bool(doubtful.any()):
        codes[doubtful] = scores[doubtful].argmax(1)
    return codes.view(shape).t(), doubtful.view(shape).t()
