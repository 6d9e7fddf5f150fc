"""MTCNN's cascade of three networks, with the weights of facenet-pytorch, on a batch of equally large pictures.

The boxes are those of facenet-pytorch's ``detect_face``: its pyramid, its crops of whole pixels, its arithmetic. The
landmarks are not. It places them as if a crop ended where its box ends, but a crop ends at whole pixels and at the
border of the picture: its landmarks come out half a pixel too far right and down, and distorted where a box leaves the
picture, which is common in FER images. Here they are placed in the crop that the network saw.
"""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import bbreg, generateBoundingBox, rerec
from torchvision.ops import batched_nms

from transfer.faces.areas import Areas
from transfer.faces.networks import Network

FACTOR = 0.709
"""From one level of the image pyramid to the next, as in facenet-pytorch."""
THRESHOLDS = (0.6, 0.7, 0.7)
"""Probabilities that a face must reach in the three networks, as in facenet-pytorch."""

_CELL = 12  # side of the smallest face that P-Net sees
_MAP_BYTES = {"cpu": 4_000_000, "cuda": 400_000_000}  # of a network's largest map: on a CPU it then stays in the cache


class Faces(NamedTuple):
    """The faces of one picture, the most probable first."""

    boxes: np.ndarray
    """(k, 5) float64: x0, y0, x1, y1, probability; pixels are counted from 1, and x1, y1 are the last ones inside."""
    points: np.ndarray
    """(k, 5, 2) float64: x and y of the landmarks, in pixels from the picture's outer corner."""


