"""A model becomes one file that needs no library, for any number of series and timestamps."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from contract_support import METHOD_NAMES, build, random_values

from hf_tsrep import get_method
from hf_tsrep.hub import ExportError, export_model
from hf_tsrep.hub.export import LARGEST_DIFFERENCE
from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor


def with_preparation(model):
    num_channels = model.config.num_input_channels
    mean, scale = [10.0 + index for index in range(num_channels)], [2.0 + index for index in range(num_channels)]
    model.preparation = TimeSeriesFeatureExtractor(num_channels=num_channels, mean=mean, scale=scale)
    return model


def raw_values(model, batch_size, length):
    values = 3 * random_values(model, batch_size, length).numpy() + 11
    values[0, 3:6] = np.nan
    return values


# A program holds every layer and every segment: one of each kind is enough, and translated soonest.
FEWEST = {**dict.fromkeys(("num_hidden_layers", "num_fine_layers", "num_coarse_layers"), 1)}
FEWEST |= {"segment_ratios": [0.5], "max_num_segments": 3}


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_onnx_runs_every_encoder_on_raw_series(name, tmp_path):
    fields = get_method(name).config_class.field_names()
    model = with_preparation(build(name, "model", **{key: few for key, few in FEWEST.items() if key in fields}))
    export_model(model, tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    inputs = [one.name for one in session.get_inputs()]
    record = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert list(record["inputs"]) == inputs
    for batch_size, length in ((1, 8), (3, 77)):
        values = raw_values(model, batch_size, length)
        prepared = np.stack(model.preparation.transform(values, layout="ntc"))
        expected = model(past_values=torch.from_numpy(prepared)).pooler_output.detach()
        if record["preparation"]["where"].startswith("in the file"):
            given = {"past_values": values}
        else:
            given = {key: one.numpy() for key, one in model.prepare_inputs(torch.from_numpy(prepared)).items()}
        (found,) = session.run(["pooler_output"], given)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def test_a_program_of_torch_forecasts_in_the_series_units(tmp_path):
    model = with_preparation(build("ts2vec", "prediction"))
    model.save_pretrained(tmp_path / "model")
    export_model(tmp_path / "model", tmp_path / "program", "torch")
    values = raw_values(model, 3, 50)
    (found,) = torch.export.load(tmp_path / "program" / "model.pt2").module()(torch.from_numpy(values))
    np.testing.assert_allclose(found.detach(), model.predict(values, layout="ntc"), rtol=1e-4, atol=1e-4)
    record = json.loads((tmp_path / "program" / "export.json").read_text())
    assert record["outputs"] == ["prediction_outputs"]
    assert record["preparation"]["mean"] == model.preparation.mean
    assert record["largest_relative_difference"] <= LARGEST_DIFFERENCE
    assert record["made_of"]["weights_sha256"]


def test_classes_are_named_and_the_mode_of_the_model_comes_back(tmp_path):
    model = build("ts2vec", "classification").train()
    export_model(model, tmp_path / "program", "torch")
    assert model.training
    record = json.loads((tmp_path / "program" / "export.json").read_text())
    assert record["class_names"] == [f"LABEL_{index}" for index in range(4)]
    assert record["preparation"] == {"where": "none is known: give the model's inputs"}


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"pretext task.*AutoModel"):
        export_model(build("ts2vec", "pretraining"), tmp_path / "program", "torch")
    with pytest.raises(ValueError, match="format='tflite'"):
        export_model(build("ts2vec", "model"), tmp_path / "program", "tflite")
    with pytest.raises(ValueError, match="max_length=1 "):
        export_model(build("ts2vec", "model"), tmp_path / "program", "torch", max_length=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="full exists already"):
        export_model(build("ts2vec", "model"), tmp_path / "full", "torch")
    assert not (tmp_path / "program").exists()


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model = build("ts2vec", "model")

    def run(path):
        return lambda values: [np.zeros((*values.shape[:2], 1)), np.zeros((len(values), 1))]

    monkeypatch.setattr("hf_tsrep.hub.export._run_torch", run)
    with pytest.raises(ExportError, match="nothing is written"):
        export_model(model, tmp_path / "program", "torch")
    assert not (tmp_path / "program").exists()
