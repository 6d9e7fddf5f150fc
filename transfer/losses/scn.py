"""Self-Cure Network: Wang, Peng, Yang, Lu, Qiao, "Suppressing Uncertainties for Large-Scale FER" (CVPR 2020;
kaiwang960112/Self-Cure-Network, src/train.py).

a (N,) = sigmoid(w f + b) weighs a face; CE of the logits a_i z_i. Rank regularisation: with the faces sorted by a, the
mean of the ``top`` fraction must exceed that of the others by ``margin``: max(0, margin - (high - low)). From
``relabel_epoch`` on (counted from 1), a face whose highest probability exceeds that of its label by more than
``relabel_margin`` gets the predicted label, for all following epochs.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transfer.losses import base
from transfer.params.base import Fraction


class Loss(base.Loss):
    """Own parameters: w, b. State: ``relabelled`` (rows of the store,), -1 where a face has its own label."""

    relabelled: Tensor
    weights: Tensor

    def __init__(
        self,
        model: nn.Module,
        num_samples: int,
        top: Fraction = 0.7,
        margin: Fraction = 0.15,
        relabel_epoch: int = 10,
        relabel_margin: Fraction = 0.2,
    ) -> None:
        super().__init__()
        self.top, self.margin = top, margin
        self.relabel_epoch, self.relabel_margin = relabel_epoch, relabel_margin
        self.alpha = nn.Linear(features_of(model), 1)
        self.register_buffer("relabelled", torch.full((num_samples,), -1))
        self.register_buffer("weights", torch.full((num_samples,), torch.nan))

    def network(self, model: nn.Module) -> nn.Module:
        return base.WithFeatures(model)

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        assert batch.rows is not None
        logits, features, _ = batch.outputs
        weights = self.alpha(features.float()).sigmoid()
        logits = weights * logits.float()
        new = self.relabelled[batch.rows]
        changed = (new >= 0) if batch.targets.ndim == 1 else (new >= 0)[:, None]
        targets = torch.where(changed, base.like(new.clamp(min=0), batch.targets), batch.targets)
        high, low = (
            weights.flatten().sort(descending=True)[0].split([n := int(len(logits) * self.top), len(logits) - n])
        )
        ranked = (self.margin - (high.mean() - low.mean())).clamp(min=0)
        with torch.no_grad():
            self.weights[batch.rows] = weights.detach().flatten()
            if batch.epoch + 1 >= self.relabel_epoch:
                labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
                best, predicted = logits.softmax(dim=1).max(dim=1)
                doubtful = best - logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1) > self.relabel_margin
                self.relabelled[batch.rows[doubtful]] = predicted[doubtful]
        return cross_entropy(logits, targets) + ranked, logits


def features_of(model: nn.Module) -> int:
    """D, the width of a classifier's input."""
    classifier = base.WithFeatures(model).model.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"needs features, and {type(model).__name__} has no linear classifier")
    return classifier.in_features
