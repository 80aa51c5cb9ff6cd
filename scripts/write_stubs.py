"""Write hf_tsrep/__init__.pyi, which tells type checkers the classes that the cards name.

python scripts/write_stubs.py
"""

from pathlib import Path

import hf_tsrep
from hf_tsrep.registry import lazy_classes

PATH = Path(hf_tsrep.__file__).with_suffix(".pyi")
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


if __name__ == "__main__":
    PATH.write_text(stub_text(), encoding="utf-8")
    print(f"wrote {PATH}")
