"""Rates of encoder and head, schedules and warm-ups, frozen encoders, metrics, the best epoch and patience."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from domain_models import make_domain_model, make_labelled_corpus
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import default_collate
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import hf_tsrep
from hf_tsrep import TS2VecConfig, TS2VecForTimeSeriesClassification, TS2VecModel
from hf_tsrep.evaluation.metrics import auprc
from hf_tsrep.training import pretrain
from hf_tsrep.training.callbacks import EarlyStoppingByEpochs, EpochScheduleCallback, learning_rate_factor
from hf_tsrep.training.data import TensorRows
from hf_tsrep.training.finetuning.meters import ClassificationMeter, ForecastMeter
from hf_tsrep.training.finetuning.model import freeze_encoder
from hf_tsrep.training.finetuning.trainer import FinetuningTrainer


class RateRecorder(TrainerCallback):
    """Keeps the rates of the groups at every optimiser step, and whether the encoder was in training mode."""

    def __init__(self):
        self.rates, self.training = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, model=None, **kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        self.training.append((model.training, model.base_model.training))


def trainer_of(folder, model=None, num_series=12, callbacks=(), options=None, **arguments):
    torch.manual_seed(0)
    rows = TensorRows({"past_values": torch.randn(num_series, 10, 2), "labels": torch.arange(num_series) % 3})
    config = TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=6, num_hidden_layers=2, num_labels=3)
    settings = {
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "label_names": ["labels"],
        "batch_eval_metrics": True,
        "remove_unused_columns": False,
        **arguments,
    }
    return FinetuningTrainer(
        model=TS2VecForTimeSeriesClassification(config) if model is None else model,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=default_collate,
        compute_metrics=ClassificationMeter(),
        callbacks=list(callbacks),
        label_name="labels",
        **(options or {}),
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1 / 3, 2 / 3, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [1 / 3, 2 / 3, 1, *(0.5 + 0.5 * math.cos(math.pi * step / 6) for step in range(6))]),
        ("constant_with_warmup", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_rate_of_every_step_is_what_the_settings_say(tmp_path, schedule, expected):
    recorder = RateRecorder()
    trainer = trainer_of(
        tmp_path,
        callbacks=[recorder],
        num_train_epochs=3,
        learning_rate=0.01,
        warmup_steps=1 / 3,  # of 9 steps
        lr_scheduler_type=schedule,
    )
    trainer.train()
    np.testing.assert_allclose([rates[0] for rates in recorder.rates], 0.01 * np.asarray(expected), rtol=1e-9)


def test_without_a_warmup_the_first_step_has_the_full_rate_and_the_last_is_above_zero():
    assert [learning_rate_factor(step, 0, 4, "linear") for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


def test_the_encoder_may_learn_more_slowly_and_decay_spares_biases(tmp_path):
    recorder = RateRecorder()
    trainer = trainer_of(
        tmp_path,
        callbacks=[recorder],
        options={"backbone_learning_rate_factor": 0.1},
        num_train_epochs=1,
        learning_rate=0.01,
        weight_decay=0.5,
        lr_scheduler_type="linear",
    )
    trainer.train()
    assert recorder.rates[0] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert recorder.rates[-1] == pytest.approx([0.01 / 3, 0.01 / 3, 0.001 / 3, 0.001 / 3])
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    grouped = [[names[id(one)] for one in group["params"]] for group in trainer.optimizer.param_groups]
    assert grouped[:2] == [["classifier.projection.weight"], ["classifier.projection.bias"]]
    assert sorted(name for group in grouped for name in group) == sorted(names.values())
    assert all(name.endswith("bias") for name in grouped[3])
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.5, 0.0, 0.5, 0.0]


def test_an_epoch_schedule_keeps_the_ratio_of_the_rates_and_goes_on_after_a_checkpoint(tmp_path):
    def run(folder, resumed=None, **arguments):
        recorder = RateRecorder()
        trainer_of(
            tmp_path / folder,
            callbacks=[recorder, EpochScheduleCallback("halving")],
            options={"backbone_learning_rate_factor": 0.1},
            learning_rate=0.01,
            lr_scheduler_type="constant",
            **arguments,
        ).train(resume_from_checkpoint=resumed)
        return np.asarray(recorder.rates)[::3]  # three steps an epoch

    factors = np.asarray([1, 1, 0.5, 0.25])[:, None]
    expected = factors * np.asarray([[0.01, 0.01, 0.001, 0.001]])
    np.testing.assert_allclose(run("whole", num_train_epochs=4), expected, rtol=1e-12)
    run("parts", num_train_epochs=3, save_strategy="epoch")
    resumed = run("parts", str(tmp_path / "parts" / "checkpoint-9"), num_train_epochs=4)
    np.testing.assert_allclose(resumed, expected[3:], rtol=1e-12)


def test_a_frozen_encoder_stays_as_it_is_and_has_no_dropout(tmp_path):
    config = TS2VecConfig(
        num_input_channels=2, hidden_size=4, embedding_size=6, num_hidden_layers=2, num_labels=3, output_dropout=0.5
    )
    torch.manual_seed(0)
    model = TS2VecForTimeSeriesClassification(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_encoder(model)
    recorder = RateRecorder()
    trainer_of(
        tmp_path, model, callbacks=[recorder], options={"freezes_encoder": True}, num_train_epochs=1, learning_rate=0.1
    ).train()
    assert set(recorder.training) == {(True, False)}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.projection.weight", "classifier.projection.bias"}


def batches(predictions, labels, sizes):
    begin = 0
    for size in sizes:
        part = slice(begin, begin + size)
        begin += size
        yield EvalPrediction(predictions=predictions[part], label_ids=labels[part]), begin == len(labels)


def test_metrics_of_batches_are_those_of_the_whole_and_begin_anew():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40)
    scores = generator.normal(size=(40, 3)) + 2 * np.eye(3)[labels]
    meter = ClassificationMeter()
    for _ in range(2):
        results = [meter(*one) for one in batches(torch.tensor(scores), torch.tensor(labels), (16, 16, 8))]
        assert results[:2] == [{}, {}]
        assert results[2]["accuracy"] == pytest.approx(accuracy_score(labels, scores.argmax(1)))
        assert results[2]["macro_f1"] == pytest.approx(f1_score(labels, scores.argmax(1), average="macro"))
        probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        assert results[2]["auprc"] == pytest.approx(auprc(labels, probabilities), abs=1e-9)


def test_forecast_errors_leave_missing_values_out():
    generator = np.random.default_rng(0)
    future, predicted = generator.normal(size=(2, 10, 4, 2))
    future[3, 1:3] = np.nan
    scaled = ForecastMeter([2.0] * predicted.shape[-1])(
        EvalPrediction(torch.tensor(predicted), torch.tensor(future)), True
    )
    assert scaled["mse"] == pytest.approx(np.nanmean((future - predicted) ** 2) / 4, rel=1e-6)
    assert scaled["mae"] == pytest.approx(np.nanmean(np.abs(future - predicted)) / 2, rel=1e-6)
    meter = ForecastMeter()
    for _ in range(2):
        *_, result = [meter(*one) for one in batches(torch.tensor(predicted), torch.tensor(future), (4, 4, 2))]
        assert result["mse"] == pytest.approx(np.nanmean((future - predicted) ** 2), rel=1e-6)
        assert result["mae"] == pytest.approx(np.nanmean(np.abs(future - predicted)), rel=1e-6)


def best_epochs(trainer, scores):
    """Feed validation results of successive epochs, and return the best step after each."""
    best = []
    for epoch, (score, loss) in enumerate(scores, start=1):
        metrics = {"eval_accuracy": score, "eval_loss": loss}
        trainer.state.global_step = 10 * epoch
        trainer.state.log_history.append({**metrics, "step": 10 * epoch})
        trainer._determine_best_metric(metrics, None)
        best.append(trainer.state.best_global_step)
    return best


def test_the_higher_accuracy_is_best_and_of_equal_ones_the_lower_loss(tmp_path):
    trainer = trainer_of(
        tmp_path,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
    )
    scores = [(0.5, 1.0), (0.5, 1.1), (0.5, 0.9), (0.4, 0.1), (0.6, 3.0), (0.6, 3.0)]
    assert best_epochs(trainer, scores) == [10, 10, 30, 30, 50, 50]


def test_training_ends_after_the_epochs_of_patience():
    callback = EarlyStoppingByEpochs(2)
    state = TrainerState(best_global_step=20)
    stopped = []
    for step in (10, 20, 30, 40):
        state.log_history += [{"loss": 1.0, "step": step}, {"eval_loss": 1.0, "step": step}]
        control = TrainerControl()
        callback.on_save(None, state, control)
        stopped.append(control.should_training_stop)
    assert stopped == [False, False, False, True]


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
QUICK = {"max_steps": 8, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}


@pytest.fixture
def tokenizer(tmp_path):
    make_domain_model().tokenizer.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def rates(result):
    return [entry["learning_rate"] for entry in result.history if "learning_rate" in entry]


def test_a_short_run_with_the_published_warm_up_learns(tokenizer, tmp_path):
    result = pretrain("crosstimenet", make_labelled_corpus(), tmp_path / "model", tokenizer=tokenizer, **TINY, **QUICK)
    assert max(rates(result)) == pytest.approx(1e-4)  # 4e-7 with 2000 steps
    record = json.loads((tmp_path / "model" / "pretraining.json").read_text())
    assert (record["training"]["warmup_steps"], record["facts"]["warmup_steps"]) == (2000, 2)
    assert "| `warmup_steps` | 2 |" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_a_warm_up_that_was_asked_for_stays_with_a_warning(tokenizer, tmp_path, caplog):
    fields = {"tokenizer": tokenizer, "warmup_steps": 16, **TINY, **QUICK}
    with caplog.at_level(logging.WARNING, "hf_tsrep"):
        result = pretrain("crosstimenet", make_labelled_corpus(), tmp_path / "model", **fields)
    assert max(rates(result)) < 0.6e-4
    assert "warmup_steps=16 in a run of 8 steps: the learning rate never gets to 0.0001" in caplog.text


def test_a_long_run_keeps_the_published_warm_up():
    from transformers import TrainingArguments

    from hf_tsrep.training.callbacks import fit_warmup

    for num_steps, expected in ((8000, 2000), (7999, 1999), (3, 0)):
        arguments = TrainingArguments("none", warmup_steps=2000, report_to="none", use_cpu=True)
        fit_warmup(arguments, num_steps, may_shorten=True)
        assert arguments.get_warmup_steps(num_steps) == expected


def test_a_fine_tuning_warns_of_a_long_warm_up_too(tmp_path, caplog):
    model = TS2VecModel(TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1))
    fields = {"num_train_epochs": 1, "warmup_steps": 50, "use_cpu": True, "disable_tqdm": True}
    with caplog.at_level(logging.WARNING, "hf_tsrep"):
        hf_tsrep.finetune(model, make_labelled_corpus(), tmp_path / "tuned", **fields)
    assert "warmup_steps=50 in a run of 1 steps" in caplog.text
