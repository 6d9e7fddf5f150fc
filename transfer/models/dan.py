"""DAN: Wen, Lin, Wang, Xu, "Distract Your Attention: Multi-head Cross Attention Network for FER" (Biomimetics 2023;
yaoing/DAN, networks/dan.py). Its losses are in transfer/losses/dan.py.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from transfer.models.ir50 import IR50
from transfer.models.registry import register
from transfer.models.resnet18 import FaceResNet


class AttentionHead(nn.Module):
    """The trunk's map (N, width, h, w) to features (N, width): a spatial mask, then weights of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.reduce = nn.Sequential(nn.Conv2d(width, half, 1), nn.BatchNorm2d(half))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(half, width, kernel, padding="same"), nn.BatchNorm2d(width))
            for kernel in ((3, 3), (1, 3), (3, 1))
        )
        self.channels = nn.Sequential(
            nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Linear(32, width), nn.Sigmoid()
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)
        mask = torch.stack([branch(y) for branch in self.branches]).sum(dim=0).relu().sum(dim=1, keepdim=True)
        pooled = (x * mask).mean(dim=(2, 3))
        return pooled * self.channels(pooled)


class _Heads(nn.Module):
    """Attention heads on a trunk of one map, and batch norm of the logits."""

    num_features: int
    fc: nn.Module

    def add_heads(self, num_classes: int, num_heads: int) -> None:
        self.heads = nn.ModuleList(AttentionHead(self.num_features) for _ in range(num_heads))
        self.fc = nn.Sequential(nn.Linear(self.num_features, num_classes), nn.BatchNorm1d(num_classes))

    def forward_heads(self, x: Tensor) -> Tensor:
        """The trunk's map to the heads' features (N, num_heads, C), log-softmaxed over the heads."""
        heads = torch.stack([head(x) for head in self.heads], dim=1)
        return heads.log_softmax(dim=1) if len(self.heads) > 1 else heads

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.forward_heads(x).sum(dim=1)
        return x if pre_logits else self.fc(x)


class DAN(_Heads, FaceResNet):
    """Faces (N, 3, H, W) to logits (N, num_classes), on ResNet-18 as in the paper."""

    def __init__(
        self, num_classes: int = 7, num_heads: int = 4, stem: Literal["3x3", "7x7"] = "3x3", width: int = 64
    ) -> None:
        super().__init__(num_classes, stem, width)
        self.add_heads(num_classes, num_heads)


class DANOnIR50(_Heads, IR50):
    """The same on IR-50, the trunk of TransFER."""

    def __init__(self, num_classes: int = 7, num_heads: int = 4) -> None:
        super().__init__(num_classes)
        self.add_heads(num_classes, num_heads)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.001)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@register
def dan(num_classes: int = 7, num_heads: int = 4, stem: Literal["3x3", "7x7"] = "3x3", width: int = 64) -> DAN:
    """19.72 M parameters."""
    return DAN(num_classes, num_heads, stem, width)


@register
def dan_ir50(num_classes: int = 7, num_heads: int = 4) -> DANOnIR50:
    """For the pretrained IR-50 of face.evoLVe (docs/weights.md)."""
    return DANOnIR50(num_classes, num_heads)
