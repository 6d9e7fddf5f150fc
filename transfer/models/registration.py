"""Registers the models when timm is imported, without importing timm (and torch) before anyone needs it."""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODELS = "transfer.models.transfer"


def register_with_timm() -> None:
    """Register now if timm is loaded, else as soon as it is."""
    timm = sys.modules.get("timm")
    if timm is not None and hasattr(timm, "create_model"):
        importlib.import_module(MODELS)
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(MetaPathFinder):
    """Sees the import of timm once, and has the models registered at its end."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module(MODELS)

            spec.loader.exec_module = execute_and_register
        return spec
