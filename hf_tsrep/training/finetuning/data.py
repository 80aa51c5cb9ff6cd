"""What a fine-tuning reads: labelled series or forecasting windows of train, validation and test."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ...data import SeriesBank, WindowDataset, corpus_fingerprint, corpus_metadata, get_series, load_corpus
from ..data import Columns, TensorRows, map_tensors
from ..settings import FinetuneSettings
from .labels import label_statistics, read_labels

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
# Fields of FinetuneDataSettings that say how samples are made, and not how a corpus is read.
NOT_READ = frozenset(
    {"label_fraction", "validation", "validation_fraction", "context_length", "stride", "domain"}
    | {"streaming", "shuffle_buffer"}
)


class ForecastWindows(Dataset):
    """A context and the future after it, by (series, start); one copy a window.

    Args:
        windows: A `hf_tsrep.data.WindowDataset` of context_length + prediction_length steps.
        context_length: Number of steps of the context.
        num_time_features: Number of first channels that are inputs and never predicted.
    """

    def __init__(self, windows: Any, context_length: int, num_time_features: int = 0) -> None:
        self.windows = windows
        self.context_length = context_length
        self.num_time_features = num_time_features

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._cut(self.windows[index]["past_values"])

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Return the items of a batch; they share one copy of their values."""
        return [self._cut(window) for window in self.windows.batch(indices)["past_values"].unbind(0)]

    def _cut(self, window: Tensor) -> dict[str, Tensor]:
        return {
            "past_values": window[: self.context_length],
            "future_values": window[self.context_length :, self.num_time_features :],
        }


@dataclass
class FinetuningData:
    """The datasets of a fine-tuning.

    Args:
        corpus: The corpus, every split.
        metadata: Its `hf_tsrep.data.CorpusMetadata`.
        datasets: Dataset by part; validation is absent where there is none. Items have `past_values`
            (sequence_length, num_input_channels) and `labels` () or `future_values`
            (prediction_length, num_output_channels).
        class_names: Names of the classes, or of the number that a regression predicts; empty in forecasting.
        facts: How many samples each part has and where validation comes from, for the record.
        domain: Which of the model's domains the corpus is; None for a method without domains.
        problem_type: What is told of a series, as transformers names it.
        label_statistics: Of a regression label_mean and label_scale, each of one number, of the training part; else
            empty.
    """

    corpus: Any
    metadata: Any
    datasets: dict[str, Any]
    class_names: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    domain: str | None = None
    problem_type: str = "single_label_classification"
    label_statistics: dict[str, list[float]] = field(default_factory=dict)

    @property
    def num_input_channels(self) -> int:
        """Number of channels, time features included."""
        return len(self.metadata.channel_names)

    @property
    def sequence_length(self) -> int:
        """Number of steps of every input."""
        return len(self.datasets["train"][0]["past_values"])

    @property
    def is_streamed(self) -> bool:
        """Whether the datasets are read while they are iterated, and never held."""
        return False

    def known_series(self) -> list[np.ndarray]:
        """Return the series of the training part, of a stream the first."""
        return get_series(self.corpus["train"])

    def fingerprint(self) -> str:
        """Return what tells this corpus from any other."""
        return corpus_fingerprint(self.corpus)


def load_finetuning_data(
    settings: FinetuneSettings, options: Mapping[str, Any], prediction_length: int, seed: int
) -> FinetuningData:
    """Load the corpus of the settings and cut it into train, validation and test.

    Args:
        settings: Names the corpus and how it is read.
        options: Further options of `load_corpus`, which go before those of the settings.
        prediction_length: Number of steps that are predicted.
        seed: Seed of what is drawn.

    Returns:
        The datasets.

    Raises:
        ValueError: A part or the labels are missing, or a series is too short; the message names them and the fix.
    """
    reading = {name: value for name, value in dataclasses.asdict(settings.data).items() if name not in NOT_READ}
    corpus = load_corpus(settings.corpus, **{**reading, **options})
    require_parts(corpus)
    metadata = corpus_metadata(corpus)
    if settings.task == "forecasting":
        return _forecasting_data(settings, corpus, metadata, prediction_length, seed)
    return _labelled_data(settings, corpus, metadata, seed)


def require_parts(corpus: Mapping[str, Any]) -> None:
    """Refuse a corpus without a training or a test part.

    Raises:
        ValueError: The message names the parts that there are.
    """
    for name in ("train", "test"):
        if name not in corpus:
            raise ValueError(
                f"Fine-tuning needs the splits train and test; the corpus has {', '.join(map(str, corpus))}. "
                "Cut long series, or deal labelled ones, with split, such as 70/10/20."
            )


