"""What happens during a training: averaged weights, signs of collapse, learning rates, validation, early stopping."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..tokenization.codebook_vector_quantization import perplexity_of_counts

logger = logging.getLogger(__name__)

EPOCH_SCHEDULES = ("constant", "halving", "late_decay", "warmup_decay")
LARGEST_SHARE = 0.25  # of a run, for the warm-up of a recipe
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


def effective_rank(matrix: torch.Tensor) -> float:
    """Return the effective rank: exp of the entropy of the singular values, normalised to sum 1.

    Args:
        matrix: (rows, columns), finite.

    Returns:
        Between 1 (all rows are multiples of one) and the rank; 0 for a zero matrix.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    rows, columns = matrix.shape
    values = matrix.double()
    # The squared singular values are the eigenvalues of the smaller Gram matrix, which is far cheaper than an SVD.
    gram = values.T @ values if rows >= columns else values @ values.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0.0).sqrt()
    largest = singular.max()
    if largest == 0:
        return 0.0
    singular = singular[singular > largest * 1e-7]  # below it only rounding of the Gram matrix is left
    shares = singular / singular.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


class CollapseMonitor:
    """Measures the embeddings of observed timestamps of a batch; `TimeSeriesTrainer` asks it at logging steps only.

    The encoder is run in evaluation mode on a part of the batch: what the pretext task returns carries dropout, whose
    noise has a high rank even where every timestamp has the same embedding.

    Args:
        num_timestamps: Number of timestamps that are embedded, over all series.
        minimum_rank: Effective rank below which a warning is logged, once for every fall below it.
    """

    def __init__(self, num_timestamps: int = 1024, minimum_rank: float = 2.0) -> None:
        self.num_timestamps = num_timestamps
        self.minimum_rank = minimum_rank
        self._below = False

    def measure(self, model: nn.Module, inputs: Mapping[str, Any], step: int = 0) -> dict[str, float]:
        """Measure a batch.

        Args:
            model: A model of the house, or its encoder.
            inputs: past_values (batch_size, sequence_length, num_input_channels) and optionally past_observed_mask.
            step: Number of the step, for the warning.

        Returns:
            effective_rank of the centred embeddings, and embedding_std_mean and embedding_std_min over the dimensions;
            nothing where the batch has fewer than two observed timestamps.
        """
        embeddings = self._embed(model, inputs)
        if len(embeddings) < 2:
            return {}
        deviations = embeddings.std(dim=0, correction=0)
        centred = embeddings - embeddings.mean(dim=0)
        constant = bool(centred.norm() <= 1e-5 * embeddings.norm())  # what varies is rounding
        rank = 1.0 if constant else effective_rank(centred)
        self._warn(rank, step)
        return {
            "effective_rank": rank,
            "embedding_std_mean": float(deviations.mean()),
            "embedding_std_min": float(deviations.min()),
        }

    @torch.no_grad()
    def _embed(self, model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return (timestamps, embedding_size) float32 of observed timestamps."""
        encoder: Any = getattr(model, "base_model", model)
        values = inputs["past_values"]
        length = max(2, self.num_timestamps // len(values))
        start = max(0, (values.shape[1] - length) // 2)
        values = values[: self.num_timestamps, start : start + length]
        mask = inputs.get("past_observed_mask")
        mask = None if mask is None else mask[: self.num_timestamps, start : start + length]
        was_training = encoder.training
        encoder.eval()
        try:
            embeddings, pooled = encoder.embed_timestamps(values, mask)
        finally:
            encoder.train(was_training)
        embeddings = embeddings.float()
        if embeddings.ndim == 3 and pooled is not None:
            return embeddings[pooled]
        return embeddings.reshape(-1, embeddings.shape[-1])

    def _warn(self, rank: float, step: int) -> None:
        if rank < self.minimum_rank and not self._below:
            logger.warning(
                "Step %d: the embeddings have an effective rank of %.2f, below %.1f: they may be collapsing. "
                "Try a lower learning rate, a larger batch or another seed.",
                step,
                rank,
                self.minimum_rank,
            )
        self._below = rank < self.minimum_rank


class CodebookMonitor(CollapseMonitor):
    """Measures how many codewords a pretext task has in use, where the model chooses them itself.

    Args:
        minimum_share: Share of the codewords below which a warning is logged, once for every fall below it; fewer than
            two are always too few.
    """

    def __init__(self, minimum_share: float = 0.05) -> None:
        super().__init__()
        self.minimum_share = minimum_share

    def measure(self, model: nn.Module, inputs: Mapping[str, Any], step: int = 0) -> dict[str, float]:
        """Return codebook_perplexity of a batch, codewords used as if evenly; nothing of a model without any."""
        shares_of = getattr(model, "codeword_shares", None)
        arguments = {name: inputs[name] for name in ("past_values", "past_observed_mask") if name in inputs}
        shares = shares_of(**arguments) if shares_of is not None and "past_values" in arguments else None
        if shares is None:
            return {}
        perplexity, least = float(perplexity_of_counts(shares)), max(2.0, self.minimum_share * len(shares))
        if perplexity < least and not self._below:
            logger.warning(
                "Step %d: of %d codewords %.1f are in use (perplexity), below %.1f: the codebook may be collapsing. "
                "Try a lower learning rate or a higher codeword_temperature.",
                step,
                len(shares),
                perplexity,
                least,
            )
        self._below = perplexity < least
        return {"codebook_perplexity": perplexity}


def learning_rate_factor(step: int, num_warmup_steps: int, num_steps: int, schedule: str) -> float:
    """Return what the learning rate is multiplied with in one optimiser step.

    It rises from 1 / num_warmup_steps to 1 in the steps of the warm-up and falls to 0 after the last step, so that
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


def fit_warmup(arguments: Any, num_steps: int, *, may_shorten: bool) -> None:
    """Shorten the warm-up to a quarter of a short run, or warn of one that the run does not outlast.

    Args:
        arguments: The Trainer's, whose warmup_steps may be changed.
        num_steps: Steps of the whole run.
        may_shorten: Whether nobody asked for this warm-up: it comes from a recipe of published values.
    """
    warmup = arguments.get_warmup_steps(num_steps)
    largest = int(num_steps * LARGEST_SHARE)
    if may_shorten and warmup > largest:
        arguments.warmup_steps = largest
        if arguments.process_index == 0:
            logger.info("The warm-up is %d steps, a quarter of this run; the recipe has %d.", largest, warmup)
    elif warmup >= num_steps and arguments.process_index == 0:
        logger.warning(
            "warmup_steps=%d in a run of %d steps: the learning rate never gets to %g. Give fewer warmup_steps.",
            warmup,
            num_steps,
            arguments.learning_rate,
        )


def epoch_factor(schedule: str, epoch: int) -> float:
    """Return what the learning rate is multiplied by in an epoch.

    The schedules are those of the Informer family's code, which changes the rate after each epoch: "halving" is its
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
    """Logs the pretext loss on validation data, as `validation_loss`, after every epoch.

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
        logger.info("Validation loss %.5f after epoch %s.", loss, state.epoch)


class EarlyStoppingByEpochs(TrainerCallback):
    """Ends training after a number of epochs without a better validation score; a resumed run counts on.

    Args:
        patience: That number.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the validations after the best one; the checkpoint of an epoch comes after its validation."""
        self._stop_where_no_better_came(state, control)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop a run that goes on from the checkpoint with which it had ended."""
        self._stop_where_no_better_came(state, control)

    def _stop_where_no_better_came(self, state: TrainerState, control: TrainerControl) -> None:
        best = state.best_global_step or 0
        later = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] > best]
        if len(later) >= self.patience:
            control.should_training_stop = True
