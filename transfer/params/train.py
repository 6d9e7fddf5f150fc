"""The blocks `train`, `model` and `robustness`."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from transfer.params.base import Channels, Fraction, Name, Override, ParamsError, Range, Seed, Strict, positive
from transfer.utils.errors import choices


class Augmentation(Strict):
    """Augmentation, sampled per image; the defaults are the authors' (APViT configs/_base_/datasets/RAF.py)."""

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


class LossParams(Strict):
    """The loss."""

    name: Name = "cross_entropy"
    """A file of transfer/losses, such as eac."""
    args: dict[str, Any] = {}
    """What this loss alone understands, such as label_smoothing."""


class TrainParams(Strict):
    """The training run."""

    epochs: Annotated[int, Field(ge=1, le=10000)] = 40
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 128
    """Images per step; batch norm needs at least two."""
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    """L2 weight decay, except of position embeddings and class token."""
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: list[Annotated[int, Field(ge=1, le=10000)]] = [15, 30]
    """Epochs after which the step schedule multiplies the rate by gamma."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0, le=10000)] = 0.0
    """Length of the linear warm-up."""
    clip_norm: Annotated[float, Field(ge=0, le=1e6)] = 10.0
    """Largest L2 norm of the gradient; 0: no clipping."""
    loss: LossParams = LossParams()
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential moving average of the weights, which is evaluated and saved; 0: none."""
    targets: Literal["label", "soft_labels"] = "label"
    """soft_labels: the distribution of the annotators' votes over the classes, if the dataset has them."""
    augment: Augmentation = Augmentation()
    hflip_tta: bool = False
    """Test-time flip: average the probabilities of a face and its mirror image."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast if the hardware supports it natively, else fp32."""
    deterministic: bool = False
    """On a GPU: only deterministic operations, which are slower. CPU runs are always deterministic."""
    compile: bool = False
    """Use torch.compile for the training step: a minute or two at the start, faster steps, other rounding. Needs a C++
    compiler."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads of one run, or of each of its processes."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that share the batches of one run, each with a process of its own, started by torchrun."""
    jobs_per_device: Annotated[int, Field(ge=1, le=64)] = 1
    """Jobs that may share a CUDA device of this machine; further ones wait."""


class TrainOverride(Override, TrainParams):
    """Keys of TrainParams that differ."""


RUNTIME_KEYS = {"device", "threads", "gpus", "jobs_per_device"}
"""Keys of TrainParams that say where a run takes place, and change nothing in what it learns but rounding (and, with
several GPUs, random draws)."""


class ModelParams(Strict):
    """The network."""

    name: Annotated[str, Field(pattern=r"^(timm/)?[a-z][a-z0-9_]*$", max_length=100)] = "transfer_tiny"
    """A model of this project, such as transfer_base, or timm/NAME for any of timm, such as timm/resnet18."""
    args: dict[str, Any] = {}
    """What this model alone understands, such as mad; they do not pass to another model that a recipe names."""
    img_size: Annotated[int, Field(ge=16, le=448)] | None = None
    """Side of the square input in pixels; aligned faces are resized to it. null: the model's own."""
    mean: Channels | None = None
    """Mean of the input channels R, G, B, of values in [0, 1]. null: the model's own."""
    std: Annotated[Channels, AfterValidator(positive)] | None = None
    """Standard deviation of the input channels. null: the model's own."""
    pretrained: list[Name] = []
    """Pretrained weights, by their names in params/sources.yaml; all other tensors are initialised at random."""


class ModelOverride(Override, ModelParams):
    """Keys of ModelParams that differ."""


class Scale(NamedTuple):
    """Severities of a corruption, ascending: more than ``least`` (the clean face), at most ``most``."""

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
    "darker": Scale((0.2, 0.4, 0.6, 0.8, 0.9), 0, 1, "fraction of the light removed"),
    "brighter": Scale((0.25, 0.5, 1, 1.5, 2), 0, 10, "fraction of light added"),
}
"""Corruption -> its scale. `transfer.evaluation.robustness` has what each does."""


class RobustnessParams(Strict):
    """Corruptions of the test faces of a finished run."""

    corruptions: Literal["all"] | dict[Name, list[float]] = "all"
    """Severities per corruption, in the units of docs/robustness.md; all: every corruption at its defaults."""
    seed: Seed = 0
    """Seed of noise and random positions, shared by all runs."""

    @model_validator(mode="after")
    def _are_severities(self) -> "RobustnessParams":
        for name, severities in self.selected().items():
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

    def selected(self) -> dict[str, list[float]]:
        """Corruption -> severities, without corruptions that have none."""
        if self.corruptions == "all":
            return {name: list(scale.severities) for name, scale in SEVERITIES.items()}
        return {name: sorted(severities) for name, severities in self.corruptions.items() if severities}
