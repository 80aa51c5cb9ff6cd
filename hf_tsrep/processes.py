"""Processes that share the work: how many a launcher started, and whether they really work together."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from .errors import SettingsError

logger = logging.getLogger(__name__)

# As torchrun and the MPI launchers tell a process, in the order in which Accelerate asks for them.
_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")
_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "RANK")
_LOCAL_RANKS = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK")


@dataclass(frozen=True)
class Processes:
    """This process among those that a launcher started.

    Args:
        rank: Number of this process.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that tells and writes what is told and written once."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """Where this process computes: the GPU of its place on the machine; None where that is nobody's business."""
        import torch

        if self.count == 1 or not torch.cuda.is_available():
            return None
        return f"cuda:{_number(_LOCAL_RANKS, self.rank) % torch.cuda.device_count()}"


def launched_processes() -> Processes:
    """Return which of how many processes this is, as torchrun, `accelerate launch` or an MPI launcher says it."""
    return Processes(_number(_RANKS, 0), _number(_COUNTS, 1))


def require_every_process() -> Processes:
    """Return which of how many processes this is, all of which were started.

    Raises:
        SettingsError: `accelerate launch` was asked for several processes and has started one.
    """
    # Asked for several, `accelerate launch` names a place to meet at. Where it then starts a single process, as it
    # does on CPUs, nobody tells that process the number of the others.
    is_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if is_accelerate and "MASTER_ADDR" in os.environ and not any(name in os.environ for name in _COUNTS):
        raise SettingsError(
            "accelerate launch was asked for several processes and has started one, which is all it does on CPUs. "
            "Start them with `torchrun --nproc_per_node N -m hf_tsrep ...`, or ask for --num_processes 1 (and leave "
            "MASTER_ADDR out of the environment)."
        )
    return launched_processes()


def _number(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def trains_on_cpus(processes: Processes) -> bool:
    """Return whether several processes have to be told to train on CPUs, because there is nothing else to train on.

    Accelerate builds a group of processes on CPUs only if it is told so; else each of them trains by itself.
    """
    import torch

    if processes.count == 1:
        return False
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found is None or found.type == "mps"  # Apple's GPU has no group of processes


def check_group(arguments: Any, processes: Processes) -> None:
    """Refuse to train where the processes that were started do not train together.

    Args:
        arguments: Of the Trainer; asking for them has built the group of processes.
        processes: What the launcher started.

    Raises:
        SettingsError: The message says what each side believes.
    """
    import torch.distributed as dist

    if arguments.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise SettingsError(
            "FSDP was asked for, and shards of weights are neither averaged nor gathered when saved here (README, "
            "Scale, says why, and what does work). "
            "Train with one whole model a process (distributed_type MULTI_GPU, scripts/accelerate/eight_gpus.yaml)."
        )
    kind = getattr(arguments.distributed_state, "distributed_type", None)
    kind_name = str(getattr(kind, "value", kind))
    in_group = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if kind_name == "NO" and in_group == processes.count == arguments.world_size == 1:
        logger.info("One process trains, on %s.", arguments.device)
        return
    if kind_name == "NO" or not in_group == processes.count == arguments.world_size:
        raise SettingsError(
            f"The launcher started {processes.count} processes, the process group has {in_group}, and Accelerate "
            f"trains in {arguments.world_size} (distributed type {kind_name}): their gradients would not be summed. "
            "On CPUs leave use_cpu out or set it; on GPUs start one process a GPU; where only one process shall "
            "train, start it without a launcher."
        )
    logger.info("%d processes train together (%s over %s).", in_group, kind_name, dist.get_backend())
