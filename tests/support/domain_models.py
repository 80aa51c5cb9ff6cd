"""A small CrossTimeNet that reads several domains, and corpora for it."""

import numpy as np
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value
from tiny_codec import DOMAINS, make_codec
from transformers import BertConfig

from hf_tsrep import CrossTimeNetConfig, CrossTimeNetModel, CrossTimeNetTokenizer
from hf_tsrep.data.corpus import CorpusMetadata, attach_metadata


def make_domain_model(domains=None, model_class=CrossTimeNetModel, **fields):
    """Return a model in evaluation mode for the domains "har" (3 channels) and "ecg" (1 channel), or for others."""
    tokenizer = CrossTimeNetTokenizer.from_codec(make_codec(DOMAINS if domains is None else domains))
    backbone = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(CrossTimeNetConfig.from_tokenizer(tokenizer, backbone_config=backbone, **fields))
    return model.eval().set_tokenizer(tokenizer)


def make_labelled_corpus(name="ecg", num_channels=1):
    """Return a corpus of 12 training and 6 test series, 18 steps each, that rise (class 1) or fall."""
    features = Features(
        {"series": Array2D((None, num_channels), "float32"), "item_id": Value("string"), "label": ClassLabel(2)}
    )
    generator = np.random.default_rng(0)
    splits = {}
    for split, number in (("train", 12), ("test", 6)):
        rows = []
        for index in range(number):
            slope = 2 * (index % 2) - 1
            series = slope * np.linspace(-2, 2, 18)[:, None] + 0.3 * generator.normal(size=(18, num_channels))
            rows.append({"series": series.astype(np.float32), "item_id": f"{split}{index}", "label": index % 2})
        splits[split] = Dataset.from_list(rows, features=features)
    return attach_metadata(DatasetDict(splits), CorpusMetadata(name, "classification", _channels(num_channels)))


def make_forecasting_corpus(name="ecg", factor=1.0):
    """Return a corpus of one series of one channel and 240 steps, cut into stretches and not scaled."""
    steps = np.arange(240)
    values = np.sin(steps * 0.3) + 0.1 * np.random.default_rng(0).normal(size=240)
    series = (5.0 + factor * values[:, None]).astype(np.float32)
    features = Features({"series": Array2D((None, 1), "float32"), "item_id": Value("string")})
    bounds = {"train": (0, 120), "validation": (120, 180), "test": (180, 240)}
    splits = {
        split: Dataset.from_list([{"series": series[start:stop], "item_id": "wave"}], features=features)
        for split, (start, stop) in bounds.items()
    }
    return attach_metadata(DatasetDict(splits), CorpusMetadata(name, "forecasting", _channels(1)))


def _channels(number):
    return tuple(f"channel_{index}" for index in range(number))
