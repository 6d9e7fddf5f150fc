"""The three networks of MTCNN with the weights of facenet-pytorch, in a form that CPUs run fast.

Their outputs are those of facenet-pytorch's modules up to rounding: channels lie last in memory, the first weights
expect pixels from 0 to 255, pooling is a maximum of slices, and the heads are one product.
"""

import torch
from torch import nn
from torch.nn.functional import conv2d, linear, pad, prelu

CHANNELS = 4
"""Colours of a picture and one that is 0: a pixel is then one move of 16 bytes."""


class Network(nn.Module):
    """One stage of the cascade: convolutions, each with a PReLU and perhaps a pooling, then the heads side by side.

    Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks (2016),
    Figure 2; facenet-pytorch, models/mtcnn.py.
    """

    def __init__(self, stage: nn.Module, pools: tuple[int, ...], heads: tuple[str, ...]) -> None:
        """``stage`` is facenet-pytorch's network, ``pools`` the pooling after each convolution (1: none)."""
        super().__init__()
        self.pools = pools
        layers = dict(stage.named_children())
        for i in range(len(pools)):
            conv = layers[f"conv{i + 1}"]
            weight, bias = conv.weight.detach(), conv.bias.detach()
            if i == 0:  # the networks were trained on (x - 127.5) / 128
                weight = pad(weight / 128, (0, 0, 0, 0, 0, CHANNELS - 3))
                bias = bias - 127.5 * weight.sum(dim=(1, 2, 3))
            weight = weight.contiguous(memory_format=torch.channels_last)
            self._keep(f"conv{i}", weight, bias.clone(), layers[f"prelu{i + 1}"].weight.detach())
        dense = next((name for name in layers if name in ("dense4", "dense5")), None)
        self.flat = dense is not None
        if dense:  # facenet-pytorch flattens (width, height, channel); here the map lies as (height, width, channel)
            weight, bias = layers[dense].weight.detach(), layers[dense].bias.detach()
            channels = len(self.get_buffer(f"conv{len(pools) - 1}_bias"))
            side = round((weight.shape[1] / channels) ** 0.5)
            weight = weight.view(-1, side, side, channels).transpose(1, 2).flatten(1)
            self._keep("dense", weight, bias, layers[dense.replace("dense", "prelu")].weight.detach())
        weight = torch.cat([layers[head].weight.detach().flatten(1) for head in heads])
        self._keep("heads", weight, torch.cat([layers[head].bias.detach() for head in heads]))

    def _keep(self, name: str, *values: torch.Tensor) -> None:
        for suffix, value in zip(("weight", "bias", "slope"), values, strict=False):
            self.register_buffer(f"{name}_{suffix}", value, persistent=False)

    @property
    def width(self) -> int:
        """Channels of the first and largest map."""
        return len(self.conv0_bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the heads say, the two logits first.

        ``pixels`` is (N, H, W, 4) float32 from 0 to 255. Returns (N, outputs), of P-Net (N, outputs, h, w).
        """
        x = pixels.permute(0, 3, 1, 2)
        for i, pool in enumerate(self.pools):
            weight, bias, slope = (self.get_buffer(f"conv{i}_{part}") for part in ("weight", "bias", "slope"))
            x = prelu(conv2d(x, weight, bias), slope)
            if pool > 1:
                x = max_pool(max_pool(x, 2, pool), 3, pool)
        if not self.flat:
            return conv2d(x, self.heads_weight[:, :, None, None], self.heads_bias)
        x = x.permute(0, 2, 3, 1).flatten(1)
        x = prelu(linear(x, self.dense_weight, self.dense_bias), self.dense_slope)
        return linear(x, self.heads_weight, self.heads_bias)


def max_pool(x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """Maximum over ``size`` (2 or 3) neighbours along ``dim``, every second window; the last one may be cut.

    Along both dimensions one after the other it is torch's ``max_pool2d(x, size, 2, ceil_mode=True)``.
    """
    count = -(-(x.shape[dim] - size) // 2) + 1
    every_second = (slice(None),) * dim
    first, *others = (x[(*every_second, slice(k, k + 2 * count - 1, 2))] for k in range(size))
    out = torch.maximum(first, others.pop(0)) if others[0].shape[dim] == count else first.clone()
    for other in others:
        part = out.narrow(dim, 0, other.shape[dim])
        torch.maximum(part, other, out=part)
    return out
