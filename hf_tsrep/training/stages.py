"""The stages of a pre-training: what each reads, trains and saves. The run around them is the same for all."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
from abc import abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig, TrainingArguments

from ..data import corpus_fingerprint
from ..errors import SettingsError, near_matches
from ..registry import get_method
from .arguments import BUDGET_FIELDS, build_arguments, choose_budget, fit_batch, rate_depends_on_budget
from .callbacks import (
    EpochScheduleCallback,
    WeightAveragingCallback,
)
from .checkpoints import write_json
from .run import FREE_FIELDS, Shared, TrainingRun, versions
from .saving import (
    LOG_FILE,
    PretrainingResult,
    save_loss_curve,
    staged_folder,
)
from .settings import DEFAULT_STAGE, SETTINGS_FILE, DataSettings, PretrainSettings, RunSettings
from .settings_sources import dataclass_fields
from .trainer import TimeSeriesTrainer

logger = logging.getLogger(__name__)

# Fields that a resumed pre-training may have otherwise; a tokenizer's weights are compared, wherever they lie.
_FREE = FREE_FIELDS | {"save_steps", "dataloader_num_workers", "monitor_collapse", "validation_loss", "tokenizer"}


class PretrainingStage(TrainingRun):
    """A stage of a pre-training: a run that a method's own stages extend by what they read, train and save.

    Args:
        settings: What was asked for.
    """

    record_file = SETTINGS_FILE

    options_class: ClassVar[type | None] = None
    """Dataclass of the fields that only this stage has; `settings.options` holds them."""

    run_defaults: ClassVar[dict[str, Any]] = {}
    """Defaults of RunSettings where the stage has others."""

    recipe: ClassVar[str | None] = None
    """Name of the recipe that serves every corpus; None for that of the first corpus."""

    refused: ClassVar[dict[str, str]] = {}
    """Fields that mean nothing to this stage, and what to do instead."""

    settings: PretrainSettings

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__(settings, training_arguments(settings))
        self.averaging = WeightAveragingCallback() if settings.run.weight_averaging else None

    @classmethod
    def model_fields(cls, method: str) -> tuple[Any, set[str]]:
        """Return the dataclass whose fields describe the model, and those of them that cannot be given.

        Args:
            method: Name of the method.
        """
        return get_method(method).config_class, {one.name for one in dataclasses.fields(PreTrainedConfig)}

    @abstractmethod
    def read_corpora(self) -> None:
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
    def data_facts(self) -> dict[str, Any]:
        """Return what was found out about the data, for the record."""

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

    def load(self) -> None:
        """Read the corpora, and fit the batch and the budget to them."""
        self.read_corpora()
        num_items, num_elements = self.num_batch_items, self.num_elements
        fit_batch(self.arguments, num_items)
        choose_budget(self.arguments, self.settings, num_elements)

    def facts(self, model: Any) -> dict[str, Any]:
        """Return budget, batch, what the stage found out, and what the corpora and packages are."""
        return {
            "max_steps": self.arguments.max_steps,
            "per_device_train_batch_size": self.arguments.per_device_train_batch_size,
            "num_processes": self.arguments.world_size,
            **self.data_facts(),
            "corpus_fingerprints": self.fingerprints(),
            "versions": versions(),
        }

    def fingerprints(self) -> list[str]:
        """Return what tells the corpora from others, one text each."""
        return [corpus_fingerprint(corpus) for corpus in self.corpora]

    def shared(self) -> Shared:
        """Return all settings but some of what is told of the training.

        A run may go on longer than it was to where the learning rate of a step does not depend on the number of steps.
        """
        owner, left_out = self.model_fields(self.settings.method)
        owners: dict[str, Any] = {"options": self.options_class, "data": DataSettings, "run": RunSettings}
        owners["training"] = TrainingArguments
        fields = {"model": dataclass_fields("model", owner, left_out)}
        fields |= {group: dataclass_fields(group, one) if one else {} for group, one in owners.items()}
        return Shared(
            values=("method", "stage", "corpus"),
            groups=tuple(fields),
            facts=("corpus_fingerprints", "tokenizer_fingerprint", "num_processes", "per_device_train_batch_size"),
            free=_FREE if rate_depends_on_budget(self.settings) else _FREE | BUDGET_FIELDS,
            defaults={group: {name: one.default for name, one in of.items()} for group, of in fields.items()},
        )

    def build_trainer(self, model: Any) -> Any:
        """Return the stage's trainer, with what happens at the steps and the epochs of any stage."""
        run, arguments, options = self.settings.run, self.arguments, self.trainer_options()
        callbacks: list[Any] = [] if self.averaging is None else [self.averaging]
        if run.epoch_schedule is not None:
            callbacks.append(EpochScheduleCallback(run.epoch_schedule))
        if run.coupled_weight_decay:
            values: dict[str, Any] = {"lr": arguments.learning_rate, "eps": arguments.adam_epsilon}
            values["betas"] = (arguments.adam_beta1, arguments.adam_beta2)
            options["optimizer_cls_and_kwargs"] = (torch.optim.Adam, values)
        if run.learning_rate_decay is not None:
            options["learning_rate_decay"] = (run.learning_rate_decay, run.learning_rate_decay_steps)
        return self.trainer_class()(
            model=model,
            args=arguments,
            callbacks=[*callbacks, *options.pop("callbacks", ())],
            decay_all_parameters=run.decay_all_parameters,
            shortens_warmup=self.settings.sources.get("warmup_steps", "").startswith("recipe"),
            **options,
        )

    def finish(self, trainer: Any, train_runtime: float, facts: dict[str, Any]) -> PretrainingResult:
        """Give the model its averaged weights where there are any, measure it and write the finished folder."""
        model = trainer.model
        if self.averaging is not None:
            self.averaging.copy_to(model)
        if "warmup_steps" in self.settings.training:  # a short run has fewer
            facts["warmup_steps"] = self.arguments.get_warmup_steps(trainer.state.max_steps)
        model.eval()
        history = list(trainer.state.log_history)
        metrics = {**last_logged(history), "num_steps": trainer.state.global_step}
        metrics["num_parameters"] = sum(parameter.numel() for parameter in model.parameters())
        metrics["train_runtime"] = train_runtime
        result = PretrainingResult(model, Path(self.settings.output_dir), metrics, history)
        if trainer.is_world_process_zero():
            result.metrics |= self.evaluate(model)
            self._save(result, facts)
        return result

    def _save(self, result: PretrainingResult, facts: dict[str, Any]) -> None:
        """Write the finished folder. The weights come last, so that a folder with weights is complete."""
        settings = self.settings
        with staged_folder(result.output_dir, self.weights_file) as staging:
            write_json(staging / SETTINGS_FILE, {**settings.to_dict(), "facts": facts})
            write_json(staging / LOG_FILE, {"metrics": result.metrics, "history": result.history})
            what = "pre-training loss" if settings.stage == DEFAULT_STAGE else f"loss of the {settings.stage}"
            title = f"{get_method(settings.method).title} on {', '.join(settings.corpus_names)}: {what}"
            save_loss_curve(staging, result.history, title)
            self.save(staging, result, facts)


