"""Fine-tuning of a method that reads tokens: they are made once, in the corpus's domain, by the model's tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import BertConfig

import hf_tsrep
from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
from hf_tsrep.modeling.modeling_crosstimenet import CrossTimeNetModel
from hf_tsrep.tokenization.configuration_crosstimenet_codec import CodecDomain
from hf_tsrep.training import SettingsError

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
    from hf_tsrep.training.finetuning_model import domain_of

    def found(corpus, canonical="any"):
        settings = resolve_finetuning({"model": model, "corpus": corpus, "output_dir": "o"})
        return domain_of(settings, canonical)

    assert found("sets/Two.csv") == "two"
    assert found("sensor/One") == "one"
    assert found("elsewhere", "sensor/two") == "two"
    with pytest.raises(ValueError, match="name one"):
        found("three")
