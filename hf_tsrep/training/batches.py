"""Which items make up a batch, which they were, and how they are put together: samplers, collators, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

SERIES_INDEX = "series_index"


class NumberedBatch(list):
    """Indices of a batch that also know the batch's number in its epoch, wherever a data loader carries them.

    Args:
        indices: Indices of the items.
        number: Number of the batch; the batches that several processes train on together have one number.
    """

    def __init__(self, indices: Iterable[int] = (), number: int = 0) -> None:
        super().__init__(indices)
        self.number = number


class NumberedBatchSampler(BatchSampler):
    """A BatchSampler of NumberedBatch.

    Args:
        sampler: Draws the indices.
        batch_size: Number of items of a batch of one process.
        drop_last: Whether an incomplete batch at the end is left out.
        num_processes: Number of processes that share the batches; Accelerate gives them out in turn.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, num_processes: int = 1) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.num_processes = num_processes

    def __iter__(self) -> Iterator[NumberedBatch]:
        """Draw the batches of an epoch."""
        for position, indices in enumerate(super().__iter__()):
            yield NumberedBatch(indices, position // self.num_processes)


class SharedBatchSampler(NumberedBatchSampler):
    """Batches that processes share as evenly as can be, also the last, smaller one: no item twice, none left out.

    The parts of a batch may differ by one item, so a loss must be weighed by what it is the mean of. Items at the end
    that are fewer than the processes go into the batch before.

    Args:
        sampler: Draws the indices.
        batch_size: Number of items of a batch of one process.
        num_processes: Number of processes that share a batch.

    Raises:
        ValueError: There are fewer items than processes.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, num_processes: int) -> None:
        super().__init__(sampler, batch_size, True, num_processes)
        self.whole = batch_size * num_processes
        self.num_items = len(cast(Sized, sampler))
        if self.num_items < num_processes:
            raise ValueError(f"There are {self.num_items} training items, fewer than the {num_processes} processes.")
        # None: parts may differ in size, which Accelerate then does not check.
        self.batch_size: Any = None

    @property
    def borders(self) -> list[int]:
        """Where one batch ends and the next begins."""
        found = [*range(0, self.num_items, self.whole), self.num_items]
        if len(found) > 2 and found[-1] - found[-2] < self.num_processes:
            del found[-2]
        return found

    def __len__(self) -> int:
        return (len(self.borders) - 1) * self.num_processes

    def __iter__(self) -> Iterator[NumberedBatch]:
        """Draw the batches of an epoch, the parts of each one after the other."""
        order, borders = np.fromiter(self.sampler, dtype=np.int64), self.borders
        for number, (start, stop) in enumerate(pairwise(borders)):
            for part in np.array_split(order[start:stop], self.num_processes):
                yield NumberedBatch(part.tolist(), number)


class DomainBatchSampler(Sampler[list[int]]):
    """Batches of one domain each, the domains in random order: as often as there are series in each.

    Every epoch shuffles the items of each domain, cuts them into batches for all processes together, and shuffles the
    batches of all domains (Cheng et al., CrossTimeNet, official code: every series once an epoch). A batch is then cut
    into one part a process, one after the other, as Accelerate gives them out: so every process has the same
    domain at the same step, and together they have the batch of a single process. What is left of a domain at the end
    of an epoch is left out; a domain that is smaller than a batch has one batch of all that the processes can share
    equally.

    The order is a function of the seed and the epoch (`set_epoch`), on every process alike.

    Args:
        domain_sizes: Number of items of each domain; items are numbered through all domains in their order.
        batch_size: Number of items of a batch of one process.
        num_processes: Number of processes that share a batch.
        seed: Seed of the order.
        mixed: Whether batches hold items of all domains instead, shuffled together.

    Raises:
        ValueError: A domain has fewer items than there are processes.
    """

    def __init__(
        self,
        domain_sizes: Sequence[int],
        batch_size: int,
        num_processes: int = 1,
        seed: int = 0,
        mixed: bool = False,
    ) -> None:
        if mixed:
            domain_sizes = [sum(domain_sizes)]
        for place, size in enumerate(domain_sizes):
            if size < num_processes:
                raise ValueError(f"Domain {place} has {size} items, fewer than the {num_processes} processes.")
        self.domain_sizes = list(domain_sizes)
        self.num_processes, self.seed, self.epoch = num_processes, seed, 0
        # None: batches may differ in size, which Accelerate then does not check.
        self.batch_size, self.drop_last = None, True
        whole = batch_size * num_processes
        self.global_sizes = [min(whole, size // num_processes * num_processes) for size in self.domain_sizes]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = int(epoch)

    @property
    def num_global_batches(self) -> int:
        """Number of batches of all processes together in an epoch."""
        return sum(size // whole for size, whole in zip(self.domain_sizes, self.global_sizes, strict=True))

    def __len__(self) -> int:
        return self.num_global_batches * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        """Draw the batches of an epoch, those of the processes one after the other."""
        generator = np.random.default_rng([self.seed, self.epoch])
        batches: list[np.ndarray] = []
        first = 0
        for size, whole in zip(self.domain_sizes, self.global_sizes, strict=True):
            order = first + generator.permutation(size)
            batches += [order[start : start + whole] for start in range(0, size - whole + 1, whole)]
            first += size
        for place in generator.permutation(len(batches)):
            for part in np.split(batches[place], self.num_processes):
                yield part.tolist()


class IndexedDataset(Dataset):
    """A dataset whose items also carry their index, so that a batch can be named.

    Args:
        dataset: Items are mappings.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.num_items = len(dataset)  # Trainer, samplers and loaders ask for it again and again

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], SERIES_INDEX: int(index)}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the items of one batch, which the dataset may read together."""
        if hasattr(self.dataset, "__getitems__"):
            items = self.dataset.__getitems__(indices)
        else:
            items = [self.dataset[index] for index in indices]
        return [{**item, SERIES_INDEX: int(index)} for item, index in zip(items, indices, strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a dataset that draws by it."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class IndexedCollator:
    """A collator that keeps the indices of an IndexedDataset.

    Args:
        collator: Collates the items without their indices.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the collated batch and `series_index` (batch_size,)."""
        indices = torch.tensor([item[SERIES_INDEX] for item in items])
        bare = [{name: value for name, value in item.items() if name != SERIES_INDEX} for item in items]
        batch = self.collator(bare)
        return {**batch, SERIES_INDEX: indices}


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
    """Add `left` missing steps before and `right` after.

    Args:
        past_values: (batch_size, sequence_length, num_channels).
        left: steps in front.
        right: steps after.

    Returns:
        (batch_size, left + sequence_length + right, num_channels).
    """
    if left == 0 and right == 0:
        return past_values
    return torch.nn.functional.pad(past_values, (0, 0, left, right), value=float("nan"))
