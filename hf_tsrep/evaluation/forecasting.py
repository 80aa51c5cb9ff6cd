"""Forecasting by linear probe, the protocol of TS2Vec (Yue et al., AAAI 2022, section 4.2 and official code)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data import SeriesList, corpus_metadata, get_series
from ..data.scaling import TARGET_SCALER, ChannelScaler
from .checks import check_channels, check_finite, choose_domain, preparation_arguments, require_splits
from .forecast_windows import ForecastSplit
from .ridge import AlphaChoice, Chunks, RegressionMoments, RidgePath, check_alphas, choose_alpha, residual_chunks

ALPHAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
HOURLY_HORIZONS = (24, 48, 168, 336, 720)
OTHER_HORIZONS = (24, 48, 96, 288, 672)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class HorizonResult:
    """Test errors of one horizon.

    Attributes:
        horizon: Steps ahead.
        alpha: The penalty chosen on validation data.
        validation_score: RMSE + MAE of that penalty on validation data.
        mse, mae: Mean squared and absolute error on the test data as given (scaled data in the protocol).
        raw_mse, raw_mae: The same in the units before scaling, where the scale is known.
        num_test_samples: Test samples the errors are means of.
    """

    horizon: int
    alpha: float
    validation_score: float
    mse: float
    mae: float
    raw_mse: float | None
    raw_mae: float | None
    num_test_samples: int


def default_horizons(name: str, freq: str = "") -> tuple[int, ...]:
    """Return the horizons of the protocol: one set for ETTh and electricity, one for every other corpus.

    Args:
        name: Corpus name, such as `ett/ETTh1`.
        freq: pandas frequency; unknown names with hourly data get the hourly horizons.
    """
    short = name.rsplit("/", 1)[-1].lower()
    hourly = short.startswith(("etth", "electricity")) or (not short.startswith("ett") and freq.lower() in ("h", "1h"))
    return HOURLY_HORIZONS if hourly else OTHER_HORIZONS


def ridge_forecast(
    representations: np.ndarray | Sequence[np.ndarray],
    targets: np.ndarray | Sequence[np.ndarray],
    split_bounds: Mapping[str, tuple[int, int]],
    horizons: Sequence[int],
    *,
    alphas: Sequence[float] = ALPHAS,
    history_to_skip: int = 200,
    max_samples: int = 100_000,
    seed: int = 0,
    target_scale: np.ndarray | None = None,
) -> dict[int, HorizonResult]:
    """Predict the next values of all channels from the representation at each step, by ridge regression.

    Each split is sliced from the series; a sample of horizon H is the representation at step t of the slice and the
    targets `t+1 .. t+H` of the same slice, flattened. For each horizon, alpha is chosen on validation samples by
    RMSE + MAE over all samples and outputs, the model is fitted on training samples only, and the errors are means
    over all test samples and outputs.

    Args:
        representations: (time, embedding_size), or one such array a series. float32 input is predicted in float32 and
            fitted in float64; float64 input is float64 throughout.
        targets: (time, num_channels) in scaled units, or one such array a series.
        split_bounds: `train`, `validation` and `test` -> (start, stop) steps, stop exclusive, the same for all series.
        horizons: Steps ahead.
        alphas: Penalties to choose from.
        history_to_skip: First steps of the training slice that give no training sample (their window is padded).
        max_samples: More training or validation samples than this are subsampled.
        seed: Of the subsampling (scikit-learn's `train_test_split`); 0 in the official code.
        target_scale: (num_channels,) or (num_series, num_channels); the deviation the targets were divided by, for
            errors in raw units.

    Returns:
        horizon -> HorizonResult, in the order of `horizons`.

    Raises:
        ValueError: Unequal lengths, missing or infinite values (named by series, step and column), unknown or empty
            splits, horizons that are too long, penalties that are not positive.
    """
    check_alphas(alphas)
    if len(horizons) == 0 or any(horizon < 1 for horizon in horizons):
        raise ValueError(f"horizons must be steps of at least 1, got {tuple(horizons)!r}.")
    splits = _cut_splits(_as_series_list(representations), _as_series_list(targets), split_bounds, history_to_skip)
    for split in splits.values():
        split.check(max(horizons))
    feature_mean = splits["train"].feature_mean()
    descending = sorted(set(horizons), reverse=True)
    training = _moments_of_horizons(splits["train"], descending, feature_mean, max_samples, seed)
    validating = _moments_of_horizons(splits["validation"], descending, feature_mean, max_samples, seed)
    results: dict[int, HorizonResult] = {}
    for horizon, (train_moments, _), (moments, chunks) in zip(descending, training, validating, strict=True):
        path = RidgePath.fit(train_moments)
        choice = choose_alpha(path, alphas, moments, chunks)
        errors = _test_errors(path, choice.alpha, splits["test"], horizon)
        results[horizon] = _summarise(choice, errors, splits["test"], horizon, target_scale)
    return {horizon: results[horizon] for horizon in horizons}


def evaluate_forecasting(
    model: Any,
    corpus: Any,
    *,
    horizons: Sequence[int] | None = None,
    alphas: Sequence[float] = ALPHAS,
    context_length: int = 201,
    history_to_skip: int | None = None,
    max_samples: int = 100_000,
    batch_size: int = 256,
    domain: str | None = None,
    seed: int = 0,
    device: Any = None,
    show_progress_bar: bool | None = None,
) -> dict[str, Any]:
    """Evaluate a model by linear-probe forecasting.

    Each series (train, validation and test in a row) is encoded once, causally, with one window of `context_length`
    steps ending at every step, so that the representations of a split see the history before it and nothing ahead.

    Args:
        model: Anything with `encode`.
        corpus: DatasetDict with contiguous splits `train`, `validation`, `test` of the same series in the same order,
            scaled on train; its first `num_time_features` channels are inputs only. A method that reads tokens takes
            raw series; its targets are then divided by their deviation in train, as in fine-tuning.
        horizons: Steps ahead; default as published, see `default_horizons`.
        alphas: Penalties to choose from.
        context_length: Steps a representation sees, itself included (201 = the published padding of 200 and the step).
        history_to_skip: Training steps without a full context; default `context_length - 1`.
        max_samples: More training or validation samples than this are subsampled.
        batch_size: Windows encoded at once.
        domain: Which of the model's domains the corpus is (methods with domains); None for the one of its name.
        seed: Of the subsampling.
        device: Where the model runs.
        show_progress_bar: Passed to `encode`.

    Returns:
        `metrics`: flat names such as `mse_24`, `mae_24`, `raw_mse_24`, and the means `mse`, `mae` over the horizons;
        `details`: a list of HorizonResult as dictionaries; `timings`: seconds of `encode` and `ridge`; `settings`.
    """
    metadata = corpus_metadata(corpus)
    parts = {name: get_series(require_splits(corpus, SPLITS, "forecasting")[name]) for name in SPLITS}
    bounds = _common_bounds(parts)
    series = SeriesList(np.concatenate(stretches) for stretches in zip(*(parts[name] for name in SPLITS), strict=True))
    chosen = tuple(horizons) if horizons is not None else default_horizons(metadata.name, metadata.freq)
    skipped = context_length - 1 if history_to_skip is None else history_to_skip
    told, recorded = choose_domain(model, corpus, domain)
    check_channels(model, corpus, told)
    targets = [one[:, metadata.num_time_features :] for one in series]
    targets, scaler = _scaled_targets(model, targets, bounds, metadata.scaler)

    begin = time.perf_counter()
    encoded = model.encode(
        series,
        level="timestamp",
        window_length=context_length,
        stride=1,
        causal=True,
        batch_size=batch_size,
        device=device,
        show_progress_bar=show_progress_bar,
        **told,
        **preparation_arguments(model, corpus),
    )
    encoding_time = time.perf_counter() - begin
    begin = time.perf_counter()
    results = ridge_forecast(
        list(encoded),
        targets,
        bounds,
        chosen,
        alphas=alphas,
        history_to_skip=skipped,
        max_samples=max_samples,
        seed=seed,
        target_scale=_target_scale(scaler, len(targets), targets[0].shape[1]),
    )
    return {
        "metrics": _flat_metrics(results),
        "details": [asdict(result) for result in results.values()],
        "timings": {"encode": encoding_time, "ridge": time.perf_counter() - begin},
        "settings": {
            "horizons": list(chosen),
            "setting": "univariate" if targets[0].shape[1] == 1 and len(targets) == 1 else "multivariate",
            "alphas": list(alphas),
            "context_length": context_length,
            "history_to_skip": skipped,
            "max_samples": max_samples,
            **({} if scaler is metadata.scaler else {"target_scaler": TARGET_SCALER}),
            **recorded,
        },
    }


def _as_series_list(values: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [values] if isinstance(values, np.ndarray) and values.ndim == 2 else list(values)
    for index, array in enumerate(arrays):
        if np.ndim(array) != 2:
            raise ValueError(f"Series {index} has shape {np.shape(array)}; expected (time, columns).")
    return [np.asarray(array) for array in arrays]


def _cut_splits(
    representations: list[np.ndarray],
    targets: list[np.ndarray],
    split_bounds: Mapping[str, tuple[int, int]],
    history_to_skip: int,
) -> dict[str, ForecastSplit]:
    """Slice the series, and shift the targets by their training mean (errors do not depend on it)."""
    if set(split_bounds) != set(SPLITS):
        raise ValueError(f"split_bounds needs exactly {', '.join(SPLITS)}; got {', '.join(map(str, split_bounds))}.")
    if not representations or [len(one) for one in representations] != [len(one) for one in targets]:
        raise ValueError(
            "Each series needs one representation a step: representations have lengths "
            f"{[len(one) for one in representations]}, targets {[len(one) for one in targets]}."
        )
    for name, (start, stop) in split_bounds.items():
        if not 0 <= start < stop <= min(len(one) for one in targets):
            raise ValueError(f"Split {name} is steps {start} to {stop} of {min(len(one) for one in targets)}.")
    dtype = np.float32 if representations[0].dtype == np.float32 else np.float64
    begin = min(start for start, _ in split_bounds.values())
    end = max(stop for _, stop in split_bounds.values())
    check_finite(representations, "representation", begin, end)
    check_finite(targets, "target", begin, end)
    train = slice(*split_bounds["train"])
    shift = np.mean([one[train].mean(axis=0, dtype=np.float64) for one in targets], axis=0)
    return {
        name: ForecastSplit(
            name=name,
            representations=[one[start:stop].astype(dtype, copy=False) for one in representations],
            targets=[np.ascontiguousarray(one[start:stop] - shift, dtype=dtype) for one in targets],
            history_to_skip=history_to_skip if name == "train" else 0,
        )
        for name, (start, stop) in split_bounds.items()
    }


def _moments_of_horizons(
    split: ForecastSplit, horizons: Sequence[int], feature_shift: np.ndarray, max_samples: int, seed: int
) -> Iterator[tuple[RegressionMoments, Callable[[], Chunks]]]:
    """Yield the moments of each horizon, longest first, and a function that gives its samples again.

    The samples of a shorter horizon are those of the longer one and a few more steps, with the leading outputs: each
    step is read once for all horizons. The moments are valid until the next ones are asked for.
    """
    running = RegressionMoments(feature_shift, horizons[0] * split.num_channels)
    read = [split.history_to_skip] * len(split.targets)
    for horizon in horizons:
        num_outputs = horizon * split.num_channels
        num_samples = split.num_samples(horizon)
        if num_samples > max_samples:
            chosen = _subsample(num_samples, max_samples, seed)
            moments = RegressionMoments(feature_shift, num_outputs)
            moments.add(split.chunks_of(horizon, chosen))
            yield moments, _SampleSource(split, horizon, chosen)
            continue
        for index in range(len(read)):
            running.add(split.chunks_between(index, horizon, read[index], split.end(index, horizon)))
            read[index] = split.end(index, horizon)
        yield running.leading(num_outputs), _SampleSource(split, horizon)


@dataclass(frozen=True)
class _SampleSource:
    """Gives the samples of a horizon, as often as they are asked for."""

    split: ForecastSplit
    horizon: int
    samples: np.ndarray | None = None

    def __call__(self) -> Chunks:
        if self.samples is None:
            return self.split.chunks(self.horizon)
        return self.split.chunks_of(self.horizon, self.samples)


def _subsample(num_samples: int, max_samples: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import train_test_split

    return np.asarray(train_test_split(np.arange(num_samples), train_size=max_samples, random_state=seed)[0])


def _test_errors(path: RidgePath, alpha: float, test: ForecastSplit, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of squared and absolute test errors, each (num_series, num_channels)."""
    shape = (len(test.targets), horizon * test.num_channels)
    squared, absolute = np.zeros(shape), np.zeros(shape)
    for index in range(len(test.targets)):
        chunks = test.chunks_between(index, horizon, 0, test.end(index, horizon))
        for _, residual in residual_chunks(path, alpha, chunks):
            squared[index] += np.einsum("ij,ij->j", residual, residual)
            absolute[index] += np.abs(residual, out=residual).sum(axis=0)
    by_channel = (len(test.targets), horizon, test.num_channels)
    return squared.reshape(by_channel).sum(axis=1), absolute.reshape(by_channel).sum(axis=1)


def _summarise(
    choice: AlphaChoice,
    errors: tuple[np.ndarray, np.ndarray],
    test: ForecastSplit,
    horizon: int,
    target_scale: np.ndarray | None,
) -> HorizonResult:
    """Turn sums of squared and absolute errors, (num_series, num_channels) each, into means."""
    squared, absolute = errors
    num_samples = test.num_samples(horizon)
    count = num_samples * horizon * test.num_channels
    raw_mse = raw_mae = None
    if target_scale is not None:
        scale = np.broadcast_to(np.asarray(target_scale, dtype=np.float64), squared.shape)
        raw_mse = float((squared * scale**2).sum() / count)
        raw_mae = float((absolute * scale).sum() / count)
    return HorizonResult(
        horizon=horizon,
        alpha=choice.alpha,
        validation_score=choice.score,
        mse=float(squared.sum() / count),
        mae=float(absolute.sum() / count),
        raw_mse=raw_mse,
        raw_mae=raw_mae,
        num_test_samples=num_samples,
    )


def _common_bounds(parts: Mapping[str, Sequence[np.ndarray]]) -> dict[str, tuple[int, int]]:
    """Return the (start, stop) steps of each split in the concatenated series.

    Raises:
        ValueError: Another number of series in a split, or series of unequal length.
    """
    counts = {name: len(series) for name, series in parts.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Every split needs the same series in the same order; found {counts} series.")
    bounds, start = {}, 0
    for name, series in parts.items():
        lengths = sorted({len(one) for one in series})
        if len(lengths) != 1:
            raise ValueError(f"Split {name}: series of lengths {lengths[:5]}; forecasting needs equal lengths.")
        bounds[name] = (start, start + lengths[0])
        start += lengths[0]
    return bounds


def _scaled_targets(
    model: Any, targets: list[np.ndarray], bounds: Mapping[str, tuple[int, int]], scaler: Mapping[str, Any] | None
) -> tuple[list[np.ndarray], Mapping[str, Any] | None]:
    """Return the targets in the units of the errors, and the scaler that gave them these units.

    The tokenizer of a method that reads tokens takes raw values: where the corpus is not scaled, the targets are.
    """
    if scaler is not None or getattr(model, "main_input_name", "past_values") == "past_values":
        return targets, scaler
    fitted = ChannelScaler.fit([one[slice(*bounds["train"])] for one in targets], kind=TARGET_SCALER)
    return [fitted.transform(one) for one in targets], fitted.to_dict()


def _target_scale(scaler: Mapping[str, Any] | None, num_series: int, num_channels: int) -> np.ndarray | None:
    """Return the scale of the targets, by channel or by series, or None where it is unknown."""
    scale = np.asarray((scaler or {}).get("scale", []), dtype=np.float64)
    if scale.size == num_channels:
        return scale
    if num_channels == 1 and scale.size == num_series:
        return scale[:, None]
    return None


def _flat_metrics(results: Mapping[int, HorizonResult]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name in ("mse", "mae", "raw_mse", "raw_mae"):
        for horizon, result in results.items():
            if getattr(result, name) is not None:
                metrics[f"{name}_{horizon}"] = getattr(result, name)
        if not name.startswith("raw"):
            metrics[name] = float(np.mean([getattr(result, name) for result in results.values()]))
    return metrics
