"""Erasing Attention Consistency: Zhang, Wang, Ling, Deng, "Learn from All" (ECCV 2022; zyh-uaiaaaa/
Erasing-Attention-Consistency, src/main.py and src/loss.py).

CE(x) + ``weight`` * mean (M(x) - flip M(flip x))^2, where M (N, C, h, w) = sum_d W_cd F_d are the class activation maps
of the last map F (N, D, h, w) under the classifier's weights W (C, D), which get no gradient from this term. The
erasing is `train.augment.erase`; both views have the same erased rectangle, as in the code.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from transfer.losses import base
from transfer.params.base import Positive


class Loss(base.Loss):
    """``weight`` is lambda."""

    mirrored = True

    def __init__(self, weight: Positive = 5.0) -> None:
        super().__init__()
        self.weight = weight

    def network(self, model: nn.Module) -> nn.Module:
        return WithMaps(model)

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        logits, maps = batch.outputs
        consistency = mse_loss(maps.float(), batch.mirrored[1].float().flip(3))
        return cross_entropy(logits.float(), batch.targets) + self.weight * consistency, logits


class WithMaps(base.WithFeatures):
    """Logits (N, C) and class activation maps (N, C, h, w). Raises ValueError for a network without a last map."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.classifier()

    def classifier(self) -> nn.Linear:
        found = self.model.get_classifier()
        if not isinstance(found, nn.Linear) or not hasattr(self.model, "num_features"):
            raise ValueError(f"needs class activation maps, and {type(self.model).__name__} has no linear classifier")
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits, _, last = super().forward(x)
        weights = self.classifier().weight.detach()
        if last.ndim != 4 or last.shape[1] != weights.shape[1]:
            raise ValueError(f"needs class activation maps, and the last features are {tuple(last.shape)}, no map")
        return logits, torch.einsum("ndhw,cd->nchw", last, weights.to(last.dtype))
