"""Weight averaging, effective rank, the collapse monitor, the loss curve, checkpoint folders and memory."""

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from interpreters import run_apart
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from hf_tsrep import TS2VecConfig, TS2VecForPreTraining
from hf_tsrep.training import CollapseMonitor, WeightAveragingCallback, effective_rank
from hf_tsrep.visualization import plot_loss_curve, smooth

ROOT = Path(__file__).resolve().parents[3]


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def disturb(model, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def test_the_mean_is_that_of_torch_bit_by_bit_and_the_plain_mean():
    model = small_model()
    reference = AveragedModel(model, avg_fn=get_swa_avg_fn())
    reference.update_parameters(model)
    averaging = WeightAveragingCallback()
    averaging.update(model)
    snapshots = [torch.cat([parameter.detach().flatten() for parameter in model.parameters()])]
    for step in range(7):
        disturb(model, step)
        averaging.update(model)
        reference.update_parameters(model)
        snapshots.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert averaging.num_averaged == 8
    for name, parameter in reference.module.named_parameters():
        assert torch.equal(averaging.averaged[name], parameter), name
    averaging.copy_to(model)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(flat, torch.stack(snapshots).mean(dim=0))
    assert not torch.allclose(flat, torch.stack(snapshots[1:]).mean(dim=0))  # the initial weights count


def test_the_mean_of_bfloat16_weights_is_kept_in_float32():
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    averaging = WeightAveragingCallback()
    for step in range(400):
        with torch.no_grad():
            model.weight.fill_(1.0 if step % 2 else 1.0078125)
        averaging.update(model)
    assert averaging.averaged["weight"].dtype == torch.float32
    assert averaging.averaged["weight"].item() == pytest.approx(1.00390625, abs=1e-5)


def test_a_restored_mean_goes_on_bit_by_bit(tmp_path):
    model, averaging = small_model(), WeightAveragingCallback()
    for step in range(3):
        averaging.update(model)
        disturb(model, step)
    averaging.save_checkpoint(tmp_path)
    restored = WeightAveragingCallback()
    restored.load_checkpoint(tmp_path)
    restored.on_train_begin(None, None, None, model=model)  # no second first snapshot
    for one in (averaging, restored):
        one.on_step_end(None, None, None, model=model)
    assert restored.num_averaged == averaging.num_averaged == 4
    assert all(torch.equal(restored.averaged[name], averaging.averaged[name]) for name in averaging.averaged)
    assert [path.name for path in tmp_path.iterdir()] == ["averaged.safetensors"]


def test_averaging_says_what_is_missing_in_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="without weight averaging"):
        WeightAveragingCallback().load_checkpoint(tmp_path)
    with pytest.raises(RuntimeError, match="train first"):
        WeightAveragingCallback().copy_to(small_model())
    averaging = WeightAveragingCallback()
    averaging.update(small_model())
    with pytest.raises(ValueError, match=r"do not fit.*weight"):
        averaging.on_train_begin(None, None, None, model=nn.Linear(2, 2))


def test_known_matrices_have_their_effective_rank():
    assert effective_rank(torch.eye(6)) == pytest.approx(6.0)
    assert effective_rank(torch.outer(torch.arange(1.0, 9.0), torch.ones(5))) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(4, 3)) == 0.0
    assert effective_rank(torch.cat([torch.eye(3), torch.zeros(3, 7)], dim=1)) == pytest.approx(3.0)
    values = torch.tensor([3.0, 1.0])
    shares = values / values.sum()
    assert effective_rank(torch.diag(values)) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())))


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_effective_rank_is_that_of_the_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    shares = torch.linalg.svdvals(matrix.double())
    shares = shares / shares.sum()
    assert effective_rank(matrix) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)


def tiny():
    torch.manual_seed(0)
    return TS2VecForPreTraining(
        TS2VecConfig(num_input_channels=3, hidden_size=8, embedding_size=12, num_hidden_layers=4)
    )


def test_a_collapsed_encoder_is_seen_in_spite_of_dropout_and_warned_of_once(caplog):
    healthy, collapsed = tiny(), tiny()
    with torch.no_grad():
        for parameter in collapsed.model.parameters():
            parameter.zero_()
        collapsed.model.blocks[-1].residual_projection.bias.fill_(1.0)
    inputs = {"past_values": torch.randn(8, 50, 3, generator=torch.Generator().manual_seed(1))}
    healthy.train()
    collapsed.train()
    monitor = CollapseMonitor()
    before = torch.get_rng_state()
    measured = monitor.measure(healthy, inputs, 1)
    assert torch.equal(before, torch.get_rng_state())  # a monitor draws nothing, or a run would depend on it
    assert healthy.training
    assert healthy.model.training
    assert measured["effective_rank"] > 2
    assert measured["embedding_std_mean"] > measured["embedding_std_min"] > 0
    with caplog.at_level(logging.WARNING):
        for step in (7, 8):
            measured = monitor.measure(collapsed, inputs, step)
    assert measured["effective_rank"] == pytest.approx(1.0)
    assert measured["embedding_std_mean"] == pytest.approx(0.0, abs=1e-6)
    warnings = [record.getMessage() for record in caplog.records if "effective rank" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("Step 7")


def test_the_monitor_looks_at_observed_timestamps_only():
    model, inputs = tiny(), {"past_values": torch.full((2, 30, 3), torch.nan)}
    assert CollapseMonitor().measure(model, inputs) == {}
    inputs["past_values"][:, 10:] = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(1))
    assert np.isfinite(list(CollapseMonitor().measure(model, inputs).values())).all()


def test_smoothing_has_no_bias_and_skips_gaps():
    np.testing.assert_allclose(smooth(np.full(50, 3.0)), 3.0)
    gap = np.array([1.0, np.nan, 1.0])
    np.testing.assert_allclose(smooth(gap), 1.0)
    noisy = np.random.default_rng(0).normal(size=400)
    assert smooth(noisy)[200:].std() < 0.5 * noisy.std()


def test_the_loss_curve_is_written_as_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    history = [{"loss": 1.0 / step, "temporal_loss": 0.5 / step, "step": step} for step in range(1, 50)]
    path = plot_loss_curve([*history, {"train_runtime": 1.0, "step": 49}], tmp_path / "curve.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no loss"):
        plot_loss_curve([{"train_runtime": 1.0}], tmp_path / "none.png")


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
def test_freed_blocks_go_back_to_the_system(tmp_path):
    run_apart(SCRIPT, tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})


def test_huge_pages_are_asked_for_before_the_first_block(tmp_path):
    """PyTorch reads the setting once, at a block that transformers' Trainer asks for when it is imported."""
    script = (
        "import os, sys, hf_tsrep.training\n"
        "assert os.environ['THP_MEM_ALLOC_ENABLE'] == '1'\n"
        "assert 'transformers.trainer_utils' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    run_apart(script, tmp_path, {**environment, "PYTHONPATH": str(ROOT)})


def test_a_setting_of_the_environment_is_left_alone(monkeypatch):
    from hf_tsrep.training.run import give_back_freed_blocks

    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4194304")
    assert not give_back_freed_blocks()
