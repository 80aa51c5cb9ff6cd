"""Picture of a detection: the series, the score with its threshold, and the alarms through both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .inference.detection import Detection

SHOWN_CHANNELS = 5
_SERIES, _SCORE, _ALARM, _REFERENCE = "#0072b2", "#4d4d4d", "#d55e00", "#56b4e9"
_FEWEST_SHOWN = 1 / 400  # an alarm is at least so wide a part of the picture, to be seen


def plot_detection(
    detection: Detection,
    values: np.ndarray,
    path: str | Path,
    *,
    channel_names: Sequence[str] = (),
    title: str = "Alarms",
) -> Path:
    """Draw a series channel by channel, its scores below, and the alarms across all.

    Args:
        detection: What `detect` found.
        values: (time, channel) the series in its own units; of more than 5 channels the first 5 are drawn.
        path: Where to write the picture; the suffix gives the format.
        channel_names: Names of the channels.
        title: What stands above the picture.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The lengths differ.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = np.asarray(values).reshape(len(values), -1)
    if len(values) != len(detection.scores):
        raise ValueError(f"The series has {len(values)} steps, and there are {len(detection.scores)} scores.")
    times = np.arange(len(values)) if detection.timestamps is None else np.asarray(detection.timestamps)
    shown = min(values.shape[1], SHOWN_CHANNELS)
    figure = Figure(figsize=(11.0, 1.3 * shown + 2.8), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.subplots(shown + 1, 1, sharex=True, squeeze=False, height_ratios=[1.0] * shown + [1.2])[:, 0]
    for channel, axes in enumerate(rows[:-1]):
        axes.plot(times, values[:, channel], color=_SERIES, linewidth=0.9)
        name = channel_names[channel] if channel < len(channel_names) else f"channel {channel}"
        axes.set_ylabel(str(name)[:24])
    _draw_scores(rows[-1], times, detection)
    for axes in rows:
        _mark(axes, times, detection)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.005)
    number = len(detection.alarms)
    more = f", {shown} of {values.shape[1]} channels" if shown < values.shape[1] else ""
    rows[0].set_title(
        f"{title} ({number} alarm{'' if number == 1 else 's'}{more})", fontsize=12, fontweight="bold", loc="left"
    )
    _add_legend(figure, detection)
    figure.savefig(path)
    return Path(path)


def _draw_scores(axes: Any, times: np.ndarray, detection: Detection) -> None:
    axes.plot(times, detection.scores, color=_SCORE, linewidth=0.9)
    axes.axhline(detection.threshold, color=_ALARM, linestyle="--", linewidth=1.2)
    axes.set_ylabel("score")
    axes.set_xlabel("timestamp" if detection.timestamps is None else "")


def _mark(axes: Any, times: np.ndarray, detection: Detection) -> None:
    """Shade the reference part and the alarms; a short alarm is widened so far that it can be seen."""
    if detection.reference_length:
        axes.axvspan(times[0], times[detection.reference_length - 1], color=_REFERENCE, alpha=0.12, linewidth=0)
    narrowest = max(1, round(len(times) * _FEWEST_SHOWN))
    for alarm in detection.alarms:
        around = max(0, narrowest - (alarm.end - alarm.start)) / 2
        begin, end = max(0, int(alarm.start - around)), min(len(times) - 1, int(np.ceil(alarm.end + around)))
        axes.axvspan(times[begin], times[end], color=_ALARM, alpha=0.35, linewidth=0)


def _add_legend(figure: Any, detection: Detection) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    score = str(detection.provenance.get("score", "score"))
    handles: list[Any] = [
        Line2D([], [], color=_SCORE, label=score),
        Line2D([], [], color=_ALARM, linestyle="--", label=f"threshold {detection.threshold:.3g}"),
        Patch(color=_ALARM, alpha=0.35, label="alarm"),
    ]
    if detection.reference_length:
        handles.append(Patch(color=_REFERENCE, alpha=0.2, label="reference"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
