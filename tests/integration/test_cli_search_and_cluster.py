"""`hf-tsrep search` and `hf-tsrep cluster` of a stranger's own CSV."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from machines import COLUMN_WORDS, table
from sklearn.metrics import pairwise_distances

import hf_tsrep

SEARCH = ("search", "--model", "model", "--corpus", "machines.csv", *COLUMN_WORDS, "--backend", "exact")


def embeddings():
    series = [part[["pressure", "load"]].to_numpy(np.float32) for _, part in table().groupby("machine", sort=False)]
    return hf_tsrep.TS2VecModel.from_pretrained("model").encode(series)


def test_items_of_the_corpus_have_the_nearest_others(work, command_line):
    code, out, err = command_line(*SEARCH, "--item", "m07,m02", "--num-neighbours", "3", "--output", "n.csv")
    assert code == 0, err
    assert "neighbours of 2 queries in 24 series" in out
    found = pd.read_csv("n.csv")
    assert found["query"].tolist() == ["m02"] * 3 + ["m07"] * 3
    assert found["rank"].tolist() == [1, 2, 3] * 2
    distances = pairwise_distances(embeddings())
    expected = np.argsort(distances[7])[1:4]
    assert found.item_id[3:].tolist() == [f"m{index:02d}" for index in expected]
    np.testing.assert_allclose(found.distance[3:], distances[7][expected], rtol=1e-3)
    assert set(found.label) <= {"fine", "worn"}
    provenance = json.loads(Path("n.csv.json").read_text())["provenance"]
    assert (provenance["model"], provenance["corpus"], provenance["backend"]) == ("model", "machines", "exact")


def test_a_file_of_queries_and_windows_with_their_dates(work, command_line):
    frame = table()
    frame[frame.machine == "m05"].to_csv("query.csv", index=False)
    words = ("--input", "query.csv", "--window-length", "8", "--num-neighbours", "1", "--output", "n.parquet")
    code, _, err = command_line(*SEARCH, *words)
    assert code == 0, err
    found = pd.read_parquet("n.parquet")
    own = frame[frame.machine == "m05"]
    assert found.item_id.tolist() == ["m05"] * len(found)
    assert found.start.tolist() == found.query_start.tolist() == list(range(0, len(own), 8))
    assert found.end.tolist()[-1] == len(own)
    assert found.start_time.tolist() == own.time.iloc[::8].tolist()


def test_every_series_has_its_cluster(work, command_line):
    words = ("--input", "machines.csv", *COLUMN_WORDS, "--num-clusters", "2", "--output", "c.csv", "--figure", "c.png")
    code, out, err = command_line("cluster", "--model", "model", *words)
    assert code == 0, err
    assert "2 clusters of 24 series, silhouette" in out
    found = pd.read_csv("c.csv")
    assert found.item_id.tolist() == [f"m{index:02d}" for index in range(24)]
    assert found.cluster.value_counts().index.tolist() == [0, 1]
    assert found.example.sum() == 2
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    provenance = json.loads(Path("c.csv.json").read_text())["provenance"]
    np.testing.assert_allclose(provenance["silhouette"], found.silhouette.mean(), rtol=1e-6)


def test_what_is_wrong_is_said(work, command_line):
    for words, message in (
        ((*SEARCH, "--output", "n.npy"), "choose one of .csv, .parquet"),
        ((*SEARCH, "--output", "n.csv", "--item", "m7"), "--item m7: there is no such series"),
        ((*SEARCH, "--output", "n.csv", "--neighbours", "3"), "Unknown option --neighbours for search"),
    ):
        code, _, err = command_line(*words)
        assert code == 2, err
        assert message in err
