"""Relative Uncertainty Learning: Zhang, Wang, Deng (NeurIPS 2021; zyh-uaiaaaa/Relative-Uncertainty-Learning, src/rul.py
and src/utils.py).

Each face i is paired with another, j, of the batch; s = mean exp(log-variance) is its uncertainty. The features are
mixed, (s_i m_i + s_j m_j) / (s_i + s_j), and must give both labels: half of each one's cross-entropy.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from transfer.losses import base


class Loss(base.Loss):
    """Needs the model ``rul``, or one with ``log_variance`` of the last map and a linear classifier."""

    def network(self, model: nn.Module) -> nn.Module:
        if not hasattr(model, "log_variance"):
            raise ValueError(f"needs an uncertainty, and {type(model).__name__} gives none; use the model rul")
        return Mixed(model)

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        logits, other = batch.outputs
        both = [cross_entropy(logits.float(), targets) for targets in (batch.targets, batch.targets[other])]
        return torch.stack(both).mean(), logits


class Mixed(base.WithFeatures):
    """Logits (N, C) of the mixed features, and the (N,) places of each face's partner; the pairs are drawn anew."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        last = self.model.forward_features(x)
        features = self.model.forward_head(last, pre_logits=True)
        uncertainty = self.model.log_variance(last).float().exp().mean(dim=1, keepdim=True)
        other = torch.randperm(len(x), device=x.device)
        share = uncertainty / (uncertainty + uncertainty[other])
        return self.model.get_classifier()(share * features + (1 - share) * features[other]), other
