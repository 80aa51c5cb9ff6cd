"""What a process knows of the others, and that nobody trains, encodes or evaluates where they do not work together."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from hf_tsrep.cli.main import app
from hf_tsrep.errors import SettingsError
from hf_tsrep.processes import Processes, check_group, launched_processes, require_every_process, trains_on_cpus
from hf_tsrep.training.resolve import resolve_settings
from hf_tsrep.training.stages import training_arguments

ROOT = Path(__file__).resolve().parents[2]
TOLD = (
    "ACCELERATE_USE_FSDP",
    "WORLD_SIZE",
    "RANK",
    "PMI_SIZE",
    "PMI_RANK",
    "MASTER_ADDR",
    "ACCELERATE_MIXED_PRECISION",
    "LOCAL_RANK",
)


@pytest.fixture
def told(monkeypatch):
    """Return a function that sets the environment of a launcher, and nothing besides."""
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)

    def tell(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return tell


def group(kind, num_processes):
    """Return what the Trainer's arguments say of the processes."""
    state = SimpleNamespace(distributed_type=SimpleNamespace(value=kind))
    return SimpleNamespace(distributed_state=state, world_size=num_processes, device=torch.device("cpu"), fsdp=None)


def test_a_launcher_tells_rank_and_count(told):
    assert launched_processes() == Processes(0, 1)
    told(WORLD_SIZE=3, RANK=2)
    assert launched_processes() == Processes(2, 3)
    assert not launched_processes().is_first
    told(PMI_SIZE=4, PMI_RANK=1)  # Accelerate asks mpirun first
    assert launched_processes() == Processes(1, 4)


def test_one_process_where_accelerate_was_asked_for_several_is_refused(told, tmp_path):
    told(ACCELERATE_MIXED_PRECISION="no")
    assert require_every_process() == Processes(0, 1)
    told(MASTER_ADDR="127.0.0.1")
    with pytest.raises(SettingsError, match=r"several processes and has started one.*torchrun --nproc_per_node N"):
        require_every_process()
    settings = resolve_settings({"method": "ts2vec", "corpus": "ett/ETTh1", "output_dir": str(tmp_path)})
    with pytest.raises(SettingsError, match="has started one"):
        training_arguments(settings)
    told(WORLD_SIZE=1, RANK=0)  # as torchrun --nproc_per_node 1 says it
    assert require_every_process() == Processes(0, 1)


@pytest.mark.parametrize(("kind", "num_processes", "started"), [("NO", 2, 2), ("NO", 1, 2), ("MULTI_CPU", 2, 2)])
def test_processes_that_do_not_train_together_do_not_train(kind, num_processes, started):
    """The last has no process group here."""
    with pytest.raises(SettingsError, match=rf"started {started} processes, the process group has 1.*{kind}"):
        check_group(group(kind, num_processes), Processes(0, started))
    check_group(group("NO", 1), Processes(0, 1))


def test_shards_of_weights_are_refused(told):
    told(ACCELERATE_USE_FSDP="true")
    with pytest.raises(SettingsError, match="FSDP was asked for"):
        check_group(group("FSDP", 1), Processes(0, 1))


@pytest.mark.parametrize(
    ("name", "machines", "num_processes"), [("one_gpu", 1, 1), ("eight_gpus", 1, 8), ("two_nodes", 2, 16)]
)
def test_configurations_are_what_accelerate_takes(name, machines, num_processes):
    """Accelerate's own class reads the file, its own parser the command, and its own functions make the processes'."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_multi_gpu_env

    path = str(ROOT / "scripts" / "accelerate" / f"{name}.yaml")
    config = load_config_from_file(path)
    assert (config.num_machines, config.num_processes) == (machines, num_processes)
    words = ["--config_file", path, "-m", "hf_tsrep", "pretrain", "--method", "ts2vec"]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert defaults.mixed_precision == arguments.mixed_precision == "bf16"
    assert arguments.multi_gpu is (num_processes > 1)
    assert arguments.training_script_args == ["pretrain", "--method", "ts2vec"]
    if num_processes > 1:
        environment = prepare_multi_gpu_env(arguments)
        assert "ACCELERATE_USE_FSDP" not in environment
        assert int(arguments.nproc_per_node) * machines == num_processes


def test_several_processes_without_a_gpu_train_on_cpus(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert trains_on_cpus(Processes(0, 2))
    assert not trains_on_cpus(Processes(0, 1))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for kind, expected in (("cuda", False), ("mps", True)):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda kind=kind: torch.device(kind))
        assert trains_on_cpus(Processes(0, 2)) is expected


def test_commands_that_share_nothing_run_in_one_process(told):
    told(WORLD_SIZE=2, RANK=1)
    result = CliRunner().invoke(app, ["predict", "--model", "m", "--input", "i", "--output", "o.csv"])
    assert result.exit_code == 2
    assert "predict works in one process, and the launcher has started 2" in " ".join(result.output.split())
