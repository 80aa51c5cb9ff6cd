"""The equal-weight mean of a model's weights over training, which TS2Vec encodes with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

AVERAGED_WEIGHTS_FILE = "averaged.safetensors"
_COUNTER = "num_averaged"


class WeightAveragingCallback(TrainerCallback):
    """Keeps the running mean of the parameters: of the initial ones and of those after every optimiser step.

    After n steps it is the plain mean of n + 1 snapshots, computed as `torch.optim.swa_utils.AveragedModel` does,
    average + (parameter - average) / (n + 1), in float32 (or float64) whatever the parameters' type (Yue et al.,
    TS2Vec, official code). One copy of the parameters is held. `TimeSeriesTrainer` writes it into every checkpoint and
    reads it back on resume. Buffers are not averaged. Parameters that are sharded over processes (FSDP, DeepSpeed
    stage 3) are not supported.
    """

    def __init__(self) -> None:
        self.averaged: dict[str, torch.Tensor] = {}
        self.num_averaged = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the initial weights as the first snapshot, or move a restored mean to the model's device."""
        model = kwargs["model"]
        if self.num_averaged == 0:
            self.update(model)
            return
        parameters = dict(model.named_parameters())
        if set(parameters) != set(self.averaged):
            different = ", ".join(sorted(set(parameters) ^ set(self.averaged))[:5])
            raise ValueError(f"The averaged weights of the checkpoint do not fit the model: {different}.")
        self.averaged = {name: mean.to(parameters[name].device) for name, mean in self.averaged.items()}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the weights after an optimiser step."""
        self.update(kwargs["model"])

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add a snapshot of the parameters to the mean."""
        for name, parameter in model.named_parameters():
            current = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
            if self.num_averaged == 0:
                self.averaged[name] = current.clone()
            else:
                mean = self.averaged[name]
                mean.add_((current - mean) / (self.num_averaged + 1))
        self.num_averaged += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give the model the mean.

        Raises:
            RuntimeError: There is no snapshot yet.
        """
        if self.num_averaged == 0:
            raise RuntimeError("No weights have been averaged yet: train first.")
        for name, parameter in model.named_parameters():
            parameter.copy_(self.averaged[name])

    def save_checkpoint(self, checkpoint: str | Path) -> None:
        """Write the mean and the number of snapshots into a checkpoint folder."""
        tensors = {name: mean.contiguous() for name, mean in self.averaged.items()}
        metadata = {"format": "pt", _COUNTER: str(self.num_averaged)}
        save_file(tensors, Path(checkpoint) / AVERAGED_WEIGHTS_FILE, metadata=metadata)

    def load_checkpoint(self, checkpoint: str | Path | None) -> None:
        """Read what save_checkpoint wrote; None starts anew.

        Raises:
            FileNotFoundError: The checkpoint was written without weight averaging.
        """
        self.averaged, self.num_averaged = {}, 0
        if checkpoint is None:
            return
        path = Path(checkpoint) / AVERAGED_WEIGHTS_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{checkpoint} has no {AVERAGED_WEIGHTS_FILE}: it was written without weight averaging. Resume with "
                "weight_averaging=False, or start anew."
            )
        with safe_open(path, framework="pt") as file:
            self.averaged = {name: file.get_tensor(name) for name in file.keys()}
            self.num_averaged = int(file.metadata()[_COUNTER])
        logger.info("Restored the mean of %d weight snapshots from %s.", self.num_averaged, checkpoint)
