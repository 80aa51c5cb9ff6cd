"""Pictures of which segment explains which timestamp, for any model whose timestamps attend to segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's colours, as in visualization.py.
_CHANNEL_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")


@dataclass(frozen=True)
class SegmentAttention:
    """How the timestamps of one series attend to its segments.

    Attributes:
        weights: (time, num_segments), non-negative; a row sums to 1, or to 0 beyond the series.
        starts: (num_segments,) first timestamp of each segment.
        lengths: (num_segments,) number of its timestamps.
        channels: (num_segments,) its channel.
    """

    weights: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    channels: np.ndarray

    def times_even_share(self) -> np.ndarray:
        """Return the weights in units of the weight that all segments would have alike: (time, num_segments)."""
        return self.weights * len(self.starts)

    def by_timestamp(self) -> np.ndarray:
        """Return how much every timestamp is attended to, in units of what it would be if all segments were alike.

        The weight of a segment is spread evenly over it. (time,), 0 where no segment lies.
        """
        received, even = np.zeros((2, len(self.weights)))
        share = self.weights.sum() / len(self.starts)
        for weight, start, length in zip(self.weights.sum(0), self.starts, self.lengths, strict=True):
            received[start : start + length] += weight / length
            even[start : start + length] += share / length
        return received / np.where(even > 0, even, 1.0)


def segment_attention(model: Any, series: np.ndarray, layer: int = -1) -> SegmentAttention:
    """Ask a model how the timestamps of a series attend to its segments.

    Args:
        model: An encoder whose `forward` takes output_attentions and returns cross_attentions (a tuple with one
            (batch_size, num_heads, time, num_segments) a layer), spans (batch_size, num_segments, 3) with first
            timestamp, length and channel, and observed_segments (batch_size, num_segments).
        series: (time, num_channels) or (time,), NaN = missing.
        layer: Which layer; -1 for the last.

    Returns:
        The mean over the heads, segments without an observed value left out, sorted by channel, length and start.

    Raises:
        ValueError: The model has no such attention, or no such layer.
    """
    import inspect

    import torch

    encoder = getattr(model, "base_model", model)
    if "output_attentions" not in inspect.signature(encoder.forward).parameters:
        raise ValueError(f"{type(encoder).__name__} returns no attention of timestamps to segments.")
    values = np.asarray(series, dtype=np.float32)
    values = values[:, np.newaxis] if values.ndim == 1 else values
    was_training = encoder.training
    try:
        with torch.inference_mode():
            output = encoder.eval()(torch.from_numpy(values).unsqueeze(0).to(encoder.device), output_attentions=True)
    finally:
        encoder.train(was_training)
    layers = getattr(output, "cross_attentions", None) or ()
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"layer={layer}, but {type(encoder).__name__} returned {len(layers)} layers of attention.")
    spans = output.spans[0].cpu().numpy()
    kept = np.flatnonzero(output.observed_segments[0].cpu().numpy())
    start, length, channel = spans[kept].T
    order = np.lexsort((start, length, channel))
    weights = layers[layer][0].float().mean(0).cpu().numpy()[:, kept[order]]
    return SegmentAttention(weights, start[order], length[order], channel[order])


def plot_cross_attention(
    model: Any,
    series: np.ndarray,
    path: str | Path,
    *,
    layer: int = -1,
    title: str = "Which segment explains which step",
) -> Path:
    """Draw a series, what of it is attended to, and which segment every timestamp reads.

    Above stands the series before what of it is attended to. Below, every row is a segment, drawn as a line where it
    lies; the colours say how much every timestamp reads it: red more, blue less than if all segments were alike.

    Args:
        model: See segment_attention.
        series: (time, num_channels) or (time,), NaN = missing.
        path: Where to write the picture; the suffix gives the format.
        layer: See segment_attention.
        title: What stands above the picture.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: See segment_attention.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    attention = segment_attention(model, series, layer)
    values = np.asarray(series, dtype=float)
    values = values[:, np.newaxis] if values.ndim == 1 else values
    figure = Figure(figsize=(9.0, 7.0), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.2))
    _draw_series(above, values, attention)
    image = _draw_segments(below, attention)
    bar = figure.colorbar(image, ax=below, label="attention, in even shares (mean over heads)", pad=0.01, aspect=30)
    lowest, highest = (float(end or 0.0) for end in image.get_clim())  # both are set by what was drawn
    ticks = np.linspace(lowest, highest, 5).tolist()
    bar.set_ticks(ticks, labels=[f"{2.0**tick:.2f}" for tick in ticks])
    above.set_title(title, loc="left", fontsize=13, fontweight="bold")
    figure.savefig(path)
    return Path(path)


def _factors(shares: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the logarithms (base 2) of even shares, NaN for none at all, and the limit of a scale around 0."""
    factors = np.log2(np.clip(np.where(shares > 0, shares, np.nan), 2.0**-5, 2.0**5))
    return factors, max(float(np.nanmax(np.abs(factors), initial=0.0)), 0.02)


def _draw_series(axes: Any, values: np.ndarray, attention: SegmentAttention) -> None:
    factors, limit = _factors(attention.by_timestamp())
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.06 * max(high - low, 1e-6)
    extent = (-0.5, len(values) - 0.5, low - margin, high + margin)
    colours: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "alpha": 0.45}
    axes.imshow(factors[np.newaxis], aspect="auto", extent=extent, **colours)
    for channel in range(values.shape[1]):
        colour = _CHANNEL_COLOURS[channel % len(_CHANNEL_COLOURS)]
        axes.plot(values[:, channel], color=colour, linewidth=1.4, label=f"channel {channel}")
    axes.set_ylabel("value")
    axes.set_ylim(*extent[2:])
    if 1 < values.shape[1] <= len(_CHANNEL_COLOURS):
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right")


def _draw_segments(axes: Any, attention: SegmentAttention) -> Any:
    num_segments = len(attention.starts)
    factors, limit = _factors(attention.times_even_share().T)
    image = axes.imshow(factors, aspect="auto", cmap="RdBu_r", interpolation="nearest", vmin=-limit, vmax=limit)
    rows = np.arange(num_segments)
    ends = attention.starts + attention.lengths - 1
    axes.hlines(rows, attention.starts, ends, color="#222222", linewidth=min(2.0, 60 / num_segments), alpha=0.7)
    groups = list(dict.fromkeys(zip(attention.channels.tolist(), attention.lengths.tolist(), strict=True)))
    starts_of_groups = [
        int(np.flatnonzero((attention.channels == channel) & (attention.lengths == length))[0])
        for channel, length in groups
    ]
    shown = max(1, len(groups) // 20)
    axes.set_yticks(
        starts_of_groups[::shown], [f"{length} steps, ch. {channel}" for channel, length in groups[::shown]]
    )
    axes.tick_params(axis="y", labelsize=7)
    for start in starts_of_groups[1:]:
        axes.axhline(start - 0.5, color="#bbbbbb", linewidth=0.6)
    axes.set_xlabel("timestamp that reads; black: where the segment lies")
    axes.set_ylabel("segment")
    return image
