"""How labelled series of one file are dealt to train, validation and test: whole, and every class in its share."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.data import CorpusError, get_labels, get_series, load_corpus
from hf_tsrep.data.splits import deal_by_class


def labelled_frame(counts, num_steps=8):
    """One row an item and step; the items of the classes lie mixed."""
    labels = [name for name, count in counts.items() for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(labels))
    return pd.DataFrame(
        {
            "machine": [f"m{item:03d}" for item in order for _ in range(num_steps)],
            "state": [labels[item] for item in order for _ in range(num_steps)],
            "flow": np.repeat(order.astype(float), num_steps),
        }
    )


def test_rows_of_an_item_are_in_one_part_and_every_class_is_in_each_in_its_share():
    frame = labelled_frame({"fine": 60, "worn": 30, "broken": 10})
    corpus = load_corpus(frame, item_column="machine", label_column="state", split="70/10/20")
    items = {name: list(part["item_id"]) for name, part in corpus.items()}
    assert list(items) == ["train", "validation", "test"]
    assert sorted(item for one in items.values() for item in one) == sorted(frame["machine"].unique())
    assert [len(one) for one in items.values()] == [70, 10, 20]
    names = corpus["train"].features["label"].names
    for share, part in zip((0.7, 0.1, 0.2), corpus.values(), strict=True):
        found = np.bincount(get_labels(part), minlength=3)
        wanted = [{"fine": 60, "worn": 30, "broken": 10}[name] * share for name in names]
        assert np.abs(found - wanted).max() <= 1
        assert all(len(series) == 8 for series in get_series(part))
    again = load_corpus(frame, item_column="machine", label_column="state", split="70/10/20")
    assert list(again["test"]["item_id"]) == items["test"]


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    parts=st.sampled_from([(70, 10, 20), (50, 50), (80, 20), (60, 20, 20)]),
    seed=st.integers(0, 50),
)
@settings(max_examples=80, deadline=None)
def test_every_class_is_dealt_in_its_share_and_none_misses_the_training(counts, parts, seed):
    labels = [str(name) for name, count in enumerate(counts) for _ in range(count)]
    dealt = deal_by_class(labels, parts, seed)
    for name, count in enumerate(counts):
        own = dealt[[label == str(name) for label in labels]]
        found = np.bincount(own, minlength=len(parts))
        assert found[0] >= 1
        assert np.abs(found - np.asarray(parts) / 100 * count).max() <= len(counts) + 1
    assert np.abs(np.bincount(dealt, minlength=len(parts)) - np.asarray(parts) / 100 * len(labels)).max() <= len(
        counts
    )


def test_series_with_a_target_value_are_dealt_whole_and_those_without_any_are_cut(tmp_path):
    lines = ["@problemname P", "@timestamps false", "@univariate true", "@targetlabel true", "@data"]
    lines += [f"{index},{index + 1},{index + 2}:{index / 2}" for index in range(10)]
    (tmp_path / "P.ts").write_text("\n".join(lines) + "\n")
    corpus = load_corpus(tmp_path / "P.ts", split="60/20/20")
    assert [len(part) for part in corpus.values()] == [6, 2, 2]
    assert all(len(series) == 3 for part in corpus.values() for series in get_series(part))
    plain = load_corpus(labelled_frame({"fine": 4}, 10).drop(columns="state"), item_column="machine", split="50/50")
    assert [len(part) for part in plain.values()] == [4, 4]


def test_too_few_series_and_months_are_refused():
    few = labelled_frame({"fine": 1, "worn": 1})
    with pytest.raises(CorpusError, match="leaves validation empty: there are 2 series, which are dealt whole"):
        load_corpus(few, item_column="machine", label_column="state", split="70/10/20")
    with pytest.raises(CorpusError, match="dealt whole; write shares"):
        load_corpus(few, item_column="machine", label_column="state", split="12/4/4 months")
