"""What is asked in a wrong way: exit code, one line on stderr that names the fix, no traceback."""

import pytest
from typer.main import get_command

from hf_tsrep.cli.main import COMMANDS, app

PRETRAIN = ("pretrain", "--method", "ts2vec", "--corpus", "uea/BasicMotions", "--output-dir", "out")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def assert_one_line(ended, expected_code, parts):
    """Nothing on stdout, one line on stderr with all the parts."""
    code, out, err = ended
    assert code == expected_code, err
    assert out == ""
    assert err.startswith("hf-tsrep: error: ")
    assert err.count("\n") == 1
    assert [part for part in parts if part not in err] == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("pretrian",), ("No such command 'pretrian'", "'pretrain'", "hf-tsrep --help")),
        (("data", "prepar"), ("'prepar'", "'prepare'")),
        (("encode", "--modle", "x"), ("--modle", "--model")),
        (("encode", "--model", "m"), ("Missing option", "--input")),
        (("evaluate", "--modle", "m"), ("--modle", "--model", "hf-tsrep evaluate --help")),
        ((*PRETRAIN, "--lerning-rate", "1"), ("--lerning-rate", "--learning-rate")),
        ((*PRETRAIN, "--hiden-size=3"), ("--hiden-size", "--hidden-size")),
        ((*PRETRAIN, "--max-steps", "many"), ("max_steps='many'", "expected an integer")),
        ((*PRETRAIN, "surprise"), ("Unexpected argument 'surprise'",)),
        (("pretrain", "--methdo", "ts2vec"), ("--methdo", "--method")),
        (("pretrain", "--method", "ts2vek", "--corpus", "a.csv", "--output-dir", "b"), ("'ts2vek'", "'ts2vec'")),
        (("pretrain", "--corpus", "a.csv", "--output-dir", "b"), ("method is missing",)),
        ((*PRETRAIN, "--recipe", "uae"), ("'uae'", "'uea'")),
        (("evaluate", "--model", "m", "--corpus", "c", "--protocol", "clasification"), ("'classification'",)),
        (
            ("evaluate", "--model", "m", "--corpus", "c", "--protocol", "forecasting", "--horizon", "3"),
            ("--horizon", "--horizons"),
        ),
        (("encode", "--model", "m", "--input", "x.csv", "--output", "e.txt"), ("e.txt", ".npz, .parquet, .npy, .csv")),
        (("list", "tsvec"), ("'tsvec'", "ts2vec")),
        (("convert", "ts2vek", "--checkpoint", "c.pkl", "--output-dir", "o"), ("'ts2vek'", "'ts2vec'")),
        (("data", "info", "./nothing.csv"), ("nothing.csv", "no such file")),
        (("data", "list", "uea/BasicMotion"), ("known corpora", "'uea/BasicMotions'", "HF_TSREP_DATA")),
        (("data", "prepare", "uea/BasicMotions"), ("Nothing to do",)),
    ],
)
def test_wrong_requests_end_with_2(command_line, arguments, parts):
    assert_one_line(command_line(*arguments), 2, parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("encode", "--model", "./nope", "--input", "x.csv", "--output", "e.npz"), ("./nope",)),
        (("encode", "--model", "m", "--input", "x.csv", "--output", "no/e.npz"), ("the folder no does not exist",)),
        (("results", "nowhere"), ("nowhere",)),
        (("push", "--model", "nowhere", "--repo-id", "a/b"), ("nowhere",)),
        (("convert", "ts2vec", "--checkpoint", "none.pkl", "--output-dir", "o"), ("none.pkl",)),
    ],
)
def test_missing_files_end_with_1(command_line, arguments, parts):
    assert_one_line(command_line(*arguments), 1, parts)


def test_a_near_folder_is_named(command_line, tmp_path):
    (tmp_path / "runs" / "etth1").mkdir(parents=True)
    _, _, err = command_line("encode", "--model", "runs/eth1", "--input", "x.csv", "--output", "e.npz")
    assert "Did you mean runs/etth1?" in err
    _, _, err = command_line("encode", "--model", "runs/etth1", "--input", "x.csv", "--output", "e.npz")
    assert "runs/etth1 holds no model: config.json is missing" in err
    (tmp_path / "runs" / "etth1" / "checkpoint-7").mkdir()
    _, _, err = command_line("encode", "--model", "runs/etth1", "--input", "x.csv", "--output", "e.npz")
    assert "--resume" in err
    assert "checkpoint-7" in err


def test_a_model_that_is_nowhere_is_named(command_line, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = command_line("encode", "--model", "nobody/nothing", "--input", "x.csv", "--output", "e.npz")
    assert code == 1
    assert err.startswith("hf-tsrep: error: nobody/nothing is no folder here")
    assert err.count("\n") == 1


def test_bad_cells_are_named_by_line_and_column(command_line, tmp_path):
    (tmp_path / "bad.csv").write_text("date,a\n2026-01-01,1\n2026-01-02,oops\n")
    code, _, err = command_line("pretrain", "--method", "ts2vec", "--corpus", "bad.csv", "--output-dir", "out")
    assert code == 2
    assert "line 3, column 'a': 'oops' is not a number" in err


def test_a_slip_in_the_name_of_a_file_does_not_wait_for_the_network(command_line, tmp_path):
    (tmp_path / "mine.csv").write_text("a\n1\n")
    code, _, err = command_line("data", "info", "mine.cvs")
    assert code == 2
    assert err.startswith("hf-tsrep: error: mine.cvs: there is no such file or folder. Did you mean 'mine.csv'?")


def test_debug_shows_the_traceback_wherever_it_stands(command_line):
    for arguments in (("--debug", "results", "nowhere"), ("results", "nowhere", "--debug")):
        code, _, err = command_line(*arguments)
        assert code == 1
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("hf-tsrep: error: ")


def test_faults_of_the_program_are_not_hidden(command_line, monkeypatch):
    from hf_tsrep.cli import list_models as cli_list

    def broken(pattern="*"):
        raise KeyError("a bug")

    monkeypatch.setattr(cli_list, "list_models", broken)
    with pytest.raises(KeyError, match="a bug"):
        command_line("list")


def test_interrupting_ends_with_130_and_one_line(command_line, monkeypatch):
    from hf_tsrep.cli import list_models as cli_list

    def interrupted(pattern="*"):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_list, "list_models", interrupted)
    code, _, err = command_line("list")
    assert code == 130
    assert err == "hf-tsrep: error: interrupted.\n"


