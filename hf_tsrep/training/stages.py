"""The stages of a pre-training: what each reads, trains and saves. The run around them is the same for all."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from transformers import PreTrainedConfig

from ..data import get_series
from ..errors import SettingsError, near_matches
from ..registry import get_method
from .batches import IndexedCollator, IndexedDataset
from .callbacks import CollapseMonitor, ValidationLossCallback
from .checkpoints import WEIGHTS_FILE
from .data import PretrainingCollator, TrainingSeries, load_training_series, pretraining_dataset, windows_of_few_series
from .recipe import DEFAULT_RECIPE, corpus_as_known, corpus_recipe_names, recipe_for_corpus
from .saving import PretrainingResult, save_card, save_preprocessing
from .settings import DEFAULT_STAGE, PretrainSettings
from .trainer import TimeSeriesTrainer

logger = logging.getLogger(__name__)


class PretrainingStage(ABC):
    """A stage of a pre-training; `run_pretraining` calls its methods in the order in which they stand here.

    Args:
        settings: What was asked for.
        arguments: `transformers.TrainingArguments` of the run, which the stage may complete.
    """

    weights_file: ClassVar[str] = WEIGHTS_FILE
    """The file that is written last: an output folder that holds it is finished."""

    options_class: ClassVar[type | None] = None
    """Dataclass of the fields that only this stage has; `settings.options` holds them."""

    run_defaults: ClassVar[dict[str, Any]] = {}
    """Defaults of RunSettings where the stage has others."""

    refused: ClassVar[dict[str, str]] = {}
    """Fields that mean nothing to this stage, and what to do instead."""

    def __init__(self, settings: PretrainSettings, arguments: Any) -> None:
        self.settings = settings
        self.arguments = arguments

    @classmethod
    def model_fields(cls, method: str) -> tuple[Any, set[str]]:
        """Return the dataclass whose fields describe the model, and those of them that cannot be given.

        Args:
            method: Name of the method.
        """
        return get_method(method).config_class, {one.name for one in dataclasses.fields(PreTrainedConfig)}

    @classmethod
    def default_recipe(cls, method: str, corpus: str | None) -> str:
        """Return the recipe where none is named.

        Args:
            method: Name of the method.
            corpus: Name of the first corpus, or None.
        """
        return recipe_for_corpus(method, corpus)

    @abstractmethod
    def load(self) -> None:
        """Read the corpora; the first process does it before the others."""

    @property
    @abstractmethod
    def corpora(self) -> list[Any]:
        """The corpora, every split."""

    @property
    @abstractmethod
    def num_batch_items(self) -> int:
        """Number of training items that one batch can be drawn from."""

    @property
    @abstractmethod
    def num_elements(self) -> int:
        """Numbers in the training array, for budgets that depend on it."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what was found out about the data, for the record."""

    @abstractmethod
    def build_model(self, resumed: bool) -> Any:
        """Return the model to train; the random state has just been seeded.

        Args:
            resumed: Whether its weights will be those of a checkpoint.
        """

    @abstractmethod
    def trainer_options(self) -> dict[str, Any]:
        """Return arguments of the trainer: dataset, collator, batch sampler, monitors and what to log."""

    def trainer_class(self) -> type:
        """Return the trainer's class, a TimeSeriesTrainer."""
        return TimeSeriesTrainer

    def evaluate(self, model: Any) -> dict[str, float]:
        """Measure the trained model, in evaluation mode; called on the first process only.

        Args:
            model: The model, with averaged weights where averaging is on.

        Returns:
            Measures by name, for the metrics of the result.
        """
        return {}

    @abstractmethod
    def save(self, folder: Path, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the finished folder's files; record, log and loss curve are written already.

        Args:
            folder: Where to write; its files are moved to the output folder afterwards, the weights last.
            result: Model, metrics and history.
            facts: What was found out about the run.
        """


class SeriesStage(PretrainingStage):
    """Series of equal channels, cut and cropped by TS2Vec's rules or into windows, and a model of `past_values`."""

    loaded: TrainingSeries
    dataset: Any
    max_train_length: int | None
    window_stride: int | None

    def load(self) -> None:
        """Read the corpora and prepare the series."""
        data = self.settings.data
        self.loaded = load_training_series(self.settings)
        self.max_train_length, self.window_stride = data.max_train_length, data.window_stride
        self.dataset = self._items_of(self.loaded.series)
        self._cut_few_series()
        if self.settings.run.validation_loss and not self._validation_parts():
            self._miss_validation()

    def _validation_parts(self) -> list[Any]:
        return [corpus["validation"] for corpus in self.loaded.corpora if "validation" in corpus]

    def _miss_validation(self) -> None:
        """Refuse to measure a loss on nothing where it was asked for; say so where only the recipe has it."""
        names = ", ".join(self.settings.corpus_names)
        if self.settings.sources.get("validation_loss", "recipe").startswith("recipe"):
            logger.warning("%s has no validation part, so no validation loss is logged.", names)
            return
        raise SettingsError(
            f"validation_loss: {names} has no validation part to measure it on. Leave validation_loss out, or cut one "
            "with split, such as 70/10/20."
        )

    def _cut_few_series(self) -> None:
        """Cut windows where nobody chose pieces or windows, and the series are too few for a batch.

        Corpora of the literature stay as they are: their results are compared with published ones.
        """
        batch_size = self.arguments.per_device_train_batch_size * self.arguments.world_size
        if len(self.dataset) >= batch_size or self._are_items_chosen():
            return
        found = windows_of_few_series(self.loaded.series, batch_size, self.max_train_length)
        if found is None:
            return
        num_items = len(self.dataset)
        self.max_train_length, self.window_stride = found
        self.dataset = self._items_of(self.loaded.series)
        logger.info(
            "%d training items are too few for a batch of %d, so the series are cut into %d windows of %d steps, one "
            "every %d. Choose others with max_train_length and window_stride.",
            num_items,
            batch_size,
            len(self.dataset),
            *found,
        )

    def _are_items_chosen(self) -> bool:
        """Return whether somebody chose how series are cut, the recipe of a corpus included."""
        settings = self.settings
        if settings.recipe != DEFAULT_RECIPE or any(map(settings.is_given, ("max_train_length", "window_stride"))):
            return True
        return any(corpus_recipe_names(corpus_as_known(one, settings.data.data_directory)) for one in settings.corpus)

    def _items_of(self, series: list[np.ndarray]) -> Any:
        return pretraining_dataset(series, self.max_train_length, self.window_stride, self.arguments.seed)

    @property
    def corpora(self) -> list[Any]:
        """The corpora, every split."""
        return self.loaded.corpora

    @property
    def num_batch_items(self) -> int:
        """Number of pieces or windows of series."""
        return len(self.dataset)

    @property
    def num_elements(self) -> int:
        """Numbers in the training array, padding included."""
        return self.loaded.num_elements

    def facts(self) -> dict[str, Any]:
        """Return sizes of the training array, and the windows where they were chosen here."""
        chosen = {"max_train_length": self.max_train_length, "window_stride": self.window_stride}
        asked = {name: getattr(self.settings.data, name) for name in chosen}
        return {
            **({} if chosen == asked else {"windows": chosen}),
            "num_series": len(self.loaded.series),
            "num_training_items": len(self.dataset),
            "sequence_length": self.dataset.sequence_length,
            "num_input_channels": self.loaded.num_input_channels,
            "num_elements": self.loaded.num_elements,
        }

    def build_model(self, resumed: bool) -> Any:
        """Return the method's model with its pretext task, freshly initialised."""
        method = get_method(self.settings.method)
        config_class: Any = method.config_class
        model_class: Any = method.pretraining_class
        return model_class(config_class(num_input_channels=self.loaded.num_input_channels, **self.settings.model))

    def trainer_options(self) -> dict[str, Any]:
        """Return dataset, collator, monitors, the items' names and what happens after every epoch."""
        longest = self.max_train_length
        return {
            "train_dataset": IndexedDataset(self.dataset),
            "data_collator": IndexedCollator(PretrainingCollator(longest)),
            "monitors": [CollapseMonitor()] if self.settings.run.monitor_collapse else [],
            "item_names": self.loaded.item_names(len(self.dataset), longest),
            "callbacks": self._validation_callbacks() if self.settings.run.validation_loss else [],
        }

    def _validation_callbacks(self) -> list[Any]:
        """Return what logs the pretext loss on the validation parts; nothing where no corpus has one."""
        series = [one for part in self._validation_parts() for one in get_series(part)]
        if not series:
            return []
        batch_size = self.arguments.per_device_eval_batch_size
        return [ValidationLossCallback(self._items_of(series), batch_size, self.arguments.seed)]

    def save(self, folder: Path, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the model, the preparation of its input and the card."""
        result.model.save_pretrained(folder)
        save_preprocessing(folder, self.loaded.metadata)
        save_card(folder, self.settings, result, facts, self.loaded.metadata)


def list_stages(method: str) -> list[str]:
    """Return the names of a method's stages, in the order in which they are run; the last is the model's."""
    config_class: Any = get_method(method).config_class
    return list(config_class.stages)


def get_stage(method: str, stage: str = DEFAULT_STAGE) -> type[PretrainingStage]:
    """Return the class of a method's stage.

    Stages of its own lie in the folder of this package that is called like the method, in `STAGES`.

    Raises:
        SettingsError: The method has no such stage; the message names the near match.
    """
    known = list_stages(method)
    if stage not in known:
        hint = near_matches(stage, known, count=1, cutoff=0.5)
        raise SettingsError(f"Method {method!r} has no stage {stage!r}.{hint} Stages: {', '.join(known)}.")
    own = importlib.util.find_spec(f"{__package__}.{method}")
    if own is None or own.submodule_search_locations is None:
        return SeriesStage
    return importlib.import_module(own.name).STAGES[stage]
