"""What `scripts/benchmark.py` measures: our code and a plain implementation of the same equations, in one run.

A module cases_x.py is found by its name. Its CASES maps a case's name to a function of one argument, whether the plain
side is measured, that returns "seconds", "sample" (some of what it computed, which both sides are compared by) and,
where known, "operations" of the matrix products.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any


def find_cases() -> dict[str, Callable[[bool], dict[str, Any]]]:
    """Return the cases of all modules cases_x.py by their names.

    Raises:
        ValueError: Two modules have a case of the same name.
    """
    found: dict[str, Callable[[bool], dict[str, Any]]] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__) if one.name.startswith("cases_")):
        for name, case in importlib.import_module(f"{__name__}.{module}").CASES.items():
            if name in found:
                raise ValueError(f"case {name!r} of {module} is also one of {found[name].__module__}: rename one")
            found[name] = case
    return found
