"""Pooling over timestamps: one embedding a series, or a neighbourhood around every timestamp."""

from __future__ import annotations

import torch
import torch.nn.functional as F

INSTANCE_POOLINGS = ("max", "mean", "last")


def pool_instance(embeddings: torch.Tensor, observed: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Pool the observed timestamps of every series.

    Args:
        embeddings: (batch_size, sequence_length, embedding_size).
        observed: (batch_size, sequence_length) bool; None for all.
        pooling: "max", "mean" or "last" (the last observed timestamp).

    Returns:
        (batch_size, embedding_size); zeros for a series without an observed timestamp.

    Raises:
        ValueError: The pooling is unknown.
    """
    if pooling not in INSTANCE_POOLINGS:
        raise ValueError(f"Unknown pooling {pooling!r} for one embedding a series; choose 'max', 'mean' or 'last'.")
    if observed is None:
        if pooling == "max":
            return embeddings.amax(1)
        return embeddings.mean(1) if pooling == "mean" else embeddings[:, -1]
    seen = observed.unsqueeze(-1)
    if pooling == "max":
        pooled = embeddings.masked_fill(~seen, -torch.inf).amax(1)
        return pooled.masked_fill(pooled == -torch.inf, 0.0)
    if pooling == "mean":
        return (embeddings * seen).sum(1) / seen.sum(1).clamp(min=1)
    steps = torch.arange(observed.shape[1], device=observed.device)
    # The product is 0 where nothing is observed: row 0 is picked then, and set to zero below.
    last = (steps * observed).amax(1)
    picked = embeddings[torch.arange(embeddings.shape[0], device=embeddings.device), last]
    return picked * observed.any(1, keepdim=True)


def pool_channels(embeddings: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Take the mean over independent channels with an observed value.

    Args:
        embeddings: (batch_size, num_channels, ..., width).
        seen: (batch_size, num_channels) bool, channels with an observed value. A series without any has the mean of
            what all channels make of nothing.

    Returns:
        (batch_size, ..., width).
    """
    counted = (seen | ~seen.any(1, keepdim=True)).view(*seen.shape, *(1,) * (embeddings.ndim - 2))
    return (embeddings * counted).sum(1) / counted.sum(1)


def max_pool_window(embeddings: torch.Tensor, window: int, observed: torch.Tensor | None = None) -> torch.Tensor:
    """Max-pool a window of timestamps around each one.

    Args:
        embeddings: (batch_size, sequence_length, embedding_size).
        window: Number of timestamps; timestamp t sees t - window // 2 and the window - 1 after it, as far as they
            exist.
        observed: (batch_size, sequence_length) bool; the others are left out. None for all.

    Returns:
        (batch_size, sequence_length, embedding_size); zeros where the window holds no observed timestamp.
    """
    if observed is not None:
        embeddings = embeddings.masked_fill(~observed.unsqueeze(-1), -torch.inf)
    before, after = window // 2, window - 1 - window // 2
    if torch.compiler.is_compiling():  # the pooling of one axis, and a bound on the window, would serve one length
        rows = F.pad(embeddings.transpose(1, 2), (before, after), value=-torch.inf)
        pooled = F.max_pool2d(rows.unsqueeze(2), (1, window), stride=1).squeeze(2).transpose(1, 2)
    else:
        # A window that reaches beyond all timestamps on a side sees no more than one that reaches the last of them.
        before, after = (min(side, embeddings.shape[1]) for side in (before, after))
        rows = F.pad(embeddings.transpose(1, 2), (before, after), value=-torch.inf)
        pooled = F.max_pool1d(rows, before + 1 + after, stride=1).transpose(1, 2)
    return pooled if observed is None else pooled.masked_fill(pooled == -torch.inf, 0.0)


def multiscale_windows(sequence_length: int) -> list[int]:
    """Return TS2Vec's window sizes 2^(p+1) + 1 for p = 0, 1, ... while 2^p + 1 < sequence_length."""
    windows, scale = [], 1
    while scale + 1 < sequence_length:
        windows.append(2 * scale + 1)
        scale *= 2
    return windows


def pool_timestamps(
    embeddings: torch.Tensor, pooling: int | str | None, observed: torch.Tensor | None = None
) -> torch.Tensor:
    """Let every timestamp see its neighbourhood.

    Args:
        embeddings: (batch_size, sequence_length, embedding_size).
        pooling: None for the embeddings themselves, an integer for a max-pooled window of so many timestamps,
            "multiscale" for all windows of multiscale_windows beside each other.
        observed: (batch_size, sequence_length) bool; the others are left out. None for all.

    Returns:
        (batch_size, sequence_length, embedding_size), or num_scales * embedding_size for "multiscale".

    Raises:
        ValueError: The pooling is unknown, or a window below one timestamp.
    """
    if pooling is None:
        return embeddings
    if pooling == "multiscale":
        windows = multiscale_windows(embeddings.shape[1])
        if not windows:
            raise ValueError(
                f"pooling='multiscale' needs at least 3 timestamps, but the series has {embeddings.shape[1]}; "
                "use pooling=None for it."
            )
        return torch.cat([max_pool_window(embeddings, window, observed) for window in windows], dim=-1)
    if isinstance(pooling, bool) or not isinstance(pooling, int) or pooling < 1:
        raise ValueError(
            f"pooling={pooling!r} does not fit level='timestamp'; use None, a number of timestamps or 'multiscale'."
        )
    return max_pool_window(embeddings, pooling, observed)
