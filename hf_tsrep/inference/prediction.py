"""Classes, numbers and the future of new series, as a table: what a fine-tuned model says of a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.domains import find_domain
from ..data.timestamps import infer_frequency
from ..modeling.reading_time_series import is_frame, is_one_series
from ..opening import local_folder
from .inputs import chosen_splits, read_input_series
from .provenance import answer_provenance

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# Names of the heads that `predict` runs -> the Auto class that opens them.
_AUTO_CLASS_OF_HEAD = {
    "ForTimeSeriesClassification": "AutoModelForSequenceClassification",
    "ForTimeSeriesPrediction": "AutoModelForTimeSeriesPrediction",
}
_BETWEEN_LABELS = ";"  # of a series with several


def predict(
    model: Any,
    series: Any,
    *,
    reading: Mapping[str, Any] | None = None,
    splits: Sequence[str] | None = None,
    timestamps: Any = None,
    prepared: bool = False,
    layout: str | None = None,
    prediction_length: int | None = None,
    batch_size: int = 32,
    device: Any = None,
    show_progress_bar: bool | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **method_arguments: Any,
) -> pd.DataFrame:
    """Tell classes, numbers or the future of new series by a fine-tuned model.

    Args:
        model: Folder or Hub id of a model with a head, as `hf_tsrep.finetune` saves it, or the model.
        series: A file, folder, known name or Hub id, a frame or a corpus, as `hf_tsrep.data.load_corpus` takes it; or
            arrays as `model.predict` takes them. Raw, unless the corpus is scaled or `prepared` says otherwise.
        reading: Options of `load_corpus`, such as {"item_column": "machine"}.
        splits: Splits of the corpus; None for all.
        timestamps: Dates of the steps of arrays, (time,) or one (time,) a series.
        prepared: Whether arrays are model inputs already.
        layout: Of arrays: "ntc", or "nct" for those with time last; see `encode`. Of files it is said in `reading`.
        prediction_length: Number of future steps; None for the model's. Any number is told by methods that generate,
            others refuse another one than their head's.
        batch_size: Number of series in one forward pass.
        device: Where to compute; None: where the model is.
        show_progress_bar: As in `encode`.
        revision: Branch, tag or commit of a model on the Hub.
        trust_remote_code: Whether code of a repository may run.
        method_arguments: Further arguments of the method's `predict`, such as the domain.

    Returns:
        One row a series, or of a forecast one row a series and step. `item_id` and `split` say which series. Classes:
        `predicted`, `probability_CLASS` of every class, and `label` where the corpus has it. Numbers: `predicted`, or
        `predicted_NAME` of several, and `target_value` alike. The future: `step` from 1, `timestamp` where the corpus
        has dates with a frequency, and one column a channel, in the units of the series, and of a model with quantiles
        one a quantile, such as `NAME_q0.1`; it follows the last step with a value. `frame.attrs["provenance"]` says
        which model, revision and preparation.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The model has no head, or a series does not fit it; the message names the place and the fix.
    """
    if isinstance(model, (str, Path)):
        model = open_head(str(model), revision=revision, trust_remote_code=trust_remote_code)
    require_head(model)
    corpus = _corpus_of(series, reading)
    if corpus is None:
        questions = _of_arrays(model, series, timestamps, layout, method_arguments)
    else:
        written = str(series) if isinstance(series, (str, Path)) else ""
        method_arguments = {**domain_of_head(model, written, corpus), **method_arguments}
        questions = _of_corpus(model, corpus, splits, method_arguments)
    tells_future = model.output_name == "prediction_outputs"
    if tells_future:
        questions = without_missing_end(questions)
    elif prediction_length is not None:
        raise ValueError(
            f"prediction_length={prediction_length}: this {type(model).__name__} tells no future. Leave it out."
        )
    levels = model.config.quantiles if tells_future else None
    of_future = {name: value for name, value in {"prediction_length": prediction_length}.items() if value is not None}
    of_future |= {} if levels is None else {"quantiles": True}
    answer = model.predict(
        questions.series,
        timestamps=questions.timestamps,
        prepared=prepared or questions.is_prepared,
        layout=questions.layout,
        batch_size=batch_size,
        device=device,
        show_progress_bar=show_progress_bar,
        **of_future,
        **method_arguments,
    )
    frame = _future(questions, answer, levels) if tells_future else _told(model, questions, answer)
    frame.attrs["provenance"] = answer_provenance(
        model,
        {
            "num_series": len(questions.series),
            **({} if prediction_length is None else {"prediction_length": prediction_length}),
            **method_arguments,
        },
        corpus=corpus,
    )
    return frame


@dataclass(frozen=True)
class Questions:
    """Series to tell something of.

    Args:
        series: Arrays (time, num_channels), or frames.
        columns: What is known of every series, one entry a series: item_id, and where they exist split, label,
            target_value.
        dates: (time,) of every series; None where they are not known.
        frequencies: pandas frequency string of every series, empty where it is not known.
        timestamps: What the model takes as dates, or None.
        channel_names: Names of the channels; empty where they are not known.
        is_prepared: Whether these are model inputs.
        layout: "ntc" where it is known that channels are the last axis, else None.
    """

    series: list[Any]
    columns: dict[str, list[Any]]
    dates: list[np.ndarray] | None = None
    frequencies: list[str] = field(default_factory=list)
    timestamps: Any = None
    channel_names: tuple[str, ...] = ()
    is_prepared: bool = False
    layout: str | None = None


def open_head(name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Open a model with its head, by the class that its config names.

    Args:
        name_or_path: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code of the repository may run.

    Raises:
        FileNotFoundError: There is no such folder, or no finished model in it.
        ValueError: It has no head for a task.
    """
    from transformers import AutoConfig

    local_folder(name_or_path)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **({"revision": revision} if revision else {})}
    config = AutoConfig.from_pretrained(name_or_path, **options)
    return auto_class_of_head(config, name_or_path).from_pretrained(name_or_path, config=config, **options).eval()


