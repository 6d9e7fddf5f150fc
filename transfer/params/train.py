"""The block `train`: the training run and its augmentation."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from transfer.params.base import Fraction, Name, Override, ParamsError, Range, Strict
from transfer.utils.errors import choices


class Augmentation(Strict):
    """Training augmentation, drawn per sample; the defaults are the authors' (APViT configs/_base_/datasets/RAF.py)."""

    rotate: Fraction = 0.5
    """Probability of a rotation."""
    degrees: Annotated[float, Field(ge=0, le=180)] = 6.0
    """Largest angle of the rotation."""
    crop_scale: Range = (0.8, 1.0)
    """Range of the resized crop's area, as a fraction of the image."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    grey: Fraction = 0.2
    """Probability of a conversion to grey."""
    jitter: Fraction = 0.8
    """Probability of a colour jitter."""
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    erase: Fraction = 0.5
    """Probability of random erasing."""
    erase_scale: Range = (0.02, 0.33)
    """Range of the erased area, as a fraction of the image."""


class TrainParams(Strict):
    """The training run."""

    epochs: Annotated[int, Field(ge=1, le=10000)] = 40
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 128
    """Images of a step; batch norm needs two at least."""
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    """L2 weight decay; position embeddings and the class token have none."""
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: list[Annotated[int, Field(ge=1)]] = [15, 30]
    """Epochs after which the step schedule multiplies the rate by gamma."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Length of the linear warm-up."""
    clip_norm: Annotated[float, Field(ge=0)] = 10.0
    """Largest L2 norm of the gradient; 0 switches clipping off."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential average of the weights, which is then what is evaluated and kept; 0: none."""
    targets: Literal["label", "votes"] = "label"
    """votes: the taggers' votes over the classes as soft labels, where the dataset has them."""
    augment: Augmentation = Augmentation()
    flip_views: bool = False
    """Average the probabilities of the face and its mirror image in validation and test."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast where the hardware computes in it, else fp32."""
    deterministic: bool = False
    """On a GPU: only operations that give the same bits every time, which takes longer. On a CPU they always do."""
    compile: bool = False
    """Compile the network's training step with torch.compile: a minute or two at the start, faster steps, other
    roundings. Needs a C++ compiler."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads of one run, or of each of its processes."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that share the batches of one run, each with a process of its own, started by torchrun."""
    jobs_per_device: Annotated[int, Field(ge=1, le=64)] = 1
    """Jobs on one machine that use the same CUDA device at a time; further ones wait."""


class TrainOverride(Override, TrainParams):
    """Keys of TrainParams that differ."""


WHERE = {"device", "threads", "gpus", "jobs_per_device"}
"""Keys of TrainParams that say where a run takes place, and change nothing in what it learns but rounding (and, with
several GPUs, random draws)."""


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


class ModelOverride(Override, ModelParams):
    """Keys of ModelParams that differ."""


class Scale(NamedTuple):
    """A corruption's severities, growing; a face is untouched at ``least``, and none may be above ``most``."""

    severities: tuple[float, ...]
    least: float
    most: float
    unit: str


_SIDE = Scale((0.125, 0.1875, 0.25, 0.375, 0.5), 0, 1, "side of the square / side of the face")

SEVERITIES: dict[str, Scale] = {
    "occlude_random": _SIDE,
    "occlude_eyes": _SIDE,
    "occlude_nose": _SIDE,
    "occlude_mouth": _SIDE,
    "blur": Scale((0.01, 0.02, 0.03, 0.04, 0.06), 0, 0.25, "standard deviation / side of the face"),
    "noise": Scale((0.05, 0.1, 0.15, 0.2, 0.3), 0, 1, "standard deviation / range of the pixels"),
    "low_resolution": Scale((2, 3, 4, 6, 8), 1, 32, "side of the face / side of the reduced face"),
    "darker": Scale((0.2, 0.4, 0.6, 0.8, 0.9), 0, 1, "part of the light that is taken away"),
    "brighter": Scale((0.25, 0.5, 1, 1.5, 2), 0, 10, "part of the light that is added"),
}
"""Corruption -> its scale. `transfer.evaluation.robustness` has what each does."""


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
                raise ParamsError(("corruptions",), f"unknown name '{name}'; {choices(name, SEVERITIES)}")
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
