"""Tables: what they show, of which runs, and the sweeps that define recipes."""

import itertools
import math
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from transfer.params.base import Name, ParamsError, Protocol, Seeds, Strict
from transfer.params.recipes import setting
from transfer.utils.errors import choices

KINDS = tuple(sorted(file.stem for file in (Path(__file__).parents[1] / "tables" / "kinds").glob("[a-z]*.py")))
"""The kinds of tables: the names of the modules in transfer/tables/kinds."""

_MOST, _LONGEST = 1000, 120  # variants of a sweep, and characters of their names, which become folders


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"unknown kind '{name}'; {choices(name, KINDS)}")
    return name


TableKind = Annotated[str, AfterValidator(_kind), Field(json_schema_extra={"enum": list(KINDS)})]


class Sweep(Strict):
    """Variants of one recipe, one for every combination of the listed values."""

    recipe: Name = "full"
    """The recipe to vary."""
    over: Annotated[
        dict[Annotated[str, AfterValidator(setting)], list[int | float | str]],
        Field(min_length=1),
    ]
    """Values by key, such as model.args.num_lanets. MAD is off with fewer than two LANets."""

    @model_validator(mode="after")
    def _has_values(self) -> "Sweep":
        for key, values in self.over.items():
            if not values:
                raise ParamsError(("over", key), "no values; list at least one")
            if len(set(values)) < len(values):
                raise ParamsError(("over", key), f"a value appears twice: {values}")
        if (size := math.prod(map(len, self.over.values()))) > _MOST:
            raise ParamsError(("over",), f"{size:,} variants; at most {_MOST}")
        names = self.recipes()
        if len(names) < size:
            raise ParamsError(("over",), "different values give the same name; names keep only letters and digits")
        if any(len(name) > _LONGEST for name in names):
            raise ParamsError(("over",), f"the names of the variants have more than {_LONGEST} characters")
        return self

    def recipes(self) -> dict[str, dict[str, Any]]:
        """The variants by name, such as full_num_lanets3: keys and their values."""
        found = {}
        for values in itertools.product(*self.over.values()):
            chosen = dict(zip(self.over, values, strict=True))
            words = [k.rpartition(".")[2] + re.sub(r"[^a-z0-9]", "", str(v).lower()) for k, v in chosen.items()]
            found["_".join([self.recipe, *words])] = chosen
        return found


class TableDefinition(Strict):
    """A table: what it shows, and of which runs; null: those of the experiment."""

    kind: TableKind
    """A module of transfer/tables/kinds (docs/tables.md)."""
    title: str = ""
    """Title of the table; empty: its name."""
    datasets: Annotated[list[Name], Field(min_length=1)] | None = None
    recipes: Annotated[list[Name], Field(min_length=1)] | None = None
    sweep: Sweep | None = None
    """Variants of one recipe, instead of `recipes`."""
    baseline: Name | None = None
    """The recipe that the others are compared with, one of the table's; null: that of the experiment."""
    protocols: Annotated[list[Protocol], Field(min_length=1)] | None = None
    seeds: Seeds | None = None

    @model_validator(mode="after")
    def _names_its_recipes_once(self) -> "TableDefinition":
        if self.recipes and self.sweep:
            raise ParamsError(("sweep",), "a table has either recipes or a sweep; remove one of them")
        return self