def auto_class_of_head(config: Any, name: str) -> Any:
    """Return the Auto class that opens a saved model with its head.

    Args:
        config: The model's.
        name: What it is called in messages.

    Raises:
        ValueError: It has no head for a task.
    """
    import transformers

    architectures = [str(one) for one in config.architectures or ()]
    for suffix, auto_class in _AUTO_CLASS_OF_HEAD.items():
        if any(one.endswith(suffix) for one in architectures):
            return getattr(transformers, auto_class)
    if getattr(config, "generates", False):  # the pre-training itself learns the future
        return transformers.AutoModelForTimeSeriesPrediction
    raise ValueError(_no_head(name, " and ".join(architectures) or "model"))


def require_head(model: Any) -> None:
    """Refuse a model that tells nothing: an encoder, or one with a pretext task."""
    if not hasattr(model, "output_name"):
        place = str(getattr(model, "name_or_path", "") or "") or "The model"
        raise ValueError(_no_head(place, type(model).__name__))


def _no_head(name: str, architecture: str) -> str:
    return (
        f"{name} is a {architecture}, which has no head for a task: train one with hf_tsrep.finetune "
        "(hf-tsrep finetune) on a corpus with labels, target values or a future. Embeddings come from encode."
    )


def domain_of_head(model: Any, written: str, corpus: Any) -> dict[str, str]:
    """Return the domain that a corpus is read in; nothing where the model has none, or one head alone.

    Args:
        model: The model.
        written: How the user named the corpus; may be empty.
        corpus: From `load_corpus`.

    Raises:
        ValueError: See `hf_tsrep.data.domains.find_domain`.
    """
    from ..data import corpus_metadata

    if sum("num_labels" in one for one in model.config.domain_entries) == 1:
        return {}
    found = find_domain(model.config, None, written, corpus_metadata(corpus).name)
    return {} if found is None else {"domain": found}


