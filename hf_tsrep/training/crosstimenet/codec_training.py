"""The training of codecs: its batches, its trainer, first codes, and how a codec is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ...tokenization.codebook_vector_quantization import perplexity_of_counts
from ...tokenization.codec_crosstimenet import CrossTimeNetCodec, patches_with_values
from ...tokenization.series_crosstimenet_codec import ReconstructionQuality
from ..trainer import TimeSeriesTrainer
from .domains import DomainSeries

CODEBOOK_INITIALIZATIONS = ("kmeans", "data", "random")
# Latents that k-means sees at most, and its passes over them; more change the centroids little.
_NUM_LATENTS, _NUM_PASSES = 100_000, 10


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
    """Stack series (time, num_channels) to (batch_size, sequence_length, num_channels) float32, NaN after the end."""
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


class CodecTrainer(TimeSeriesTrainer):
    """A TimeSeriesTrainer for batches of one domain.

    Both terms of the loss are means over what is observed. Processes whose parts of the batch hold unequally much
    weigh in accordingly, so that the gradient is that of one process on the whole batch.
    """

    def join_processes(self, loss: torch.Tensor, outputs: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Weigh the terms by what the process observed, and take the perplexity of the codes of all processes."""
        if self.accelerator.num_processes == 1:
            return loss, outputs
        codec = self.accelerator.unwrap_model(self.model)
        domain = codec.domain_codec(inputs["domain"]).domain
        observed = codec.observed_values(inputs["past_values"], inputs.get("past_observed_mask"), domain)
        patches = patches_with_values(observed, domain)
        counts = torch.bincount(outputs.codes[patches], minlength=domain.codebook_size)
        counts = self.accelerator.reduce(counts, "sum")
        sizes = torch.stack([observed.sum(), patches.sum()]).float()
        shares = sizes * self.accelerator.num_processes / self.accelerator.reduce(sizes, "sum").clamp(min=1)
        outputs.reconstruction_loss = outputs.reconstruction_loss * shares[0]
        outputs.commitment_loss = outputs.commitment_loss * shares[1]
        outputs.codebook_perplexity = perplexity_of_counts(counts)
        outputs.loss = outputs.reconstruction_loss + domain.commitment_weight * outputs.commitment_loss
        return outputs.loss, outputs


@torch.no_grad()
def fit_statistics(codec: CrossTimeNetCodec, domain: int, series: Sequence[np.ndarray]) -> None:
    """Write mean and standard deviation of every channel over the observed values into the codec.

    Args:
        codec: The codec.
        domain: Place of the domain.
        series: Training series, arrays (time, num_input_channels), NaN = missing. A channel without an observed value
            gets mean 0, a constant one scale 1.
    """
    network = codec.domain_codec(domain)
    count: Any = sum((~np.isnan(one)).sum(axis=0) for one in series)
    total: Any = sum(np.nansum(one, axis=0, dtype=np.float64) for one in series)
    mean = total / np.maximum(count, 1)
    squares: Any = sum(np.nansum((one - mean) ** 2, axis=0, dtype=np.float64) for one in series)
    scale = np.sqrt(squares / np.maximum(count, 1))
    # What is constant has only rounding as deviation, which must not be blown up.
    scale = np.where(scale > 1e-6 * np.maximum(1.0, np.abs(mean)), scale, 1.0)
    network.channel_mean.copy_(torch.from_numpy(mean))
    network.channel_scale.copy_(torch.from_numpy(scale))


@torch.no_grad()
def latents_of(codec: CrossTimeNetCodec, domain: int, series: Sequence[np.ndarray]) -> torch.Tensor:
    """Encode series: (num_latents, hidden_size) float32 on the CPU, of patches with an observed value."""
    network = codec.domain_codec(domain)
    was_training = codec.training
    codec.eval()
    found = []
    for batch in series_in_batches(series):
        values = batch.to(codec.device)
        observed = codec.observed_values(values, None, network.domain)
        latents = network.latents(network.normalise(values, observed)).transpose(0, 1)
        found.append(latents[patches_with_values(observed, network.domain)].float().cpu())
    codec.train(was_training)
    return torch.cat(found)


