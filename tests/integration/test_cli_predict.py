"""`hf-tsrep predict` and `hf_tsrep.predict`: a fine-tuned model and a stranger's file become a table of answers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from machines import COLUMNS, QUICK, STATES, TINY, machines
from transformers import AutoModelForSequenceClassification, AutoModelForTimeSeriesPrediction

import hf_tsrep


@pytest.fixture(scope="module")
def classifier(corpus, pretrained, tmp_path_factory):
    """The folder of a classifier of the machines' states."""
    folder = tmp_path_factory.mktemp("classifier") / "classifier"
    hf_tsrep.finetune(pretrained, corpus, folder, num_train_epochs=8, **COLUMNS, **QUICK)
    return folder


@pytest.fixture(scope="module")
def forecaster(long_series, tmp_path_factory):
    """The folder of a model of the next 6 steps of two channels, from 24 steps of scaled values."""
    folder = tmp_path_factory.mktemp("forecaster") / "forecaster"
    fields = {"context_length": 24, "prediction_length": 6, "scaler": "standard", "split": "60/20/20", "stride": 4}
    hf_tsrep.finetune("ts2vec", long_series, folder, task="forecasting", num_train_epochs=2, **fields, **QUICK, **TINY)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new_series(length=40, freq="h", start="2026-03-01"):
    """Return a table of the forecaster's channels, in another order, far from zero."""
    steps = np.arange(length)
    dates = pd.date_range(start, periods=length, freq=freq)
    return pd.DataFrame({"date": dates, "second": np.sin(steps * 0.11) + 3, "first": np.sin(steps * 0.3) + 3})


def test_a_classifier_tells_classes_and_their_probabilities(classifier, place, command_line):
    frame = machines(5, 12).drop(columns="state")
    frame.to_csv("new.csv", index=False)
    code, out, err = command_line(
        "predict", "--model", classifier, "--input", "new.csv", "--output", "predictions.csv"
    )
    assert code == 0, err
    assert "predictions.csv, predictions.csv.json: classes of 12 series" in out
    found = pd.read_csv("predictions.csv")
    assert list(found.columns) == ["item_id", "split", "predicted", *(f"probability_{name}" for name in STATES)]
    assert found["item_id"].tolist() == [f"m{index:02d}" for index in range(12)]
    series = [part[["pressure", "load"]].to_numpy(np.float32) for _, part in frame.groupby("machine")]
    answer = AutoModelForSequenceClassification.from_pretrained(classifier).predict(series)
    assert found["predicted"].tolist() == answer.labels.tolist()
    np.testing.assert_allclose(found.filter(like="probability_"), answer.probabilities, rtol=1e-4, atol=1e-6)
    assert (found["predicted"] == np.array(STATES * 4)).mean() > 0.6
    provenance = json.loads(Path("predictions.csv.json").read_text())["provenance"]
    assert (provenance["model"], provenance["method"], provenance["num_series"]) == ("classifier", "ts2vec", 12)
    assert provenance["preparation"]["channel_names"] == ["pressure", "load"]
    assert {"revision", "weights_sha256", "corpus_fingerprint", "versions"} <= set(provenance)
    assert str(place) not in json.dumps(provenance)


def test_what_the_file_knows_of_the_classes_stands_beside_the_answers(classifier, place, command_line):
    machines(5, 12).to_csv("new.csv", index=False)
    words = ("predict", "--model", classifier, "--input", "new.csv", "--label-column", "state", "--output")
    for name in ("p.csv", "p.parquet", "p.json"):
        code, _, err = command_line(*words, name)
        assert code == 0, err
    expected = pd.read_csv("p.csv")
    assert expected["label"].tolist() == list(STATES) * 4
    for found in (pd.read_parquet("p.parquet"), pd.read_json("p.json")):
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-4)


def test_a_forecast_is_in_the_units_of_the_series_and_has_the_next_dates(forecaster, place, command_line):
    frame = new_series()
    frame.to_csv("new.csv", index=False)
    code, out, err = command_line("predict", "--model", forecaster, "--input", "new.csv", "--output", "future.csv")
    assert code == 0, err
    assert "6 steps, the next 6 of 1 series" in out
    found = pd.read_csv("future.csv", parse_dates=["timestamp"])
    assert list(found.columns) == ["item_id", "split", "step", "timestamp", "first", "second"]
    assert found["step"].tolist() == [1, 2, 3, 4, 5, 6]
    expected = pd.date_range(frame["date"].iloc[-1], periods=7, freq="h")[1:]
    assert found["timestamp"].tolist() == expected.tolist()
    model = AutoModelForTimeSeriesPrediction.from_pretrained(forecaster)
    assert model.config.prediction_context_length == 24
    direct = model.predict(frame[["first", "second"]].to_numpy())
    np.testing.assert_allclose(found[["first", "second"]], direct, rtol=1e-4)
    assert np.abs(direct - 3).max() < 2  # the mean of the training is 3, of scaled values 0


