"""The stages of a pre-training: what each reads, trains and saves. The run around them is the same for all."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import SettingsError, near_matches
from .checkpoints import WEIGHTS_FILE
from .settings import DEFAULT_STAGE

if TYPE_CHECKING:
    from .pretraining import PretrainingResult
    from .settings import PretrainSettings

# Module and class of the stages of methods that do not simply train a model on series. The default stage comes last.
_STAGES: dict[str, dict[str, tuple[str, str]]] = {
    "crosstimenet": {"tokenizer": ("stage_codec", "CodecStage"), "model": ("stage_tokens", "TokensStage")},
}
_PLAIN = {"model": ("stage_series", "SeriesStage")}


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
        from transformers import PreTrainedConfig

        from ..registry import get_method

        return get_method(method).config_class, set(getattr(PreTrainedConfig, "__dataclass_fields__", ()))

    @classmethod
    def default_recipe(cls, method: str, corpus: str | None) -> str:
        """Return the recipe where none is named.

        Args:
            method: Name of the method.
            corpus: Name of the first corpus, or None.
        """
        from .recipe import recipe_for_corpus

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
        from .trainer import TimeSeriesTrainer

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


def list_stages(method: str) -> list[str]:
    """Return the names of a method's stages, in the order in which they are run."""
    return list(_STAGES.get(method, _PLAIN))


def get_stage(method: str, stage: str = DEFAULT_STAGE) -> type[PretrainingStage]:
    """Return the class of a method's stage.

    Raises:
        SettingsError: The method has no such stage; the message names the near match.
    """
    known = _STAGES.get(method, _PLAIN)
    if stage not in known:
        hint = near_matches(stage, known, count=1, cutoff=0.5)
        raise SettingsError(f"Method {method!r} has no stage {stage!r}.{hint} Stages: {', '.join(known)}.")
    module, name = known[stage]
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)
