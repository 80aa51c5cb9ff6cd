"""Dropout whose masks are cheap, and can be drawn again: for pretext tasks that make their views by dropout.

`tokenization/layers_dropout.py` is a link to this file: a codec that is saved alone takes it along as a sibling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn

# Consecutive sites and seeds are far apart in the low 32 bits, which are all that the CPU's generator looks at.
_SITE_STEP = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class DropoutDraws:
    """The random choices of all dropout layers in one pass: they, the layer and the shape decide a mask, nothing else.

    So a step can be computed again, in gradient checkpointing too, and several processes draw the masks of one.

    Args:
        seed: Source of all masks.
        num_views: Number of views that lie after each other on the first axis.
        rank: Number of this process.
        num_processes: Number of processes; each has an equal part of every view's rows.
    """

    seed: int
    num_views: int = 1
    rank: int = 0
    num_processes: int = 1

    def random_bits(self, site: int, shape: torch.Size, device: torch.device) -> torch.Tensor:
        """Draw 16 bits for every value.

        Args:
            site: Number of the layer.
            shape: Shape of the values; the first axis holds num_views times this process's rows.
            device: Where the values are.

        Returns:
            `shape`, int16, uniform.
        """
        seed = (self.seed + (site + 1) * _SITE_STEP) % 2**63
        draw = _compiled_seeded_bits if torch.compiler.is_compiling() else _seeded_bits
        if self.num_processes == 1:
            return draw(list(shape), device, seed)
        rows = shape[0] // self.num_views
        everywhere = [self.num_views, self.num_processes * rows, *shape[1:]]
        return draw(everywhere, device, seed)[:, self.rank * rows : (self.rank + 1) * rows].reshape(shape)


def _seeded_bits(shape: list[int], device: torch.device, seed: int) -> torch.Tensor:
    """Draw 16 bits for every value from a seed."""
    return _draw_bits(torch.Size(shape), device, torch.Generator(device).manual_seed(seed))


# torch.compile cannot look into generators; as an operator a draw is one node of the graph around it. The name is this
# module's, because a model's own code brings the same file under another.
_compiled_seeded_bits = torch.library.custom_op(
    f"{re.sub(r'[^a-zA-Z0-9]', '_', __name__)}::seeded_bits", _seeded_bits, mutates_args=()
)


@_compiled_seeded_bits.register_fake
def _(shape: list[int], device: torch.device, seed: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int16, device=device)


def _draw_bits(shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """Draw 16 bits for every value; one draw of 64 bits serves four of them."""
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64, device=device)
    return draws.random_(-(2**63), None, generator=generator).view(torch.int16)[: shape.numel()].view(shape)


class SixteenBitDropout(nn.Dropout):
    """Dropout whose mask costs a fraction of PyTorch's on a CPU: one draw of 64 bits serves four values.

    The probability is rounded to a multiple of 2^-16, and kept values are scaled by what it then really is.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Drop random values in training mode; any shape."""
        if not self.training or self.p in (0, 1) or hidden.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(hidden)
        return self.drop(hidden, _draw_bits(hidden.shape, hidden.device, None))

    def drop(self, hidden: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        """Drop the values whose bits are among the lowest.

        Args:
            hidden: Any shape.
            bits: The same shape, int16, uniform.

        Returns:
            The same shape.
        """
        num_dropped = round(self.p * 2**16)
        kept = (bits >= num_dropped - 2**15).to(hidden.dtype)
        return hidden * kept.mul_(2**16 / (2**16 - num_dropped))


class SeededDropout(SixteenBitDropout):
    """Dropout that takes its mask from DropoutDraws where these are given, in evaluation too.

    Args:
        probability: Probability that a value becomes zero.
        site: Number of the layer, unique in its model.
    """

    def __init__(self, probability: float, site: int) -> None:
        super().__init__(probability)
        self.site = site

    def forward(self, hidden: torch.Tensor, draws: DropoutDraws | None = None) -> torch.Tensor:
        """Drop values: those that `draws` choose, or without draws random ones in training mode.

        Args:
            hidden: Any shape; with draws, the rows of all views on the first axis.
            draws: The random choices, or None.

        Returns:
            The same shape.
        """
        if draws is None:
            return super().forward(hidden)
        if self.p in (0, 1):
            return hidden if self.p == 0 else hidden * 0.0
        return self.drop(hidden, draws.random_bits(self.site, hidden.shape, hidden.device))
