"""The stage that pre-trains most methods: series of equal channels in memory, cut into pieces or windows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import get_series
from ..data.known_corpora import find_known_corpus, name_in_full
from ..errors import SettingsError
from ..registry import get_method
from .batches import IndexedCollator, IndexedDataset, PretrainingCollator
from .callbacks import CodebookMonitor, CollapseMonitor, ValidationLossCallback
from .data import (
    TrainingSeries,
    check_training_series,
    load_training_series,
    pretraining_dataset,
    split_channels,
)
from .saving import PretrainingResult, common_preparation, save_card
from .settings import DEFAULT_RECIPE
from .stages import PretrainingStage

logger = logging.getLogger(__name__)

_SHORTEST_WINDOW = 16  # steps of a window that is chosen here: fewer hold hardly a pattern


class SeriesStage(PretrainingStage):
    """Series of equal channels, cut and cropped by TS2Vec's rules or into windows, and a model of `past_values`."""

    loaded: TrainingSeries
    dataset: Any
    num_items: int
    max_train_length: int | None
    window_stride: int | None

    def read_corpora(self) -> None:
        """Read the corpora and prepare the series."""
        data = self.settings.data
        config_class: Any = get_method(self.settings.method).config_class
        by_channel = config_class.trains_on_channels(self.settings.model)
        self.loaded = load_training_series(self.settings, by_channel)
        self.max_train_length, self.window_stride = data.max_train_length, data.window_stride
        self._cut_series()
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

    def _cut_series(self) -> None:
        self.dataset = self._items_of(self.loaded.series)
        self.num_items = len(self.dataset)

    def _cut_few_series(self) -> None:
        """Cut windows where nobody chose pieces or windows, and the series are too few for a batch.

        Corpora of the literature stay as they are: their results are compared with published ones.
        """
        batch_size = self.arguments.per_device_train_batch_size * self.arguments.world_size
        if self.num_items >= batch_size or self._are_items_chosen():
            return
        found = windows_of_few_series(self.loaded.series, batch_size, self.max_train_length)
        if found is None:
            return
        num_items = self.num_items
        self.max_train_length, self.window_stride = found
        self._cut_series()
        logger.info(
            "%d training items are too few for a batch of %d, so the series are cut into %d windows of %d steps, one "
            "every %d. Choose others with max_train_length and window_stride.",
            num_items,
            batch_size,
            self.num_items,
            *found,
        )

    def _are_items_chosen(self) -> bool:
        """Return whether somebody chose how series are cut, the recipe of a corpus included."""
        settings = self.settings
        if settings.recipe != DEFAULT_RECIPE or any(map(settings.is_given, ("max_train_length", "window_stride"))):
            return True
        names = [name_in_full(one, settings.data.data_directory) for one in settings.corpus]
        return any(find_known_corpus(name) is not None for name in names if name)

    def _items_of(self, series: list[np.ndarray]) -> Any:
        return pretraining_dataset(series, self.max_train_length, self.window_stride, self.arguments.seed)

    @property
    def corpora(self) -> list[Any]:
        """The corpora, every split."""
        return self.loaded.corpora

    @property
    def num_batch_items(self) -> int:
        """Number of pieces or windows of series."""
        return self.num_items

    @property
    def num_elements(self) -> int:
        """Numbers in the training array, padding included."""
        return self.loaded.num_elements

    def data_facts(self) -> dict[str, Any]:
        """Return sizes of the training array, and the windows where they were chosen here."""
        chosen = {"max_train_length": self.max_train_length, "window_stride": self.window_stride}
        asked = {name: getattr(self.settings.data, name) for name in chosen}
        return {
            **({} if chosen == asked else {"windows": chosen}),
            "num_series": len(self.loaded.series),
            "num_training_items": self.num_items,
            "sequence_length": self.dataset.sequence_length,
            "num_input_channels": self.loaded.num_input_channels,
            "num_elements": self.loaded.num_elements,
        }

    def build_model(self, resumed: bool) -> Any:
        """Return the method's model with its pretext task, freshly initialised."""
        method = get_method(self.settings.method)
        config_class: Any = method.config_class
        model_class: Any = method.pretraining_class
        model = model_class(config_class(num_input_channels=self.loaded.num_input_channels, **self.settings.model))
        names = ["value"] if self.loaded.by_channel else self.loaded.metadata[0].channel_names
        check_training_series(model, self.loaded.series, names)
        return model

    def trainer_options(self) -> dict[str, Any]:
        """Return dataset, collator, monitors, the items' names and what happens after every epoch."""
        longest = self.max_train_length
        return {
            "train_dataset": IndexedDataset(self.dataset),
            "data_collator": IndexedCollator(PretrainingCollator(longest)),
            "monitors": [CollapseMonitor(), CodebookMonitor()] if self.settings.run.monitor_collapse else [],
            "item_names": self.loaded.item_names(self.num_items, longest),
            "callbacks": self._validation_callbacks() if self.settings.run.validation_loss else [],
        }

    def _validation_callbacks(self) -> list[Any]:
        """Return what logs the pretext loss on the validation parts; nothing where no corpus has one."""
        series = [one for part in self._validation_parts() for one in get_series(part)]
        if self.loaded.by_channel:
            series = split_channels(series)
        if not series:
            return []
        batch_size = self.arguments.per_device_eval_batch_size
        return [ValidationLossCallback(self._items_of(series), batch_size, self.arguments.seed)]

    def save(self, folder: Path, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the model, the preparation of its input and the card."""
        result.model.preparation = common_preparation(self.loaded.metadata)
        result.model.save_pretrained(folder)
        save_card(folder, self.settings, result, facts, self.loaded.metadata)


def windows_of_few_series(
    series: Sequence[np.ndarray], batch_size: int, max_train_length: int | None
) -> tuple[int, int] | None:
    """Choose windows that make batches of few long series, such as the one series of a table.

    A window has a quarter of the longest series, so that it still shows how the series goes on, and at most all of the
    shortest; the stride gives about four batches and at least half of every window to its neighbour.

    Args:
        series: Arrays (time, num_channels).
        batch_size: Number of items of a batch of all processes.
        max_train_length: Number of steps that a window has at most.

    Returns:
        Number of steps of a window, and steps between the starts of two; None where windows would be too short.
    """
    lengths = [len(one) for one in series]
    window_length = min(max(lengths) // 4, min(lengths), max_train_length or max(lengths))
    if window_length < _SHORTEST_WINDOW:
        return None
    starts = sum(length - window_length for length in lengths)
    return window_length, max(1, min(window_length // 2, starts // (4 * batch_size)))
