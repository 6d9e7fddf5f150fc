"""Searches: their spaces, samplers and pruners."""

from decimal import Decimal
from math import prod
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from transfer.params.base import Fraction, Name, ParamsError, Seed, Seeds, Strict, Upsample, different

Number = TypeVar("Number", int, float)
_MOST = 5000  # values of a range, and combinations of a grid


def _stepped(low: Number, high: Number, step: Number) -> list[Number]:
    """low, low + step, ... high, without the rounding errors of repeated addition."""
    first, last, width = (Decimal(str(value)) for value in (low, high, step))
    if (last - first) % width:
        raise ValueError(f"high is not low plus a whole number of steps: {low}, {high}, {step}")
    return [type(low)(first + i * width) for i in range(int((last - first) / width) + 1)]


def _check_range(low: float, high: float, step: float | None) -> None:
    if low >= high:
        raise ValueError(f"expected low < high, found {low} and {high}")
    if step and (high - low) / step > _MOST:
        raise ValueError(f"more than {_MOST:,} steps from {low} to {high}; choose a wider step than {step}")
    if step:
        _stepped(low, high, step)


class RateRange(Strict):
    """A range of rates to search in."""

    low: Fraction
    high: Fraction
    step: Annotated[float, Field(gt=0, le=1)] | None = None
    """Step between values; null: continuous."""
    log: bool = False
    """Sample on a logarithmic scale."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "RateRange":
        if self.log and (self.step or self.low == 0):
            raise ValueError("log needs low > 0 and no step")
        _check_range(self.low, self.high, self.step)
        return self

    def values(self) -> list[float] | None:
        """All values in order; None for a continuous range."""
        return _stepped(self.low, self.high, self.step) if self.step else None


class CountRange(Strict):
    """A range of whole numbers to search in."""

    low: Annotated[int, Field(ge=0, le=16)]
    high: Annotated[int, Field(ge=0, le=16)]
    step: Annotated[int, Field(ge=1, le=16)] = 1

    @model_validator(mode="after")
    def _is_a_range(self) -> "CountRange":
        _check_range(self.low, self.high, self.step)
        return self

    def values(self) -> list[int]:
        """All values, in order."""
        return _stepped(self.low, self.high, self.step)


Rates = Annotated[list[Fraction], Field(min_length=1), AfterValidator(different)]
Counts = Annotated[list[Annotated[int, Field(ge=0, le=16)]], Field(min_length=1), AfterValidator(different)]
Balances = Annotated[list[Upsample], Field(min_length=1), AfterValidator(different)]


class SearchSpace(Strict):
    """Search space: a range or a list of choices per parameter; null: the recipe's value."""

    mad: RateRange | Rates | None = None
    """p1; 0 and not sampled in trials with fewer than two LANets."""
    msad: RateRange | Rates | None = None
    """p2."""
    num_lanets: CountRange | Counts | None = None
    """B."""
    upsample: Balances | None = None
    """Class balance of the training split."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> "SearchSpace":
        if not self.model_dump(exclude_none=True):
            raise ValueError("nothing to search; give mad, msad, num_lanets or upsample a range or a list")
        return self

    def combinations(self) -> int:
        """The size of a grid; a continuous range counts as one value."""
        parts = [part for part in (self.mad, self.msad, self.num_lanets, self.upsample) if part is not None]
        return prod(len(part if isinstance(part, list) else part.values() or [0]) for part in parts)


class PrunerParams(Strict):
    """When a trial is pruned by its validation accuracy."""

    kind: Literal["median", "none"] = "median"
    """median: prune if the best epoch so far is worse than the median of the other trials at that epoch."""
    startup_trials: Annotated[int, Field(ge=0, le=100000)] = 5
    """Completed trials before any is pruned."""
    warmup_epochs: Annotated[int, Field(ge=0, le=10000)] = 5
    """Epochs of a trial before it may be pruned."""
    interval_epochs: Annotated[int, Field(ge=1, le=10000)] = 1
    """Epochs between two checks."""
    min_trials: Annotated[int, Field(ge=1, le=100000)] = 1
    """Trials that must have reached that epoch."""


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
        for name in ("mad", "msad"):
            rates = getattr(self.space, name)
            if grid and isinstance(rates, RateRange) and rates.step is None:
                raise ParamsError(("space", name), "a grid needs a step or a list")
        if grid and (size := self.space.combinations()) > _MOST:
            raise ParamsError(("space",), f"a grid of {size:,} combinations; at most {_MOST:,}")
        return self
