"""Augmentation of a batch on tensors, each sample with its own parameters, on the batch's device.

The list is the authors' (APViT configs/_base_/datasets/RAF.py); rotation, crop and flip are one resampling, and the
jitter's steps keep one order. Parameters are drawn with numpy: the same on every device, known without waiting for it.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from transfer.params import Augmentation

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as in torchvision's rgb_to_grayscale


class Augment:
    """Images (N, 3, H, W) with values in [0, 1] to augmented images in [0, 1]; ``erase`` comes after normalisation."""

    def __init__(self, params: Augmentation, seed: int) -> None:
        self.params = params
        self.random = np.random.default_rng(seed)

    def __call__(self, images: Tensor) -> Tensor:
        return self.colour(self.geometry(images)).clamp_(0, 1)

    def geometry(self, images: Tensor) -> Tensor:
        """Rotation about the centre, square crop of a random area, horizontal flip; zeros outside, as the authors."""
        n, p = len(images), self.params
        angle = self._uniform(n, -p.degrees, p.degrees) * self._chance(n, p.rotate) * (math.pi / 180)
        scale = np.sqrt(self._uniform(n, *p.crop_scale))
        flip = 1 - 2 * self._chance(n, p.flip)
        x, y = (self._uniform(n, -1, 1) * (1 - scale) for _ in range(2))  # the crop's centre
        cos, sin = np.cos(angle), np.sin(angle)
        # Output to input coordinates in [-1, 1]: flip and shrink to the crop, shift to its centre, rotate
        to_x = [cos * scale * flip, -sin * scale, cos * x - sin * y]
        to_y = [sin * scale * flip, cos * scale, sin * x + cos * y]
        matrix = _tensor(np.stack([*to_x, *to_y], axis=1), images).view(n, 2, 3)
        grid = sampling_grid(matrix, *images.shape[2:])
        return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def colour(self, images: Tensor) -> Tensor:
        """Grey with some probability; brightness, contrast, saturation and hue together with another."""
        n, p = len(images), self.params
        grey = torch.from_numpy(np.flatnonzero(self._chance(n, p.grey))).to(images.device)
        if len(grey):
            images = images.index_copy(0, grey, luma(images.index_select(0, grey)).expand(-1, 3, -1, -1))
        jitter = self._chance(n, p.jitter)
        if p.brightness:
            images = (images * self._factor(p.brightness, jitter, images)).clamp_(0, 1)
        if p.contrast:
            mean = luma(images.mean(dim=(2, 3), keepdim=True))
            images = blend(mean, images, self._factor(p.contrast, jitter, images)).clamp_(0, 1)
        if p.saturation:
            images = blend(luma(images), images, self._factor(p.saturation, jitter, images)).clamp_(0, 1)
        if p.hue:
            shift = self._uniform(n, -p.hue, p.hue) * jitter
            images = shift_hue(images, _tensor(shift, images).view(n, 1, 1))
        return images

    def erase(self, images: Tensor) -> Tensor:
        """A rectangle of noise, N(0, 1) in the normalised image; aspect ratio log-uniform in 0.3..3.3."""
        (n, channels, height, width), p = images.shape, self.params
        if not p.erase:
            return images
        area = self._uniform(n, *p.erase_scale) * height * width * self._chance(n, p.erase)
        aspect = np.exp(self._uniform(n, math.log(0.3), math.log(3.3)))
        h = np.sqrt(area * aspect).round().clip(max=height)[:, None]
        w = np.sqrt(area / aspect).round().clip(max=width)[:, None]
        top = np.floor(self._uniform(n)[:, None] * (height - h + 1))
        left = np.floor(self._uniform(n)[:, None] * (width - w + 1))
        y, x = np.arange(height), np.arange(width)
        inside = (y >= top) & (y < top + h), (x >= left) & (x < left + w)
        rows, columns = (torch.from_numpy(mask).to(images.device) for mask in inside)
        # As many numbers as the rectangles have pixels, one rectangle after the other
        generator = torch.Generator(images.device).manual_seed(int(self.random.integers(2**63)))
        noise = torch.randn(int((channels * h * w).sum()), generator=generator, device=images.device)
        return images.masked_scatter(rows[:, None, :, None] & columns[:, None, None, :], noise)

    def _uniform(self, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return self.random.uniform(low, high, n)

    def _chance(self, n: int, probability: float) -> np.ndarray:
        """(N,), 1 with the given probability, else 0."""
        return (self._uniform(n) < probability).astype(float)

    def _factor(self, strength: float, chosen: np.ndarray, like: Tensor) -> Tensor:
        """(N, 1, 1, 1), uniform in 1 - strength..1 + strength for the chosen samples, 1 for the others."""
        n = len(chosen)
        return _tensor(1 + self._uniform(n, -strength, strength) * chosen, like).view(n, 1, 1, 1)


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype).to(like.device)


def sampling_grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """torch's ``affine_grid`` (``align_corners=False``), (N, 2, 3) to (N, H, W, 2), much faster on a CPU."""
    y, x = (torch.arange(1, 2 * side, 2, device=matrix.device) / side - 1 for side in (height, width))
    of_x, of_y, shift = matrix.unsqueeze(3).unbind(2)  # (N, 2, 1)
    rows, columns = of_y * y + shift, of_x * x
    return (rows.unsqueeze(3) + columns.unsqueeze(2)).permute(0, 2, 3, 1)


def luma(images: Tensor) -> Tensor:
    """RGB (N, 3, H, W) to grey (N, 1, H, W)."""
    red, green, blue = images.chunk(3, dim=1)
    return (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def blend(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """``one`` and a ``share`` of ``other``; as ``torch.lerp``, which is slow on a CPU where the shapes differ."""
    return (other * share).add_(one * (1 - share))


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of RGB images in [0, 1] by ``shift`` turns, broadcast over (N, H, W); the same function as
    torchvision's ``adjust_hue``, which takes one shift for all images.
    """
    red, green, blue = images.unbind(1)
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # In sixths of a turn from red, by way of green; without the choice between three cases, which is slow on a CPU
    hue = torch.copysign((green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-8)).add_(1), green - blue)
    turns = hue / 6 + shift
    hue = (turns - turns.floor()) * 6
    ramps = (hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()
    return torch.stack([ramp.clamp_(0, 1).mul_(chroma).add_(low) for ramp in ramps], 1)
