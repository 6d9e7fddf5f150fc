"""The losses of DAN: Wen, Lin, Wang, Xu, "Distract Your Attention" (Biomimetics 2023; yaoing/DAN, rafdb.py).

CE + ``affinity`` * A + ``partition`` * P. A: mean squared distance of the pooled trunk features (N, D) to the learned
centre of their class, over the sum over D of the centres' variance. P = log(1 + k / v) for k heads, where v is the
variance over the heads of their outputs (N, k, D), mean over N and D.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transfer.losses import base
from transfer.params.base import NotNegative


class Loss(base.Loss):
    """Own parameters: a centre (D,) for each class. Needs the model ``dan``, or one that gives heads as it does."""

    def __init__(
        self, num_classes: int, model: nn.Module, affinity: NotNegative = 1.0, partition: NotNegative = 1.0
    ) -> None:
        super().__init__()
        if not hasattr(model, "forward_heads"):
            raise ValueError(f"needs attention heads, and {type(model).__name__} has none; use the model dan")
        self.affinity, self.partition = affinity, partition
        width: Any = model.num_features
        self.centres = nn.Parameter(torch.randn(num_classes, width))

    def network(self, model: nn.Module) -> nn.Module:
        return WithHeads(model)

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        logits, heads, last = batch.outputs
        pooled = last.float().mean(dim=(2, 3))
        distances = (pooled - self.centres[batch.labels]).square().sum(dim=1)
        affinity = (distances / self.centres.var(dim=0).sum()).mean()
        loss = cross_entropy(logits.float(), batch.targets) + self.affinity * affinity
        if heads.shape[1] > 1:
            spread = heads.float().var(dim=1).mean()
            loss = loss + self.partition * torch.log(1 + heads.shape[1] / (spread + torch.finfo(torch.float32).eps))
        return loss, logits


class WithHeads(base.WithFeatures):
    """Logits (N, C), log-softmaxed heads (N, k, D), the trunk's map (N, D, h, w)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = self.model.forward_features(x)
        heads = self.model.forward_heads(last)
        return self.model.get_classifier()(heads.sum(dim=1)), heads, last
