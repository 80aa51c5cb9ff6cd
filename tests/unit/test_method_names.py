"""The library asks a config what it must know of a method: no room but a method's own says a method's name."""

import ast
from pathlib import Path

import pytest

from hf_tsrep.registry import METHODS

ROOT = Path(__file__).parents[2] / "hf_tsrep"
ROOMS = ("training", "evaluation", "cli", "data", "hub")
NAMES = {*METHODS, *(method.title.lower() for method in METHODS.values())}


def words_of(tree):
    """Yield the line and text of every name and string of a file; docstrings may cite where a rule comes from."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value
        for field in ("id", "attr", "name", "arg", "module", "asname"):
            text = getattr(node, field, None)
            if isinstance(text, str):
                yield getattr(node, "lineno", 0), text


def named_methods(source):
    return [(line, text) for line, text in words_of(ast.parse(source)) if any(name in text.lower() for name in NAMES)]


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_says_a_methods_name(room):
    found = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        inside = path.relative_to(ROOT / room).parts
        if inside[0] not in METHODS and (named := named_methods(path.read_text(encoding="utf-8"))):
            found[str(path.relative_to(ROOT))] = named
    assert not found


def test_no_file_beside_the_rooms_says_a_methods_name():
    found = {path.name: named_methods(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("*.py"))}
    assert {"demo.py", "registry.py"} <= set(found)
    assert not {name: named for name, named in found.items() if named}


def test_names_and_strings_are_found_and_docstrings_are_not():
    source = '"""As TS2Vec does."""\nfrom x import SimMTMModel\nif kind == "timedrl":\n    run()\n'
    assert [text for _, text in named_methods(source)] == ["SimMTMModel", "timedrl"]
