"""The models by name: for runs, and for timm as soon as timm is imported.

Importing timm takes seconds, since it brings a thousand models, and a run of ours needs none of them. ``register``
therefore keeps our models itself and hands them to timm when somebody imports it, before or after this package; what
they understand is read from their source. A model called ``timm/NAME`` is timm's.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transfer.params import arguments
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import nn

    from transfer.params import ModelParams, Params

TIMM = "timm/"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESERVED = ("self", "pretrained", "num_classes", "in_chans", "img_size")
"""Arguments that are not given in ``model.args``: the data and other keys decide them."""

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


def module_of(name: str) -> str:
    """The module that makes the model ``name``, for the digest of the code that a run depends on."""
    return __name__ if name.startswith(TIMM) else modules()[name]


def input_of(params: "ModelParams") -> dict[str, Any]:
    """What a model is fed, as keys of its parameters: img_size, mean, std; its own where the parameters have none.

    Raises UserError for an unknown model.
    """
    if wrong := _unknown(params.name):
        raise UserError(f"model.name: {wrong}")
    own = {"img_size": _signature(params.name)[1], "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if params.name.startswith(TIMM):
        import timm

        config = timm.get_pretrained_cfg(params.name.removeprefix(TIMM), allow_unregistered=False).to_dict()  # type: ignore[union-attr]
        own = {"img_size": config["input_size"][-1], "mean": config["mean"], "std": config["std"]}
    return {key: getattr(params, key) or value for key, value in own.items()}


def create_model(params: "ModelParams", num_classes: int) -> "nn.Module":
    """The network of a run. Raises UserError for an unknown name, or arguments that it does not take."""
    if wrong := problem(params.model_copy(update={"pretrained": []})):  # these are put in afterwards
        raise UserError(f"model.{'.'.join(wrong[0])}: {wrong[1]}")
    try:
        return _made(params, num_classes)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"model {params.name}: {error}") from error


def _made(params: "ModelParams", num_classes: int) -> "nn.Module":
    size = {"img_size": input_of(params)["img_size"]} if _signature(params.name)[1] else {}
    if not params.name.startswith(TIMM):
        model: nn.Module = model_function(params.name)(num_classes=num_classes, **size, **params.args)
        return model
    import timm

    return timm.create_model(params.name.removeprefix(TIMM), num_classes=num_classes, **size, **params.args)


def count_macs(model: "nn.Module", side: int, device: "torch.device | str") -> int:
    """Multiplications of one image's forward pass, counted as it runs: matrix products and convolutions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side, device=device))
    model.train(training)
    return counter.get_total_flops() // 2


def size_of(params: "ModelParams", num_classes: int) -> dict[str, Any]:
    """backbone, parameters, macs (of one image) and pretrained of a model, for tables.

    ``backbone`` is the trunk that methods share, so that rows of equal trunk can be compared; of timm the network.
    """
    return dict(_size_of(params.model_dump_json(), num_classes))


