"""VGG13 of the FERPlus authors: Barsoum, Zhang, Canton Ferrer, Zhang (ICMI 2016; microsoft/FERPlus, src/models.py).

Their four label modes are losses here: `cross_entropy` on labels (majority) or soft labels (crossentropy),
`probability`, `multi_target`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from transfer.models.registry import register

STAGES = ((64, 64), (128, 128), (256, 256, 256), (256, 256, 256))


class VGG13(nn.Module):
    """Faces (N, 3, img_size, img_size) to logits (N, num_classes); the network sees the mean of the three channels.

    Convolutions 3x3 with ReLU; max-pooling and dropout 0.25 after each stage; two linear layers of 1024 with dropout
    0.5. No batch norm. Glorot's uniform start values, biases 0.
    """

    backbone = "VGG13"

    def __init__(self, num_classes: int = 8, img_size: int = 64) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 1024
        layers: list[nn.Module] = []
        channels = 1
        for stage in STAGES:
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers += [nn.MaxPool2d(2), nn.Dropout(0.25)]
        self.features = nn.Sequential(*layers)
        flat = channels * (img_size // 2 ** len(STAGES)) ** 2
        self.fc5 = nn.Sequential(nn.Linear(flat, 1024), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.fc6 = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.output = nn.Linear(1024, num_classes)
        self.apply(_initialise)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (N, 256, img_size / 16, img_size / 16)."""
        found: Tensor = self.features(x.mean(dim=1, keepdim=True))
        return found

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.fc6(self.fc5(torch.flatten(x, 1)))
        return x if pre_logits else self.output(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.output


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


@register
def vgg13(**kwargs: Any) -> VGG13:
    """8.76 M parameters, 0.88 GMACs at 64x64."""
    return VGG13(**kwargs)
