"""Two processes compute the loss and gradient of one on the same global batch, dropout and statistics included."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

NUM_PROCESSES = 2
VARIANTS = {
    "independent": {"channel_mode": "independent"},
    "augmented": {"augmentation": "jitter", "prediction_target": "raw"},
    "resnet": {"encoder": "resnet", "augmentation": "permutation"},
}


def step(variant, rank, num_processes):
    """Return the loss, gradients and buffers of one step on this process's rows."""
    from hf_tsrep import TimeDRLConfig, TimeDRLForPreTraining

    torch.manual_seed(0)
    config = TimeDRLConfig(
        num_input_channels=2, hidden_size=8, patch_length=4, patch_stride=4, dropout=0.3, **VARIANTS[variant]
    )
    model = TimeDRLForPreTraining(config).train()
    values = torch.randn(6, 24, 2, generator=torch.Generator().manual_seed(1))
    values[0] = torch.nan
    values[1, :9] = torch.nan
    values[4, 5:12, 1] = torch.nan
    share = len(values) // num_processes
    torch.manual_seed(100 + rank)  # another state on every process: the first one's seed must serve all
    loss = model(values[rank * share : (rank + 1) * share]).loss
    loss.backward()
    gradients = torch.cat([value.grad.flatten() for value in model.parameters()])
    buffers = torch.cat([value.flatten().float() for value in model.buffers()])
    return loss.detach(), gradients, buffers


def work(rank, folder):
    """Be one process of the group and store the means over the group."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=NUM_PROCESSES)
    found = {}
    for variant in VARIANTS:
        loss, gradients, buffers = step(variant, rank, NUM_PROCESSES)
        for tensor in (loss, gradients):
            dist.all_reduce(tensor)
            tensor /= NUM_PROCESSES
        found[variant] = (loss, gradients, buffers)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed here")
def test_two_processes_are_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])  # the children import this file
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=NUM_PROCESSES)
    for rank in range(NUM_PROCESSES):
        found = torch.load(tmp_path / f"{rank}.pt")
        for variant in VARIANTS:
            for value, expected in zip(found[variant], step(variant, 0, 1), strict=True):
                torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
