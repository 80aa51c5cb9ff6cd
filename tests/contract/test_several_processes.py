"""Two and three processes have the loss, gradients and buffers of one on the global batch, for every method there is.

What a method's options change is in tests/unit/modeling/test_modeling_processes.py.
"""

import pytest
import torch
from contract_support import METHOD_NAMES, build, random_values
from several_processes import assert_one_process_finds, run_processes

pytestmark = pytest.mark.slow

COUNTS = (2, 3)
NUM_SERIES, LENGTH = 6, 48


def step(name, rank, num_processes):
    """Take one training step on this process's rows: the loss, the gradients and the buffers of the tiny model."""
    model = build(name, "pretraining").train()
    for module in model.modules():
        if isinstance(
            module, torch.nn.Dropout
        ):  # of a language model of transformers, which every process draws itself
            module.p = 0.0
    values = random_values(model, NUM_SERIES, LENGTH)
    values[0, :7] = torch.nan  # the processes have unequally many observed values
    values[1, 20:26, 0] = torch.nan
    values[5, 40:] = torch.nan
    share = NUM_SERIES // num_processes
    torch.manual_seed(100 + rank)  # another state on every process: the first one's seed must serve all
    loss = model(past_values=values[rank * share : (rank + 1) * share]).loss
    loss.backward()
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in model.parameters()]
    buffers = [torch.zeros(1), *(one.float() for one in model.buffers())]
    return loss.detach(), *(torch.cat([one.flatten() for one in found]) for found in (gradients, buffers))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One start of the processes serves all methods and both counts: it takes longer than what they compute."""
    return run_processes(step, METHOD_NAMES, tmp_path_factory.mktemp("processes"), COUNTS)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_processes_with_a_share_of_the_series_are_one(found, name):
    assert len(found) == sum(COUNTS)
    loss, gradients, _ = assert_one_process_finds(found, step, name)
    assert loss.isfinite()
    assert gradients.abs().sum() > 0
