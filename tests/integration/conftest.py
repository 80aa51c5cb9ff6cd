"""What several files of whole runs begin with. What is trained here is trained once for a file."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from crosstimenet_runs import codec_run, write_corpora
from interpreters import Interpreters
from machines import COLUMN_WORDS, COLUMNS, TINY, TINY_WORDS, machines, table


@pytest.fixture(scope="session")
def interpreters():
    """Two interpreters that have imported the library and fork for every program."""
    with Interpreters() as running:
        yield running


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two CSV files of series: walk.csv with two channels and pulse.csv with one."""
    return write_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def tokenizer(corpora, tmp_path_factory):
    """Train a tokenizer of CrossTimeNet for both corpora; return the result."""
    from hf_tsrep.training import pretrain

    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    return pretrain(**codec_run(corpora, folder, max_steps=6, save_strategy="no", per_device_train_batch_size=4))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with train.csv and test.csv of machines in three states; no validation."""
    place = tmp_path_factory.mktemp("machines")
    machines(0, 36).to_csv(place / "train.csv", index=False)
    machines(1, 18).to_csv(place / "test.csv", index=False)
    return str(place)


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    """The folder of an encoder that was trained on the machines, scaled."""
    import hf_tsrep

    folder = tmp_path_factory.mktemp("pretrained") / "encoder"
    options = {"max_steps": 3, "scaler": "standard", "disable_tqdm": True, "use_cpu": True, **TINY, **COLUMNS}
    hf_tsrep.pretrain("ts2vec", corpus, folder, **options)
    return folder


@pytest.fixture(scope="module")
def long_series(tmp_path_factory):
    """A CSV file of one series of 400 steps and two channels."""
    path = tmp_path_factory.mktemp("long") / "long.csv"
    steps = np.arange(400)
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"date": pd.date_range("2026-01-01", periods=400, freq="h")})
    for name, pace in (("first", 0.3), ("second", 0.11)):
        frame[name] = np.sin(steps * pace) + 0.1 * generator.normal(size=400) + 3
    frame.to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory):
    """A folder with a long table, a wide one, and a model that the command line has trained on the long one."""
    from hf_tsrep.cli.main import run

    place = tmp_path_factory.mktemp("flow")
    here = Path.cwd()
    os.chdir(place)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        table().to_csv("machines.csv", index=False)
        wide = table()[lambda frame: frame.machine >= "m12"][["pressure", "load"]].ffill().reset_index(drop=True)
        wide.insert(0, "date", pd.date_range("2026-01-01", periods=len(wide), freq="h"))
        wide.to_csv("wide.csv", index=False)
        words = ("--method", "ts2vec", "--corpus", "machines.csv", *COLUMN_WORDS, "--scaler", "standard")
        assert run(["-q", "pretrain", *words, "--output-dir", "model", "--max-steps", "5", *TINY_WORDS]) == 0
        yield place
    finally:
        torch.set_num_threads(threads)
        os.chdir(here)


@pytest.fixture
def work(trained_folder, tmp_path, monkeypatch):
    """A folder of the test's own with copies of the tables and the model."""
    shutil.copytree(trained_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
