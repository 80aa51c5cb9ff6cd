"""`predict`: from whatever holds series to classes, numbers or the future, for every head.

Series are read, prepared and batched as in `encode`, so that their order and the batch size cannot change an answer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch

from .batching_time_series import (
    equal_length_batches,
    evaluating,
    progress_bar,
    require_finite,
    warn_of_attention,
    warn_of_missing,
)
from .configuration_time_series import near_match_hint


@dataclass(frozen=True)
class PredictedClasses:
    """Classes of series, and how probable each one is.

    Args:
        labels: (num_series,) names of the most probable class. Of a model of several labels at once, one tuple a
            series with the names of all labels whose probability is at least 1/2. Of one series its name or tuple.
        probabilities: (num_series, num_labels) float32; of one series (num_labels,). They sum to 1 over the classes;
            those of several labels at once each lie between 0 and 1.
        class_names: Names of the classes in the order of the probabilities.
    """

    labels: Any
    probabilities: np.ndarray
    class_names: tuple[str, ...]


def predict_outputs(
    model: Any,
    series: Any,
    timestamps: Any,
    prepared: bool,
    layout: str | None,
    batch_size: int,
    device: Any,
    show_progress_bar: bool | None,
    method_arguments: dict[str, Any],
    output_name: str | None = None,
    prediction_length: int | None = None,
) -> tuple[np.ndarray | None, bool]:
    """Run a model with a head on series.

    Args:
        model: The model.
        series: As `encode` takes them.
        timestamps: See there.
        prepared: See there.
        layout: See there.
        batch_size: Number of series in one forward pass.
        device: Where to compute; None: where the model is.
        show_progress_bar: None: when transformers' logging is at level INFO.
        method_arguments: Further arguments of the method, not checked yet.
        output_name: Field of the output to return; None for the model's.
        prediction_length: Number of future timestamps, checked; None for the config's.

    Returns:
        The head's output, (num_series, ...) float32, None of no series; and whether it was one series.

    Raises:
        TypeError: `series` holds no series, or an argument is unknown.
        ValueError: A setting or a series is out of range.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a whole number of at least 1.")
    method_arguments = checked_predict_arguments(model, method_arguments)
    arrays, is_one = model._read_series(series, timestamps, prepared, layout, method_arguments)
    arrays = [model._fit_length(values, **method_arguments) for values in arrays]
    if device is not None:
        model.to(device)
    if not arrays:
        return None, False
    warn_of_missing(model, arrays, model.channel_names_for(**method_arguments))
    if not model.config.head_reads_context:
        warn_of_attention(model, max(len(values) for values in arrays), method_arguments)
    with torch.inference_mode():
        name = output_name or model.output_name
        twin = evaluating(model)
        tell: Callable[..., Any] = twin
        if prediction_length is not None:
            tell = functools.partial(twin.tell_future, prediction_length=prediction_length)
        results = _run(tell, model.device, arrays, batch_size, show_progress_bar, method_arguments, name)
    require_finite(results, arrays, "answer")
    return results, is_one