def _labelled_data(settings: FinetuneSettings, corpus: Any, metadata: Any, seed: int) -> FinetuningData:
    parts = [name for name in PARTS if name in corpus and (name != "validation" or settings.selects)]
    series = {name: get_series(corpus[name]) for name in parts}
    known = read_labels(settings.task, corpus, parts, settings.data.label_column)
    labels = dict(known.of_parts)
    # What is no class is drawn from as one class.
    groups = labels["train"] if settings.task == "classification" else np.zeros(len(labels["train"]))
    kept = take_fraction(groups, settings.data.label_fraction, seed)
    if settings.selects and "validation" not in corpus:
        # Of the share that is used: choosing the epoch by further labels would be learning from them.
        stays, held_out = hold_out(groups[kept], settings.data.validation_fraction, seed)
        series["validation"] = [series["train"][index] for index in kept[held_out]]
        labels["validation"] = labels["train"][kept[held_out]]
        kept = kept[stays]
    series["train"] = [series["train"][index] for index in kept]
    labels["train"] = labels["train"][kept]
    longest = max(len(one) for part in series.values() for one in part)
    datasets = {
        name: TensorRows({"past_values": pad_series(series[name], longest), "labels": torch.from_numpy(labels[name])})
        for name in PARTS
        if name in series
    }
    facts = _facts(settings, datasets, "validation" not in corpus)
    data = FinetuningData(corpus, metadata, datasets, known.names, facts, problem_type=known.problem_type)
    if settings.task == "regression":
        data.label_statistics = label_statistics(labels["train"])
    return data


def pad_series(series: Sequence[np.ndarray], length: int) -> Tensor:
    """Pad series with NaN at the end.

    Args:
        series: Arrays (time, num_channels).
        length: Number of steps of the result, at least those of the longest series.

    Returns:
        (num_series, length, num_channels) float32.
    """
    padded = np.full((len(series), length, series[0].shape[1]), np.nan, dtype=np.float32)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(padded)


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a part of every class; a class of one sample stays in train.

    Args:
        labels: (num_samples,) class ids.
        fraction: Share of a class's samples that is held out: rounded, at least one, and one stays.
        seed: Seed of the draw.

    Returns:
        Sorted indices of what stays and of what is held out.

    Raises:
        ValueError: No class has two samples.
    """
    generator = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        number = min(max(1, round(fraction * len(members))), len(members) - 1)
        chosen.append(members[:number])
    held_out = np.sort(np.concatenate(chosen))
    if not len(held_out):
        raise ValueError("No class has two training series, so none can be held out; set validation=none.")
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def take_fraction(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw a share of every class; at least one sample of each.

    A larger fraction with the same seed holds all samples of a smaller one.

    Args:
        labels: (num_samples,) class ids.
        fraction: Share of a class's samples, rounded.
        seed: Seed of the draw.

    Returns:
        Sorted indices.
    """
    if fraction >= 1.0:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen))


