"""Two and three processes have the loss, gradients and buffers of one on the global batch, for every method there is.

What a method's options change is in tests/unit/modeling/test_modeling_processes.py.
"""

import pytest
import torch
from contract_support import METHOD_NAMES, build, random_values
from several_processes import assert_one_process_finds, run_processes
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

pytestmark = pytest.mark.slow

COUNTS = (2, 3)
NUM_SERIES, LENGTH = 6, 48


SHARDED = " sharded"


def step(variant, rank, num_processes):
    """Take one training step on this process's rows: the loss, the gradients and the buffers of the tiny model.

    Of a sharded one, which several processes hold by parts (FSDP2), the weights after the step in place of buffers:
    put together again and loaded into a model that is whole.
    """
    name = variant.removesuffix(SHARDED)
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
    if variant != name and num_processes > 1:
        # torch shards no single number; whoever trains sums its gradient.
        scalars = {one for one in model.parameters() if one.ndim == 0}
        fully_shard(model, mesh=init_device_mesh("cpu", (num_processes,)), ignored_params=scalars)
    loss = model(past_values=values[rank * share : (rank + 1) * share]).loss
    loss.backward()
    for one in model.parameters() if variant != name and num_processes > 1 else ():
        if one.ndim == 0 and one.grad is not None:
            dist.all_reduce(one.grad)
            one.grad /= num_processes
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in model.parameters()]
    gradients = [one.full_tensor() if isinstance(one, DTensor) else one for one in gradients]
    buffers = [torch.zeros(1), *(one.float() for one in model.buffers())]
    if variant != name:
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        whole = build(name, "pretraining", seed=9)
        whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
        buffers = [one.detach() for one in whole.parameters()]
    return loss.detach(), *(torch.cat([one.flatten() for one in found]) for found in (gradients, buffers))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One start of the processes serves all methods and both counts: it takes longer than what they compute."""
    variants = [*METHOD_NAMES, *(name + SHARDED for name in METHOD_NAMES)]
    return run_processes(step, variants, tmp_path_factory.mktemp("processes"), COUNTS)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_processes_with_a_share_of_the_series_are_one(found, name):
    assert len(found) == sum(COUNTS)
    loss, gradients, _ = assert_one_process_finds(found, step, name)
    assert loss.isfinite()
    assert gradients.abs().sum() > 0


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_sharded_weights_learn_as_whole_ones_and_load_on_one_machine(found, name):
    """torch's own FSDP2; Accelerate has it on GPUs only, and `hf-tsrep pretrain` refuses it."""
    _, gradients, weights = assert_one_process_finds(found, step, name + SHARDED)
    assert gradients.abs().sum() > 0
    assert not torch.equal(weights, torch.cat([one.flatten() for one in build(name, "pretraining").parameters()]))
