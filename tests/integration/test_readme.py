"""Runs the code blocks of README.md, in order, in one directory.

A comment in front of a block says what else to do: `<!-- not run: REASON -->` or `<!-- run instead: COMMAND -->`.
"""

import json
import os
import re
from pathlib import Path

import pytest
from interpreters import run_apart

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(
    r"(?:^<!-- (?P<order>not run|run instead): (?P<text>.+?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)

# Two processes: Python blocks share their names as a reader's session does and see nothing of the other one, which is
# a fork and runs the commands. Imports are paid once.
COMMANDS = """
import json, sys
import torch
torch.set_num_threads(1)
from hf_tsrep.cli.main import run
for line in sys.stdin:
    code = run(["--quiet", *json.loads(line)])
    print(f"CODE {code}", flush=True)
"""
DRIVER = r"""
import json, os, shlex, sys, time
import datasets, matplotlib.pyplot, sklearn.svm, transformers.trainer
import hf_tsrep.training.pretraining

blocks, commands = json.loads(sys.argv[1])
asked, answered = os.pipe(), os.pipe()
if os.fork() == 0:
    os.close(asked[1])
    sys.stdin, sys.stdout = os.fdopen(asked[0]), os.fdopen(answered[1], "w")
    try:
        exec(commands, {"__name__": "terminal"})
    finally:
        os._exit(0)
os.close(answered[1])
terminal_in, terminal_out = os.fdopen(asked[1], "w"), os.fdopen(answered[0])

def run(words):
    terminal_in.write(json.dumps(words) + "\n")
    terminal_in.flush()
    for line in terminal_out:
        if line.startswith("CODE "):
            return int(line.split()[1])
        print(line, end="")
    return "an end of the process"

names = {"__name__": "__main__"}
for block in blocks:
    begin = time.perf_counter()
    if block["language"] == "python":
        exec(compile(block["code"], f"README.md, line {block['line']}", "exec"), names)
    else:
        for command in block["code"].replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if not words:
                continue
            assert words[0] == "hf-tsrep", f"README.md, line {block['line']}: {words[0]} is not run by this test"
            code = run(words[1:])
            assert code == 0, f"README.md, line {block['line']}: {command} ended with {code}"
    print(f"line {block['line']}: {time.perf_counter() - begin:.1f} s")
terminal_in.close()
for name in ("embeddings", "nearest", "whole", "timestamps", "streaming", "windows", "scales", "metrics"):
    value = names[name]
    print("RESULT", json.dumps([name, list(getattr(value, "shape", ())), value if isinstance(value, dict) else None]))
"""


def blocks_to_run():
    text = README.read_text(encoding="utf-8")
    blocks = []
    for match in BLOCK.finditer(text):
        if match["language"] not in ("python", "bash") or match["order"] == "not run":
            continue
        instead = match["order"] == "run instead"
        blocks.append(
            {
                "language": "bash" if instead else match["language"],
                "code": match["text"] if instead else match["code"],
                "line": text[: match.start("code")].count("\n"),
            }
        )
    return blocks


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["HF_HOME"] = str(folder / ".cache")
    return folder, run_apart(DRIVER, folder, environment, [json.dumps([blocks_to_run(), COMMANDS])])


@pytest.mark.slow
def test_the_blocks_of_the_page_run(session):
    folder, _ = session
    assert (folder / "machines-embedded.csv").is_file()
    assert (folder / "corpora/basic-motions/README.md").is_file()
    assert (folder / "runs/motions/checkpoint-15").is_dir()


def test_the_demo_leaves_what_it_says(session):
    folder, output = session
    for picture in ("embedding_map.png", "loss_curve.png"):
        assert (folder / "demo" / picture).read_bytes() == (folder / "demo/model" / picture).read_bytes()
    card = (folder / "demo/model/README.md").read_text(encoding="utf-8")
    accuracy = json.loads((folder / "demo/model/results.json").read_text())["results"][0]["metrics"]["svm_accuracy"]
    assert f"{accuracy:.3f}" in output
    assert f"{accuracy:.4f}"[:5] in card.split("## Results")[1]
    assert "](embedding_map.png)" in card
    assert "](loss_curve.png)" in card
    # A machine may round otherwise in another process: where an array begins decides how it is cut for the processor.
    difference = re.search(r"largest difference (\S+): equal", output)
    assert difference is not None
    assert float(difference[1]) < 1e-6
    for command in re.findall(r"\$ (hf-tsrep .+)", output):
        assert command.split()[1] in ("data", "pretrain", "encode", "evaluate")


def test_shapes_are_those_of_the_comments(session):
    _, output = session
    lines = [line.removeprefix("RESULT ") for line in output.splitlines() if line.startswith("RESULT ")]
    results = {name: (shape, value) for name, shape, value in map(json.loads, lines)}
    steps = results["timestamps"][0][0]
    assert results["whole"][0] == [320]
    assert results["timestamps"][0] == results["streaming"][0] == [steps, 320]
    assert results["scales"][0][0] == steps
    assert results["scales"][0][1] % 320 == 0
    assert results["windows"][0][1] == 320
    assert results["embeddings"][0] == [24, 320]
    assert set(results["metrics"][1]) == {"accuracy", "macro_f1", "kappa", "auprc"}


def test_two_set_up_commands_and_they_are_targets():
    text = README.read_text(encoding="utf-8")
    first = BLOCK.search(text)
    commands = [line.split("#")[0].strip() for line in first["code"].splitlines()]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?make ([a-z-]+)`?", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)))
    for target in {"demo", "test", *(named & {"lint", "format", "docs-check"})}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_skipped_block_says_why():
    text = README.read_text(encoding="utf-8")
    fences = len(re.findall(r"^```(?:python|bash)$", text, flags=re.MULTILINE))
    skipped = [match["text"] for match in BLOCK.finditer(text) if match["order"] == "not run"]
    assert len(blocks_to_run()) + len(skipped) == fences
    assert all(reason.startswith("needs ") for reason in skipped)


def test_methods_table_is_what_list_prints():
    from hf_tsrep.cli.list_models import methods_table
    from hf_tsrep.registry import METHODS

    table = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert table[1] == methods_table(METHODS.values()), "run `make stubs`"


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_markers_for_generated_sections_are_there():
    text = README.read_text(encoding="utf-8")
    for name in ("methods", "results"):
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1
