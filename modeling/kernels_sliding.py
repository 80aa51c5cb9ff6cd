"""Sliding a window over a series through stacked dilated convolutions, computing what the windows share only once.

A window keeps a few of its timestamps, and those depend on few positions of each dilated layer. Away from the borders
of the window a layer's value belongs to an absolute time: it is the same in every window that contains that time with
room to spare. So each layer has two kinds of values: the shared ones, computed along the whole series, and those at
the positions of a window that its borders can reach, computed for all windows at once as one matrix product. Nothing
is approximated; only the order of sums differs.

The plain function is `slide_by_windows` in encoding_time_series.py, which encodes every window whole.

For TS2Vec's 11 blocks and a causal window of 201 steps that is 55 block evaluations a step where encoding each window
whole takes 2,211.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .layers_convolution import DilatedConvolution, DilatedResidualBlock

# Windows handled at once: enough rows for efficient matrix products, few enough to stay in cache on a CPU.
_WINDOWS_ON_CPU, _WINDOWS_ON_ACCELERATOR = 1024, 16384


@dataclass(frozen=True)
class _Layer:
    """Positions of a window at which a layer is needed, and how far the borders of the window reach into it."""

    needed: tuple[int, ...]
    left_reach: int
    right_reach: int
    window_length: int

    def is_border(self, position: int) -> bool:
        return position < self.left_reach or position >= self.window_length - self.right_reach

    @property
    def border(self) -> list[int]:
        return [position for position in self.needed if self.is_border(position)]

    @property
    def has_shared(self) -> bool:
        return any(not self.is_border(position) for position in self.needed)


def _taps(positions: set[int], dilation: int, window_length: int) -> set[int]:
    reached = {position + shift for position in positions for shift in (-dilation, 0, dilation)}
    return {position for position in reached if 0 <= position < window_length}


def plan_layers(dilations: list[int], window_length: int, kept: range, last_differs: bool) -> list[_Layer]:
    """Find what is needed of each layer: the projected input, then both convolutions of every block.

    Args:
        dilations: Dilation of each block, first block first.
        window_length: Number of steps of a window.
        kept: Positions of a window whose embeddings are kept.
        last_differs: Whether the input at a window's last position is not the one that other windows see there.

    Returns:
        1 + 2 * number of blocks layers.
    """
    needed = [set(kept)]
    for dilation in reversed(dilations):
        middle = _taps(needed[0], dilation, window_length)
        below = _taps(middle, dilation, window_length) | needed[0]  # the residual connection needs the position itself
        needed = [below, middle, *needed]
    left, right = 0, int(last_differs)
    reaches = [(left, right)]
    for dilation in dilations:
        # A block has two convolutions of one dilation.
        for _ in range(2):
            left, right = left + dilation, right + dilation
            reaches.append((left, right))
    return [
        _Layer(tuple(sorted(positions)), *reach, window_length)
        for positions, reach in zip(needed, reaches, strict=True)
    ]


@dataclass
class _Values:
    """A layer's output for some windows: along the series, and at border positions, (num_windows, channels) each."""

    shared: torch.Tensor | None
    border: dict[int, torch.Tensor]
    stride: int
    num_windows: int

    def along_series(self) -> torch.Tensor:
        assert self.shared is not None, "plan_layers gives every shared value shared ones below it"
        return self.shared

    def at(self, position: int) -> torch.Tensor:
        if position in self.border:
            return self.border[position]
        stop = position + self.stride * (self.num_windows - 1) + 1
        return self.along_series()[position : stop : self.stride]

    def activated(self, inside: torch.Tensor | None) -> _Values:
        """Apply GELU, and set to zero what lies beyond the series."""
        shared = None if self.shared is None else F.gelu(self.shared)
        border = {position: F.gelu(rows) for position, rows in self.border.items()}
        if inside is not None:
            if shared is not None:
                shared = shared * inside
            for position in border:
                stop = position + self.stride * (self.num_windows - 1) + 1
                border[position] = border[position] * inside[position : stop : self.stride]
        return _Values(shared, border, self.stride, self.num_windows)