class Cascade:
    """P-Net proposes, R-Net refines, O-Net decides and finds the landmarks.

    Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks (2016).
    """

    def __init__(self, device: str = "cpu") -> None:
        """Load the weights onto ``device``."""
        self.device = torch.device(device)
        mtcnn = MTCNN()
        self._proposing = Network(mtcnn.pnet, (2, 1, 1), ("conv4_1", "conv4_2")).to(self.device)
        self._refining = Network(mtcnn.rnet, (3, 3, 1), ("dense5_1", "dense5_2")).to(self.device)
        self._deciding = Network(mtcnn.onet, (3, 3, 2, 1), ("dense6_1", "dense6_2", "dense6_3")).to(self.device)

    @torch.inference_mode()
    def find(self, pixels: np.ndarray, min_face: float) -> list[Faces]:
        """The faces of at least ``min_face`` pixels in each of the pictures (N, H, W, 3), uint8 RGB."""
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if self.device.type == "cuda" else None
        with exact or nullcontext():
            return self._find(torch.as_tensor(np.ascontiguousarray(pixels), device=self.device), min_face)

    def _find(self, pixels: torch.Tensor, min_face: float) -> list[Faces]:
        n, height, width, _ = pixels.shape
        nothing = [Faces(np.zeros((0, 5)), np.zeros((0, 5, 2))) for _ in range(n)]
        areas = Areas(pixels)
        boxes, owner = self._propose(areas, height, width, min_face)

        boxes, owner, cut = _cut(boxes, owner, height, width)
        if len(boxes) == 0:
            return nothing
        said = _look(self._refining, areas, owner, cut, 24)
        passed, boxes = _passed(boxes, said, THRESHOLDS[1])
        owner, shift = owner[passed], said[passed, 2:6]
        kept = _suppress(boxes, owner, 0.7)
        boxes, owner = rerec(bbreg(boxes[kept], shift[kept])), owner[kept]

        boxes, owner, cut = _cut(boxes, owner, height, width)
        if len(boxes) == 0:
            return nothing
        said = _look(self._deciding, areas, owner, cut, 48)
        passed, boxes = _passed(boxes, said, THRESHOLDS[2])
        owner, cut, shift = owner[passed], cut[passed], said[passed, 2:6]
        points = said[passed, 6:].view(-1, 2, 5).transpose(1, 2)
        points = cut[:, None, :2] + points * (cut[:, 2:] - cut[:, :2])[:, None]
        boxes = bbreg(boxes, shift)
        kept = _suppress_inside(boxes, owner, 0.7)
        found, points, owner = (values[kept].cpu().numpy() for values in (boxes.double(), points.double(), owner))
        return [Faces(found[owner == i], points[owner == i]) for i in range(n)]

    def _propose(self, areas: Areas, height: int, width: int, min_face: float) -> tuple[torch.Tensor, torch.Tensor]:
        """First stage: P-Net over an image pyramid; square boxes (M, 5) and the picture that each belongs to (M,)."""
        # Multiplied step by step as facenet-pytorch does: boxes are rounded down after a division by the scale.
        scale = _CELL / min_face
        side = min(height, width) * scale
        proposals, owners = [], []
        while side >= _CELL:
            shape = int(height * scale + 1), int(width * scale + 1)
            step = max(1, _MAP_BYTES[self.device.type] // (4 * shape[0] * shape[1] * self._proposing.width))
            parts = [slice(start, start + step) for start in range(0, len(areas), step)]
            said = torch.cat([self._proposing(areas.level(*shape, part)) for part in parts])
            probability = said[:, :2].softmax(1)[:, 1]
            boxes, owner = generateBoundingBox(said[:, 2:], probability, scale, THRESHOLDS[0])
            kept = _suppress(boxes, owner, 0.5)
            proposals.append(boxes[kept])
            owners.append(owner[kept])
            scale, side = scale * FACTOR, side * FACTOR
        boxes, owner = torch.cat(proposals), torch.cat(owners)
        kept = _suppress(boxes, owner, 0.7)
        boxes, owner = boxes[kept], owner[kept]
        sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
        return rerec(torch.cat([boxes[:, :4] + boxes[:, 5:9] * sides, boxes[:, 4:5]], dim=1)), owner


def _cut(boxes: torch.Tensor, owner: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, ...]:
    """Boxes that meet their picture, ordered by picture, their owners, and the pixels inside: x0 <= x < x1, from 0."""
    # Beyond its border a picture has no pixels; the clamp also keeps boxes that went astray within whole numbers.
    size = boxes.new_tensor([width, height])
    first, last = boxes[:, :2].trunc().maximum(torch.ones_like(size)) - 1, boxes[:, 2:4].trunc().minimum(size)
    order = owner.argsort(stable=True)
    order = order[(last > first).all(dim=1)[order]]
    return boxes[order], owner[order], torch.cat([first, last], dim=1)[order].long()


def _look(network: Network, areas: Areas, owner: torch.Tensor, cut: torch.Tensor, side: int) -> torch.Tensor:
    """What ``network`` says of each crop, a few at a time."""
    step = max(1, _MAP_BYTES[cut.device.type] // (4 * side * side * network.width))
    parts = zip(owner.split(step), cut.split(step), strict=True)
    return torch.cat([network(areas.crops(some, rectangles, side)) for some, rectangles in parts])


def _passed(boxes: torch.Tensor, said: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Which boxes reach the threshold, and these with their new probability."""
    probability = said[:, :2].softmax(1)[:, 1]
    passed = probability > threshold
    return passed, torch.cat([boxes[passed, :4], probability[passed, None]], dim=1)


def _suppress(boxes: torch.Tensor, owner: torch.Tensor, threshold: float) -> torch.Tensor:
    # In double precision, since pictures are kept apart by large offsets: a batch must not change its members' faces.
    return batched_nms(boxes[:, :4].double(), boxes[:, 4].double(), owner, threshold)


def _suppress_inside(boxes: torch.Tensor, owner: torch.Tensor, threshold: float) -> torch.Tensor:
    """As facenet-pytorch's last suppression: the shared area is compared with the smaller of two boxes.

    Returns the numbers of the boxes that stay, the most probable first.
    """
    order = boxes[:, 4].argsort(descending=True, stable=True)
    first, last, owner = boxes[order, :2], boxes[order, 2:4], owner[order]
    area = (last - first + 1).prod(dim=1)
    shared = (torch.minimum(last[:, None], last) - torch.maximum(first[:, None], first) + 1).clamp(min=0).prod(dim=2)
    beats = (shared > threshold * torch.minimum(area[:, None], area)) & (owner[:, None] == owner)
    beats = beats.triu(diagonal=1)  # only the more probable one beats
    kept, open_ = torch.zeros_like(owner, dtype=torch.bool), torch.ones_like(owner, dtype=torch.bool)
    while open_.any():
        best = open_ & ~(beats & open_[:, None]).any(dim=0)
        kept |= best
        open_ &= ~best & ~(beats & best[:, None]).any(dim=0)
    return order[kept]
