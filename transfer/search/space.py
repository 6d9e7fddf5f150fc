"""The search space: the values of a trial, the cells of a grid, and the recipe that values make."""

import itertools
from typing import TYPE_CHECKING, Any

from transfer.params import (
    CountRange,
    ModelOverride,
    Params,
    RecipeDefinition,
    RecipeOnDataset,
    SearchSpace,
    TrainOverride,
)

if TYPE_CHECKING:
    from optuna import Trial

MODEL_KEYS = ("mad", "msad", "num_lanets")
_KEYS = ("num_lanets", "mad", "msad", "upsample")


def draw(trial: "Trial", space: SearchSpace, lanets: int) -> dict[str, Any]:
    """Draw the values of ``trial``; ``lanets`` is B if not in the space. Below two LANets mad is 0, and not drawn."""
    values: dict[str, Any] = {}
    for name in _KEYS:
        part = getattr(space, name)
        if name == "mad" and values.get("num_lanets", lanets) < 2:
            values["mad"] = 0.0
        elif isinstance(part, list):
            values[name] = trial.suggest_categorical(name, part)
        elif isinstance(part, CountRange):
            values[name] = trial.suggest_int(name, part.low, part.high, step=part.step)
        elif part:
            values[name] = trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)
    return values


def cells(space: SearchSpace, lanets: int) -> list[dict[str, Any]]:
    """Every combination of a grid once, in order; without mad where there are fewer than two LANets."""
    parts = {name: part for name in _KEYS if (part := getattr(space, name))}
    lists = [part if isinstance(part, list) else part.values() for part in parts.values()]
    found: list[dict[str, Any]] = []
    for combination in itertools.product(*lists):
        cell = dict(zip(parts, combination, strict=True))
        if cell.get("num_lanets", lanets) < 2:
            cell.pop("mad", None)
        if cell not in found:
            found.append(cell)
    return found


def conditional(space: SearchSpace) -> bool:
    """Whether some trials have no mad."""
    counts = space.num_lanets
    lowest = counts.low if isinstance(counts, CountRange) else min(counts) if counts else 2
    return bool(space.mad) and lowest < 2


def with_values(recipe: RecipeDefinition, dataset: str, values: dict[str, Any]) -> RecipeDefinition:
    """``recipe`` with the ``values`` of a trial on ``dataset``."""
    here = recipe.datasets.get(dataset, RecipeOnDataset())
    model = here.model.model_dump(exclude_unset=True) | {key: values[key] for key in MODEL_KEYS if key in values}
    changes: dict[str, Any] = {"model": ModelOverride(**model)}
    if "upsample" in values:
        changes["upsample"] = values["upsample"]
    return recipe.model_copy(update={"datasets": recipe.datasets | {dataset: here.model_copy(update=changes)}})


def trial_params(params: Params, dataset: str, search: str, values: dict[str, Any]) -> Params:
    """The parameters of a trial's runs: its values are the recipe ``search``, and no protocol is asked for."""
    definition = params.search_definitions[search]
    recipe = with_values(params.recipe_definitions[definition.recipe], dataset, values)
    if definition.epochs:
        here = recipe.datasets[dataset]
        train = TrainOverride(**here.train.model_dump(exclude_unset=True) | {"epochs": definition.epochs})
        here = here.model_copy(update={"train": train})
        recipe = recipe.model_copy(update={"datasets": recipe.datasets | {dataset: here}})
    recipes = params.recipe_definitions | {search: recipe}
    return params.model_copy(update={"recipe_definitions": recipes, "protocols": []})
