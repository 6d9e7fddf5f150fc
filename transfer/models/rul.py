"""The network of Relative Uncertainty Learning: Zhang, Wang, Deng (NeurIPS 2021; zyh-uaiaaaa/
Relative-Uncertainty-Learning, src/rul.py). Its loss is transfer/losses/rul.py.
"""

from typing import Literal

from torch import Tensor, nn

from transfer.models.registry import register
from transfer.models.resnet18 import FaceResNet


class RUL(FaceResNet):
    """Faces (N, 3, img_size, img_size) to logits (N, num_classes) of features (N, 64); a second branch, for training
    alone, gives the log-variance of each feature.
    """

    def __init__(
        self, num_classes: int = 7, img_size: int = 48, stem: Literal["3x3", "7x7"] = "3x3", width: int = 64
    ) -> None:
        super().__init__(num_classes, stem, width)
        side = -(-img_size // (8 if stem == "3x3" else 32))
        self.mean, self.log_variance = (_branch(self.num_features, side**2, 64) for _ in range(2))
        self.fc = nn.Linear(64, num_classes)
        self.num_features = 64

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.mean(x)
        return x if pre_logits else self.fc(x)


def _branch(channels: int, cells: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels, eps=2e-5, affine=False),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(channels * cells, features),
        nn.BatchNorm1d(features, eps=2e-5),
    )


@register
def rul(num_classes: int = 7, img_size: int = 48, stem: Literal["3x3", "7x7"] = "3x3", width: int = 64) -> RUL:
    """ResNet-18 with two branches of 64 features on the whole last map."""
    return RUL(num_classes, img_size, stem, width)
