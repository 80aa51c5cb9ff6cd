"""`encode`: from whatever holds series to embeddings, for every method.

Series of one length share a batch and nothing is ever padded, so that the order of the series and the batch size
change a result by rounding at most, about 1e-5 of its size: matrices of another size are summed in another order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from .batching_time_series import (
    equal_length_batches,
    progress_bar,
    require_finite,
    require_room,
    warn_of_attention,
    warn_of_missing,
)
from .layers_pooling import INSTANCE_POOLINGS, pool_instance, pool_timestamps
from .reading_time_series import is_one_series, read_series

LEVELS = ("instance", "timestamp", "window")


@dataclass(frozen=True)
class EncodeSettings:
    """What `encode` was asked for; see TimeSeriesPreTrainedModel.encode.

    Raises:
        ValueError: A setting is out of its range or does not fit another one.
    """

    level: str
    window_length: int | None
    stride: int | None
    causal: bool
    pooling: str | int | None
    batch_size: int
    normalize: bool
    show_progress_bar: bool | None
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level={self.level!r} is unknown; choose one of {', '.join(map(repr, LEVELS))}.")
        self._check_whole_numbers()
        if self.window_length is None:
            self._check_without_window()
        elif self.level != "window":
            self._check_sliding(self.window_length)
        if self.level != "timestamp" and self.pooling not in (None, *INSTANCE_POOLINGS):
            raise ValueError(
                f"pooling={self.pooling!r} does not fit level={self.level!r}; choose 'max', 'mean' or 'last'."
            )
        if self.level == "window" and self.causal:
            raise ValueError(
                "causal=True has no meaning for level='window': a window is encoded as a series of its own."
            )

    def _check_whole_numbers(self) -> None:
        for name in ("window_length", "stride", "batch_size", "truncate_dim"):
            value = getattr(self, name)
            if value is None and name != "batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")

    def _check_without_window(self) -> None:
        for name, given in (("stride", self.stride is not None), ("causal", self.causal)):
            if given:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} needs window_length, the number of steps to look at."
                )
        if self.level == "window":
            raise ValueError("level='window' needs window_length, the number of steps of a window.")

    def _check_sliding(self, window_length: int) -> None:
        stride = self.stride or 1
        if stride > window_length:
            raise ValueError(
                f"stride={stride} is longer than window_length={window_length}: timestamps would be left out. "
                "Choose a stride of at most the window length."
            )
        if not self.causal and (window_length - stride) % 2:
            raise ValueError(
                f"window_length={window_length} cannot lie evenly around stride={stride} steps; "
                f"use window_length={window_length + 1}, another stride, or causal=True."
            )

    def sliding_over(self, sequence_length: int, ignores_padding: bool) -> tuple[tuple[int, int], int]:
        """Return how many steps a sliding window sees before and after those that it encodes, and how many these are.

        Where padding is ignored, what would lie beyond the other end of the series is left out.
        """
        assert self.window_length is not None, "only a sliding window has a context"
        stride = self.stride or 1
        around = self.window_length - stride
        before, after = (around, 0) if self.causal else (around // 2, around // 2)
        if not ignores_padding or self.pooling == "multiscale":  # its sizes are those that a window has room for
            return (before, after), stride
        return (min(before, sequence_length), min(after, sequence_length)), min(stride, sequence_length)

    def windows_of(self, sequence_length: int, ignores_padding: bool) -> tuple[int | None, int]:
        """Return the length of a window, None for the whole series, and how many of them a series has."""
        if self.window_length is None:
            return None, 1
        if self.level == "window":
            return min(self.window_length, sequence_length), -(-sequence_length // (self.stride or self.window_length))
        context, stride = self.sliding_over(sequence_length, ignores_padding)
        return sum(context) + stride, -(-sequence_length // stride)


def as_series_list(series: Any, num_channels: int | None, layout: str | None = None) -> tuple[list[np.ndarray], bool]:
    """Turn any holder of series into a list of arrays, checked.

    Args:
        series: One array or DataFrame (time, channel), an array (series, time, channel), or a list or datasets column
            of arrays (time, channel) of any lengths; (time,) will do for one channel.
        num_channels: Number of channels that the model expects; None for any, the same of all series.
        layout: See `reading_time_series.in_layout`.

    Returns:
        The arrays (time, channel) in float32, and whether it was one series.

    Raises:
        TypeError: It holds no series.
        ValueError: A series is empty, has another number of channels, or holds text or infinite values.
    """
    if isinstance(series, dict) or hasattr(series, "column_names"):
        raise TypeError(
            f"encode takes arrays, not a {type(series).__name__}; pass its column, such as dataset['series']."
        )
    if not hasattr(series, "__iter__"):
        raise TypeError(f"encode takes one series or a list of series, not a {type(series).__name__}.")
    is_one = is_one_series(series)
    return list(read_series(series, num_channels, is_one, layout)), is_one


def encode_series(
    model: Any, series: list[np.ndarray], settings: EncodeSettings, method_arguments: dict[str, Any]
) -> list[np.ndarray] | np.ndarray:
    """Encode a checked list of series.

    Args:
        model: The encoder.
        series: Arrays (time, channel) in float32.
        settings: What was asked for.
        method_arguments: Further arguments of the method's `embed_timestamps`.

    Returns:
        "instance": (num_series, embedding_size). "timestamp": a list of (time, embedding_size). "window": a list of
        (num_windows, embedding_size).

    Raises:
        ValueError: A window that no machine holds, or an embedding that is not finite; the message names the series.
    """
    warn_of_missing(model, series, model.channel_names_for(**method_arguments))
    longest = max(len(values) for values in series)
    window_length, num_windows = settings.windows_of(longest, model.config.ignores_padding)
    if window_length is not None:
        require_room(model, window_length)
    warn_of_attention(model, longest, method_arguments, window_length, num_windows)
    results = _encode_as_asked(model, series, settings, method_arguments)
    require_finite(results, series, "embedding")
    return results


def _encode_as_asked(
    model: Any, series: list[np.ndarray], settings: EncodeSettings, method_arguments: dict[str, Any]
) -> list[np.ndarray] | np.ndarray:
    if settings.level == "window":
        return _encode_windows(model, series, settings, method_arguments)
    results: list[np.ndarray] | np.ndarray
    with progress_bar(len(series), settings.show_progress_bar, "Encoding") as bar:
        if settings.window_length is not None:
            results = [_slide_one(model, values, settings, method_arguments, bar) for values in series]
        else:
            results = _encode_whole(model, series, settings, method_arguments, bar)
    return np.stack(results) if settings.level == "instance" and isinstance(results, list) else results


def _finish(embeddings: torch.Tensor, settings: EncodeSettings) -> torch.Tensor:
    embeddings = embeddings[..., : settings.truncate_dim].float()
    if settings.normalize:
        # Squares of numbers beyond 1e19 are infinite: a power of two takes the size away, and no digit.
        _, exponent = torch.frexp(embeddings.abs().amax(-1, keepdim=True))
        embeddings = torch.nn.functional.normalize(torch.ldexp(embeddings, -exponent), dim=-1)
    return embeddings.cpu()


def _instance_pooling(model: Any, settings: EncodeSettings) -> str:
    return cast(str, settings.pooling or model.config.pooling)  # EncodeSettings lets only names of poolings through


def _encode_whole(
    model: Any, series: list[np.ndarray], settings: EncodeSettings, method_arguments: dict[str, Any], bar: Any
) -> list[np.ndarray] | np.ndarray:
    lengths = [len(values) for values in series]
    results: Any = [None] * len(series)
    alike = len(set(lengths)) == 1
    for indices in equal_length_batches(lengths, settings.batch_size):
        batch = torch.from_numpy(np.stack([series[index] for index in indices])).to(model.device)
        embeddings = _finish(_embed_batch(model, batch, settings, method_arguments), settings)
        if isinstance(results, list) and (alike or settings.level == "instance"):
            results = np.empty((len(series), *embeddings.shape[1:]), dtype=np.float32)
        if isinstance(results, list):
            for index, embedding in zip(indices, embeddings, strict=True):
                results[index] = embedding.numpy().copy()
        elif alike:  # the indices are consecutive
            torch.from_numpy(results[indices[0] : indices[-1] + 1]).copy_(embeddings)
        else:
            results[indices] = embeddings.numpy()
        bar.update(len(indices))
    return results


def _embed_batch(
    model: Any, batch: torch.Tensor, settings: EncodeSettings, method_arguments: dict[str, Any]
) -> torch.Tensor:
    if settings.level == "instance" and settings.pooling is None:
        return model.embed_instances(batch, **method_arguments)
    embeddings, pooled = model.embed_timestamps(batch, **method_arguments)
    if settings.level == "instance":
        return pool_instance(embeddings, pooled, _instance_pooling(model, settings))
    return pool_timestamps(embeddings, settings.pooling, pooled)


def _slide_one(
    model: Any, values: np.ndarray, settings: EncodeSettings, method_arguments: dict[str, Any], bar: Any
) -> np.ndarray:
    context, stride = settings.sliding_over(len(values), model.config.ignores_padding)
    tensor = torch.from_numpy(values).to(model.device)
    embeddings = model.slide(
        tensor,
        context=context,
        stride=stride,
        batch_size=settings.batch_size,
        pooling=settings.pooling if settings.level == "timestamp" else None,
        **method_arguments,
    )[: len(values)]
    if settings.level == "instance":
        pooled = model.pooled_timestamps(model.observed_timestamps(~tensor.isnan()).unsqueeze(0))
        embeddings = pool_instance(embeddings.unsqueeze(0), pooled, _instance_pooling(model, settings))[0]
    bar.update(1)
    return _finish(embeddings, settings).numpy()


def _encode_windows(
    model: Any, series: list[np.ndarray], settings: EncodeSettings, method_arguments: dict[str, Any]
) -> list[np.ndarray]:
    length = settings.window_length
    assert length is not None, "EncodeSettings refuses level='window' without window_length"
    stride = settings.stride or length
    windows: list[np.ndarray] = []
    counts = []
    for values in series:
        starts = list(range(0, max(len(values) - length, 0) + 1, stride))
        if starts[-1] + length < len(values) and starts[-1] + stride < len(values):
            starts.append(starts[-1] + stride)
        windows += [values[start : start + length] for start in starts]
        counts.append(len(starts))
    with progress_bar(len(windows), settings.show_progress_bar, "Encoding") as bar:
        instance = replace(settings, level="instance", window_length=None, stride=None, show_progress_bar=None)
        embeddings = np.asarray(_encode_whole(model, windows, instance, method_arguments, bar))
    return np.split(embeddings, np.cumsum(counts)[:-1])


def slide_by_windows(
    model: Any,
    values: torch.Tensor,
    context: tuple[int, int],
    stride: int,
    batch_size: int,
    pooling: int | str | None,
    **method_arguments: Any,
) -> torch.Tensor:
    """Encode every window by itself: the direct computation, for any method and any pooling.

    Args:
        model: The encoder.
        values: (time, num_channels), NaN = missing.
        context: Number of steps that a window sees before and after the `stride` steps that it encodes; steps beyond
            the ends are missing.
        stride: Number of steps that a window encodes.
        batch_size: Number of windows in one forward pass.
        pooling: As for pool_timestamps, inside a window.
        method_arguments: Further arguments of the method's `embed_timestamps`.

    Returns:
        (time rounded up to a multiple of stride, embedding_size).
    """
    before, after = context
    num_windows = -(-len(values) // stride)
    beyond = num_windows * stride - len(values) + after
    padded = torch.nn.functional.pad(values, (0, 0, before, beyond), value=torch.nan)
    inside = sliding_span(model.observed_timestamps(~padded.isnan()), context, stride)
    kept = range(before, before + stride)
    return embed_windows(model, padded, inside, kept, after, batch_size, pooling, **method_arguments)


def embed_windows(
    model: Any,
    values: torch.Tensor,
    inside: torch.Tensor,
    kept: range,
    after: int,
    batch_size: int,
    pooling: int | str | None,
    **method_arguments: Any,
) -> torch.Tensor:
    """Encode the windows of a stretch one by one, each as a series of its own, and keep a few timestamps of each.

    Args:
        model: The encoder.
        values: (time, num_channels), NaN = missing; the first window begins with it and the last ends with it.
        inside: (time,) bool, False = beyond the series.
        kept: Positions in a window whose embeddings are kept; the windows move on by their number.
        after: Number of steps of a window after them.
        batch_size: Number of windows in one forward pass.
        pooling: As for pool_timestamps, inside a window.
        method_arguments: Further arguments of the method's `embed_timestamps`.

    Returns:
        (number of windows * number of kept positions, embedding_size).
    """
    length, stride = kept.stop + after, len(kept)
    windows = values.unfold(0, length, stride).transpose(1, 2)
    spans = inside.unfold(0, length, stride)
    results = []
    for start in range(0, len(windows), batch_size):
        chunk = slice(start, start + batch_size)
        embeddings, pooled = model.embed_timestamps(windows[chunk], inside=spans[chunk], **method_arguments)
        embedded = pool_timestamps(embeddings, pooling, pooled)[:, kept.start : kept.stop]
        results.append(embedded.reshape(-1, embedded.shape[-1]))
    return torch.cat(results)


def sliding_span(observed: torch.Tensor, context: tuple[int, int], stride: int) -> torch.Tensor:
    """Mark the timestamps that sliding windows take for the series' own; the others are padding.

    A window that ends with the one step that it encodes must not know whether a gap at its end is the end of the
    series: that would be knowledge of the future. There a series begins with its first observed timestamp and never
    ends.

    Args:
        observed: (time,) bool, the series with what its windows see beyond its ends.
        context: Number of steps that a window sees before and after those that it encodes.
        stride: Number of steps that a window encodes.

    Returns:
        (time,) bool.
    """
    is_causal = stride == 1 and context[1] == 0
    return observed.cumsum(0) > 0 if is_causal else observed_span(observed.unsqueeze(0))[0]


def observed_span(observed: torch.Tensor) -> torch.Tensor:
    """Mark the timestamps from the first to the last observed one.

    Args:
        observed: (batch_size, sequence_length) bool.

    Returns:
        (batch_size, sequence_length) bool, all False for a series without an observed timestamp.
    """
    started = observed.cumsum(1) > 0
    going_on = observed.flip(1).cumsum(1).flip(1) > 0
    return started & going_on


SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


def similarity(first: Any, second: Any, metric: str = "cosine") -> torch.Tensor:
    """Return how similar embeddings are to each other, as sentence-transformers does.

    Args:
        first: (num_first, embedding_size) array or tensor; (embedding_size,) for one.
        second: (num_second, embedding_size), alike.
        metric: "cosine", "dot", or the negative distance, "euclidean" or "manhattan".

    Returns:
        (num_first, num_second) float32: the larger, the more alike.

    Raises:
        ValueError: The metric is unknown, or the embeddings have other sizes.
    """
    if metric not in SIMILARITIES:
        raise ValueError(f"metric={metric!r} is unknown; choose one of {', '.join(SIMILARITIES)}.")
    rows, columns = (torch.atleast_2d(torch.as_tensor(one).float()) for one in (first, second))
    if rows.shape[-1] != columns.shape[-1] or rows.ndim != 2 or columns.ndim != 2:
        raise ValueError(
            f"Embeddings of shapes {tuple(rows.shape)} and {tuple(columns.shape)} cannot be compared; both must be "
            "(number, embedding_size) with one embedding_size."
        )
    if metric in ("euclidean", "manhattan"):
        return -torch.cdist(rows, columns, p=2.0 if metric == "euclidean" else 1.0)
    if metric == "cosine":
        rows, columns = (torch.nn.functional.normalize(one, dim=-1) for one in (rows, columns))
    return rows @ columns.T
