"""The Trainer of a fine-tuning: two learning rates, a frozen encoder, labels shared evenly among processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..batches import SERIES_INDEX, NumberedBatchSampler, SharedBatchSampler
from ..callbacks import fit_warmup, learning_rate_factor
from ..trainer import TimeSeriesTrainer

_SCHEDULES = ("linear", "cosine", "constant_with_warmup")
OUTPUT_OF_LABEL = {"labels": "logits", "future_values": "prediction_outputs"}


class FinetuningTrainer(TimeSeriesTrainer):
    """The house's Trainer with what fine-tuning needs besides.

    Args:
        positional: See TimeSeriesTrainer.
        label_name: "labels" or "future_values".
        freezes_encoder: Whether the encoder stays in evaluation mode while the head learns.
        backbone_learning_rate_factor: The encoder learns at this times the learning rate.
        forward_arguments: Further arguments of the model's forward, the same for every batch.
        arguments: See TimeSeriesTrainer.
    """

    def __init__(
        self,
        *positional: Any,
        label_name: str,
        freezes_encoder: bool = False,
        backbone_learning_rate_factor: float = 1.0,
        forward_arguments: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(*positional, **arguments)
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
