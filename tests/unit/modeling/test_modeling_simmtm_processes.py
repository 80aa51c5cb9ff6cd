"""SimMTM's loss, gradients and batch normalisation over two processes are those of one on the global batch."""

import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from hf_tsrep import SimMTMConfig, SimMTMForPreTraining

NUM_PROCESSES, GLOBAL_BATCH = 2, 4
SIZES = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "context_length": 20}
VARIANTS = {
    "transformer": {},
    "resnet": {"encoder_type": "resnet", "channel_mode": "joint", "reconstruct_masked_views": True},
    "masked modelling": {"use_constraint_loss": False, "use_aggregation": False},
}


def step(variant, rank, num_processes):
    """Loss, gradients and buffers of one process's share of the batch."""
    torch.manual_seed(0)
    config = SimMTMConfig(num_input_channels=2, dropout=0.3, head_dropout=0.2, **SIZES, **VARIANTS[variant])
    model = SimMTMForPreTraining(config).train()
    values = torch.randn(GLOBAL_BATCH, 26, 2, generator=torch.Generator().manual_seed(1))
    values[0, :9] = torch.nan
    values[3, :, 1] = torch.nan
    share = GLOBAL_BATCH // num_processes
    # Processes begin with different generators: the first one's seed counts.
    generator = torch.Generator().manual_seed(5 + rank)
    loss = model(values[rank * share : (rank + 1) * share], generator=generator).loss
    loss.backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    buffers = torch.cat([torch.zeros(1), *(buffer.float().flatten() for buffer in model.buffers())])
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
