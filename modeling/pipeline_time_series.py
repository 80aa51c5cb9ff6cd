"""`transformers.pipeline(task, model)` for time series: raw series in, features, classes, futures or alarms out.

Each pipeline asks the model itself (`encode`, `predict`, `detecting_time_series.score_series`), so that series are
prepared as in the training, nothing is padded, and neither their order nor the batch size changes an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from transformers.pipelines import Pipeline

from .configuration_time_series import custom_pipelines
from .detecting_time_series import is_part, score_series
from .reading_time_series import is_one_series

DEFAULT_BATCH_SIZE = 32
# Of a stream so many batches are read at once: series of one length then share a batch more often.
_BATCHES_AT_ONCE = 8
_COLUMNS_OF_SERIES = ("series", "past_values", "target")
_COLUMN_OF_DATES = "timestamp"


class TimeSeriesPipeline(Pipeline):
    """What the pipelines for time series share: reading series, and one answer for each.

    It takes one series (an array or frame by time), a batch (series, time, channel), a list of series of any lengths,
    a `datasets.Dataset` (its column "series", or the one called `column`; dates of "timestamp" where the model reads
    dates), a KeyDataset, any other dataset of torch, or a generator. Datasets and generators are read as they come,
    and answered by an iterator.

    Args:
        positional: See `transformers.Pipeline`.
        batch_size: Number of series in one forward pass; it changes no answer.
        named: See `transformers.Pipeline`; and options of every call.

    Raises:
        ValueError: The model has no head for the task.
    """

    advice: ClassVar[str] = ""
    """What to do without such a head."""

    own_options: ClassVar[tuple[str, ...]] = ()
    """Options of the answer, besides those of the model's function."""

    model: Any  # of the house; transformers declares its own base class

    # The model loads its preparation and its tokenizer by itself.
    _load_feature_extractor: Any = False
    _load_image_processor: Any = False
    _load_processor: Any = False
    _load_tokenizer: Any = False

    def __init__(self, *positional: Any, batch_size: int = DEFAULT_BATCH_SIZE, **named: Any) -> None:
        super().__init__(*positional, batch_size=batch_size, **named)
        saved_as = str((self.model.config.architectures or [type(self.model).__name__])[0])
        known = custom_pipelines(saved_as, getattr(self.model.config, "generates", False))
        if f"pipeline_time_series.{type(self).__name__}" not in [one["impl"] for one in known.values()]:
            place = str(getattr(self.model, "name_or_path", "") or "") or "The model"
            raise ValueError(f"{place} is a {saved_as}, which has no head for {self.task!r}: {self.advice}")
        self.model.eval()

    def __call__(  # type: ignore[override]  # transformers ignores the positional arguments that it takes
        self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        """Answer for series.

        Args:
            inputs: See the class.
            batch_size: Number of series in one forward pass; None for the pipeline's.
            num_workers: Processes that read the items of a dataset; None for the pipeline's.
            options: See the pipeline's `answer`; also `prepared`, `layout` and `timestamps` of the model's function,
                and `column`, the dataset's column of series.

        Returns:
            The answer for one series, a list of answers for several, an iterator for a dataset or generator.

        Raises:
            TypeError: An option is unknown.
            ValueError: A setting or a series is out of range.
        """
        reading, told, shown = self._sanitize_parameters(**options)
        reading, shown = {**self._preprocess_params, **reading}, {**self._postprocess_params, **shown}
        told = {**self._forward_params, **told, "batch_size": batch_size or self._batch_size}
        if getattr(inputs, "is_prepared", False):
            told["prepared"] = True
        timestamps = told.pop("timestamps", None)
        if _is_stream(inputs):
            if timestamps is not None:
                raise ValueError("timestamps go with arrays; the rows of a dataset have theirs in their own column.")
            size = told["batch_size"] * _BATCHES_AT_ONCE
            workers = self._num_workers if num_workers is None else num_workers
            return self._answers(_items(inputs, workers or 0), size, reading, told, shown)
        is_one = isinstance(inputs, Mapping) or is_one_series(inputs)
        rows = [inputs] if is_one else list(inputs)
        if timestamps is not None:
            rows = _with_dates(rows, timestamps)
        answers = list(self._answers(rows, len(rows), reading, told, shown))
        return answers[0] if is_one else answers

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Part options into those of reading, of the model's function and of the answer's form."""
        reading = {name: options.pop(name) for name in ("column",) if name in options}
        shown = {name: options.pop(name) for name in self.own_options if name in options}
        return reading, options, shown

    def _answers(
        self,
        rows: Iterable[Any],
        at_once: int,
        reading: dict[str, Any],
        told: dict[str, Any],
        shown: dict[str, Any],
    ) -> Iterator[Any]:
        """Yield one answer a row, so many rows at once."""
        waiting = iter(rows)
        while chunk := list(islice(waiting, at_once)):
            read = [self.preprocess(row, **reading) for row in chunk]
            with self.device_placement():
                answers = self._forward(read, **told)
            yield from (self.postprocess(one, **shown) for one in answers)

    def preprocess(self, input_: Any, **reading: Any) -> dict[str, Any]:
        """Return series and dates of a row, or of a series as it is."""
        if not isinstance(input_, Mapping):
            return {"series": input_}
        name = reading.get("column") or next((one for one in _COLUMNS_OF_SERIES if one in input_), None)
        if name not in input_:
            raise ValueError(
                f"A row has {', '.join(map(str, input_))}, and no series: name its column, such as column='values'."
            )
        dates = input_.get(_COLUMN_OF_DATES)
        return {"series": input_[name], **({} if dates is None or not len(dates) else {_COLUMN_OF_DATES: dates})}

    def _forward(self, input_tensors: Any, **told: Any) -> Any:
        """Return one answer for each of several read rows."""
        rows = [input_tensors] if isinstance(input_tensors, Mapping) else input_tensors
        series = [row["series"] for row in rows]
        reads_dates = bool(getattr(self.model.preparation, "time_features", False))
        if reads_dates and all(_COLUMN_OF_DATES in row for row in rows):
            told["timestamps"] = [row[_COLUMN_OF_DATES] for row in rows]
        return self.answer(series, **told)

    def answer(self, series: list[Any], **told: Any) -> Iterable[Any]:
        """Return the model's answers, one a series; a pipeline's own part."""
        raise NotImplementedError(f"{type(self).__name__} has no answer.")

    def postprocess(self, model_outputs: Any, **shown: Any) -> Any:
        """Return an answer in the form that it was asked for."""
        return model_outputs


class TimeSeriesFeatureExtractionPipeline(TimeSeriesPipeline):
    """Embeddings of series: `pipeline("time-series-feature-extraction", model)`.

    An answer is an array: (embedding_size,), or with level="timestamp" (time, embedding_size), with level="window"
    (num_windows, embedding_size). With return_tensors="pt" it is a tensor.
    """

    own_options = ("return_tensors",)

    def answer(self, series: list[Any], **told: Any) -> Iterable[Any]:
        """Return embeddings.

        Args:
            series: Several series.
            told: Arguments of the model's `encode`: level, window_length, stride, causal, pooling, normalize, ...
        """
        return self.model.encode(series, **told)

    def postprocess(self, model_outputs: Any, **shown: Any) -> Any:
        """Return an array, or the kind of tensor that is asked for."""
        return_tensors = shown.get("return_tensors")
        if return_tensors in (None, False, "np"):
            return model_outputs
        if return_tensors in (True, "pt"):
            return torch.from_numpy(np.array(model_outputs))
        raise ValueError(f"return_tensors={return_tensors!r}; choose 'np' or 'pt'.")


class TimeSeriesClassificationPipeline(TimeSeriesPipeline):
    """Classes of series: `pipeline("time-series-classification", model)`.

    An answer is a list of {"label", "score"}, the most probable class first. Of a model of several labels at once the
    scores are the probabilities of each; of a regression they are the numbers, in the units of the labels.
    """

    advice = "train one with hf_tsrep.finetune on a corpus with labels. Features come from any model."
    own_options = ("top_k",)

    def answer(self, series: list[Any], **told: Any) -> Iterable[Any]:
        """Return the score of every class; `told` are arguments of the model's `predict`."""
        found = self.model.predict(series, **told)
        return found if isinstance(found, np.ndarray) else found.probabilities

    def postprocess(self, model_outputs: Any, **shown: Any) -> list[dict[str, Any]]:
        """Return classes with their scores.

        Args:
            model_outputs: (num_labels,).
            shown: `top_k`, the number of classes to return, default 5; None for all.
        """
        config = self.model.config
        names = [str(config.id2label[place]) for place in range(config.num_labels)]
        found: list[dict[str, Any]] = [
            {"label": name, "score": float(one)} for name, one in zip(names, model_outputs, strict=True)
        ]
        if config.problem_type == "regression":
            return found
        return sorted(found, key=lambda one: -one["score"])[: shown.get("top_k", 5)]


class TimeSeriesForecastingPipeline(TimeSeriesPipeline):
    """The future of series: `pipeline("time-series-forecasting", model)`.

    An answer is an array (prediction_length, num_output_channels) in the units of the series; it follows the last
    timestamp.
    """

    advice = "train one with hf_tsrep.finetune(..., task='forecasting'). Features come from any model."

    def answer(self, series: list[Any], **told: Any) -> Iterable[Any]:
        """Return futures; `told` are arguments of the model's `predict`."""
        return self.model.predict(series, **told)


class TimeSeriesAnomalyDetectionPipeline(TimeSeriesPipeline):
    """What is unlike the beginning of a series: `pipeline("time-series-anomaly-detection", model)`.

    An answer is {"scores", "threshold", "is_anomaly", "alarms"}: a score and a truth value for every timestamp, arrays
    (time,), where a score sees nothing after its timestamp; and the stretches above the threshold with start, end,
    peak and score.
    """

    def answer(
        self,
        series: list[Any],
        *,
        timestamps: Any = None,
        prepared: bool = False,
        layout: str | None = None,
        reference: Any = 0.5,
        score: str | None = None,
        context_length: int | None = None,
        threshold: float | None = None,
        gap: int = 7,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **told: Any,
    ) -> Iterable[Any]:
        """Return scores and alarms.

        Args:
            series: Several series.
            timestamps: As in `encode`.
            prepared: As in `encode`.
            layout: As in `encode`.
            reference: What is normal: share (a float below 1) or number (int) of the first steps of every series, or
                series of their own.
            score: See `detecting_time_series.score_series`.
            context_length: See there.
            threshold: See there.
            gap: See there.
            batch_size: Number of windows in one forward pass.
            told: Further arguments of the method's `encode`, and `deviations`.
        """
        own = {name: value for name, value in told.items() if name != "deviations"}
        self.model._checked_encode_arguments(own)
        arrays, _ = self.model._read_series(series, timestamps, prepared, layout, own)
        if not is_part(reference):
            reference, _ = self.model._read_series(reference, None, prepared, layout, own)
        answers, _ = score_series(
            self.model,
            arrays,
            reference=reference,
            score=score,
            context_length=context_length,
            threshold=threshold,
            gap=gap,
            names=[f"series {place}" for place in range(len(arrays))],
            batch_size=batch_size,
            **told,
        )
        return answers

    def postprocess(self, model_outputs: Any, **shown: Any) -> dict[str, Any]:
        """Return arrays, and alarms as plain dictionaries."""
        found = model_outputs
        alarms = [{"start": one.start, "end": one.end, "peak": one.peak, "score": one.score} for one in found.alarms]
        return {"scores": found.scores, "threshold": found.threshold, "is_anomaly": found.is_alarm, "alarms": alarms}


def _is_stream(inputs: Any) -> bool:
    """Whether these are read as they come: a dataset, a generator or another iterator."""
    if isinstance(inputs, Mapping) and hasattr(inputs, "column_names"):
        raise ValueError(f"Give one split, not all of {', '.join(map(str, inputs))}: such as dataset['test'].")
    return isinstance(inputs, TorchDataset) or hasattr(inputs, "column_names") or hasattr(inputs, "__next__")


def _items(inputs: Any, num_workers: int) -> Iterable[Any]:
    """Return the items of a dataset, in its order, or of a generator."""
    if num_workers and hasattr(inputs, "__getitem__"):
        return DataLoader(inputs, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    if hasattr(inputs, "__iter__"):
        return inputs
    return (inputs[place] for place in range(len(inputs)))


def _as_it_is(item: Any) -> Any:
    return item


def _with_dates(rows: list[Any], timestamps: Any) -> list[Any]:
    """Return rows with their dates: (time,) for all, or one (time,) a row."""
    is_one_run = np.ndim(next(iter(timestamps), ())) == 0
    runs = [timestamps] * len(rows) if is_one_run else list(timestamps)
    return [{"series": one, _COLUMN_OF_DATES: run} for one, run in zip(rows, runs, strict=True)]