def _corpus_of(series: Any, reading: Mapping[str, Any] | None) -> Any:
    """Return the corpus that is meant; None where arrays are given."""
    from ..data import load_corpus

    options = dict(reading or {})
    if hasattr(series, "column_names") and not isinstance(series, Mapping):  # one split
        from datasets import DatasetDict

        series = DatasetDict({"train": series})
    if isinstance(series, (str, Path, Mapping)) or is_frame(series):
        # Whole series: to cut some off for a test is a matter of training.
        return (
            load_corpus(series, **options)
            if isinstance(series, Mapping)
            else load_corpus(series, split="none", **options)
        )
    if options:
        raise ValueError(f"reading={options} is for files and frames; arrays are taken as they are. Leave it out.")
    return None


def _of_arrays(
    model: Any, series: Any, timestamps: Any, layout: str | None, method_arguments: Mapping[str, Any]
) -> Questions:
    several = [series] if is_one_series(series) else list(series)
    arrays = [one if is_frame(one) else np.asarray(one) for one in several]
    if layout == "nct":
        arrays = [one if is_frame(one) else one.T for one in arrays]
    arrays = [one[:, None] if one.ndim == 1 else one for one in arrays]
    dates = None if timestamps is None else _dates_of_arrays(timestamps, len(arrays))
    reads_dates = bool(getattr(model.preparation_for(**method_arguments), "time_features", False))
    return Questions(
        arrays,
        {"item_id": [str(index) for index in range(len(arrays))]},
        dates,
        [""] * len(arrays),
        dates if reads_dates else None,
        is_prepared=bool(getattr(series, "is_prepared", False)),
        layout="ntc" if layout == "nct" else layout or getattr(series, "series_layout", None),
    )


def _dates_of_arrays(timestamps: Any, num_series: int) -> list[np.ndarray]:
    """Return the dates of every series; one run of dates is that of all."""
    runs = list(timestamps)
    is_one_run = bool(runs) and np.ndim(runs[0]) == 0
    return [np.asarray(one, dtype="datetime64[ms]") for one in ([runs] * num_series if is_one_run else runs)]


def _of_corpus(
    model: Any, corpus: Any, splits: Sequence[str] | None, method_arguments: Mapping[str, Any]
) -> Questions:
    from ..data import corpus_metadata

    found = read_input_series(model, corpus, splits, method_arguments)
    chosen = [corpus[name] for name in chosen_splits(corpus, splits)]

    def column(name: str) -> list[Any] | None:
        return [one for split in chosen for one in split[name]] if name in chosen[0].column_names else None

    known = {"item_id": found.item_ids, "split": found.splits, "label": found.labels}
    columns = {**known, "target_value": column("target_value")}
    return Questions(
        found.series,
        {name: values for name, values in columns.items() if values is not None},
        found.dates,
        [one or "" for one in column("freq") or [""] * len(found.series)],
        found.timestamps,
        found.channel_names,
        corpus_metadata(corpus).is_prepared,
        "ntc",
    )


def without_missing_end(questions: Questions) -> Questions:
    """Cut steps without any value off the end of series: the future follows the last step that has one."""
    ends = [_end_of_values(values) for values in questions.series]

    def cut(runs: Any) -> Any:
        return None if runs is None else [one[:end] for one, end in zip(runs, ends, strict=True)]

    return replace(
        questions,
        series=cut(questions.series),
        dates=cut(questions.dates),
        timestamps=cut(questions.timestamps),
    )


def _end_of_values(values: Any) -> int:
    if is_frame(values):
        return len(values)
    observed = np.flatnonzero(~np.isnan(np.asarray(values, dtype=np.float64)).all(1))
    return int(observed[-1]) + 1 if len(observed) else len(values)


