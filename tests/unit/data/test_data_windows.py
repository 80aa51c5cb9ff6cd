import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_tsrep.data import SeriesBank, WindowDataset, sliding_window_index


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
