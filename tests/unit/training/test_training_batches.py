"""Which items make up a batch: numbers of batches, and batches of one domain for several processes."""

import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from hf_tsrep.training.batches import DomainBatchSampler, NumberedBatch, NumberedBatchSampler, SharedBatchSampler
from hf_tsrep.training.data import PretrainingDataset


def test_batches_that_processes_share_have_one_number():
    sampler = NumberedBatchSampler(SequentialSampler(range(12)), 2, True, num_processes=3)
    batches = list(sampler)
    assert [list(batch) for batch in batches] == [[start, start + 1] for start in range(0, 12, 2)]
    assert [batch.number for batch in batches] == [0, 0, 0, 1, 1, 1]
    assert pickle.loads(pickle.dumps(batches[4])).number == 1


def test_all_processes_crop_at_the_window_of_one_process():
    series = [np.arange(40, dtype=np.float32)[:, None] for _ in range(24)]
    dataset = PretrainingDataset(series, max_train_length=25, seed=3)

    def starts(batch_size, num_processes):
        sampler = NumberedBatchSampler(SequentialSampler(dataset), batch_size, True, num_processes)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=list)
        return [{float(item["past_values"][0]) for item in batch} for batch in loader]

    alone = starts(4, 1)
    assert all(len(found) == 1 for found in alone)
    assert len({min(found) for found in alone}) > 1
    shared = starts(2, 2)
    assert shared[::2] == shared[1::2] == alone
    assert dataset.__getitems__(NumberedBatch([7], 2))[0]["past_values"][0] == dataset.crop_start(2)


def test_numbering_does_not_change_the_order():
    import torch

    def order(kind, *more):
        generator = torch.Generator().manual_seed(5)
        return [list(one) for one in kind(RandomSampler(range(10), generator=generator), 3, False, *more)]

    assert order(NumberedBatchSampler, 2) == order(torch.utils.data.BatchSampler)


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler)


SIZES = [40, 10, 25]
DOMAINS = np.repeat([0, 1, 2], SIZES)


def test_every_batch_is_of_one_domain_and_every_series_comes_once_an_epoch():
    sampler = DomainBatchSampler(SIZES, 5, seed=1)
    batches = epoch_of(sampler)
    assert len(batches) == len(sampler) == 15
    assert sorted(index for batch in batches for index in batch) == list(range(75))
    domains = [set(DOMAINS[batch].tolist()) for batch in batches]
    assert all(len(found) == 1 for found in domains)
    order = [min(found) for found in domains]
    assert np.bincount(order).tolist() == [8, 2, 5]
    assert order != sorted(order)


def test_the_order_depends_on_seed_and_epoch_only():
    one = epoch_of(DomainBatchSampler(SIZES, 5, seed=1), 3)
    assert epoch_of(DomainBatchSampler(SIZES, 5, seed=1), 3) == one
    assert epoch_of(DomainBatchSampler(SIZES, 5, seed=1), 4) != one
    assert epoch_of(DomainBatchSampler(SIZES, 5, seed=2), 3) != one


@pytest.mark.parametrize("mixed", [False, True])
def test_processes_share_the_batch_of_one_process(mixed):
    alone = epoch_of(DomainBatchSampler(SIZES, 6, seed=1, mixed=mixed))
    shared = epoch_of(DomainBatchSampler(SIZES, 2, num_processes=3, seed=1, mixed=mixed))
    assert [[*first, *second, *third] for first, second, third in zip(*[iter(shared)] * 3, strict=True)] == alone
    assert {len(batch) for batch in shared} == {2}


def test_what_is_left_of_a_domain_is_left_out_and_a_small_domain_is_one_batch():
    batches = epoch_of(DomainBatchSampler([7, 9], 4, num_processes=2))
    assert [len(batch) for batch in batches] in ([3, 3, 4, 4], [4, 4, 3, 3])
    left_out = set()
    for epoch in range(12):
        drawn = {index for batch in epoch_of(DomainBatchSampler([9, 4], 4), epoch) for index in batch}
        left_out |= set(range(13)) - drawn
    assert len(left_out) > 3
    with pytest.raises(ValueError, match="Domain 1 has 1 items"):
        DomainBatchSampler([9, 1], 4, num_processes=2)


def test_mixed_batches_hold_items_of_all_domains():
    batches = epoch_of(DomainBatchSampler(SIZES, 15, mixed=True))
    assert len(batches) == 5
    assert max(len(set(DOMAINS[batch].tolist())) for batch in batches) == 3


@pytest.mark.parametrize(("num_items", "expected"), [(16, [8, 8]), (21, [8, 8, 5]), (17, [8, 9]), (3, [3])])
def test_shared_batches_hold_every_item_once_in_the_order_of_one_process(num_items, expected):
    sampler = SharedBatchSampler(SequentialSampler(range(num_items)), 4, num_processes=2)
    parts = list(sampler)
    assert len(parts) == len(sampler) == 2 * len(expected)
    assert [index for part in parts for index in part] == list(range(num_items))
    assert [len(first) + len(second) for first, second in zip(parts[::2], parts[1::2], strict=True)] == expected
    assert all(0 <= len(first) - len(second) <= 1 for first, second in zip(parts[::2], parts[1::2], strict=True))
    assert [part.number for part in parts[::2]] == list(range(len(expected)))


def test_fewer_items_than_processes_are_refused():
    with pytest.raises(ValueError, match="1 training items, fewer than the 2 processes"):
        SharedBatchSampler(SequentialSampler(range(1)), 4, num_processes=2)
