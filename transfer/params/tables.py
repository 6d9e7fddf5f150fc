"""The tables: what they show, of which trainings, and the sweeps that make recipes of their own."""

import itertools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from transfer.params.base import Name, ParamsError, Protocol, Strict, different

KINDS = tuple(sorted(file.stem for file in (Path(__file__).parents[1] / "tables" / "kinds").glob("[a-z]*.py")))
"""The kinds of tables: a module of transfer/tables/kinds each, found without importing it."""
TableKind = Literal[KINDS]
WITH_FIGURE = ("recipes", "per_class", "calibration", "robustness", "diversity")
OF_WEIGHTS = ("robustness", "cross", "diversity")
"""The kinds that are made from what the kept weights say of other faces than those of the test part as they are."""


class Sweep(Strict):
    """Variants of one recipe, one for every combination of the listed values."""

    recipe: Name = "full"
    """The recipe that is varied."""
    over: Annotated[
        dict[Annotated[str, Field(pattern=r"^((model|train)\.[a-z_]+|upsample)$")], list[int | float | str]],
        Field(min_length=1),
    ]
    """Values by key, such as model.num_lanets. With fewer than two LANets there is no MAD."""

    @model_validator(mode="after")
    def _has_values(self) -> "Sweep":
        for key, values in self.over.items():
            if not values:
                raise ParamsError(("over", key), "no values; list at least one")
            if len(set(values)) < len(values):
                raise ParamsError(("over", key), f"a value appears twice: {values}")
        return self

    def recipes(self) -> dict[str, dict[str, Any]]:
        """The variants by name, such as full_num_lanets3: keys and their values."""
        found = {}
        for values in itertools.product(*self.over.values()):
            chosen = dict(zip(self.over, values, strict=True))
            found["_".join([self.recipe, *(_label(key, value) for key, value in chosen.items())])] = chosen
        return found


def _label(key: str, value: int | float | str) -> str:
    return key.rpartition(".")[2] + re.sub(r"[^a-z0-9]", "", str(value).lower())


class TableDefinition(Strict):
    """A table: what it shows, and of which trainings; null: those of the experiment."""

    kind: TableKind
    """A module of transfer/tables/kinds. recipes: accuracies against a baseline; protocols: what the choice of the
    epoch flatters; reported: beside published numbers; per_class: recall by expression; subgroups: by attributes of the
    faces; calibration: of the probabilities; robustness: under corruptions and on challenge subsets; cross: on the
    other datasets; diversity: of the attention."""
    title: str = ""
    """What stands above it; empty: its name."""
    datasets: Annotated[list[Name], Field(min_length=1)] | None = None
    recipes: Annotated[list[Name], Field(min_length=1)] | None = None
    sweep: Sweep | None = None
    """Recipes that are variants of one, in the place of `recipes`."""
    baseline: Name | None = None
    """The recipe that the others are compared with; of a sweep, any of its recipes; null: that of the experiment."""
    protocols: Annotated[list[Protocol], Field(min_length=1)] | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(different)] | None = None

    @model_validator(mode="after")
    def _names_its_recipes_once(self) -> "TableDefinition":
        if self.recipes and self.sweep:
            raise ParamsError(("sweep",), "a table has recipes or a sweep, not both")
        return self
