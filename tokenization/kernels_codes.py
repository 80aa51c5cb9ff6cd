"""Nearest codes that do not depend on what is computed beside them: what `nearest_codes` finds, without its rounding.

A matrix product rounds differently in batches of other sizes, so that a latent between two codes could get another id
in other company. Latents whose best score is not clearly the best are computed again in float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Differences of scores that rounding can make, as a share of the norms; float32 made at most 6e-7 of it.
_FLOAT32_DOUBT, _FLOAT64_DOUBT = 1e-6, 1e-13
_GROUPS = 32


def exact_codes(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest code by squared distance, without rounding in the search.

    Args:
        latents: (num_latents, hidden_size), float32, or float64 where their own rounding could decide.
        codebook: (codebook_size, hidden_size) float32. Equal codes are always in doubt, and the first of them is
            taken; `distinct_codes` leaves the others out.

    Returns:
        (num_latents,) int64.
    """
    codes, is_doubtful = nearest_and_doubt(latents, codebook)
    unsure = is_doubtful.nonzero().squeeze(1)
    if len(unsure) and latents.dtype != torch.float64:
        codes[unsure], _ = nearest_and_doubt(latents[unsure].double(), codebook)
    return codes


def distinct_codes(codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave out codes that equal another one.

    Args:
        codebook: (codebook_size, hidden_size).

    Returns:
        The different codes (num_distinct, hidden_size), and the first place (num_distinct,) of each.
    """
    distinct, group = torch.unique(codebook, dim=0, return_inverse=True)
    places = torch.arange(len(codebook), device=codebook.device)
    first = torch.full((len(distinct),), len(codebook), device=codebook.device)
    return distinct, first.scatter_reduce(0, group, places, "amin")


def nearest_and_doubt(latents: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest codes, and where rounding could have decided between several.

    Args:
        latents: (num_latents, hidden_size), float32 or float64.
        codebook: (codebook_size, hidden_size).

    Returns:
        (num_latents,) int64, and (num_latents,) bool, True = in doubt.
    """
    doubt = _FLOAT64_DOUBT if latents.dtype == torch.float64 else _FLOAT32_DOUBT
    codebook = codebook.to(latents.dtype)
    # As in nearest_codes: the nearest code has the largest product minus half its own square.
    beyond = -len(codebook) % _GROUPS
    squares = F.pad(-0.5 * codebook.square().sum(1), (0, beyond), value=-torch.inf)
    scores = torch.addmm(squares, latents, F.pad(codebook, (0, 0, 0, beyond)).t())
    tolerance = doubt * latents.norm(dim=1) * codebook.norm(dim=1).amax()
    codes, count = _best_and_near(scores, tolerance)
    is_doubtful = count > 1
    if bool(is_doubtful.any()):
        codes[is_doubtful] = scores[is_doubtful].argmax(1)  # of equal ones the first
    return codes, is_doubtful


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
