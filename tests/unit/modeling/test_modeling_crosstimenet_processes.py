"""Several processes hide the tokens, and have the loss and the gradient, of one process on the global batch."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import json, os, sys
    import torch
    import torch.distributed as dist
    from hf_tsrep import CrossTimeNetConfig, CrossTimeNetForPreTraining

    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    domains = [{"name": "har", "num_input_channels": 3, "patch_length": 4, "codebook_size": 12}]
    torch.manual_seed(0)
    model = CrossTimeNetForPreTraining(
        CrossTimeNetConfig(domains=domains, backbone_config={**sizes, **quiet}, mask_ratio=float(sys.argv[2]))
    ).train()
    ids = torch.randint(4, 16, (6, 9), generator=torch.Generator().manual_seed(1))
    ids[:2, 5:] = 0
    rows = {1: [(0, 6)], 2: [(0, 2), (2, 6)]}[processes][rank]
    part = ids[rows[0] : rows[1]]
    if processes == 2 and rank == 0:
        part = part[:, :5]
    torch.manual_seed(7 + rank)
    output = model(part)
    output.loss.backward()
    values = [output.loss.detach(), output.accuracy, *(value.grad for value in model.parameters())]
    for value in values:
        dist.all_reduce(value)
    if rank == 0:
        numbers = [(value / processes).double().flatten().tolist() for value in values]
        json.dump(numbers, open(sys.argv[1], "w"))
"""


@pytest.mark.parametrize("mask_ratio", [0.3, 0.0])
def test_two_processes_are_one(tmp_path, mask_ratio):
    found = {}
    for processes in (1, 2):
        report = tmp_path / f"{processes}.json"
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + os.getpid() % 1000 + processes)}
        started = []
        for rank in range(processes):
            environment = {**os.environ, **place, "RANK": str(rank), "WORLD_SIZE": str(processes)}
            script = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(report), str(mask_ratio)]
            started.append(subprocess.Popen(script, env=environment))
        assert [process.wait(timeout=120) for process in started] == [0] * processes
        found[processes] = json.loads(report.read_text())
    for one, two in zip(found[1], found[2], strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
    assert found[1][0][0] > 1.0
