"""Cross-entropy with class numbers or soft labels: -sum_c t_c log p_c, mean over the batch.

With soft labels it is the `crossentropy` of Barsoum et al. (ICMI 2016), with class numbers their `majority`.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy

from transfer.losses import base
from transfer.params.base import Fraction


class Loss(base.Loss):
    """``label_smoothing`` s: targets (1 - s) t + s / C (Szegedy et al., CVPR 2016)."""

    def __init__(self, label_smoothing: Fraction = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, batch: base.Batch) -> tuple[Tensor, Tensor]:
        logits = batch.outputs
        return cross_entropy(logits.float(), batch.targets, label_smoothing=self.label_smoothing), logits
