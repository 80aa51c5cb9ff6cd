"""Sliding a window over a series through stacked dilated convolutions, computing what the windows share only once.

A window keeps a few of its timestamps, and those depend on few positions of each dilated layer. Away from the borders
of the window a layer's value belongs to an absolute time: it is the same in every window that contains that time with
room to spare. So each layer has two kinds of values: the shared ones, computed along the whole series, and those at
the positions of a window that its borders can reach, computed for all windows at once as one matrix product. Nothing
is approximated; only the order of sums differs.

The plain function is `slide_by_windows` in encoding_time_series.py, which encodes every window whole.

A series that is embedded as it comes (`DilatedStream`) keeps the shared values of its last window, so that a step
costs the positions near the borders and one shared position a layer.

For TS2Vec's 11 blocks and a causal window of 201 steps that is 55 block evaluations a step where encoding each window
whole takes 2,211.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class _History:
    """The last rows of a layer along the series; zeros before its first step, which nothing reads or a gate hides.

    Args:
        num_rows: How many are kept.
        like: (width,), a tensor of their width, type and device.
    """

    def __init__(self, num_rows: int, like: torch.Tensor) -> None:
        self.num_rows, self._stop = num_rows, num_rows
        self._rows = like.new_zeros(2 * num_rows, len(like))

    def append(self, rows: torch.Tensor) -> None:
        """Take further rows; the old ones are moved only when the store is full, so that a row costs a constant."""
        stop = self._stop + len(rows)
        if stop > len(self._rows):
            kept = self._rows[self._stop - self.num_rows : self._stop]
            stop = self.num_rows + len(rows)
            store = self._rows.new_zeros(max(2 * self.num_rows, stop), kept.shape[1])
            store[: self.num_rows] = kept
            self._rows, self._stop = store, self.num_rows
        self._rows[self._stop : stop] = rows
        self._stop = stop

    def at(self, lags: torch.Tensor, num_steps: int) -> torch.Tensor:
        """Return what each of the last `num_steps` steps sees so many rows before: (num_steps, num_lags, width)."""
        if num_steps == 1:  # the case that must be quick
            return self._rows.index_select(0, self._stop - 1 - lags).unsqueeze(0)
        last = torch.arange(self._stop - num_steps, self._stop, device=lags.device)
        return self._rows[last.unsqueeze(1) - lags]


@dataclass(frozen=True)
class _Sources:
    """Where a step finds a layer's values: computed in the step, or kept from the steps before.

    Attributes:
        computed: Positions of the window that the step computes.
        kept: Positions that earlier steps have computed.
        newest: Position whose value is kept for the steps to come; None where a layer has no shared values.
    """

    computed: list[int]
    kept: list[int]
    newest: int | None

    @property
    def positions(self) -> list[int]:
        """All, in the order in which a step holds their values."""
        return [*self.computed, *self.kept]

    def indices(self, wanted: Iterable[int]) -> list[int]:
        """Return where the values of these positions are held; one beyond the window is the zero after the last."""
        places = {position: place for place, position in enumerate(self.positions)}
        return [places.get(position, len(places)) for position in wanted]


def plan_stream(dilations: list[int], window_length: int, masked_last: bool) -> list[_Sources]:
    """Find what a step computes of each layer and what it reads of earlier steps.

    A shared value is computed as soon as the window's end is too far to reach it; the position where that happens is
    the same in every step.

    Args:
        dilations: Dilation of each block, first block first.
        window_length: Number of steps of a window.
        masked_last: Whether the input at a window's last position is masked.

    Returns:
        1 + 2 * number of blocks layers: the projected input, then both convolutions of every block.
    """
    last = window_length - 1
    layers = plan_layers(dilations, window_length, range(last, window_length), masked_last)
    newest = [last - layer.right_reach if layer.has_shared else None for layer in layers]
    newest[0] = last  # the projected input is there at once
    computed = [[*layer.border, *([] if new is None else [new])] for layer, new in zip(layers, newest, strict=True)]
    computed[0] = layers[0].border
    sources = []
    for number, own in enumerate(computed):
        read: set[int] = {last} if number == len(layers) - 1 else set()
        if number < len(layers) - 1:
            read |= _taps(set(computed[number + 1]), dilations[number // 2], window_length)
        if number % 2 == 0 and number < len(layers) - 1:
            read |= set(computed[number + 2])  # the residual connection
        sources.append(_Sources(own, sorted(read - set(own)), newest[number]))
    return sources


class DilatedStream:
    """A series that is embedded as it comes: each step from the window that ends with it, and equal to slide.

    Args:
        blocks: The residual blocks, first block first; their weights are taken now.
        window_length: Number of steps of a window.
        masked_last: Whether the input at the last step of every window is masked.
        gates_padding: Whether activations before the first observed timestamp are zero.
    """

    @torch.no_grad()
    def __init__(
        self, blocks: Sequence[DilatedResidualBlock], window_length: int, masked_last: bool, gates_padding: bool
    ) -> None:
        self.blocks, self.window_length, self.gates_padding = blocks, window_length, gates_padding
        convolutions = [one for block in blocks for one in (block.first_convolution, block.second_convolution)]
        self.sources = plan_stream([one.dilation for one in convolutions[::2]], window_length, masked_last)
        self._weights = [one.weight.permute(2, 1, 0).flatten(0, 1).contiguous() for one in convolutions]
        self._biases = [one.bias for one in convolutions]
        device = self._biases[0].device
        self._taps, self._residuals = [], []
        for number, convolution in enumerate(convolutions):
            below, here = self.sources[number], self.sources[number + 1].computed
            shifts = (-convolution.dilation, 0, convolution.dilation)
            taps = below.indices(position + shift for position in here for shift in shifts)
            self._taps.append(torch.tensor(taps, device=device))
            block_input = self.sources[number - 1].indices(here) if number % 2 else []
            self._residuals.append(torch.tensor(block_input, dtype=torch.long, device=device))
        # The zero comes last, at any position.
        self._positions = [torch.tensor([*one.positions, 0], device=device) for one in self.sources]
        self._lags, self._histories = [], []
        widths = [convolutions[0].weight.shape[1], *(one.weight.shape[0] for one in convolutions)]
        for one, width in zip(self.sources, widths, strict=True):
            lags = [(0 if one.newest is None else one.newest) - position for position in one.kept]
            self._lags.append(torch.tensor(lags, dtype=torch.long, device=device))
            like = self._weights[0].new_empty(width)
            self._histories.append(_History(max(lags) + 1, like) if lags else None)
        self._num_steps, self._begin = 0, None if gates_padding else -window_length
        if not gates_padding and window_length > 1:  # before the first step a window sees masked ones
            self._advance(self._weights[0].new_zeros(window_length - 1, widths[0]))

    def push(self, projected: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """Embed further steps.

        Args:
            projected: (num_steps, hidden_size), the projected input.
            observed: (num_steps,) bool.

        Returns:
            (num_steps, embedding_size).
        """
        if self._begin is None and bool(observed.any()):
            self._begin = self._num_steps + int(observed.to(torch.uint8).argmax())
        at_once = _WINDOWS_ON_CPU if projected.device.type == "cpu" else _WINDOWS_ON_ACCELERATOR
        results = [self._advance(chunk) for chunk in projected.split(at_once)]
        return torch.cat(results)

    def _advance(self, projected: torch.Tensor) -> torch.Tensor:
        num_steps = len(projected)
        masked = projected.new_zeros(num_steps, len(self.sources[0].computed), projected.shape[1])
        values = [self._with_kept(0, masked, projected)]
        for number, (taps, weight, bias) in enumerate(zip(self._taps, self._weights, self._biases, strict=True)):
            below = F.gelu(values[number])
            gate = self._gate(number, num_steps)
            below = below if gate is None else below * gate
            rows = below[:, taps].reshape(-1, len(weight))
            output = torch.addmm(bias, rows, weight).view(num_steps, -1, weight.shape[1])
            if number % 2:
                block_input = values[number - 1][:, self._residuals[number]]
                output = output + self.blocks[number // 2].residual(block_input)
            newest = None if self.sources[number + 1].newest is None else output[:, -1]
            values.append(self._with_kept(number + 1, output, newest))
        (last,) = self.sources[-1].indices([self.window_length - 1])
        gate = self._gate(len(values) - 1, num_steps)
        self._num_steps += num_steps
        return values[-1][:, last] if gate is None else (values[-1] * gate)[:, last]

    def _with_kept(self, layer: int, computed: torch.Tensor, newest: torch.Tensor | None) -> torch.Tensor:
        """Return a layer's values at all positions that the step reads, then the zero; and keep the newest."""
        num_steps, _, width = computed.shape
        parts, history = [computed], self._histories[layer]
        if history is not None:
            assert newest is not None, "only a layer with shared values is read at earlier steps"
            history.append(newest)
            parts.append(history.at(self._lags[layer], num_steps))
        return torch.cat([*parts, computed.new_zeros(num_steps, 1, width)], dim=1)

    def _gate(self, layer: int, num_steps: int) -> torch.Tensor | None:
        """Return (num_steps, num_positions, 1), zeros before the series begins; None for ones only."""
        if not self.gates_padding or (
            self._begin is not None and self._num_steps - self.window_length + 1 >= self._begin
        ):
            return None
        begin = self._num_steps + num_steps if self._begin is None else self._begin
        steps = torch.arange(self._num_steps, self._num_steps + num_steps, device=self._positions[layer].device)
        times = steps.unsqueeze(1) - (self.window_length - 1) + self._positions[layer]
        return (times >= begin).to(self._weights[0].dtype).unsqueeze(-1)
