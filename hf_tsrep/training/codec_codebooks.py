"""How a codec's training begins and how it is measured: statistics, first codes, reconstruction and use of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..tokenization.codec_crosstimenet import CrossTimeNetCodec, ReconstructionQuality, patches_with_values
from .codec_data import series_in_batches

CODEBOOK_INITIALIZATIONS = ("kmeans", "data", "random")
# Latents that k-means sees at most, and its passes over them; more change the centroids little.
_NUM_LATENTS, _NUM_PASSES = 100_000, 10


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