def _convolve(values: _Values, convolution: DilatedConvolution, layer: _Layer) -> _Values:
    # (kernel_size, in, out): every tap is one matrix product over consecutive rows, without a gathered copy.
    taps = convolution.weight.permute(2, 1, 0).contiguous()
    bias, dilation = convolution.bias, convolution.dilation
    shared = None
    if layer.has_shared:
        rows = values.along_series()
        shared = torch.addmm(bias, rows, taps[1])
        if dilation < len(rows):
            shared[dilation:].addmm_(rows[:-dilation], taps[0])
            shared[:-dilation].addmm_(rows[dilation:], taps[2])
    border = {}
    for position in layer.border:
        total = torch.addmm(bias, values.at(position), taps[1])
        if position - dilation >= 0:
            total.addmm_(values.at(position - dilation), taps[0])
        if position + dilation < layer.window_length:
            total.addmm_(values.at(position + dilation), taps[2])
        border[position] = total
    return _Values(shared, border, values.stride, values.num_windows)


def _add_residual(block: DilatedResidualBlock, before: _Values, after: _Values) -> _Values:
    if after.shared is not None:
        after.shared += block.residual(before.along_series())
    for position, rows in after.border.items():
        rows += block.residual(before.at(position))
    return after


def slide_dilated_blocks(
    blocks: Sequence[DilatedResidualBlock],
    projected: torch.Tensor,
    inside: torch.Tensor | None,
    window_length: int,
    kept: range,
    stride: int,
    masked_last: bool = False,
) -> torch.Tensor:
    """Encode every window of a series and keep the embeddings at some of its positions.

    Args:
        blocks: The residual blocks, first block first.
        projected: (length, hidden_size), the projected input of the series with what the first and last windows see
            beyond it; window i covers the steps from i * stride on.
        inside: (length,) bool, False = beyond the series, whose activations are zero; None: all inside.
        window_length: Number of steps of a window.
        kept: Positions of a window whose embeddings are returned.
        stride: Number of steps from one window to the next.
        masked_last: Whether the input at the last step of every window is masked.

    Returns:
        (num_windows * number of kept positions, embedding_size), window by window.
    """
    dilations = [block.first_convolution.dilation for block in blocks]
    layers = plan_layers(dilations, window_length, kept, masked_last)
    num_windows = (len(projected) - window_length) // stride + 1
    at_once = _WINDOWS_ON_CPU if projected.device.type == "cpu" else _WINDOWS_ON_ACCELERATOR
    # The part of the series that a chunk holds grows with the stride.
    at_once = max(1, at_once // max(1, stride))
    gate = None if inside is None else inside.to(projected.dtype).unsqueeze(-1)
    results = []
    for first in range(0, num_windows, at_once):
        count = min(at_once, num_windows - first)
        steps = slice(first * stride, (first + count - 1) * stride + window_length)
        results.append(
            _slide_chunk(blocks, layers, projected[steps], None if gate is None else gate[steps], stride, count)
        )
    return torch.cat(results)


def _slide_chunk(
    blocks: Sequence[DilatedResidualBlock],
    layers: list[_Layer],
    projected: torch.Tensor,
    gate: torch.Tensor | None,
    stride: int,
    num_windows: int,
) -> torch.Tensor:
    if gate is not None and bool((gate == 1).all()):
        gate = None
    border = {position: projected.new_zeros(num_windows, projected.shape[1]) for position in layers[0].border}
    hidden = _Values(projected, border, stride, num_windows)
    for index, block in enumerate(blocks):
        middle = _convolve(hidden.activated(gate), block.first_convolution, layers[2 * index + 1])
        output = _convolve(middle.activated(gate), block.second_convolution, layers[2 * index + 2])
        hidden = _add_residual(block, hidden, output)
    kept = torch.stack([hidden.at(position) for position in layers[-1].needed], dim=1)
    if gate is not None:
        stop = stride * (num_windows - 1) + 1
        kept *= torch.stack([gate[position : position + stop : stride] for position in layers[-1].needed], dim=1)
    return kept.flatten(0, 1)
