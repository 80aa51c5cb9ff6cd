"""What every method's configuration has in common."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.utils import logging

from .types_time_series import WRITTEN_FIELDS, require_types, require_written

logger = logging.get_logger(__name__)

_WRITTEN_BY_TRANSFORMERS = frozenset(
    {"auto_map", "custom_pipelines", "model_type", "num_labels", "torch_dtype", "transformers_version", "use_cache"}
    | {"attn_implementation", "experts_implementation", "name_or_path", "output_attentions"}
)
# Options of `from_pretrained` that reach `from_dict`.
_OPTIONS_OF_LOADING = frozenset({"code_revision", "gguf_file", "return_unused_kwargs", "trust_remote_code"})


# Fields of PreTrainedConfig that a head or the loading reads.
_TYPES_OF_TRANSFORMERS: dict[str, Any] = {
    "architectures": list | None,
    "auto_map": dict[str, str | list],
    "dtype": str | None,
    "id2label": dict | None,
    "label2id": dict | None,
    "output_hidden_states": bool | None,
    "problem_type": str | None,
}
_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")


def near_match_hint(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" where a known name is near, to put after what is wrong; else nothing."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class PipelineOfTask:
    """How `transformers.pipeline` does one task.

    Args:
        task: Its name.
        pipeline: Class of `pipeline_time_series`.
        auto_class: The Auto class that opens the model.
        head: What the name of the model's class ends with; empty for any.
    """

    task: str
    pipeline: str
    auto_class: str = "AutoModel"
    head: str = ""


# They stand here, because to import the pipelines themselves takes longer than to save a model.
PIPELINES = (
    PipelineOfTask("time-series-feature-extraction", "TimeSeriesFeatureExtractionPipeline"),
    PipelineOfTask(
        "time-series-classification",
        "TimeSeriesClassificationPipeline",
        "AutoModelForSequenceClassification",
        "ForTimeSeriesClassification",
    ),
    PipelineOfTask(
        "time-series-forecasting",
        "TimeSeriesForecastingPipeline",
        "AutoModelForTimeSeriesPrediction",
        "ForTimeSeriesPrediction",
    ),
    PipelineOfTask("time-series-anomaly-detection", "TimeSeriesAnomalyDetectionPipeline"),
)


def custom_pipelines(architecture: str, generates: bool = False) -> dict[str, dict[str, Any]]:
    """Return what a saved config says of the pipelines that a model works in, for who loads code from its folder.

    Args:
        architecture: Name of the model's class.
        generates: See TimeSeriesConfig: the model of the pre-training then works as that of the future.
    """
    if generates:
        architecture = architecture.replace("ForPreTraining", "ForTimeSeriesPrediction")
    return {
        one.task: {"impl": f"pipeline_time_series.{one.pipeline}", "pt": [one.auto_class], "type": "time-series"}
        for one in PIPELINES
        if architecture.endswith(one.head)
    }


@dataclass(frozen=True)
class TaskShape:
    """What a task asks of a model with a head, as the corpus has it.

    Args:
        num_input_channels: Number of channels of a series, time features included.
        sequence_length: Number of timestamps of the longest series, or of the context of a forecast.
        class_names: Names of the classes; empty where no classes are predicted.
        num_output_channels: Number of channels that are predicted; None where classes are.
        context_length: Number of timestamps that a head is to cover; None for sequence_length.
        domain: Name of the model's domain that the corpus is; None for a model without domains.
        target_mean: Mean of every predicted channel, for a model whose head learns scaled targets; else None.
        target_scale: Deviation of every predicted channel, alike.
        problem_type: What is told of a series, as transformers names it: "single_label_classification",
            "multi_label_classification" or "regression", whose numbers have the names of class_names.
        label_mean: Mean of every number of a regression, else None.
        label_scale: Deviation of every number of a regression, else None.
    """

    num_input_channels: int
    sequence_length: int
    class_names: Sequence[str] = ()
    num_output_channels: int | None = None
    context_length: int | None = None
    domain: str | None = None
    target_mean: list[float] | None = None
    target_scale: list[float] | None = None
    problem_type: str = "single_label_classification"
    label_mean: list[float] | None = None
    label_scale: list[float] | None = None


class TimeSeriesConfig(PreTrainedConfig):
    """Fields shared by all methods of the house.

    A key that neither a field nor transformers knows is an error: what somebody asks for by a misspelt name would
    silently not happen. In a folder that is loaded, which a later version may have written, such a key is kept, as in
    transformers, with a warning.

    Args:
        num_input_channels: Number of channels of a series, time features included.
        embedding_size: Length of one embedding.
        pooling: How timestamp embeddings become one vector per series: "max", "mean" or "last".
        channel_mode: "joint" when one embedding covers all channels, "independent" when every channel is encoded alone
            and `last_hidden_state` is (batch_size, num_input_channels, num_patches, hidden_size).
        prediction_length: Number of future timestamps that `XForTimeSeriesPrediction` predicts.
        num_output_channels: Number of channels predicted; None means `num_input_channels`.
        prediction_context_length: Number of last timestamps from which `predict` tells the future, those of the
            fine-tuning; None for all.
        quantiles: Quantiles of every future value that `XForTimeSeriesPrediction` learns by the pinball loss, such as
            [0.1, 0.5, 0.9]: rising, and 0.5, the point forecast, among them. None for one number by the mean squared
            error.
        classifier_dropout: Dropout probability before the classification layer.
        label_mean: With problem_type "regression", mean of every number that the head predicts, (num_labels,): it
            learns numbers of mean 0 and deviation 1, and returns them in the units of the labels. None for no scaling.
        label_scale: Deviation of every such number, alike.

    Raises:
        TypeError: A key is unknown. The message names the near match and the fields that there are.
        ValueError: A field is out of its range. The message names the field, the value and the range.
    """

    _auto_class: ClassVar[str] = "AutoConfig"  # a saved config carries its code

    # What the library must know of a method, so that it never asks for one by name.
    stages: ClassVar[tuple[str, ...]] = ("model",)
    """Names of the stages of a pre-training in their order; the last trains the model."""

    reads_tokens: ClassVar[bool] = False
    """Whether series go through a tokenizer, which knows the domains that the model reads."""

    scales_targets: ClassVar[bool] = False
    """Whether the prediction head learns targets of mean 0 and deviation 1, and scales back what it predicts."""

    reconstructs: ClassVar[bool] = False
    """Whether the pre-training model has `reconstruct_series`: its pretext task recovers values that are hidden."""

    generates: ClassVar[bool] = False
    """Whether the model tells a future of any length by itself (`generate`): the pre-training model has the head of
    `XForTimeSeriesPrediction`, with which a fine-tuning goes on, and `predict` takes any prediction_length."""

    mixing_advice: ClassVar[str] = ""
    """What to do so that corpora of unlike channels are trained on together; empty where the method cannot."""

    earlier_values: ClassVar[Mapping[str, Any]] = {}
    """What a folder without a field means by it: fields that came later, with the value that the code had before."""

    num_input_channels: int = 1
    embedding_size: int = 320
    pooling: str = "max"
    channel_mode: str = "joint"
    prediction_length: int = 24
    num_output_channels: int | None = None
    prediction_context_length: int | None = None
    quantiles: list[float] | None = None
    classifier_dropout: float = 0.0
    label_mean: list[float] | None = None
    label_scale: list[float] | None = None

    @property
    def reconstruction_length(self) -> int | None:
        """Largest number of timestamps that `reconstruct_series` takes at once; None for any."""
        return None

    @property
    def ignores_padding(self) -> bool:
        """Whether missing timestamps beyond the ends of a series change no embedding, however many they are."""
        return True

    def attention_tokens(self, sequence_length: int) -> int:
        """Return the number of tokens that attention has of a series: its timestamps, where no patches are cut."""
        return sequence_length

    @property
    def longest_length(self) -> int | None:
        """Largest number of timestamps that the encoder takes at once; None for any."""
        return None

    @property
    def head_reads_context(self) -> bool:
        """Whether a classification head covers the first `context_length` timestamps, instead of the whole series."""
        return False

    @property
    def takes_any_channels(self) -> bool:
        """Whether series of any number of channels are taken, because no weight knows which and how many there are."""
        return False

    @classmethod
    def trains_on_channels(cls, model_fields: Mapping[str, Any]) -> bool:
        """Return whether every channel of a series is a sample of a pre-training, so that unlike corpora are mixed.

        Args:
            model_fields: Fields of the config that are given for the pre-training.
        """
        return False

    @property
    def domain_entries(self) -> list[dict[str, Any]]:
        """One mapping for every domain that the model reads, with its name and channels; none for most methods."""
        return []

    @property
    def domain_names(self) -> list[str]:
        """Names of the domains."""
        return [one["name"] for one in self.domain_entries]

    @property
    def target_deviations(self) -> list[float] | None:
        """Deviation of every predicted channel, (num_output_channels,), where the head scales targets, else None."""
        return None

    def domain_index(self, domain: Any) -> int:
        """Return the place of a domain.

        Raises:
            ValueError: There is no such domain; here because the method has none.
        """
        raise ValueError(f"domain={domain!r}: {self.model_type} has no domains; leave it out.")

    def classifier_length(self, domain: str | None = None) -> int | None:
        """Return the one number of timestamps that the classification head takes; None where it takes any.

        Args:
            domain: Name of the domain, of methods that have domains.
        """
        return None

    def fit_to_task(self, task: TaskShape, **given: Any) -> None:
        """Take over the labels, channels and lengths of a task.

        Args:
            task: What the task asks for.
            given: Further fields, which go before those.

        Raises:
            ValueError: A field is out of its range, or the task does not fit the model.
        """
        for name, value in {**self.fields_of_task(task), **given}.items():
            setattr(self, name, value)
        self.check_ranges()

    def fields_of_task(self, task: TaskShape) -> dict[str, Any]:
        """Return the fields that follow from a task; methods extend this."""
        if not task.class_names:
            return {
                "num_input_channels": task.num_input_channels,
                "num_output_channels": task.num_output_channels,
                "prediction_context_length": task.sequence_length,
            }
        names = dict(enumerate(task.class_names))
        label2id = {name: index for index, name in names.items()}
        return {
            "num_input_channels": task.num_input_channels,
            "id2label": names,
            "label2id": label2id,
            "problem_type": task.problem_type,
            "label_mean": task.label_mean,
            "label_scale": task.label_scale,
        }

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse unknown keys, and check types and ranges."""
        self._refuse(self.unknown_keys(kwargs))
        self.check_types({name: getattr(self, name) for name in self.field_types()})
        super().__post_init__(**kwargs)
        self.check_ranges()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a config of what a folder holds; see PreTrainedConfig.from_dict.

        Args:
            config_dict: Content of config.json. Unknown keys are kept, with a warning.
            kwargs: What the user sets beside it.

        Returns:
            The config; with return_unused_kwargs a pair of it and the unused keys.

        Raises:
            TypeError: The user sets an unknown key, unless return_unused_kwargs asks for these.
            ValueError: A value has another type than its field, or is out of its range.
        """
        if not kwargs.get("return_unused_kwargs"):
            cls._refuse(cls.unknown_keys(kwargs) - _OPTIONS_OF_LOADING)
        config_dict = dict(config_dict)
        written = config_dict.pop(WRITTEN_FIELDS, [])
        require_written(cls.__name__, "config.json", config_dict, written)
        unknown = cls.unknown_keys(config_dict)
        known = {key: value for key, value in config_dict.items() if key not in unknown}
        known = {**{name: value for name, value in cls.earlier_values.items() if name not in kwargs}, **known}
        cls.check_types(known)
        if isinstance(known.get("dtype"), str) and known["dtype"] not in _DTYPES:
            raise ValueError(f"{cls.__name__}.dtype is {known['dtype']!r}; it must be one of {', '.join(_DTYPES)}.")
        if not all(str(key).isdigit() for key in known.get("id2label") or {}):
            raise ValueError(f"{cls.__name__}.id2label is {known['id2label']!r}; its keys must be numbers of classes.")
        if not cls.__module__.startswith("transformers_modules"):
            # Where the library is installed its own pipelines are known: none of the folder's code has to be trusted.
            known.pop("custom_pipelines", None)
        result = super().from_dict(known, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        for key in sorted(unknown):
            hint = near_match_hint(key, cls.field_names())
            logger.warning(f"{cls.__name__} has no field {key!r}; the value is kept but nothing reads it.{hint}")
            setattr(config, key, config_dict[key])
        return result

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what config.json holds; see PreTrainedConfig.to_diff_dict."""
        values = super().to_diff_dict()
        return {**values, WRITTEN_FIELDS: sorted(self.field_names() & set(values))}

    @classmethod
    def field_types(cls) -> dict[str, Any]:
        """Return the types of the method's own fields, by name."""
        own = [base for base in reversed(cls.__mro__) if issubclass(base, TimeSeriesConfig)]
        found = {name: kind for base in own for name, kind in inspect.get_annotations(base, eval_str=True).items()}
        return {name: kind for name, kind in found.items() if name in cls.field_names()}

    @classmethod
    def check_types(cls, values: Mapping[str, Any]) -> None:
        """Raise ValueError for a value of another type than its field; the message names the type that it must have.

        Args:
            values: By name; names that are no fields are passed over.
        """
        require_types(cls.__name__, values, {**_TYPES_OF_TRANSFORMERS, **cls.field_types()})

    @classmethod
    def field_names(cls) -> set[str]:
        """Return the names of the fields; `__dataclass_fields__` also has what a class says of its method."""
        return {one.name for one in fields(cls)}

    @classmethod
    def unknown_keys(cls, keys: Iterable[str]) -> set[str]:
        """Return the keys that are neither fields of this class nor transformers' own."""
        return {
            key
            for key in keys
            if key not in cls.field_names()
            and key not in _WRITTEN_BY_TRANSFORMERS
            and not key.startswith("_")
            and not hasattr(PreTrainedConfig, key)
        }

    @classmethod
    def _refuse(cls, unknown: set[str]) -> None:
        if unknown:
            own = sorted(cls.field_names() - set(PreTrainedConfig.__dataclass_fields__))
            named = ", ".join(f"{key!r}.{near_match_hint(key, cls.field_names())}" for key in sorted(unknown))
            raise TypeError(
                f"{cls.__name__} has no field {named} Its fields are {', '.join(own)}, and those of transformers' "
                "PreTrainedConfig."
            )

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; methods extend this."""
        self.require_at_least(1, "num_input_channels", "embedding_size", "prediction_length")
        self.require_one_of("pooling", ("max", "mean", "last"))
        self.require_one_of("channel_mode", ("joint", "independent"))
        self.require_probability("classifier_dropout")
        if self.prediction_context_length is not None:
            self.require_at_least(1, "prediction_context_length")
        self._check_quantiles()
        self._check_label_statistics()

    def _check_quantiles(self) -> None:
        levels = self.quantiles
        if levels is None:
            return
        if sorted(set(levels)) != list(levels) or 0.5 not in levels or not all(0 < one < 1 for one in levels):
            raise ValueError(
                f"{type(self).__name__}.quantiles is {levels}; they must lie between 0 and 1, rise, and have 0.5, the "
                "point forecast, among them."
            )

    def _check_label_statistics(self) -> None:
        if self.label_mean is None and self.label_scale is None:
            return
        for name in ("label_mean", "label_scale"):
            values = getattr(self, name)
            if values is None or len(values) != self.num_labels or not all(map(math.isfinite, values)):
                raise ValueError(
                    f"{type(self).__name__}.{name} is {values}; label_mean and label_scale are both None, or have one "
                    f"finite number for each of the {self.num_labels} labels."
                )
        if min(self.label_scale or [0.0]) <= 0:
            raise ValueError(f"{type(self).__name__}.label_scale is {self.label_scale}; every one must be above 0.")

    def require_at_least(self, minimum: int, *names: str) -> None:
        """Raise ValueError when one of the named fields is below `minimum`."""
        for name in names:
            if getattr(self, name) < minimum:
                raise ValueError(
                    f"{type(self).__name__}.{name} is {getattr(self, name)}; it must be at least {minimum}."
                )

    def require_one_of(self, name: str, choices: tuple[str, ...]) -> None:
        """Raise ValueError when the named field is none of `choices`."""
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"{type(self).__name__}.{name} is {value!r}; choose one of {', '.join(choices)}.")

    def require_probability(self, *names: str) -> None:
        """Raise ValueError when one of the named fields is outside [0, 1]."""
        for name in names:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"{type(self).__name__}.{name} is {getattr(self, name)}; it must lie between 0 and 1."
                )
