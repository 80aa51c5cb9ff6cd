"""`hf-tsrep detect` of a stranger's own CSV: scores, alarms, picture and where they come from."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from machines import COLUMN_WORDS

import hf_tsrep

WORDS = ("detect", "--model", "model", "--input", "wide.csv", "--output", "scores.csv", "--context-length", "20")


@pytest.fixture
def broken(work):
    """The wide table, of which one sensor is stuck at a wild value for some steps near the end."""
    frame = pd.read_csv("wide.csv")
    frame.loc[len(frame) - 40 : len(frame) - 36, "pressure"] += 25
    frame.to_csv("wide.csv", index=False)
    return frame


def test_scores_are_those_of_the_python_interface(broken, command_line):
    from transformers import AutoModel

    code, out, err = command_line(*WORDS, "--figure", "scores.png")
    assert code == 0, err
    table = pd.read_csv("scores.csv")
    frame = broken.assign(date=pd.to_datetime(broken.date)).set_index("date")
    model = AutoModel.from_pretrained("model")
    found = hf_tsrep.detect(model, frame[["load", "pressure"]], context_length=20)
    np.testing.assert_allclose(table.score, found.scores, rtol=1e-4, atol=1e-5)
    assert table.threshold.unique() == pytest.approx([found.threshold], rel=1e-4)
    np.testing.assert_array_equal(table.alarm, found.is_alarm)
    assert table.reference.sum() == found.reference_length == len(frame) // 2
    assert pd.to_datetime(table.timestamp).tolist() == frame.index.tolist()
    assert Path("scores.png").read_bytes().startswith(b"\x89PNG")
    alarms = pd.read_csv("scores.alarms.csv")
    assert alarms[["start", "end"]].to_numpy().tolist() == [[one.start, one.end] for one in found.alarms]
    assert pd.to_datetime(alarms.start_time).tolist() == [pd.Timestamp(one.start_time) for one in found.alarms]
    assert len(frame) - 40 in alarms.start.tolist()
    assert f"{len(alarms)} alarm" in out


def test_the_neighbour_says_where_the_scores_come_from(broken, command_line):
    assert command_line(*WORDS)[0] == 0
    provenance = json.loads(Path("scores.csv.json").read_text())["provenance"]
    assert (provenance["model"], provenance["method"], provenance["corpus"]) == ("model", "ts2vec", "wide")
    assert (provenance["score"], provenance["context_length"]) == ("masked difference", 20)
    assert provenance["preparation"]["channel_names"] == ["pressure", "load"]
    assert len(provenance["weights_sha256"]) == len(provenance["corpus_fingerprint"]) == 64
    assert str(Path.cwd()) not in json.dumps(provenance)


def test_a_file_of_its_own_is_the_reference_of_every_item(work, command_line):
    frame = pd.read_csv("machines.csv")
    frame[frame.machine < "m12"].to_csv("normal.csv", index=False)
    frame[frame.machine >= "m12"].to_csv("new.csv", index=False)
    words = ("--reference", "normal.csv", "--score", "distance", "--context-length", "8", "--output", "s.parquet")
    code, _, err = command_line("detect", "--model", "model", "--input", "new.csv", *COLUMN_WORDS, *words)
    assert code == 0, err
    table = pd.read_parquet("s.parquet")
    assert table.item_id.tolist() == frame[frame.machine >= "m12"].machine.tolist()
    assert table.threshold.nunique() == 1
    assert not table.reference.any()
    assert json.loads(Path("s.parquet.json").read_text())["provenance"]["reference"] == "normal.csv"
    assert Path("s.alarms.parquet").is_file()


def test_what_is_wrong_is_said_before_anything_is_computed(work, command_line):
    for words, message in (
        (("--output", "scores.txt"), "choose one of .csv, .parquet"),
        (("--figure", "scores.gif"), "--figure scores.gif: the suffix says the format"),
        (("--refrence", "0.3"), "Unknown option --refrence for detect. Did you mean --reference or --difference?"),
        (("--reference", "nowhere.csv"), "nowhere.csv"),
        (("--score", "likelihood"), "score='likelihood' is unknown"),
    ):
        code, _, err = command_line(*WORDS, *words)
        assert code == 2, err
        assert message in err
