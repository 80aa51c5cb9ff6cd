"""A codebook that is learnt by moving averages (van den Oord et al., NeurIPS 2017, arXiv 1711.00937)."""

from __future__ import annotations

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import nn


def nearest_codes(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest code by squared distance (equation 1), up to rounding.

    |latent|^2 is the same for all codes, so that the nearest has the largest product minus half its own square: one
    matrix product, in float32 whatever runs around it. Between codes that are all but equally near its rounding
    decides; where a tokenizer makes ids, `exact_codes` does.

    Args:
        latents: (num_latents, hidden_size).
        codebook: (codebook_size, hidden_size).

    Returns:
        (num_latents,) int64.
    """
    with torch.autocast(latents.device.type, enabled=False):
        codebook = codebook.float()
        return torch.addmm(-0.5 * codebook.square().sum(1), latents.float(), codebook.t()).argmax(1)


def straight_through(latents: torch.Tensor, quantised: torch.Tensor) -> torch.Tensor:
    """Return the codes in the forward pass, and pass the gradient on to the latents (section 3.2).

    Args:
        latents: Any shape.
        quantised: The same shape: the latents' codes (equation 2).

    Returns:
        The same shape.
    """
    return latents + (quantised - latents).detach()


def commitment_loss(latents: torch.Tensor, quantised: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of a latent to its code: equation 3's last term, without its weight.

    The middle term, which would move the codes, is missing: here they are moving averages.

    Args:
        latents: (..., hidden_size).
        quantised: The same shape: the latents' codes, which get no gradient.
        counted: (...) bool, the latents that count.

    Returns:
        A scalar, 0 where none counts.
    """
    distance = (latents.float() - quantised.float().detach()).square().mean(-1)
    return (distance * counted).sum() / counted.sum().clamp(min=1)


def moving_average(average: torch.Tensor, observed: torch.Tensor, decay: float) -> torch.Tensor:
    """Move an average in place: decay * average + (1 - decay) * observed (appendix, equations 6 and 7)."""
    return average.mul_(decay).add_(observed, alpha=1 - decay)


def codes_of_averages(counts: torch.Tensor, sums: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the codes: sums of latents over their counts (appendix, equation 8), counts by Laplace smoothing.

    Args:
        counts: (codebook_size,) moving number of latents of each code.
        sums: (codebook_size, hidden_size) moving sum of these latents.
        epsilon: What every count is raised by before all are scaled to their total again.

    Returns:
        (codebook_size, hidden_size).
    """
    total = counts.sum()
    smoothed = (counts + epsilon) / (total + len(counts) * epsilon) * total
    return sums / smoothed.unsqueeze(1)


def perplexity_of_counts(counts: torch.Tensor) -> torch.Tensor:
    """Return exp(entropy) of the codes' frequencies: how many codes are used as if evenly; a scalar."""
    shares = counts.float() / counts.sum().clamp(min=1)
    return torch.exp(-torch.special.xlogy(shares, shares).sum())


class Codebook(nn.Module):
    """Codes that follow the latents by exponential moving averages; they get no gradient.

    In a training step the codes are those of the codebook before the step; the averages are then updated with the
    counts and sums of all processes, so that every process keeps the same codebook.

    Args:
        codebook_size: Number of codes.
        hidden_size: Length of a code.
        decay: Decay of the averages.
        epsilon: Laplace smoothing of the counts.
        dead_code_threshold: Codes with a moving count below it are replaced by latents of the batch; 0 replaces none.
    """

    codes: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor

    def __init__(
        self, codebook_size: int, hidden_size: int, decay: float, epsilon: float, dead_code_threshold: float
    ) -> None:
        super().__init__()
        self.decay, self.epsilon, self.dead_code_threshold = decay, epsilon, dead_code_threshold
        self.register_buffer("codes", torch.empty(codebook_size, hidden_size))
        self.register_buffer("counts", torch.empty(codebook_size))
        self.register_buffer("sums", torch.empty(codebook_size, hidden_size))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the codes uniformly, within the bound of Kaiming initialisation, as published."""
        bound = (6.0 / self.codes.shape[0]) ** 0.5
        self.start_from(torch.empty_like(self.codes).uniform_(-bound, bound))
        self.counts.zero_()

    @torch.no_grad()
    def start_from(self, codes: torch.Tensor, counts: torch.Tensor | None = None) -> None:
        """Take these codes (codebook_size, hidden_size); with counts, as if each had been seen so often a step."""
        self.codes.copy_(codes)
        self.counts.fill_(1.0) if counts is None else self.counts.copy_(counts)
        self.sums.copy_(self.codes * (1.0 if counts is None else self.counts.unsqueeze(1)))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the nearest codes of (num_latents, hidden_size): (num_latents,) int64."""
        return nearest_codes(latents, self.codes)

    def look_up(self, indices: torch.Tensor) -> torch.Tensor:
        """Return the codes of indices of any shape: (..., hidden_size)."""
        return F.embedding(indices, self.codes)

    @torch.no_grad()
    def update(self, latents: torch.Tensor, indices: torch.Tensor, generator: torch.Generator | None = None) -> None:
        """Move the averages by one step; without any latent, on any process, everything stays as it is.

        Args:
            latents: (num_latents, hidden_size) of this process.
            indices: (num_latents,) their codes.
            generator: Source of the latents that replace dead codes, on the CPU; None for torch's global one.
        """
        latents = latents.detach().float()
        counts = torch.bincount(indices, minlength=len(self.codes)).to(latents.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, indices, latents)
        if _is_distributed():
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        if not bool(counts.any()):
            return  # a fresh codebook has no counts yet, and sums divided by none are NaN
        moving_average(self.counts, counts, self.decay)
        moving_average(self.sums, sums, self.decay)
        self.codes.copy_(codes_of_averages(self.counts, self.sums, self.epsilon))
        if self.dead_code_threshold > 0:
            self._revive(latents, generator)

    def _revive(self, latents: torch.Tensor, generator: torch.Generator | None) -> None:
        """Replace dead codes by latents of the first process, which all processes receive."""
        dead = (self.counts < self.dead_code_threshold).nonzero().squeeze(1)
        if not len(dead):
            return
        fresh = self.codes[dead]
        if len(latents):
            chosen = torch.randint(len(latents), (len(dead),), generator=generator)
            fresh = latents[chosen.to(latents.device)].contiguous()
        if _is_distributed():
            distributed.broadcast(fresh, 0)
        self.codes[dead] = fresh
        self.counts[dead] = self.dead_code_threshold
        self.sums[dead] = fresh * self.dead_code_threshold


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
