"""A corpus published on a Hub on this machine is the corpus that comes back, in a fresh process."""

import json

import numpy as np
import pandas as pd
import pytest
from loopback_hub import LoopbackHub

REPOSITORY = "tester/waves"
DESCRIBE = """
import json, sys
from hf_tsrep.data import corpus_fingerprint, corpus_metadata
def describe(corpus):
    metadata = corpus_metadata(corpus)
    print(json.dumps([corpus_fingerprint(corpus), list(metadata.channel_names), metadata.scaler, sorted(corpus)]))
"""


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as running:
        yield running


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=200, freq="h")})
    frame["load"], frame["oil"] = generator.normal(5.0, 3.0, 200), generator.normal(size=200)
    frame.loc[7, "oil"] = np.nan
    frame.to_csv(tmp_path / "waves.csv", index=False)
    return tmp_path / "waves.csv"


@pytest.mark.slow
def test_a_corpus_comes_back_from_the_hub(hub, table, tmp_path):
    homes = [tmp_path / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
    push = f"""
from hf_tsrep.data import load_corpus, prepare_corpus
prepare_corpus({str(table)!r}, push_to_hub={REPOSITORY!r}, scaler="standard")
describe(load_corpus({str(table)!r}, scaler="standard"))
"""
    pushed = json.loads(hub.run(DESCRIBE + push, homes[0]).splitlines()[-1])
    assert any(path.endswith(".parquet") for path in hub.files(REPOSITORY, "datasets"))
    load = f"from hf_tsrep.data import load_corpus\ndescribe(load_corpus({REPOSITORY!r}))"
    loaded = json.loads(hub.run(DESCRIBE + load, homes[1]).splitlines()[-1])
    assert loaded == pushed
    assert loaded[2]["kind"] == "standard"
