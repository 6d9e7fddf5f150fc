"""Label drawn from the annotators' votes at every step: `probability` of Barsoum et al., "Training Deep Networks for
Facial Expression Recognition with Crowd-Sourced Label Distribution" (ICMI 2016; microsoft/FERPlus, src/ferplus.py).

y ~ t (one draw a face and step), then -log p_y, mean over the batch. Needs soft labels t (N, C).
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from transfer.losses import base


class Loss(base.Loss):
    """Needs ``train.targets: soft_labels``."""

    soft = True

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        drawn = torch.multinomial(batch.targets, 1).squeeze(1)
        return cross_entropy(batch.outputs.float(), drawn), batch.outputs
