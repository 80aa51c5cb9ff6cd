"""What pre-training reads: series cut, centred and cropped by TS2Vec's rules, and batches padded with NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .batches import NumberedBatch
from .preparation import centre_observed_span, missing_steps, pad_with_missing, split_with_missing


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
        """Chooses the crops of this epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Returns the items of one batch, all cropped to the same window."""
        number = indices.number if isinstance(indices, NumberedBatch) else range(len(self))[int(indices[0])]
        start = self.crop_start(number)
        return [{"past_values": self.pieces[index, start : start + self.sequence_length]} for index in indices]

    def crop_start(self, number: int) -> int:
        """Returns the start of the window of the batch of this number in this epoch."""
        num_starts = self.pieces.shape[1] - self.sequence_length + 1
        if num_starts == 1:
            return 0
        return int(np.random.default_rng([self.seed, self.epoch, number]).integers(num_starts))


def _pieces(series: Sequence[np.ndarray | Tensor], max_train_length: int | None) -> Tensor:
    """Returns the padded, cut, centred and non-empty pieces, (num_pieces, time, channel)."""
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
        """Returns `{"past_values": (batch_size, sequence_length, num_channels)}`."""
        tensors = [torch.as_tensor(item["past_values"], dtype=torch.float32) for item in items]
        length = max(self.sequence_length or 0, *(len(tensor) for tensor in tensors))
        past_values = torch.stack([pad_with_missing(tensor[None], length)[0] for tensor in tensors])
        if self.max_train_length is not None and length > self.max_train_length:
            start = int(torch.randint(length - self.max_train_length + 1, ()))
            past_values = past_values[:, start : start + self.max_train_length]
        return {"past_values": past_values}
