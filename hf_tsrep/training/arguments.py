"""The arguments of transformers' Trainer: from settings, fitted to the processes, the items and the budget."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..errors import SettingsError, near_matches, one_line
from ..processes import check_group, require_every_process, trains_on_cpus
from .settings import FinetuneSettings, PretrainSettings

logger = logging.getLogger(__name__)

BUDGET_FIELDS = frozenset({"max_steps", "num_train_epochs"})


def build_arguments(
    settings: PretrainSettings | FinetuneSettings, command: str, needed: Mapping[str, tuple[Any, str]], **chosen: Any
) -> TrainingArguments:
    """Return the Trainer's arguments.

    Args:
        settings: What was asked for.
        command: The command of this training, for a message.
        needed: Values that this kind of training cannot do without, and why, by field.
        chosen: Values that follow from the settings, by field.

    Raises:
        SettingsError: A value that the loop cannot work with, several GPUs are visible to one process, or processes
            that were started do not train together.
    """
    processes = require_every_process()
    needed = {
        "remove_unused_columns": (False, "the collator of the trainer takes care of the columns"),
        **needed,
    }
    values = {
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "data_seed": settings.training.get("seed", 42),
        "use_cpu": trains_on_cpus(processes),
        **with_needed_values(settings, needed),
        **chosen,
    }
    values["report_to"] = find_trackers(values["report_to"])
    if values.pop("push_to_hub", False):  # the finished folder is pushed, not the Trainer's checkpoints
        require_token()
    for name in ("hub_model_id", "hub_private_repo"):
        values.pop(name, None)
    arguments = TrainingArguments(output_dir=settings.output_dir, **values)
    if arguments.n_gpu > 1:
        raise SettingsError(
            f"{arguments.n_gpu} GPUs are visible to one process, which would split every batch and its negatives. "
            f"Start one process a GPU with `accelerate launch -m hf_tsrep {command} ...` or `torchrun`, or show it "
            "one GPU with CUDA_VISIBLE_DEVICES."
        )
    check_group(arguments, processes)
    return arguments


def find_trackers(given: Any) -> list[str]:
    """Return the names of the experiment trackers that are reported to.

    Args:
        given: What was given: "none" or None, "all", a name, or a list of names.

    Raises:
        SettingsError: There is no such tracker, with the near matches; or its library is not installed or not set up.
    """
    names = [given] if isinstance(given, str) else list(given or [])
    if names in (["none"], ["all"]):
        return names
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            hint = near_matches(name, INTEGRATION_TO_CALLBACK)
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise SettingsError(f"report_to={given!r}: there is no {name!r}.{hint} Choose none, all, or of {known}.")
        if name not in get_available_reporting_integrations():  # which does not know of all
            _require_tracker(name)
    return names


def _require_tracker(name: str) -> None:
    """Say what keeps a tracker from working, as the Trainer would when the corpora are read."""
    tracker = INTEGRATION_TO_CALLBACK[name]
    try:
        if hasattr(tracker, "__del__"):  # which would print a traceback of a tracker that was never made
            raise ImportError(f"{tracker.__name__} requires a library that is not there. Run `pip install {name}`.")
        tracker()
    except Exception as error:
        raise SettingsError(f"report_to={name!r} cannot work here: {one_line(error)}") from error


def with_needed_values(
    settings: PretrainSettings | FinetuneSettings, needed: Mapping[str, tuple[Any, str]]
) -> dict[str, Any]:
    """Return the fields of TrainingArguments that were given, with those that the training loop needs.

    Args:
        settings: What was given.
        needed: The value that the loop needs, and why, by field.

    Raises:
        SettingsError: Another value was given.
    """
    for name, (value, reason) in needed.items():
        given = settings.training.get(name, value)
        if given != value:
            where = settings.sources.get(name, "default")
            raise SettingsError(f"{name}={given!r} ({where}) cannot work here: {reason}. Leave it out.")
    return {**settings.training, **{name: value for name, (value, _) in needed.items()}}


def fit_batch(arguments: Any, num_items: int) -> None:
    """Reduce the batch to the number of items, as the published code does; every process needs one batch an epoch.

    Args:
        arguments: The Trainer's arguments, whose per_device_train_batch_size may be changed.
        num_items: Number of training items that one batch can be drawn from.

    Raises:
        SettingsError: There are fewer items than processes.
    """
    largest = num_items // arguments.world_size
    if largest < 1:
        raise SettingsError(
            f"{num_items} training items cannot feed {arguments.world_size} processes. Start at most {num_items}, "
            "or cut the series into more pieces with a smaller max_train_length."
        )
    if arguments.per_device_train_batch_size > largest:
        logger.info("The batch of a process is %d: there are %d training items.", largest, num_items)
        arguments.per_device_train_batch_size = largest
    if arguments.per_device_train_batch_size * arguments.world_size == 1:
        logger.warning(
            "A batch holds one training item, so a loss that tells the items of a batch apart is zero or learns "
            "nothing. What helps: more series, windows of them (max_train_length with window_stride), or a larger "
            "per_device_train_batch_size. There are %d training items.",
            num_items,
        )


def choose_budget(arguments: Any, settings: PretrainSettings, num_elements: int) -> None:
    """Set max_steps by the published rule where nothing was given.

    Args:
        arguments: The Trainer's arguments, whose max_steps may be changed.
        settings: Have the rule, and whether anything was given.
        num_elements: Numbers in the training array.

    Raises:
        SettingsError: The rule has other fields.
    """
    rule = settings.run.published_steps
    if rule is None or BUDGET_FIELDS & set(settings.training):
        return
    expected = {"small_corpus_elements", "small_corpus_steps", "steps"}
    if set(rule) != expected:
        raise SettingsError(f"published_steps has the fields {sorted(rule)}; expected {sorted(expected)}.")
    small = num_elements <= rule["small_corpus_elements"]
    arguments.max_steps = rule["small_corpus_steps"] if small else rule["steps"]
    logger.info("%d steps for %d numbers in the training array (published rule).", arguments.max_steps, num_elements)


def rate_depends_on_budget(settings: PretrainSettings) -> bool:
    """Return whether the learning rate of a step depends on how many steps there are to be."""
    if settings.run.learning_rate_decay is None:
        return str(settings.training.get("lr_scheduler_type", "linear")) != "constant"
    return settings.training.get("warmup_steps", 0) > 0  # a warm-up may be shortened to a quarter of the run


def require_token() -> None:
    """Refuse a run that is to be pushed without a token; the Hub itself is asked when the model is finished.

    Raises:
        SettingsError: There is none.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise SettingsError("push_to_hub needs a token of the Hub: set HF_TOKEN, or run `hf auth login`.")
