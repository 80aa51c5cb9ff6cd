"""What pre-training reads: series cut, centred and cropped, and batches padded with NaN; nothing is changed in place.

The rules of cutting are those of Yue et al., "TS2Vec: Towards Universal Representation of Time Series", AAAI 2022,
official implementation. Missing values are NaN; a step is missing where every channel is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .batches import NumberedBatch


def missing_steps(past_values: Tensor) -> Tensor:
    """Return where every channel is missing: (..., time, channel) float -> (..., time) bool."""
    return past_values.isnan().all(dim=-1)


def centre_observed_span(past_values: Tensor) -> Tensor:
    """Move the span between each series' first and last observed step to the middle of the time axis.

    Args:
        past_values: (batch_size, sequence_length, num_channels).

    Returns:
        The same shape. Of an odd number of missing steps outside the span the larger half goes behind it. A series
        without an observed step is returned as it is.
    """
    sequence_length = past_values.shape[1]
    missing = missing_steps(past_values)
    observed = (~missing).long()
    leading = observed.argmax(dim=1)
    trailing = observed.flip(1).argmax(dim=1)
    shift = (leading + trailing) // 2 - leading
    shift = torch.where(missing.all(dim=1), 0, shift)
    # Only missing steps are carried around the ends.
    source = (torch.arange(sequence_length, device=past_values.device) - shift[:, None]) % sequence_length
    return past_values.gather(1, source[:, :, None].expand_as(past_values))


def split_with_missing(past_values: Tensor, num_sections: int) -> Tensor:
    """Cut the time axis into sections of equal length and stacks them along the batch axis.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        num_sections: how many; the first `sequence_length % num_sections` are one step longer.

    Returns:
        (num_sections * batch_size, ceil(sequence_length / num_sections), num_channels): all series of section 0 first,
        shorter sections padded with NaN at the end.

    Raises:
        ValueError: `num_sections` is not between 1 and `sequence_length`.
    """
    sequence_length = past_values.shape[1]
    if not 1 <= num_sections <= sequence_length:
        raise ValueError(f"num_sections={num_sections} must lie between 1 and the {sequence_length} steps.")
    section_length = -(-sequence_length // num_sections)
    sections = past_values.tensor_split(num_sections, dim=1)
    return torch.cat([pad_with_missing(section, section_length) for section in sections])


def pad_with_missing(past_values: Tensor, target_length: int, both_sides: bool = False) -> Tensor:
    """Pad the time axis with NaN to `target_length`; longer series are returned as they are.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        target_length: steps to reach.
        both_sides: False pads at the end; True pads both ends, the larger half of an odd number at the end.

    Returns:
        (batch_size, max(sequence_length, target_length), num_channels).
    """
    num_steps = max(target_length - past_values.shape[1], 0)
    left = num_steps // 2 if both_sides else 0
    return pad_with_missing_steps(past_values, left, num_steps - left)


def pad_with_missing_steps(past_values: Tensor, left: int = 0, right: int = 0) -> Tensor:
    """Add `left` missing steps in front and `right` behind.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        left: steps in front.
        right: steps behind.

    Returns:
        (batch_size, left + sequence_length + right, num_channels).
    """
    if left == 0 and right == 0:
        return past_values
    return torch.nn.functional.pad(past_values, (0, 0, left, right), value=float("nan"))


def take_per_row(past_values: Tensor, starts: Tensor, num_steps: int) -> Tensor:
    """Take a stretch of `num_steps` from each series, beginning at the series' own start.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        starts: (batch_size,) integers.
        num_steps: length of every stretch.

    Returns:
        (batch_size, num_steps, num_channels).
    """
    steps = starts[:, None] + torch.arange(num_steps, device=past_values.device)
    rows = torch.arange(past_values.shape[0], device=past_values.device)[:, None]
    return past_values[rows, steps]


class PretrainingDataset(Dataset):
    """Series prepared as TS2Vec's training does it.

    All series are padded with NaN to the longest. If that is at least twice `max_train_length`, they are cut into
    `longest // max_train_length` pieces of equal length. If any piece is missing at the first or the last step, the
    observed span of every piece is centred. Pieces without an observed value are dropped. Pieces that are still longer
    than `max_train_length` are cropped to a random window, one start for all pieces of a batch.

    The start is a function of `seed`, the epoch (`set_epoch`) and the batch's number in the epoch, so that neither
    worker processes nor read-ahead change it, and a resumed epoch sees the same windows. The number comes with the
    indices of a NumberedBatchSampler, which gives the batches that several processes train on together one number:
    all of them then see one window, the one that a single process would see. Indices without a number are numbered by
    the first of them. Whoever trains calls `set_epoch` at the beginning of every epoch: Accelerate's data loader does
    so only while no wrapped batch sampler (several processes, skipped batches of a resume) stands in between, and
    persistent workers keep the epoch they began with.

    Args:
        series: arrays (time, channel) with one number of channels, NaN = missing.
        max_train_length: steps of the longest training input; None cuts and crops nothing.
        seed: seed of the crops.

    Raises:
        ValueError: no series, or none with an observed value.

    Items are `{"past_values": (time, channel) float32}`.
    """

    def __init__(
        self, series: Sequence[np.ndarray | Tensor], max_train_length: int | None = 3000, seed: int = 0
    ) -> None:
        if max_train_length is not None and max_train_length < 1:
            raise ValueError(f"max_train_length={max_train_length} must be at least 1, or None.")
        self.pieces = _pieces(series, max_train_length)
        self.max_train_length = max_train_length
        self.seed = seed
        self.epoch = 0

    @property
    def sequence_length(self) -> int:
        """Steps of every item."""
        return min(self.pieces.shape[1], self.max_train_length or self.pieces.shape[1])

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops of this epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the items of one batch, all cropped to the same window."""
        number = indices.number if isinstance(indices, NumberedBatch) else range(len(self))[int(indices[0])]
        start = self.crop_start(number)
        return [{"past_values": self.pieces[index, start : start + self.sequence_length]} for index in indices]

    def crop_start(self, number: int) -> int:
        """Return the start of the window of the batch of this number in this epoch."""
        num_starts = self.pieces.shape[1] - self.sequence_length + 1
        if num_starts == 1:
            return 0
        return int(np.random.default_rng([self.seed, self.epoch, number]).integers(num_starts))


