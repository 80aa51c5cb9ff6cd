"""Several processes hide the tokens, and have the loss and the gradient, of one process on the global batch.

With a head a domain, processes may train on different domains: no head waits in vain for its gradient.
"""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from two_processes import assert_one_process_finds, run_two_processes

from hf_tsrep import CrossTimeNetConfig, CrossTimeNetForPreTraining, CrossTimeNetForTimeSeriesClassification

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


HEADED = [{**DOMAINS[0], "num_labels": 3}, {**DOMAINS[0], "name": "ecg", "num_labels": 2}]


def alternate(variant, rank, num_processes):
    """Losses, gradients and weights of two steps; in each the two processes are given different domains."""
    torch.manual_seed(0)
    config = CrossTimeNetConfig(domains=HEADED, backbone_config={**SIZES, **QUIET})
    model = CrossTimeNetForTimeSeriesClassification(config).train()
    trained = model if num_processes == 1 else DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for step_number in range(2):
        optimizer.zero_grad()
        mine = range(2) if num_processes == 1 else [(rank + step_number) % 2]
        for place in mine:
            ids = torch.randint(4, 16, (3, 5), generator=torch.Generator().manual_seed(place)) + 12 * place
            loss = trained(ids, domain=place, labels=torch.tensor([0, 1, 1])).loss / len(mine)
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
    gradients = torch.cat([value.grad.flatten() for value in model.parameters()])
    weights = torch.cat([value.detach().flatten() for value in model.parameters()])
    return torch.stack(losses).sum(), gradients, weights


def compute(variant, rank, num_processes):
    """One start of two processes serves all tests: it takes longer than what they compute."""
    return (alternate if variant == "heads" else step)(variant, rank, num_processes)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_two_processes(compute, [*MASK_RATIOS, "heads"], tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("mask_ratio", MASK_RATIOS)
def test_two_processes_are_one(found, mask_ratio):
    losses, _, _ = assert_one_process_finds(found, compute, mask_ratio)
    assert losses[0] > 1.0


def test_processes_train_heads_of_different_domains(found):
    loss, gradients, _ = assert_one_process_finds(found, compute, "heads")
    assert loss > 1.0
    assert gradients.isfinite().all()
