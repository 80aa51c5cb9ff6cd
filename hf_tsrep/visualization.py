"""Pictures of embeddings. matplotlib's object interface only: no global state, no display, safe in threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("tsne", "pca")

# Okabe and Ito's colours, which most colour-blind readers can tell apart, and more for further classes.
_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a800", "#7a4fa3", "#4d4d4d", "#8c564b"),
    *("#1b9e9e", "#e377c2", "#637939", "#ad494a", "#393b79", "#bcbd22", "#17becf", "#7b4173", "#a55194", "#ce6dbd"),
)
_MARKERS = ("o", "^", "s", "D")


def project_embeddings(embeddings: np.ndarray, method: str = "tsne", seed: int = 0) -> np.ndarray:
    """Map embeddings to the plane.

    Args:
        embeddings: (n, embedding_size), finite.
        method: "tsne" for neighbourhoods (distances between groups mean little), "pca" for the two directions of most
            variance (axes and distances mean something).
        seed: Of t-SNE.

    Returns:
        (n, 2) float64.

    Raises:
        ValueError: An unknown method, fewer than 3 embeddings, or values that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(map(repr, METHODS))}.")
    points = np.asarray(embeddings, dtype=np.float64)
    if points.ndim != 2 or len(points) < 3:
        raise ValueError(f"A map needs embeddings (n, embedding_size) with n of at least 3, not {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError(f"Embedding {int(np.argwhere(~np.isfinite(points))[0, 0])} holds a value that is not finite.")
    from sklearn.decomposition import PCA

    if method == "pca":
        plane = PCA(n_components=min(2, points.shape[1]), random_state=seed).fit_transform(points)
        return plane if plane.shape[1] == 2 else np.column_stack([plane, np.zeros(len(plane))])
    from sklearn.manifold import TSNE

    reduced = PCA(n_components=min(50, *points.shape), random_state=seed).fit_transform(points)
    perplexity = min(30.0, (len(points) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced).astype(np.float64)


def plot_embedding_map(
    embeddings: np.ndarray,
    labels: Sequence[Any] | np.ndarray,
    path: str | Path,
    *,
    splits: Sequence[str] | np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    class_title: str = "class",
    title: str = "Embeddings",
    subtitle: str = "",
    method: str = "tsne",
    seed: int = 0,
) -> Path:
    """Draw a map of embeddings: one point a series, coloured by class, with one marker a split.

    Args:
        embeddings: (n, embedding_size).
        labels: (n,) class names, or indices into class_names.
        path: Where to write the picture; the suffix gives the format.
        splits: (n,) names of splits, such as "train" and "test"; None for one marker.
        class_names: Names of the classes; None for the labels as they are.
        class_title: What stands above the classes in the legend.
        title: What stands above the picture.
        subtitle: A second, smaller line.
        method: See project_embeddings.
        seed: See project_embeddings.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The lengths differ, or see project_embeddings.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = np.asarray(labels)
    parts = np.asarray(["all"] * len(labels) if splits is None else splits).astype(str)
    if not len(embeddings) == len(labels) == len(parts):
        raise ValueError(f"There are {len(embeddings)} embeddings, {len(labels)} labels and {len(parts)} splits.")
    plane = project_embeddings(embeddings, method, seed)
    classes = sorted(set(labels.tolist()), key=lambda one: (isinstance(one, str), one))
    names = [str(one) if class_names is None else str(class_names[int(one)]) for one in classes]
    colours = _class_colours(len(classes))
    part_names = list(dict.fromkeys(parts.tolist()))

    figure = Figure(figsize=(8.6, 6.2), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    size = float(np.clip(12_000 / len(plane), 8, 60))
    for index, part in enumerate(part_names):
        for name, colour in zip(classes, colours, strict=True):
            rows = (parts == part) & (labels == name)
            axes.scatter(*plane[rows].T, **_marker(index, colour, size))
    _label_axes(axes, method)
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=24 if subtitle else 10)
    if subtitle:
        place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, 8), "textcoords": "offset points"}
        axes.annotate(subtitle, (0, 1), fontsize=9.5, color="#555555", **place)
    _add_legends(axes, names, colours, part_names, parts, class_title)
    figure.savefig(path)
    return Path(path)


def _class_colours(count: int) -> list[Any]:
    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    from matplotlib import colormaps

    return [colormaps["turbo"](value) for value in np.linspace(0.03, 0.97, count)]


def _marker(index: int, colour: Any, size: float) -> dict[str, Any]:
    """Return how a split's points look: filled circles for the first, open shapes for the others."""
    if index == 0:
        return {"s": size, "marker": "o", "color": colour, "alpha": 0.75, "linewidths": 0, "zorder": 2}
    style = {"s": size * 0.9, "marker": _MARKERS[index % len(_MARKERS)], "facecolors": "none", "edgecolors": colour}
    return {**style, "linewidths": 1.1, "alpha": 0.9, "zorder": 3}


def _label_axes(axes: Any, method: str) -> None:
    name = {"tsne": "t-SNE", "pca": "principal component"}[method]
    axes.set_xlabel(f"{name} 1", color="#555555")
    axes.set_ylabel(f"{name} 2", color="#555555")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.04)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")


def _add_legends(
    axes: Any, names: list[str], colours: list[Any], part_names: list[str], parts: np.ndarray, class_title: str
) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", label=label, **style)

    if len(part_names) > 1:
        shapes = [
            entry(
                f"{part} ({int((parts == part).sum())})",
                marker="o" if index == 0 else _MARKERS[index % len(_MARKERS)],
                markersize=7,
                markerfacecolor="#666666" if index == 0 else "none",
                markeredgecolor="#666666",
            )
            for index, part in enumerate(part_names)
        ]
        first = axes.legend(
            handles=shapes, title="split", loc="lower left", bbox_to_anchor=(1.01, 0), frameon=False, alignment="left"
        )
        axes.add_artist(first)
        first.set_clip_on(False)  # otherwise the layout leaves no room for it
    shown = 24
    handles = [
        entry(name, marker="o", markersize=7, color=colour)
        for name, colour in zip(names[:shown], colours[:shown], strict=True)
    ]
    if len(names) > shown:
        handles.append(entry(f"and {len(names) - shown} more", marker="none"))
    axes.legend(
        handles=handles,
        title=class_title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        alignment="left",
        ncols=1 if len(handles) <= 14 else 2,
    )


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
