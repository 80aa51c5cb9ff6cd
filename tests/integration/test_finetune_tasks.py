"""`finetune` of numbers and of several labels at once: learnt from files, told again by predict, and its records."""

import json

import numpy as np
import pandas as pd
import pytest
from machines import QUICK, TINY
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

import hf_tsrep
from hf_tsrep.data import get_series, get_target_values, load_corpus
from hf_tsrep.evaluation import read_results
from hf_tsrep.training import resolve_finetuning

MEAN, DEVIATION = 500.0, 80.0


def waves(seed, number):
    """Return series of two channels whose first one is as high as their target tells, and the targets."""
    generator = np.random.default_rng(seed)
    heights = generator.normal(size=number)
    lengths = generator.integers(18, 24, number)
    series = [
        np.stack([height + 0.1 * generator.normal(size=length), generator.normal(size=length)], axis=1)
        for height, length in zip(heights, lengths, strict=True)
    ]
    return series, (MEAN + DEVIATION * heights).round(2)


def write_ts(path, seed, number):
    lines = ["@univariate false", "@dimensions 2", "@equallength false", "@targetlabel true", "@data"]
    for values, target in zip(*waves(seed, number), strict=True):
        channels = [",".join(f"{value:.4f}" for value in channel) for channel in values.T]
        lines.append(":".join([*channels, str(target)]))
    path.write_text("\n".join(lines) + "\n")


