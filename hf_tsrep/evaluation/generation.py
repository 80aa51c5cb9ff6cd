"""The future as a model tells it by itself, of any length and without training, beside trivial forecasts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data import corpus_metadata, get_series
from ..registry import get_method
from .checks import check_channels, choose_domain, require_splits

HORIZONS = (96, 192, 336, 720)
SEASONS = {"h": 24, "30min": 48, "15min": 96, "10min": 144, "D": 7, "W": 52, "MS": 12, "ME": 12}
"""Steps of the season of a frequency: a day of what comes more often, a week of days, a year of weeks and months."""

Forecast = Callable[[np.ndarray, int], np.ndarray]


def last_value(past: np.ndarray, length: int) -> np.ndarray:
    """Repeat the last value: (num_windows, length, num_channels) of (num_windows, context_length, num_channels)."""
    return np.repeat(past[:, -1:], length, axis=1)


def last_season(past: np.ndarray, length: int, season: int) -> np.ndarray:
    """Repeat the last `season` steps; shapes as in last_value."""
    return np.take(past[:, -season:], np.arange(length) % min(season, past.shape[1]), axis=1)


def evaluate_generation(
    model: Any,
    corpus: Any,
    *,
    horizons: Sequence[int] = HORIZONS,
    context_length: int = 336,
    stride: int = 1,
    split: str = "test",
    season: int | None = None,
    batch_size: int = 64,
    domain: str | None = None,
    seed: int = 0,
    device: Any = None,
    show_progress_bar: bool | None = None,
) -> dict[str, Any]:
    """Evaluate the futures that a model tells by itself, of all lengths from one run a window.

    A window is the `context_length` steps before its future, which lies inside the split; the context may reach into
    the split before it. A shorter horizon has more windows than a longer one, as in published tables.

    Args:
        model: A model of a method that generates (`config.generates`); an encoder is opened again with its head, from
            the folder that it was loaded from.
        corpus: DatasetDict with contiguous splits of the same series in the same order; missing values are left out of
            the errors.
        horizons: Steps ahead.
        context_length: Steps that the model sees.
        stride: Steps between the starts of windows; published: 1.
        split: "test" or "validation".
        season: Steps that the seasonal forecast repeats; default of the frequency.
        batch_size: Windows in one forward pass.
        domain: For methods with domains, of which none generates.
        seed: Of nothing: the evaluation draws nothing.
        device: Where the model runs; None: where it is.
        show_progress_bar: As in `encode`.

    Returns:
        `metrics`: `mse_96`, `mae_96`, ..., and the means `mse`, `mae` over the horizons, on the corpus's scale;
        `details`: the same of the last value and of the last season, and the number of windows; `timings`: seconds of
        `generate`; `settings`.

    Raises:
        ValueError: The model tells no future by itself, a setting is out of range, or no window fits.
    """
    names = ("train", "validation", "test") if split == "test" else ("train", "validation")
    if split not in ("test", "validation"):
        raise ValueError(f"split={split!r} is unknown; choose 'test' or 'validation'.")
    parts = [get_series(require_splits(corpus, names, "generation")[name]) for name in names]
    told, recorded = choose_domain(model, corpus, domain)
    check_channels(model, corpus, told)
    model = _with_head(model)
    chosen = sorted({int(one) for one in horizons})
    if not chosen or chosen[0] < 1 or stride < 1 or context_length < 1:
        raise ValueError(f"horizons={horizons}, stride={stride} and context_length={context_length} must be positive.")
    period = SEASONS.get(corpus_metadata(corpus).freq, 1) if season is None else season
    series = [np.concatenate(stretches) for stretches in zip(*parts, strict=True)]
    begins = [sum(map(len, stretches[:-1])) for stretches in zip(*parts, strict=True)]
    forecasts: dict[str, Forecast] = {
        "model": _of_model(model, device),
        "last_value": last_value,
        "seasonal": lambda past, length: last_season(past, length, period),
    }
    begin = time.perf_counter()
    errors = {name: _Errors(chosen) for name in forecasts}
    for past, future in _batches(series, begins, context_length, chosen, stride, batch_size, show_progress_bar):
        for name, forecast in forecasts.items():
            errors[name].add(forecast(past, future.shape[1]), future)
    found = {name: one.metrics() for name, one in errors.items()}
    return {
        "metrics": found.pop("model"),
        "details": {"trivial": found, "season": period, "num_windows": errors["model"].num_windows},
        "timings": {"generate": time.perf_counter() - begin},
        "settings": {
            "setting": "without fine-tuning" if stride == 1 else f"without fine-tuning, every {stride}th window",
            "task": "forecasting",
            "horizons": chosen,
            "context_length": context_length,
            "stride": stride,
            **({} if split == "test" else {"split": split}),
            **recorded,
        },
    }


def _with_head(model: Any) -> Any:
    if not getattr(getattr(model, "config", None), "generates", False):
        raise ValueError(
            f"{type(model).__name__} tells no future by itself, which the generation protocol measures; use the "
            "protocols linear, finetune or forecasting."
        )
    if hasattr(model, "generate"):
        return model.eval()
    place = str(getattr(model, "name_or_path", "") or "")
    if not place:
        raise ValueError(f"{type(model).__name__} has no head: open it with AutoModelForTimeSeriesPrediction.")
    prediction_class: Any = get_method(model.config.model_type).prediction_class
    return prediction_class.from_pretrained(place).eval()


def _of_model(model: Any, device: Any) -> Forecast:
    import torch

    if device is not None:
        model.to(device)

    def forecast(past: np.ndarray, length: int) -> np.ndarray:
        values = torch.from_numpy(np.ascontiguousarray(past)).to(model.device)
        return model.generate(values, prediction_length=length).float().cpu().numpy()

    return forecast


def _batches(
    series: Sequence[np.ndarray],
    begins: Sequence[int],
    context_length: int,
    horizons: Sequence[int],
    stride: int,
    batch_size: int,
    show_progress_bar: bool | None,
) -> Any:
    """Yield pasts (num_windows, context_length, num_channels), and futures of the longest horizon that fits."""
    from ..modeling.batching_time_series import progress_bar

    groups: dict[int, list[tuple[int, int]]] = {}
    for index, (values, begin) in enumerate(zip(series, begins, strict=True)):
        for start in range(max(begin, context_length), len(values) - horizons[0] + 1, stride):
            longest = max(one for one in horizons if start + one <= len(values))
            groups.setdefault(longest, []).append((index, start))
    total = sum(map(len, groups.values()))
    if not total:
        raise ValueError(f"No window of {context_length} steps with {horizons[0]} after it fits into the split.")
    with progress_bar(total, show_progress_bar, "Generating") as bar:
        for length, places in groups.items():
            for first in range(0, len(places), batch_size):
                chunk = places[first : first + batch_size]
                past = np.stack([series[index][start - context_length : start] for index, start in chunk])
                future = np.stack([series[index][start : start + length] for index, start in chunk])
                yield past.astype(np.float32), future
                bar.update(len(chunk))


class _Errors:
    """Sums of squared and absolute errors of every horizon, over observed values."""

    def __init__(self, horizons: Sequence[int]) -> None:
        self.horizons = horizons
        self.sums = {one: np.zeros(3) for one in horizons}
        self.num_windows = dict.fromkeys(map(str, horizons), 0)

    def add(self, predicted: np.ndarray, future: np.ndarray) -> None:
        """Add a batch of futures (num_windows, length, num_channels), to every horizon that it reaches."""
        difference = (predicted - future[..., -predicted.shape[-1] :]).astype(np.float64)
        observed = np.isfinite(difference)
        difference[~observed] = 0.0
        for horizon in self.horizons:
            if horizon <= future.shape[1]:
                part = difference[:, :horizon]
                self.sums[horizon] += (np.square(part).sum(), np.abs(part).sum(), observed[:, :horizon].sum())
                self.num_windows[str(horizon)] += len(future)

    def metrics(self) -> dict[str, float]:
        """Return flat names and numbers."""
        found: dict[str, float] = {}
        for horizon, (squares, absolutes, count) in self.sums.items():
            if count:
                found |= {f"mse_{horizon}": squares / count, f"mae_{horizon}": absolutes / count}
        means: Mapping[str, float] = {
            name: float(np.mean([value for key, value in found.items() if key.startswith(f"{name}_")]))
            for name in ("mse", "mae")
        }
        return {**{key: float(value) for key, value in found.items()}, **means}