def _forecasting_data(
    settings: FinetuneSettings, corpus: Any, metadata: Any, prediction_length: int, seed: int
) -> FinetuningData:
    stretches = {name: get_series(corpus[name]) for name in PARTS if name in corpus}
    counts = {name: len(series) for name, series in stretches.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Forecasting needs the same series in every split, as stretches; found {counts} series.")
    bounds = split_bounds(stretches, settings)
    joined = [np.concatenate(parts) for parts in zip(*stretches.values(), strict=True)]
    bank = SeriesBank(joined)
    context = settings.data.context_length
    datasets = {}
    for name in PARTS:
        if name not in bounds or (name == "validation" and not settings.selects):
            continue
        stride = settings.data.stride if name == "train" else 1
        index = window_index(bounds[name], context, prediction_length, stride, may_look_back=name != "train")
        if not len(index):
            lengths = sorted({stop - start for start, stop in bounds[name]})
            raise ValueError(
                f"The {name} part has no window of {context} + {prediction_length} steps: its series have "
                f"{lengths[:5]} steps. Choose a shorter context_length or prediction_length, or another split."
            )
        if name == "train":
            index = index[take_fraction(np.zeros(len(index)), settings.data.label_fraction, seed)]
        windows = WindowDataset(bank, context + prediction_length, index=torch.from_numpy(index))
        datasets[name] = ForecastWindows(windows, context, metadata.num_time_features)
    return FinetuningData(corpus, metadata, datasets, facts=_facts(settings, datasets, "validation" not in corpus))


def split_bounds(
    stretches: Mapping[str, Sequence[np.ndarray]], settings: FinetuneSettings
) -> dict[str, list[tuple[int, int]]]:
    """Return where every part lies in the joined series.

    Args:
        stretches: Arrays (time, num_channels) by split, the same series in every split.
        settings: Say whether there is a validation part; a corpus without one gives the last steps of train.

    Returns:
        (start, stop) of every series, by part.
    """
    bounds: dict[str, list[tuple[int, int]]] = {}
    position = [0] * len(stretches["train"])
    for name, series in stretches.items():
        bounds[name] = [(start, start + len(one)) for start, one in zip(position, series, strict=True)]
        position = [stop for _, stop in bounds[name]]
    if settings.selects and "validation" not in bounds:
        borders = [stop - round(settings.data.validation_fraction * (stop - start)) for start, stop in bounds["train"]]
        bounds["validation"] = [(border, stop) for border, (_, stop) in zip(borders, bounds["train"], strict=True)]
        bounds["train"] = [(start, border) for border, (start, _) in zip(borders, bounds["train"], strict=True)]
    return bounds


def window_index(
    bounds: Sequence[tuple[int, int]], context_length: int, prediction_length: int, stride: int, *, may_look_back: bool
) -> np.ndarray:
    """Return the windows whose future lies in a part.

    Args:
        bounds: (start, stop) of the part in every series.
        context_length: Number of steps that the model sees.
        prediction_length: Number of steps after them.
        stride: Steps between the starts of neighbouring windows.
        may_look_back: Whether a context may begin before the part, so that its first step is predicted too, as in the
            literature's validation and test parts.

    Returns:
        (num_windows, 2) int64 rows of (series, start).
    """
    rows = []
    for series, (start, stop) in enumerate(bounds):
        first = max(0, start - context_length) if may_look_back else start
        starts = np.arange(first, stop - context_length - prediction_length + 1, stride)
        rows.append(np.stack([np.full(len(starts), series), starts], axis=1))
    return np.concatenate(rows).astype(np.int64)


def _facts(settings: FinetuneSettings, datasets: Mapping[str, Any], is_held_out: bool) -> dict[str, Any]:
    source = "none"
    if "validation" in datasets:
        source = f"{settings.data.validation_fraction:g} of train" if is_held_out else "the corpus's split"
    facts: dict[str, Any] = {f"num_{name}_samples": len(dataset) for name, dataset in datasets.items()}
    return {**facts, "validation": source}


Prepare = Callable[[Tensor], Columns]
HEAD_INPUTS = "head_inputs"


def prepare_inputs(model: Any, data: FinetuningData, arguments: Any, is_frozen: bool, feature_memory: float) -> None:
    """Put what never changes in place of the series: what the head of a frozen encoder reads, or the model's tokens.

    Args:
        model: A model with a head; it moves to the device of the arguments.
        data: The datasets, which are replaced.
        arguments: The Trainer's arguments.
        is_frozen: Whether the encoder never changes.
        feature_memory: Memory in GiB up to which a frozen encoder's outputs are kept; where they need more, they are
            computed in every epoch.
    """
    if data.is_streamed:
        return
    given = {} if data.domain is None else {"domain": data.domain}
    model.to(arguments.device)
    model.eval()

    @torch.no_grad()
    def head_inputs(past_values: Tensor) -> Columns:
        with _precision_of(arguments):
            encoded = model.compute_head_inputs(past_values=past_values.to(arguments.device), **given)
        return {HEAD_INPUTS: encoded.head_inputs}

    @torch.no_grad()
    def inputs(past_values: Tensor) -> Columns:
        return model.prepare_inputs(past_values.to(arguments.device), **given)

    if is_frozen and _fits(data, head_inputs, feature_memory):
        _replace(data, head_inputs, arguments)
    elif model.config.reads_tokens:
        _replace(data, inputs, arguments)


def _precision_of(arguments: Any) -> torch.autocast:
    """Return the autocast context of the Trainer's arguments."""
    dtype = torch.float16 if arguments.fp16 else torch.bfloat16
    return torch.autocast(arguments.device.type, dtype, enabled=arguments.fp16 or arguments.bf16)


def _fits(data: FinetuningData, prepare: Prepare, feature_memory: float) -> bool:
    row = prepare(data.datasets["train"][0]["past_values"].unsqueeze(0))
    sizes: list[int] = []
    map_tensors(row, lambda column: sizes.append(column.nbytes))
    needed = sum(sizes) * sum(map(len, data.datasets.values())) / 2**30
    if needed <= feature_memory:
        logger.info("The frozen encoder runs once; its outputs take %.2f GiB.", needed)
        return True
    logger.info(
        "The frozen encoder runs in every epoch: its outputs would take %.2f GiB, and feature_memory allows %.2f.",
        needed,
        feature_memory,
    )
    return False


def _replace(data: FinetuningData, prepare: Prepare, arguments: Any) -> None:
    data.datasets = {name: _prepared(name, one, prepare, arguments) for name, one in data.datasets.items()}


def _prepared(name: str, dataset: Any, prepare: Prepare, arguments: Any) -> TensorRows:
    """Return a dataset with other inputs in place of past_values."""
    loader = DataLoader(dataset, arguments.per_device_eval_batch_size)
    hidden = arguments.disable_tqdm or not arguments.should_log
    columns: dict[str, Any] = {}
    first = 0
    for batch in tqdm(loader, desc=f"Preparing {name}", unit="batch", disable=hidden):
        rows = {**prepare(batch.pop("past_values")), **batch}
        if not columns:
            columns = map_tensors(
                rows, lambda column: column.new_empty((len(dataset), *column.shape[1:]), device="cpu")
            )
        first += _fill(columns, rows, first)
    return TensorRows(columns)


def _fill(columns: Columns, rows: Columns, first: int) -> int:
    """Write rows into the columns from row `first` on and return how many they are."""
    number = 0
    for name, value in rows.items():
        if isinstance(value, Mapping):
            number = _fill(columns[name], value, first)
        else:
            number = len(value)
            columns[name][first : first + number] = value
    return number
