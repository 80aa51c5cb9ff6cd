"""`hf-tsrep pretrain --method crosstimenet`: both stages by their commands, and what is asked in a wrong way."""

import json

import numpy as np
import pytest

TOKENIZER = ("pretrain", "--method", "crosstimenet", "--stage", "tokenizer", "--use-cpu", "--save-strategy", "no")
MODEL = ("pretrain", "--method", "crosstimenet", "--use-cpu", "--save-strategy", "no", "--max-steps", "2")
SIZES = ("--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "16")


@pytest.fixture
def sensors(tmp_path, monkeypatch):
    """A data directory with small corpora of two known names."""
    (tmp_path / "data" / "sensor").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, length, channels in (("HAR", 16, 3), ("Epilepsy_TSTCC", 20, 1)):
        series = np.cumsum(generator.normal(size=(12, length, channels)), axis=1).astype(np.float32)
        np.savez(tmp_path / "data" / "sensor" / f"{name}.npz", x_train=series, y_train=np.arange(12) % 2)
    monkeypatch.setenv("HF_TSREP_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_both_stages_with_short_names_and_a_settings_file(command_line, sensors):
    (sensors / "codec.yaml").write_text(
        "stage: tokenizer\nhidden_size: 8\nnum_blocks: 1\ncodebook_size: 16\ndomains:\n  har: {patch_length: 4}\n"
    )
    code, _, err = command_line(
        *("pretrain", "--method", "crosstimenet", "--config", "codec.yaml", "--corpus", "har", "--corpus", "epilepsy"),
        *("--output-dir", "tok", "--max-steps", "3", "--save-strategy", "no", "--use-cpu", "--dropout", "0.0"),
    )
    assert code == 0, err
    record = json.loads((sensors / "tok" / "pretraining.json").read_text())
    described = {one["name"]: one for one in record["facts"]["domains"]}
    assert (described["har"]["patch_length"], described["epilepsy"]["patch_length"]) == (4, 2)
    assert described["har"]["dropout"] == 0.0
    assert (record["stage"], record["recipe"], record["training"]["seed"]) == ("tokenizer", "tokenizer", 2023)

    code, out, err = command_line(
        *(*MODEL, *SIZES, "--tokenizer", "tok", "--corpus", "har", "--corpus", "sensor/epilepsy_tstcc"),
        *("--output-dir", "model"),
    )
    assert code == 0, err
    assert out.startswith("model: crosstimenet, 2 steps")
    assert (sensors / "model" / "codec.safetensors").is_file()
    record = json.loads((sensors / "model" / "pretraining.json").read_text())
    assert [one["name"] for one in record["facts"]["domains"]] == ["har", "epilepsy"]
    assert [one["tokens"] for one in record["facts"]["domains"]] == [12 * 4, 12 * 10]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((*TOKENIZER, "--corpus", "hrr", "--output-dir", "o"), ("'hrr'", "'sensor/HAR'")),
        ((*TOKENIZER, "--corpus", "har", "--output-dir", "o", "--patch-lenght", "2"), ("--patch-length",)),
        ((*TOKENIZER, "--corpus", "har", "--output-dir", "o", "--mask-ratio", "0.2"), ("--mask-ratio",)),
        ((*MODEL, "--corpus", "har", "--output-dir", "o"), ("tokenizer is missing", "--stage tokenizer")),
        ((*MODEL, "--corpus", "har", "--output-dir", "o", "--tokenizer", "./tok"), ("'./tok'", "--stage tokenizer")),
        ((*MODEL, "--stage", "tokeniser", "--corpus", "har", "--output-dir", "o"), ("Did you mean 'tokenizer'?",)),
        (
            (*MODEL, "--stage", "model", "--recipe", "tokenizer", "--corpus", "har", "--output-dir", "o"),
            ("is for stage 'tokenizer'",),
        ),
    ],
)
def test_wrong_requests_end_with_one_line_and_nothing_written(command_line, sensors, arguments, parts):
    code, _, err = command_line(*arguments)
    assert code != 0
    *told, error = err.splitlines()
    assert error.startswith("hf-tsrep: error: ")
    assert set(told) <= {"One process trains, on cpu."}
    for part in parts:
        assert part in err
    assert not (sensors / "o").exists()