def _pieces(series: Sequence[np.ndarray | Tensor], max_train_length: int | None) -> Tensor:
    """Return the padded, cut, centred and non-empty pieces, (num_pieces, time, channel)."""
    if not len(series):
        raise ValueError("There is no series to train on.")
    widths = {one.shape[1] for one in series}
    if len(widths) != 1:
        raise ValueError(f"Series have {sorted(widths)} channels; every series needs the same.")
    longest = max(len(one) for one in series)
    padded = np.full((len(series), longest, series[0].shape[1]), np.nan, dtype=np.float32)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one
    pieces = torch.from_numpy(padded)
    if max_train_length is not None and longest // max_train_length >= 2:
        pieces = split_with_missing(pieces, longest // max_train_length)
    missing_at_ends = missing_steps(pieces[:, [0, -1]])
    if missing_at_ends.any():
        pieces = centre_observed_span(pieces)
    pieces = pieces[~missing_steps(pieces).all(dim=1)]
    if not len(pieces):
        raise ValueError("Every value of every series is missing: there is nothing to train on.")
    return pieces


class PretrainingCollator:
    """Stacks items of any lengths, padding with NaN at the end.

    Args:
        max_train_length: items that are longer (a `PretrainingDataset` has none) are cropped to one random window for
            the whole batch, drawn from torch's global generator.
        sequence_length: pad to at least this length, so that all batches have one shape; by default to the
            longest item.
    """

    def __init__(self, max_train_length: int | None = 3000, sequence_length: int | None = None) -> None:
        self.max_train_length = max_train_length
        self.sequence_length = sequence_length

    def __call__(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return `{"past_values": (batch_size, sequence_length, num_channels)}`."""
        tensors = [torch.as_tensor(item["past_values"], dtype=torch.float32) for item in items]
        length = max(self.sequence_length or 0, *(len(tensor) for tensor in tensors))
        past_values = torch.stack([pad_with_missing(tensor[None], length)[0] for tensor in tensors])
        if self.max_train_length is not None and length > self.max_train_length:
            start = int(torch.randint(length - self.max_train_length + 1, ()))
            past_values = past_values[:, start : start + self.max_train_length]
        return {"past_values": past_values}
