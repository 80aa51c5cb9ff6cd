"""Published schedules by epoch, the pretext loss on validation data, and windows to train on."""

import numpy as np
import pytest
import torch

from hf_tsrep import TimeDRLConfig, TimeDRLForPreTraining, pretrain
from hf_tsrep.training import SettingsError, resolve_settings
from hf_tsrep.training.callbacks import ValidationLossCallback, epoch_factor
from hf_tsrep.training.data import pretraining_dataset

PUBLISHED = {
    "constant": [1.0] * 7,
    "halving": [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125],
    "late_decay": [1.0, 1.0, 1.0, 1.0, 0.9, 0.81, 0.729],
    "warmup_decay": [1.0, 0.4, 0.6, 0.8, 1.0, 1.0, 0.9],
}


@pytest.mark.parametrize("schedule", PUBLISHED)
def test_the_rate_of_every_epoch_is_the_published_one(schedule):
    np.testing.assert_allclose([epoch_factor(schedule, epoch) for epoch in range(7)], PUBLISHED[schedule])


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"epoch_schedule='type9' is unknown"):
        epoch_factor("type9", 0)


@pytest.fixture
def corpus(tmp_path):
    series = np.random.default_rng(0).standard_normal((400, 2)).cumsum(0)
    rows = ["date,a,b"]
    rows += [
        f"{day},{one:.5f},{two:.5f}"
        for day, (one, two) in zip(np.arange("2020-01-01", "2021-02-04", dtype="M8[D]"), series, strict=True)
    ]
    path = tmp_path / "walk.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_run_on_windows_follows_the_schedule_and_logs_the_validation_loss(corpus, tmp_path):
    result = pretrain(
        "timedrl",
        str(corpus),
        tmp_path / "model",
        split="60/20/20",
        max_train_length=32,
        window_stride=4,
        epoch_schedule="halving",
        lr_scheduler_type="constant",
        learning_rate=0.001,
        num_train_epochs=4,
        validation_loss=True,
        per_device_train_batch_size=16,
        hidden_size=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
    )
    assert result.metrics["num_steps"] == 4 * -(-((240 - 32) // 4 + 1) // 16)
    rates = [(entry["epoch"], entry["learning_rate"]) for entry in result.history if "learning_rate" in entry]
    for epoch, rate in rates:
        assert rate == pytest.approx(0.001 * epoch_factor("halving", int(np.ceil(epoch)) - 1))
    losses = [entry["validation_loss"] for entry in result.history if "validation_loss" in entry]
    assert len(losses) == 4
    assert len(set(losses)) == 4


def test_the_validation_loss_is_the_mean_over_all_items_and_always_the_same():
    torch.manual_seed(0)
    config = TimeDRLConfig(num_input_channels=2, hidden_size=8, patch_length=4, patch_stride=4, dropout=0.0)
    model = TimeDRLForPreTraining(config).train()
    model.model.eval()
    items = [{"past_values": torch.randn(16, 2)} for _ in range(7)]
    state = torch.get_rng_state()
    found = [ValidationLossCallback(items, size).measure(model) for size in (1, 3, 7)]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.model.training
    model.eval()
    expected = np.mean([model(item["past_values"].unsqueeze(0)).loss.item() for item in items])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_windows_where_a_series_is_long_enough():
    series = [np.arange(20, dtype=np.float32)[:, None], np.arange(5, dtype=np.float32)[:, None]]
    windows = pretraining_dataset(series, 8, 4, seed=0)
    assert [int(windows[index]["past_values"][0, 0]) for index in range(len(windows))] == [0, 4, 8, 12]
    assert windows.sequence_length == 8
    assert pretraining_dataset(series, 30, 4, seed=0).sequence_length == 20
    assert pretraining_dataset(series, 8, None, seed=0).sequence_length == 8
    with pytest.raises(SettingsError, match="windows need a length"):
        pretraining_dataset(series, None, 4, seed=0)


def test_two_schedules_are_refused(corpus, tmp_path):
    with pytest.raises(SettingsError, match=r"epoch_schedule='halving'.*lr_scheduler_type='cosine'"):
        pretrain(
            "timedrl", str(corpus), tmp_path / "model", max_train_length=32, epoch_schedule="halving", use_cpu=True
        )


@pytest.mark.parametrize("stage", ["tokenizer", "model"])
@pytest.mark.parametrize("field", [{"window_stride": 2}, {"validation_loss": True}])
def test_stages_of_tokens_say_why_they_have_no_windows(stage, field):
    given = {"method": "crosstimenet", "corpus": "x", "output_dir": "y", "stage": stage, **field}
    with pytest.raises(SettingsError, match=r"tokenised whole|measured on validation series"):
        resolve_settings(given)


def test_a_validation_loss_needs_something_to_be_measured_on(corpus, tmp_path, caplog):
    fields = {"max_steps": 1, "max_train_length": 32, "hidden_size": 8, "num_attention_heads": 2, "use_cpu": True}
    fields |= {"num_hidden_layers": 1, "disable_tqdm": True, "per_device_train_batch_size": 4}
    with pytest.raises(SettingsError, match=r"walk\.csv has no validation part .* split"):
        pretrain("timedrl", str(corpus), tmp_path / "asked", validation_loss=True, **fields)
    assert not (tmp_path / "asked").exists()
    result = pretrain("timedrl", str(corpus), tmp_path / "of_the_recipe", **fields)
    assert "walk.csv has no validation part, so no validation loss is logged" in caplog.text
    assert not any("validation_loss" in entry for entry in result.history)
