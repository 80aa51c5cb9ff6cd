"""Two processes compute the loss and gradient of one on the same global batch, dropout and statistics included."""

import torch
from two_processes import assert_one_process_finds, run_two_processes

from hf_tsrep import TimeDRLConfig, TimeDRLForPreTraining

VARIANTS = {
    "independent": {"channel_mode": "independent"},
    "augmented": {"augmentation": "jitter", "prediction_target": "raw"},
    "resnet": {"encoder": "resnet", "augmentation": "permutation"},
}


def step(variant, rank, num_processes):
    """Return the loss, gradients and buffers of one step on this process's rows."""
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


def test_two_processes_are_one(tmp_path):
    found = run_two_processes(step, VARIANTS, tmp_path)
    for variant in VARIANTS:
        assert_one_process_finds(found, step, variant)
