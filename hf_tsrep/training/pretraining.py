"""`pretrain`: from a corpus and a recipe to a finished model folder."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .checkpoints import check_output_directory, find_last_checkpoint
from .model_folder import write_json
from .resolve import resolve_settings
from .settings import SETTINGS_FILE, PretrainSettings, with_needed_values
from .stages import PretrainingStage, get_stage

logger = logging.getLogger(__name__)

# Groups of settings that a resumed run must share with the run that it goes on with, and what it may change.
_SHARED_GROUPS = ("method", "stage", "corpus", "model", "options", "data")
_FREE_RUN = ("monitor_collapse", "validation_loss")
_FREE_TRAINING = (
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "disable_tqdm",
    "report_to",
    "run_name",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
)
_BUDGET = ("max_steps", "num_train_epochs")
_SHARED_FACTS = ("corpus_fingerprints", "tokenizer_fingerprint", "num_processes", "per_device_train_batch_size")


@dataclass
class PretrainingResult:
    """What a pre-training ends with.

    Args:
        model: The model with its pretext task, in evaluation mode, with averaged weights where averaging is on.
        output_dir: Folder of the finished model.
        metrics: Last values of the log, number of steps, run time.
        history: Everything that was logged, of the steps before a resume too.
    """

    model: Any
    output_dir: Path
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


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
    from transformers import enable_full_determinism, set_seed

    from .memory import give_back_freed_blocks

    output_dir = Path(settings.output_dir)
    arguments = training_arguments(settings)
    stage = get_stage(settings.method, settings.stage)(settings, arguments)
    if arguments.device.type == "cpu":
        give_back_freed_blocks()
    with arguments.main_process_first(desc="preparing the output folder and the corpus"):
        check_output_directory(
            output_dir, bool(resume_from_checkpoint), settings.run.overwrite_output_dir, stage.weights_file
        )
        stage.load()
    _fit_batch(arguments, stage.num_batch_items)
    _choose_budget(arguments, settings, stage.num_elements)
    facts = _facts(arguments, stage)
    _check_resume(settings, facts, output_dir, resume_from_checkpoint)
    if resume_from_checkpoint is True and find_last_checkpoint(output_dir, arguments.world_size) is None:
        logger.warning("%s holds no whole checkpoint; training starts from the beginning.", output_dir)
        resume_from_checkpoint = None

    (enable_full_determinism if arguments.full_determinism else set_seed)(arguments.seed)
    model = stage.build_model(resumed=bool(resume_from_checkpoint))
    trainer, averaging = _build_trainer(settings, arguments, model, stage)
    if trainer.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / SETTINGS_FILE, {**settings.to_dict(), "facts": facts})
    trained = trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    if averaging is not None:
        averaging.copy_to(model)
    if "warmup_steps" in settings.training:
        facts["warmup_steps"] = arguments.get_warmup_steps(trainer.state.max_steps)  # a short run has fewer
    model.eval()
    history = list(trainer.state.log_history)
    result = PretrainingResult(model, output_dir, _metrics(history, trained, trainer), history)
    if trainer.is_world_process_zero():
        from .saving import save_finished_stage

        result.metrics |= stage.evaluate(model)
        save_finished_stage(stage, result, facts)
    trainer.accelerator.wait_for_everyone()
    return result


def training_arguments(settings: PretrainSettings) -> Any:
    """Return the Trainer's arguments.

    Args:
        settings: What was asked for.

    Raises:
        SettingsError: A value that the loop cannot work with, or several GPUs are visible to one process.
    """
    import torch
    from transformers import TrainingArguments

    needed = {
        "eval_strategy": (
            "no",
            "validation_loss=true logs the loss on validation data after every epoch",
        ),
        "load_best_model_at_end": (False, "pre-training chooses nothing by its validation loss"),
        "remove_unused_columns": (False, "the collator of the trainer takes care of the columns"),
        "auto_find_batch_size": (False, "the batch holds the negatives; choose per_device_train_batch_size"),
        "dataloader_persistent_workers": (False, "workers that persist would keep the windows of the first epoch"),
        "push_to_hub": (False, "publish the finished folder with `hf-tsrep push`"),
    }
    values = {
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "data_seed": settings.training.get("seed", 42),
        **with_needed_values(settings, needed),
    }
    arguments = TrainingArguments(output_dir=settings.output_dir, **values)
    if arguments.n_gpu > 1:
        raise SettingsError(
            f"{arguments.n_gpu} GPUs are visible to one process, which would split every batch and its negatives. "
            "Start one process a GPU with `accelerate launch -m hf_tsrep pretrain ...` or `torchrun`, or show it one "
            "GPU with CUDA_VISIBLE_DEVICES."
        )
    return arguments


def _fit_batch(arguments: Any, num_items: int) -> None:
    """Reduce the batch to the number of items, as the published code does; every process needs one batch an epoch."""
    largest = num_items // arguments.world_size
    if largest < 1:
        raise SettingsError(
            f"{num_items} training items cannot feed {arguments.world_size} processes. Start at most {num_items}, "
            "or cut the series into more pieces with a smaller max_train_length."
        )
    if arguments.per_device_train_batch_size > largest:
        logger.info("The batch of a process is %d: there are %d training items.", largest, num_items)
        arguments.per_device_train_batch_size = largest


def _choose_budget(arguments: Any, settings: PretrainSettings, num_elements: int) -> None:
    """Set max_steps by the published rule where nothing was given."""
    rule = settings.run.published_steps
    if rule is None or {"max_steps", "num_train_epochs"} & set(settings.training):
        return
    expected = {"small_corpus_elements", "small_corpus_steps", "steps"}
    if set(rule) != expected:
        raise SettingsError(f"published_steps has the fields {sorted(rule)}; expected {sorted(expected)}.")
    small = num_elements <= rule["small_corpus_elements"]
    arguments.max_steps = rule["small_corpus_steps"] if small else rule["steps"]
    logger.info("%d steps for %d numbers in the training array (published rule).", arguments.max_steps, num_elements)


def _facts(arguments: Any, stage: PretrainingStage) -> dict[str, Any]:
    """Return what was found out about the run, for the record."""
    from importlib.metadata import version

    from ..data import corpus_fingerprint

    return {
        "max_steps": arguments.max_steps,
        "per_device_train_batch_size": arguments.per_device_train_batch_size,
        "num_processes": arguments.world_size,
        **stage.facts(),
        "corpus_fingerprints": [corpus_fingerprint(corpus) for corpus in stage.corpora],
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")},
    }


def _check_resume(
    settings: PretrainSettings, facts: dict[str, Any], output_dir: Path, resume_from_checkpoint: bool | str | None
) -> None:
    """Refuse to go on with another model, other data or another training than the run began with.

    A run may go on longer than it was to where the learning rate of a step does not depend on the number of steps.
    """
    folder = output_dir if resume_from_checkpoint is True else Path(str(resume_from_checkpoint)).parent
    record = folder / SETTINGS_FILE
    if not resume_from_checkpoint or not record.is_file():
        return
    before, now = json.loads(record.read_text(encoding="utf-8")), settings.to_dict()
    pairs = {name: (before.get(name, now[name]), now[name]) for name in _SHARED_GROUPS}
    free = _FREE_TRAINING if _depends_on_budget(now) else (*_FREE_TRAINING, *_BUDGET)
    for group, allowed in (("training", free), ("run", _FREE_RUN)):
        for name in sorted({*before[group], *now[group]} - set(allowed)):
            pairs[name] = (before[group].get(name), now[group].get(name))
    pairs |= {name: (before["facts"].get(name), facts.get(name)) for name in _SHARED_FACTS}
    for group in pairs["options"]:
        group.pop("tokenizer", None)  # its weights are compared, wherever they lie
    for name, (old, new) in pairs.items():
        if old != new:
            raise ValueError(
                f"Cannot resume: {name} is {new!r}, but the run in {folder} began with {old!r}. Give the same "
                "settings, or start anew in another output_dir."
            )


def _depends_on_budget(settings: dict[str, Any]) -> bool:
    """Return whether the learning rate of a step depends on how many steps there are to be."""
    training, run = settings["training"], settings["run"]
    if run["learning_rate_decay"] is None and str(training.get("lr_scheduler_type", "linear")) == "constant":
        return False
    # A warm-up may be shortened to a quarter of the run.
    return run["learning_rate_decay"] is None or training.get("warmup_steps", 0) > 0


def _build_trainer(settings: PretrainSettings, arguments: Any, model: Any, stage: PretrainingStage) -> tuple[Any, Any]:
    """Return the trainer and the weight averaging, or None."""
    import torch

    from .weight_averaging import WeightAveragingCallback

    run = settings.run
    averaging = WeightAveragingCallback() if run.weight_averaging else None
    options = stage.trainer_options()
    if run.coupled_weight_decay:
        values = {"lr": arguments.learning_rate, "eps": arguments.adam_epsilon}
        values["betas"] = (arguments.adam_beta1, arguments.adam_beta2)
        options["optimizer_cls_and_kwargs"] = (torch.optim.Adam, values)
    if run.learning_rate_decay is not None:
        options["learning_rate_decay"] = (run.learning_rate_decay, run.learning_rate_decay_steps)
    trainer = stage.trainer_class()(
        model=model,
        args=arguments,
        callbacks=[*_callbacks(settings, averaging), *options.pop("callbacks", ())],
        decay_all_parameters=run.decay_all_parameters,
        shortens_warmup=settings.sources.get("warmup_steps", "").startswith("recipe"),
        **options,
    )
    return trainer, averaging


def _callbacks(settings: PretrainSettings, averaging: Any) -> list[Any]:
    """Return what happens at the steps and the epochs of any stage."""
    from .epochs import EpochScheduleCallback

    run = settings.run
    callbacks = [] if averaging is None else [averaging]
    if run.epoch_schedule is not None:
        callbacks.append(EpochScheduleCallback(run.epoch_schedule))
    return callbacks


def _metrics(history: list[dict[str, Any]], trained: Any, trainer: Any) -> dict[str, float]:
    """Return the last value of everything that was logged at the steps, the number of steps and the run time."""
    metrics: dict[str, float] = {}
    for entry in history:
        if "loss" in entry:
            metrics |= {name: value for name, value in entry.items() if name not in ("step", "epoch")}
    metrics["num_steps"] = trainer.state.global_step
    metrics["num_parameters"] = sum(parameter.numel() for parameter in trainer.model.parameters())
    metrics["train_runtime"] = trained.metrics.get("train_runtime", 0.0)
    return metrics
