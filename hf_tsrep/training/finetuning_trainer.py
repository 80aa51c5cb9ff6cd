"""The Trainer of fine-tuning: frozen encoders, two learning rates, schedules without idle steps, exact metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data import NumberedBatchSampler, SharedBatchSampler
from .trainer import SERIES_INDEX, TimeSeriesTrainer
from .warm_up import fit_warmup

_SCHEDULES = ("linear", "cosine", "constant_with_warmup")
OUTPUT_OF_LABEL = {"labels": "logits", "future_values": "prediction_outputs"}


def learning_rate_factor(step: int, num_warmup_steps: int, num_steps: int, schedule: str) -> float:
    """Return what the learning rate is multiplied with in one optimiser step.

    It rises from 1 / num_warmup_steps to 1 in the steps of the warm-up and falls to 0 behind the last step, so that
    every step learns: transformers' own schedules spend the first step of a warm-up at rate 0.

    Args:
        step: Number of the step, from 0.
        num_warmup_steps: Number of steps of the warm-up.
        num_steps: Number of all steps.
        schedule: "linear", "cosine" or "constant_with_warmup".
    """
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    if schedule == "constant_with_warmup":
        return 1.0
    progress = min(1.0, (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))


class ClassificationMeter:
    """Metrics of class scores, gathered batch by batch."""

    def __init__(self) -> None:
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take a batch, and return the metrics of all batches since the last result.

        Args:
            prediction: predictions (batch_size, num_labels) and label_ids (batch_size,), tensors.
            compute_result: Whether this is the last batch.

        Returns:
            accuracy, macro_f1, kappa and auprc; nothing before the last batch.
        """
        from ..evaluation.metrics import classification_scores

        self._scores.append(_as_array(prediction.predictions))
        self._labels.append(_as_array(prediction.label_ids))
        if not compute_result:
            return {}
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels).astype(np.int64)
        self._scores, self._labels = [], []
        # Log-probabilities, not logits: the area under a curve compares one class's scores over the samples.
        scores = scores - np.logaddexp.reduce(scores.astype(np.float64), axis=1, keepdims=True)
        return classification_scores(labels, scores.argmax(axis=1), scores)


