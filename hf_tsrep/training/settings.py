"""What a pre-training and a fine-tuning can be told; `settings_sources` says which source goes before which."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from ..opening import is_method_name
from .settings_sources import Sourced, Told

SETTINGS_FILE = "pretraining.json"
FINETUNING_FILE = "finetuning.json"
TASKS = ("classification", "multi-label", "regression", "forecasting")
DEFAULT_STAGE = "model"
DEFAULT_RECIPE = "default"  # of a corpus that nobody published values for
MODES = ("full", "linear-probe", "lora")

EpochSchedule = Literal["constant", "halving", "late_decay", "warmup_decay"]

# The fields of transformers.TrainingArguments that most runs set; all others can be given under their names too.
TRAINING_FIELDS = {
    "learning_rate": "Highest learning rate.",
    "weight_decay": "Weight decay; see decay_all_parameters.",
    "lr_scheduler_type": 'How the learning rate goes on, such as "constant", "linear" or "cosine".',
    "per_device_train_batch_size": "Training items in the batch of one process.",
    "num_train_epochs": "Number of epochs.",
    "max_steps": "Number of optimiser steps; goes before num_train_epochs of the same source.",
    "seed": "Seed of weights, order, crops and masks.",
    "bf16": "Whether to compute in bfloat16.",
    "push_to_hub": "Whether the finished model goes to the Hub; the token is that of the environment (HF_TOKEN).",
    "hub_model_id": "Repository of push_to_hub, name/model; default the name of the output folder.",
    "hub_private_repo": "Whether a new repository of push_to_hub is private.",
}


@dataclass(frozen=True)
class FileSettings:
    """How files, frames and arrays are read, in any command: arguments of `hf_tsrep.data.load_corpus`."""

    item_column: Annotated[str | None, Told("Table: the column that tells series apart (long form).")] = None
    timestamp_column: Annotated[str | None, Told("Table: the column of dates; found by itself.")] = None
    label_column: Annotated[str | None, Told("Table: one class an item, or 0/1 a step.")] = None
    value_columns: Annotated[list[str] | None, Told("Table: the columns to read as channels; default all others.")] = (
        None
    )
    frequency: Annotated[str | None, Told("Table: pandas frequency string; default inferred.")] = None
    one_series_per_column: Annotated[bool, Told("Table: whether each column is a series.")] = False
    layout: Annotated[
        Literal["ntc", "nct", "ucr", "table"] | None,
        Told("Arrays: ntc (channels last), nct (time last). Text: ucr (a row a series), table (a row a timestamp)."),
    ] = None
    header: Annotated[bool | None, Told("Table: whether the first line names the columns; default found.")] = None
    delimiter: Annotated[str | None, Told("Table: the character between cells; default found.")] = None
    decimal: Annotated[str | None, Told("Table: decimal mark, '.' or ','; default found.")] = None
    thousands: Annotated[str | None, Told("Table: mark between thousands; default found.")] = None
    encoding: Annotated[str | None, Told("Text: its encoding; default UTF-8 or UTF-16, else Latin-1.")] = None
    skip_rows: Annotated[NonNegativeInt, Told("Table: lines before the line of names.")] = 0
    sheet: Annotated[str | None, Told("Excel: name of the sheet, where several have cells.")] = None
    date_format: Annotated[str | None, Told("Table: form of the dates, such as %d.%m.%Y; default found.")] = None
    day_first: Annotated[bool | None, Told("Table: whether 01/02/2024 is in February; default found.")] = None
    time_zone: Annotated[str | None, Told("Table: zone of local times, such as Europe/Berlin.")] = None


@dataclass(frozen=True)
class ReadingSettings(FileSettings):
    """How a corpus is read, in any run: arguments of `hf_tsrep.data.load_corpus`."""

    target: Annotated[
        str | list[str] | None, Told("Channels to keep; univariate for that of the standard protocol; default all.")
    ] = None
    split: Annotated[
        str | None, Told("Where to cut long series, such as 70/10/20; default the corpus's standard.")
    ] = None
    data_directory: Annotated[str | None, Told("Where known corpora lie; default HF_TSREP_DATA.")] = None
    revision: Annotated[str | None, Told("Branch, tag or commit of a corpus on the Hub.")] = None
    streaming: Annotated[
        bool, Told("Whether the corpus is read while it is trained on and never held; pre-training needs max_steps.")
    ] = False
    shuffle_buffer: Annotated[
        PositiveInt | None, Told("streaming: windows that are held and shuffled at a time; default 4096.")
    ] = None


@dataclass(frozen=True)
class SharedRunSettings:
    """What the library adds to `transformers.Trainer` in any run."""

    epoch_schedule: Annotated[
        EpochSchedule | None,
        Told(
            "Learning rate of every epoch, as published (constant, halving, late_decay, warmup_decay: see "
            "hf_tsrep.training.callbacks.epoch_factor), in place of lr_scheduler_type."
        ),
    ] = None
    decay_all_parameters: Annotated[
        bool, Told("Whether weight decay also applies to biases and normalisation weights.")
    ] = False
    overwrite_output_dir: Annotated[
        bool, Told("Whether a finished model and checkpoints in the output folder are removed first.")
    ] = False


@dataclass(frozen=True)
class DataSettings(ReadingSettings):
    """What a pre-training reads, and how it is prepared."""

    max_train_length: Annotated[
        int | None,
        Told(
            "Steps of the longest training input: series of at least twice as many are cut into equal pieces, "
            "other longer ones cropped to a random window; none cuts and crops nothing."
        ),
    ] = 3000
    window_stride: Annotated[
        int | None,
        Told(
            "Steps between the starts of training windows of max_train_length steps, which replace pieces and "
            "crops where a series is long enough."
        ),
    ] = None
    scaler: Annotated[str | None, Told("standard (by channel), global, recommended, or none; fitted on train.")] = None
    time_features: Annotated[bool, Told("Whether seven calendar features go in front of the channels.")] = False


@dataclass(frozen=True)
class RunSettings(SharedRunSettings):
    """What the library adds to `transformers.Trainer` in a pre-training."""

    weight_averaging: Annotated[
        bool, Told("Whether the finished model has the mean of the weights after every step and of the initial ones.")
    ] = True
    monitor_collapse: Annotated[
        bool, Told("Whether the log tells the effective rank and the deviations of the embeddings.")
    ] = True
    coupled_weight_decay: Annotated[
        bool,
        Told("Whether the optimiser is torch.optim.Adam, which adds weight decay to the gradient; else it is optim."),
    ] = False
    learning_rate_decay: Annotated[
        float | None,
        Told(
            "Factor of the learning rate after every learning_rate_decay_steps steps, in place of lr_scheduler_type."
        ),
    ] = None
    learning_rate_decay_steps: Annotated[int, Told("Steps from one learning_rate_decay to the next.")] = 300
    validation_loss: Annotated[
        bool, Told("Whether the log tells, after every epoch, the pretext loss on the corpus's validation part.")
    ] = False
    published_steps: Annotated[
        dict[str, int] | None,
        Told(
            "Number of steps where neither max_steps nor num_train_epochs is given: small_corpus_steps for a "
            "corpus of at most small_corpus_elements numbers, else steps."
        ),
    ] = None


@dataclass(frozen=True)
class FinetuneDataSettings(ReadingSettings):
    """What a fine-tuning reads, and how it is prepared."""

    label_fraction: Annotated[
        float,
        Field(gt=0, le=1),
        Told(
            "Share of the labelled training series (forecasting: of the training windows) that is used, drawn by "
            "class with the seed; at least one of every class. A part that is held out is one of it."
        ),
    ] = 1.0
    validation: Annotated[
        Literal["auto", "none"],
        Told(
            "auto: the corpus's validation split, else a part of train that is held out; none: the last epoch is "
            "taken."
        ),
    ] = "auto"
    validation_fraction: Annotated[
        float,
        Field(gt=0, lt=1, description="validation=none turns the validation off"),
        Told(
            "Share of train that is held out: of every class (regression: of all series), with the seed; "
            "forecasting: the last steps."
        ),
    ] = 0.2
    context_length: Annotated[
        PositiveInt,
        Told(
            "Forecasting: steps that the model sees. Other tasks: first steps that the head covers, of "
            "methods whose head depends on them; default the longest series.",
            task="forecasting",
        ),
    ] = 336
    stride: Annotated[
        PositiveInt,
        Told(
            "Steps between the starts of training windows; all are validated and tested.",
            task="forecasting",
        ),
    ] = 1
    domain: Annotated[
        str | None,
        Told("Which of the model's domains the corpus is; default the only one, or the one called like the corpus."),
    ] = None
    scaler: Annotated[
        str | None,
        Told("standard, global, recommended, or none, fitted on train; default as in the model's pre-training."),
    ] = None
    time_features: Annotated[
        bool | None,
        Told("Whether seven calendar features go in front of the channels; default as in the model's pre-training."),
    ] = None


@dataclass(frozen=True)
class FinetuneRunSettings(SharedRunSettings):
    """How the pretrained weights are used, and what the library adds to `transformers.Trainer` in a fine-tuning."""

    mode: Annotated[
        Literal["full", "linear-probe", "lora"],
        Told(
            "full trains all weights; linear-probe the head alone, on the frozen encoder in evaluation mode; "
            "lora the head and LoRA's weights in the encoder's linear layers and convolutions (needs peft), "
            "merged when saved."
        ),
    ] = "full"
    from_scratch: Annotated[bool, Told("Whether the encoder starts from random weights too.")] = False
    adapt_input: Annotated[
        bool,
        Told(
            "Whether weights whose shapes do not fit the corpus's channels start anew, instead of an error; they "
            "learn in all modes but linear-probe."
        ),
    ] = False
    feature_memory: Annotated[
        NonNegativeFloat,
        Told(
            "GiB a process in which the outputs of the frozen encoder are kept; where they need more, it runs "
            "every epoch.",
            modes=("linear-probe",),
        ),
    ] = 4.0
    trainable: Annotated[
        str | None,
        Told(
            "Regular expression: of the encoder's weights those learn in whose names it is found, beside the head; "
            "the others are frozen, and dropout stays active. Default: all.",
            modes=("full",),
        ),
    ] = None
    lora_rank: Annotated[PositiveInt, Told("Rank of LoRA's weights.", modes=("lora",))] = 8
    lora_alpha: Annotated[
        float,
        Told(
            "The scale of LoRA's weights is lora_alpha / lora_rank.",
            modes=("lora",),
        ),
    ] = 16.0
    warmup_ratio: Annotated[
        float,
        Field(ge=0, lt=1),
        Told("Share of the steps in which the learning rate rises; warmup_steps goes before it."),
    ] = 0.0
    early_stopping_patience: Annotated[
        PositiveInt | None,
        Told("Epochs without a better validation score after which training ends; none never ends it early."),
    ] = None
    backbone_learning_rate_factor: Annotated[
        float,
        Field(gt=0, description="mode=linear-probe freezes the encoder"),
        Told(
            "The encoder learns at this times learning_rate.",
            modes=("full", "lora"),
        ),
    ] = 1.0


@dataclass(frozen=True)
class PretrainSettings(Sourced):
    """Everything that decides a pre-training.

    Args:
        method: Name of the method.
        corpus: Names or paths of the corpora; series of several are trained on together.
        output_dir: Folder of the finished model and its checkpoints.
        recipe: Name of the recipe.
        stage: Name of the stage; see `hf_tsrep.training.stages`.
        model: Fields of the model: of the method's config, or of what the stage trains.
        options: Fields that only this stage has.
        training: Fields of `transformers.TrainingArguments`.
        data: See DataSettings.
        run: See RunSettings.
        sources: Where each field was given; fields that are missing here have their default.
    """

    method: str
    corpus: tuple[Any, ...]
    output_dir: str
    recipe: str
    stage: str = DEFAULT_STAGE
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def corpus_names(self) -> list[str]:
        """What to call the corpora: their names, of a path its last part, of an object its type."""
        return [corpus_name(one) for one in self.corpus]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without places and secrets: the record is published with the model."""
        options = {name: corpus_name(one) if isinstance(one, str) else one for name, one in self.options.items()}
        return _record(self, {"corpus": self.corpus_names, "options": options})


