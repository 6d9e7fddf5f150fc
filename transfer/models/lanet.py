"""Local CNNs: several LANets look at the same feature map, and the maximum of their maps gates it."""

import torch
from torch import Tensor, nn

from transfer.models.dropping import MAD


class LANet(nn.Sequential):
    """One local attention network: (N, C, H, W) to a map (N, 1, H, W) in (0, 1).

    Batch norm after both convolutions as in the authors' la_max.py; the paper's text names none (``norm`` False).
    """

    def __init__(self, channels: int, ratio: int = 16, norm: bool = True) -> None:
        hidden = max(1, channels // ratio)
        super().__init__(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden) if norm else nn.Identity(),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 1, 1),
            nn.BatchNorm2d(1) if norm else nn.Identity(),
            nn.Sigmoid(),
        )


class LocalCNNs(nn.Module):
    """Features (N, C, H, W), gated by the maximum of B LANets' maps, of which MAD drops one."""

    def __init__(self, channels: int, num_lanets: int, ratio: int = 16, mad: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        self.lanets = nn.ModuleList(LANet(channels, ratio, norm) for _ in range(num_lanets))
        self.mad = MAD(mad)

    def attention_maps(self, features: Tensor) -> Tensor:
        """The LANets' maps, before dropping: (N, C, H, W) to (N, B, H, W)."""
        return torch.cat([lanet(features) for lanet in self.lanets], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.mad(self.attention_maps(features))
        return features * maps.amax(dim=1, keepdim=True)
