"""What happens at the borders of epochs: published schedules of the learning rate, and the loss on validation data."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

EPOCH_SCHEDULES = ("constant", "halving", "late_decay", "warmup_decay")


def epoch_factor(schedule: str, epoch: int) -> float:
    """Return what the learning rate is multiplied by in an epoch.

    The schedules are those of the Informer family's code, which changes the rate behind each epoch: "halving" is its
    type1 (the first two epochs at the full rate, then half of the one before), "late_decay" its type3 (four epochs at
    the full rate, then 0.9 of the one before), "warmup_decay" TimeDRL's warmup (the first epoch at the full rate, then
    0.4, 0.6, 0.8 and 1 of it, and 0.9 of the one before from the seventh on).

    Args:
        schedule: One of EPOCH_SCHEDULES.
        epoch: Number of the epoch, from 0.

    Raises:
        ValueError: The schedule is unknown.
    """
    if schedule not in EPOCH_SCHEDULES:
        raise ValueError(f"epoch_schedule={schedule!r} is unknown; choose one of {', '.join(EPOCH_SCHEDULES)}.")
    if schedule == "halving":
        return 0.5 ** max(epoch - 1, 0)
    if schedule == "late_decay":
        return 0.9 ** max(epoch - 3, 0)
    if schedule == "warmup_decay" and epoch > 0:
        return (epoch + 1) / 5 if epoch < 5 else 0.9 ** (epoch - 5)
    return 1.0


class EpochScheduleCallback(TrainerCallback):
    """Sets the learning rate of every epoch; `lr_scheduler_type` must be "constant".

    Groups of parameters with rates of their own keep the ratio between them.

    Args:
        schedule: One of EPOCH_SCHEDULES.
    """

    def __init__(self, schedule: str) -> None:
        epoch_factor(schedule, 0)
        self.schedule = schedule

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the rate. It depends on the epoch alone, so that a resumed run goes on with the right one."""
        factor = epoch_factor(self.schedule, int((state.epoch or 0) + 1e-6))
        scheduler, groups = kwargs["lr_scheduler"], kwargs["optimizer"].param_groups
        # PyTorch's schedules write it into every group before the first step, and checkpoints keep it.
        rates = [group["initial_lr"] * factor for group in groups]
        # The constant schedule multiplies these base rates at every step.
        scheduler.base_lrs, scheduler._last_lr = list(rates), list(rates)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate


class ValidationLossCallback(TrainerCallback):
    """Logs the pretext loss on validation data, as `validation_loss`, behind every epoch.

    The random choices of the pretext task are the same every time and leave the training's alone.

    Args:
        dataset: Items with `past_values` of one shape.
        batch_size: Number of items in one forward pass.
        seed: Seed of the random choices.
    """

    def __init__(self, dataset: Any, batch_size: int, seed: int = 0) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed

    def measure(self, model: Any) -> float:
        """Return the mean loss over all items; the model's mode stays as it was."""
        generator = torch.Generator().manual_seed(self.seed)
        training = [module for module in model.modules() if module.training]
        model.eval()
        total, count = 0.0, 0
        try:
            with torch.no_grad():
                for start in range(0, len(self.dataset), self.batch_size):
                    indices = range(start, min(start + self.batch_size, len(self.dataset)))
                    values = torch.stack([self.dataset[index]["past_values"] for index in indices])
                    loss = model(past_values=values.to(next(model.parameters()).device), generator=generator).loss
                    total, count = total + float(loss) * len(indices), count + len(indices)
        finally:
            for module in training:
                module.training = True
        return total / count

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure and log, on the first process."""
        if not state.is_world_process_zero:
            return
        loss = self.measure(kwargs["model"])
        state.log_history.append({"validation_loss": loss, "epoch": state.epoch, "step": state.global_step})
        logger.info("Validation loss %.5f behind epoch %s.", loss, state.epoch)