@torch.no_grad()
def initialise_codebook(
    codec: CrossTimeNetCodec, domain: int, latents: torch.Tensor, kind: str, latents_a_step: float, seed: int
) -> None:
    """Give a codebook its first codes.

    Args:
        codec: The codec.
        domain: Place of the domain.
        latents: (num_latents, hidden_size) of training series.
        kind: "kmeans": centroids of the latents, counted as often as a step will use them; "data": latents drawn at
            random; "random": what the codec was initialised with (published).
        latents_a_step: Number of latents in a training step of all processes together.
        seed: Of the draws.

    Raises:
        ValueError: An unknown kind.
    """
    if kind not in CODEBOOK_INITIALIZATIONS:
        known = ", ".join(map(repr, CODEBOOK_INITIALIZATIONS))
        raise ValueError(f"codebook_initialization={kind!r} is unknown; choose one of {known}.")
    if kind == "random":
        return
    codebook = codec.domain_codec(domain).codebook
    size = len(codebook.codes)
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(latents))[:_NUM_LATENTS])
    values = latents.numpy()[chosen]
    if kind == "kmeans":
        codes, counts = _centroids(values, size, seed)
        counts = counts * (latents_a_step / len(values))
    else:
        codes = values[generator.permutation(len(values))[:size]]
        counts = np.full(len(codes), latents_a_step / size)
    if len(codes) < size:  # fewer latents than codes: the rest lies near them, so that no two codes are equal
        again = generator.integers(len(codes), size=size - len(codes))
        noise = generator.normal(size=(len(again), codes.shape[1])) * (values.std() * 1e-2 + 1e-6)
        codes, counts = np.concatenate([codes, codes[again] + noise]), np.concatenate([counts, counts[again]])
    codebook.start_from(
        torch.from_numpy(codes.astype(np.float32)).to(codebook.codes.device),
        torch.from_numpy(np.maximum(counts, 1.0).astype(np.float32)).to(codebook.codes.device),
    )


def _centroids(values: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return k-means centroids (size or fewer, hidden_size) and how many values belong to each."""
    from sklearn.cluster import MiniBatchKMeans

    distinct = len(np.unique(values, axis=0))
    kmeans = MiniBatchKMeans(
        n_clusters=min(size, distinct), random_state=seed, batch_size=8192, max_iter=_NUM_PASSES, n_init=1
    ).fit(values)
    centroids = kmeans.cluster_centers_
    return centroids, np.bincount(kmeans.labels_, minlength=len(centroids)).astype(np.float64)


def share_codebooks(codec: CrossTimeNetCodec) -> None:
    """Give all processes the statistics and codebooks of the first."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        for buffer in codec.buffers():
            distributed.broadcast(buffer, 0)


@torch.no_grad()
def measure_codec(codec: CrossTimeNetCodec, domain: int, series: Sequence[np.ndarray]) -> dict[str, float]:
    """Measure a codec in evaluation mode, as CrossTimeNetTokenizer.evaluate does.

    Args:
        codec: The codec.
        domain: Place of the domain.
        series: Arrays (time, num_input_channels), NaN = missing.

    Returns:
        normalised_mse (of series scaled to mean 0 and deviation 1; 1 is about what the mean alone gives), mse and mae
        in the units of the series, codebook_perplexity, codebook_use (share of the codes that occur) and num_tokens.
    """
    quality = ReconstructionQuality(codec, domain)
    for batch in series_in_batches(series):
        quality.add(batch)
    report = quality.report()
    names = ("normalised_mse", "mse", "mae", "codebook_perplexity", "codebook_use", "num_tokens")
    return {name: float(report[name]) for name in names}
