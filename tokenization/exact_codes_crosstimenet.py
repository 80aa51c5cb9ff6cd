"""Nearest codes that do not depend on what else is in the batch.

The rounding of a matrix product depends on its shape, and so on the number and length of the series that are computed
together. Where two codes are so nearly equally far from a latent that rounding could decide, the series is encoded
again in float64: the code is then that of exact arithmetic, on every device.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from .codec_crosstimenet import STEPS_IN_CACHE, DomainCodec

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
