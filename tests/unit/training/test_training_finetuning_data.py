"""What a fine-tuning reads: shares of the labels, held-out parts, forecasting windows, padding, tokens."""

import numpy as np
import pytest
import torch

from hf_tsrep.data import WindowDataset
from hf_tsrep.training.finetuning_data import (
    ForecastWindows,
    hold_out,
    pad_series,
    split_bounds,
    take_fraction,
    window_index,
)
from hf_tsrep.training.settings import FinetuneDataSettings, FinetuneSettings

LABELS = np.repeat([0, 1, 2], [20, 10, 1])


def counts(labels):
    return np.bincount(labels, minlength=3).tolist()


def settings_with(**data):
    return FinetuneSettings("ts2vec", "ts2vec", "c", "o", "forecasting", "default", data=FinetuneDataSettings(**data))


def test_a_fifth_of_every_class_is_held_out_and_the_lonely_sample_stays():
    kept, held_out = hold_out(LABELS, 0.2, seed=0)
    assert counts(LABELS[kept]) == [16, 8, 1]
    assert counts(LABELS[held_out]) == [4, 2, 0]
    assert sorted([*kept, *held_out]) == list(range(31))
    again = hold_out(LABELS, 0.2, seed=0)[1]
    other = hold_out(LABELS, 0.2, seed=1)[1]
    assert held_out.tolist() == again.tolist() != other.tolist()


def test_a_large_share_leaves_one_of_every_class_in_train():
    kept, held_out = hold_out(LABELS, 0.99, seed=0)
    assert counts(LABELS[kept]) == [1, 1, 1]
    assert counts(LABELS[held_out]) == [19, 9, 0]


def test_nothing_can_be_held_out_of_single_samples():
    with pytest.raises(ValueError, match="validation=none"):
        hold_out(np.arange(3), 0.2, seed=0)


def test_a_share_of_the_labels_is_stratified_and_grows():
    tenth, half = (take_fraction(LABELS, share, seed=3) for share in (0.1, 0.5))
    assert counts(LABELS[tenth]) == [2, 1, 1]
    assert counts(LABELS[half]) == [10, 5, 1]
    assert set(tenth) < set(half)
    assert take_fraction(LABELS, 1.0, seed=3).tolist() == list(range(31))
    assert take_fraction(LABELS, 0.1, seed=4).tolist() != tenth.tolist()


def test_windows_predict_every_step_of_a_part_and_train_looks_at_nothing_else():
    bounds = {"train": [(0, 20)], "test": [(30, 40)]}
    train = window_index(bounds["train"], 4, 3, 1, may_look_back=False)
    assert train[:, 1].tolist() == list(range(14))  # the last one ends with step 19
    test = window_index(bounds["test"], 4, 3, 1, may_look_back=True)
    assert test[:, 1].tolist() == list(range(26, 34))  # futures begin at 30 .. 37
    strided = window_index(bounds["train"], 4, 3, 5, may_look_back=False)
    assert strided[:, 1].tolist() == [0, 5, 10]
    assert len(window_index([(0, 6)], 4, 3, 1, may_look_back=False)) == 0


def test_windows_of_several_series_name_theirs():
    rows = window_index([(5, 12), (9, 13)], 3, 2, 2, may_look_back=True)
    assert rows.tolist() == [[0, 2], [0, 4], [0, 6], [1, 6], [1, 8]]


def test_a_corpus_without_validation_gives_the_end_of_train():
    stretches = {"train": [np.zeros((10, 1)), np.zeros((20, 1))], "test": [np.zeros((5, 1)), np.zeros((6, 1))]}
    bounds = split_bounds(stretches, settings_with(validation_fraction=0.2))
    assert bounds["train"] == [(0, 8), (0, 16)]
    assert bounds["validation"] == [(8, 10), (16, 20)]
    assert bounds["test"] == [(10, 15), (20, 26)]
    assert "validation" not in split_bounds(stretches, settings_with(validation="none"))


def test_context_and_future_stand_behind_each_other_without_time_features():
    series = np.stack([np.arange(10.0), 100 + np.arange(10.0)], axis=1)
    windows = ForecastWindows(WindowDataset([series], 5), context_length=3, num_time_features=1)
    alone, batch = windows[2], windows.__getitems__([2, 0])
    assert alone["past_values"].tolist() == [[2, 102], [3, 103], [4, 104]]
    assert alone["future_values"].tolist() == [[105], [106]]
    assert torch.equal(batch[0]["past_values"], alone["past_values"])
    assert batch[1]["future_values"].tolist() == [[103], [104]]


def test_shorter_series_are_missing_at_the_end():
    padded = pad_series([np.ones((2, 3)), np.zeros((4, 3))], 5)
    assert padded.shape == (2, 5, 3)
    assert padded[0, :2].eq(1).all()
    assert padded[0, 2:].isnan().all()
    assert padded.isnan().sum() == 3 * 3 + 1 * 3
