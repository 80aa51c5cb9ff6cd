"""Linear probes, the protocols `finetune` and `linear` of evaluate, and the command line's fine-tuning."""

import shutil

import pytest
import torch
from machines import COLUMNS, QUICK, TINY
from safetensors.torch import load_file

import hf_tsrep
from hf_tsrep.data import load_corpus
from hf_tsrep.evaluation import read_results
from hf_tsrep.training.protocols import evaluate


def test_a_linear_probe_leaves_the_encoder_and_needs_few_labels(corpus, pretrained, tmp_path):
    fields = {"mode": "linear-probe", "label_fraction": 0.2, "validation": "none", "num_train_epochs": 2}
    result = hf_tsrep.finetune(pretrained, corpus, tmp_path / "probe", **fields, **COLUMNS, **QUICK)
    before = load_file(pretrained / "model.safetensors")
    after = load_file(tmp_path / "probe" / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any("eval_loss" in entry for entry in result.history)
    assert result.epoch == 2
    (entry,) = read_results(tmp_path / "probe" / "results.json")
    assert entry.settings["setting"] == "linear-probe, 0.2 of the labels"
    assert entry.settings["selection"] == "last epoch"
    assert entry.details["num_train_samples"] == 6


@pytest.mark.parametrize("task", ["classification", "forecasting"])
def test_a_probe_that_keeps_the_encoders_outputs_learns_the_same(task, corpus, long_series, pretrained, tmp_path):
    source, fields = (corpus, COLUMNS) if task == "classification" else (long_series, {"split": "60/20/20"})
    if task == "forecasting":
        fields = {**fields, "context_length": 24, "prediction_length": 6, "adapt_input": True}
    results = [
        hf_tsrep.finetune(
            pretrained,
            source,
            tmp_path / f"{memory}",
            task=task,
            mode="linear-probe",
            num_train_epochs=3,
            feature_memory=memory,
            **fields,
            **QUICK,
        )
        for memory in (0.0, 4.0)
    ]
    assert results[0].metrics == pytest.approx(results[1].metrics, rel=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("0.0", "4.0")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


def test_the_protocols_leave_the_model_and_no_folder(corpus, pretrained, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = hf_tsrep.TS2VecModel.from_pretrained(pretrained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_corpus(corpus, scaler="standard", **COLUMNS)
    options = {"num_train_epochs": 2, "learning_rate": 0.01, "batch_size": 8, "show_progress_bar": False}
    outcomes = {
        "finetune": evaluate(model, loaded, "finetune", **options),
        "linear": evaluate(model, loaded, "linear", **options),
        "regression": evaluate(model, loaded, "linear", solver="regression", label_fraction=0.5),
    }
    for outcome in outcomes.values():
        assert set(outcome["metrics"]) == {"accuracy", "macro_f1", "kappa", "auprc"}
        assert set(outcome) == {"metrics", "details", "timings", "settings"}
    assert [one["settings"]["setting"] for one in outcomes.values()] == [
        "full",
        "linear-probe",
        "regression, 0.5 of the labels",
    ]
    assert outcomes["regression"]["details"]["num_train_samples"] == 18
    assert outcomes["linear"]["details"]["num_trained_parameters"] == 12 * 3 + 3
    assert evaluate(model, loaded, "finetune", **options)["metrics"] == outcomes["finetune"]["metrics"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="Did you mean 'gradient'"):
        evaluate(model, loaded, "linear", solver="gradiant")


def test_a_corpus_of_other_channels_is_refused_with_the_way_out_that_works(corpus, pretrained, tmp_path):
    loaded = load_corpus(corpus, scaler="standard", target="load", **COLUMNS)
    model = hf_tsrep.TS2VecModel.from_pretrained(pretrained)
    options = {"num_train_epochs": 1, "show_progress_bar": False}
    for protocol in ("linear", "finetune"):
        with pytest.raises(ValueError, match="adapt_input=True"):
            evaluate(model, loaded, protocol, **options)
        outcome = evaluate(model, loaded, protocol, adapt_input=True, validation="none", **options)
        assert outcome["details"]["num_input_channels"] == 1
    with pytest.raises(ValueError, match=r"has 1 channels, and the model takes 2.*adapt_input=True"):
        evaluate(model, loaded, "linear", solver="regression")


def test_the_linear_protocol_forecasts(long_series, tmp_path):
    torch.manual_seed(0)
    model = hf_tsrep.TS2VecModel(hf_tsrep.TS2VecConfig(num_input_channels=2, **TINY))
    loaded = load_corpus(long_series, split="60/20/20", scaler="standard")
    options = {"context_length": 24, "prediction_length": 6, "show_progress_bar": False}
    trained = evaluate(model, loaded, "linear", num_train_epochs=3, learning_rate=0.01, **options)
    fitted = evaluate(model, loaded, "linear", solver="regression", **options)
    assert trained["settings"]["setting"] == "linear-probe, multivariate"
    assert fitted["settings"]["setting"] == "regression, multivariate"
    for outcome in (trained, fitted):
        assert outcome["metrics"]["mse_6"] == outcome["metrics"]["mse"]
    assert trained["details"]["num_test_samples"] == 75
    assert fitted["details"][0]["num_test_samples"] == 74  # it predicts from a step of the test part
    assert fitted["metrics"]["mse"] < trained["metrics"]["mse"] < 2
    with pytest.raises(ValueError, match=r"label_fraction=0\.5"):
        evaluate(model, loaded, "linear", solver="regression", label_fraction=0.5, **options)


def test_the_command_line_fine_tunes_evaluates_and_explains(corpus, pretrained, tmp_path, command_line):
    words = ["--corpus", corpus, "--item-column", "machine", "--label-column", "state"]
    quick = ["--num-train-epochs", 2, "--per-device-train-batch-size", 8, "--use-cpu"]
    code, out, err = command_line(
        "finetune",
        "--model",
        pretrained,
        *words,
        *quick,
        "--task",
        "classification",
        "--output-dir",
        tmp_path / "tuned",
    )
    assert code == 0, err
    assert "ts2vec, full, epoch" in out
    assert "on test accuracy" in out
    again = ["--output-dir", tmp_path / "tuned", "--overwrite-output-dir", "-q"]
    code, out, err = command_line("finetune", "--model", pretrained, *words, *quick, *again)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1
    shutil.copytree(pretrained, tmp_path / "encoder")
    code, out, err = command_line(
        "-q", "evaluate", "--model", tmp_path / "encoder", *words, "--protocol", "linear", "--num-train-epochs", 1
    )
    assert code == 0, err
    assert "linear of encoder" in out
    assert "loss" not in out
    code, out, _ = command_line("results", tmp_path / "encoder")
    assert code == 0
    assert "linear (linear-probe)" in out
    for wrong, message in (
        (["--label-fracton", "0.1"], "Did you mean --label-fraction"),
        (["--mode", "lorra"], "expected 'full' or 'linear-probe' or 'lora'"),
        (["--task", "forecast"], "Did you mean 'forecasting'"),
        (["--label-fraction", "2"], "at most 1"),
    ):
        code, _, err = command_line("finetune", "--model", pretrained, *words, "--output-dir", tmp_path / "n", *wrong)
        assert code == 2
        assert message in err.splitlines()[-1]
        assert not (tmp_path / "n").exists()
