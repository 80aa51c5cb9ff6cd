"""What a fine-tuning reads: held-out parts, windows, and series taken once through an encoder or a tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import BertConfig, TrainingArguments

import hf_tsrep
from hf_tsrep import (
    CrossTimeNetForTimeSeriesClassification,
    TimeDRLConfig,
    TimeDRLForTimeSeriesPrediction,
    get_method,
)
from hf_tsrep.data import WindowDataset
from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
from hf_tsrep.modeling.modeling_crosstimenet import CrossTimeNetModel
from hf_tsrep.tokenization.configuration_crosstimenet_codec import CodecDomain
from hf_tsrep.training import SettingsError
from hf_tsrep.training.data import TensorRows
from hf_tsrep.training.finetuning.data import (
    FinetuningData,
    ForecastWindows,
    hold_out,
    pad_series,
    prepare_inputs,
    split_bounds,
    take_fraction,
    window_index,
)
from hf_tsrep.training.settings import FinetuneDataSettings, FinetuneSettings

LABELS = np.repeat([0, 1, 2], [20, 10, 1])


def counts(labels):
    return np.bincount(labels, minlength=3).tolist()


def settings_with(**data):
    return FinetuneSettings("ts2vec", "ts2vec", "c", "o", "forecasting", "default", data=FinetuneDataSettings(**data))


def test_a_fifth_of_every_class_is_held_out_and_the_lonely_sample_stays():
    kept, held_out = hold_out(LABELS, 0.2, seed=0)
    assert counts(LABELS[kept]) == [16, 8, 1]
    assert counts(LABELS[held_out]) == [4, 2, 0]
    assert sorted([*kept, *held_out]) == list(range(31))
    again = hold_out(LABELS, 0.2, seed=0)[1]
    other = hold_out(LABELS, 0.2, seed=1)[1]
    assert held_out.tolist() == again.tolist() != other.tolist()


def test_a_large_share_leaves_one_of_every_class_in_train():
    kept, held_out = hold_out(LABELS, 0.99, seed=0)
    assert counts(LABELS[kept]) == [1, 1, 1]
    assert counts(LABELS[held_out]) == [19, 9, 0]


def test_nothing_can_be_held_out_of_single_samples():
    with pytest.raises(ValueError, match="validation=none"):
        hold_out(np.arange(3), 0.2, seed=0)


def test_a_share_of_the_labels_is_stratified_and_grows():
    tenth, half = (take_fraction(LABELS, share, seed=3) for share in (0.1, 0.5))
    assert counts(LABELS[tenth]) == [2, 1, 1]
    assert counts(LABELS[half]) == [10, 5, 1]
    assert set(tenth) < set(half)
    assert take_fraction(LABELS, 1.0, seed=3).tolist() == list(range(31))
    assert take_fraction(LABELS, 0.1, seed=4).tolist() != tenth.tolist()


def test_windows_predict_every_step_of_a_part_and_train_looks_at_nothing_else():
    bounds = {"train": [(0, 20)], "test": [(30, 40)]}
    train = window_index(bounds["train"], 4, 3, 1, may_look_back=False)
    assert train[:, 1].tolist() == list(range(14))  # the last one ends with step 19
    test = window_index(bounds["test"], 4, 3, 1, may_look_back=True)
    assert test[:, 1].tolist() == list(range(26, 34))  # futures begin at 30 .. 37
    strided = window_index(bounds["train"], 4, 3, 5, may_look_back=False)
    assert strided[:, 1].tolist() == [0, 5, 10]
    assert len(window_index([(0, 6)], 4, 3, 1, may_look_back=False)) == 0


def test_windows_of_several_series_name_theirs():
    rows = window_index([(5, 12), (9, 13)], 3, 2, 2, may_look_back=True)
    assert rows.tolist() == [[0, 2], [0, 4], [0, 6], [1, 6], [1, 8]]


def test_a_corpus_without_validation_gives_the_end_of_train():
    stretches = {"train": [np.zeros((10, 1)), np.zeros((20, 1))], "test": [np.zeros((5, 1)), np.zeros((6, 1))]}
    bounds = split_bounds(stretches, settings_with(validation_fraction=0.2))
    assert bounds["train"] == [(0, 8), (0, 16)]
    assert bounds["validation"] == [(8, 10), (16, 20)]
    assert bounds["test"] == [(10, 15), (20, 26)]
    assert "validation" not in split_bounds(stretches, settings_with(validation="none"))


def test_context_and_future_follow_each_other_without_time_features():
    series = np.stack([np.arange(10.0), 100 + np.arange(10.0)], axis=1)
    windows = ForecastWindows(WindowDataset([series], 5), context_length=3, num_time_features=1)
    alone, batch = windows[2], windows.__getitems__([2, 0])
    assert alone["past_values"].tolist() == [[2, 102], [3, 103], [4, 104]]
    assert alone["future_values"].tolist() == [[105], [106]]
    assert torch.equal(batch[0]["past_values"], alone["past_values"])
    assert batch[1]["future_values"].tolist() == [[103], [104]]


def test_shorter_series_are_missing_at_the_end():
    padded = pad_series([np.ones((2, 3)), np.zeros((4, 3))], 5)
    assert padded.shape == (2, 5, 3)
    assert padded[0, :2].eq(1).all()
    assert padded[0, 2:].isnan().all()
    assert padded.isnan().sum() == 3 * 3 + 1 * 3


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


QUICK = {"num_train_epochs": 3, "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 6}


class SignTokenizer:
    """Tells whether the mean of a patch is positive: two codes a domain; counts what it is asked."""

    def __init__(self):
        self.domains = [CodecDomain("one", 2, 4, 2), CodecDomain("two", 1, 3, 2)]
        self.codec = torch.nn.Linear(1, 1)
        self.codec.device = torch.device("cpu")
        self.asked = []

    def first_id(self, name):
        return {"one": 4, "two": 6}[name]

    def __len__(self):
        return 8

    def fingerprint(self, name):
        return f"signs of {name}"

    def check_weights(self):
        pass

    def tokenize_values(self, past_values, past_observed_mask=None, domain=None):
        self.asked.append((domain, len(past_values)))
        described = next(one for one in self.domains if one.name == domain)
        length = described.patch_length
        padding = -past_values.shape[1] % length
        padded = torch.nn.functional.pad(past_values, (0, 0, 0, padding), value=torch.nan)
        patches = padded.unflatten(1, (-1, length)).flatten(2).nanmean(-1)
        attended = ~patches.isnan()
        ids = self.first_id(domain) + (patches > 0).long()
        return torch.where(attended, ids, 0), attended, torch.zeros(len(ids), dtype=torch.long)

    def save_pretrained(self, folder, **options):
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"kind": "signs"}))
        return ()


@pytest.fixture
def model():
    torch.manual_seed(0)
    tokenizer = SignTokenizer()
    backbone = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    return CrossTimeNetModel(CrossTimeNetConfig.from_tokenizer(tokenizer, backbone_config=backbone)).set_tokenizer(
        tokenizer
    )


def corpus_of(num_channels=1):
    """Series whose class is where they are positive; some are shorter."""
    generator = np.random.default_rng(0)
    features = Features(
        {"series": Array2D((None, num_channels), "float32"), "item_id": Value("string"), "label": ClassLabel(2)}
    )
    splits = {}
    for name, number in (("train", 24), ("validation", 8), ("test", 10)):
        rows = []
        for index in range(number):
            series = generator.normal(size=(12 - 3 * (index % 4 == 3), num_channels)) * 0.1
            series[:6] += 1 if index % 2 else -1
            rows.append({"series": series.astype(np.float32), "item_id": str(index), "label": index % 2})
        splits[name] = Dataset.from_list(rows, features=features)
    return DatasetDict(splits)


def test_tokens_are_made_once_in_the_domain_and_the_tokenizer_is_saved_beside(model, tmp_path):
    fields = {"domain": "two", "learning_rate": 0.01, **QUICK}
    result = hf_tsrep.finetune(model, corpus_of(), tmp_path / "tuned", **fields)
    assert model.tokenizer.asked == [("two", 24), ("two", 8), ("two", 10)]  # and not once an epoch
    assert result.facts["scaler"] is None  # the tokenizer takes raw values
    assert result.metrics["accuracy"] == 1
    assert (tmp_path / "tuned" / "tokenizer_config.json").is_file()
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert [one["name"] for one in config["domains"]] == ["one", "two"]
    assert config["num_input_channels"] == 2  # of the first domain, whatever the corpus has
    assert config["id2label"] == {"0": "0", "1": "1"}
    asked = torch.stack([torch.full((12, 1), -1.0), torch.full((12, 1), 1.0)])
    assert [one.get("num_labels") for one in config["domains"]] == [None, 2]  # the head is of this domain alone
    scores = result.model(past_values=asked).logits
    assert torch.equal(result.model(past_values=asked, domain="two").logits, scores)
    with pytest.raises(ValueError, match="'one' has no classification head; these have: two"):
        result.model(past_values=asked.expand(-1, -1, 2), domain="one")
    assert scores.argmax(-1).tolist() == [0, 1]


def forecasting_corpus(factor=1.0, offset=0.0):
    """One series of a slow square wave, cut into stretches; a value is missing."""
    generator = np.random.default_rng(0)
    wave = np.where(np.arange(240) % 24 < 12, 1.0, -1.0) + 0.1 * generator.normal(size=240)
    wave[30] = np.nan
    series = (offset + factor * wave[:, None]).astype(np.float32)
    features = Features({"series": Array2D((None, 1), "float32"), "item_id": Value("string")})
    bounds = {"train": (0, 120), "validation": (120, 180), "test": (180, 240)}
    splits = {
        name: Dataset.from_list([{"series": series[start:stop], "item_id": "wave"}], features=features)
        for name, (start, stop) in bounds.items()
    }
    return DatasetDict(splits), series


FORECAST = {"task": "forecasting", "domain": "two", "context_length": 24, "prediction_length": 6, "seed": 1}


def test_forecasts_are_learnt_and_measured_in_deviations_and_come_in_the_units_of_the_series(model, tmp_path):
    # The tokenizer reads raw values, of which it tells the sign alone: without units of its own the head would have
    # to learn values of hundreds.
    corpus, series = forecasting_corpus(factor=300.0)
    fields = {**FORECAST, **QUICK, "num_train_epochs": 6, "learning_rate": 0.01}
    result = hf_tsrep.finetune(model, corpus, tmp_path / "forecast", **fields)
    mean, scale = np.nanmean(series[:120]), np.nanstd(series[:120])
    stored = json.loads((tmp_path / "forecast" / "config.json").read_text())
    np.testing.assert_allclose([*stored["target_mean"], *stored["target_scale"]], [mean, scale], rtol=1e-5)
    assert (result.facts["scaler"], result.facts["target_scaler"]) == (None, "standard")
    assert result.outcome["settings"]["target_scaler"] == "standard"
    starts = range(180 - 24, 240 - 24 - 6 + 1)
    contexts, futures = (
        np.stack([series[start + first : start + last] for start in starts]) for first, last in ((0, 24), (24, 30))
    )
    with torch.no_grad():
        predicted = result.model(past_values=torch.from_numpy(contexts), domain="two").prediction_outputs.numpy()
    assert np.abs(predicted).max() > 100
    assert result.metrics["mse"] == pytest.approx(np.mean(((predicted - futures) / scale) ** 2), rel=1e-4)
    assert result.metrics["mae"] == pytest.approx(np.mean(np.abs(predicted - futures) / scale), rel=1e-4)
    assert result.metrics["mse"] < 0.7  # 1 is the mean of the training part
    assert result.validation_metrics["loss"] == pytest.approx(result.validation_metrics["mse"], rel=1e-3)


def test_how_large_the_values_are_changes_no_result(model, tmp_path):
    fields = {**FORECAST, **QUICK, "num_train_epochs": 1}
    errors = [
        hf_tsrep.finetune(model, forecasting_corpus(factor)[0], tmp_path / str(factor), **fields).metrics["mse"]
        for factor in (1.0, 4096.0)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_the_units_of_the_targets_are_not_a_setting(model, tmp_path):
    with pytest.raises(SettingsError, match=r"target_scale.*training part"):
        hf_tsrep.finetune(model, forecasting_corpus()[0], tmp_path / "none", target_scale=[2.0], **FORECAST)


def test_the_published_head_knows_the_number_of_tokens(model, tmp_path):
    fields = {"domain": "two", "classifier": "flatten", **QUICK}
    result = hf_tsrep.finetune(model, corpus_of(), tmp_path / "flat", **fields)
    assert result.model.config.num_tokens == 4
    assert result.model.head.heads[0].projection.in_features == 4 * 16


def test_a_domain_must_be_one_of_the_model_and_fit_the_corpus(model, tmp_path):
    def refused(message, num_channels=1, given=model, error=ValueError, **fields):
        with pytest.raises(error, match=message):
            hf_tsrep.finetune(given, corpus_of(num_channels), tmp_path / "none", **{**QUICK, **fields})
        assert not (tmp_path / "none").exists()

    refused("domain='one' or 'two'")
    refused("Did you mean 'two'", domain="twoo")
    refused("Domain 'one' of the model has 2 channels, but the corpus has 1", domain="one")
    tiny = hf_tsrep.TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1)
    refused("no tokenizer, which crosstimenet reads series with", given="crosstimenet", error=SettingsError)
    refused("ts2vec has no domains", given=hf_tsrep.TS2VecModel(tiny), domain="two")


def test_a_corpus_finds_the_domain_of_its_name(model):
    from hf_tsrep.training import resolve_finetuning
    from hf_tsrep.training.finetuning.model import domain_of

    def found(corpus, canonical="any"):
        settings = resolve_finetuning({"model": model, "corpus": corpus, "output_dir": "o"})
        return domain_of(settings, canonical)

    assert found("sets/Two.csv") == "two"
    assert found("sensor/One") == "one"
    assert found("elsewhere", "sensor/two") == "two"
    with pytest.raises(ValueError, match="name one"):
        found("three")