def next_timestamps(dates: np.ndarray, frequency: str, count: int) -> np.ndarray:
    """Return the dates that follow those of a series.

    Args:
        dates: (time,) datetime64, in order.
        frequency: pandas frequency string; empty where the dates' own steps tell it.
        count: Number of dates.

    Returns:
        (count,) datetime64[ms]; NaT where the dates have no one frequency.
    """
    import pandas as pd

    known = frequency or infer_frequency(dates)
    step = pd.tseries.frequencies.to_offset(known) if known else None
    if step is None or not _is_usual(step, dates):
        return np.full(count, np.datetime64("NaT", "ms"))
    last = pd.Timestamp(dates[-1])
    # The last date itself is the first of the range where it lies on the frequency, as those of a regular file do.
    following = pd.date_range(last, periods=count + 1, freq=step)
    return following[following > last][:count].to_numpy().astype("datetime64[ms]")


def _is_usual(step: Any, dates: np.ndarray) -> bool:
    """Whether at least half of the dates follow the one before at this distance, or it is one of the calendar."""
    import pandas as pd

    if not isinstance(step, pd.tseries.offsets.Tick) or len(dates) < 2:
        return True
    distance = pd.Timedelta(step).to_timedelta64()
    return bool((np.diff(dates) == distance).mean() >= 0.5)


def _future(questions: Questions, future: np.ndarray, quantiles: Sequence[float] | None) -> pd.DataFrame:
    """Put a future into rows: one a series and step; quantiles follow the median of their channel."""
    import pandas as pd

    num_series, count, num_channels = future.shape[:3]
    columns: dict[str, Any] = {
        name: np.repeat(np.asarray(values), count)
        for name, values in questions.columns.items()
        if name in ("item_id", "split")
    }
    columns["step"] = np.tile(np.arange(1, count + 1), num_series)
    if questions.dates is not None:
        following = [
            next_timestamps(dates, frequency, count)
            for dates, frequency in zip(questions.dates, questions.frequencies, strict=True)
        ]
        whole = np.concatenate(following or [np.empty(0, dtype="datetime64[ms]")])
        if np.isnat(whole).any():
            logger.warning("The dates of %d series have no frequency that could go on.", sum(np.isnat(whole[::count])))
        if not np.isnat(whole).all():
            columns["timestamp"] = whole
    names = predicted_names(questions.channel_names, num_channels)
    for index, name in enumerate(names):
        values = future[:, :, index].reshape(num_series * count, -1)
        columns[name] = values[:, 0 if quantiles is None else list(quantiles).index(0.5)]
        columns |= {f"{name}_q{level:g}": values[:, place] for place, level in enumerate(quantiles or ())}
    return pd.DataFrame(columns)


def predicted_names(channel_names: Sequence[str], num_predicted: int) -> list[str]:
    """Return the names of the predicted channels, of fewer than the series' the last ones.

    A name that another column of the table has gets a word in front.
    """
    known = list(channel_names)[len(channel_names) - num_predicted :] if len(channel_names) >= num_predicted else []
    names = known or [f"channel_{index}" for index in range(num_predicted)]
    return [f"predicted_{one}" if one in ("item_id", "split", "step", "timestamp") else one for one in names]


def _told(model: Any, questions: Questions, answer: Any) -> pd.DataFrame:
    """Put classes or numbers into rows: one a series."""
    import pandas as pd

    frame = pd.DataFrame(questions.columns)
    if isinstance(answer, np.ndarray):
        names = [str(one) for one in model.config.id2label.values()]
        titles = ["predicted"] if len(names) == 1 else [f"predicted_{one}" for one in names]
        return frame.assign(**dict(zip(titles, answer.T, strict=True)))
    labels = [one if isinstance(one, str) else _BETWEEN_LABELS.join(one) for one in answer.labels]
    probabilities = zip(answer.class_names, answer.probabilities.T, strict=True)
    return frame.assign(predicted=labels, **{f"probability_{name}": values for name, values in probabilities})
