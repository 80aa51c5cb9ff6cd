"""`transformers.pipeline` of every method answers as the model itself does, whatever holds the series."""

import json

import numpy as np
import pandas as pd
import pytest
from contract_support import METHOD_NAMES, build, random_values
from datasets import Dataset, DatasetDict
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_tsrep
from hf_tsrep import TimeSeriesFeatureExtractor

LENGTHS = (20, 31, 20, 26)
TASKS = {
    "time-series-feature-extraction": "model",
    "time-series-classification": "classification",
    "time-series-forecasting": "prediction",
    "time-series-anomaly-detection": "model",
}


def ragged(model, lengths=LENGTHS):
    """Raw series of several lengths, one with a missing value."""
    series = [10 + 4 * random_values(model, 1, length, seed)[0].numpy() for seed, length in enumerate(lengths)]
    series[1][3, 0] = np.nan
    return series


def prepared_model(name, kind):
    model = build(name, kind)
    num_channels = model.config.num_input_channels
    model.preparation = TimeSeriesFeatureExtractor(num_channels, [10.0] * num_channels, [4.0] * num_channels)
    return model


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_features_are_those_of_encode_whatever_holds_the_series(name):
    model = prepared_model(name, "model")
    series = ragged(model)
    expected = model.encode(series)
    extract = pipeline("time-series-feature-extraction", model=model, device="cpu")
    rows = Dataset.from_dict({"item_id": list("abcd"), "series": [one.tolist() for one in series]})
    holders = {
        "list": extract(series, batch_size=2),
        "frames": extract([pd.DataFrame(one) for one in series]),
        "generator": list(extract(one for one in series)),
        "dataset": list(extract(rows, batch_size=1)),
        "column": list(extract(KeyDataset(rows, "series"))),
        "array": extract(np.stack([series[0], series[2]])),
    }
    assert len(holders.pop("array")) == 2
    for holder, found in holders.items():
        np.testing.assert_allclose(np.stack(found), expected, atol=1e-5, err_msg=holder)
    np.testing.assert_allclose(extract(series[1]), expected[1], atol=1e-5)
    timestamps = extract(series[3], level="timestamp", return_tensors="pt")
    np.testing.assert_allclose(timestamps.numpy(), model.encode(series[3], level="timestamp"), atol=1e-5)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_classes_are_those_of_predict_the_most_probable_first(name):
    model = prepared_model(name, "classification")
    series = ragged(model)
    answer = model.predict(series)
    found = pipeline("time-series-classification", model=model, device="cpu")(series)
    assert [one[0]["label"] for one in found] == list(answer.labels)
    for one, probabilities in zip(found, answer.probabilities, strict=True):
        scores = {entry["label"]: entry["score"] for entry in one}
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        np.testing.assert_allclose([scores[label] for label in answer.class_names], probabilities, atol=1e-6)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_forecasts_are_those_of_predict_in_the_units_of_the_series(name):
    model = prepared_model(name, "prediction")
    series = ragged(model)
    found = pipeline("time-series-forecasting", model=model, device="cpu")(series)
    np.testing.assert_allclose(np.stack(found), model.predict(series), atol=1e-4)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_alarms_are_those_of_detect(name):
    model = prepared_model(name, "model")
    series = ragged(model, (90, 70))
    series[1][60:62] += 40
    options = {"context_length": 8, "gap": 2, "threshold": 0.0}
    expected = hf_tsrep.detect(model, series, **options)
    found = pipeline("time-series-anomaly-detection", model=model, device="cpu")(series, **options)
    assert sum(len(one["alarms"]) for one in found) > 0
    for one, detection in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["scores"], detection.scores, atol=1e-4, rtol=1e-4)
        assert one["is_anomaly"].tolist() == detection.is_alarm.tolist()
        assert [alarm["peak"] for alarm in one["alarms"]] == [alarm.peak for alarm in detection.alarms]


def test_several_labels_and_numbers_have_their_own_scores():
    model = build(METHOD_NAMES[0], "classification")
    series = ragged(model)
    model.config.problem_type = "regression"
    found = pipeline("time-series-classification", model=model, device="cpu")(series)
    assert [one["label"] for one in found[0]] == [model.config.id2label[place] for place in range(4)]
    np.testing.assert_allclose([[one["score"] for one in row] for row in found], model.predict(series), atol=1e-5)
    model.config.problem_type = "multi_label_classification"
    found = pipeline("time-series-classification", model=model, device="cpu", top_k=None)(series)
    assert sum(one["score"] for one in found[0]) != pytest.approx(1.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    for kind in set(TASKS.values()):
        build(METHOD_NAMES[0], kind).save_pretrained(place / kind)
    return place


@pytest.mark.parametrize("task", TASKS)
def test_a_folder_opens_by_its_task_without_trust_and_names_its_pipelines(task, folders):
    kind = TASKS[task]
    assert type(pipeline(task, model=str(folders / kind), device="cpu").model).__name__.startswith(
        hf_tsrep.get_method(METHOD_NAMES[0]).title
    )
    named = json.loads((folders / kind / "config.json").read_text())["custom_pipelines"]
    always = {"time-series-feature-extraction", "time-series-anomaly-detection"}
    assert set(named) == always | {task}
    assert all((folders / kind / f"{one['impl'].split('.')[0]}.py").is_file() for one in named.values())


def test_what_a_pipeline_cannot_do_is_said_in_one_sentence(folders):
    for task in ("time-series-classification", "time-series-forecasting"):
        with pytest.raises(ValueError, match=f"has no head for '{task}': train one"):
            pipeline(task, model=str(folders / "model"), device="cpu")
    model = build(METHOD_NAMES[0], "model")
    extract = pipeline("time-series-feature-extraction", model=model, device="cpu")
    series = ragged(model)
    with pytest.raises(TypeError, match=r"no argument 'levle'\. Did you mean 'level'"):
        extract(series, levle="timestamp")
    with pytest.raises(ValueError, match="A row has item_id, and no series"):
        next(extract(Dataset.from_dict({"item_id": ["a"]})))
    rows = Dataset.from_dict({"series": [series[0].tolist()]})
    with pytest.raises(ValueError, match="Give one split, not all of train, test"):
        extract(DatasetDict(train=rows, test=rows))
    assert extract([]) == []
