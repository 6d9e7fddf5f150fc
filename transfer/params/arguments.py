"""Arguments of models and losses as parameters: read from their source, without importing it, and checked by type."""

import ast
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from transfer.params import base
from transfer.utils.errors import choices

Arguments = dict[str, tuple[Any, Any]]
"""Type and default of each argument; ... where it has none."""

_NAMES = vars(typing) | vars(base) | {"Sequence": Sequence}


def written(file: Path, name: str) -> Arguments:
    """Those of a function or class in ``file``, and, below ``**kwargs``, of the class that it returns or derives from.

    Annotations that are no plain types, such as Tensor, are not checked.
    """
    found: Arguments = {}
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            found |= written(file.with_name(f"{str(node.module).rpartition('.')[2]}.py"), name)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name != name:
            continue
        above = node.returns if isinstance(node, ast.FunctionDef) else node.bases[0] if node.bases else None
        nodes = [node] if isinstance(node, ast.FunctionDef) else node.body
        functions = [f for f in nodes if isinstance(f, ast.FunctionDef) and f.name in (name, "__init__")]
        for function in functions:
            given = function.args
            defaults = [*[None] * (len(given.args) - len(given.defaults)), *given.defaults, *given.kw_defaults]
            for argument, default in zip([*given.args, *given.kwonlyargs], defaults, strict=True):
                found[argument.arg] = _type(argument.annotation), ast.literal_eval(default) if default else ...
        if above and (not functions or functions[0].args.kwarg):
            found = written(file, ast.unparse(above)) | found
    return found


def _type(annotation: ast.expr | None) -> Any:
    try:
        return eval(ast.unparse(annotation), dict(_NAMES)) if annotation else Any
    except (NameError, AttributeError):
        return Any


def of_functions(functions: Iterable[Callable[..., Any]]) -> Arguments:
    """Those of functions that are imported, the first one winning; without types, which others write as they like."""
    found: Arguments = {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, (Any, parameter.default))
    return found


def typed(name: str, found: Arguments, reserved: Sequence[str]) -> type[BaseModel]:
    """A model that accepts what ``name`` does, without the arguments ``reserved`` to others."""
    fields: dict[str, Any] = {key: value for key, value in found.items() if key not in reserved}
    config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), arbitrary_types_allowed=True)
    return create_model(name, __config__=config, **fields)


def problem(model: type[BaseModel], args: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """Which of ``args`` is wrong, as a key, and what is wrong with it; or None."""
    try:
        model.model_validate(dict(args))
    except ValidationError as error:
        first = error.errors()[0]
        argument = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            text = f"{model.__name__} has no such argument; {choices(argument, model.model_fields)}"
        elif first["type"] == "missing":
            text = f"missing; {model.__name__} needs it"
        else:
            text = f"{first['msg'].replace('Input should', 'should')}, found {first['input']!r}"
        return ("args", argument), text
    return None
