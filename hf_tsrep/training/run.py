"""The run around any training: whether it may go on, and the order in which everything happens."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from transformers import PrinterCallback, ProgressCallback, TrainingArguments, enable_full_determinism, set_seed

from ..errors import one_line
from ..hub import push_to_hub
from ..modeling.files_time_series import full_disk_named
from ..modeling.types_time_series import read_settings, require_types
from ..opening import without_file_bars
from .checkpoints import (
    WEIGHTS_FILE,
    check_output_directory,
    find_last_checkpoint,
    held_by_this_run,
    write_json,
)
from .settings import FinetuneSettings, PretrainSettings

logger = logging.getLogger(__name__)

# Fields of TrainingArguments that say where the finished folder goes.
HUB_FIELDS = ("push_to_hub", "hub_model_id", "hub_private_repo")
# Fields of TrainingArguments that change what is told of a training, and not what is trained.
FREE_FIELDS = frozenset(
    {"logging_steps", "save_total_limit", "disable_tqdm", "report_to", "run_name", "per_device_eval_batch_size"}
    | set(HUB_FIELDS)
)

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Shared:
    """What a resumed run must share with the run that it goes on with.

    Args:
        values: Names in the record that are compared as they are.
        groups: Names of groups in the record whose fields are compared one by one.
        facts: Names of facts.
        free: Fields of the groups that may differ.
        defaults: Value of a field, by group and name, in the run of a record that lacks it.
    """

    values: Collection[str]
    groups: Collection[str]
    facts: Collection[str]
    free: Collection[str] = FREE_FIELDS
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class TrainingRun(ABC):
    """What one kind of training does in a run; `train` calls the methods in the order in which they stand here.

    Args:
        settings: What was asked for.
        arguments: The Trainer's arguments.
    """

    record_file: ClassVar[str]
    """Name of the file that tells the settings and the facts of the run."""

    weights_file: str = WEIGHTS_FILE
    """Name of the file that makes an output folder finished; it is written last."""

    shows_progress: bool = True
    """Whether the Trainer prints anything or has a progress bar."""

    def __init__(self, settings: PretrainSettings | FinetuneSettings, arguments: TrainingArguments) -> None:
        self.settings = settings
        self.arguments = arguments

    @abstractmethod
    def load(self) -> None:
        """Read the corpora; the first process does so before the others."""

    @abstractmethod
    def build_model(self, resumed: bool) -> Any:
        """Return the model to train; the random state has just been seeded.

        Args:
            resumed: Whether its weights will be those of a checkpoint.
        """

    @abstractmethod
    def facts(self, model: Any) -> dict[str, Any]:
        """Return what was found out about the run, for the record."""

    @abstractmethod
    def shared(self) -> Shared:
        """Return what a resumed run must share with the run that it goes on with."""

    @abstractmethod
    def build_trainer(self, model: Any) -> Any:
        """Return the trainer, a TimeSeriesTrainer."""

    @abstractmethod
    def finish(self, trainer: Any, train_runtime: float, facts: dict[str, Any]) -> Any:
        """Measure and save the trained model, and return the result of the run; the first process alone may write.

        Args:
            trainer: The trainer, after its training.
            train_runtime: How long that took, in seconds.
            facts: What was found out about the run.
        """


def train(run: TrainingRun, resume_from_checkpoint: bool | str | None = None) -> Any:
    """Train from settings to a finished folder.

    Args:
        run: What is trained.
        resume_from_checkpoint: True to go on from the newest whole checkpoint of the output folder, or a checkpoint's
            folder.

    Returns:
        The result of the run.

    Raises:
        FileExistsError: The output folder holds a model, checkpoints or other files, and neither resuming nor
            overwriting was asked for; or another run trains into it.
        ValueError: The run cannot be resumed; the message names what differs.
    """
    if run.arguments.device.type == "cpu":
        give_back_freed_blocks()
    holding = held_by_this_run(run.settings.output_dir) if run.arguments.process_index == 0 else nullcontext()
    with holding, nullcontext() if run.shows_progress else without_file_bars():
        return _train(run, resume_from_checkpoint)


def _train(run: TrainingRun, resume_from_checkpoint: bool | str | None) -> Any:
    settings, arguments = run.settings, run.arguments
    output_dir = Path(settings.output_dir)
    with arguments.main_process_first(desc="preparing the output folder and the corpus"):
        check_output_directory(
            output_dir, bool(resume_from_checkpoint), settings.run.overwrite_output_dir, run.weights_file
        )
        run.load()
    checkpoint = _checkpoint(output_dir, resume_from_checkpoint, arguments.world_size)
    (enable_full_determinism if arguments.full_determinism else set_seed)(arguments.seed)
    model = run.build_model(resumed=checkpoint is not None)
    facts = run.facts(model)
    record = {**settings.to_dict(), "facts": facts}
    if resume_from_checkpoint:
        folder = output_dir if resume_from_checkpoint is True else Path(str(resume_from_checkpoint)).parent
        check_resume(folder / run.record_file, record, run.shared())
    trainer = run.build_trainer(model)
    if not run.shows_progress:
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)
    if trainer.is_world_process_zero():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(output_dir / run.record_file, record)
    with full_disk_named(output_dir):
        trained = trainer.train(resume_from_checkpoint=checkpoint)
    result = run.finish(trainer, trained.metrics.get("train_runtime", 0.0), facts)
    if settings.training.get("push_to_hub") and trainer.is_world_process_zero():
        push_finished(settings)
    trainer.accelerator.wait_for_everyone()
    return result


def push_finished(settings: PretrainSettings | FinetuneSettings) -> str | None:
    """Send a finished folder to the Hub; it stays, whatever happens, and the log says how to send it later.

    Args:
        settings: What was asked for: output_dir, and of training hub_model_id and hub_private_repo.

    Returns:
        URL of the commit; None where the push failed.
    """
    folder = settings.output_dir
    repo_id = str(settings.training.get("hub_model_id") or Path(folder).resolve().name)
    private = bool(settings.training.get("hub_private_repo"))
    try:
        return push_to_hub(folder, repo_id, private=private)
    except Exception as error:  # whatever is wrong with the Hub is no reason to lose hours of training
        logger.error(
            "%s is finished, but was not pushed (%s). Push it later: hf-tsrep push --model %s --repo-id %s%s",
            folder,
            one_line(error),
            folder,
            repo_id,
            " --private" if private else "",
        )
        return None


def versions() -> dict[str, str]:
    """Return the versions of the packages that a training is done with."""
    return {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")}


def _checkpoint(output_dir: Path, resume_from_checkpoint: bool | str | None, num_processes: int) -> str | None:
    """Return the checkpoint that the run goes on from; None to start from the beginning."""
    if resume_from_checkpoint is not True:
        return resume_from_checkpoint or None
    checkpoint = find_last_checkpoint(output_dir, num_processes)
    if checkpoint is None:
        logger.warning("%s holds no whole checkpoint; training starts from the beginning.", output_dir)
    return checkpoint


def check_resume(record_file: Path, now: Mapping[str, Any], shared: Shared) -> None:
    """Refuse to go on with other settings or other data than the run began with.

    Args:
        record_file: Record of the run that is gone on with; there may be none.
        now: Record of this run: its settings, with its facts.
        shared: What the two must share.

    Raises:
        ValueError: The message names what differs.
    """
    if not record_file.is_file():
        return
    before = _read_record(record_file, [*shared.groups, "facts"])
    pairs = {name: (before.get(name, now[name]), now[name]) for name in shared.values}
    for group in shared.groups:
        defaults, old, new = shared.defaults.get(group, {}), before.get(group, {}), now[group]
        for name in [one for one in {**new, **old} if one not in shared.free]:
            # A record of an older version lacks the fields that are new: its run had their defaults.
            default = defaults.get(name)
            pairs[name] = (old.get(name, default), new.get(name, default))
    pairs |= {name: (before["facts"].get(name), now["facts"].get(name)) for name in shared.facts}
    for name, (old, new) in pairs.items():
        if old != new:
            raise ValueError(
                f"Cannot resume: {name} is {new!r}, but the run in {record_file.parent} began with {old!r}. Give the "
                "same settings, or start anew in another output_dir."
            )


def _read_record(record_file: Path, groups: Collection[str]) -> dict[str, Any]:
    """Return the record of a run, checked to be one."""
    try:
        record = read_settings(record_file)
        require_types(str(record_file), record, dict.fromkeys(groups, dict))
    except ValueError as error:
        raise ValueError(
            f"Cannot resume: {error} It is the record of what the run began with; without it start anew, in another "
            "output_dir or with overwrite_output_dir=True (--overwrite-output-dir)."
        ) from error
    return {**{group: {} for group in groups}, **record}


def give_back_freed_blocks() -> bool:
    """Have the C library map large blocks one by one and give each back to the system when it is freed.

    Tensors of a training step have other sizes in every step, because the crops are random. glibc keeps such blocks,
    once freed, for reuse; but pieces of the wrong sizes pile up, and a process that needs 0.8 GiB at a time grows to
    several. Mapped blocks cost page faults instead, which huge pages, asked for where this package begins, make fewer.
    It acts on the whole process, on Linux with glibc; elsewhere it does nothing. A setting of the environment
    (MALLOC_MMAP_THRESHOLD_) is left alone.

    Returns:
        Whether it was set.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    try:
        done = ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES) == 1
    except (OSError, AttributeError):  # another C library
        done = False
    logger.debug("Large blocks go back to the system when freed: %s.", done)
    return done
