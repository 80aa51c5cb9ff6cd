"""What a fine-tuning computes once: tokens, and the outputs of a frozen encoder within a limit of memory."""

import pytest
import torch
from transformers import TrainingArguments

from hf_tsrep import (
    CrossTimeNetForTimeSeriesClassification,
    TimeDRLConfig,
    TimeDRLForTimeSeriesPrediction,
    get_method,
)
from hf_tsrep.training.data import TensorRows
from hf_tsrep.training.finetuning_data import FinetuningData, prepare_inputs

NUM_SERIES = 300


@pytest.fixture
def arguments(tmp_path):
    return TrainingArguments(
        output_dir=tmp_path, per_device_eval_batch_size=64, use_cpu=True, disable_tqdm=True, report_to="none"
    )


def forecasts(num_channels):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(NUM_SERIES, 24, num_channels, generator=generator).cumsum(1)
    rows = TensorRows({"past_values": values[:, :16], "future_values": values[:, 16:]})
    return FinetuningData(None, None, {"train": rows, "test": rows})


def predictor():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_length": 4, "patch_stride": 4}
    config = TimeDRLConfig(num_input_channels=2, context_length=16, prediction_length=8, **sizes)
    return TimeDRLForTimeSeriesPrediction(config)


def test_a_frozen_encoder_sees_every_series_once_without_dropout(arguments):
    model, data = predictor(), forecasts(2)
    series = data.datasets["train"].columns["past_values"]
    seen = []
    model.model.patch_encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0].values)))
    prepare_inputs(model.train(), data, arguments, is_frozen=True, feature_memory=1.0)
    assert sum(seen) == 1 + 2 * NUM_SERIES  # one to measure the memory
    item = data.datasets["train"][7]
    assert set(item) == {"head_inputs", "future_values"}
    model.eval()
    with torch.no_grad():
        expected = model(series[6:9]).prediction_outputs[1]
        found = model(head_inputs={name: value[None] for name, value in item["head_inputs"].items()})
    torch.testing.assert_close(found.prediction_outputs[0], expected, rtol=1e-5, atol=1e-5)


def test_beyond_the_limit_the_series_stay(arguments):
    model, data = predictor(), forecasts(2)
    numbers = model.config.num_context_patches * 8 + 2 * 2  # patches, mean and deviation of two channels
    bytes_needed = 2 * NUM_SERIES * 4 * numbers
    for limit, kept in ((bytes_needed - 1, False), (bytes_needed, True)):
        prepare_inputs(model, data, arguments, is_frozen=True, feature_memory=limit / 2**30)
        assert ("head_inputs" in data.datasets["train"][0]) == kept


def test_an_encoder_that_learns_reads_the_series(arguments):
    data = forecasts(2)
    before = data.datasets["train"]
    prepare_inputs(predictor(), data, arguments, is_frozen=False, feature_memory=4.0)
    assert data.datasets["train"] is before


def test_tokens_take_the_place_of_the_series_once(arguments, monkeypatch):
    method = get_method("crosstimenet")
    torch.manual_seed(0)
    model = CrossTimeNetForTimeSeriesClassification(method.config_class(**method.tiny_config, num_labels=3))
    model.set_tokenizer(method.tokenizer_class(domains=[dict(domain) for domain in method.tiny_tokenizer]))
    asked = []
    tokenise = model.prepare_inputs
    monkeypatch.setattr(model, "prepare_inputs", lambda values: asked.append(len(values)) or tokenise(values))
    values = torch.randn(NUM_SERIES, 24, model.config.num_input_channels)
    rows = TensorRows({"past_values": values, "labels": torch.arange(NUM_SERIES) % 3})
    data = FinetuningData(None, None, {"train": rows})
    prepare_inputs(model, data, arguments, is_frozen=False, feature_memory=4.0)
    assert sum(asked) == NUM_SERIES
    item = data.datasets["train"][7]
    assert set(item) == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(item["input_ids"], tokenise(values[7:8])["input_ids"][0])
    assert item["labels"] == 7 % 3
