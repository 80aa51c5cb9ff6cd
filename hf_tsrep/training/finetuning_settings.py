"""What a fine-tuning can be told, and how the command line, a YAML file and the recipe are put together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from .reading_settings import REFUSED_EVERYWHERE, ReadingSettings
from .recipes import corpus_recipe_names, list_recipes, load_recipe
from .settings_layers import (
    SettingsField,
    corpus_name,
    dataclass_fields,
    first_given,
    is_private,
    merge_layers,
    read_settings_file,
    require_field,
    underscored,
)

FINETUNING_FILE = "finetuning.json"
TASKS = ("classification", "forecasting")
MODES = ("full", "linear-probe", "lora")
RECIPES = "finetuning"

_REFUSED = {
    **REFUSED_EVERYWHERE,
    "load_best_model_at_end": "the best epoch on validation data is always taken; choose with validation",
    "metric_for_best_model": "classification selects by accuracy, forecasting by mse, both on validation data",
    "greater_is_better": "classification selects by accuracy, forecasting by mse, both on validation data",
    "eval_strategy": "validation comes after every epoch; validation=none turns it off",
    "save_strategy": "a checkpoint is saved after every epoch; save_total_limit says how many stay",
    "eval_steps": "validation comes after every epoch; validation=none turns it off",
    "save_steps": "a checkpoint is saved after every epoch; save_total_limit says how many stay",
    "label_names": "the task says what the labels are",
    "batch_eval_metrics": "metrics are always computed batch by batch",
    "prediction_loss_only": "validation needs the predictions",
    "remove_unused_columns": "the trainer takes care of the columns itself",
    "num_output_channels": "the corpus says how many channels are predicted",
    "num_labels": "the corpus says which classes there are",
    "target_mean": "the training part of the corpus says it",
    "target_scale": "the training part of the corpus says it",
}
_NOT_OFFERED = frozenset({*_REFUSED, "output_dir", "resume_from_checkpoint", "local_rank"})


def is_method_name(model: Any) -> bool:
    """Return whether a method is named instead of a model; a folder of that name goes before it."""
    from ..registry import METHODS

    return isinstance(model, str) and model in METHODS and not Path(model).is_dir()


@dataclass(frozen=True)
class FinetuneDataSettings(ReadingSettings):
    """What is read, and how it is prepared; see `hf_tsrep.data.load_corpus` for the fields not explained here.

    Args:
        label_fraction: Share of the labelled training series (of the training windows in forecasting) that is used,
            drawn by class with the run's seed; at least one of every class. A part that is held out is one of it.
        validation: "auto": the corpus's validation split; where it has none, a part of train is held out. "none": no
            validation, and the last epoch is taken.
        validation_fraction: Share of train that is held out: of every class, drawn with the run's seed; in forecasting
            the last steps.
        context_length: Forecasting: number of steps that the model sees. Classification: number of first steps that
            SimMTM's head covers, where it is given; else the longest series.
        stride: Forecasting: steps between the starts of training windows. All windows are validated and tested.
        scaler: None where it is not given means: as in the model's pre-training, else "recommended". Fitted anew on
            this corpus's training part.
        time_features: None means: as in the model's pre-training.
        domain: Which of the model's domains the corpus is, for methods that have domains. None: the only one, or the
            one that is called like the corpus.
    """

    label_fraction: float = 1.0
    validation: Literal["auto", "none"] = "auto"
    validation_fraction: float = 0.2
    context_length: int = 336
    stride: int = 1
    domain: str | None = None
    scaler: str | None = None
    time_features: bool | None = None


@dataclass(frozen=True)
class FinetuneRunSettings:
    """How the pretrained weights are used, and what the library adds to `transformers.Trainer`.

    Args:
        mode: "full" trains all weights, "linear-probe" the head alone on the frozen encoder in evaluation mode, "lora"
            the head and low-rank changes of the encoder's linear layers and convolutions (needs peft), merged when the
            model is saved.
        from_scratch: Whether the encoder starts from random weights too.
        adapt_input: Whether weights whose shapes do not fit this corpus's channels start anew, instead of an error;
            they learn in all modes but linear-probe.
        feature_memory: linear-probe runs the frozen encoder once and keeps what it gives, up to so many GiB a process;
            where that is more, the encoder runs in every epoch.
        lora_rank: Rank of the changes.
        lora_alpha: Their scale is lora_alpha / lora_rank.
        warmup_ratio: Share of the steps in which the learning rate rises; warmup_steps goes before it.
        epoch_schedule: Learning rate of every epoch, as published: "constant", "halving", "late_decay" or
            "warmup_decay", see `hf_tsrep.training.epochs.epoch_factor`; None for the schedule of `lr_scheduler_type`.
        early_stopping_patience: Number of epochs without a better validation score after which training ends; None
            never ends it early.
        backbone_learning_rate_factor: The encoder learns at this times learning_rate.
        decay_all_parameters: Whether weight decay also applies to biases and normalisation weights.
        overwrite_output_dir: Whether a finished model and checkpoints in the output folder are removed first.
    """

    mode: Literal["full", "linear-probe", "lora"] = "full"
    from_scratch: bool = False
    adapt_input: bool = False
    feature_memory: float = 4.0
    lora_rank: int = 8
    lora_alpha: float = 16.0
    warmup_ratio: float = 0.0
    epoch_schedule: str | None = None
    early_stopping_patience: int | None = None
    backbone_learning_rate_factor: float = 1.0
    decay_all_parameters: bool = False
    overwrite_output_dir: bool = False


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that decides a fine-tuning.

    Args:
        model: Folder or Hub id of a pretrained model, a model, or the name of a method (random weights).
        method: Name of the model's method.
        corpus: Name or path of the corpus, or the corpus.
        output_dir: Folder of the finished model and its checkpoints.
        task: "classification" or "forecasting".
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

    def is_given(self, name: str) -> bool:
        """Return whether a field was asked for, instead of coming from a recipe or a default."""
        return not self.sources.get(name, "recipe").startswith("recipe")

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
        data, run = dataclasses.asdict(self.data), dataclasses.asdict(self.run)
        del data["data_directory"], run["overwrite_output_dir"]
        plain = {
            "model": self.model_name,
            "method": self.method,
            "corpus": corpus_name(self.corpus),
            "task": self.task,
            "recipe": self.recipe,
            "config": self.config,
            "training": {name: value for name, value in self.training.items() if not is_private(name)},
            "data": data,
            "run": run,
            "sources": {name: where for name, where in self.sources.items() if not is_private(name)},
        }
        return json.loads(json.dumps(plain, default=str))


@cache
def finetuning_fields(method: str) -> dict[str, SettingsField]:
    """Return every field that can be given: on the command line, in a YAML file or as an argument of `finetune`.

    Args:
        method: Name of the method.

    Returns:
        Fields by name.
    """
    from transformers import PreTrainedConfig, TrainingArguments

    from ..registry import get_method

    config_class: Any = get_method(method).config_class
    known = {
        "model": SettingsField("model", "task", str, None),
        "corpus": SettingsField("corpus", "task", str, None),
        "output_dir": SettingsField("output_dir", "task", str, None),
        "task": SettingsField("task", "task", str, "classification"),
        "recipe": SettingsField("recipe", "task", str | None, None),
    }
    groups: list[tuple[str, Any, set[str]]] = [
        ("run", FinetuneRunSettings, set()),
        ("data", FinetuneDataSettings, set()),
        ("config", config_class, set(getattr(PreTrainedConfig, "__dataclass_fields__", ()))),
        ("training", TrainingArguments, set()),
    ]
    for group, owner, left_out in groups:
        known |= dataclass_fields(group, owner, left_out | _NOT_OFFERED | set(known))
    return known


def resolve_finetuning(
    overrides: Mapping[str, Any], yaml_path: str | Path | None = None, *, place: str = "command line"
) -> FinetuneSettings:
    """Put the settings together: overrides go before the YAML file, that before the recipe, that before the defaults.

    Args:
        overrides: Fields by name; dashes may stand for underscores.
        yaml_path: YAML file of fields, or None.
        place: What the messages call the source of the overrides.

    Returns:
        The settings.

    Raises:
        SettingsError: An unknown field (with the near match), a wrong type or range, a missing field.
        FileNotFoundError: There is no such model.
        ValueError: Unknown method, task or recipe, with the near matches.
    """
    from ..evaluation.checks import require_names
    from .finetuning_checks import check_settings
    from .finetuning_model import method_of

    layers = [({underscored(name): value for name, value in overrides.items()}, place)]
    if yaml_path is not None:
        values = {underscored(name): value for name, value in read_settings_file(yaml_path).items()}
        layers.append((values, f"file {Path(yaml_path).name}"))
    model, corpus, output_dir = (require_field(name, layers) for name in ("model", "corpus", "output_dir"))
    task = first_given("task", layers)[0] or TASKS[0]
    require_names([task], TASKS, "task")
    method = method_of(model)
    written = corpus_as_known(corpus, first_given("data_directory", layers)[0])
    recipe = first_given("recipe", layers)[0] or recipe_for(method, first_given("mode", layers)[0], task, written)
    layers.append((load_recipe(RECIPES, recipe), f"recipe {RECIPES}/{recipe}"))
    what = f"a fine-tuning of {method}"
    chosen, sources = merge_layers(
        layers, finetuning_fields(method), _REFUSED, what, ("config", "training", "data", "run")
    )
    settings = FinetuneSettings(
        model=model,
        method=method,
        corpus=corpus,
        output_dir=str(output_dir),
        task=task,
        recipe=recipe,
        config=chosen["config"],
        training=chosen["training"],
        data=FinetuneDataSettings(**chosen["data"]),
        run=FinetuneRunSettings(**chosen["run"]),
        sources=sources,
    )
    check_settings(settings)
    return settings


def recipe_for(method: str, mode: Any, task: str | None = None, corpus: str | None = None) -> str:
    """Return the recipe that serves.

    Args:
        method: Name of the method.
        mode: See FinetuneRunSettings; None where it is not said.
        task: Name of the task.
        corpus: Name of the corpus; None, a path or a Hub id has no recipe of its own.

    Returns:
        METHOD-MODE-CORPUS, METHOD-MODE-TASK, METHOD-MODE, MODE, METHOD-TASK-CORPUS, METHOD-TASK, METHOD or default:
        the first there is.
    """
    known, corpora = list_recipes(RECIPES), corpus_recipe_names(corpus)
    names = [f"{method}-{mode}-{one}" for one in corpora] + [f"{method}-{mode}-{task}", f"{method}-{mode}", str(mode)]
    names += [f"{method}-{task}-{one}" for one in corpora] + [f"{method}-{task}", method, "default"]
    return next(name for name in names if name in known)


def corpus_as_known(corpus: Any, data_directory: str | None = None) -> str | None:
    """Return the name of a corpus with its folder where it was written without; None for what is no name."""
    from ..data.known_corpora import complete_name, list_known_corpora

    if not isinstance(corpus, str) or "/" in corpus:
        return corpus if isinstance(corpus, str) else None
    return complete_name(corpus, list_known_corpora(data_directory)) or corpus
