"""The block `train`: the training run and its augmentation."""

from typing import Annotated, Literal

from pydantic import Field

from transfer.params.strict import Fraction, Range, Strict, partial


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
    """CPU threads of one training, or of each of its processes."""
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the batches of one training, each with a CUDA device of its own where there are any."""
    jobs_per_device: Annotated[int, Field(ge=1, le=64)] = 1
    """Jobs on one machine that use the same CUDA device at a time; further ones wait."""


TrainOverride = partial(TrainParams, "TrainOverride")
WHERE = {"device", "threads", "processes", "jobs_per_device"}
"""Keys of TrainParams that say where a training runs, and change nothing in what it computes but rounding."""