def checked_predict_arguments(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the method's further arguments of `predict` from those given, or say which one it does not have."""
    declared = inspect.signature(model.predict_arguments).parameters
    for name in given:
        if name not in declared:
            shared = [
                one.name
                for one in inspect.signature(model.predict).parameters.values()
                if one.kind is not inspect.Parameter.VAR_KEYWORD
            ]
            known = [*shared, *declared]
            raise TypeError(
                f"{type(model).__name__}.predict has no argument {name!r}.{near_match_hint(name, known)} "
                f"It takes {', '.join(known)}."
            )
    return model.predict_arguments(**given)


def _run(
    tell: Callable[..., Any],
    device: torch.device,
    arrays: list[np.ndarray],
    batch_size: int,
    show_progress_bar: bool | None,
    method_arguments: dict[str, Any],
    output_name: str,
) -> np.ndarray:
    results: np.ndarray | None = None
    with progress_bar(len(arrays), show_progress_bar, "Predicting") as bar:
        for indices in equal_length_batches([len(values) for values in arrays], batch_size):
            batch = torch.from_numpy(np.stack([arrays[index] for index in indices])).to(device)
            found = tell(past_values=batch, **method_arguments)[output_name].float().cpu().numpy()
            if results is None:
                results = np.empty((len(arrays), *found.shape[1:]), dtype=np.float32)
            results[indices] = found
            bar.update(len(indices))
    assert results is not None, "there is at least one series"
    return results


def classes_of_logits(logits: np.ndarray, class_names: tuple[str, ...], several: bool, is_one: bool) -> Any:
    """Turn class scores into names and probabilities.

    Args:
        logits: (num_series, num_labels).
        class_names: num_labels names.
        several: Whether a series may have several labels at once.
        is_one: Whether it was one series, which is returned alone.

    Returns:
        PredictedClasses.
    """
    scores = torch.from_numpy(logits)
    probabilities = (scores.sigmoid() if several else scores.softmax(-1)).numpy()
    if several:
        labels: Any = [
            tuple(name for name, one in zip(class_names, row, strict=True) if one >= 0.5) for row in probabilities
        ]
    else:
        labels = np.asarray(class_names)[probabilities.argmax(-1)]
    if is_one:
        return PredictedClasses(labels[0] if several else str(labels[0]), probabilities[0], class_names)
    return PredictedClasses(labels, probabilities, class_names)


def in_raw_units(values: np.ndarray, preparation: Any) -> np.ndarray:
    """Return predicted values in the units of raw series.

    Args:
        values: (num_series, ..., prediction_length, num_output_channels), in the units of the model's inputs.
        preparation: The model's; None leaves the values as they are.

    Returns:
        The same shape. Fewer channels than the series' are the last ones of them.
    """
    if preparation is None:
        return values
    num_channels, num_predicted = preparation.num_channels, values.shape[-1]
    if num_predicted >= num_channels:
        return preparation.inverse_transform(values)
    whole = np.zeros((*values.shape[:-1], num_channels), dtype=np.float32)
    whole[..., num_channels - num_predicted :] = values
    return preparation.inverse_transform(whole)[..., num_channels - num_predicted :]


def checked_prediction_length(model: Any, given: int | None) -> int:
    """Return how many future timestamps a model is to tell.

    Args:
        model: A model with a head of the future.
        given: What was asked for; None for the config's.

    Raises:
        ValueError: It is no whole number of at least 1, or the head predicts another number of timestamps at once.
    """
    config = model.config
    if given is None:
        return config.prediction_length
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f"prediction_length={given!r} must be a whole number of at least 1.")
    if not config.generates and given != config.prediction_length:
        raise ValueError(
            f"prediction_length={given}: the head of this {type(model).__name__} predicts {config.prediction_length} "
            "timestamps at once. Train one with prediction_length, or take a method that tells a future of any length."
        )
    return given


class Predicts:
    """What every model with a head has for `predict`."""

    output_name: ClassVar[str]
    """Field of the output that holds what the head computed."""

    def predict_arguments(self) -> dict[str, Any]:
        """Check the method's further arguments of `predict`, beside those that all methods have.

        A method with such arguments overrides it: its signature declares their names and defaults.

        Returns:
            What `forward`, `num_channels_of` and `preparation_for` take by name.

        Raises:
            ValueError: A value is out of its range.
        """
        return {}

    def _fit_length(self, values: np.ndarray, **method_arguments: Any) -> np.ndarray:
        """Return a series (time, num_input_channels) with the number of timestamps that the head takes."""
        return values


class PredictsClasses(Predicts):
    """`predict` of models with class scores or numbers."""

    output_name = "logits"

    def predict(
        self,
        series: Any,
        *,
        timestamps: Any = None,
        prepared: bool = False,
        layout: str | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        show_progress_bar: bool | None = None,
        **method_arguments: Any,
    ) -> PredictedClasses | np.ndarray:
        """Tell the classes of series of any length, or their numbers; order and batch size change rounding alone.

        Args:
            series: One series, as an array, tensor or DataFrame (time, num_channels); or several, as an array or
                tensor (series, time, num_channels), or as a list or datasets column of series of any lengths. NaN =
                missing. They are raw: a model with a `preparation` prepares them, as in `encode`.
            timestamps: Dates of the steps, for a model with calendar features; see `encode`.
            prepared: Whether the series are model inputs already.
            layout: "ntc", or "nct" for series with time last; see `encode`.
            batch_size: Number of series in one forward pass.
            device: Where to compute; the model moves there. None: where the model is.
            show_progress_bar: None: when transformers' logging is at level INFO.
            method_arguments: Further arguments of the method, those of its `predict_arguments`.

        Returns:
            PredictedClasses; of a regression the numbers, (num_series, num_labels) float32 in the units of the labels.
            For one series its result alone.

        Raises:
            TypeError: `series` holds no series, or an argument is unknown.
            ValueError: A setting or a series is out of range. The message names the value, the place and the fix.
        """
        config = cast(Any, self).config
        names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
        logits, is_one = predict_outputs(
            self, series, timestamps, prepared, layout, batch_size, device, show_progress_bar, method_arguments
        )
        if logits is None:
            logits = np.empty((0, len(names)), dtype=np.float32)
        if config.problem_type == "regression":
            return logits[0] if is_one else logits
        return classes_of_logits(logits, names, config.problem_type == "multi_label_classification", is_one)

    def _fit_length(self, values: np.ndarray, **method_arguments: Any) -> np.ndarray:
        """Pad a series at its end with missing timestamps where the head takes one number of them alone."""
        length = cast(Any, self).config.classifier_length(**method_arguments)
        missing = 0 if length is None else max(length - len(values), 0)
        return np.pad(values, ((0, missing), (0, 0)), constant_values=np.nan) if missing else values


