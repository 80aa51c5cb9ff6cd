"""Do something as soon as a module has been imported, whoever imports it, so that nobody waits for it before."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds modules as all others do, and adds to their loading what is to be done after it.

    Args:
        name: Full name of the module.
        action: Called once, after the module's own code.
    """

    def __init__(self, name: str, action: Callable[[], Any]) -> None:
        self._name, self._action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec, as the other finders give it; None for any other module."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            execute = loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                self._action()

            loader.exec_module = execute_and_act
        return spec


def after_import(name: str, action: Callable[[], Any]) -> None:
    """Do something after a module has been imported: now, or when somebody imports it.

    Args:
        name: Full name of the module.
        action: Called once, without arguments. It may import the module.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _AfterImport(name, action))
