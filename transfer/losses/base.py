"""What a loss is: how it sees a step, and what it may ask of the network."""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import one_hot


class Batch(NamedTuple):
    """A training step as a loss sees it, after the forward pass."""

    outputs: Any
    """What the loss's `network` makes of the images: logits (N, C), unless it says otherwise."""
    targets: Tensor
    """(N,) class numbers, or (N, C) soft labels."""
    mirrored: Any = None
    """The outputs for the mirrored images, for a loss that asks for this view."""
    rows: Tensor | None = None
    """(N,) rows of the aligned store, which name the faces."""
    epoch: int = 0
    """From 0."""

    @property
    def labels(self) -> Tensor:
        """(N,) class numbers: of soft labels the most probable one."""
        return self.targets if self.targets.ndim == 1 else self.targets.argmax(dim=1)


class Loss(nn.Module):
    """A loss: `forward` takes a `Batch` to the mean loss and the logits (N, C) that it trained.

    Its parameters are trained with the network's, its buffers are its state: both are part of the resume state. Random
    numbers are drawn from torch's generator, which every step seeds anew.
    """

    mirrored = False
    """Whether it asks for a second forward pass, of the mirrored images."""

    soft = False
    """Whether it needs soft labels as targets."""

    def network(self, model: nn.Module) -> nn.Module:
        """The module whose forward pass is run, around ``model``. Raises ValueError where the model lacks a part."""
        return model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class WithFeatures(nn.Module):
    """A model of timm's interface that gives logits (N, C), features (N, D) and the last map (N, D, h, w) at once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        if not all(hasattr(model, name) for name in ("forward_features", "forward_head", "get_classifier")):
            raise ValueError(f"needs features, and {type(model).__name__} has no forward_features and forward_head")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = self.model.forward_features(x)
        features = self.model.forward_head(last, pre_logits=True)
        return self.model.get_classifier()(features), features, last


def bare(network: nn.Module) -> nn.Module:
    """The model itself, without what trains it."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        network = network.module
    return network.model if isinstance(network, WithFeatures) else network


def like(labels: Tensor, targets: Tensor) -> Tensor:
    """Class numbers in the form of ``targets``: as they are, or one-hot."""
    return labels if targets.ndim == 1 else one_hot(labels, targets.shape[1]).to(targets.dtype)
