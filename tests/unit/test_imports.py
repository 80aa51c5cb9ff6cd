"""Imports run only downwards, in no circle, hidden for a reason; no room but a method's own says a method's name."""

import ast
import importlib
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from hf_tsrep.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "hf_tsrep"

# From the top to the bottom; rooms of one line do not import each other. The last one is what every room may import.
ORDER = (
    ("__main__",),
    ("cli",),
    ("demo", "sklearn"),
    ("training",),
    ("hub",),
    ("visualization_detection",),
    ("inference",),
    ("visualization", "visualization_attention", "visualization_tokens", "evaluation"),
    ("data",),
    ("auto", "opening"),
    ("processes", "results", "registry"),
    ("files",),
    ("modeling", "tokenization"),
    ("errors", "imports"),
)
TRAVELLING = ("modeling", "tokenization")
FOR_TRAVELLERS = {"torch", "numpy", "transformers", "safetensors"}
# What makes a start slow; a function may import one of these, or a file that does.
HEAVY = {"accelerate", "aeon", "datasets", "evaluate", "huggingface_hub", "matplotlib", "pandas", "peft", "plotly"}
HEAVY |= {"pydantic", "scipy", "sklearn", "statsmodels", "torch", "transformers", "yaml"}


@cache
def modules(root=ROOT):
    """Return the files of the package by module name; modeling and tokenization are below it, as installed."""
    found = {}
    for folder, prefix in ((PACKAGE, PACKAGE), *((name, f"{PACKAGE}.{name}") for name in TRAVELLING)):
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root / folder)
            if folder == PACKAGE and inside.parts[0] in TRAVELLING:
                continue  # links to the folders beside the package
            parts = inside.with_suffix("").parts
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(module, path):
    """Return every import of a file: the node, and the absolute names that it may mean."""
    return list(_imports_of(module, path))


def _imports_of(module, path):
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield node, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            above = above[: len(above) - node.level + 1] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            yield node, [f"{home}.{alias.name}" for alias in node.names]


def resolve(name, known):
    """Return the longest module of the package that a name begins with; None for other packages."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def graph(known):
    """Return what each module imports from the package; parents of a module do not count."""
    arrows = {module: set() for module in known}
    for module, path in known.items():
        for _, names in imports_of(module, path):
            for target in {resolve(name, known) for name in names}:
                if target not in (None, module, PACKAGE) and not module.startswith(f"{target}."):
                    arrows[module].add(target)
    return arrows


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def nodes_at_import(tree, with_type_checking):
    """Yield the statements that run when a file is imported: nothing inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if is_type_checking(node) and not with_type_checking:
            continue
        yield node
        yield from nodes_at_import(node, with_type_checking)


@cache
def imported_at_once(module, path):
    """Return the names that importing a file imports; a room's __init__ names for type checkers what it loads late."""
    at_once = set(nodes_at_import(parsed(path), path.name == "__init__.py"))
    lines = {node.lineno for node in at_once if isinstance(node, ast.Import | ast.ImportFrom)}
    return {name for node, names in imports_of(module, path) if node.lineno in lines for name in names}


def reaches_heavy(module, known):
    """Whether importing a file imports something heavy, by itself or through other files of the package."""
    seen, waiting = set(), [module]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        names = imported_at_once(here, known[here])
        if {name.partition(".")[0] for name in names} & HEAVY:
            return True
        waiting += [target for name in names if (target := resolve(name, known)) not in (None, PACKAGE)]
    return False


def needless_in_functions(known):
    """Return the imports inside functions, file -> file of the package, that keep nothing heavy out of the start."""
    found = set()
    for module, path in known.items():
        tree = parsed(path)
        at_once = {
            node.lineno for node in nodes_at_import(tree, True) if isinstance(node, ast.Import | ast.ImportFrom)
        }
        for node, names in imports_of(module, path):
            targets = {resolve(name, known) for name in names} - {None, PACKAGE} if node.lineno not in at_once else ()
            found |= {(module, target) for target in targets if not reaches_heavy(target, known)}
    return found


def room(module):
    return module.split(".")[1] if "." in module else ""


def level(name):
    """Return the place of a room in the order; the package itself is above all."""
    return -1 if name == "" else next(number for number, names in enumerate(ORDER) if name in names)


def upward(arrows):
    return {
        (source, room(target))
        for source, targets in arrows.items()
        for target in targets
        if room(source) != room(target) and level(room(source)) >= level(room(target)) and room(source)
    }


def circles(arrows):
    """Return the sets of files that import each other, by Tarjan's search."""
    index, lowest, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for target in arrows[module]:
            if target not in index:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], index[target])
        if lowest[module] == index[module]:
            members = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(members) > 1:
                found.append(members)

    for module in arrows:
        if module not in index:
            visit(module)
    return found


