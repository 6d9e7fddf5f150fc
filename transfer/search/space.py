"""The search space: the values of a trial, the cells of a grid, and the recipe that values make."""

import itertools
from typing import TYPE_CHECKING, Any

from transfer.params import Params, RecipeDefinition, RecipeOnDataset, SearchRange, SearchSpace, merge, nested
from transfer.params.recipes import LANETS, MAD

if TYPE_CHECKING:
    from optuna import Trial


def _in_order(space: SearchSpace) -> list[tuple[str, Any]]:
    """The number of LANets first: it decides whether there is MAD."""
    return sorted(space.items(), key=lambda part: part[0] != LANETS)


def draw(trial: "Trial", space: SearchSpace, lanets: int) -> dict[str, Any]:
    """Draw the values of ``trial``; ``lanets`` is B if not in the space. Below two LANets mad is 0, and not drawn."""
    values: dict[str, Any] = {}
    for name, part in _in_order(space):
        if name == MAD and values.get(LANETS, lanets) < 2:
            continue
        if isinstance(part, list):
            values[name] = trial.suggest_categorical(name, part)
        elif part.whole:
            values[name] = trial.suggest_int(name, part.low, part.high, step=part.step)
        else:
            values[name] = trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)
    return values | ({MAD: 0.0} if values.get(LANETS, 2) < 2 or (MAD in space and MAD not in values) else {})


def cells(space: SearchSpace, lanets: int) -> list[dict[str, Any]]:
    """Every combination of a grid once, in order; without mad where there are fewer than two LANets."""
    lists: list[Any] = [part if isinstance(part, list) else part.values() for part in space.values()]
    found: list[dict[str, Any]] = []
    for combination in itertools.product(*lists):
        cell: dict[str, Any] = dict(zip(space, combination, strict=True))
        if cell.get(LANETS, lanets) < 2:
            cell.pop(MAD, None)
        if cell not in found:
            found.append(cell)
    return found


def conditional(space: SearchSpace) -> bool:
    """Whether some trials have no mad."""
    counts: Any = space.get(LANETS, [2])
    return MAD in space and (counts.low if isinstance(counts, SearchRange) else min(counts)) < 2


def with_values(recipe: RecipeDefinition, dataset: str, values: dict[str, Any]) -> RecipeDefinition:
    """``recipe`` with the ``values`` of a trial on ``dataset``."""
    here = recipe.datasets.get(dataset, RecipeOnDataset()).model_dump(exclude_unset=True)
    for key, value in values.items():
        here = merge(here, nested(key, value))
    return recipe.model_copy(update={"datasets": recipe.datasets | {dataset: RecipeOnDataset.model_validate(here)}})


def trial_params(params: Params, dataset: str, search: str, values: dict[str, Any]) -> Params:
    """The parameters of a trial's runs: its values are the recipe ``search``, and no protocol is asked for."""
    definition = params.search_definitions[search]
    length = {"train.epochs": definition.epochs} if definition.epochs else {}
    recipe = with_values(params.recipe_definitions[definition.recipe], dataset, length | values)
    recipes = params.recipe_definitions | {search: recipe}
    return params.model_copy(update={"recipe_definitions": recipes, "protocols": []})
