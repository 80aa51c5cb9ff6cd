"""Pictures of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def plot_loss_curve(history: Sequence[Mapping[str, Any]], path: str | Path, title: str = "Pre-training loss") -> Path:
    """Draw the loss over the steps: as logged, smoothed, and its terms.

    Args:
        history: The Trainer's log history; entries without `loss` are left out.
        path: Where to write the picture; the suffix gives the format.
        title: What stands above it.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The history has no loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    entries = [entry for entry in history if "loss" in entry]
    if not entries:
        raise ValueError("The history has no loss to draw: log at least one step (logging_steps).")
    steps = np.asarray([entry["step"] for entry in entries])
    loss = np.asarray([entry["loss"] for entry in entries], dtype=float)
    figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    few = len(steps) < 40
    axes.plot(
        steps,
        loss,
        color="#4c72b0",
        alpha=0.35,
        linewidth=1.2,
        marker="o" if few else None,
        markersize=3.5,
        label="loss (as logged)",
    )
    axes.plot(steps, smooth(loss), color="#4c72b0", linewidth=2.2, label="loss (smoothed)")
    colours = iter(("#dd8452", "#55a868", "#8172b3", "#937860"))
    terms = sorted({name for entry in entries for name in entry if name.endswith("_loss")})
    for name, colour in zip(terms, colours, strict=False):
        values = np.asarray([entry.get(name, np.nan) for entry in entries], dtype=float)
        label = name.removesuffix("_loss").replace("_", " ") + " term (smoothed)"
        axes.plot(steps, smooth(values), color=colour, linewidth=1.4, linestyle="--", label=label)
    axes.set_title(title, fontsize=12, fontweight="bold", loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    axes.legend(frameon=False)
    figure.savefig(path)
    return Path(path)


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the moving average over about a twentieth of the values to both sides, so that it does not lag behind.

    Args:
        values: (steps,) numbers; NaN counts for nothing.
    """
    scale = max(1.0, len(values) / 40)
    reach = int(4 * scale)
    kernel = np.exp(-np.abs(np.arange(-reach, reach + 1)) / scale)
    here = slice(reach, reach + len(values))
    total = np.convolve(~np.isnan(values), kernel)[here]
    summed = np.convolve(np.nan_to_num(values), kernel)[here]
    return np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan)
