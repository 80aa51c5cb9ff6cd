"""`transformers.Trainer` with what pre-training and fine-tuning need besides; everything else is the Trainer's."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, seed_worker

from ..hub.cards import LIBRARY_NAME, write_card
from ..modeling.files_time_series import sums_kept
from ..modeling.publishing_time_series import CARD_FILE, PLACEHOLDER_ID, add_papers
from .batches import SERIES_INDEX, NumberedBatchSampler
from .callbacks import CollapseMonitor, WeightAveragingCallback, fit_warmup
from .checkpoints import faults_of, find_last_checkpoint, write_checksums, write_json

logger = logging.getLogger(__name__)

STREAM_FILE = "stream_{}.json"  # in a checkpoint, by process


@runtime_checkable
class SeekableStream(Protocol):
    """A dataset without length that gives the batches of this process, from any position on."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the batches that were given, in plain JSON types."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that had been given."""

    def loader(self) -> DataLoader:
        """Return what gives the batches; those that had been given come first, empty, for the Trainer to skip."""


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite.

    Args:
        message: Names the step and the series of the batch.
        step: Number of the optimiser step that was being computed.
        series_indices: Indices of the batch's items in the dataset.
    """

    def __init__(self, message: str, step: int, series_indices: Sequence[int]) -> None:
        super().__init__(message)
        self.step = step
        self.series_indices = list(series_indices)


class _EpochAndLogCallback(TrainerCallback):
    """Tells data their epoch and the model its steps, and logs at every checkpoint, as resumed averages need it.

    Args:
        listeners: Datasets and samplers; those that draw by the epoch have `set_epoch`.
    """

    def __init__(self, listeners: Iterable[Any]) -> None:
        self._listeners = [one for one in listeners if hasattr(one, "set_epoch")]

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for one in self._listeners:
            one.set_epoch(math.floor(state.epoch or 0))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Models of others, and of ours in a wrapper of adapters, may be without.
        getattr(kwargs["model"], "after_optimizer_step", lambda: None)()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_log = control.should_log or control.should_save

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_log = control.should_log or control.should_save