class PredictsFuture(Predicts):
    """`predict` of models with a future."""

    output_name = "prediction_outputs"

    def predict(
        self,
        series: Any,
        *,
        timestamps: Any = None,
        prepared: bool = False,
        layout: str | None = None,
        quantiles: bool = False,
        prediction_length: int | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        show_progress_bar: bool | None = None,
        **method_arguments: Any,
    ) -> np.ndarray:
        """Predict the future of series of any length; order and batch size change rounding alone.

        The future follows a series' last timestamp. Where the config knows `prediction_context_length`, which a
        fine-tuning writes, only so many last timestamps are looked at, as in the training.

        Args:
            series: One series, as an array, tensor or DataFrame (time, num_channels); or several, as an array or
                tensor (series, time, num_channels), or as a list or datasets column of series of any lengths. NaN =
                missing. They are raw: a model with a `preparation` prepares them, as in `encode`.
            timestamps: Dates of the steps, for a model with calendar features; see `encode`.
            prepared: Whether the series are model inputs already.
            layout: "ntc", or "nct" for series with time last; see `encode`.
            quantiles: Whether to return all quantiles of `config.quantiles`, not the median alone.
            prediction_length: Number of future timestamps; None for the config's. Another one is told by methods that
                generate, step by step (`config.generates`).
            batch_size: Number of series in one forward pass.
            device: Where to compute; the model moves there. None: where the model is.
            show_progress_bar: None: when transformers' logging is at level INFO.
            method_arguments: Further arguments of the method, those of its `predict_arguments`.

        Returns:
            (num_series, prediction_length, num_output_channels) float32 in the units of raw series, for prepared ones
            too, where the model has a `preparation`; else in those of the series. For one series its future alone.
            With `quantiles` a last axis of num_quantiles is added.

        Raises:
            TypeError: `series` holds no series, or an argument is unknown.
            ValueError: A setting or a series is out of range. The message names the value, the place and the fix.
        """
        model = cast(Any, self)
        levels = model.config.quantiles
        if quantiles and levels is None:
            raise ValueError(
                f"quantiles=True: this {type(self).__name__} predicts one number a value. Train a head with "
                "config.quantiles, such as [0.1, 0.5, 0.9]."
            )
        name = "quantile_outputs" if quantiles else self.output_name
        length = checked_prediction_length(model, prediction_length)
        values, is_one = predict_outputs(
            self,
            series,
            timestamps,
            prepared,
            layout,
            batch_size,
            device,
            show_progress_bar,
            method_arguments,
            name,
            prediction_length=None if prediction_length is None or not model.config.generates else length,
        )
        if values is None:
            num_channels = model.config.num_output_channels or model.num_channels_of(**method_arguments)
            shape = (0, length, num_channels, *([len(levels)] if quantiles else []))
            return np.empty(shape, dtype=np.float32)
        preparation = model.preparation_for(**method_arguments)
        if quantiles:  # channels last, as a preparation has them
            raw = np.moveaxis(in_raw_units(np.moveaxis(values, -1, 1), preparation), 1, -1)
        else:
            raw = in_raw_units(values, preparation)
        return raw[0] if is_one else raw

    def tell_future(self, past_values: torch.Tensor, prediction_length: int, **method_arguments: Any) -> Any:
        """Predict so many timestamps; a method whose config `generates` overrides it.

        Args:
            past_values: (batch_size, sequence_length, num_input_channels), NaN = missing.
            prediction_length: Number of future timestamps, at least 1.
            method_arguments: Further arguments of the method, those of its `predict_arguments`.

        Returns:
            What `forward` returns of the future, prediction_length timestamps long.
        """
        raise NotImplementedError(f"{type(self).__name__} predicts config.prediction_length timestamps.")

    def _fit_length(self, values: np.ndarray, **method_arguments: Any) -> np.ndarray:
        """Cut a series to the last timestamps that the head was trained on, where the config knows how many."""
        length = cast(Any, self).config.prediction_context_length
        return values if length is None else values[-length:]
