"""Corpora: what they know of themselves, scaling, windows, and the domain that a name says."""

import hashlib
import json
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader

from hf_tsrep import CrossTimeNetConfig, TS2VecConfig
from hf_tsrep.data import (
    ChannelScaler,
    CorpusError,
    CorpusMetadata,
    SeriesBank,
    WindowDataset,
    corpus_fingerprint,
    corpus_metadata,
    get_labels,
    get_series,
    load_corpus,
    sliding_window_index,
)
from hf_tsrep.data.domains import domain_name, domain_names, find_domain


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


def stored(**changes):
    """Return rows in the format of a corpus, as another program may have written them."""
    columns = {
        "series": [[[1.0], [2.0]], [[3.0], [4.0]]],
        "item_id": ["a", "b"],
        "label": [0, 1],
        "target_value": [0.5, 1.5],
        "timestamp": [[0, 1], []],
        "anomaly_label": [[0, 1], []],
    }
    features = {
        "series": Array2D((None, 1), "float64"),
        "item_id": Value("string"),
        "label": ClassLabel(names=["u", "v"]),
        "target_value": Value("float64"),
        "timestamp": List(Value("timestamp[ms]")),
        "anomaly_label": List(Value("int8")),
    }
    return Dataset.from_dict({**columns, **changes}, features=Features(features))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"series": [[[1.0], [np.inf]], [[3.0]]]}, r"row 0, step 1, column 'value': infinite value"),
        ({"series": [[[1.0], [1e39]], [[3.0]]]}, r"row 0, step 1, column 'value': infinite value"),
        ({"series": [[[np.nan], [np.nan]], [[3.0]]]}, r"row 0: every value is missing"),
        ({"series": [[[1.0], [2.0]], []]}, r"row 1: the series has shape"),
        ({"item_id": ["a", "a"]}, r"row 1: the item 'a' appears twice"),
        ({"target_value": [0.5, np.inf]}, r"row 1: the target value inf is no finite number"),
        ({"timestamp": [[0], []]}, r"row 0: 1 of 'timestamp' for 2 steps"),
        ({"anomaly_label": [[0, 1], [1]]}, r"row 1: 1 of 'anomaly_label' for 2 steps"),
        ({"anomaly_label": [[0, 3], []]}, r"row 0: an anomaly label is neither 0 nor 1"),
    ],
)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_stored_corpus_is_checked_as_any_other(tmp_path, changes, message, place):
    load_corpus(write_stored(stored(), tmp_path / "right", place))
    with pytest.raises(CorpusError, match=message):
        load_corpus(write_stored(stored(**changes), tmp_path / "wrong", place))


def test_a_class_that_the_column_does_not_have_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = stored().data.table
    labels = pa.array([0, -7])
    place = table.schema.get_field_index("label")
    for field in (table.schema.field("label"), pa.field("label", pa.int64())):
        columns = table.set_column(place, field, labels)
        parquet.write_table(columns.replace_schema_metadata(table.schema.metadata), tmp_path / "rows.parquet")
        with pytest.raises(CorpusError, match="row 1: label -7 is none of the 2 classes"):
            load_corpus(tmp_path / "rows.parquet")


def write_stored(rows, path, place):
    path.mkdir()
    if place == "folder":
        rows.save_to_disk(path / "saved")
        return path / "saved"
    rows.to_parquet(path / "rows.parquet")
    return path / "rows.parquet"


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


def test_the_scaler_agrees_with_scikit_learn_on_missing_values():
    values = np.random.default_rng(0).normal(3, 7, (50, 3))
    values[::7, 1] = np.nan
    theirs = StandardScaler().fit(values)
    ours = ChannelScaler.fit([values[:20], values[20:]])
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.transform(values), theirs.transform(values), rtol=1e-12)