class TimeSeriesTrainer(Trainer):
    """The Trainer, with the loss's terms and collapse monitors in the log, and a stop at the first non-finite loss.

    A training dataset in an IndexedDataset (and a collator in an IndexedCollator) lets the error name the batch. A
    WeightAveragingCallback among the callbacks is written into every checkpoint and restored on resume.

    Args:
        monitors: Asked at every logging step; their measures go into the log.
        item_names: Name of every item of the training dataset, for error messages.
        decay_all_parameters: Whether weight decay also applies to biases and normalisation weights.
        batch_sampler: Draws the batches of all processes, one after the other; None for the Trainer's own random
            batches. If it has `set_epoch`, it is told every epoch.
        logged_outputs: Scalar outputs of the model that go into the log besides those that end in `_loss`.
        learning_rate_decay: (factor, steps): the learning rate is multiplied by the factor after every so many steps,
            after the warm-up and in place of another schedule; None for the schedule of the arguments.
        shortens_warmup: Whether the warm-up is at most a quarter of the run.
        positional: See `transformers.Trainer`.
        arguments: See `transformers.Trainer`.
    """

    def __init__(
        self,
        *positional: Any,
        monitors: Sequence[CollapseMonitor] = (),
        item_names: Sequence[str] | None = None,
        decay_all_parameters: bool = False,
        batch_sampler: Any = None,
        logged_outputs: Sequence[str] = (),
        learning_rate_decay: tuple[float, int] | None = None,
        shortens_warmup: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(*positional, **arguments)
        self.monitors = list(monitors)
        self.item_names = item_names
        self.decay_all_parameters = decay_all_parameters
        self.batch_sampler = batch_sampler
        self.logged_outputs = frozenset(logged_outputs)
        self.learning_rate_decay = learning_rate_decay
        self.shortens_warmup = shortens_warmup
        self._terms: dict[str, torch.Tensor] = {}
        self._num_term_batches = 0
        self._indices: torch.Tensor | None = None
        self._batch: dict[str, Any] = {}
        self.add_callback(_EpochAndLogCallback((self.train_dataset, batch_sampler)))

    def train(self, resume_from_checkpoint: str | bool | None = None, *positional: Any, **arguments: Any) -> Any:
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the newest whole one of the output folder; where
                there is none, training starts anew with a warning.
            positional: See `transformers.Trainer.train`.
            arguments: See `transformers.Trainer.train`.

        Returns:
            See `transformers.Trainer.train`.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite.
            ValueError: The checkpoint is not whole.
        """
        checkpoint = self._resolve_checkpoint(resume_from_checkpoint)
        for callback in self._averaging():
            callback.load_checkpoint(checkpoint)
        if checkpoint is not None and isinstance(self.train_dataset, SeekableStream):
            place = Path(checkpoint) / STREAM_FILE.format(self.args.process_index)
            self.train_dataset.load_state_dict(json.loads(place.read_text(encoding="utf-8")))
        self._terms, self._num_term_batches = {}, 0
        return super().train(checkpoint, *positional, **arguments)

    def _run_epoch(self, **arguments: Any) -> None:  # type: ignore[override]  # all are given by name
        """Run an epoch, unless training has ended: transformers goes one step further from a last checkpoint."""
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(**arguments)
            return
        if arguments["resume_from_checkpoint"] is not None:
            self._load_rng_state(arguments["resume_from_checkpoint"])
        self.control.should_training_stop = True

    def _resolve_checkpoint(self, resume_from_checkpoint: str | bool | None) -> str | None:
        if not resume_from_checkpoint:
            return None
        num_processes = self.args.world_size
        if resume_from_checkpoint is True:
            checkpoint = find_last_checkpoint(str(self.args.output_dir), num_processes)
            if checkpoint is None:
                logger.warning("%s holds no whole checkpoint; training starts anew.", self.args.output_dir)
            return checkpoint
        faults = faults_of(str(resume_from_checkpoint), num_processes)
        if faults:
            raise ValueError(f"Cannot resume from {resume_from_checkpoint}: {', '.join(faults)}.")
        return str(resume_from_checkpoint)

    def _averaging(self) -> list[WeightAveragingCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, WeightAveragingCallback)]

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process: those of the batch sampler, or the Trainer's, numbered.

        See `hf_tsrep.training.batches` for what the numbers are for.
        """
        batch_sampler = self.batch_sampler
        if isinstance(self.train_dataset, SeekableStream):
            return self.train_dataset.loader()
        if batch_sampler is None:
            sampler = self._get_train_sampler()
            if sampler is None or self.args.train_sampling_strategy == "batch_rebalance":
                return super().get_train_dataloader()
            batch_sampler = self.share_batches(sampler)
        num_workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]  # transformers allows None, and there is one here
            batch_sampler=batch_sampler,
            collate_fn=self.data_collator,
            num_workers=num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=num_workers, rank=self.args.process_index),
        )
        return self.accelerator.prepare(loader)

    def share_batches(self, sampler: Any) -> NumberedBatchSampler:
        """Return the batches of all processes, those of one step one after the other; a hook."""
        arguments = self.args
        return NumberedBatchSampler(
            sampler, self._train_batch_size, arguments.dataloader_drop_last, arguments.world_size
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule of the learning rate; see `learning_rate_decay` and `shortens_warmup` of the class."""
        if self.lr_scheduler is None:
            fit_warmup(self.args, num_training_steps, may_shorten=self.shortens_warmup)
        if self.learning_rate_decay is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        factor, every = self.learning_rate_decay
        warmup = self.args.get_warmup_steps(num_training_steps)

        def share(step: int) -> float:
            return step / warmup if step < warmup else factor ** ((step - warmup) // every)

        chosen: Any = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = LambdaLR(chosen, share)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that weight decay applies to."""
        if self.decay_all_parameters:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        """Train on one batch; see `transformers.Trainer.training_step`."""
        self._indices = inputs.get(SERIES_INDEX)
        inputs = {name: value for name, value in inputs.items() if name != SERIES_INDEX}
        self._batch = inputs
        return super().training_step(model, inputs, *arguments, **options)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, *arguments: Any, **options: Any
    ) -> Any:
        """Compute the loss, keep its terms for the log and stop where it is not finite.

        Raises:
            NonFiniteLossError: The loss is NaN or infinite; nothing has been changed by this batch.
        """
        loss, outputs = super().compute_loss(model, inputs, True, *arguments, **options)
        if model.training:
            loss, outputs = self.join_processes(loss, outputs, inputs)
            if not bool(torch.isfinite(loss.detach()).all()):
                raise self._non_finite(float(loss.detach().mean()))
            self._keep_terms(outputs)
        return (loss, outputs) if return_outputs else loss

    def join_processes(self, loss: torch.Tensor, outputs: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Make the loss that of the batch of all processes, where its mean over the processes is not; a hook.

        Args:
            loss: Loss of this process's part.
            outputs: Outputs of the model.
            inputs: Inputs of the model.

        Returns:
            The loss whose mean over the processes is wanted, and the outputs whose terms are logged.
        """
        return loss, outputs

    def _keep_terms(self, outputs: Any) -> None:
        if not isinstance(outputs, Mapping):
            return
        for name, value in outputs.items():
            wanted = name.endswith("_loss") or name in self.logged_outputs
            if wanted and isinstance(value, torch.Tensor):
                value = value.detach().float().mean()
                self._terms[name] = self._terms[name] + value if name in self._terms else value
        self._num_term_batches += 1

    def _non_finite(self, loss: float) -> NonFiniteLossError:
        step = self.state.global_step + 1
        indices = [] if self._indices is None else self._indices.tolist()
        if indices and self.item_names is not None:
            batch = "the series " + ", ".join(f"{index} ({self.item_names[index]})" for index in indices)
        else:
            batch = (
                "the series " + ", ".join(map(str, indices)) if indices else "a batch whose dataset names no series"
            )
        return NonFiniteLossError(
            f"The loss is {loss} at step {step} (epoch {self.state.epoch or 0.0:.2f}) on {batch}. Training stopped "
            "before this batch changed a weight. Look for extreme values in these series, scale them, or lower "
            "learning_rate.",
            step,
            indices,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the loss's terms and the monitors' measures.

        A term is the mean over the batches since the last log and over the processes; the monitors see the last batch.
        """
        if "loss" in logs:
            logs.update(self._mean_terms())
            model: Any = self.model
            if self.is_world_process_zero() and self._batch:
                for monitor in self.monitors:
                    logs.update(monitor.measure(model, self._batch, self.state.global_step))
        super().log(logs, start_time)

    def _mean_terms(self) -> dict[str, float]:
        if not self._terms or not self._num_term_batches:
            return {}
        names = sorted(self._terms)
        means = torch.stack([self._terms[name] for name in names]) / self._num_term_batches
        means = self.accelerator.gather(means.unsqueeze(0)).mean(dim=0)
        self._terms, self._num_term_batches = {}, 0
        return dict(zip(names, means.tolist(), strict=True))

    def create_model_card(self, *positional: Any, **named: Any) -> None:
        """Write the card of the model into the output folder, where `push_to_hub` sends it from.

        A card of ours that lies there stays; arguments of transformers' own card are not needed.
        """
        if not self.is_world_process_zero():
            return
        folder, repo_id = Path(str(self.args.output_dir)), str(self.hub_model_id or PLACEHOLDER_ID)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle, which nobody should have to load
        card = folder / CARD_FILE
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        if f"library_name: {LIBRARY_NAME}" in text:
            with sums_kept(folder):
                card.write_text(text.replace(PLACEHOLDER_ID, repo_id), encoding="utf-8")
        else:
            add_papers(self.accelerator.unwrap_model(self.model), folder, repo_id, write_card)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; a checkpoint also gets the averaged weights, before the file that makes it whole."""
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None and self.args.should_save:
            for callback in self._averaging():
                callback.save_checkpoint(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save what this process needs to go on: its random states, and its position in a stream."""
        super()._save_rng_state(output_dir)
        if isinstance(self.train_dataset, SeekableStream):
            write_json(Path(output_dir) / STREAM_FILE.format(self.args.process_index), self.train_dataset.state_dict())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint in the place of a damaged one; its checksums follow when all processes have saved."""
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and folder.is_dir():
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save and folder.is_dir():
            write_checksums(folder)
