"""The block `robustness`: what is done to the test faces of a finished training."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from transfer.evaluation.severities import SEVERITIES
from transfer.params.strict import Name, ParamsError, Strict


class RobustnessParams(Strict):
    """What is done to the test faces of a finished training."""

    corruptions: Literal["all"] | dict[Name, list[float]] = "all"
    """Severities of each corruption, in the units of docs/robustness.md; all: every corruption at its own list."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise and of the random places: the same for all recipes and training seeds."""

    @model_validator(mode="after")
    def _are_severities(self) -> "RobustnessParams":
        for name, severities in self.chosen().items():
            if name not in SEVERITIES:
                raise ParamsError(("corruptions",), f"unknown name '{name}'; allowed: {', '.join(SEVERITIES)}")
            scale = SEVERITIES[name]
            outside = [severity for severity in severities if not scale.least < severity <= scale.most]
            if outside:
                expected = f"expected more than {scale.least} and at most {scale.most} ({scale.unit})"
                raise ParamsError(("corruptions", name), f"{outside[0]:g}: {expected}")
            if len(set(severities)) < len(severities):
                raise ParamsError(("corruptions", name), f"a value appears twice: {severities}")
        return self

    def chosen(self) -> dict[str, list[float]]:
        """Corruption -> severities; a corruption without any is left out."""
        if self.corruptions == "all":
            return {name: list(scale.severities) for name, scale in SEVERITIES.items()}
        return {name: sorted(severities) for name, severities in self.corruptions.items() if severities}