def test_constant_and_empty_channels_have_scale_one(caplog):
    values = np.stack([np.full(9, 0.1), np.full(9, np.nan), np.arange(9.0)], axis=1)
    scaler = ChannelScaler.fit([values])
    assert scaler.scale[:2].tolist() == [1, 1]
    assert scaler.mean[1] == 0
    assert "Channel 1 has no observed value" in caplog.text


def test_the_global_scaler_has_one_mean_for_all_channels():
    values = np.array([[0.0, 10.0], [np.nan, 20.0]])
    scaler = ChannelScaler.fit([values], kind="global")
    np.testing.assert_allclose(scaler.mean, [10, 10])
    np.testing.assert_allclose(scaler.scale, np.std([0, 10, 20]))
    with pytest.raises(ValueError, match="robust"):
        ChannelScaler.fit([values], kind="robust")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=1, max_size=20))
def test_scaling_back_gives_the_values_again(rows):
    values = np.array(rows)
    scaler = ChannelScaler.from_dict(ChannelScaler.fit([values]).to_dict())
    scaled = scaler.transform(values)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaler.inverse_transform(scaled), values, rtol=1e-9, atol=1e-6)


def test_the_scaler_of_a_corpus_sees_the_training_part_only(hourly_frame):
    spoiled = hourly_frame.copy()
    spoiled.loc[70:, "load"] = 1e6
    stored = [
        corpus_metadata(load_corpus(frame, split="70/10/20", scaler="standard")).scaler
        for frame in (hourly_frame, spoiled)
    ]
    assert stored[0] == stored[1]
    corpus = load_corpus(hourly_frame, split="70/10/20", scaler="standard")
    np.testing.assert_allclose(get_series(corpus["train"])[0].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(get_series(corpus["train"])[0].std(axis=0), 1, atol=1e-5)
    scaler = ChannelScaler.from_dict(stored[0])
    raw = hourly_frame[["load", "OT"]].to_numpy()
    np.testing.assert_allclose(scaler.inverse_transform(get_series(corpus["test"])[0]), raw[80:], rtol=1e-5, atol=1e-5)


def test_an_unknown_scaler_or_a_missing_training_part_is_named(hourly_frame, tmp_path):
    with pytest.raises(CorpusError, match=r"Unknown scaler 'standart'.*Did you mean 'standard'"):
        load_corpus(hourly_frame, scaler="standart")
    np.savez(tmp_path / "t.npz", x_test=np.ones((2, 3)))
    with pytest.raises(CorpusError, match="no 'train' split"):
        load_corpus(tmp_path / "t.npz", scaler="standard")


def series_of(lengths, num_channels=2):
    values = np.arange(sum(lengths) * num_channels, dtype=np.float32).reshape(-1, num_channels)
    return np.split(values, np.cumsum(lengths)[:-1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 8), st.integers(1, 5))
def test_the_index_holds_every_window_and_no_other(lengths, window_length, stride):
    expected = [
        [row, start] for row, length in enumerate(lengths) for start in range(0, length - window_length + 1, stride)
    ]
    assert sliding_window_index(lengths, window_length, stride).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 20), min_size=1, max_size=4), st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_batch_of_windows_equals_slices_of_the_series(lengths, window_length, random):
    series = series_of(lengths)
    dataset = WindowDataset(series, window_length)
    indices = [random.randrange(len(dataset)) for _ in range(7)]
    items = dataset.__getitems__(indices)
    for index, item in zip(indices, items, strict=True):
        row, start = dataset.index[index].tolist()
        np.testing.assert_array_equal(item["past_values"].numpy(), series[row][start : start + window_length])
        torch.testing.assert_close(item, dataset[index])


def test_what_a_data_loader_gives_are_copies():
    dataset = WindowDataset(series_of([10, 5]), 4, stride=2)
    loaded = next(iter(DataLoader(dataset, batch_size=3)))["past_values"]
    assert loaded.shape == (3, 4, 2)
    before = dataset.bank.values.clone()
    dataset.batch([0, 1])["past_values"].zero_()
    dataset[0]["past_values"].zero_()
    torch.testing.assert_close(dataset.bank.values, before)


