"""A picture of a series beside its reconstruction and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_SERIES, _RECONSTRUCTION = "#4c4c4c", "#d55e00"
_NUM_NAMED_TOKENS = 40


def plot_tokens(
    series: np.ndarray,
    reconstruction: np.ndarray,
    codes: np.ndarray,
    patch_length: int,
    path: str | Path,
    *,
    title: str = "A series and its tokens",
    subtitle: str = "",
    channel_names: Sequence[str] = (),
    num_channels: int = 3,
) -> Path:
    """Draw the first channels of a series, what its tokens decode to, and the tokens below.

    Args:
        series: (time, num_input_channels), NaN = missing.
        reconstruction: The same shape.
        codes: (num_patches,) integers; equal tokens have equal colours.
        patch_length: Number of timestamps of a token.
        path: Where to write the picture; the suffix gives the format.
        title: What stands above it.
        subtitle: A second, smaller line.
        channel_names: Names of the channels.
        num_channels: Number of channels to draw.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The shapes do not fit each other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series, reconstruction, codes = np.asarray(series), np.asarray(reconstruction), np.asarray(codes)
    if series.ndim != 2 or series.shape != reconstruction.shape or len(codes) * patch_length < len(series):
        raise ValueError(
            f"A series {series.shape}, a reconstruction {reconstruction.shape} and {len(codes)} tokens of "
            f"{patch_length} timestamps do not fit each other."
        )
    shown = min(num_channels, series.shape[1])
    figure = Figure(figsize=(10.0, 1.2 + 1.5 * shown), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    rows: Any = figure.subplots(shown + 1, 1, sharex=True, squeeze=False, height_ratios=[3.0] * shown + [0.8])[:, 0]
    steps = np.arange(len(series))
    for channel, axes in enumerate(rows[:-1]):
        axes.plot(steps, series[:, channel], color=_SERIES, linewidth=1.4, label="series")
        axes.plot(
            steps, reconstruction[:, channel], color=_RECONSTRUCTION, linewidth=1.3, alpha=0.9, label="from its tokens"
        )
        name = channel_names[channel] if channel < len(channel_names) else f"channel {channel + 1}"
        axes.set_ylabel(str(name), fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_tokens(rows[-1], codes, patch_length, len(series))
    heading = f"{title}\n" if subtitle else title
    rows[0].set_title(heading, loc="left", fontsize=12, fontweight="bold")
    if subtitle:
        place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
        rows[0].annotate(subtitle, (0, 1), fontsize=9, color="#555555", **place)
    rows[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5, ncols=2)
    figure.savefig(path)
    return Path(path)


def _draw_tokens(axes: Any, codes: np.ndarray, patch_length: int, length: int) -> None:
    """Draw one box a token, with its number where there is room."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    different = {code: place for place, code in enumerate(dict.fromkeys(codes.tolist()))}
    colours = colormaps["hsv"]
    for place, code in enumerate(codes.tolist()):
        # The golden ratio spreads the hues of tokens that are first seen one after the other.
        hue = (different[code] * 0.6180339887) % 1.0
        start, stop = place * patch_length - 0.5, min((place + 1) * patch_length, length) - 0.5
        box = Rectangle((start, 0), stop - start, 1, facecolor=colours(hue), alpha=0.35, edgecolor="white")
        axes.add_patch(box)
        if len(codes) <= 2 * _NUM_NAMED_TOKENS:
            size, turned = (7, 0) if len(codes) <= _NUM_NAMED_TOKENS else (5.5, 90)
            axes.text((start + stop) / 2, 0.5, str(code), ha="center", va="center", fontsize=size, rotation=turned)
    axes.set_xlim(-0.5, length - 0.5)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("tokens", fontsize=8)
    axes.set_xlabel(f"timestamp ({len(different)} different tokens of {len(codes)})", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
