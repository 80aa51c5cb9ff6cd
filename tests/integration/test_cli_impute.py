"""`hf-tsrep impute` of a stranger's own CSV."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from machines import COLUMN_WORDS, table

import hf_tsrep
from hf_tsrep import TimeSeriesFeatureExtractor


def pretrained(folder):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = hf_tsrep.TSTForPreTraining(hf_tsrep.TSTConfig(num_input_channels=2, context_length=24, **sizes))
    model.preparation = TimeSeriesFeatureExtractor(
        num_channels=2, channel_names=["pressure", "load"], mean=[0.5, -1.0], scale=[2.0, 3.0]
    )
    model.save_pretrained(folder)


def test_the_file_comes_back_without_gaps(work, command_line):
    pretrained("filler")
    frame = pd.read_csv("wide.csv")
    frame.loc[5:9, "pressure"] = np.nan
    frame.loc[30, ["pressure", "load"]] = np.nan
    frame.to_csv("gappy.csv", index=False)
    code, out, err = command_line("impute", "--model", "filler", "--input", "gappy.csv", "--output", "whole.csv")
    assert code == 0, err
    assert f"7 of {2 * len(frame)} values filled in" in out
    found = pd.read_csv("whole.csv")
    assert found.columns.tolist() == ["timestamp", "pressure", "load"]
    assert pd.to_datetime(found.timestamp).tolist() == pd.to_datetime(frame.date).tolist()
    expected = hf_tsrep.impute("filler", frame[["pressure", "load"]])
    np.testing.assert_allclose(found[["pressure", "load"]], expected.values, rtol=1e-4, atol=1e-5)
    known = frame[["pressure", "load"]].notna().to_numpy()
    given = frame[["pressure", "load"]].to_numpy()
    np.testing.assert_allclose(found[["pressure", "load"]].to_numpy()[known], given[known], rtol=1e-6)
    provenance = json.loads(Path("whole.csv.json").read_text())["provenance"]
    assert (provenance["model"], provenance["method"], provenance["window_length"]) == ("filler", "tst", 24)
    assert provenance["filled"] == {"pressure": 6, "load": 1}


def test_items_stay_apart_and_other_methods_are_refused(work, command_line):
    pretrained("filler")
    words = ("impute", "--input", "machines.csv", *COLUMN_WORDS, "--output", "whole.parquet")
    code, _, err = command_line(*words, "--model", "filler")
    assert code == 0, err
    found = pd.read_parquet("whole.parquet")
    assert found.item_id.tolist() == table().machine.tolist()
    assert found[["pressure", "load"]].notna().to_numpy().all()
    code, _, err = command_line(*words, "--model", "model")
    assert code == 2
    assert "model is a ts2vec, whose pretext task does not recover hidden values (config.reconstructs)" in err
