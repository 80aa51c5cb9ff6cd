"""Several processes with a share of the batch each against one process with the whole batch.

A test file has a function `step(variant, rank, num_processes)`. It returns three tensors: losses and gradients, whose
means over the processes are what one process has, and buffers, which are the same everywhere. The processes are forks:
what is imported is not imported again.
"""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

TIMEOUT = timedelta(minutes=5)  # for processes that wait for each other in vain


def _work(rank, step, variants, folder, counts):
    torch.set_num_threads(1)
    for count in counts:
        if rank < count:
            _work_together(rank, step, variants, folder, count)


def _work_together(rank, step, variants, folder, count):
    group = {"init_method": f"file://{folder}/group{count}", "rank": rank, "world_size": count, "timeout": TIMEOUT}
    dist.init_process_group("gloo", **group)
    found = {}
    for variant in variants:
        losses, gradients, buffers = step(variant, rank, count)
        for tensor in (losses, gradients):
            dist.all_reduce(tensor)
            tensor /= count
        found[variant] = (losses, gradients, buffers)
    torch.save(found, Path(folder) / f"{rank}of{count}.pt")
    dist.destroy_process_group()


def run_processes(step, variants, folder, counts=(2,)):
    """Take the steps of all variants in some processes, for each count; return what each process found, by variant."""
    if not dist.is_available():
        pytest.skip("torch has no torch.distributed here")
    arguments = (step, tuple(variants), str(folder), counts)
    multiprocessing.start_processes(_work, args=arguments, nprocs=max(counts), start_method="fork")
    return [torch.load(Path(folder) / f"{rank}of{count}.pt") for count in counts for rank in range(count)]


def assert_one_process_finds(found, step, variant):
    """Take the step in this process and compare; return what it gave."""
    with torch.random.fork_rng():
        alone = step(variant, 0, 1)
    for by_variant in found:
        for value, expected in zip(by_variant[variant], alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=lambda text: f"{variant}: {text}")
    return alone
