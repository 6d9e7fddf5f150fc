"""Augmentation of a batch on tensors, each sample with its own parameters, on the batch's device.

The list is the authors' (APViT configs/_base_/datasets/RAF.py): rotation, resized crop, flip, grey, colour jitter,
normalisation, random erasing. Rotation, crop and flip are one resampling; the jitter's steps keep one order.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from transfer.params import Augmentation

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as in torchvision's rgb_to_grayscale


class Augment:
    """Images (N, 3, H, W) with values in [0, 1] to augmented images in [0, 1]; ``erase`` comes after normalisation.

    ``part`` (number, of how many): the images are that part of a batch which several processes share; all draw for the
    whole batch, so that its images do not depend on how many processes there are.
    """

    def __init__(self, params: Augmentation, generator: torch.Generator, part: tuple[int, int] = (0, 1)) -> None:
        self.params = params
        self.generator = generator
        self.part = part

    def __call__(self, images: Tensor) -> Tensor:
        """Geometry, then colour."""
        return self.colour(self.geometry(images)).clamp_(0, 1)

    def geometry(self, images: Tensor) -> Tensor:
        """Rotation about the centre, square crop of a random area, horizontal flip; zeros outside, as the authors."""
        n, p = len(images), self.params
        angle = self._uniform(n, -p.degrees, p.degrees) * self._chance(n, p.rotate) * (math.pi / 180)
        scale = self._uniform(n, *p.crop_scale).sqrt()
        flip = 1 - 2 * self._chance(n, p.flip)
        x, y = (self._uniform(n, -1, 1) * (1 - scale) for _ in range(2))  # the crop's centre
        cos, sin = angle.cos(), angle.sin()
        # Output to input coordinates in [-1, 1]: flip and shrink to the crop, shift to its centre, rotate
        matrix = torch.stack(
            [cos * scale * flip, -sin * scale, cos * x - sin * y, sin * scale * flip, cos * scale, sin * x + cos * y], 1
        )
        grid = affine_grid(matrix.view(n, 2, 3), list(images.shape), align_corners=False)
        return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def colour(self, images: Tensor) -> Tensor:
        """Grey with some probability; brightness, contrast, saturation and hue together with another."""
        n, p = len(images), self.params
        grey = self._chance(n, p.grey).view(n, 1, 1, 1)
        images = torch.lerp(images, luma(images).expand_as(images), grey)
        jitter = self._chance(n, p.jitter)
        if p.brightness:
            images = images * self._factor(n, p.brightness, jitter)
            images = images.clamp(0, 1)
        if p.contrast:
            mean = luma(images).mean(dim=(2, 3), keepdim=True)
            images = torch.lerp(mean, images, self._factor(n, p.contrast, jitter)).clamp(0, 1)
        if p.saturation:
            images = torch.lerp(luma(images), images, self._factor(n, p.saturation, jitter)).clamp(0, 1)
        if p.hue:
            images = shift_hue(images, (self._uniform(n, -p.hue, p.hue) * jitter).view(n, 1, 1))
        return images

    def erase(self, images: Tensor) -> Tensor:
        """A rectangle of noise, N(0, 1) in the normalised image; aspect ratio log-uniform in 0.3..3.3."""
        n, _, height, width = images.shape
        p = self.params
        area = self._uniform(n, *p.erase_scale) * height * width
        aspect = self._uniform(n, math.log(0.3), math.log(3.3)).exp()
        h = (area * aspect).sqrt().round().clamp(max=height)
        w = (area / aspect).sqrt().round().clamp(max=width)
        top = (self._uniform(n) * (height - h + 1)).floor()
        left = (self._uniform(n) * (width - w + 1)).floor()
        y, x = (torch.arange(side, device=images.device) for side in (height, width))
        rows = (y >= top[:, None]) & (y < (top + h)[:, None])
        columns = (x >= left[:, None]) & (x < (left + w)[:, None])
        box = rows[:, None, :, None] & columns[:, None, None, :] & self._chance(n, p.erase).bool().view(n, 1, 1, 1)
        noise = self._draw(torch.randn, images.shape)
        return torch.where(box, noise, images)

    def _uniform(self, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self._draw(torch.rand, (n,)) * (high - low) + low

    def _draw(self, function: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        """What ``function`` draws for the whole batch, of it these images' part: ``shape``."""
        (number, parts), (n, *rest) = self.part, shape
        drawn = function((n * parts, *rest), generator=self.generator, device=self.generator.device)
        return drawn[number * n : (number + 1) * n]

    def _chance(self, n: int, probability: float) -> Tensor:
        """(N,), 1 with the given probability, else 0."""
        return (self._uniform(n) < probability).float()

    def _factor(self, n: int, strength: float, chosen: Tensor) -> Tensor:
        """(N, 1, 1, 1), uniform in 1 - strength..1 + strength for the chosen samples, 1 for the others."""
        return (1 + self._uniform(n, -strength, strength) * chosen).view(n, 1, 1, 1)


def luma(images: Tensor) -> Tensor:
    """RGB (N, 3, H, W) to grey (N, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (GREY[0] * red + GREY[1] * green + GREY[2] * blue).unsqueeze(1)


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of RGB images in [0, 1] by ``shift`` turns, broadcast over (N, H, W); the same function as
    torchvision's ``adjust_hue``, which takes one shift for all images.
    """
    high, which = images.max(dim=1)
    chroma = high - images.amin(dim=1)
    red, green, blue = images.unbind(1)
    sector = torch.stack([green - blue, blue - red, red - green], 1).gather(1, which.unsqueeze(1)).squeeze(1)
    hue = sector / chroma.clamp(min=1e-8) + 2 * which + 6 * shift  # in sixths of a turn
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    k = (hue.unsqueeze(1) + offsets) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return high.unsqueeze(1) - chroma.unsqueeze(1) * ramp
