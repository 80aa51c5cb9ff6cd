"""`finetune`: from a pretrained model and a labelled corpus to a finished model folder with its test results."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingsError
from .checkpoints import check_output_directory, find_last_checkpoint
from .finetuning_data import FinetuningData, load_finetuning_data
from .finetuning_inputs import prepare_inputs
from .finetuning_model import (
    add_low_rank_changes,
    build_model,
    domain_of,
    encoder_fingerprint,
    freeze_encoder,
    merge_low_rank_changes,
    prediction_length_of,
    reading_options,
    require_peft,
)
from .model_folder import write_json
from .resolve import finetuning_fields, resolve_finetuning
from .settings import FINETUNING_FILE, FinetuneSettings, with_needed_values

logger = logging.getLogger(__name__)

SELECTION_METRIC = {"classification": "accuracy", "forecasting": "mse"}
METRICS = {"classification": ("accuracy", "macro_f1", "kappa", "auprc"), "forecasting": ("mse", "mae")}

# What a resumed run must share with the run that it goes on with: settings, groups of them, and facts.
_SHARED_VALUES = ("model", "method", "corpus", "task")
_SHARED_GROUPS = ("config", "data", "run", "training")
_SHARED_FACTS = (
    "scaler",
    "time_features",
    "prediction_length",
    "num_processes",
    "encoder_fingerprint",
    "corpus_fingerprint",
)
# Fields that may differ: they change nothing, or the facts have what came out of them.
_FREE_FIELDS = frozenset(
    {"logging_steps", "save_total_limit", "disable_tqdm", "report_to", "per_device_eval_batch_size"}
    | {"feature_memory", "scaler", "time_features"}
)


@dataclass
class FinetuningResult:
    """What a fine-tuning ends with.

    Args:
        model: The selected model in evaluation mode.
        output_dir: Folder of the finished model.
        metrics: Test metrics of the selected model, computed once.
        validation_metrics: Those on validation data in the selected epoch; empty without a validation.
        epoch: The selected epoch.
        facts: What was found out about the run.
        history: Everything that was logged, of the steps before a resume too.
        outcome: Metrics, details, timings and settings as every protocol of `hf_tsrep.evaluation` returns them.
    """

    model: Any
    output_dir: Path
    metrics: dict[str, float] = field(default_factory=dict)
    validation_metrics: dict[str, float] = field(default_factory=dict)
    epoch: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)


def finetune(
    model_or_folder: Any,
    corpus: Any,
    output_dir: str | Path,
    *,
    task: str = "classification",
    config_file: str | Path | None = None,
    resume_from_checkpoint: bool | str | None = None,
    **fields: Any,
) -> FinetuningResult:
    """Fine-tune a pretrained model on a labelled corpus, test it once and save a complete model folder.

    The epoch is chosen on validation data: the corpus's own, else a part of train that is held out.

    Args:
        model_or_folder: Folder or Hub id of a pretrained model, a model; or the name of a method, whose weights then
            all start at random.
        corpus: What `hf_tsrep.data.load_corpus` takes.
        output_dir: Folder of the finished model; checkpoints go to `checkpoint-N` inside.
        task: "classification" of the corpus's labels, or "forecasting" of `prediction_length` steps.
        config_file: YAML file of further fields; the arguments go before it, and it goes before the recipe.
        resume_from_checkpoint: True to go on from the newest whole checkpoint of output_dir, or a checkpoint's folder.
        fields: Any of `finetuning_fields(method)`: fields of the method's config, of FinetuneDataSettings, of
            FinetuneRunSettings and of `transformers.TrainingArguments`, and `recipe`.

    Returns:
        The selected model and its metrics.

    Raises:
        SettingsError: An unknown field (with the near match), a wrong type or range, or peft is missing.
        FileExistsError: output_dir holds a model or checkpoints, and neither resuming nor overwriting was asked for.
        FileNotFoundError: There is no such model.
        NonFiniteLossError: The loss is NaN or infinite; the error names the step and the samples of the batch.
        ValueError: The corpus does not fit the task or the model, or the run cannot be resumed.
    """
    overrides = {"model": model_or_folder, "corpus": corpus, "output_dir": str(output_dir), "task": task, **fields}
    settings = resolve_finetuning(overrides, config_file, place="arguments")
    return run_finetuning(settings, resume_from_checkpoint=resume_from_checkpoint)


def run_finetuning(
    settings: FinetuneSettings,
    *,
    resume_from_checkpoint: bool | str | None = None,
    saves: bool = True,
    shows_progress: bool = True,
) -> FinetuningResult:
    """Fine-tune as settings say; see `finetune`.

    Args:
        settings: What to do.
        resume_from_checkpoint: See `finetune`.
        saves: Whether the finished model is saved. Checkpoints are in any case: the best epoch is read from them.
        shows_progress: Whether the Trainer prints anything or has a progress bar.

    Returns:
        The selected model and its metrics.
    """
    from transformers import PrinterCallback, ProgressCallback, enable_full_determinism, set_seed

    from .memory import give_back_freed_blocks

    if settings.run.mode == "lora":
        require_peft()
    output_dir = Path(settings.output_dir)
    arguments = training_arguments(settings)
    if arguments.device.type == "cpu":
        give_back_freed_blocks()
    options, prediction_length = reading_options(settings), prediction_length_of(settings)
    with arguments.main_process_first(desc="preparing the output folder and the corpus"):
        check_output_directory(output_dir, bool(resume_from_checkpoint), settings.run.overwrite_output_dir)
        data = load_finetuning_data(settings, options, prediction_length, arguments.seed)
    data.domain = domain_of(settings, data.metadata.name)
    (enable_full_determinism if arguments.full_determinism else set_seed)(arguments.seed)
    model = build_model(settings, data)
    fingerprint = {"encoder_fingerprint": encoder_fingerprint(model)}
    if settings.run.mode == "linear-probe":
        freeze_encoder(model)
    elif settings.run.mode == "lora":
        add_low_rank_changes(model, settings.run.lora_rank, settings.run.lora_alpha)
    facts = {**run_facts(arguments, model, data), **options, "prediction_length": prediction_length, **fingerprint}
    check_resume(settings, facts, output_dir, resume_from_checkpoint)
    if resume_from_checkpoint is True and find_last_checkpoint(output_dir, arguments.world_size) is None:
        logger.warning("%s holds no whole checkpoint; training starts from the beginning.", output_dir)
        resume_from_checkpoint = None
    prepare_inputs(model, data, arguments, settings.run.mode == "linear-probe", settings.run.feature_memory)
    trainer = build_trainer(settings, arguments, model, data)
    if not shows_progress:
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)
    if trainer.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / FINETUNING_FILE, {**settings.to_dict(), "facts": facts})
    trained = trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    if settings.run.mode == "lora":
        merge_low_rank_changes(model)
    facts["train_runtime"] = round(trained.metrics.get("train_runtime", 0.0), 2)
    return _finish(trainer, settings, data, facts, saves)


def training_arguments(settings: FinetuneSettings) -> Any:
    """Return the Trainer's arguments: an evaluation and a checkpoint every epoch, the best of them at the end.

    Args:
        settings: What was asked for.

    Raises:
        SettingsError: Several GPUs are visible to one process, or two fields contradict each other.
    """
    from transformers import TrainingArguments

    run, training = settings.run, settings.training
    if "warmup_steps" in training and not settings.is_given("warmup_ratio"):
        warmup_steps = training["warmup_steps"]
    elif "warmup_steps" in training:
        raise SettingsError("warmup_steps and warmup_ratio are both given; choose one.")
    else:
        warmup_steps = run.warmup_ratio  # below 1 it is a share of the steps
    metric = SELECTION_METRIC[settings.task]
    selection = "every epoch is validated and saved, and the best is taken; validation=none takes the last"
    needed: dict[str, tuple[Any, str]] = {
        "eval_strategy": ("epoch" if settings.selects else "no", selection),
        "save_strategy": ("epoch", selection),
        "load_best_model_at_end": (settings.selects, selection),
        "metric_for_best_model": (metric if settings.selects else None, selection),
        "greater_is_better": (metric == "accuracy" if settings.selects else None, selection),
        "label_names": ([label_name(settings)], "the task says what the labels are"),
        "batch_eval_metrics": (True, "metrics are computed batch by batch"),
        "prediction_loss_only": (False, "metrics need the predictions"),
        "remove_unused_columns": (False, "the collator of the trainer takes care of the columns"),
        "push_to_hub": (False, "publish the finished folder with `hf-tsrep push`"),
    }
    values = {
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "data_seed": training.get("seed", 42),
        **with_needed_values(settings, needed),
        "warmup_steps": warmup_steps,
    }
    arguments = TrainingArguments(output_dir=settings.output_dir, **values)
    if arguments.n_gpu > 1:
        raise SettingsError(
            f"{arguments.n_gpu} GPUs are visible to one process. Start one process a GPU with `accelerate launch -m "
            "hf_tsrep finetune ...` or `torchrun`, or show it one GPU with CUDA_VISIBLE_DEVICES."
        )
    return arguments


def label_name(settings: FinetuneSettings) -> str:
    """Return what the labels of the task are called in a batch."""
    return "labels" if settings.task == "classification" else "future_values"


def build_trainer(settings: FinetuneSettings, arguments: Any, model: Any, data: FinetuningData) -> Any:
    """Return the trainer of these settings.

    Args:
        settings: What was asked for.
        arguments: The Trainer's arguments.
        model: The model, its frozen weights marked.
        data: The datasets, as the model takes them.
    """
    from torch.utils.data import default_collate

    from .finetuning_trainer import FinetuningTrainer
    from .trainer import IndexedCollator, IndexedDataset

    validation = data.datasets.get("validation")
    return FinetuningTrainer(
        model=model,
        args=arguments,
        train_dataset=IndexedDataset(data.datasets["train"]),
        eval_dataset=None if validation is None else IndexedDataset(validation),
        data_collator=IndexedCollator(default_collate),
        callbacks=_callbacks(settings),
        decay_all_parameters=settings.run.decay_all_parameters,
        label_name=label_name(settings),
        freezes_encoder=settings.run.mode == "linear-probe",
        backbone_learning_rate_factor=settings.run.backbone_learning_rate_factor,
        forward_arguments={} if data.domain is None else {"domain": data.domain},
        target_scale=getattr(model.config, "target_scale", None),
    )


def _callbacks(settings: FinetuneSettings) -> list[Any]:
    """Return what happens at the borders of epochs."""
    from .epochs import EpochScheduleCallback
    from .finetuning_trainer import EarlyStoppingByEpochs

    run = settings.run
    callbacks: list[Any] = []
    if run.epoch_schedule is not None:
        callbacks.append(EpochScheduleCallback(run.epoch_schedule))
    if settings.selects and run.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingByEpochs(run.early_stopping_patience))
    return callbacks


def run_facts(arguments: Any, model: Any, data: FinetuningData) -> dict[str, Any]:
    """Return what was found out about the run, for the record.

    Args:
        arguments: The Trainer's arguments.
        model: The model, its frozen weights marked.
        data: The datasets.
    """
    from importlib.metadata import version

    from ..data import corpus_fingerprint
    from ..data.scaling import TARGET_SCALER

    has_scaled_targets = not data.class_names and getattr(model.config, "target_scale", None) is not None
    return {
        **data.facts,
        **({"target_scaler": TARGET_SCALER} if has_scaled_targets else {}),
        "sequence_length": data.sequence_length,
        "num_input_channels": data.num_input_channels,
        "num_parameters": sum(one.numel() for one in model.parameters()),
        "num_trained_parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "num_processes": arguments.world_size,
        "corpus_fingerprint": corpus_fingerprint(data.corpus),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")},
    }


def check_resume(
    settings: FinetuneSettings, facts: Mapping[str, Any], output_dir: Path, resume_from_checkpoint: bool | str | None
) -> None:
    """Refuse to go on with other settings or other data than the run began with.

    The schedule of the learning rate depends on the number of epochs, so that this must stay too.

    Raises:
        ValueError: The message names what differs.
    """
    folder = output_dir if resume_from_checkpoint is True else Path(str(resume_from_checkpoint)).parent
    record = folder / FINETUNING_FILE
    if not resume_from_checkpoint or not record.is_file():
        return
    before, now = json.loads(record.read_text(encoding="utf-8")), settings.to_dict()
    known = finetuning_fields(settings.method).values()
    # A record of an older version lacks the fields that are new: its run had their defaults. Fields of the config that
    # are not given are those of the model.
    defaults = {one.name: one.default for one in known if one.group != "config"}
    pairs = {name: (before[name], now[name]) for name in _SHARED_VALUES}
    for group in _SHARED_GROUPS:
        for name in {**now[group], **before[group]}:
            if name not in _FREE_FIELDS:
                pairs[name] = tuple(one[group].get(name, defaults.get(name)) for one in (before, now))
    pairs |= {name: (before["facts"].get(name), facts[name]) for name in _SHARED_FACTS}
    for name, (old, new) in pairs.items():
        if old != new:
            raise ValueError(
                f"Cannot resume: {name} is {new!r}, but the run in {folder} began with {old!r}. Give the same "
                "settings, or start anew in another output_dir."
            )


def _finish(
    trainer: Any, settings: FinetuneSettings, data: FinetuningData, facts: dict[str, Any], saves: bool
) -> FinetuningResult:
    """Test the selected model once, and save it."""
    from .finetuning_saving import finetuning_outcome, save_finetuned_model
    from .trainer import IndexedDataset

    state = trainer.state
    history = [dict(entry) for entry in state.log_history]
    wanted = METRICS[settings.task]
    tested = trainer.evaluate(IndexedDataset(data.datasets["test"]), metric_key_prefix="test")
    metrics = {name: tested[f"test_{name}"] for name in wanted}
    step = state.best_global_step if settings.selects and state.best_global_step else state.global_step
    chosen = next((entry for entry in history if entry.get("step") == step and "eval_loss" in entry), {})
    validated = {name: chosen[f"eval_{name}"] for name in ("loss", *wanted) if f"eval_{name}" in chosen}
    epochs_run = max((entry["epoch"] for entry in history if "epoch" in entry), default=0.0)
    epoch = chosen.get("epoch", epochs_run)
    facts |= {"num_steps": state.global_step, "num_epochs": epochs_run, "selected_epoch": epoch}
    model = trainer.model.eval()
    result = FinetuningResult(model, Path(settings.output_dir), metrics, validated, epoch, facts, history)
    result.outcome = finetuning_outcome(result, settings, data)
    if saves and trainer.is_world_process_zero():
        save_finetuned_model(result, settings, data)
    trainer.accelerator.wait_for_everyone()
    return result
