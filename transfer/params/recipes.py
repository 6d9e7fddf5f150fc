"""Recipes: which parts of TransFER are on and what else differs; and the resolved parameters of a run."""

from collections.abc import Mapping
from typing import Any

from transfer.params.base import Name, Strict, Upsample, merge
from transfer.params.datasets import SamplingParams
from transfer.params.train import ModelOverride, ModelParams, TrainOverride, TrainParams


class RecipeOnDataset(Strict):
    """What a recipe changes on one dataset, such as the values that a search found there."""

    model: ModelOverride = ModelOverride()
    train: TrainOverride = TrainOverride()
    upsample: Upsample | None = None
    """Class balancing on this dataset; null: that of the recipe."""


class RecipeDefinition(Strict):
    """A recipe: which parts of TransFER are on, and what else it changes."""

    local_cnns: bool = True
    """LANets between stem and ViT."""
    mad: bool = False
    """Multi-attention dropping of LANet maps."""
    msad: bool = False
    """Multi-head self-attention dropping."""
    model: ModelOverride = ModelOverride()
    train: TrainOverride = TrainOverride()
    upsample: Upsample | None = None
    """Class balancing; null: that of the dataset. The split is the same for all recipes."""
    datasets: dict[Name, RecipeOnDataset] = {}
    """Overrides per dataset; they win over the keys above."""


def varied(recipe: RecipeDefinition, values: Mapping[str, Any]) -> RecipeDefinition:
    """``recipe`` with the values of a sweep by dotted keys, which override everything else in it."""
    content = recipe.model_dump(exclude_unset=True)
    content["datasets"] = {}
    for key, value in values.items():
        block, _, name = key.rpartition(".")
        content = merge(content, {block: {name: value}} if block else {name: value})
        if name in ("mad", "msad"):
            content[name] = True
    if values.get("model.num_lanets", 2) < 2:
        content = merge(content, {"mad": False, "model": {"mad": 0.0}})
    return RecipeDefinition.model_validate(content)


class RunParams(Strict):
    """The resolved parameters of a run."""

    model: ModelParams
    train: TrainParams
    sampling: SamplingParams
