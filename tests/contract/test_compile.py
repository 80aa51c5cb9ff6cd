"""torch.compile of a pre-training step: it breaks where choices are drawn and in losses, never in an encoder."""

import pytest
import torch
from contract_support import METHOD_NAMES, build, task_inputs

from hf_tsrep.modeling.layers_dropout import DropoutDraws, SeededDropout


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_pretraining_step_compiles_without_a_break_in_the_encoder(name):
    model = build(name, "pretraining").train()
    inputs = task_inputs(model, "pretraining", batch_size=3, length=16)
    if model.config.reads_tokens:  # made once, before the training
        inputs = model.prepare_inputs(**inputs)
    with torch._dynamo.config.patch(recompile_limit=1):  # what is compiled again for other shapes is no new code
        found = torch._dynamo.explain(model)(**inputs)
    assert found.op_count > 5
    for one in found.break_reasons:
        is_declared = "torch.compiler.disable" in one.reason
        frames = [frame.name for frame in one.user_stack]
        assert is_declared or frames == ["forward"], f"{one.reason}\n{one.user_stack}"
    assert len(found.break_reasons) <= 4


@pytest.mark.parametrize("num_processes", [1, 2])
def test_compiled_masks_are_those_of_the_plain_pass(num_processes):
    dropout = SeededDropout(0.3, site=2)
    hidden = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(dropout, backend="aot_eager", fullgraph=True)
    for seed in (3, 2**61 + 5):
        draws = DropoutDraws(seed, num_views=2, rank=num_processes - 1, num_processes=num_processes)
        expected = dropout(hidden, draws)
        assert 0 < int((expected == 0).sum()) < expected.numel()
        torch.testing.assert_close(compiled(hidden, draws), expected, rtol=0, atol=0)
