"""Several processes hide the tokens, and have the loss and the gradient, of one process on the global batch."""

import pytest
import torch
from two_processes import assert_one_process_finds, run_two_processes

from hf_tsrep import CrossTimeNetConfig, CrossTimeNetForPreTraining

MASK_RATIOS = (0.3, 0.0)
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DOMAINS = [{"name": "har", "num_input_channels": 3, "patch_length": 4, "codebook_size": 12}]


def step(mask_ratio, rank, num_processes):
    """Loss with accuracy, gradients and buffers; of two processes one has two short rows, the other four long ones."""
    torch.manual_seed(0)
    config = CrossTimeNetConfig(domains=DOMAINS, backbone_config={**SIZES, **QUIET}, mask_ratio=mask_ratio)
    model = CrossTimeNetForPreTraining(config).train()
    ids = torch.randint(4, 16, (6, 9), generator=torch.Generator().manual_seed(1))
    ids[:2, 5:] = 0
    part = ids if num_processes == 1 else (ids[:2, :5], ids[2:])[rank]
    torch.manual_seed(7 + rank)
    output = model(part)
    output.loss.backward()
    gradients = torch.cat([value.grad.flatten() for value in model.parameters()])
    buffers = torch.cat([torch.zeros(1), *(value.flatten().float() for value in model.buffers())])
    return torch.stack([output.loss.detach(), output.accuracy]), gradients, buffers


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_two_processes(step, MASK_RATIOS, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("mask_ratio", MASK_RATIOS)
def test_two_processes_are_one(found, mask_ratio):
    losses, _, _ = assert_one_process_finds(found, step, mask_ratio)
    assert losses[0] > 1.0
