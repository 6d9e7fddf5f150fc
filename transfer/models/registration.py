"""The models by name: for the training, and for timm as soon as timm is imported.

Importing timm takes seconds, since it brings a thousand models; the training needs none of them. ``register`` therefore
keeps our models itself and hands them to timm when somebody imports it, before or after this package.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_REGISTERED: dict[str, Callable[..., Any]] = {}


def register(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function that makes a model: its name becomes the model's name, here and in timm."""
    _REGISTERED[function.__name__] = function
    return function


@cache
def modules() -> dict[str, str]:
    """The module of each model, found by its ``@register`` without importing it (and torch)."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and "register" in map(ast.unparse, node.decorator_list):
                found[node.name] = f"{__package__}.{file.stem}"
    return found


def model_function(name: str) -> Callable[..., Any]:
    """The function that makes model ``name``. Raises KeyError for a name that no module here registers."""
    importlib.import_module(modules()[name])
    return _REGISTERED[name]


def register_with_timm() -> None:
    """Register now if timm is loaded, else as soon as it is."""
    timm = sys.modules.get("timm")
    if timm is not None and hasattr(timm, "create_model"):
        _hand_over()
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


def _hand_over() -> None:
    from timm.models import register_model

    for name in modules():
        register_model(model_function(name))


class _TimmFinder(MetaPathFinder):
    """Sees the import of timm once, and has the models registered at its end."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of timm, whose execution ends with our registration; None for everything else."""
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _hand_over()

            spec.loader.exec_module = execute_and_register
        return spec
