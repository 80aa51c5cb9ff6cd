"""Geometric masks of SimMTM (Zerveas et al., KDD 2021; Dong et al., NeurIPS 2023, section 3.1), without a loop.

Masked and kept stretches follow each other, with geometric lengths. A step of this two-state chain is one of three
maps of the state, chosen by one uniform number: stay, change, or go to a certain state whatever the state was. So the
state anywhere follows from the last step of the third kind and the parity of the changes since.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .configuration_simmtm import SimMTMConfig


def geometric_mask(uniforms: torch.Tensor, mask_ratio: float, mean_mask_length: float) -> torch.Tensor:
    """Turn uniform numbers into masks whose masked stretches have the given mean length.

    Kept stretches have the mean length mean_mask_length * (1 - mask_ratio) / mask_ratio.

    Args:
        uniforms: (..., 1 + length) in [0, 1): the first number draws the state of the first step, number i + 1
            whether the state changes behind step i.
        mask_ratio: Expected share of masked steps; above 0 and below 1.
        mean_mask_length: Expected length of a masked stretch; at least 1.

    Returns:
        (..., length) bool, True = kept.
    """
    length = uniforms.shape[-1] - 1
    leaves_mask = 1.0 / mean_mask_length
    leaves_kept = leaves_mask * mask_ratio / (1.0 - mask_ratio)
    first, changes = uniforms[..., :1] > mask_ratio, uniforms[..., 1:length]
    parity = torch.cat([torch.zeros_like(first), changes < min(leaves_mask, leaves_kept)], dim=-1).cumsum(-1) % 2
    # Between the two probabilities only one state is left, so the other one is where the chain is behind the step.
    settles = (changes < max(leaves_mask, leaves_kept)) & (changes >= min(leaves_mask, leaves_kept))
    settled_state = leaves_mask > leaves_kept  # kept
    steps = torch.arange(length, device=uniforms.device)
    anchors = torch.cat([torch.ones_like(first), settles], dim=-1)
    last_anchor = torch.where(anchors, steps, 0).cummax(-1).values
    state_there = torch.where(last_anchor == 0, first, settled_state)
    changed_since = (parity - parity.gather(-1, last_anchor)) % 2 == 1
    return state_there ^ changed_since


def draw_geometric_masks(
    shape: tuple[int, ...],
    mask_ratio: float,
    mean_mask_length: float,
    across_series: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw a mask for every series.

    Args:
        shape: (..., length).
        mask_ratio: Expected share of masked steps.
        mean_mask_length: Expected length of a masked stretch.
        across_series: False: every series has a chain of its own (the paper). True: one chain runs on from series to
            series, as in the official code.
        generator: Source of randomness on the CPU; None for torch's global one.

    Returns:
        Bool of the given shape, True = kept.
    """
    if across_series:
        uniforms = torch.rand(1 + torch.Size(shape).numel(), generator=generator)
        return geometric_mask(uniforms, mask_ratio, mean_mask_length).view(shape)
    uniforms = torch.rand(*shape[:-1], 1 + shape[-1], generator=generator)
    return geometric_mask(uniforms, mask_ratio, mean_mask_length)


@dataclass(frozen=True)
class SimMTMDraws:
    """The random choices of one step.

    Args:
        start: First timestamp that is looked at, of series longer than the context.
        keep: (num_masked_views, batch_size, context_length, num_channels) bool, True = kept.
        dropout_seed: Seed of all dropout of a step in training; None for torch's global generator.
    """

    start: int
    keep: torch.Tensor
    dropout_seed: int | None = None

    def rows(self, start: int, stop: int) -> SimMTMDraws:
        """Return the choices for some series of the batch."""
        return SimMTMDraws(self.start, self.keep[:, start:stop], self.dropout_seed)


def draw_step(config: SimMTMConfig, batch_size: int, length: int, generator: torch.Generator) -> SimMTMDraws:
    """Draw a window of the context's length, the masks in it and the seed of dropout.

    Args:
        config: Gives context_length and the masks' settings.
        batch_size: Number of series.
        length: Number of timestamps that they have.
        generator: Source of randomness, on the CPU.

    Returns:
        The choices.
    """
    start = int(torch.randint(max(length - config.context_length, 0) + 1, (), generator=generator))
    shape = (config.num_masked_views, batch_size, config.num_input_channels, config.context_length)
    keep = draw_geometric_masks(
        shape, config.mask_ratio, config.mean_mask_length, config.mask_across_series, generator
    )
    return SimMTMDraws(start, keep.transpose(2, 3), int(torch.randint(2**62, (), generator=generator)))