@dataclass(frozen=True)
class FinetuneSettings(Sourced):
    """Everything that decides a fine-tuning.

    Args:
        model: Folder or Hub id of a pretrained model, a model, or the name of a method (random weights).
        method: Name of the model's method.
        corpus: Name or path of the corpus, or the corpus.
        output_dir: Folder of the finished model and its checkpoints.
        task: "classification", "multi-label", "regression" or "forecasting".
        recipe: Name of the recipe.
        config: Fields of the method's config that differ from the pretrained model's.
        training: Fields of `transformers.TrainingArguments`.
        data: See FinetuneDataSettings.
        run: See FinetuneRunSettings.
        sources: Where each field was given; fields that are missing here have their default.
    """

    model: Any
    method: str
    corpus: Any
    output_dir: str
    task: str
    recipe: str
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: FinetuneDataSettings = field(default_factory=FinetuneDataSettings)
    run: FinetuneRunSettings = field(default_factory=FinetuneRunSettings)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """Which head learns: that of classification, which also predicts numbers, or that of forecasting."""
        return "forecasting" if self.task == "forecasting" else "classification"

    @property
    def selects(self) -> bool:
        """Whether the best epoch is chosen on validation data."""
        return self.data.validation != "none"

    @property
    def model_name(self) -> str:
        """What to call the model: its Hub id, of a folder its name, of an object the name of where it comes from."""
        if isinstance(self.model, (str, Path)):
            return Path(self.model).resolve().name if Path(self.model).is_dir() else str(self.model)
        place = str(getattr(self.model, "name_or_path", "") or "")
        return Path(place).resolve().name if Path(place).is_dir() and place else place or type(self.model).__name__

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder starts from pretrained weights."""
        return not self.run.from_scratch and not is_method_name(self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without places and secrets: the record is published with the model."""
        return _record(self, {"model": self.model_name, "corpus": corpus_name(self.corpus)})


def _record(settings: PretrainSettings | FinetuneSettings, names: dict[str, Any]) -> dict[str, Any]:
    """Return settings as plain JSON types, with names in place of objects."""
    plain = public_fields({one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)}) | names
    for group in ("training", "sources"):
        plain[group] = public_fields(plain[group])
    for group in ("data", "run"):
        plain[group] = public_fields(dataclasses.asdict(plain[group]))
    return json.loads(json.dumps(plain, default=str))


def corpus_name(corpus: Any) -> str:
    """Return what to call a corpus: its name, of a path its last part, of an object its type."""
    if not isinstance(corpus, (str, Path)):
        return f"<{type(corpus).__name__}>"
    name = str(corpus)
    is_path = isinstance(corpus, Path) or Path(name).is_absolute() or name.startswith((".", "~"))
    return Path(name).name if is_path else name


def public_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields without places on this machine and secrets, which no published record has."""
    places = ("output_dir", "data_directory", "overwrite_output_dir")
    return {name: value for name, value in values.items() if name not in places and not name.endswith("token")}
