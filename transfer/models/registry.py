"""The models by name: for runs, and for timm as soon as timm is imported.

Importing timm takes seconds, since it brings a thousand models, and a run needs none of them. ``register`` therefore
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
from typing import TYPE_CHECKING, Any

from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    from torch import nn

    from transfer.params import ModelParams, Params

_REGISTERED: dict[str, Callable[..., Any]] = {}


def register(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function that makes a model: its name becomes the model's name, here and in timm."""
    _REGISTERED[function.__name__] = function
    if _timm_is_loaded():
        _tell_timm(function)
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
    """The function that makes model ``name``. Raises KeyError for an unknown name."""
    importlib.import_module(modules()[name])
    return _REGISTERED[name]


def create_model(params: "ModelParams", num_classes: int) -> "nn.Module":
    """The network of a run. Raises UserError for an unknown name or contradictory values."""
    if params.name not in modules():
        raise UserError(f"model.name: unknown model {params.name!r}; {choices(params.name, modules())}")
    try:
        return model_function(params.name)(num_classes=num_classes, **params.model_dump(exclude={"name", "pretrained"}))
    except (ValueError, TypeError) as error:  # TypeError: a model that lacks one of our keywords
        raise UserError(f"model {params.name}: {error}") from error


def check_models(params: "Params") -> None:
    """Raise ParamsError if a run names an unknown model, or weights that do not fit it."""
    from transfer.models.weights.catalogue import problem as weights_problem
    from transfer.params import ParamsError
    from transfer.params.read import holds

    for dataset, recipe in dict.fromkeys((dataset, recipe) for dataset, recipe, _ in params.all_runs()):
        model = params.run(dataset, recipe).model
        if model.name not in modules():
            key, wrong = "name", f"unknown model {model.name!r}; {choices(model.name, modules())}"
        elif problem := weights_problem(model.name, model.pretrained):
            key, wrong = "pretrained", problem
        else:
            continue
        blocks = [("recipe_definitions", recipe), ("dataset_definitions", dataset), ()]
        values = params.model_dump(exclude_unset=True)
        raise ParamsError(
            next((*block, "model", key) for block in blocks if holds(values, (*block, "model", key))), wrong
        )


def register_with_timm() -> None:
    """Register now if timm is loaded, else as soon as it is."""
    if _timm_is_loaded():
        _import_all()
    else:
        sys.meta_path.insert(0, _TimmFinder())


def _timm_is_loaded() -> bool:
    return hasattr(sys.modules.get("timm"), "create_model")


def _tell_timm(function: Callable[..., Any]) -> None:
    from timm.models import register_model

    register_model(function)


def _import_all() -> None:
    for function in _REGISTERED.values():
        _tell_timm(function)
    # A module that has just imported timm is itself half imported here; its models follow when it registers them.
    for module in sorted(set(modules().values())):
        importlib.import_module(module)


class _TimmFinder(MetaPathFinder):
    """Sees the import of timm once, and has the models registered at its end."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        loader: Any = spec and spec.loader
        if loader:
            execute = loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _import_all()

            loader.exec_module = execute_and_register
        return spec
