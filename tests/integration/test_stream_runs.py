"""Pre-training on streams: every window once an epoch, by node, resumed bit for bit, scalers in one pass, refusals."""

import json
import shutil

import numpy as np
import pytest
import torch
from training_runs import assert_equal_files, losses, start

from hf_tsrep.data import ChannelScaler, CorpusError, get_series, load_corpus
from hf_tsrep.training import SettingsError, finetune, pretrain
from hf_tsrep.training.streams import SeriesReader, StreamedWindows

TINY = {"hidden_size": 8, "embedding_size": 12, "num_hidden_layers": 2, "disable_tqdm": True, "use_cpu": True}
STREAMED = {"streaming": True, "max_train_length": 10, "window_stride": 5, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of 31 series of unequal lengths in four Parquet files; the values of a series tell its number."""
    from hf_tsrep.data.corpus import RawCorpus, SeriesRecord
    from hf_tsrep.data.hub_layout import build_corpus

    folder = tmp_path_factory.mktemp("stream")
    generator = np.random.default_rng(0)
    records = []
    for number in range(31):
        values = generator.normal(size=(8 + number % 13, 2)).astype(np.float32)
        values[:, 0] = number
        values[3:5, 1] = np.nan
        records.append(SeriesRecord(values, f"s{number}"))
    rows = build_corpus(RawCorpus({"train": records}, ("number", "noise")))["train"]
    for place, first in enumerate(range(0, 31, 8)):
        part = rows.select(range(first, min(first + 8, 31)))
        part.to_parquet(str(folder / f"train-{place:05d}-of-00004.parquet"), batch_size=3)
    return folder


def stream(folder):
    return load_corpus(str(folder), streaming=True)["train"]


def windows(folder, buffer=16, seed=3, rank=0, num_processes=1, batch_size=4):
    reader = SeriesReader(stream(folder), 3, seed, rank, num_processes)
    return StreamedWindows(reader, 10, 5, batch_size, buffer, seed, rank=rank)


def take(dataset, count):
    found = iter(dataset)
    return [next(found)["past_values"] for _ in range(count)]


def expected_windows(folder):
    """Return the number of windows of each series."""
    lengths = [len(one) for one in get_series(load_corpus(str(folder))["train"])]
    return [1 + max(0, (length - 10) // 5) for length in lengths]


def test_an_epoch_has_every_window_once_and_the_next_another_order(stored):
    counts = expected_windows(stored)
    given = take(windows(stored, batch_size=1), 2 * sum(counts))
    numbers = [int(one[0, 0, 0]) for one in given]
    epochs = numbers[: sum(counts)], numbers[sum(counts) :]
    for epoch in epochs:
        assert [epoch.count(number) for number in range(31)] == counts
    assert epochs[0] != epochs[1]
    assert [one.shape for one in given[:3]] == [(1, 10, 2)] * 3
    short = next(one for one in given if int(one[0, 0, 0]) == 0)
    assert short[0, 8:].isnan().all()
    assert numbers == [int(one[0, 0, 0]) for one in take(windows(stored, batch_size=1), 2 * sum(counts))]
    assert numbers != [int(one[0, 0, 0]) for one in take(windows(stored, batch_size=1, seed=4), 2 * sum(counts))]


@pytest.mark.parametrize("num_processes", [2, 3])  # four files: dealt out, or read by both and the rows dealt out
def test_processes_share_the_series_of_an_epoch(stored, num_processes):
    seen = []
    for rank in range(num_processes):
        reader = SeriesReader(stream(stored), 3, 3, rank, num_processes)
        seen += [int(one[0, 0]) for block in iter(reader.read, []) for one in block]
    assert sorted(seen) == list(range(31))


@pytest.mark.parametrize("batches", [0, 1, 5, 17, 40])
def test_a_position_is_gone_on_from_bit_for_bit(stored, batches):
    whole = take(windows(stored), 50)
    first = windows(stored)
    take(first, batches)
    again = windows(stored)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found = iter(again)
    assert [next(found) for _ in range(batches)] == [{}] * batches
    for expected in whole[batches:]:
        torch.testing.assert_close(next(found)["past_values"], expected, rtol=0, atol=0, equal_nan=True)


def test_fewer_windows_than_a_batch_are_told(stored):
    with pytest.raises(CorpusError, match="fewer than a batch of 500"):
        take(windows(stored, batch_size=500), 1)


def test_a_scaler_is_fitted_in_one_pass(stored):
    series = get_series(load_corpus(str(stored))["train"])
    for kind in ("standard", "global"):
        expected = ChannelScaler.fit(series, kind=kind)
        found = ChannelScaler.fit_streamed(iter(SeriesReader(stream(stored), 3).read, []), kind=kind)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-12)
    constant = ChannelScaler.fit_streamed([[np.asarray([[1, np.nan]] * 3)], [np.asarray([[1, np.nan]])]])
    np.testing.assert_array_equal([constant.mean, constant.scale], [[1, 0], [1, 1]])


def test_a_killed_run_on_a_stream_ends_with_equal_bits(stored, tmp_path):
    fields = {**TINY, **STREAMED, "shuffle_buffer": 16, "scaler": "standard", "max_steps": 20, "save_steps": 6}
    fields |= {"logging_steps": 1, "save_total_limit": 4, "gradient_accumulation_steps": 2}
    whole = pretrain("ts2vec", str(stored), tmp_path / "whole", **fields)
    record = json.loads((whole.output_dir / "pretraining.json").read_text())
    assert record["facts"]["sequence_length"] == 10
    assert whole.model.preparation.mean is not None
    assert "a stream" in (whole.output_dir / "README.md").read_text()
    killed = tmp_path / "killed"
    shutil.copytree(whole.output_dir, killed)
    for name in ("model.safetensors", "checkpoint-12", "checkpoint-18", "checkpoint-20"):
        path = killed / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    pretrain("ts2vec", str(stored), killed, resume_from_checkpoint=True, **fields)
    assert_equal_files(killed / "model.safetensors", whole.output_dir / "model.safetensors")
    assert losses(killed, ("loss", "epoch")) == losses(whole.output_dir, ("loss", "epoch"))
    with pytest.raises(ValueError, match="shuffle_buffer is 8"):
        pretrain("ts2vec", str(stored), killed, resume_from_checkpoint=True, **{**fields, "shuffle_buffer": 8})


def test_sigkill_costs_a_streamed_run_of_two_processes_no_bit(stored, interpreters, tmp_path):
    """Killed in every process after step 8: the run goes on from checkpoint 6, where each has its own position."""
    fields = {**TINY, **STREAMED, "method": "ts2vec", "corpus": str(stored), "shuffle_buffer": 16, "seed": 7}
    fields |= {"max_steps": 10, "save_steps": 3, "save_total_limit": 4, "logging_steps": 1}
    whole, killed = ({**fields, "output_dir": str(tmp_path / name)} for name in ("whole", "killed"))
    assert start(interpreters, whole, num_processes=2) == 0
    assert start(interpreters, killed, "on_step_end", 8, 2) == -9
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert start(interpreters, {**killed, "resume_from_checkpoint": True}, num_processes=2) == 0

    record = json.loads((tmp_path / "killed" / "pretraining.json").read_text())
    assert record["facts"]["num_processes"] == 2
    positions = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("killed/checkpoint-6/stream_*.json"))]
    assert [one["batches"] for one in positions] == [6, 6]
    for name in ("model.safetensors", "checkpoint-10/model.safetensors"):
        assert_equal_files(tmp_path / "killed" / name, tmp_path / "whole" / name)
    expected = losses(tmp_path / "whole", ("loss", "grad_norm"))
    assert losses(tmp_path / "killed", ("loss", "grad_norm")) == expected
    assert [entry["step"] for entry in expected] == list(range(1, 11))


def test_a_stream_that_is_given_trains_and_what_it_cannot_is_refused_by_name(stored, tmp_path):
    given = load_corpus(str(stored), streaming=True)
    fields = {**TINY, **STREAMED, "save_strategy": "no"}
    small = {"num_attention_heads": 2, "embedding_size": 8, "max_steps": 2, "per_device_train_batch_size": 4}
    assert pretrain("tst", given, tmp_path / "tst", **{**TINY, **small}).metrics["num_steps"] == 2
    for method, changes, reason in (
        ("ts2vec", {"num_train_epochs": 1}, "give max_steps"),
        ("ts2vec", {"max_steps": 2, "validation_loss": True}, "validation_loss goes by epochs"),
        ("ts2vec", {"max_steps": 2, "epoch_schedule": "halving"}, "epoch_schedule goes by epochs"),
        ("ts2vec", {"max_steps": 2, "time_features": True}, "time_features"),
        ("ts2vec", {"max_steps": 2, "dataloader_num_workers": 1}, "dataloader_num_workers"),
        ("ts2vec", {"streaming": False, "shuffle_buffer": 5}, "shuffle_buffer=5 is of streams"),
        ("crosstimenet", {"stage": "tokenizer"}, "'tokenizer' of crosstimenet cannot train on a stream"),
    ):
        corpus = str(stored) if "streaming" in changes else given
        with pytest.raises(SettingsError, match=reason):
            pretrain(
                method,
                corpus,
                tmp_path / "none",
                **{**(fields if method == "ts2vec" else {"streaming": True}), **changes},
            )
    with pytest.raises(ValueError, match="needs the splits train and test; the corpus has train"):
        finetune("ts2vec", given, tmp_path / "none", **TINY)
