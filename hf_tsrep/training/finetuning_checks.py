"""What the settings of a fine-tuning must not be: out of range, of another task or mode, or two schedules at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .field_types import SettingsError

if TYPE_CHECKING:
    from .finetuning_settings import FinetuneSettings

# Fields that only one task, or only some modes, read.
_TASK_OF_FIELD = {
    "context_length": "forecasting",
    "stride": "forecasting",
    "prediction_length": "forecasting",
    "classifier_dropout": "classification",
}
_MODES_OF_FIELD = {
    "feature_memory": ("linear-probe",),
    "lora_rank": ("lora",),
    "lora_alpha": ("lora",),
    "backbone_learning_rate_factor": ("full", "lora"),
}


def check_settings(settings: FinetuneSettings) -> None:
    """Refuse settings that are out of range, would be ignored, or contradict each other.

    Raises:
        SettingsError: The message names the field, the value, the place and the fix.
    """
    _check_ranges(settings)
    _check_task(settings)
    _check_mode(settings)
    _check_schedules(settings)


def reads_context(settings: FinetuneSettings) -> bool:
    """Return whether a classifier of these settings depends on context_length.

    SimMTM's head covers the first context_length timestamps of a series, and so does TimeDRL's instance embedding
    "all"; TimeDRL's others embed the whole series, and other methods have no such field.
    """
    from .finetuning_model import model_config

    config = model_config(settings)
    embedding = settings.config.get("instance_embedding", getattr(config, "instance_embedding", "all"))
    return hasattr(config, "context_length") and embedding == "all"


def _check_ranges(settings: FinetuneSettings) -> None:
    from .epochs import EPOCH_SCHEDULES

    data, run = settings.data, settings.run
    allowed: dict[str, tuple[Any, bool, str]] = {
        "label_fraction": (data.label_fraction, 0.0 < data.label_fraction <= 1.0, "above 0 and at most 1"),
        "validation_fraction": (
            data.validation_fraction,
            0.0 < data.validation_fraction < 1.0,
            "between 0 and 1; validation=none turns the validation off",
        ),
        "context_length": (data.context_length, data.context_length >= 1, "at least 1"),
        "stride": (data.stride, data.stride >= 1, "at least 1"),
        "warmup_ratio": (run.warmup_ratio, 0.0 <= run.warmup_ratio < 1.0, "at least 0 and below 1"),
        "feature_memory": (run.feature_memory, run.feature_memory >= 0.0, "at least 0, in GiB"),
        "lora_rank": (run.lora_rank, run.lora_rank >= 1, "at least 1"),
        "backbone_learning_rate_factor": (
            run.backbone_learning_rate_factor,
            run.backbone_learning_rate_factor > 0.0,
            "above 0; mode=linear-probe freezes the encoder",
        ),
        "epoch_schedule": (
            run.epoch_schedule,
            run.epoch_schedule in (None, *EPOCH_SCHEDULES),
            f"one of {', '.join(EPOCH_SCHEDULES)}, or none",
        ),
        "early_stopping_patience": (
            run.early_stopping_patience,
            run.early_stopping_patience is None or run.early_stopping_patience >= 1,
            "at least 1, or none",
        ),
    }
    for name, (value, is_right, words) in allowed.items():
        if not is_right:
            where = settings.sources.get(name, "default")
            raise SettingsError(f"{name}={value!r} ({where}): must be {words}.")


def _check_task(settings: FinetuneSettings) -> None:
    for name, task in _TASK_OF_FIELD.items():
        if task == settings.task or not settings.is_given(name):
            continue
        if name == "context_length" and reads_context(settings):
            continue
        raise SettingsError(
            f"{name}={_value(settings, name)!r} ({settings.sources[name]}) has no meaning for task={settings.task} "
            f"with this model; leave it out, or set task={task}."
        )


def _check_mode(settings: FinetuneSettings) -> None:
    for name, modes in _MODES_OF_FIELD.items():
        if settings.run.mode not in modes and settings.is_given(name):
            raise SettingsError(
                f"{name}={_value(settings, name)!r} ({settings.sources[name]}) has no meaning for mode="
                f"{settings.run.mode}; leave it out, or set mode={' or mode='.join(modes)}."
            )


def _value(settings: FinetuneSettings, name: str) -> Any:
    return {**vars(settings.data), **vars(settings.run), **settings.config}[name]


def _check_schedules(settings: FinetuneSettings) -> None:
    """Refuse an epoch_schedule beside another schedule; a recipe's warm-up is no contradiction, and left out."""
    from .epochs import refuse_other_schedules

    if settings.run.epoch_schedule is None:
        return
    training, others = settings.training, {}
    kind = training.get("lr_scheduler_type", "linear")
    if kind != "constant":
        where = settings.sources.get("lr_scheduler_type", "default")
        others[f"lr_scheduler_type={kind!r} ({where})"] = "lr_scheduler_type=constant"
    for name, value in (("warmup_ratio", settings.run.warmup_ratio), ("warmup_steps", training.get("warmup_steps"))):
        if value and settings.is_given(name):
            others[f"{name}={value!r} ({settings.sources[name]})"] = f"no {name}"
    refuse_other_schedules(settings.run.epoch_schedule, others)
