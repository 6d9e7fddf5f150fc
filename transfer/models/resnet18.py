"""ResNet-18 for small faces: the control of every method that comes on this trunk."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from transfer.models.registry import register


class FaceResNet(ResNet):  # type: ignore[misc]
    """Faces (N, 3, H, W) to logits (N, num_classes): He et al. (CVPR 2016), torchvision's blocks.

    ``stem`` "3x3": a 3x3 convolution of stride 1, and no stride in the last stage, so that 48x48 pixels leave a last
    map of 6x6; "7x7" is the usual network, whose last map is 1/32 of the input (7x7 at 224).
    """

    backbone = "ResNet-18"

    def __init__(self, num_classes: int = 7, stem: Literal["3x3", "7x7"] = "3x3") -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes)
        self.num_classes, self.num_features = num_classes, 512
        if stem == "3x3":
            self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            first: Any = self.layer4[0]
            first.conv1.stride = first.downsample[0].stride = (1, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (N, 512, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc


@register
def resnet18(num_classes: int = 7, stem: Literal["3x3", "7x7"] = "3x3") -> FaceResNet:
    """11.18 M parameters; 0.49 GMACs at 48x48."""
    return FaceResNet(num_classes, stem)