class ForecastMeter:
    """Squared and absolute errors over all observed values, gathered batch by batch.

    Args:
        target_scale: (num_output_channels,) what the errors are divided by; None for nothing.
    """

    def __init__(self, target_scale: Sequence[float] | None = None) -> None:
        self._scale = np.asarray(1.0 if target_scale is None else target_scale, dtype=np.float64)
        self._squared = self._absolute = 0.0
        self._count = 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Take a batch, and return the metrics of all batches since the last result.

        Args:
            prediction: predictions and label_ids (batch_size, prediction_length, num_output_channels), tensors; NaN
                among the labels = missing.
            compute_result: Whether this is the last batch.

        Returns:
            mse and mae; nothing before the last batch.
        """
        difference = _as_array(prediction.predictions).astype(np.float64) - _as_array(prediction.label_ids)
        observed = ~np.isnan(_as_array(prediction.label_ids))
        difference = (difference / self._scale)[observed]
        self._squared += float(np.square(difference).sum())
        self._absolute += float(np.abs(difference).sum())
        self._count += difference.size
        if not compute_result:
            return {}
        count = self._count or math.nan
        metrics = {"mse": self._squared / count, "mae": self._absolute / count}
        self._squared = self._absolute = 0.0
        self._count = 0
        return metrics


def _as_array(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


class EarlyStoppingByEpochs(TrainerCallback):
    """Ends training after a number of epochs without a better validation score; a resumed run counts on.

    Args:
        patience: That number.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the validations behind the best one; the checkpoint of an epoch comes after its validation."""
        best = state.best_global_step or 0
        later = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] > best]
        if len(later) >= self.patience:
            control.should_training_stop = True


class FinetuningTrainer(TimeSeriesTrainer):
    """The house's Trainer with what fine-tuning needs besides.

    Args:
        positional: See TimeSeriesTrainer.
        label_name: "labels" or "future_values".
        freezes_encoder: Whether the encoder stays in evaluation mode while the head learns.
        backbone_learning_rate_factor: The encoder learns at this times the learning rate.
        forward_arguments: Further arguments of the model's forward, the same for every batch.
        target_scale: See ForecastMeter.
        arguments: See TimeSeriesTrainer.
    """

    def __init__(
        self,
        *positional: Any,
        label_name: str,
        freezes_encoder: bool = False,
        backbone_learning_rate_factor: float = 1.0,
        forward_arguments: Mapping[str, Any] | None = None,
        target_scale: Sequence[float] | None = None,
        **arguments: Any,
    ) -> None:
        meter = ClassificationMeter() if label_name == "labels" else ForecastMeter(target_scale)
        super().__init__(*positional, compute_metrics=meter, **arguments)
        self.label_name = label_name
        self.freezes_encoder = freezes_encoder
        self.backbone_learning_rate_factor = backbone_learning_rate_factor
        self.forward_arguments = dict(forward_arguments or {})

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Give encoder and head their learning rates; see `transformers.Trainer.create_optimizer`."""
        if self.optimizer is not None or self.backbone_learning_rate_factor == 1.0:
            return super().create_optimizer(model)
        owner: Any = self.model if model is None else model
        prefix = f"{owner.base_model_prefix}."
        decayed = set(self.get_decay_parameter_names(owner))
        groups = []
        for in_encoder in (False, True):  # the head's rate first: the Trainer logs that of the first group
            for decays in (True, False):
                chosen = [
                    parameter
                    for name, parameter in owner.named_parameters()
                    if parameter.requires_grad
                    and name.startswith(prefix) == in_encoder
                    and (name in decayed) == decays
                ]
                factor = self.backbone_learning_rate_factor if in_encoder else 1.0
                groups.append(
                    {
                        "params": chosen,
                        "lr": self.args.learning_rate * factor,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                )
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, owner)
        self.optimizer = optimizer_class([group for group in groups if group["params"]], **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the schedule; see learning_rate_factor and, for other schedules, `transformers.Trainer`."""
        kind = str(getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type))
        if self.lr_scheduler is not None or kind not in _SCHEDULES or self.args.lr_scheduler_kwargs:
            return super().create_scheduler(num_training_steps, optimizer)
        fit_warmup(self.args, num_training_steps, may_shorten=False)
        num_warmup_steps = self.args.get_warmup_steps(num_training_steps)
        chosen: Any = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = LambdaLR(
            chosen,
            lambda step: learning_rate_factor(step, num_warmup_steps, num_training_steps, kind),
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *arguments: Any, **options: Any
    ) -> Any:
        """Compute the loss; a frozen encoder is in evaluation mode, without dropout, like the one that is saved."""
        if self.freezes_encoder:
            owner: Any = self.accelerator.unwrap_model(model)
            owner.base_model.eval()
        return super().compute_loss(model, {**inputs, **self.forward_arguments}, return_outputs, *arguments, **options)

    def share_batches(self, sampler: Any) -> NumberedBatchSampler:
        """Share every batch evenly among several processes, also an incomplete one at the end of an epoch."""
        if self.args.world_size == 1 or self.args.dataloader_drop_last:
            return super().share_batches(sampler)
        return SharedBatchSampler(sampler, self._train_batch_size, self.args.world_size)

    def join_processes(self, loss: torch.Tensor, outputs: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Weigh the loss by what it is the mean of: the labels or observed future values of this process's part."""
        if self.args.world_size == 1:
            return loss, outputs
        labels = inputs[self.label_name]
        count = (~labels.isnan()).sum() if self.label_name == "future_values" else labels.new_tensor(len(labels))
        count = count.to(loss.device, torch.float64)
        total = self.accelerator.reduce(count, reduction="sum")
        return loss * (count * self.args.world_size / total.clamp(min=1)).to(loss.dtype), outputs

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Return loss, scores and labels of a batch; see `transformers.Trainer.prediction_step`."""
        inputs = self._prepare_inputs({name: value for name, value in inputs.items() if name != SERIES_INDEX})
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach().mean(), outputs[OUTPUT_OF_LABEL[self.label_name]].float(), inputs[self.label_name]

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Let the lower loss decide where the metric of two epochs is equal, as accuracies of small sets often are."""
        best = self.state.best_global_step
        before = [entry for entry in self.state.log_history if entry.get("step") == best and "eval_loss" in entry]
        name = f"eval_{self.args.metric_for_best_model}"
        is_tie = bool(before) and metrics.get(name) == self.state.best_metric
        if is_tie and metrics["eval_loss"] < before[-1]["eval_loss"]:
            self.state.best_global_step = self.state.global_step
            return True
        return super()._determine_best_metric(metrics, trial)
