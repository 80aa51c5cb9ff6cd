"""Freed memory goes back to the system while a model trains."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from hf_tsrep.training.run import give_back_freed_blocks

assert give_back_freed_blocks()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident()
blocks = [torch.ones(2**20 + 1000 * index) for index in range(50)]  # 4 MiB each
held = resident()
pins = [bytearray(2000) for _ in range(50)]
del blocks
assert held - before > 150 * 2**20
assert resident() - before < 30 * 2**20
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is of glibc on Linux")
def test_freed_blocks_go_back(tmp_path):
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_a_setting_of_the_environment_is_left_alone(monkeypatch):
    from hf_tsrep.training.run import give_back_freed_blocks

    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4194304")
    assert not give_back_freed_blocks()
