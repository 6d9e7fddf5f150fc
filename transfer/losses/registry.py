"""The losses by name: each file of this folder that defines a class ``Loss``."""

import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.params import arguments
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import nn

    from transfer.losses.base import Loss
    from transfer.params import Params, RunParams
    from transfer.params.train import LossParams

RESERVED = ("self", "model", "num_classes", "num_samples")
"""Arguments that are not given in ``train.loss.args``."""


@cache
def names() -> tuple[str, ...]:
    """All losses."""
    return tuple(
        sorted(file.stem for file in Path(__file__).parent.glob("*.py") if "\nclass Loss(base." in file.read_text())
    )


def module_of(name: str) -> str:
    """The module of a loss."""
    return f"{__package__}.{name}"


def create_loss(settings: "RunParams", model: "nn.Module", num_classes: int, num_samples: int) -> "Loss":
    """The loss of a run; ``num_samples`` are the rows of its store. Raises UserError: it does not fit the model."""
    params = settings.train.loss
    if wrong := _wrong(params):
        raise UserError(f"train.loss.{'.'.join(wrong[0])}: {wrong[1]}")
    kind = importlib.import_module(module_of(params.name)).Loss
    given = {"model": model, "num_classes": num_classes, "num_samples": num_samples}
    wanted = _written(params.name)
    try:
        loss: Loss = kind(**{key: value for key, value in given.items() if key in wanted}, **params.args)
        loss.network(model)
    except ValueError as error:
        raise UserError(f"train.loss: {params.name} {error}") from None
    return loss


@cache
def _written(name: str) -> arguments.Arguments:
    return arguments.written(Path(__file__).with_name(f"{name}.py"), "Loss")


@cache
def _accepted(name: str) -> "type[BaseModel]":
    return arguments.typed(name, _written(name), RESERVED)


def problem(settings: "RunParams") -> tuple[tuple[str, ...], str] | None:
    """The key below ``train.loss`` that is wrong, and what is wrong with it, as far as can be told without training."""
    if wrong := _wrong(settings.train.loss):
        return wrong
    return None if settings.train.loss.name == "cross_entropy" else _does_not_fit(settings.model_dump_json())


def _wrong(loss: "LossParams") -> tuple[tuple[str, ...], str] | None:
    if loss.name not in names():
        return ("name",), f"unknown loss {loss.name!r}; {choices(loss.name, names())}"
    return arguments.problem(_accepted(loss.name), loss.args)


@cache
def _does_not_fit(settings: str) -> tuple[tuple[str, ...], str] | None:
    """What a loss finds lacking in the run's network or targets."""
    import torch

    from transfer.models.registry import create_model, input_of
    from transfer.params import RunParams

    run = RunParams.model_validate_json(settings)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model = create_model(run.model, 7)
            loss = create_loss(run, model, 7, 2)
            side = input_of(run.model)["img_size"]
            if loss.soft and run.train.targets != "soft_labels":
                return ("name",), f"{run.train.loss.name} needs votes; write train.targets: soft_labels"
            if run.train.gpus > 1 and loss.state_dict():
                return (
                    "name",
                ), f"{run.train.loss.name} has a state of its own, which GPUs do not share; use train.gpus: 1"
            loss.network(model).eval()(torch.zeros(2, 3, side, side))
    except UserError as error:
        return ("name",), str(error).removeprefix("train.loss: ")
    except ValueError as error:
        return ("name",), f"{run.train.loss.name} {error}"
    return None


def check_losses(params: "Params") -> None:
    """Raise ParamsError if a run has an unknown loss, or one that does not fit its network or targets."""
    from transfer.params import ParamsError
    from transfer.params.read import space, where

    for dataset, recipe in dict.fromkeys((dataset, recipe) for dataset, recipe, _ in params.selected_runs()):
        if wrong := problem(params.run(dataset, recipe)):
            raise ParamsError(where(params, dataset, recipe, ("train", "loss", *wrong[0])), wrong[1])
    for name, _, values, run in params.trials():
        if wrong := problem(run):
            raise ParamsError(space(name, values, ("train", "loss", *wrong[0])), wrong[1])
