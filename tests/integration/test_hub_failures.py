"""A Hub that fails: each fault is one clear line, nothing half-pushed is called done, and the same line goes on."""

import json
import shutil
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

import hf_tsrep
from hf_tsrep.hub import build_model_card

pytestmark = pytest.mark.slow

# One process asks for everything, because importing transformers takes longer than that.
CODE = """
import json, pathlib, sys, urllib.request
sys.path.insert(0, {scripts!r})
import publish_models
from hf_tsrep.cli.main import run
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
told = {{}}

def tell(name, function, *arguments):
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = function(list(arguments))
    told[name] = [code, out.getvalue()]

def hub(command):
    urllib.request.urlopen({endpoint!r} + "/control/" + command).read()

folders = ["good", "damaged", "corpus"]
where = ["--namespace", "tester", "--push"]
tell("dry", publish_models.main, *folders, "--namespace", "tester")
hub("die")
tell("died", publish_models.main, "good", *where)
hub("live")
tell("went on", publish_models.main, *folders, *where)
tell("again", publish_models.main, "good", *where)
tell("pull", run, "pull", "tester/good")
tell("info", run, "info", "good")
tell("info of the Hub", run, "info", "tester/good")
tell("absent", run, "pull", "tester/absent")
hub("corrupt")
tell("corrupted", run, "pull", "tester/good", "--output-dir", "second")
hub("gate")
import huggingface_hub.constants, os
os.environ["HF_TOKEN"] = "hf_wrong"
tell("wrong token", publish_models.main, "good", *where)
tell("gated", run, "pull", "tester/good", "--output-dir", "third")
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    model = hf_tsrep.TS2VecModel(hf_tsrep.TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=4))
    model.save_pretrained(home / "good")
    build_model_card(home / "good").save(home / "good" / "README.md")
    shutil.copytree(home / "good", home / "damaged")
    weights = home / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    (home / "corpus" / "data").mkdir(parents=True)
    (home / "corpus" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Corpus\n")
    (home / "corpus" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    return home


@pytest.fixture(scope="module")
def told(home):
    scripts = str(Path(__file__).resolve().parents[2] / "scripts")
    with LoopbackHub() as hub:
        printed = hub.run(CODE.format(endpoint=hub.endpoint, scripts=scripts), home)
        return json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "code", "parts"),
    [
        ("dry", 1, ("good: would go to tester/good", "damaged: NOT published:", "corpus: would go to tester/corpus")),
        ("died", 1, ("good: NOT published: tester/good: the connection to the Hub died", "the same line goes on")),
        ("went on", 1, ("tester/good published, and every file compared", "damaged: NOT", "tester/corpus published")),
        ("again", 0, ("good: tester/good is there already",)),
        ("pull", 0, ("files are as published",)),
        ("absent", 1, ("tester/absent: is not on the Hub, or is private",)),
        ("corrupted", 1, ("model.safetensors differs", "not what was published")),
        ("gated", 1, ("tester/good: is gated: ask for access",)),
        ("wrong token", 1, ("nothing was sent: tester: the Hub refuses the token",)),
    ],
)
def test_each_fault_is_one_clear_line(told, name, code, parts):
    found, text = told[name]
    assert [part for part in parts if part not in text] == [], text
    assert found == code
    assert "Traceback" not in text


def test_info_says_what_a_model_is_and_downloads_no_weights_for_it(told):
    for name in ("info", "info of the Hub"):
        code, text = told[name]
        assert code == 0, text
        assert "TS2VecModel" in text
        assert "a series of 2 input channels" in text
        assert "model.safetensors" in text.partition("sha256:")[2]
    assert "parameters" in told["info"][1]
    assert "parameters" not in told["info of the Hub"][1]
