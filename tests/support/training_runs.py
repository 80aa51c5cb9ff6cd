"""What is looked at when two trainings are compared, and how one is started and killed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# Arguments: a JSON of the arguments of pretrain, and where to be killed by SIGKILL: after a step or while saving.
PROGRAM = """
import json, os, signal, sys
from hf_tsrep.training import pretrain
from hf_tsrep.training.callbacks import WeightAveragingCallback

given, moment, number = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
original = getattr(WeightAveragingCallback, moment) if moment != "never" else None

def killed(self, *arguments, **options):
    if moment == "on_step_end" and arguments[1].global_step == number:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *arguments, **options)
    if moment == "save_checkpoint" and str(arguments[0]).endswith(f"checkpoint-{number}"):
        os.kill(os.getpid(), signal.SIGKILL)

if original is not None:
    setattr(WeightAveragingCallback, moment, killed)
pretrain(**given)
"""


def start(interpreters, given, moment="never", number=0, num_processes=1):
    """Run PROGRAM in one process of its own, or in two, and return the exit status."""
    place = Path(given["output_dir"]).parent
    return interpreters.run(PROGRAM, [json.dumps(given), moment, str(number)], place, num_processes)


def losses(output_dir, names):
    """Return what the log of a run has of every step with a loss: the step and the values of the names."""
    history = json.loads((Path(output_dir) / "training_log.json").read_text())["history"]
    return [{name: entry[name] for name in ("step", *names)} for entry in history if "loss" in entry]


def assert_close_losses(first, second, names, tolerance):
    """Compare the logs of two output folders within a tolerance, step by step; return the number of steps."""
    steps = [losses(folder, names) for folder in (first, second)]
    for one, other in zip(*steps, strict=True):
        assert other["step"] == one["step"]
        for name in names:
            assert other[name] == pytest.approx(one[name], rel=tolerance, abs=1e-5), (one["step"], name)
    return len(steps[0])


def assert_close_files(first, second, tolerance):
    """Compare the tensors of two safetensors files within a tolerance."""
    first, second = load_file(first), load_file(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=tolerance, atol=tolerance, msg=name)


def assert_equal_files(first, second):
    """Compare the tensors of two safetensors files bit by bit."""
    first, second = load_file(first), load_file(second)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
