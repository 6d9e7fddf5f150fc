"""Searches: their spaces, samplers and pruners."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import product
from math import prod
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from transfer.params.base import Name, ParamsError, Seed, Seeds, Strict, different
from transfer.params.recipes import setting

Number = TypeVar("Number", int, float)
_MOST = 5000  # values of a range, and combinations of a grid


def _stepped(low: Number, high: Number, step: Number) -> list[Number]:
    """low, low + step, ... high, without the rounding errors of repeated addition."""
    first, last, width = (Decimal(str(value)) for value in (low, high, step))
    if (last - first) % width:
        raise ValueError(f"high is not low plus a whole number of steps: {low}, {high}, {step}")
    return [type(low)(first + i * width) for i in range(int((last - first) / width) + 1)]


class SearchRange(Strict):
    """A range of numbers to search in: whole ones if low, high and step are."""

    low: int | float
    high: int | float
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Step between values; null: continuous."""
    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "SearchRange":
        if self.low >= self.high:
            raise ValueError(f"expected low < high, found {self.low} and {self.high}")
        if self.log and (self.step or self.low <= 0):
            raise ValueError("log needs low > 0 and no step")
        if self.step:
            if (self.high - self.low) / self.step > _MOST:
                raise ValueError(f"more than {_MOST:,} steps from {self.low} to {self.high}; choose a wider step")
            _stepped(self.low, self.high, self.step)
        elif isinstance(self.low, int) and isinstance(self.high, int):
            raise ValueError(f"whole numbers or all between? add step: 1, or write low: {float(self.low)}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step))

    def values(self) -> list[int] | list[float] | None:
        """All values in order; None for a continuous range."""
        if self.step is None:
            return None
        as_written: type = int if self.whole else float
        return _stepped(*map(as_written, (self.low, self.high, self.step)))


Choices = Annotated[list[int | float | str | bool], Field(min_length=1), AfterValidator(different)]


def _some(space: dict[str, Any]) -> dict[str, Any]:
    if not space:
        raise ValueError("nothing to search; give a key such as model.args.mad a range or a list")
    return space


SearchSpace = Annotated[dict[Annotated[str, AfterValidator(setting)], SearchRange | Choices], AfterValidator(_some)]
"""A range or a list of choices by dotted key; MAD is off, and not sampled, in trials with fewer than two LANets."""


class PrunerParams(Strict):
    """When a trial is pruned by its validation accuracy."""

    kind: Literal["median", "none"] = "median"
    """median: prune if the best epoch so far is worse than the median of the other trials at that epoch."""
    startup_trials: Annotated[int, Field(ge=0, le=100000)] = 5
    """Completed trials before any is pruned."""
    warmup_epochs: Annotated[int, Field(ge=0, le=10000)] = 5
    """Epochs of a trial before it may be pruned."""


class SearchDefinition(Strict):
    """A search: one study per dataset; its result is a recipe of the same name."""

    recipe: Name = "full"
    """The recipe to vary."""
    space: SearchSpace
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """grid: every combination once."""
    trials: Annotated[int, Field(ge=1, le=100000)] | None = None
    """Trials per dataset, completed or pruned; a grid has one per combination."""
    workers: Annotated[int, Field(ge=1, le=1000)] = 2
    """Worker processes per study."""
    epochs: Annotated[int, Field(ge=1, le=10000)] | None = None
    """Epochs of a trial; null: train.epochs. The resulting recipe does not inherit it."""
    seeds: Seeds = [0]
    """Seeds of the runs of a trial, whose value is the mean over them."""
    sampler_seed: Seed = 0
    startup_trials: Annotated[int, Field(ge=1, le=100000)] = 10
    """Random trials before tpe starts."""
    pruner: PrunerParams = PrunerParams()

    @model_validator(mode="after")
    def _fits_its_sampler(self) -> "SearchDefinition":
        grid = self.sampler == "grid"
        if not grid and self.trials is None:
            raise ParamsError(("trials",), f"missing; {self.sampler} needs a number of trials")
        if grid and self.trials is not None:
            raise ParamsError(("trials",), "a grid has as many trials as combinations; leave it out")
        for name, values in self.space.items():
            if grid and isinstance(values, SearchRange) and values.step is None:
                raise ParamsError(("space", name), "a grid needs a step or a list")
        sizes = (len(part if isinstance(part, list) else part.values() or [0]) for part in self.space.values())
        if grid and (size := prod(sizes)) > _MOST:
            raise ParamsError(("space",), f"a grid of {size:,} combinations; at most {_MOST:,}")
        return self

    def ends(self) -> Iterator[dict[str, Any]]:
        """Each listed value of the space, and the ends of each range, with every model and loss that it names."""
        named = {key: part for key, part in self.space.items() if key.endswith(".name") and isinstance(part, list)}
        for names in product(*named.values()):
            chosen = dict(zip(named, names, strict=True))
            yield chosen
            for key in [key for key in self.space if key not in named]:
                part = self.space[key]
                for value in part if isinstance(part, list) else (part.low, part.high):
                    yield chosen | {key: value}
