"""Every protocol on a model of several domains: which one the corpus is, how it is told, and what is recorded."""

import numpy as np
import pytest
from datasets import Array2D, Dataset, DatasetDict, Features, Sequence, Value
from domain_models import make_domain_model, make_forecasting_corpus, make_labelled_corpus

from hf_tsrep import TS2VecConfig, TS2VecModel
from hf_tsrep.data.corpus import CorpusMetadata, attach_metadata
from hf_tsrep.training.protocols import PROTOCOLS, evaluate, protocol_settings

QUICK = {"num_train_epochs": 1, "show_progress_bar": False, "device": "cpu"}
RUNS = {
    "classification": (make_labelled_corpus, {"classifiers": ("nearest_neighbour",)}),
    "clustering": (make_labelled_corpus, {}),
    "forecasting": (make_forecasting_corpus, {"horizons": (3,), "context_length": 9, "alphas": (1.0,)}),
    "linear": (make_labelled_corpus, QUICK),
    "finetune": (make_labelled_corpus, QUICK),
    "regression": (make_labelled_corpus, {"solver": "regression"}),
    "regression of forecasts": (
        make_forecasting_corpus,
        {"solver": "regression", "task": "forecasting", "context_length": 9, "prediction_length": 3},
    ),
}


def run(kind, model, name, **settings):
    make_corpus, options = RUNS[kind]
    protocol = kind if kind in PROTOCOLS else "linear"
    return evaluate(model, make_corpus(name), protocol, **options, **settings)


@pytest.fixture(scope="module")
def two_domains():
    return make_domain_model()


@pytest.mark.parametrize("kind", list(RUNS))
def test_a_protocol_finds_the_domain_by_the_corpus_s_name_or_is_told(two_domains, kind):
    by_name = run(kind, two_domains, "some/ECG")
    told = run(kind, two_domains, "elsewhere", domain="ecg")
    assert by_name["metrics"] == told["metrics"]
    assert by_name["settings"]["domain"] == told["settings"]["domain"] == "ecg"


@pytest.mark.parametrize("kind", list(RUNS))
def test_a_missing_or_unknown_domain_is_named(two_domains, kind):
    with pytest.raises(ValueError, match="name one: domain='har' or 'ecg'"):
        run(kind, two_domains, "elsewhere")
    with pytest.raises(ValueError, match=r"Unknown domain 'ecgg'. Did you mean 'ecg'\?"):
        run(kind, two_domains, "ecg", domain="ecgg")


@pytest.mark.parametrize("kind", list(RUNS))
def test_one_domain_needs_no_name_and_no_record(kind):
    model = make_domain_model([{"name": "ecg", "num_input_channels": 1, "patch_length": 3, "codebook_size": 8}])
    assert "domain" not in run(kind, model, "elsewhere")["settings"]


@pytest.mark.parametrize("kind", list(RUNS))
def test_a_model_without_domains_refuses_one(kind):
    model = TS2VecModel(TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1))
    with pytest.raises(ValueError, match="ts2vec has no domains"):
        run(kind, model, "ecg", domain="ecg")


def test_every_protocol_takes_a_domain():
    assert all(protocol_settings(name)["domain"] is None for name in PROTOCOLS)


class MaskingModel:
    """Represents a step by its value, or by nothing where it is masked; has the domains of another model."""

    def __init__(self, config):
        self.config = config
        self.domains = []

    def encode(self, series, mask=None, domain=None, **settings):
        self.domains.append(domain)
        return np.zeros_like(series) if mask else np.array(series)


def test_the_anomaly_protocol_tells_the_domain_too(two_domains):
    generator = np.random.default_rng(0)
    columns = {"series": Array2D((None, 1), "float32"), "item_id": Value("string")}
    features = Features({**columns, "anomaly_label": Sequence(Value("int64"))})
    rows = {"series": generator.normal(size=(80, 1)), "item_id": "one", "anomaly_label": [0] * 79 + [1]}
    splits = {name: Dataset.from_list([rows], features=features) for name in ("train", "test")}
    corpus = attach_metadata(DatasetDict(splits), CorpusMetadata(name="ecg", task="anomaly"))
    model = MaskingModel(two_domains.config)
    outcome = evaluate(model, corpus, "anomaly", difference=False)
    assert set(model.domains) == {"ecg"}
    assert outcome["settings"]["domain"] == "ecg"


def test_forecasts_from_tokens_are_measured_in_deviations_of_the_train_part(two_domains):
    factor = 8.0
    outcome = run("forecasting", two_domains, "ecg")
    corpus = make_forecasting_corpus("ecg")
    deviation = np.std(np.asarray(corpus["train"][0]["series"]))
    metrics = outcome["metrics"]
    assert metrics["raw_mse_3"] == pytest.approx(metrics["mse_3"] * deviation**2, rel=1e-5)
    assert metrics["raw_mae_3"] == pytest.approx(metrics["mae_3"] * deviation, rel=1e-5)
    assert outcome["settings"]["target_scaler"] == "standard"

    # The same representations with targets of other units: the errors in deviations stay.
    class Repeating:
        config, main_input_name = two_domains.config, two_domains.main_input_name

        def encode(self, series, **settings):
            return two_domains.encode([5.0 + (one - 5.0) / factor for one in series], **settings)

    options = RUNS["forecasting"][1]
    scaled = evaluate(Repeating(), make_forecasting_corpus("ecg", factor), "forecasting", **options)["metrics"]
    assert scaled["mse_3"] == pytest.approx(metrics["mse_3"], rel=1e-3)
    assert scaled["raw_mse_3"] == pytest.approx(factor**2 * metrics["raw_mse_3"], rel=1e-3)


def test_other_methods_are_measured_in_the_units_of_the_corpus():
    model = TS2VecModel(TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1)).eval()
    outcome = run("forecasting", model, "ecg")
    assert "target_scaler" not in outcome["settings"]
    assert "raw_mse_3" not in outcome["metrics"]
