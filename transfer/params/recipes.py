"""Recipes: model, loss, training and balance, with shorthands for the parts of TransFER."""

from collections.abc import Mapping
from typing import Any

from transfer.params.base import Name, Strict, Upsample, merge, nested, renamed
from transfer.params.datasets import SamplingParams
from transfer.params.train import Augmentation, LossParams, ModelOverride, ModelParams, TrainOverride, TrainParams
from transfer.utils.errors import choices

PARTS = {"num_lanets": 2, "mad": 0.6, "msad": 0.3}
"""Arguments of TransFER in recipes with Local CNNs, MAD and MSAD: B, p1 and p2, where ``model.args`` has no others."""
SHORTHANDS = {"local_cnns", "mad", "msad"}
"""Keys of a recipe that TransFER alone has."""
LANETS, MAD = "model.args.num_lanets", "model.args.mad"

_BLOCKS: dict[str, Mapping[str, Any]] = {
    "": {"upsample": None},
    "model": ModelParams.model_fields,
    "train": TrainParams.model_fields,
    "train.augment": Augmentation.model_fields,
    "train.loss": LossParams.model_fields,
}


class RecipeOnDataset(Strict):
    """What a recipe changes on one dataset, such as the values that a search found there."""

    model: ModelOverride = ModelOverride()
    train: TrainOverride = TrainOverride()
    upsample: Upsample | None = None
    """Class balancing on this dataset; null: that of the recipe."""


class RecipeDefinition(Strict):
    """A recipe: its model, its training, and shorthands for the parts of TransFER."""

    local_cnns: bool = True
    """LANets between stem and ViT; TransFER alone, as the next two."""
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


def setting(key: str) -> str:
    """Validator: the dotted key of a value that recipes may differ in, for sweeps and searches."""
    block, _, name = key.rpartition(".")
    if block.endswith(".args") or name in _BLOCKS.get(block, ()):
        return key
    known = [f"{block}.{name}".lstrip(".") for block, names in _BLOCKS.items() for name in names]
    advice = renamed(key) or renamed(f"space.{key}") or f"unknown key; {choices(key, [*known, LANETS, MAD])}"
    raise ValueError(f"{key}: {advice}")


def varied(recipe: RecipeDefinition, values: Mapping[str, Any]) -> RecipeDefinition:
    """``recipe`` with the values of a sweep by dotted keys, which override everything else in it."""
    content = recipe.model_dump(exclude_unset=True)
    content["datasets"] = {}
    off = {"mad": False, MAD: 0.0} if values.get(LANETS, 2) < 2 else {}
    shorthands = {key.rpartition(".")[2]: True for key in values if key in (MAD, "model.args.msad")}
    return RecipeDefinition.model_validate(merge(content, nested({**values, **shorthands, **off}.items())))


def with_values(recipe: RecipeDefinition, dataset: str, values: Mapping[str, Any]) -> RecipeDefinition:
    """``recipe`` with the values of a trial on ``dataset``, by dotted keys."""
    given = recipe.datasets.get(dataset, RecipeOnDataset()).model_dump(exclude_unset=True)
    here = RecipeOnDataset.model_validate(merge(given, nested(values.items())))
    return recipe.model_copy(update={"datasets": recipe.datasets | {dataset: here}})


class RunParams(Strict):
    """The resolved parameters of a run."""

    model: ModelParams
    train: TrainParams
    sampling: SamplingParams
