"""The stage of most methods: one model, trained on the series of all corpora together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .corpora import TrainingSeries, load_training_series
from .stages import PretrainingStage

if TYPE_CHECKING:
    from .pretraining import PretrainingResult


class SeriesStage(PretrainingStage):
    """Series of equal channels, cut and cropped by TS2Vec's rules, and a model that reads `past_values`."""

    loaded: TrainingSeries
    dataset: Any

    def load(self) -> None:
        """Read the corpora and prepare the series."""
        from ..data import PretrainingDataset

        self.loaded = load_training_series(self.settings)
        self.dataset = PretrainingDataset(
            self.loaded.series, self.settings.data.max_train_length, seed=self.arguments.seed
        )

    @property
    def corpora(self) -> list[Any]:
        """The corpora, every split."""
        return self.loaded.corpora

    @property
    def num_batch_items(self) -> int:
        """Number of pieces of series."""
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
        """Return dataset, collator, monitors and the items' names."""
        from ..data import PretrainingCollator
        from .monitors import CollapseMonitor
        from .trainer import IndexedCollator, IndexedDataset

        longest = self.settings.data.max_train_length
        return {
            "train_dataset": IndexedDataset(self.dataset),
            "data_collator": IndexedCollator(PretrainingCollator(longest)),
            "monitors": [CollapseMonitor()] if self.settings.run.monitor_collapse else [],
            "item_names": self.loaded.item_names(len(self.dataset), longest),
        }

    def save(self, folder: Path, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the model, the preparation of its input and the card."""
        from .saving import save_card, save_preprocessing

        result.model.save_pretrained(folder)
        save_preprocessing(folder, self.loaded.metadata)
        save_card(folder, self.settings, result, facts, self.loaded.metadata)
