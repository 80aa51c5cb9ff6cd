"""From series to batches: sections, crops, windows, and which items make up a batch."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from hf_tsrep.errors import SettingsError
from hf_tsrep.modeling.modeling_ts2vec import take_steps
from hf_tsrep.training import pretrain
from hf_tsrep.training.batches import (
    DomainBatchSampler,
    NumberedBatch,
    NumberedBatchSampler,
    PretrainingCollator,
    SharedBatchSampler,
    pad_with_missing,
    pad_with_missing_steps,
)
from hf_tsrep.training.data import (
    PretrainingDataset,
    centre_observed_span,
    observed_windows,
    split_with_missing,
)
from hf_tsrep.training.series_stage import windows_of_few_series

FIXTURE = Path(__file__).parents[2] / "parity" / "fixtures" / "preprocess.safetensors"


@pytest.fixture
def official():
    tensors = load_file(FIXTURE)
    with safe_open(FIXTURE, "pt") as file:
        config = json.loads(file.metadata()["config"])
    return tensors, config


def test_every_step_of_the_preparation_gives_the_official_values(official):
    tensors, config = official
    x = tensors["input.x"]
    before = x.clone()
    computed = {
        "centerized": centre_observed_span(x),
        "split": split_with_missing(x, config["sections"]),
        "pad_right": pad_with_missing(x, config["T"] + 5),
        "pad_both": pad_with_missing(x, config["T"] + 5, both_sides=True),
        "torch_pad": pad_with_missing_steps(x, left=3, right=2),
        "take_per_row": take_steps(x, tensors["input.index"], config["num_elem"]),
    }
    for name, values in computed.items():
        torch.testing.assert_close(values, tensors[f"output.{name}"], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


def test_missing_short_and_partly_observed_series_stay_as_they_are():
    missing = torch.full((1, 4, 2), torch.nan)
    torch.testing.assert_close(centre_observed_span(missing), missing, equal_nan=True)
    x = torch.arange(6.0).view(1, 6, 1)
    assert pad_with_missing(x, 3).shape == (1, 6, 1)
    with pytest.raises(ValueError, match="num_sections=7"):
        split_with_missing(x, 7)
    partly = torch.tensor([[[torch.nan, 1.0], [2.0, 2.0], [torch.nan, torch.nan]]])
    torch.testing.assert_close(centre_observed_span(partly), partly, equal_nan=True)


def test_long_series_become_two_pieces_of_4320_cropped_to_3000():
    series = np.arange(8640, dtype=np.float32)[:, None]
    dataset = PretrainingDataset([series])
    assert dataset.pieces.shape == (2, 4320, 1)
    assert dataset.sequence_length == 3000
    items = dataset.__getitems__([1, 0])
    offsets = [float(items[0]["past_values"][0]) - 4320, float(items[1]["past_values"][0])]
    assert offsets[0] == offsets[1]
    assert PretrainingCollator()(items)["past_values"].shape == (2, 3000, 1)


def test_crops_depend_on_seed_epoch_and_batch_only():
    series = np.arange(200, dtype=np.float32)[:, None]

    def starts(seed, epoch):
        dataset = PretrainingDataset([series[i : i + 150] for i in range(50)], max_train_length=100, seed=seed)
        dataset.set_epoch(epoch)
        torch.rand(3)
        return [dataset.crop_start(index) for index in range(50)]

    assert starts(0, 1) == starts(0, 1)
    assert len({tuple(starts(0, 1)), tuple(starts(0, 2)), tuple(starts(1, 1))}) == 3
    assert min(starts(0, 1)) >= 0
    assert max(starts(0, 1)) <= 50
    assert len(set(starts(0, 1))) > 10


def test_sections_are_padded_at_the_end_and_empty_ones_dropped():
    short, long = np.ones((3, 1), dtype=np.float32), np.arange(11, dtype=np.float32)[:, None]
    dataset = PretrainingDataset([short, long], max_train_length=5)
    # 11 // 5 = 2 sections of 6 and 5 steps; the second section of the short series is empty; spans are centred.
    nan = float("nan")
    expected = torch.tensor([[nan, 1, 1, 1, nan, nan], [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, nan]])
    torch.testing.assert_close(dataset.pieces[:, :, 0], expected, equal_nan=True)


def test_series_missing_only_inside_are_not_moved_and_all_missing_ones_are_dropped():
    values = np.array([[1.0], [np.nan], [3.0], [4.0]], dtype=np.float32)
    dataset = PretrainingDataset([values], max_train_length=None)
    np.testing.assert_array_equal(dataset[0]["past_values"].numpy(), values)
    both = PretrainingDataset([values, np.full((4, 1), np.nan)], max_train_length=None)
    assert len(both) == 1
    with pytest.raises(ValueError, match="nothing to train on"):
        PretrainingDataset([np.full((4, 1), np.nan)])
    with pytest.raises(ValueError, match=r"\[1, 2\] channels"):
        PretrainingDataset([values, np.ones((4, 2), dtype=np.float32)])
    with pytest.raises(ValueError, match="no series"):
        PretrainingDataset([])


def test_collator_pads_ragged_items_and_crops_by_the_global_generator():
    items = [{"past_values": torch.ones(2, 1)}, {"past_values": torch.arange(5.0)[:, None]}]
    batch = PretrainingCollator(max_train_length=None, sequence_length=6)(items)["past_values"]
    assert batch.shape == (2, 6, 1)
    assert batch.isnan().sum(dim=1).flatten().tolist() == [4, 1]
    torch.manual_seed(3)
    first = PretrainingCollator(max_train_length=2)(items)["past_values"]
    torch.manual_seed(3)
    torch.testing.assert_close(PretrainingCollator(max_train_length=2)(items)["past_values"], first, equal_nan=True)
    assert first.shape == (2, 2, 1)
    assert PretrainingCollator()([items[0]])["past_values"].shape == (1, 2, 1)


def test_ettm1_becomes_eleven_pieces_of_3142():
    dataset = PretrainingDataset([np.zeros((34_560, 1), dtype=np.float32)])
    assert dataset.pieces.shape == (11, 3142, 1)
    # 34,560 = 9 x 3,142 + 2 x 3,141: the two short pieces end in one missing step
    assert dataset.pieces.isnan().sum() == 2


def test_a_data_loader_crops_every_batch_at_one_place_and_repeats_itself():
    from torch.utils.data import DataLoader

    series = [np.arange(30, dtype=np.float32)[:, None] for _ in range(12)]

    def first_values(num_workers):
        dataset = PretrainingDataset(series, max_train_length=20, seed=1)
        dataset.set_epoch(3)
        loader = DataLoader(dataset, batch_size=4, collate_fn=PretrainingCollator(20), num_workers=num_workers)
        return [batch["past_values"][:, 0, 0].tolist() for batch in loader]

    batches = first_values(0)
    assert all(len(set(batch)) == 1 for batch in batches)
    assert len({batch[0] for batch in batches}) > 1
    assert first_values(1) == batches


def write_series(folder, num_steps):
    steps = np.arange(num_steps)
    rows = [f"2026-01-01T{step // 60 % 24:02d}:{step % 60:02d},{np.sin(step / 5):.4f}" for step in steps]
    (folder / "one.csv").write_text("date,value\n" + "\n".join(rows) + "\n")
    return str(folder / "one.csv")


def pretrain_one(folder, num_steps, **fields):
    from hf_tsrep.training import pretrain

    tiny = {"hidden_size": 4, "embedding_size": 6, "num_hidden_layers": 2, "disable_tqdm": True, "use_cpu": True}
    given = {"max_steps": 1, "save_strategy": "no", **tiny, **fields}
    result = pretrain("ts2vec", write_series(folder, num_steps), folder / "out", **given)
    return json.loads((result.output_dir / "pretraining.json").read_text())["facts"]


def test_one_long_series_is_cut_into_windows_that_make_a_batch(tmp_path, caplog):
    with caplog.at_level("INFO", logger="hf_tsrep.training"):
        facts = pretrain_one(tmp_path, 400)
    assert facts["windows"] == {"max_train_length": 100, "window_stride": 9}
    assert (facts["num_series"], facts["num_training_items"], facts["sequence_length"]) == (1, 34, 100)
    assert facts["per_device_train_batch_size"] == 8
    assert "1 training items are too few for a batch of 8, so the series are cut into 34 windows" in caplog.text
    assert "window_stride" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("fields", [{"max_train_length": 200}, {"recipe": "ett", "time_features": False}])
def test_pieces_that_somebody_chose_stay(tmp_path, fields):
    facts = pretrain_one(tmp_path, 400, **fields)
    assert "windows" not in facts
    assert facts["num_training_items"] == (2 if "max_train_length" in fields else 1)


def test_a_batch_of_one_item_is_told_with_what_helps(tmp_path, caplog):
    facts = pretrain_one(tmp_path, 40)  # a quarter of it is too short for a window
    assert facts["per_device_train_batch_size"] == 1
    assert "A batch holds one training item" in caplog.text
    assert "max_train_length with window_stride" in caplog.text


def test_a_list_of_arrays_is_one_corpus_whose_dead_channel_is_named(tmp_path, caplog):
    from hf_tsrep.training import pretrain

    series = [np.random.default_rng(index).normal(size=(20, 2)).astype(np.float32) for index in range(4)]
    for one in series:
        one[:, 1] = np.nan
    tiny = {"hidden_size": 4, "embedding_size": 6, "num_hidden_layers": 2, "disable_tqdm": True, "use_cpu": True}
    given = {"max_steps": 1, "save_strategy": "no", **tiny}
    result = pretrain("ts2vec", series, tmp_path / "out", **given)
    assert json.loads((result.output_dir / "pretraining.json").read_text())["corpus"] == ["<list>"]
    assert "channel 1 has no value in 4 of 4 series" in caplog.text
    with pytest.raises(ValueError, match="reads no timestamp of any training series, because channel_1 has no value"):
        pretrain("ts2vec", series, tmp_path / "other", missing_values="timestamp", **given)


def test_windows_of_few_series_fit_the_shortest_and_the_longest_that_is_allowed():
    assert windows_of_few_series([np.zeros((8000, 1))], 8, 3000) == (2000, 187)
    assert windows_of_few_series([np.zeros((80_000, 1))], 64, 3000) == (3000, 300)
    assert windows_of_few_series([np.zeros((8000, 1)), np.zeros((100, 1))], 8, None) == (100, 50)
    assert windows_of_few_series([np.zeros((63, 1))], 8, 3000) is None


def test_windows_without_an_observed_value_are_left_out():
    values = np.ones((40, 2), dtype=np.float32)
    values[5:25] = np.nan
    kept = observed_windows([values, np.ones((10, 2), dtype=np.float32)], 8, 4)
    assert kept.tolist() == [[0, 0], [0, 4], [0, 20], [0, 24], [0, 28], [0, 32], [1, 0]]
    with pytest.raises(ValueError, match="Every value of every window is missing"):
        observed_windows([np.full((20, 1), np.nan)], 8, 4)


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


def test_two_corpora_with_each_other_s_channels_in_another_order_are_refused(tmp_path):
    for name, columns in (("north", ["load", "oil"]), ("south", ["oil", "load"])):
        frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=columns)
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    corpora = [str(tmp_path / "north.csv"), str(tmp_path / "south.csv")]
    with pytest.raises(SettingsError, match=r"Corpus .*south.* has the channels oil, load; .*north.* as load, oil"):
        pretrain("ts2vec", corpora, tmp_path / "run", max_steps=1, use_cpu=True)
