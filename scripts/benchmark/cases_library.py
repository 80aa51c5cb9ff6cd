"""The measured cases of what all methods share: the ridge protocol of forecasts, and windows of series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .inputs import etth1_like_series, timed

HORIZONS = (24, 48, 168, 336, 720)


def ridge_protocol(plain: bool) -> dict[str, Any]:
    """Choose alpha and fit the ridge for all horizons; representations of 320 dimensions, 7 target channels."""
    from hf_tsrep.evaluation.forecasting import ridge_forecast

    generator = np.random.default_rng(0)
    targets = etth1_like_series()[:14400, :7]
    mixing = generator.standard_normal((7, 320))
    noise = generator.standard_normal((14400, 320))
    representations = np.tanh(targets @ mixing + 0.3 * noise).astype(np.float32)
    bounds = {"train": (0, 8640), "validation": (8640, 11520), "test": (11520, 14400)}
    run = _plain_ridge if plain else ridge_forecast
    seconds, result = timed(lambda: run(representations, targets, bounds, HORIZONS))
    return {"seconds": seconds, "sample": _ridge_numbers(result)}


def _ridge_numbers(result: Any) -> list[float]:
    numbers: list[float] = []
    for horizon in HORIZONS:
        numbers += [result[horizon].alpha, result[horizon].mse, result[horizon].mae]
    return numbers


def _plain_ridge(representations: np.ndarray, targets: np.ndarray, bounds: dict, horizons: tuple[int, ...]) -> dict:
    from sklearn.linear_model import Ridge

    from hf_tsrep.evaluation.forecasting import HorizonResult

    def samples(split: str, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        start, stop = bounds[split]
        rows, values = representations[start:stop], targets[start:stop]
        future = np.stack([values[1 + step : len(values) - horizon + 1 + step] for step in range(horizon)], axis=1)
        skip = 200 if split == "train" else 0
        return rows[: len(future)][skip:], future.reshape(len(future), -1)[skip:]

    results = {}
    for horizon in horizons:
        train, validation, test = (samples(split, horizon) for split in ("train", "validation", "test"))
        scores = {}
        for alpha in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
            difference = Ridge(alpha=alpha).fit(*train).predict(validation[0]) - validation[1]
            scores[alpha] = np.sqrt((difference**2).mean()) + np.abs(difference).mean()
        chosen = min(scores, key=scores.__getitem__)
        difference = Ridge(alpha=chosen).fit(*train).predict(test[0]) - test[1]
        errors = float((difference**2).mean()), float(np.abs(difference).mean())
        results[horizon] = HorizonResult(horizon, chosen, scores[chosen], *errors, None, None, len(test[0]))
    return results


def windows(plain: bool) -> dict[str, Any]:
    """Cut 100,000 windows of 200 x 7 in batches of 64; the plain side slices and stacks them one by one."""
    from hf_tsrep.data import SeriesBank, WindowDataset

    series = [etth1_like_series()[:, :7].copy()]
    dataset = WindowDataset(SeriesBank(series), window_length=200)
    order = np.random.default_rng(0).integers(0, len(dataset), 100_000)
    total = 0.0

    def cut() -> None:
        nonlocal total
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            if plain:
                batch = torch.from_numpy(np.stack([series[0][index : index + 200] for index in chosen]))
            else:
                batch = dataset.batch(chosen.tolist())["past_values"]
            total += float(batch[0, 0, 0])

    cut()
    total = 0.0
    seconds, _ = timed(cut)
    return {"seconds": seconds, "sample": [total]}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {"ridge_protocol": ridge_protocol, "windows": windows}
