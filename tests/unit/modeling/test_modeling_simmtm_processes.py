"""SimMTM's loss, gradients and batch normalisation over two processes are those of one on the global batch."""

import torch
from two_processes import assert_one_process_finds, run_two_processes

from hf_tsrep import SimMTMConfig, SimMTMForPreTraining

GLOBAL_BATCH = 4
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


def test_two_processes_are_one(tmp_path):
    found = run_two_processes(step, VARIANTS, tmp_path)
    for variant in VARIANTS:
        assert_one_process_finds(found, step, variant)
