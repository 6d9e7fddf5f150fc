"""Any label with enough votes is right: `multi_target` of Barsoum et al. (ICMI 2016; microsoft/FERPlus, src/ferplus.py
and src/train.py).

m_c = 1 - e where t_c >= ``threshold``, plus e everywhere (e = 0.001); -log max_c m_c p_c, mean over the batch, for soft
labels t (N, C). The authors leave out faces whose labels above the threshold have no more than half of the votes; here
the dataset's rule has chosen the faces, and the highest label always counts.
"""

from torch import Tensor

from transfer.losses import base
from transfer.params.base import Fraction

EPSILON = 0.001


class Loss(base.Loss):
    """Needs ``train.targets: soft_labels``."""

    soft = True

    def __init__(self, threshold: Fraction = 0.3) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        least = batch.targets.amax(dim=1, keepdim=True).clamp(max=self.threshold)
        accepted = (1 - EPSILON) * (batch.targets >= least) + EPSILON
        log_p = batch.outputs.float().log_softmax(dim=1)
        return -(accepted.log() + log_p).amax(dim=1).mean(), batch.outputs