@pytest.mark.parametrize(
    "command", ["pretrain", "finetune", "encode", "evaluate", "convert", "push", "list", "data", "results", "demo"]
)
def test_every_command_has_help(command_line, command):
    code, out, _ = command_line(command, "--help")
    assert code == 0
    assert f"hf-tsrep {command}" in out
    code, out, _ = command_line("--help")
    assert code == 0
    assert command in out


@pytest.mark.parametrize(("command", "run"), [("pretrain", "pretraining"), ("finetune", "finetuning")])
def test_help_tells_the_documented_fields(command_line, command, run):
    from hf_tsrep.cli.arguments import documented_fields

    _, out, _ = command_line(command, "--help")
    for name, text in documented_fields(run).items():
        assert f"  --{name.replace('_', '-')}  " in out
        assert text.split()[0] in out
    assert "[default: true]" in out or run == "finetuning"


def test_words_of_the_command_line_become_fields():
    from hf_tsrep.cli.arguments import UsageError, parse_fields, read_value

    words = "--a-b 1 --c=2 --flag --no-other --negative -0.5 --many x --many y --last".split()
    assert parse_fields(words) == {
        "a_b": "1",
        "c": "2",
        "flag": True,
        "other": False,
        "negative": "-0.5",
        "many": ["x", "y"],
        "last": True,
    }
    with pytest.raises(UsageError, match="'-x'"):
        parse_fields(["-x", "1"])
    assert read_value("24,48", is_list=True) == [24, 48]
    assert read_value("svm", is_list=True) == ["svm"]
    assert [read_value(one, is_list=False) for one in ("3", "0.5", "true", "none", "mean")] == [
        3,
        0.5,
        True,
        None,
        "mean",
    ]


def test_list_names_methods_papers_and_classes(command_line):
    code, out, _ = command_line("list")
    assert code == 0
    assert "ts2vec: TS2Vec: Towards Universal Representation of Time Series" in out
    assert "https://arxiv.org/abs/2106.10466" in out
    assert "TS2VecForPreTraining" in out
    _, out, _ = command_line("list", "*Classification")
    assert "TS2VecForTimeSeriesClassification" in out
    assert "TS2VecForPreTraining" not in out
    _, out, _ = command_line("list", "ts2vec", "--markdown")
    assert [line[:10] for line in out.splitlines()] == ["| method |", "|---|---|-", "| `ts2vec`"]


def test_the_demo_stops_where_the_reloaded_model_differs():
    import numpy as np

    from hf_tsrep.demo import compare

    before = np.ones((3, 2), np.float32)
    assert compare(before, before.copy()) == 0
    for after in (before + 1e-3, np.where(before > 0, np.nan, before)):
        with pytest.raises(RuntimeError, match="other embeddings"):
            compare(before, after)
    with pytest.raises(RuntimeError, match=r"\(2, 2\) instead of \(3, 2\)"):
        compare(before, before[:2])


def test_every_command_that_reads_a_corpus_says_how_a_file_is_read(command_line, tmp_path):
    (tmp_path / "bare.csv").write_text("01.02.2024;1,5\n02.02.2024;2,5\n")
    reading = ("bare.csv", "--no-header", "--timestamp-column", "channel_0", "--day-first", "--decimal", ",")
    code, out, err = command_line("data", "info", *reading)
    assert (code, err) == (0, "")
    assert "1 series of 2 steps" in out
    code, _, _ = command_line("data", "prepare", *reading, "--output", "prepared")
    assert code == 0
    code, _, err = command_line("data", "info", "bare.csv")
    assert code == 2
    assert "--no-header" in err
    code, _, err = command_line("data", "info", "bare.csv", "--delimeter", ";")
    assert code == 2
    assert "Unknown option --delimeter for data info. Did you mean --delimiter?" in err
    for command in ("data info", "data prepare", "encode", "evaluate", "pretrain", "finetune"):
        code, out, _ = command_line(*command.split(), "--help")
        assert code == 0
        assert all(option in out for option in ("--skip-rows", "--date-format", "--layout", "--item-column"))


def test_a_file_of_weights_is_no_model_of_the_hub(command_line):
    for name in ("model.safetensors", "runs/weights.pt"):
        code, _, err = command_line("encode", "--model", name, "--input", "x.csv", "--output", "e.npz")
        assert code == 1
        assert err.startswith(f"hf-tsrep: error: There is no folder {name}.")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_ones_own_help_begins_with(name):
    """The list is written without importing the commands."""
    command = get_command(app).get_command(None, name)
    assert command.help.partition("\n")[0] == COMMANDS[name]