def write_table(path, seed, number):
    parts = [
        pd.DataFrame({"item": f"i{index:02d}", "height": values[:, 0], "noise": values[:, 1], "price": target})
        for index, (values, target) in enumerate(zip(*waves(seed, number), strict=True))
    ]
    pd.concat(parts).to_csv(path, index=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A corpus as the archive of time-series extrinsic regression has them: NAME_TRAIN.ts and NAME_TEST.ts."""
    place = tmp_path_factory.mktemp("archive")
    write_ts(place / "Waves_TRAIN.ts", 0, 40)
    write_ts(place / "Waves_TEST.ts", 1, 20)
    return str(place / "Waves")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    place = tmp_path_factory.mktemp("tables")
    write_table(place / "train.csv", 0, 40)
    write_table(place / "test.csv", 1, 20)
    return str(place)


FIELDS = {"task": "regression", "num_train_epochs": 12, "scaler": "standard", **QUICK}


def test_numbers_are_learnt_and_measured_in_their_units(archive, tmp_path):
    result = hf_tsrep.finetune("ts2vec", archive, tmp_path / "tuned", **FIELDS, **TINY)
    corpus = load_corpus(archive)
    known, targets = (get_target_values(corpus[name]) for name in ("train", "test"))
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "target_value"})
    assert known.min() < config["label_mean"][0] < known.max()
    assert config["label_scale"][0] == pytest.approx(known.std(), rel=0.3)
    predicted = hf_tsrep.AutoModelForTimeSeriesClassification.from_pretrained(tmp_path / "tuned").predict(
        get_series(corpus["test"])
    )[:, 0]
    expected = {
        "rmse": root_mean_squared_error(targets, predicted),
        "mae": mean_absolute_error(targets, predicted),
        "r2": r2_score(targets, predicted),
    }
    assert result.metrics == pytest.approx(expected, rel=1e-3)
    assert result.metrics["r2"] > 0.5
    best = min((entry for entry in result.history if "eval_rmse" in entry), key=lambda entry: entry["eval_rmse"])
    assert (result.epoch, result.validation_metrics["rmse"]) == (best["epoch"], best["eval_rmse"])
    deviation = config["label_scale"][0]
    assert best["eval_loss"] == pytest.approx((best["eval_rmse"] / deviation) ** 2, rel=1e-3)
    (entry,) = read_results(tmp_path / "tuned" / "results.json")
    assert (entry.protocol, entry.settings["task"]) == ("finetune", "regression")
    assert entry.settings["target_scaler"] == "standard"
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "fine-tuned to predict target_value" in card
    assert "numbers = regressor.predict([series])  # (1, 1)" in card


def test_a_table_names_its_column_of_numbers_and_predict_tells_them(tables, tmp_path, command_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in {**FIELDS, **TINY}.items()]
    words += ["--item-column", "item", "--label-column", "price"]
    code, out, err = command_line("finetune", "--model", "ts2vec", "--corpus", tables, "--output-dir", "tuned", *words)
    assert code == 0, err
    assert "on test rmse" in out
    write_table(tmp_path / "labelled.csv", 2, 12)
    frame = pd.read_csv("labelled.csv")
    frame.drop(columns="price").to_csv("new.csv", index=False)
    code, out, err = command_line("predict", "--model", "tuned", "--input", "new.csv", "--output", "numbers.csv")
    assert code == 0, err
    assert "numbers of 12 series" in out
    found = pd.read_csv("numbers.csv")
    assert list(found.columns) == ["item_id", "split", "predicted"]
    truth = frame.groupby("item")["price"].first()
    assert r2_score(truth, found["predicted"]) > 0.5


@pytest.mark.parametrize("method", hf_tsrep.list_methods())
def test_every_method_has_a_recipe_for_numbers(method):
    settings = resolve_finetuning({"model": method, "corpus": "c.csv", "output_dir": "o", "task": "regression"})
    classes = resolve_finetuning({"model": method, "corpus": "c.csv", "output_dir": "o"})
    assert (settings.task, settings.recipe) == ("regression", classes.recipe)


def test_the_protocol_finds_the_task_by_its_column(archive):
    model = hf_tsrep.TS2VecModel(hf_tsrep.TS2VecConfig(num_input_channels=2, **TINY))
    corpus = load_corpus(archive, scaler="standard")
    outcome = hf_tsrep.evaluate(model, corpus, "linear", num_train_epochs=2, show_progress_bar=False)
    assert set(outcome["metrics"]) == {"rmse", "mae", "r2"}
    assert outcome["settings"]["task"] == "regression"
    with pytest.raises(ValueError, match="use solver='gradient'"):
        hf_tsrep.evaluate(model, corpus, "linear", solver="regression")


def test_a_corpus_without_numbers_is_refused(corpus, tmp_path):
    fields = {**FIELDS, "item_column": "machine", "label_column": "state"}
    with pytest.raises(ValueError, match="Row 0, column 'label': 'fine' is no number"):
        hf_tsrep.finetune("ts2vec", corpus, tmp_path / "none", **fields, **TINY)
    fields = {**fields, "label_column": None, "value_columns": ["pressure", "load"]}
    with pytest.raises(ValueError, match="no target values, which a regression needs"):
        hf_tsrep.finetune("ts2vec", corpus, tmp_path / "none", **fields, **TINY)


def test_several_labels_at_once_are_learnt(tmp_path):
    def write(path, seed, number):
        parts = []
        generator = np.random.default_rng(seed)
        for index in range(number):
            high, fast = index % 2, index // 2 % 2
            steps = np.arange(24)
            values = 2 * high + np.sin(steps * (2.0 if fast else 0.3)) + 0.1 * generator.normal(size=24)
            state = ";".join(name for name, has in (("high", high), ("fast", fast)) if has) or "calm"
            parts.append(pd.DataFrame({"item": f"i{index:02d}", "value": values, "state": state}))
        pd.concat(parts).to_csv(path, index=False)

    (tmp_path / "waves").mkdir()
    write(tmp_path / "waves" / "train.csv", 0, 32)
    write(tmp_path / "waves" / "test.csv", 1, 16)
    fields = {**FIELDS, **TINY, "task": "multi-label", "item_column": "item", "label_column": "state"}
    result = hf_tsrep.finetune("ts2vec", str(tmp_path / "waves"), tmp_path / "tuned", **fields)
    assert set(result.metrics) == {"accuracy", "macro_f1", "micro_f1", "auprc"}
    assert result.metrics["macro_f1"] > 0.7
    best = max(
        (entry for entry in result.history if "eval_macro_f1" in entry), key=lambda entry: entry["eval_macro_f1"]
    )
    assert result.validation_metrics["macro_f1"] == best["eval_macro_f1"]
    assert list(result.model.config.id2label.values()) == ["calm", "fast", "high"]
    reading = {"item_column": "item", "label_column": "state"}
    found = hf_tsrep.predict(tmp_path / "tuned", tmp_path / "waves" / "test.csv", reading=reading)
    told = [set(one.split(";")) if isinstance(one, str) else set() for one in found["predicted"]]
    right = [one == set(label.split(";")) for one, label in zip(told, found["label"], strict=True)]
    assert np.mean(right) == pytest.approx(result.metrics["accuracy"])
