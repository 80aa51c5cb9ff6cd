"""What is installed is what is in the tree, nothing of it is found under a wrong name, and importing it is light."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from interpreters import run_apart

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("hf_tsrep", "modeling", "tokenization", "model_cards")
LINKS = {name: f"../{name}" for name in ("modeling", "tokenization", "model_cards")}
TRAVELLING = ("modeling", "tokenization")


def environment(**variables):
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TSREP_DATA")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}


def files_of_the_tree():
    """Return what a wheel has to hold, by its name in the wheel."""
    names = set()
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            linked = folder == "hf_tsrep" and inside.parts[0] in LINKS
            if path.is_file() and "__pycache__" not in inside.parts and not linked:
                names.add((Path("hf_tsrep") / ("" if folder == "hf_tsrep" else folder) / inside).as_posix())
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the tree: building leaves files behind."""
    source = tmp_path_factory.mktemp("source") / "tree"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "built", "."]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return next((source / "built").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    return target


def test_the_wheel_holds_the_tree_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        top_level = next(name for name in archive.namelist() if name.endswith("top_level.txt"))
        assert archive.read(top_level).decode().split() == ["hf_tsrep"]
    expected = files_of_the_tree()
    assert expected - names == set(), "in the tree, but not installed: __init__.py or package-data is missing"
    assert names - expected == set(), "installed, but not in the tree"
    assert "hf_tsrep/py.typed" in names
    assert "hf_tsrep/modeling/modeling_ts2vec.py" in names
    assert "hf_tsrep/model_cards/ts2vec.md" in names
    assert "hf_tsrep/training/recipes/ts2vec/default.yaml" in names
    assert "hf_tsrep/training/recipes/timedrl/finetuning/linear-probe-etth1.yaml" in names


@pytest.mark.slow
def test_the_installed_package_works_away_from_the_tree(installed, tmp_path):
    code = """
import importlib.util, json, sys
import hf_tsrep
from hf_tsrep.hub import build_model_card
from hf_tsrep.modeling.modeling_ts2vec import TS2VecModel
from hf_tsrep.training import list_recipes, load_recipe
model = TS2VecModel(hf_tsrep.TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=4, num_hidden_layers=2))
model.encode([[[1.0, 2.0]]])
print(json.dumps({
    "file": hf_tsrep.__file__,
    "bare": [name for name in ("modeling", "tokenization", "model_cards") if importlib.util.find_spec(name)],
    "recipes": list_recipes("ts2vec"),
    "rate": load_recipe("ts2vec", "default")["learning_rate"],
    "card": "TS2Vec" in str(build_model_card(model)),
}))
"""
    seen = json.loads(run_apart(code, tmp_path, environment(PYTHONPATH=str(installed))).splitlines()[-1])
    assert Path(seen["file"]).is_relative_to(installed)
    assert seen["bare"] == []
    assert {"default", "ett", "uea", "ucr"} <= set(seen["recipes"])
    assert seen["rate"] == 0.001
    assert seen["card"]


def test_the_installed_command_runs(installed, tmp_path):
    command = [sys.executable, str(installed / "bin" / "hf-tsrep"), "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment(PYTHONPATH=str(installed))
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert done.stdout == f"hf-tsrep {version}\n", done.stderr


def test_importing_is_light_and_opens_no_socket(tmp_path):
    code = """
import json, socket, sys
def refused(*arguments, **options):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused
import hf_tsrep
from hf_tsrep.cli.main import run
assert run(["--help"]) == 0
assert {"torch", "transformers", "numpy", "huggingface_hub"} & set(sys.modules) == set()
for room in ("data", "evaluation", "hub", "training"):
    assert getattr(hf_tsrep, room).__name__ == "hf_tsrep." + room
import hf_tsrep.cli.main
hf_tsrep.list_models("ts*"); dir(hf_tsrep)
print(json.dumps(sorted(sys.modules)))
"""
    command, variables = [sys.executable, "-c", code], environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {"transformers.modeling_utils", "transformers.trainer", "sklearn", "scipy", "pandas", "polars", "datasets"}
    heavy |= {"modeling", "tokenization", "evaluate", "aeon", "numba", "matplotlib", "plotly", "pyarrow", "accelerate"}
    assert loaded & heavy == set()


@pytest.mark.slow
def test_models_are_never_loaded_twice_under_a_bare_name():
    """From the root of the repository `import modeling` would work and make second copies of every class."""
    code = """
import sys, tempfile
import numpy as np, hf_tsrep
from transformers import AutoModel
corpus = hf_tsrep.load_corpus("uea/BasicMotions")
model = hf_tsrep.TS2VecModel(hf_tsrep.TS2VecConfig(num_input_channels=6, hidden_size=4, embedding_size=4))
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    AutoModel.from_pretrained(folder).encode(np.zeros((9, 6)))
for name in hf_tsrep.__all__:
    getattr(hf_tsrep, name)
print(sorted({"modeling", "tokenization"} & {name.split(".")[0] for name in sys.modules}))
"""
    assert run_apart(code, ROOT, environment()).splitlines()[-1] == "[]"


def test_the_links_are_relative():
    for name, target in LINKS.items():
        assert os.readlink(ROOT / "hf_tsrep" / name) == target


def test_file_names_are_unique_over_what_travels_to_the_hub():
    """A name that both folders have is one file: they lie beside each other in a saved model."""
    paths = [path for folder in TRAVELLING for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
    assert len({path.name for path in paths}) == len({path.resolve() for path in paths})


def test_a_file_of_both_folders_is_a_relative_link():
    links = {path.name: os.readlink(path) for path in (ROOT / "tokenization").iterdir() if path.is_symlink()}
    assert links == {name: f"../modeling/{name}" for name in links} != {}


@pytest.mark.parametrize("target", ["demo", "test", "quick", "lint", "format", "docs-check"])
def test_every_target_makes_its_environment(target, tmp_path):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    printed = subprocess.run([make, "-n", target], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "-m venv .venv" in printed
    assert "--constraint constraints.txt" in printed


def test_continuous_integration_runs_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make .*$", script, flags=re.MULTILINE) == ["make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_constraints_pin_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = {name.lower().replace("_", "-") for name in pinned}
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")
        assert name in plain or name == "hf-tsrep", name
