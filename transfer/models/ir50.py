"""The stem CNN: the first stages of IR-50, the improved residual network of ArcFace (face.evoLVe model_irse.py)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import prelu

from transfer.models.registry import register


class _PReLUOnCPU(torch.autograd.Function):
    """torch's own backward kernel writes a slope gradient per pixel, several times slower than these vector passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return prelu(x, slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(grad, x, 0)
        negative = grad - positive
        grad_slope = (negative * x).sum(dim=(0, 2, 3))
        return torch.addcmul(positive, negative, slope[:, None, None]), grad_slope


class PReLU(nn.PReLU):
    """(N, C, H, W) to the same shape: x where positive, a learned slope per channel times x elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled():
            return _PReLUOnCPU.apply(x, self.weight.to(x.dtype))
        return super().forward(x)


class BottleneckIR(nn.Module):
    """Residual unit, (N, channels, H, W) to (N, depth, H / stride, W / stride): BN, conv 3x3, PReLU, conv 3x3, BN.

    Module names as in face.evoLVe.
    """

    def __init__(self, channels: int, depth: int, stride: int) -> None:
        super().__init__()
        if channels == depth:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, depth, 1, stride, bias=False), nn.BatchNorm2d(depth)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, depth, 3, 1, 1, bias=False),
            PReLU(depth),
            nn.Conv2d(depth, depth, 3, stride, 1, bias=False),
            nn.BatchNorm2d(depth),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRStem(nn.Module):
    """Input layer and ``len(widths)`` stages; each stage's first unit halves the side.

    IR-50 has widths 64, 128, 256, 512 and 3, 4, 14, 3 units; TransFER uses the first three stages:
    (N, 3, 112, 112) to (N, 256, 14, 14).
    """

    def __init__(self, widths: Sequence[int], units: Sequence[int], in_chans: int = 3) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(in_chans, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), PReLU(widths[0])
        )
        channels = [widths[0], *widths]
        self.stages = nn.ModuleList(
            nn.Sequential(
                BottleneckIR(channels[stage], width, stride=2),
                *(BottleneckIR(width, width, stride=1) for _ in range(count - 1)),
            )
            for stage, (width, count) in enumerate(zip(widths, units, strict=True))
        )
        self.out_channels = widths[-1]
        self.reduction = 2 ** len(widths)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_layer(x)
        for stage in self.stages:
            x = stage(x)
        return x


class IR50(nn.Module):
    """Faces (N, 3, H, W) to logits (N, num_classes): all four stages of IR-50, mean pooling, a linear layer."""

    backbone = "IR-50"

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__()
        self.stem = IRStem((64, 128, 256, 512), (3, 4, 14, 3))
        self.num_classes, self.num_features = num_classes, 512
        self.fc: nn.Module = nn.Linear(512, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (N, 512, H / 16, W / 16)."""
        found: Tensor = self.stem(x)
        return found

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean(dim=(2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc


@register
def ir50(num_classes: int = 7) -> IR50:
    """The control of methods on the pretrained IR-50 of face.evoLVe (docs/weights.md)."""
    return IR50(num_classes)
