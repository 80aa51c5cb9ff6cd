"""Whole fine-tunings: the model folder, its test results recomputed, resumed runs, two processes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from machines import COLUMNS, QUICK, STATES, TINY, machines
from safetensors.torch import load_file

import hf_tsrep
from hf_tsrep.data import get_labels, get_series, load_corpus
from hf_tsrep.evaluation import read_results
from hf_tsrep.training import SettingsError
from hf_tsrep.training.finetuning.trainer import FinetuningTrainer

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import json, sys, hf_tsrep; hf_tsrep.finetune(**json.loads(sys.argv[1]))"


def raw_test_scores(folder, corpus):
    """Score the raw test series with nothing but what the folder holds; return logits and labels."""
    from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    test = load_corpus(corpus, **COLUMNS)["test"]
    logits = []
    for series in extractor.transform(get_series(test)):
        with torch.no_grad():
            logits.append(model(torch.tensor(series, dtype=torch.float32)[None]).logits[0].numpy())
    return model, np.stack(logits), get_labels(test)


def test_the_folder_is_complete_and_gives_its_test_results_again(corpus, pretrained, tmp_path):
    result = hf_tsrep.finetune(pretrained, corpus, tmp_path / "tuned", num_train_epochs=8, **COLUMNS, **QUICK)
    folder = tmp_path / "tuned"
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "results.json"}
    expected |= {"finetuning.json", "training_log.json", "modeling_ts2vec.py"}
    assert expected <= {path.name for path in folder.iterdir()}
    model, logits, labels = raw_test_scores(folder, corpus)
    assert model.config.id2label == dict(enumerate(STATES))
    assert result.metrics["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels))
    assert result.metrics["accuracy"] > 0.6
    (entry,) = read_results(folder / "results.json")
    assert (entry.protocol, entry.model, entry.seed) == ("finetune", "tuned", 1)
    assert entry.metrics == pytest.approx(result.metrics)
    assert entry.settings["mode"] == "full"
    assert entry.settings["selection"] == "best epoch on validation data (0.2 of train)"
    assert (entry.details["num_train_samples"], entry.details["num_validation_samples"]) == (30, 6)
    record = json.loads((folder / "finetuning.json").read_text())
    assert record["model"] == "encoder"
    assert record["facts"]["scaler"] == "standard"
    assert str(tmp_path) not in json.dumps(record)
    card = (folder / "README.md").read_text()
    assert f"| finetune, full | accuracy | {result.metrics['accuracy']:.4g} |" in card
    assert "fine-tuned to tell 3 classes" in card

    # The selected epoch is the best of the log, of equal ones that with the lowest loss.
    validations = [entry for entry in result.history if "eval_accuracy" in entry]
    best = max(validations, key=lambda entry: (entry["eval_accuracy"], -entry["eval_loss"]))
    assert result.epoch == best["epoch"]
    assert result.validation_metrics["accuracy"] == best["eval_accuracy"]
    checkpoint = load_file(folder / f"checkpoint-{best['step']}" / "model.safetensors")
    final = load_file(folder / "model.safetensors")
    assert all(torch.equal(final[name], checkpoint[name]) for name in final)


def test_test_labels_and_test_series_decide_nothing(corpus, pretrained, tmp_path):
    shutil.copytree(corpus, tmp_path / "other")
    frame = machines(7, 18)
    frame["state"] = "fine"
    frame.to_csv(tmp_path / "other" / "test.csv", index=False)
    fields = {"num_train_epochs": 4, **COLUMNS, **QUICK}
    first = hf_tsrep.finetune(pretrained, corpus, tmp_path / "first", **fields)
    second = hf_tsrep.finetune(pretrained, str(tmp_path / "other"), tmp_path / "second", **fields)
    assert first.epoch == second.epoch
    assert first.metrics != second.metrics
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("first", "second")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_no_label_beyond_the_share_is_used(corpus, pretrained, tmp_path):
    fields = {"label_fraction": 0.5, "num_train_epochs": 1, **COLUMNS, **QUICK}
    result = hf_tsrep.finetune(pretrained, corpus, tmp_path / "half", **fields)
    assert (result.facts["num_train_samples"], result.facts["num_validation_samples"]) == (15, 3)  # of 36


def test_early_stopping_ends_the_run(corpus, pretrained, tmp_path):
    fields = {"num_train_epochs": 20, "early_stopping_patience": 2, **COLUMNS, **QUICK, "learning_rate": 1e-9}
    result = hf_tsrep.finetune(pretrained, corpus, tmp_path / "still", lr_scheduler_type="constant", **fields)
    accuracies = [entry["eval_accuracy"] for entry in result.history if "eval_accuracy" in entry]
    assert result.facts["num_epochs"] == result.epoch + 2 < 20
    assert len(accuracies) == result.facts["num_epochs"]
    (tmp_path / "still" / "model.safetensors").unlink()  # as if it had been killed after its last checkpoint
    again = hf_tsrep.finetune(
        pretrained, corpus, tmp_path / "still", lr_scheduler_type="constant", resume_from_checkpoint=True, **fields
    )
    assert again.facts["num_epochs"] == result.facts["num_epochs"]
    assert again.metrics == result.metrics


def test_forecasts_are_measured_on_every_test_window_of_scaled_values(long_series, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

    fields = {"context_length": 24, "prediction_length": 6, "split": "60/20/20", "num_train_epochs": 2, "stride": 3}
    result = hf_tsrep.finetune(
        "ts2vec", long_series, tmp_path / "forecast", task="forecasting", scaler="standard", **fields, **QUICK, **TINY
    )
    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "forecast").eval()
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "forecast")
    values = pd.read_csv(long_series)[["first", "second"]].to_numpy(np.float32)
    np.testing.assert_allclose(extractor.mean, values[:240].mean(0), rtol=1e-5)
    scaled = torch.tensor(extractor.transform([values])[0], dtype=torch.float32)
    errors = []
    for first in range(320, 400 - 6 + 1):  # the first predicted step
        with torch.no_grad():
            predicted = model(scaled[None, first - 24 : first]).prediction_outputs[0]
        errors.append(predicted - scaled[first : first + 6])
    errors = torch.stack(errors)
    assert result.facts["num_test_samples"] == len(errors) == 75
    assert result.facts["num_train_samples"] == len(range(0, 240 - 30 + 1, 3))
    assert result.metrics["mse"] == pytest.approx(float(errors.square().mean()), rel=1e-4)
    assert result.metrics["mae"] == pytest.approx(float(errors.abs().mean()), rel=1e-4)
    (entry,) = read_results(tmp_path / "forecast" / "results.json")
    assert entry.metrics["mse_6"] == entry.metrics["mse"] == result.metrics["mse"]
    assert entry.settings["pretrained"] is False


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_with_equal_bits_and_no_other_run_does(corpus, pretrained, tmp_path, monkeypatch):
    fields = {"num_train_epochs": 6, "logging_steps": 1, **COLUMNS, **QUICK}
    whole = hf_tsrep.finetune(pretrained, corpus, tmp_path / "whole", **fields)
    step = FinetuningTrainer.training_step

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 14:  # in the fourth epoch
            raise Interrupted
        return step(self, *arguments, **options)

    monkeypatch.setattr(FinetuningTrainer, "training_step", interrupted)
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        hf_tsrep.finetune(pretrained, corpus, folder, **fields)
    monkeypatch.undo()
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "config.json").exists()
    with pytest.raises(FileExistsError, match="checkpoints of an unfinished run"):
        hf_tsrep.finetune(pretrained, corpus, folder, **fields)
    for other, message in (
        ({"learning_rate": 0.1}, "learning_rate is 0.1"),
        ({"mode": "linear-probe"}, "mode is 'linear-probe'"),
        ({"num_train_epochs": 9}, "num_train_epochs is 9"),
        ({"seed": 2}, "seed is 2"),
        ({"label_fraction": 0.5}, "label_fraction is 0.5"),
        ({"scaler": "none"}, "scaler is None"),
    ):
        with pytest.raises(ValueError, match=f"Cannot resume: {message}"):
            hf_tsrep.finetune(pretrained, corpus, folder, resume_from_checkpoint=True, **{**fields, **other})
    model = hf_tsrep.TS2VecForPreTraining.from_pretrained(pretrained)
    torch.nn.init.zeros_(model.model.input_projection.bias)
    model.save_pretrained(tmp_path / "other" / "encoder")
    with pytest.raises(ValueError, match="Cannot resume: encoder_fingerprint is"):
        hf_tsrep.finetune(
            tmp_path / "other" / "encoder", corpus, folder, resume_from_checkpoint=True, scaler="standard", **fields
        )
    resumed = hf_tsrep.finetune(pretrained, corpus, folder, resume_from_checkpoint=True, **fields)
    assert resumed.metrics == whole.metrics
    assert resumed.epoch == whole.epoch

    def losses(result):
        names = ("step", "loss", "eval_loss", "learning_rate")
        return [{name: entry.get(name) for name in names} for entry in result.history if "train_runtime" not in entry]

    assert losses(resumed) == losses(whole)
    weights = [load_file(place / "model.safetensors") for place in (tmp_path / "whole", folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_two_processes_test_every_series_once(corpus, pretrained, interpreters, tmp_path):
    given = {"model_or_folder": str(pretrained), "corpus": corpus, "output_dir": str(tmp_path / "two")}
    given |= {"num_train_epochs": 3, **COLUMNS, **QUICK, "per_device_train_batch_size": 4}
    given["ddp_backend"] = "gloo"
    del given["use_cpu"]  # without a GPU the processes train on CPUs, together, though nobody says so
    assert interpreters.run(PROGRAM, [json.dumps(given)], tmp_path, num_processes=2) == 0
    (entry,) = read_results(tmp_path / "two" / "results.json")
    assert entry.details["num_processes"] == 2
    _, logits, labels = raw_test_scores(tmp_path / "two", corpus)
    assert entry.metrics["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels))

    one = hf_tsrep.finetune(
        pretrained, corpus, tmp_path / "one", num_train_epochs=3, **COLUMNS, **QUICK
    )  # the same global batch of 8
    log = json.loads((tmp_path / "two" / "training_log.json").read_text())
    losses = [
        [entry["eval_loss"] for entry in history if "eval_loss" in entry] for history in (one.history, log["history"])
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.2)  # dropout is drawn by process


@pytest.mark.parametrize("task", ["classification", "forecasting"])
def test_the_loss_of_two_processes_is_that_of_one_also_in_an_incomplete_batch(
    task, corpus, long_series, interpreters, tmp_path
):
    fields = {"model_or_folder": "timedrl", "task": task, "num_train_epochs": 2, "logging_steps": 1, "dropout": 0.0}
    fields |= {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "patch_length": 4,
        "patch_stride": 4,
    }
    fields |= {**QUICK, "validation": "none", "max_grad_norm": 0.0}
    if task == "classification":
        fields |= {"corpus": corpus, "label_fraction": 0.6, **COLUMNS}  # 21 of 36: batches of 8, 8 and 5
    else:  # with missing values, which the processes have unequally many of
        frame = pd.read_csv(long_series)
        frame.loc[60:75, "first"] = np.nan
        frame.to_csv(tmp_path / "gaps.csv", index=False)
        fields |= {"corpus": str(tmp_path / "gaps.csv"), "split": "60/20/20", "context_length": 24, "stride": 10}
        fields |= {"prediction_length": 6}
    one = hf_tsrep.finetune(**fields, output_dir=tmp_path / "one")
    given = {**fields, "output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 4}
    assert interpreters.run(PROGRAM, [json.dumps(given)], tmp_path, num_processes=2) == 0
    log = json.loads((tmp_path / "two" / "training_log.json").read_text())
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in (one.history, log["history"])]
    assert len(losses[0]) == 2 * 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-4)


def test_bf16_trains_and_saves_full_precision(corpus, pretrained, tmp_path):
    result = hf_tsrep.finetune(
        pretrained, corpus, tmp_path / "half", num_train_epochs=2, bf16=True, **COLUMNS, **QUICK
    )
    assert np.isfinite(list(result.metrics.values())).all()
    assert {value.dtype for value in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float32}


def test_lora_is_saved_as_a_plain_model(corpus, pretrained, tmp_path):
    result = hf_tsrep.finetune(
        pretrained, corpus, tmp_path / "lora", mode="lora", num_train_epochs=4, **COLUMNS, **QUICK
    )
    _, logits, labels = raw_test_scores(tmp_path / "lora", corpus)
    assert result.metrics["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels))
    before, after = (load_file(place / "model.safetensors") for place in (pretrained, tmp_path / "lora"))
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == {name for name in before if name.endswith(".weight")}
    assert set(after) == {*before, "classifier.projection.weight", "classifier.projection.bias"}


def test_a_corpus_that_does_not_fit_is_refused_before_anything_is_written(long_series, pretrained, tmp_path):
    options = {"output_dir": tmp_path / "none", **QUICK}
    with pytest.raises(ValueError, match="has no labels"):
        hf_tsrep.finetune(pretrained, long_series, split="60/20/20", **options)
    with pytest.raises(ValueError, match="needs the splits train and test; the corpus has train"):
        hf_tsrep.finetune(pretrained, long_series, **options)
    with pytest.raises(ValueError, match="The train part has no window of 300"):
        hf_tsrep.finetune(pretrained, long_series, task="forecasting", split="60/20/20", context_length=300, **options)
    with pytest.raises(SettingsError, match="Did you mean 'context_length'"):
        hf_tsrep.finetune(pretrained, long_series, contxt_length=3, **options)
    assert not (tmp_path / "none").exists()


def test_a_real_corpus(tmp_path):
    data = os.environ.get("HF_TSREP_DATA") or str(ROOT.parent / "shared" / "data")
    if not (Path(data) / "uea" / "BasicMotions").is_dir():
        pytest.skip(f"uea/BasicMotions is not in {data}")
    fields = {"num_train_epochs": 1, "data_directory": data, **QUICK, **TINY}
    result = hf_tsrep.finetune("ts2vec", "uea/BasicMotions", tmp_path / "real", **fields)
    assert result.facts["num_test_samples"] == 40
    assert result.model.config.id2label[3] == "Badminton"
    assert 0 <= result.metrics["accuracy"] <= 1
