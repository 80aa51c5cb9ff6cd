"""The stage of most methods: one model, trained on the series of all corpora together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SettingsError
from .corpora import TrainingSeries, load_training_series
from .stages import PretrainingStage

if TYPE_CHECKING:
    from .pretraining import PretrainingResult

logger = logging.getLogger(__name__)


class SeriesStage(PretrainingStage):
    """Series of equal channels, cut and cropped by TS2Vec's rules or into windows, and a model of `past_values`."""

    loaded: TrainingSeries
    dataset: Any

    def load(self) -> None:
        """Read the corpora and prepare the series."""
        self.loaded = load_training_series(self.settings)
        self.dataset = self._items_of(self.loaded.series)
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

    def _items_of(self, series: list[np.ndarray]) -> Any:
        from .window_data import pretraining_dataset

        data = self.settings.data
        return pretraining_dataset(series, data.max_train_length, data.window_stride, self.arguments.seed)

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
        """Return sizes of the training array."""
        return {
            "num_series": len(self.loaded.series),
            "num_training_items": len(self.dataset),
            "sequence_length": self.dataset.sequence_length,
            "num_input_channels": self.loaded.num_input_channels,
            "num_elements": self.loaded.num_elements,
        }

    def build_model(self, resumed: bool) -> Any:
        """Return the method's model with its pretext task, freshly initialised."""
        from ..registry import get_method

        method = get_method(self.settings.method)
        config_class: Any = method.config_class
        model_class: Any = method.pretraining_class
        return model_class(config_class(num_input_channels=self.loaded.num_input_channels, **self.settings.model))

    def trainer_options(self) -> dict[str, Any]:
        """Return dataset, collator, monitors, the items' names and what happens behind every epoch."""
        from ..data import PretrainingCollator
        from .monitors import CollapseMonitor
        from .trainer import IndexedCollator, IndexedDataset

        longest = self.settings.data.max_train_length
        return {
            "train_dataset": IndexedDataset(self.dataset),
            "data_collator": IndexedCollator(PretrainingCollator(longest)),
            "monitors": [CollapseMonitor()] if self.settings.run.monitor_collapse else [],
            "item_names": self.loaded.item_names(len(self.dataset), longest),
            "callbacks": self._validation_callbacks() if self.settings.run.validation_loss else [],
        }

    def _validation_callbacks(self) -> list[Any]:
        """Return what logs the pretext loss on the validation parts; nothing where no corpus has one."""
        from ..data import get_series
        from .epochs import ValidationLossCallback

        series = [one for part in self._validation_parts() for one in get_series(part)]
        if not series:
            return []
        batch_size = self.arguments.per_device_eval_batch_size
        return [ValidationLossCallback(self._items_of(series), batch_size, self.arguments.seed)]

    def save(self, folder: Path, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the model, the preparation of its input and the card."""
        from .saving import save_card, save_preprocessing

        result.model.save_pretrained(folder)
        save_preprocessing(folder, self.loaded.metadata)
        save_card(folder, self.settings, result, facts, self.loaded.metadata)