def list_stages(method: str) -> list[str]:
    """Return the names of a method's stages, in the order in which they are run; the last is the model's."""
    config_class: Any = get_method(method).config_class
    return list(config_class.stages)


@cache
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
        return importlib.import_module(f"{__package__}.series_stage").SeriesStage
    return importlib.import_module(own.name).STAGES[stage]


def training_arguments(settings: PretrainSettings) -> Any:
    """Return the Trainer's arguments.

    Args:
        settings: What was asked for.

    Raises:
        SettingsError: A value that the loop cannot work with, or several GPUs are visible to one process.
    """
    needed = {
        "eval_strategy": (
            "no",
            "validation_loss=true logs the loss on validation data after every epoch",
        ),
        "load_best_model_at_end": (False, "pre-training chooses nothing by its validation loss"),
        "auto_find_batch_size": (False, "the batch holds the negatives; choose per_device_train_batch_size"),
        "dataloader_persistent_workers": (False, "workers that persist would keep the windows of the first epoch"),
    }
    return build_arguments(settings, "pretrain", needed)


def last_logged(history: list[dict[str, Any]]) -> dict[str, float]:
    """Return the last value of everything that was logged at the steps."""
    metrics: dict[str, float] = {}
    for entry in history:
        if "loss" in entry:
            metrics |= {name: value for name, value in entry.items() if name not in ("step", "epoch")}
    return metrics