@cache
def _size_of(written: str, num_classes: int) -> dict[str, Any]:
    import torch

    from transfer.params import ModelParams

    params = ModelParams.model_validate_json(written)
    with torch.random.fork_rng(devices=[]):
        model = create_model(params, num_classes)
    macs = count_macs(model, input_of(params)["img_size"], "cpu")
    return {
        "backbone": getattr(model, "backbone", params.name.removeprefix(TIMM)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": macs,
        "pretrained": ", ".join(params.pretrained) or "no",
    }


def problem(params: "ModelParams") -> tuple[tuple[str, ...], str] | None:
    """The key below ``model`` that is wrong, and what is wrong with it, as far as can be told without training."""
    from transfer.models.weights.catalogue import problem as weights_problem

    name = params.name
    if unknown := _unknown(name):
        return ("name",), unknown
    if wrong := arguments.problem(_signature(name)[0], params.args):
        return wrong
    if text := weights_problem(name, params.pretrained):
        return ("pretrained",), text
    return None


def _unknown(name: str) -> str | None:
    known = _timm(name) or (*modules(), f"{TIMM}NAME")
    return None if name in known else f"unknown model {name!r}; {choices(name, _nearest(name, known))}"


def _nearest(name: str, known: Sequence[str]) -> Sequence[str]:
    from difflib import get_close_matches

    return known if len(known) < 50 else get_close_matches(name, known, n=5)


def _timm(name: str) -> tuple[str, ...]:
    """The names of timm's models, if ``name`` is of that form; without importing timm for others."""
    return _timm_names() if name.startswith(TIMM) else ()


@cache
def _timm_names() -> tuple[str, ...]:
    import timm

    names = (name for name in timm.list_models() if not timm.model_entrypoint(name).__module__.startswith(__package__))
    return tuple(f"{TIMM}{name}" for name in names)


@cache
def _cannot_be_made(params: str) -> str | None:
    """What timm says against a model, such as sizes that do not fit each other; without memory for its weights."""
    import torch

    from transfer.params import ModelParams

    try:
        with torch.device("meta"):
            _made(ModelParams.model_validate_json(params), 7)
    except NotImplementedError:  # a few initial values cannot be computed without memory
        return None
    except Exception as error:
        return f"timm does not make it: {error}".replace("\n", " ")
    return None


@cache
def _signature(name: str) -> tuple["type[BaseModel]", int | None]:
    """What may stand in ``model.args`` of a known model, typed; and its own input size, if it is told one."""
    if name.startswith(TIMM):
        import typing

        import timm

        entry = timm.model_entrypoint(name.removeprefix(TIMM))
        classes = getattr(typing.get_type_hints(entry).get("return"), "__mro__", ())
        functions = (entry, *(vars(kind).get("__init__") for kind in classes))
        found = arguments.of_functions([function for function in functions if hasattr(function, "__code__")])
    else:
        found = arguments.written(Path(__file__).with_name(f"{modules()[name].rpartition('.')[2]}.py"), name)
    size = found.get("img_size", (None, None))[1]
    return arguments.typed(name, found, RESERVED), size if isinstance(size, int) else 224 if size else None


def check_models(params: "Params") -> None:
    """Raise ParamsError if a run or a trial names an unknown model, or arguments or weights that do not fit it."""
    from transfer.params import ParamsError
    from transfer.params.read import space, where

    for dataset, recipe in dict.fromkeys((dataset, recipe) for dataset, recipe, _ in params.selected_runs()):
        model = params.run(dataset, recipe).model
        tables = [table for table in params.tables if recipe in params.table_recipes(table)]
        _check_parts(params, dataset, recipe, " and ".join(["recipes"] * (recipe in params.recipes) + tables))
        wrong = problem(model)
        if not wrong and model.name.startswith(TIMM) and (text := _cannot_be_made(model.model_dump_json())):
            wrong = ("args" if model.args else "name",), text
        if wrong:
            raise ParamsError(where(params, dataset, recipe, ("model", *wrong[0])), wrong[1])
    for name, dataset, values, run in params.trials():
        _check_parts(params, dataset, params.search_definitions[name].recipe, f"searches ({name})")
        if wrong := problem(run.model):
            raise ParamsError(space(name, values, ("model", *wrong[0])), wrong[1])


def _check_parts(params: "Params", dataset: str, recipe: str, wanted: str) -> None:
    from transfer.params import ParamsError
    from transfer.params.base import is_transfer
    from transfer.params.recipes import SHORTHANDS

    name = params.run(dataset, recipe).model.name
    for key in sorted(params.recipe(recipe).model_fields_set & SHORTHANDS):
        if not is_transfer(name) and name in (*modules(), *_timm(name)):
            text = f"only TransFER has it, and the model is {name}; leave it out, or name a transfer_ model"
            raise ParamsError(("recipe_definitions", recipe, key), f"{text} ({recipe} is in {wanted})")


def register_with_timm() -> None:
    """Register now if timm is loaded, else as soon as it is."""
    if _timm_is_loaded():
        _import_all()
    else:
        sys.meta_path.insert(0, _TimmFinder())


def _timm_is_loaded() -> bool:
    return hasattr(sys.modules.get("timm"), "create_model")


def _tell_timm(function: Callable[..., Any]) -> None:
    from timm.models import is_model, register_model

    if is_model(function.__name__):  # timm has a vgg13 of its own
        return

    @wraps(function)
    def of_timm(pretrained: bool = False, **kwargs: Any) -> Any:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm passes these to every model
            kwargs.pop(key, None)
        return _pretrained(function, kwargs) if pretrained else function(**kwargs)

    register_model(of_timm)


def _pretrained(function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """The model that comes along, with a fresh head for other classes. Raises ValueError for a model without one."""
    from transfer.models.weights.catalogue import find_weights
    from transfer.models.weights.load import read_safetensors

    try:
        tensors, about = read_safetensors(find_weights())
    except UserError as error:
        raise ValueError(str(error)) from None
    model, classes = about["model"], about["classes"]
    if model["name"] != function.__name__:
        raise ValueError(
            f"weights come along for {model['name']} only; import those of others with `transfer weights` "
            "(docs/weights.md), or give a safetensors file of this project as checkpoint_path"
        )
    made = function(**{"num_classes": len(classes), "img_size": model["img_size"]} | model["args"] | kwargs)
    if made.num_classes != len(classes):
        fresh = {name: value for name, value in made.state_dict().items() if name.startswith("head.")}
        tensors = {name: value for name, value in tensors.items() if not name.startswith("head.")} | fresh
    made.load_state_dict(tensors)
    return made


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
