"""What the methods need when several processes train one model.

A method's equations know nothing of processes: its pretext task asks the GlobalBatch for the random choices, for the
rows of all processes and for means over them, and the mean of the processes' losses is the loss of one process on the
same global batch, with its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn


def process_share() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside of a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def fork_generator(generator: torch.Generator | None, device: torch.device, is_shared: bool = True) -> torch.Generator:
    """Return a new generator that draws the same on all processes: every process draws a seed, the first one's counts.

    Args:
        generator: Source of the seed on the CPU; None for torch's global one, which the Trainer saves and restores.
        device: Where the process group communicates.
        is_shared: Whether the processes share a global batch; else every process's own seed counts.

    Returns:
        A generator on the CPU.
    """
    seed = torch.randint(2**62, (1,), generator=generator)
    if is_shared and process_share()[1] > 1:
        seed = seed.to(device)
        dist.broadcast(seed, src=0)
    return torch.Generator().manual_seed(int(seed.item()))


class _GatherRows(torch.autograd.Function):
    """All processes' rows, in the order of ranks; the gradient of a row is summed over the processes that used it."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        rank, world_size = process_share()
        ctx.rank, ctx.num_rows = rank, rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.rank * ctx.num_rows : (ctx.rank + 1) * ctx.num_rows]


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Gather the first axis over all processes, with the gradient.

    Args:
        rows: (batch_size, ...), of the same shape on every process.

    Returns:
        (number of processes * batch_size, ...).
    """
    return rows if process_share()[1] == 1 else _GatherRows.apply(rows)


def mean_over_processes(terms: torch.Tensor, counted: torch.Tensor, num_processes: int = 1) -> torch.Tensor:
    """Average the terms of a loss over what counts in the batches of all processes.

    The mean of the processes' results is the mean over the global batch, which the mean of each batch alone would not
    be where processes have different numbers of observed values.

    Args:
        terms: Any shape.
        counted: Broadcastable to the same shape, bool, True = counts.
        num_processes: Number of processes that share the global batch.

    Returns:
        A scalar; 0 where nothing counts.
    """
    counted = counted.expand_as(terms)
    count = counted.sum()
    if num_processes > 1:
        count = gather_rows(count.unsqueeze(0)).sum()
    return torch.where(counted, terms, 0.0).sum() * num_processes / count.clamp(min=1)


class _Rows(Protocol):
    """Random choices of a step that can be cut into the rows of some series."""

    def rows(self, start: int, stop: int) -> Any: ...


Choices = TypeVar("Choices", bound=_Rows)


@dataclass(frozen=True)
class GlobalBatch:
    """The batch of a training step, of which every process holds an equal part of the rows.

    In evaluation, and where there is one process, the batch at hand is all there is.

    Args:
        rank: Number of this process, whose rows lie at this place.
        num_processes: Number of processes.
    """

    rank: int = 0
    num_processes: int = 1

    @classmethod
    @torch.compiler.disable  # made inside of a graph, it could not be handed over where the graph breaks for the draws
    def of(cls, module: nn.Module) -> GlobalBatch:
        """Return the global batch of a module's step: that of all processes in training, its own in evaluation."""
        return cls(*process_share()) if module.training else cls()

    @torch.compiler.disable  # generators cannot be compiled: what is drawn here goes into the graph as its input
    def draw(
        self,
        draw: Callable[[int, torch.Generator], Choices],
        own_rows: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> Choices:
        """Draw random choices for all rows of the global batch, the same on every process, and return our rows'.

        Args:
            draw: From a number of rows and a source on the CPU to the choices, which have `rows(start, stop)`.
            own_rows: This process's rows, of whatever shape; every process has as many.
            generator: Source of the seed on the CPU; None for torch's global one.

        Returns:
            The choices for this process's rows.
        """
        source = fork_generator(generator, own_rows.device, is_shared=self.num_processes > 1)
        count = len(own_rows)
        return draw(self.num_processes * count, source).rows(self.rank * count, (self.rank + 1) * count)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes, with their gradient where they have one.

        Args:
            rows: (batch_size, ...), this process's.

        Returns:
            (num_processes * batch_size, ...), in the order of ranks.
        """
        if self.num_processes == 1:
            return rows
        # Not every backend sends booleans.
        return gather_rows(rows.to(torch.uint8)).bool() if rows.dtype == torch.bool else gather_rows(rows)

    def mean(self, terms: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """Average the terms of a loss over what counts in the global batch; see mean_over_processes."""
        return mean_over_processes(terms, counted, self.num_processes)
