"""Fixtures of the corpus tests: no network, caches in temporary folders, and the real data where they are."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.delenv("HF_TSREP_DATA", raising=False)


REAL_DATA = Path(os.environ.get("HF_TSREP_DATA") or Path(__file__).parents[3].parent / "shared" / "data")


@pytest.fixture
def real_data():
    if not REAL_DATA.is_dir():
        pytest.skip(f"no benchmark data at {REAL_DATA}; set HF_TSREP_DATA to the folder that holds them")
    return REAL_DATA


@pytest.fixture
def hourly_frame():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "date": pd.date_range("2020-01-01", periods=100, freq="h"),
            "load": generator.normal(5.0, 3.0, 100),
            "OT": generator.normal(-1.0, 0.5, 100),
        }
    )
