"""The block `model`: the network."""

from typing import Annotated, Literal

from pydantic import Field

from transfer.params.strict import Fraction, Name, Strict, partial


class ModelParams(Strict):
    """The network, and the rates that a recipe uses when it switches a part on."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "transfer_tiny"
    """Name in timm's registry, such as transfer_base."""
    img_size: Annotated[int, Field(ge=16, le=448)] = 112
    """Side of the square input in pixels; the aligned faces are resized to it."""
    stem_stages: Annotated[int, Field(ge=1, le=4)] = 3
    """How many stages of the IR stem are used."""
    num_lanets: Annotated[int, Field(ge=0, le=16)] = 2
    """B, the number of LANets of the recipes with Local CNNs."""
    mad: Fraction = 0.6
    """p1, the probability that MAD drops one LANet's map, for the recipes with MAD."""
    msad: Fraction = 0.3
    """p2, the probability that MSAD drops one head of a block, for the recipes with MSAD."""
    msad_mode: Literal["head", "token"] = "head"
    """head: as in the paper; token: as in the released code."""
    lanet_norm: bool = True
    """Batch norm in the LANets, as released; the paper names none."""
    normalization: Literal["imagenet", "half"] = "imagenet"
    """What the stem sees: ImageNet's mean and standard deviation, as released, or 0.5, with which IR-50 was trained."""
    pretrained: list[Name] = []
    """Weights to begin with, by their names in params/sources.yaml; the tensors that none of them has start fresh."""


ModelOverride = partial(ModelParams, "ModelOverride")
