"""A folder of CSV files, one a split."""

import numpy as np
import pandas as pd
import pytest

from hf_tsrep.data import CorpusError, get_labels, get_series, load_corpus


def write(path, labels, seed=0):
    rng = np.random.default_rng(seed)
    parts = [
        pd.DataFrame({"machine": f"m{index}", "pressure": rng.normal(size=5), "state": label})
        for index, label in enumerate(labels)
    ]
    pd.concat(parts).to_csv(path, index=False)


def test_splits_share_their_classes(tmp_path):
    write(tmp_path / "train.csv", ["worn", "fine"])
    write(tmp_path / "test.csv", ["fine", "broken", "worn"], seed=1)
    corpus = load_corpus(tmp_path, item_column="machine", label_column="state")
    assert list(corpus) == ["train", "test"]
    names = corpus["train"].features["label"].names
    assert names == corpus["test"].features["label"].names == ["broken", "fine", "worn"]
    assert [names[index] for index in get_labels(corpus["test"])] == ["fine", "broken", "worn"]
    assert [series.shape for series in get_series(corpus["train"])] == [(5, 1), (5, 1)]


def test_other_columns_are_named(tmp_path):
    write(tmp_path / "train.csv", ["fine"])
    pd.DataFrame({"machine": "m", "load": [1.0, 2.0], "state": "fine"}).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(CorpusError, match=r"test.csv: columns \['load'\] where train.csv has \['pressure'\]"):
        load_corpus(tmp_path, item_column="machine", label_column="state")
