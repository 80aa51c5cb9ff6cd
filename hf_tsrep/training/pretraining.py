"""`pretrain`: from a corpus and a recipe to a finished model folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ..data import corpus_fingerprint
from ..errors import SettingsError
from ..registry import get_method
from .callbacks import EpochScheduleCallback, WeightAveragingCallback
from .resolve import pretraining_fields, resolve_settings
from .run import FREE_FIELDS, Shared, TrainingRun, build_arguments, train, versions
from .saving import LOG_FILE, PretrainingResult, save_loss_curve, staged_folder, write_json
from .settings import DEFAULT_STAGE, SETTINGS_FILE, PretrainSettings
from .stages import PretrainingStage, get_stage

logger = logging.getLogger(__name__)

# Fields that a resumed pre-training may have otherwise; a tokenizer's weights are compared, wherever they lie.
_FREE = FREE_FIELDS | {"save_steps", "dataloader_num_workers", "monitor_collapse", "validation_loss", "tokenizer"}
_BUDGET = frozenset({"max_steps", "num_train_epochs"})


def pretrain(
    method: str,
    corpus: Any,
    output_dir: str | Path,
    *,
    config_file: str | Path | None = None,
    resume_from_checkpoint: bool | str | None = None,
    **fields: Any,
) -> PretrainingResult:
    """Pre-train a method on the training part of a corpus and save a complete model folder.

    Args:
        method: Name of the method, such as "ts2vec".
        corpus: What `hf_tsrep.data.load_corpus` takes, or a list of them; with equal channels, unless the method has
            domains.
        output_dir: Folder of the finished model; checkpoints go to `checkpoint-N` inside.
        config_file: YAML file of further fields; the arguments go before it, and it goes before the recipe.
        resume_from_checkpoint: True to go on from the newest whole checkpoint of output_dir, or a checkpoint's folder.
        fields: Any of `pretraining_fields(method, stage)`: fields of the method's config, of DataSettings, of
            RunSettings and of `transformers.TrainingArguments`, `recipe`, and `stage` of a method that is trained in
            several ("tokenizer", then "model").

    Returns:
        The model and what was logged.

    Raises:
        SettingsError: An unknown field (with the near match) or a wrong type.
        FileExistsError: output_dir holds a model or checkpoints, and neither resuming nor overwriting was asked for.
        NonFiniteLossError: The loss is NaN or infinite; the error names the step and the series of the batch.
        ValueError: A corpus cannot be used, or the run cannot be resumed.
    """
    overrides = {"method": method, "corpus": corpus, "output_dir": str(output_dir), **fields}
    settings = resolve_settings(overrides, config_file, place="arguments")
    return run_pretraining(settings, resume_from_checkpoint=resume_from_checkpoint)


def run_pretraining(
    settings: PretrainSettings, *, resume_from_checkpoint: bool | str | None = None
) -> PretrainingResult:
    """Pre-train as settings say; see `pretrain`."""
    return train(PretrainingRun(settings), resume_from_checkpoint)


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


class PretrainingRun(TrainingRun):
    """A pre-training: one stage of a method.

    Args:
        settings: What was asked for.
    """

    record_file = SETTINGS_FILE
    settings: PretrainSettings

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__(settings, training_arguments(settings))
        self.stage: PretrainingStage = get_stage(settings.method, settings.stage)(settings, self.arguments)
        self.weights_file = self.stage.weights_file
        self.averaging = WeightAveragingCallback() if settings.run.weight_averaging else None

    def load(self) -> None:
        """Read the corpora, and fit the batch and the budget to them."""
        self.stage.load()
        fit_batch(self.arguments, self.stage.num_batch_items)
        choose_budget(self.arguments, self.settings, self.stage.num_elements)

    def build_model(self, resumed: bool) -> Any:
        """Return the model of the stage."""
        return self.stage.build_model(resumed)

    def facts(self, model: Any) -> dict[str, Any]:
        """Return budget, batch, what the stage found out, and what the corpora and packages are."""
        return {
            "max_steps": self.arguments.max_steps,
            "per_device_train_batch_size": self.arguments.per_device_train_batch_size,
            "num_processes": self.arguments.world_size,
            **self.stage.facts(),
            "corpus_fingerprints": [corpus_fingerprint(corpus) for corpus in self.stage.corpora],
            "versions": versions(),
        }

    def shared(self) -> Shared:
        """Return all settings but some of what is told of the training.

        A run may go on longer than it was to where the learning rate of a step does not depend on the number of steps.
        """
        groups = ("model", "options", "data", "run", "training")
        known = pretraining_fields(self.settings.method, self.settings.stage).values()
        return Shared(
            values=("method", "stage", "corpus"),
            groups=groups,
            facts=("corpus_fingerprints", "tokenizer_fingerprint", "num_processes", "per_device_train_batch_size"),
            free=_FREE if rate_depends_on_budget(self.settings) else _FREE | _BUDGET,
            defaults={group: {one.name: one.default for one in known if one.group == group} for group in groups},
        )

    def build_trainer(self, model: Any) -> Any:
        """Return the stage's trainer, with what happens at the steps and the epochs of any stage."""
        run, arguments, options = self.settings.run, self.arguments, self.stage.trainer_options()
        callbacks: list[Any] = [] if self.averaging is None else [self.averaging]
        if run.epoch_schedule is not None:
            callbacks.append(EpochScheduleCallback(run.epoch_schedule))
        if run.coupled_weight_decay:
            values: dict[str, Any] = {"lr": arguments.learning_rate, "eps": arguments.adam_epsilon}
            values["betas"] = (arguments.adam_beta1, arguments.adam_beta2)
            options["optimizer_cls_and_kwargs"] = (torch.optim.Adam, values)
        if run.learning_rate_decay is not None:
            options["learning_rate_decay"] = (run.learning_rate_decay, run.learning_rate_decay_steps)
        return self.stage.trainer_class()(
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
            result.metrics |= self.stage.evaluate(model)
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
            self.stage.save(staging, result, facts)


def fit_batch(arguments: Any, num_items: int) -> None:
    """Reduce the batch to the number of items, as the published code does; every process needs one batch an epoch.

    Args:
        arguments: The Trainer's arguments, whose per_device_train_batch_size may be changed.
        num_items: Number of training items that one batch can be drawn from.

    Raises:
        SettingsError: There are fewer items than processes.
    """
    largest = num_items // arguments.world_size
    if largest < 1:
        raise SettingsError(
            f"{num_items} training items cannot feed {arguments.world_size} processes. Start at most {num_items}, "
            "or cut the series into more pieces with a smaller max_train_length."
        )
    if arguments.per_device_train_batch_size > largest:
        logger.info("The batch of a process is %d: there are %d training items.", largest, num_items)
        arguments.per_device_train_batch_size = largest
    if arguments.per_device_train_batch_size * arguments.world_size == 1:
        logger.warning(
            "A batch holds one training item, so a loss that tells the items of a batch apart is zero or learns "
            "nothing. What helps: more series, windows of them (max_train_length with window_stride), or a larger "
            "per_device_train_batch_size. There are %d training items.",
            num_items,
        )


def choose_budget(arguments: Any, settings: PretrainSettings, num_elements: int) -> None:
    """Set max_steps by the published rule where nothing was given.

    Args:
        arguments: The Trainer's arguments, whose max_steps may be changed.
        settings: Have the rule, and whether anything was given.
        num_elements: Numbers in the training array.

    Raises:
        SettingsError: The rule has other fields.
    """
    rule = settings.run.published_steps
    if rule is None or _BUDGET & set(settings.training):
        return
    expected = {"small_corpus_elements", "small_corpus_steps", "steps"}
    if set(rule) != expected:
        raise SettingsError(f"published_steps has the fields {sorted(rule)}; expected {sorted(expected)}.")
    small = num_elements <= rule["small_corpus_elements"]
    arguments.max_steps = rule["small_corpus_steps"] if small else rule["steps"]
    logger.info("%d steps for %d numbers in the training array (published rule).", arguments.max_steps, num_elements)


def rate_depends_on_budget(settings: PretrainSettings) -> bool:
    """Return whether the learning rate of a step depends on how many steps there are to be."""
    if settings.run.learning_rate_decay is None:
        return str(settings.training.get("lr_scheduler_type", "linear")) != "constant"
    return settings.training.get("warmup_steps", 0) > 0  # a warm-up may be shortened to a quarter of the run


def last_logged(history: list[dict[str, Any]]) -> dict[str, float]:
    """Return the last value of everything that was logged at the steps."""
    metrics: dict[str, float] = {}
    for entry in history:
        if "loss" in entry:
            metrics |= {name: value for name, value in entry.items() if name not in ("step", "epoch")}
    return metrics
