"""The search space: what a trial may draw, the cells of a grid, and the recipe that its values make."""

import itertools
from typing import Any

from optuna import Trial

from transfer.params import (
    CountRange,
    ModelOverride,
    Params,
    RateRange,
    RecipeDefinition,
    RecipeOnDataset,
    SearchDefinition,
    SearchSpace,
    TrainOverride,
)

MODEL_KEYS = ("mad", "msad", "num_lanets")


def draw(trial: Trial, search: SearchDefinition, lanets: int) -> dict[str, Any]:
    """Draw the values of ``trial``; ``lanets`` is B where the space does not have it.

    With fewer than two LANets mad is 0, and no parameter of the trial. The number of LANets is drawn first.
    """
    space, grid = search.space, search.sampler == "grid"
    values: dict[str, Any] = {}
    if space.num_lanets:
        values["num_lanets"] = _draw(trial, "num_lanets", space.num_lanets, grid)
    if values.get("num_lanets", lanets) < 2:
        values["mad"] = 0.0
    elif space.mad:
        values["mad"] = _draw(trial, "mad", space.mad, grid)
    if space.msad:
        values["msad"] = _draw(trial, "msad", space.msad, grid)
    if space.upsample:
        values["upsample"] = trial.suggest_categorical("upsample", space.upsample)
    return values


def _draw(trial: Trial, name: str, part: RateRange | CountRange | list, grid: bool) -> Any:
    if isinstance(part, CountRange):
        return trial.suggest_int(name, part.low, part.high, step=part.step)
    if isinstance(part, RateRange):
        return trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)
    if not grid:
        return trial.suggest_categorical(name, part)
    # The values of a grid are given, not drawn: as numbers, so that figures have an axis of numbers.
    suggest = trial.suggest_int if name == "num_lanets" else trial.suggest_float
    return suggest(name, min(part), max(part))


def cells(space: SearchSpace, lanets: int) -> list[dict[str, Any]]:
    """Every combination of the space once, in order, without mad where there are fewer than two LANets."""
    parts = {name: part for name in SearchSpace.model_fields if (part := getattr(space, name))}
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
    """The parameters of a trial's trainings: its values are the recipe ``search``, and no protocol is asked for."""
    definition = params.search_definitions[search]
    recipe = with_values(params.recipe_definitions[definition.recipe], dataset, values)
    if definition.epochs:
        here = recipe.datasets[dataset]
        train = here.train.model_dump(exclude_unset=True) | {"epochs": definition.epochs}
        here = here.model_copy(update={"train": TrainOverride(**train)})
        recipe = recipe.model_copy(update={"datasets": recipe.datasets | {dataset: here}})
    recipes = params.recipe_definitions | {search: recipe}
    return params.model_copy(update={"recipe_definitions": recipes, "protocols": []})
