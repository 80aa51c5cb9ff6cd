import hashlib
import json
import struct

import numpy as np
import pandas as pd
import pytest
from datasets import Array2D, ClassLabel, Dataset, Features, Value

from hf_tsrep.data import (
    CorpusError,
    CorpusMetadata,
    corpus_fingerprint,
    corpus_metadata,
    get_labels,
    get_series,
    load_corpus,
)


@pytest.fixture
def corpus(hourly_frame):
    return load_corpus(hourly_frame, split="70/10/20", scaler="standard")


def items(values, labels):
    frame = pd.DataFrame({"i": np.repeat(np.arange(len(values)), 2), "x": np.ravel(values), "k": np.repeat(labels, 2)})
    return load_corpus(frame, item_column="i", label_column="k")


def test_metadata_survive_map_select_and_disk(corpus, tmp_path):
    metadata = corpus_metadata(corpus)
    assert metadata.scaler["kind"] == "standard"
    mapped = corpus.map(lambda row: {"extra": 1}, load_from_cache_file=False)
    assert corpus_metadata(mapped) == metadata
    assert mapped["train"].features["series"] == Array2D((None, 2), "float32")
    assert corpus_metadata(corpus["test"].select([0])) == metadata
    corpus.save_to_disk(tmp_path / "saved")
    assert corpus_metadata(load_corpus(tmp_path / "saved")) == metadata
    assert CorpusMetadata.from_dict(json.loads(json.dumps(metadata.to_dict() | {"later": 1}))) == metadata


def test_foreign_dataset_has_the_metadata_of_its_columns():
    features = Features(
        {"series": Array2D((None, 3), "float32"), "label": ClassLabel(names=["a"]), "item_id": Value("string")}
    )
    foreign = Dataset.from_dict({"series": [np.ones((2, 3))], "label": [0], "item_id": ["x"]}, features=features)
    metadata = corpus_metadata(foreign)
    assert (metadata.task, metadata.channel_names) == ("classification", ("channel_0", "channel_1", "channel_2"))
    with pytest.raises(CorpusError, match="Unknown task 'guessing'"):
        CorpusMetadata("x", task="guessing")


def test_fingerprint_is_a_fixed_function_of_the_values():
    corpus = items([[1.0, 2.0], [3.0, np.nan]], [0, 1])
    expected = b"split train\nseries 2 1\n" + struct.pack("<2f", 1, 2)
    expected += b"series 2 1\n" + struct.pack("<f", 3) + b"\x00\x00\xc0\x7f" + b"label [0, 1]\n"
    assert corpus_fingerprint(corpus) == hashlib.sha256(expected).hexdigest()


def test_fingerprint_sees_values_order_labels_and_splits(corpus):
    base = items([[1.0, 2.0], [3.0, 4.0]], [0, 1])
    others = [
        items([[3.0, 4.0], [1.0, 2.0]], [0, 1]),
        items([[1.0, 2.0], [3.0, 4.0]], [1, 0]),
        items([[1.0, 2.0], [3.0, 4.5]], [0, 1]),
        {"test": base["train"]},
    ]
    prints = {corpus_fingerprint(one) for one in (base, *others)}
    assert len(prints) == 5
    assert corpus_fingerprint(items([[1.0, 2.0], [3.0, 4.0]], [0, 1])) == corpus_fingerprint(base)
    assert corpus_fingerprint(dict(reversed(corpus.items()))) == corpus_fingerprint(corpus)


def test_series_follow_selection_shuffling_and_concatenation():
    from datasets import concatenate_datasets

    rows = items(np.arange(20.0).reshape(10, 2), [0, 1] * 5)["train"]
    chosen = rows.select([7, 2, 2])
    assert [series[0, 0] for series in get_series(chosen)] == [14, 4, 4]
    assert get_labels(chosen).tolist() == [1, 0, 0]
    assert [series[0, 0] for series in get_series(concatenate_datasets([chosen, rows.select([0])]))] == [14, 4, 4, 0]
    shuffled = rows.shuffle(seed=0)
    expected = [np.asarray(row)[:, 0].tolist() for row in shuffled["series"]]
    assert [series[:, 0].tolist() for series in get_series(shuffled)] == expected
    assert get_series(rows.select([])) == []


def test_series_are_views_of_the_memory_that_arrow_holds(hourly_frame):
    series = get_series(load_corpus(hourly_frame)["train"])[0]
    assert (series.dtype, series.flags.owndata) == (np.float32, False)


def test_access_to_what_a_corpus_lacks_is_named(corpus):
    with pytest.raises(CorpusError, match="Choose one split first: 'train', 'validation', 'test'"):
        get_series(corpus)
    with pytest.raises(CorpusError, match=r"no column 'label'"):
        get_labels(corpus["train"])
    with pytest.raises(CorpusError, match=r"no column 'serie'. Did you mean 'series'"):
        get_series(corpus["train"], "serie")
    with pytest.raises(CorpusError, match="holds string"):
        get_series(corpus["train"], "item_id")
    with pytest.raises(CorpusError, match="class_encode_column"):
        get_labels(Dataset.from_dict({"label": ["up", "down"]}))
    unlabelled = Dataset.from_dict({"label": [1, None]})
    with pytest.raises(CorpusError, match=r"Row 1, column 'label': the label is missing"):
        get_labels(unlabelled)


def test_every_nan_has_the_same_fingerprint_whatever_its_bits(tmp_path):
    prints = []
    for bits in (0x7FC00000, 0x7FC00001, 0xFFC00000):
        values = np.array([1.0, 2.0], dtype=np.float32)
        values.view(np.uint32)[1] = bits
        np.savez(tmp_path / "n.npz", values=values)
        prints.append(corpus_fingerprint(load_corpus(tmp_path / "n.npz")))
    assert len(set(prints)) == 1


def test_caches_of_datasets_tell_corpora_apart():
    one, same, other = (items([[1.0, 2.0], [3.0, last]], [0, 1])["train"] for last in (4.0, 4.0, 5.0))
    # map() looks its results up by this fingerprint
    assert one._fingerprint == same._fingerprint
    assert one._fingerprint != other._fingerprint
