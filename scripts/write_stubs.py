"""Write what follows from the cards: hf_tsrep/__init__.pyi for type checkers, and README's table of methods.

python scripts/write_stubs.py
"""

from pathlib import Path

import hf_tsrep
from hf_tsrep.cli.list_models import methods_table
from hf_tsrep.registry import METHODS, lazy_classes

PATH = Path(hf_tsrep.__file__).with_suffix(".pyi")
README = Path(__file__).resolve().parents[1] / "README.md"
_FROM_REGISTRY = ("METHODS", "Method", "Paper", "get_method", "list_methods", "list_models")


def stub_text() -> str:
    """Return the stub: every public name, imported from where it lies."""
    homes = {name: one._module for name, one in lazy_classes().items()} | hf_tsrep._FUNCTIONS
    homes |= dict.fromkeys(_FROM_REGISTRY, "registry")
    lines = ["# Made by scripts/write_stubs.py from the cards; do not edit."]
    for module in sorted(set(homes.values())):
        names = sorted(name for name, home in homes.items() if home == module)
        lines += [f"from .{module} import (", *(f"    {name} as {name}," for name in names), ")"]
    return "\n".join([*lines, "", "__version__: str", ""])


def with_methods_table(readme: str) -> str:
    """Return README's text with the table of all methods between its two marks."""
    before, begin, rest = readme.partition("<!-- methods -->\n")
    _, end, after = rest.partition("\n<!-- /methods -->")
    if not begin or not end:
        raise ValueError(f"{README} has lost <!-- methods --> or <!-- /methods -->; put them around the table.")
    return f"{before}{begin}{methods_table(METHODS.values())}{end}{after}"


if __name__ == "__main__":
    PATH.write_text(stub_text(), encoding="utf-8")
    README.write_text(with_methods_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PATH} and {README}")