def test_a_forecast_follows_the_last_value_of_the_file(forecaster, place):
    frame = new_series()
    longer = pd.concat(
        [frame, new_series(3, start=frame["date"].iloc[-1] + pd.Timedelta("1h")).assign(first=np.nan, second=np.nan)]
    )
    expected = hf_tsrep.predict(str(forecaster), frame)
    found = hf_tsrep.predict(str(forecaster), longer.reset_index(drop=True))
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("freq", ["MS", "ME", "W-MON", "15min", "B"])
def test_the_frequency_of_the_file_goes_on(forecaster, freq):
    frame = new_series(30, freq=freq)
    found = hf_tsrep.predict(forecaster, frame)
    expected = pd.date_range(frame["date"].iloc[0], periods=36, freq=freq)[30:]
    assert found["timestamp"].tolist() == expected.tolist()


def test_a_forecast_without_a_frequency_has_steps_alone(forecaster):
    frame = new_series(30)
    frame["date"] += pd.to_timedelta(np.random.default_rng(0).integers(0, 50, 30), "min")
    assert "timestamp" not in hf_tsrep.predict(forecaster, frame).columns
    assert "timestamp" not in hf_tsrep.predict(forecaster, frame.drop(columns="date")).columns


def test_arrays_and_their_dates_will_do(forecaster):
    frame = new_series(30)
    expected = hf_tsrep.predict(forecaster, frame)
    values = frame[["first", "second"]].to_numpy()
    found = hf_tsrep.predict(
        AutoModelForTimeSeriesPrediction.from_pretrained(forecaster), values, timestamps=frame["date"]
    )
    assert found["timestamp"].tolist() == expected["timestamp"].tolist()
    assert found["item_id"].tolist() == ["0"] * 6
    np.testing.assert_allclose(found[["channel_0", "channel_1"]], expected[["first", "second"]], rtol=1e-5)
    assert found.attrs["provenance"]["method"] == "ts2vec"
    pd.testing.assert_frame_equal(
        hf_tsrep.predict(forecaster, values.T, timestamps=frame["date"], layout="nct"), found
    )


def test_a_file_says_itself_which_axis_is_time(forecaster):
    assert len(hf_tsrep.predict(forecaster, new_series(2))) == 6
    with pytest.raises(ValueError, match="Say layout='ntc'"):
        hf_tsrep.predict(forecaster, np.zeros((2, 2)))


def test_a_scaled_corpus_is_not_scaled_again(forecaster, long_series):
    from hf_tsrep.data import load_corpus

    raw, scaled = (load_corpus(long_series, split="60/20/20", scaler=scaler) for scaler in (None, "standard"))
    expected = hf_tsrep.predict(forecaster, raw)
    assert set(expected["split"]) == {"train", "validation", "test"}
    found = hf_tsrep.predict(forecaster, scaled)
    np.testing.assert_allclose(found[["first", "second"]], expected[["first", "second"]], rtol=1e-4)
    assert set(hf_tsrep.predict(forecaster, raw["test"])["split"]) == {"train"}


def test_what_cannot_be_told_is_said_in_one_line(classifier, pretrained, place, command_line):
    frame = machines(5, 3).drop(columns="state")
    frame.to_csv("new.csv", index=False)
    frame.drop(columns="load").to_csv("narrow.csv", index=False)

    def refused(message, *words):
        code, _, err = command_line("predict", *words)
        assert code != 0
        assert message in " ".join(err.split()), err
        assert not Path("p.csv").exists()

    refused("which has no head for a task", "--model", pretrained, "--input", "new.csv", "--output", "p.csv")
    refused("It lacks load", "--model", classifier, "--input", "narrow.csv", "--output", "p.csv")
    refused("choose one of .csv, .parquet, .json", "--model", classifier, "--input", "new.csv", "--output", "p.txt")
    refused("--batch-sise", "--model", classifier, "--input", "new.csv", "--output", "p.csv", "--batch-sise", "3")
    with pytest.raises(ValueError, match="no head for a task"):
        hf_tsrep.predict(hf_tsrep.TS2VecModel(hf_tsrep.TS2VecConfig(**TINY)), "new.csv")
    with pytest.raises(ValueError, match="is for files and frames"):
        hf_tsrep.predict(classifier, np.zeros((20, 2)), reading={"item_column": "machine"})


def test_a_head_of_quantiles_is_trained_by_the_command_line_and_tells_a_column_each(long_series, place, command_line):
    fields = {"context_length": 24, "prediction_length": 6, "split": "60/20/20", "quantiles": "0.1,0.5,0.9"}
    options = {"model": "ts2vec", "corpus": long_series, "output_dir": "quantiles", "task": "forecasting"}
    given = {**options, "num_train_epochs": 1, **fields, **QUICK, **TINY}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    code, _, err = command_line("finetune", *words)
    assert code == 0, err
    new_series().to_csv("new.csv", index=False)
    code, _, err = command_line("predict", "--model", "quantiles", "--input", "new.csv", "--output", "future.csv")
    assert code == 0, err
    found = pd.read_csv("future.csv")
    ends = ("", "_q0.1", "_q0.5", "_q0.9")
    assert list(found.columns)[-8:] == [f"{name}{end}" for name in ("first", "second") for end in ends]
    assert (found["first_q0.1"] <= found["first"]).all()
    assert (found["first"] <= found["first_q0.9"]).all()
    np.testing.assert_allclose(found["first"], found["first_q0.5"])
