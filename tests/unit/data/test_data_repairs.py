"""Copies with known damage are read as they were meant."""

import numpy as np
import pytest

from hf_tsrep.data import corpus_metadata, get_series, load_corpus
from hf_tsrep.data.known_corpora import HAR_CHANNELS


def walks(num_series):
    generator = np.random.default_rng(num_series)
    return (generator.standard_normal((num_series, 128, 9)).cumsum(axis=1) / 10).astype(np.float32)


def tangled(values):
    return values.reshape(len(values), 9, 128).transpose(0, 2, 1)


def write_har(folder, change):
    parts = {"train": walks(6), "test": walks(4)}
    arrays = {f"x_{split}": change(values) for split, values in parts.items()}
    arrays |= {f"y_{split}": np.arange(len(values)) % 2 for split, values in parts.items()}
    (folder / "sensor").mkdir()
    np.savez(folder / "sensor" / "HAR.npz", **arrays)
    return parts


@pytest.mark.parametrize("change", [tangled, lambda values: values])
def test_har_is_read_in_its_order_whether_the_copy_is_tangled_or_not(tmp_path, change):
    parts = write_har(tmp_path, change)
    corpus = load_corpus("har", data_directory=tmp_path)
    for split, expected in parts.items():
        np.testing.assert_array_equal(np.stack(get_series(corpus[split])), expected)
    metadata = corpus_metadata(corpus)
    assert tuple(metadata.channel_names) == HAR_CHANNELS
    assert any("tangled" in note for note in metadata.notes) == (change is tangled)


def test_other_corpora_are_left_as_they_are(tmp_path):
    values = tangled(walks(5))
    np.savez(tmp_path / "mine.npz", x_train=values, y_train=np.arange(5) % 2)
    read = np.stack(get_series(load_corpus(str(tmp_path / "mine.npz"))["train"]))
    np.testing.assert_array_equal(read, values)
