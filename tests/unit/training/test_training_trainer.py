"""The pre-training trainer: its log, its errors, schedules by the epoch, and the published loops."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tsrep import TimeDRLConfig, TimeDRLForPreTraining, TS2VecConfig, TS2VecForPreTraining, pretrain
from hf_tsrep.modeling import modeling_ts2vec
from hf_tsrep.training import (
    NonFiniteLossError,
    SettingsError,
    TimeSeriesTrainer,
    WeightAveragingCallback,
    resolve_settings,
)
from hf_tsrep.training.batches import IndexedCollator, IndexedDataset, PretrainingCollator
from hf_tsrep.training.callbacks import ValidationLossCallback, epoch_factor
from hf_tsrep.training.data import PretrainingDataset, TrainingSeries, pretraining_dataset


def tiny_model(**fields):
    torch.manual_seed(0)
    sizes = {"num_input_channels": 2, "hidden_size": 8, "embedding_size": 12, "num_hidden_layers": 4}
    return TS2VecForPreTraining(TS2VecConfig(**{**sizes, **fields}))


def some_series(num_series=8, length=24):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(length, 2)).astype(np.float32) for _ in range(num_series)]


def arguments(folder, **fields):
    values = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    return TrainingArguments(output_dir=str(folder), **{**values, **fields})


def trainer_of(folder, series, model=None, trainer_options=None, **fields):
    return TimeSeriesTrainer(
        model=model or tiny_model(),
        args=arguments(folder, **fields),
        train_dataset=IndexedDataset(PretrainingDataset(series)),
        data_collator=IndexedCollator(PretrainingCollator()),
        **(trainer_options or {}),
    )


def test_the_log_has_the_terms_of_the_loss(tmp_path):
    trainer = trainer_of(tmp_path, some_series())
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    for entry in logged:
        mean = 0.5 * entry["instance_loss"] + 0.5 * entry["temporal_loss"]
        assert entry["loss"] == pytest.approx(mean, rel=1e-4)


def test_terms_are_means_over_the_interval_and_over_accumulated_batches(tmp_path):
    steps = trainer_of(tmp_path, some_series(), logging_steps=1)
    steps.train()
    interval = trainer_of(tmp_path, some_series(), logging_steps=4)
    interval.train()
    each = [entry["temporal_loss"] for entry in steps.state.log_history if "loss" in entry]
    whole = [entry["temporal_loss"] for entry in interval.state.log_history if "loss" in entry]
    assert len(each) == 4
    assert whole == [pytest.approx(np.mean(each), rel=1e-5)]
    accumulated = trainer_of(tmp_path, some_series(), gradient_accumulation_steps=2, max_steps=2, logging_steps=1)
    accumulated.train()
    for entry in [entry for entry in accumulated.state.log_history if "loss" in entry]:
        assert entry["loss"] == pytest.approx(0.5 * entry["instance_loss"] + 0.5 * entry["temporal_loss"], rel=1e-4)


@pytest.mark.parametrize("bad", [1e30, -1e25])
def test_a_non_finite_loss_stops_before_it_changes_a_weight_and_names_step_and_series(tmp_path, bad):
    series = some_series()
    series[5][:] = bad
    model = tiny_model()
    before = {}

    class Snapshot(TrainerCallback):
        def on_step_begin(self, *_, **kwargs):
            before.update({name: value.clone() for name, value in kwargs["model"].state_dict().items()})

    names = [f"patient_{index}" for index in range(8)]
    trainer = trainer_of(tmp_path, series, model, {"item_names": names, "callbacks": [Snapshot()]})
    with pytest.raises(NonFiniteLossError, match=r"step [12] .*5 \(patient_5\)") as caught:
        trainer.train()
    assert 5 in caught.value.series_indices
    assert len(caught.value.series_indices) == 4
    assert caught.value.step in (1, 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_dataset_without_indices_still_names_the_step(tmp_path):
    series = some_series()
    series[0][:] = 1e30
    trainer = TimeSeriesTrainer(
        model=tiny_model(),
        args=arguments(tmp_path, per_device_train_batch_size=8),
        train_dataset=PretrainingDataset(series),
        data_collator=PretrainingCollator(),
    )
    with pytest.raises(NonFiniteLossError, match=r"step 1 .*names no series"):
        trainer.train()


def test_decay_can_apply_to_biases_as_in_the_published_optimiser(tmp_path):
    trainer = trainer_of(tmp_path, some_series())
    every = {name for name, _ in trainer.model.named_parameters()}
    chosen = set(trainer.get_decay_parameter_names(trainer.model))
    assert {name for name in every if name.endswith("bias")} == every - chosen
    trainer.decay_all_parameters = True
    assert set(trainer.get_decay_parameter_names(trainer.model)) == every


def test_the_dataset_is_told_every_epoch(tmp_path):
    told = []

    class Told(Dataset):
        def __init__(self):
            self.pieces = PretrainingDataset(some_series())

        def __len__(self):
            return 8

        def __getitem__(self, index):
            return self.pieces[index]

        def set_epoch(self, epoch):
            told.append(epoch)

    trainer = TimeSeriesTrainer(
        model=tiny_model(),
        args=arguments(tmp_path, max_steps=6),
        train_dataset=Told(),
        data_collator=PretrainingCollator(),
    )
    trainer.train()
    assert sorted(set(told)) == [0, 1, 2]
    assert told == sorted(told)


def test_items_and_batches_carry_their_indices():
    dataset = IndexedDataset(PretrainingDataset(some_series()))
    items = dataset.__getitems__([6, 2])
    batch = IndexedCollator(PretrainingCollator())(items)
    assert batch["series_index"].tolist() == [6, 2]
    assert torch.equal(batch["past_values"][1], dataset[2]["past_values"])
    assert dataset[2]["series_index"] == 2


def test_pieces_of_long_series_are_named():
    series = some_series(3, 40)
    loaded = TrainingSeries(series, ["a", "b", "c"], [], [])
    assert loaded.item_names(3, None) == ["a", "b", "c"]
    assert loaded.num_elements == 3 * 40 * 2
    names = loaded.item_names(6, 20)
    assert names[:4] == ["a, piece 1 of 2", "b, piece 1 of 2", "c, piece 1 of 2", "a, piece 2 of 2"]
    assert loaded.item_names(5, 20)[4] == "piece 4"  # one empty piece was left out
    dataset = PretrainingDataset(series, 20)
    assert torch.equal(dataset[names.index("b, piece 2 of 2")]["past_values"], torch.from_numpy(series[1][20:]))


def test_the_plain_trainer_trains_the_model(tmp_path):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, remove_unused_columns=True, logging_steps=1),
        train_dataset=PretrainingDataset(some_series()),
        data_collator=PretrainingCollator(),
    )
    trainer.train()
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_bfloat16_and_gradient_accumulation_train(tmp_path):
    averaging = WeightAveragingCallback()
    trainer = trainer_of(
        tmp_path,
        some_series(16),
        trainer_options={"callbacks": [averaging]},
        bf16=True,
        gradient_accumulation_steps=2,
        max_steps=3,
        logging_steps=1,
    )
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3
    assert np.isfinite(logged).all()
    assert averaging.num_averaged == 4  # one snapshot an optimiser step, not one a batch
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_accumulated_gradients_are_those_of_the_mean_loss(tmp_path, monkeypatch):
    """Two batches accumulated give the step of their mean gradient: SGD moves by it exactly."""
    series = some_series(4)
    options = {"mask_mode": "all_true", "output_dropout": 0.0}
    model, reference = tiny_model(**options), tiny_model(**options)
    trainer = trainer_of(
        tmp_path,
        series,
        model,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
        max_steps=1,
        train_sampling_strategy="sequential",
    )
    drawn = []
    original = modeling_ts2vec.draw_views
    monkeypatch.setattr(modeling_ts2vec, "draw_views", lambda *given: drawn.append(original(*given)) or drawn[-1])
    trainer.train()
    reference.train()
    for views, rows in zip(drawn, (series[:2], series[2:]), strict=True):
        (reference(torch.from_numpy(np.stack(rows)), views=views).loss / 2).backward()
    for (name, trained), parameter in zip(model.named_parameters(), reference.parameters(), strict=True):
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(trained.detach(), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_the_recipe_steps_as_the_published_loop(tmp_path, monkeypatch):
    """Yue et al.'s loop: torch's AdamW with its defaults over all parameters, no clipping, the mean of all weights."""
    settings = resolve_settings({"method": "ts2vec", "corpus": "ett/ETTh1", "output_dir": str(tmp_path)})
    model, reference = tiny_model(output_dropout=0.0), tiny_model(output_dropout=0.0)
    averaging, expected = WeightAveragingCallback(), WeightAveragingCallback()
    seen = []
    draw, forward = modeling_ts2vec.draw_views, model.forward

    def recording_forward(past_values, **options):
        seen.append([past_values.clone()])
        return forward(past_values, **options)

    def recording_draw(*given):
        seen[-1].append(draw(*given))
        return seen[-1][1]

    monkeypatch.setattr(modeling_ts2vec, "draw_views", recording_draw)
    model.forward = recording_forward
    trainer = TimeSeriesTrainer(
        model=model,
        args=arguments(tmp_path, **{**settings.training, "max_steps": 5, "per_device_train_batch_size": 4}),
        train_dataset=IndexedDataset(PretrainingDataset(some_series(9))),
        data_collator=IndexedCollator(PretrainingCollator()),
        callbacks=[averaging],
        decay_all_parameters=settings.run.decay_all_parameters,
    )
    trainer.train()
    assert [len(values) for values, _ in seen] == [4] * 5  # 9 series: the incomplete batch of every epoch is dropped
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.001)
    expected.update(reference)
    for values, views in seen:
        optimizer.zero_grad()
        reference.train()(values, views=views).loss.backward()
        optimizer.step()
        expected.update(reference)
    for (name, trained), parameter in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(trained, parameter, rtol=1e-6, atol=1e-7, msg=name)
        torch.testing.assert_close(averaging.averaged[name], expected.averaged[name], rtol=1e-6, atol=1e-7, msg=name)


PUBLISHED = {
    "constant": [1.0] * 7,
    "halving": [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125],
    "late_decay": [1.0, 1.0, 1.0, 1.0, 0.9, 0.81, 0.729],
    "warmup_decay": [1.0, 0.4, 0.6, 0.8, 1.0, 1.0, 0.9],
}


@pytest.mark.parametrize("schedule", PUBLISHED)
def test_the_rate_of_every_epoch_is_the_published_one(schedule):
    np.testing.assert_allclose([epoch_factor(schedule, epoch) for epoch in range(7)], PUBLISHED[schedule])


def test_an_unknown_schedule_of_epochs_is_refused():
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


def test_windows_are_taken_where_a_series_is_long_enough():
    series = [np.arange(20, dtype=np.float32)[:, None], np.arange(5, dtype=np.float32)[:, None]]
    windows = pretraining_dataset(series, 8, 4, seed=0)
    assert [int(windows[index]["past_values"][0, 0]) for index in range(len(windows))] == [0, 4, 8, 12]
    assert windows.sequence_length == 8
    assert pretraining_dataset(series, 30, 4, seed=0).sequence_length == 20
    assert pretraining_dataset(series, 8, None, seed=0).sequence_length == 8
    with pytest.raises(SettingsError, match="windows need a length"):
        pretraining_dataset(series, None, 4, seed=0)


def test_two_schedules_at_once_are_refused(corpus, tmp_path):
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