def test_every_room_has_its_place_in_the_order():
    placed = {name for names in ORDER for name in names}
    assert {room(module) for module in modules()} - placed == {""}


def test_imports_run_only_downwards():
    assert upward(graph(modules())) == set(), "these files import a room above or beside their own"


def test_no_files_import_each_other_in_a_circle():
    assert [sorted(members) for members in circles(graph(modules()))] == []


def test_an_import_inside_a_function_keeps_something_heavy_out_of_the_start():
    assert needless_in_functions(modules()) == set(), "import these at the top of the file"


@pytest.mark.parametrize("name", ["data", "evaluation", "hub", "inference", "training"])
def test_no_public_name_of_a_room_is_a_file_of_it(name):
    """Importing the file would put it in the place of what its name stands for."""
    files = {path.stem for path in (ROOT / PACKAGE / name).glob("*.py")}
    assert files & set(importlib.import_module(f"{PACKAGE}.{name}").__all__) == set()


@pytest.mark.parametrize("folder", TRAVELLING)
def test_what_travels_imports_only_what_every_machine_has_and_its_siblings(folder):
    wrong = []
    for path in sorted((ROOT / folder).glob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.level:
                siblings = [
                    path.parent / f"{node.module}.py",
                    *((ROOT / one / f"{node.module}.py") for one in TRAVELLING),
                ]
                is_right = node.level == 1 and node.module and any(one.is_file() for one in siblings)
                tops = set() if is_right else {f"{'.' * node.level}{node.module or ''}"}
            elif isinstance(node, ast.ImportFrom):
                tops = {node.module.partition(".")[0]}
            elif isinstance(node, ast.Import):
                tops = {alias.name.partition(".")[0] for alias in node.names}
            else:
                continue
            wrong += [
                f"{path.name}:{node.lineno} {top}" for top in tops - FOR_TRAVELLERS - set(sys.stdlib_module_names)
            ]
    assert wrong == []


def write_tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for folder in TRAVELLING:
        (root / folder).mkdir(exist_ok=True)


def test_a_lazy_import_that_runs_up_is_found(tmp_path):
    lazy = "def late():\n    from ..training.trainer import Trainer\n"
    write_tree(tmp_path, {"hf_tsrep/data/loading.py": lazy, "hf_tsrep/training/trainer.py": ""})
    assert upward(graph(modules(tmp_path))) == {("hf_tsrep.data.loading", "training")}


def test_a_circle_through_a_lazy_import_is_found(tmp_path):
    write_tree(
        tmp_path,
        {
            "hf_tsrep/data/first.py": "from .second import two\n",
            "hf_tsrep/data/second.py": "from .third import three\n",
            "hf_tsrep/data/third.py": "def late():\n    from .first import one\n",
        },
    )
    assert circles(graph(modules(tmp_path))) == [{f"hf_tsrep.data.{name}" for name in ("first", "second", "third")}]


def test_an_import_hidden_in_a_function_for_nothing_is_found(tmp_path):
    hidden = "def late():\n    from .light import one\n    from .heavy import two\n"
    files = {"hf_tsrep/data/first.py": hidden, "hf_tsrep/data/light.py": "import json\n"}
    write_tree(tmp_path, {**files, "hf_tsrep/data/heavy.py": "import torch\n"})
    assert needless_in_functions(modules(tmp_path)) == {("hf_tsrep.data.first", "hf_tsrep.data.light")}


ROOMS = ("training", "inference", "evaluation", "cli", "data", "hub")
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


# A method's name ends with the word or before the next one, so that TSTCC is not TST, but TSTModel is.
METHODS_NAME = re.compile(rf"(?i:{'|'.join(NAMES)})(?=[A-Z][a-z]|[^A-Za-z]|$)")


def named_methods(tree):
    return [(line, text) for line, text in words_of(tree) if METHODS_NAME.search(text)]


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_says_a_methods_name(room):
    found = {}
    for path in sorted((ROOT / PACKAGE / room).rglob("*.py")):
        inside = path.relative_to(ROOT / PACKAGE / room).parts
        if inside[0] not in METHODS and (named := named_methods(parsed(path))):
            found[str(path.relative_to(ROOT / PACKAGE))] = named
    assert not found


def test_no_file_beside_the_rooms_says_a_methods_name():
    found = {path.name: named_methods(parsed(path)) for path in sorted((ROOT / PACKAGE).glob("*.py"))}
    assert {"demo.py", "registry.py"} <= set(found)
    assert not {name: named for name, named in found.items() if named}


def test_names_and_strings_are_found_and_docstrings_are_not():
    source = '"""As TS2Vec does."""\nfrom x import SimMTMModel\nif kind == "timedrl":\n    run(HAR_TSTCC, tst_rows)\n'
    assert [text for _, text in named_methods(ast.parse(source))] == ["SimMTMModel", "timedrl", "tst_rows"]
