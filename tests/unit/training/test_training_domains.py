"""Domains: their fields in layers of settings, their series, and batches of one of them."""

import numpy as np
import pytest
import torch

from hf_tsrep.training import SettingsError
from hf_tsrep.training.crosstimenet.codec_training import DomainSeriesDataset, collate_one_domain, series_in_batches
from hf_tsrep.training.crosstimenet.domains import (
    DomainSeries,
    cut_evenly,
    hold_out,
    observed_span,
)
from hf_tsrep.training.settings_sources import merge_domain_fields

FIELDS = ["patch_length", "codebook_size"]


def merged(*layers):
    return merge_domain_fields(layers, FIELDS)


def test_domains_of_all_layers_are_put_together_by_field():
    layers = merged(
        ({"seed": 1, "domains": {"har": {"patch_length": 8}}}, "file"),
        ({"domains": {"har": {"patch_length": 2, "codebook_size": 64}, "ecg": {"patch_length": 3}}}, "recipe"),
    )
    assert layers[0][0] == {
        "seed": 1,
        "domains": {"har": {"patch_length": 8, "codebook_size": 64}, "ecg": {"patch_length": 3}},
    }
    assert layers[1] == ({}, "recipe")


def test_a_field_for_all_domains_goes_before_that_of_one_in_a_lower_layer_only():
    recipe = {"domains": {"har": {"patch_length": 2, "codebook_size": 64}}}
    assert merged(({"patch_length": 4}, "command line"), (recipe, "recipe"))[1][0]["domains"] == {
        "har": {"codebook_size": 64}
    }
    same = merged(({"patch_length": 4, "domains": {"har": {"patch_length": 2}}}, "file"))
    assert same[0][0] == {"patch_length": 4, "domains": {"har": {"patch_length": 2}}}


def test_text_of_the_command_line_is_read_as_json():
    assert merged(({"domains": '{"har": {"patch_length": 4}}'}, "command line"))[0][0]["domains"] == {
        "har": {"patch_length": 4}
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"har": {"patch_lenght": 4}}, r"'patch_lenght' of domain 'har' \(file\).*'patch_length'"),
        ({"har": 4}, r"domains of 'har' \(file\) is 4"),
        ("har", r"domains='har' \(file\): expected a mapping"),
    ],
)
def test_wrong_fields_of_a_domain_name_place_and_near_match(given, message):
    with pytest.raises(SettingsError, match=message):
        merged(({"domains": given}, "file"))


def test_series_begin_and_end_where_something_is_observed():
    nan = np.nan
    series = np.array([[nan, nan], [1, nan], [nan, nan], [nan, 2], [nan, nan]], dtype=np.float32)
    np.testing.assert_array_equal(observed_span(series), series[1:4])
    assert len(observed_span(series[:1])) == 0


def test_long_series_are_cut_into_few_equal_pieces():
    series = np.arange(25)[:, None]
    assert [len(piece) for piece in cut_evenly(series, 10)] == [9, 8, 8]
    np.testing.assert_array_equal(np.concatenate(cut_evenly(series, 10)), series)
    assert len(cut_evenly(series, 25)) == len(cut_evenly(series, None)) == 1


def test_the_held_out_part_is_drawn_by_the_seed_and_never_all():
    assert hold_out(50, 0.1, 3).sum() == 5
    assert np.array_equal(hold_out(50, 0.1, 3), hold_out(50, 0.1, 3))
    assert not np.array_equal(hold_out(50, 0.1, 3), hold_out(50, 0.1, 4))
    assert hold_out(1, 0.9, 0).sum() == 0
    assert hold_out(10, 0.0, 0).sum() == 0


def domain(name, num_channels, lengths):
    series = [np.full((length, num_channels), length, dtype=np.float32) for length in lengths]
    return DomainSeries(
        name, [name], series, [f"{name} {length}" for length in lengths], series[:1], None, None, "validation part"
    )


def test_items_are_numbered_through_all_domains():
    dataset = DomainSeriesDataset([domain("a", 2, [5, 6]), domain("b", 1, [7])], places=[3, 4])
    assert len(dataset) == 3
    assert [dataset[index]["domain"] for index in range(3)] == [3, 3, 4]
    assert dataset[2]["past_values"].shape == (7, 1)


def test_a_batch_is_of_one_domain_and_padded_behind():
    dataset = DomainSeriesDataset([domain("a", 2, [5, 3]), domain("b", 1, [7])], places=[0, 1])
    batch = collate_one_domain([dataset[0], dataset[1]])
    assert batch["domain"] == 0
    assert batch["past_values"].shape == (2, 5, 2)
    assert batch["past_values"].isnan().sum(dim=1).tolist() == [[0, 0], [2, 2]]
    with pytest.raises(ValueError, match=r"domains \[0, 1\]"):
        collate_one_domain([dataset[0], dataset[2]])


def test_batches_for_measuring_are_bounded_and_in_order():
    series = [np.full((length, 1), length, dtype=np.float32) for length in (4, 4, 9, 30, 2)]
    batches = list(series_in_batches(series, num_steps=20))
    assert [tuple(batch.shape) for batch in batches] == [(2, 4, 1), (1, 9, 1), (1, 30, 1), (1, 2, 1)]
    assert torch.cat([batch[:, 0, 0] for batch in batches]).tolist() == [4, 4, 9, 30, 2]
