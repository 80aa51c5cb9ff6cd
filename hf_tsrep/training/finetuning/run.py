"""`finetune`: from a pretrained model and a labelled corpus to a finished model folder with its test results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from ...data.scaling import TARGET_SCALER
from ...errors import SettingsError
from ..arguments import build_arguments
from ..batches import IndexedCollator, IndexedDataset
from ..callbacks import EarlyStoppingByEpochs, EpochScheduleCallback
from ..data import check_training_series
from ..resolve import finetuning_fields, resolve_finetuning
from ..run import FREE_FIELDS, Shared, TrainingRun, train, versions
from ..saving import FinetuningResult, finetuning_outcome, save_finetuned_model
from ..settings import FINETUNING_FILE, FinetuneSettings
from ..streams import reads_stream
from .data import FinetuningData, load_finetuning_data, prepare_inputs
from .lora import add_lora, merge_lora, require_peft
from .meters import ClassificationMeter, ForecastMeter, MultiLabelMeter, RegressionMeter
from .model import (
    build_model,
    domain_of,
    encoder_fingerprint,
    freeze_encoder,
    prediction_length_of,
    reading_options,
)
from .streams import load_streamed_data, require_a_head_that_learns, saving_strategy
from .trainer import FinetuningTrainer

SELECTION_METRIC = {
    "classification": "accuracy",
    "multi-label": "macro_f1",
    "regression": "rmse",
    "forecasting": "mse",
}
METRICS = {
    "classification": ("accuracy", "macro_f1", "kappa", "auprc"),
    "multi-label": ("accuracy", "macro_f1", "micro_f1", "auprc"),
    "regression": ("rmse", "mae", "r2"),
    "forecasting": ("mse", "mae"),
}


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
        task: "classification" of the corpus's labels, "multi-label" of labels with several names ("worn;noisy"),
            "regression" of its target values, or "forecasting" of `prediction_length` steps.
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
    return train(FinetuningRun(settings, saves, shows_progress), resume_from_checkpoint)


def training_arguments(settings: FinetuneSettings) -> Any:
    """Return the Trainer's arguments: an evaluation and a checkpoint every epoch, the best of them at the end.

    Args:
        settings: What was asked for.

    Raises:
        SettingsError: A value that the loop cannot work with, several GPUs are visible to one process, or two fields
            contradict each other.
    """
    warmup_steps = settings.training.get("warmup_steps")
    if warmup_steps is None:
        warmup_steps = settings.run.warmup_ratio  # below 1 it is a share of the steps
    elif settings.is_given("warmup_ratio"):
        raise SettingsError("warmup_steps and warmup_ratio are both given; choose one.")
    metric = SELECTION_METRIC[settings.task]
    selection = "every epoch is validated and saved, and the best is taken; validation=none takes the last"
    needed: dict[str, tuple[Any, str]] = {
        "eval_strategy": ("epoch" if settings.selects else "no", selection),
        "save_strategy": ("epoch", selection),
        **(saving_strategy(settings) if reads_stream(settings) else {}),
        "load_best_model_at_end": (settings.selects, selection),
        "metric_for_best_model": (metric if settings.selects else None, selection),
        "greater_is_better": (metric in ("accuracy", "macro_f1") if settings.selects else None, selection),
        "label_names": ([label_name(settings)], "the task says what the labels are"),
        "batch_eval_metrics": (True, "metrics are computed batch by batch"),
        "prediction_loss_only": (False, "metrics need the predictions"),
    }
    return build_arguments(settings, "finetune", needed, warmup_steps=warmup_steps)


def label_name(settings: FinetuneSettings) -> str:
    """Return what the labels of the task are called in a batch."""
    return "future_values" if settings.task == "forecasting" else "labels"


class FinetuningRun(TrainingRun):
    """A fine-tuning: a new head on an encoder.

    Args:
        settings: What was asked for.
        saves: See `run_finetuning`.
        shows_progress: See `run_finetuning`.
    """

    record_file = FINETUNING_FILE
    settings: FinetuneSettings
    data: FinetuningData

    def __init__(self, settings: FinetuneSettings, saves: bool = True, shows_progress: bool = True) -> None:
        if settings.run.mode == "lora":
            require_peft()
        super().__init__(settings, training_arguments(settings))
        self.saves = saves
        self.shows_progress = shows_progress
        self.read_with = {**reading_options(settings), "prediction_length": prediction_length_of(settings)}

    def load(self) -> None:
        """Read the corpus and cut it into its parts."""
        options = dict(self.read_with)
        prediction_length = options.pop("prediction_length")
        if reads_stream(self.settings):
            self.data = load_streamed_data(self.settings, options, prediction_length, self.arguments)
        else:
            self.data = load_finetuning_data(self.settings, options, prediction_length, self.arguments.seed)

    def build_model(self, resumed: bool) -> Any:
        """Return the encoder with its new head, and mark which of its weights learn."""
        self.data.domain = domain_of(self.settings, self.data.metadata.name)
        model = build_model(self.settings, self.data)
        check_training_series(model, self.data.known_series(), self.data.metadata.channel_names)
        self.encoder_fingerprint = encoder_fingerprint(model)
        if self.data.is_streamed:
            require_a_head_that_learns(model)
        elif not resumed:
            model.eval().fit_head(self.data.datasets["train"])
            model.train()
        if self.settings.run.mode == "linear-probe":
            freeze_encoder(model)
        elif self.settings.run.trainable is not None:
            freeze_encoder(model, self.settings.run.trainable)
        elif self.settings.run.mode == "lora":
            add_lora(model, self.settings.run.lora_rank, self.settings.run.lora_alpha)
        return model

    def facts(self, model: Any) -> dict[str, Any]:
        """Return what each part holds, sizes, and what corpus, encoder and packages are."""
        data = self.data
        has_scaled_targets = not data.class_names and model.config.target_deviations is not None
        return {
            **data.facts,
            **({"target_scaler": TARGET_SCALER} if has_scaled_targets or data.label_statistics else {}),
            "sequence_length": data.sequence_length,
            "num_input_channels": data.num_input_channels,
            "num_parameters": sum(one.numel() for one in model.parameters()),
            "num_trained_parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
            "num_processes": self.arguments.world_size,
            "corpus_fingerprint": data.fingerprint(),
            "versions": versions(),
            **self.read_with,
            "encoder_fingerprint": self.encoder_fingerprint,
        }

    def shared(self) -> Shared:
        """Return all settings but some of what is told of the training; see `shared_by_finetunings`."""
        return shared_by_finetunings(self.settings.method)

    def build_trainer(self, model: Any) -> Any:
        """Compute once what never changes, and return the trainer."""
        run = self.settings.run
        prepare_inputs(model, self.data, self.arguments, run.mode == "linear-probe", run.feature_memory)
        return build_trainer(self.settings, self.arguments, model, self.data)

    def finish(self, trainer: Any, train_runtime: float, facts: dict[str, Any]) -> FinetuningResult:
        """Test the selected model once, and save it."""
        settings, data, state = self.settings, self.data, trainer.state
        if settings.run.mode == "lora":
            merge_lora(trainer.model)
        history = [dict(entry) for entry in state.log_history]
        wanted = METRICS[settings.task]
        tested = trainer.evaluate(_indexed(data, "test"), metric_key_prefix="test")
        metrics = {name: tested[f"test_{name}"] for name in wanted}
        step = state.best_global_step if settings.selects and state.best_global_step else state.global_step
        chosen = next((entry for entry in history if entry.get("step") == step and "eval_loss" in entry), {})
        validated = {name: chosen[f"eval_{name}"] for name in ("loss", *wanted) if f"eval_{name}" in chosen}
        epochs_run = max((entry["epoch"] for entry in history if "epoch" in entry), default=0.0)
        epoch = chosen.get("epoch", epochs_run)
        facts |= {"train_runtime": round(train_runtime, 2), "num_steps": state.global_step}
        facts |= {"num_epochs": epochs_run, "selected_epoch": epoch}
        model = trainer.model.eval()
        result = FinetuningResult(model, Path(settings.output_dir), metrics, validated, epoch, facts, history)
        result.outcome = finetuning_outcome(result, settings, data)
        if self.saves and trainer.is_world_process_zero():
            save_finetuned_model(result, settings, data)
        return result


def shared_by_finetunings(method: str) -> Shared:
    """Return what a resumed fine-tuning must share with the run that it goes on with.

    The schedule of the learning rate depends on the number of epochs, so that this must stay too. The facts have what
    came out of scaler and time_features. Fields of the config that are not given are those of the model.

    Args:
        method: Name of the method.
    """
    groups = ("config", "data", "run", "training")
    known = finetuning_fields(method).values()
    return Shared(
        values=("model", "method", "corpus", "task"),
        groups=groups,
        facts=(
            *("scaler", "time_features", "prediction_length", "num_processes"),
            *("encoder_fingerprint", "corpus_fingerprint"),
        ),
        free=FREE_FIELDS | {"feature_memory", "scaler", "time_features"},
        defaults={group: {one.name: one.default for one in known if one.group == group} for group in groups[1:]},
    )


def build_trainer(settings: FinetuneSettings, arguments: Any, model: Any, data: FinetuningData) -> FinetuningTrainer:
    """Return the trainer of these settings.

    Args:
        settings: What was asked for.
        arguments: The Trainer's arguments.
        model: The model, its frozen weights marked.
        data: The datasets, as the model takes them.
    """
    run = settings.run
    callbacks: list[Any] = []
    if run.epoch_schedule is not None:
        callbacks.append(EpochScheduleCallback(run.epoch_schedule))
    if settings.selects and run.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingByEpochs(run.early_stopping_patience))
    meters: dict[str, Callable[[], Any]] = {
        "classification": ClassificationMeter,
        "multi-label": MultiLabelMeter,
        "regression": RegressionMeter,
        "forecasting": lambda: ForecastMeter(model.config.target_deviations),
    }
    return FinetuningTrainer(
        model=model,
        args=arguments,
        train_dataset=_indexed(data, "train"),
        eval_dataset=_indexed(data, "validation") if "validation" in data.datasets else None,
        data_collator=IndexedCollator(default_collate),
        compute_metrics=meters[settings.task](),
        callbacks=callbacks,
        decay_all_parameters=run.decay_all_parameters,
        label_name=label_name(settings),
        freezes_encoder=run.mode == "linear-probe",
        backbone_learning_rate_factor=run.backbone_learning_rate_factor,
        forward_arguments={} if data.domain is None else {"domain": data.domain},
    )


def _indexed(data: FinetuningData, part: str) -> Any:
    """Return the dataset of a part whose items carry their numbers."""
    return data.datasets[part] if data.is_streamed else IndexedDataset(data.datasets[part])
