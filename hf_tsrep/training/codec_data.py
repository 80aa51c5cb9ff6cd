"""What the codec's training reads: series of all domains, and batches of one domain padded with NaN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .domains import DomainSeries


class DomainSeriesDataset(Dataset):
    """Series of all domains, numbered through in their order.

    Items are `{"past_values": (time, num_input_channels) float32, "domain": place of the domain}`.

    Args:
        domains: The domains.
        places: Place of every domain in the model.
    """

    def __init__(self, domains: Sequence[DomainSeries], places: Sequence[int]) -> None:
        self.series = [one for domain in domains for one in domain.series]
        self.places = [place for domain, place in zip(domains, places, strict=True) for _ in range(len(domain.series))]

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, index: int) -> dict[str, Any]:
        values = torch.from_numpy(np.array(self.series[index], dtype=np.float32))
        return {"past_values": values, "domain": self.places[index]}


def collate_one_domain(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack the series of one domain, padded with NaN at the end.

    Returns:
        `past_values` (batch_size, sequence_length, num_input_channels) and `domain`.

    Raises:
        ValueError: The items are of several domains.
    """
    places = {item["domain"] for item in items}
    if len(places) != 1:
        raise ValueError(f"A batch holds items of the domains {sorted(places)}; every batch needs one domain.")
    return {"past_values": stack_series([item["past_values"] for item in items]), "domain": places.pop()}


def stack_series(series: Sequence[torch.Tensor | np.ndarray]) -> torch.Tensor:
    """Stack series (time, num_channels) to (batch_size, sequence_length, num_channels) float32, NaN behind the end."""
    tensors = [torch.as_tensor(one, dtype=torch.float32) for one in series]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=float("nan"))


def series_in_batches(series: Sequence[np.ndarray], num_steps: int = 65_536) -> Iterator[torch.Tensor]:
    """Yield all series in order, in batches of about so many steps and at least one series.

    Args:
        series: Arrays (time, num_channels).
        num_steps: Steps of a batch, padding included.
    """
    batch: list[np.ndarray] = []
    for one in series:
        longest = max([len(one), *map(len, batch)])
        if batch and longest * (len(batch) + 1) > num_steps:
            yield stack_series([np.array(part) for part in batch])
            batch = []
        batch.append(one)
    if batch:
        yield stack_series([np.array(part) for part in batch])
