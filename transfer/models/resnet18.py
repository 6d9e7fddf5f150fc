"""ResNet-18 for small faces: the control of every method that comes on this trunk."""

from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from transfer.models.registry import register


class FaceResNet(nn.Module):
    """Faces (N, 3, H, W) to logits (N, num_classes): He et al. (CVPR 2016), with torchvision's blocks and names.

    ``stem`` "3x3": a 3x3 convolution of stride 1, and no stride in the last stage, so that 48x48 pixels leave a last
    map of 6x6; "7x7" is the usual network, whose last map is 1/32 of the input (7x7 at 224). ``width``: channels of
    the first stage; each further stage doubles them.
    """

    backbone = "ResNet-18"

    def __init__(self, num_classes: int = 7, stem: Literal["3x3", "7x7"] = "3x3", width: int = 64) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 8 * width
        small = stem == "3x3"
        self.conv1 = nn.Conv2d(3, width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 1 if small else 2)
        self.fc: nn.Module = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (N, 8 * width, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean(dim=(2, 3))
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    first: nn.Module = BasicBlock(before, after, stride, shortcut)
    return nn.Sequential(first, BasicBlock(after, after))


@register
def resnet18(num_classes: int = 7, stem: Literal["3x3", "7x7"] = "3x3", width: int = 64) -> FaceResNet:
    """11.17 M parameters; 0.54 GMACs at 48x48."""
    return FaceResNet(num_classes, stem, width)