def test_a_bank_gives_its_series_back():
    series = series_of([3, 1, 4])
    bank = SeriesBank(series)
    assert bank.values.is_contiguous()
    assert bank.lengths.tolist() == [3, 1, 4]
    for index in range(-3, 3):
        np.testing.assert_array_equal(bank[index].numpy(), series[index])
    with pytest.raises(IndexError):
        bank[3]


def test_bad_windows_and_channels_are_named():
    with pytest.raises(ValueError, match="longest series has 5 steps"):
        WindowDataset(series_of([5, 2]), 6)
    with pytest.raises(ValueError, match="leaves its series"):
        WindowDataset(series_of([5, 5]), 3, index=torch.tensor([[0, 3]]))
    with pytest.raises(ValueError, match="stride=0"):
        sliding_window_index([5], 2, 0)
    with pytest.raises(ValueError, match="one number of channels"):
        SeriesBank([np.ones((3, 1)), np.ones((3, 2))])


@pytest.mark.parametrize(
    ("corpus", "domain"),
    [
        ("sensor/HAR", "har"),
        ("ucr/ECG5000", "ecg5000"),
        ("sensor/Epilepsy_TSTCC", "epilepsy-tstcc"),
        ("some/folder/My Series.csv", "my-series"),
        ("A_TRAIN.tsv.gz", "a-train"),
        ("owner/name:config", "name-config"),
        ("anomaly/NAB/realKnownCause/nyc_taxi", "nyc-taxi"),
        ("./folder/", "folder"),
    ],
)
def test_the_domain_is_named_by_the_corpus(corpus, domain):
    assert domain_name(corpus) == domain


def test_a_name_without_letters_is_refused():
    with pytest.raises(CorpusError, match="no letter"):
        domain_name("data/___.csv")


def test_a_domain_also_goes_by_the_corpus_s_full_and_short_names():
    assert domain_names("epilepsy", "sensor/Epilepsy_TSTCC") == ["epilepsy", "epilepsy-tstcc"]
    assert domain_names("sensor/Epilepsy_TSTCC", "sensor/Epilepsy_TSTCC") == ["epilepsy-tstcc", "epilepsy"]
    assert domain_names("", "datasets") == ["datasets"]


NUMBERS = {"num_input_channels": 1, "patch_length": 2, "codebook_size": 4}


def config_of(*names):
    return CrossTimeNetConfig(domains=[{"name": name, **NUMBERS} for name in names])


def test_a_corpus_is_the_domain_that_is_said_else_that_of_its_name_else_the_only_one():
    several = config_of("har", "epilepsy")
    assert find_domain(several, None, "", "sensor/HAR") == "har"
    assert find_domain(several, None, "", "sensor/Epilepsy_TSTCC") == "epilepsy"  # by its short name
    assert find_domain(several, None, "copies/Epilepsy.csv", "sensor/HAR") == "epilepsy"
    assert find_domain(several, "epilepsy", "har", "sensor/HAR") == "epilepsy"
    assert find_domain(config_of("har"), None, "", "uea/BasicMotions") == "har"
    assert find_domain(TS2VecConfig(), None, "", "___") is None
    assert find_domain(None, None, "", "any") is None


def test_a_domain_that_is_missing_or_unknown_is_named():
    several = config_of("har", "epilepsy")
    with pytest.raises(ValueError, match="2 domains; name one: domain='har' or 'epilepsy'"):
        find_domain(several, None, "mine.csv", "mine")
    with pytest.raises(ValueError, match=r"Unknown domain 'hra'. Did you mean 'har'\? Domains: har, epilepsy"):
        find_domain(several, "hra", "", "sensor/HAR")
    with pytest.raises(ValueError, match="domain='har': ts2vec has no domains; leave it out"):
        find_domain(TS2VecConfig(), "har", "", "sensor/HAR")
