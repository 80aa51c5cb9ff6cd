"""No protocol takes one channel of a model for another."""

import numpy as np
import pandas as pd
import pytest
from domain_models import make_labelled_corpus

from hf_tsrep import TimeSeriesFeatureExtractor, TS2VecConfig, TS2VecModel
from hf_tsrep.data import load_corpus
from hf_tsrep.data.corpus import CorpusMetadata, attach_metadata
from hf_tsrep.training.protocols import PROTOCOLS, evaluate

LABELLED = {"classification", "clustering", "linear", "finetune"}
SETTINGS = {
    "classification": {"classifiers": ("nearest_neighbour",)},
    "forecasting": {"horizons": (3,), "context_length": 9, "alphas": (1.0,)},
    "anomaly": {"difference": False},
    "linear": {"solver": "regression"},
    "finetune": {"num_train_epochs": 1, "show_progress_bar": False, "device": "cpu"},
}


@pytest.fixture(scope="module")
def model():
    config = TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=6, num_hidden_layers=1)
    model = TS2VecModel(config).eval()
    model.preparation = TimeSeriesFeatureExtractor(num_channels=2, channel_names=["load", "oil"])
    return model


def make_corpus(protocol, names):
    if protocol in LABELLED:
        return attach_metadata(make_labelled_corpus("some", 2), CorpusMetadata("some", "classification", names))
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(240, 2)), columns=list(names))
    if protocol == "anomaly":
        return load_corpus(frame.assign(alarm=np.arange(240) % 50 == 0), split="50/25/25", label_column="alarm")
    return load_corpus(frame, split="50/25/25")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_model_s_channels_in_another_order_are_refused(model, protocol):
    settings = SETTINGS.get(protocol, {})
    with pytest.raises(ValueError, match=r"oil, load; the .* has them as load, oil\. Say target=load,oil"):
        evaluate(model, make_corpus(protocol, ("oil", "load")), protocol, **settings)


def test_target_puts_them_in_order_and_other_names_go_by_their_order(model):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(240, 2)), columns=["load", "oil"])
    settings = SETTINGS["forecasting"]

    def metrics(frame, **options):
        corpus = load_corpus(frame, split="50/25/25", **options)
        return evaluate(model, corpus, "forecasting", **settings)["metrics"]

    expected = metrics(frame)
    assert metrics(frame[["oil", "load"]], target=["load", "oil"]) == expected
    assert metrics(frame.set_axis(["first", "second"], axis=1)) == expected
