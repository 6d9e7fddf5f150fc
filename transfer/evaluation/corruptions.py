"""Corruptions of aligned faces: occluders, blur, noise, low resolution and brightness, by name and severity.

All take and return images (N, 3, H, W) float in [0, 1] and change nothing in place. Severities are those of
`transfer.evaluation.severities`: lengths are fractions of the face's side, so that they mean the same at any size.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from transfer.training.seeds import stream

GREY = 0.5
"""The colour of all occluders: the same for every face and dataset."""

# Of the five landmarks those whose mean is the centre of a square; two squares cover the eyes.
_CENTRES: dict[str, tuple[tuple[int, ...], ...]] = {
    "occlude_eyes": ((0,), (1,)),
    "occlude_nose": ((2,),),
    "occlude_mouth": ((3, 4),),
}


def corrupt(
    images: Tensor, name: str, severity: float, seeds: Sequence[int], points: np.ndarray | None = None
) -> Tensor:
    """Corruption ``name`` of ``images`` at ``severity``.

    ``seeds`` has one number per image (see `face_seeds`): what is drawn for an image depends on its own alone.
    ``points`` (5, 2) are the landmarks of all images, x and y in pixels with pixel centres at integers; those that
    `needs_landmarks` need them.
    """
    if name in _CENTRES:
        assert points is not None
        return occlude_at(images, severity, np.stack([points[list(group)].mean(axis=0) for group in _CENTRES[name]]))
    if name in _DRAWN:
        return _DRAWN[name](images, severity, seeds)
    return _FIXED[name](images, severity)


def needs_landmarks(name: str) -> bool:
    """Whether corruption ``name`` has a place on the face."""
    return name in _CENTRES


def face_seeds(seed: int, name: str, samples: Sequence[str]) -> list[int]:
    """The seed of each sample: the same for all severities, and for every network that is shown the face."""
    return [stream(seed, f"{name}/{sample}") for sample in samples]


def occlude_random(images: Tensor, severity: float, seeds: Sequence[int]) -> Tensor:
    """A grey square at a random place inside the image; of one seed a larger square covers a smaller one."""
    side = _pixels(images, severity)
    room = torch.tensor([images.shape[3] - side + 1, images.shape[2] - side + 1])
    drawn = torch.stack([torch.rand(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return _cover(images, (drawn.double() * room).floor().long()[:, None], side)


def occlude_at(images: Tensor, severity: float, centres: np.ndarray) -> Tensor:
    """Grey squares centred on each of ``centres`` (K, 2), the same on all images; cut off at the border."""
    side = _pixels(images, severity)
    corners = torch.from_numpy(np.floor(centres - (side - 1) / 2 + 0.5)).long()
    return _cover(images, corners.expand(len(images), -1, -1), side)


def blur(images: Tensor, severity: float) -> Tensor:
    """Gaussian blur, reflected at the border."""
    sigma = severity * images.shape[3]
    size = 2 * math.ceil(3 * sigma) + 1
    for kernel in ([size, 1], [1, size]):  # one direction after the other is the same, and much faster
        images = F.gaussian_blur(images, kernel, [sigma, sigma])
    return images


def noise(images: Tensor, severity: float, seeds: Sequence[int]) -> Tensor:
    """Gaussian noise, independent for each pixel and channel; of one seed the same pattern at every severity."""
    shape = images.shape[1:]
    drawn = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return (images + severity * drawn).clamp(0, 1)


def low_resolution(images: Tensor, severity: float) -> Tensor:
    """Reduced by the factor ``severity`` with antialiasing, and enlarged again, both bilinearly."""
    size = list(images.shape[2:])
    reduced = [max(1, round(length / severity)) for length in size]
    return F.resize(F.resize(images, reduced, antialias=True), size, antialias=True).clamp(0, 1)


def darker(images: Tensor, severity: float) -> Tensor:
    """All values times 1 - ``severity``."""
    return F.adjust_brightness(images, 1 - severity)


def brighter(images: Tensor, severity: float) -> Tensor:
    """All values times 1 + ``severity``, cut off at white."""
    return F.adjust_brightness(images, 1 + severity)


_DRAWN: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {
    "occlude_random": occlude_random,
    "noise": noise,
}
_FIXED: dict[str, Callable[[Tensor, float], Tensor]] = {
    "blur": blur,
    "low_resolution": low_resolution,
    "darker": darker,
    "brighter": brighter,
}


def _pixels(images: Tensor, severity: float) -> int:
    """The side of a square in pixels."""
    return round(severity * images.shape[3])


def _cover(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Grey squares whose upper left pixels are ``corners`` (N, K, 2), x and y."""
    (left, top), (height, width) = corners[..., None].unbind(2), images.shape[2:]
    x, y = torch.arange(width), torch.arange(height)
    columns, rows = (x >= left) & (x < left + side), (y >= top) & (y < top + side)  # (N, K, W) and (N, K, H)
    hidden = (rows[..., :, None] & columns[..., None, :]).any(dim=1)
    return torch.where(hidden[:, None], torch.tensor(GREY), images)
