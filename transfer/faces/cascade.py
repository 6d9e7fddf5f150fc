"""MTCNN's cascade of three networks, with the weights of facenet-pytorch, on a batch of equally large pictures.

facenet-pytorch's own ``detect_face`` cuts its crops at whole pixels and at the border of the picture, but places the
landmarks as if it had not: they come out half a pixel too far right and down, and distorted where the box leaves the
picture, which is common in FER images, whose faces fill the frame. Here the crops are taken where the boxes are.
"""

import math

import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import batched_nms_numpy, bbreg, generateBoundingBox, rerec
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms, roi_align

_CELL = 12  # side of the smallest face that P-Net sees


@torch.inference_mode()
def detect_faces(mtcnn: MTCNN, pixels: np.ndarray, min_face: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Find the faces of at least ``min_face`` pixels in each picture of a batch.

    ``pixels`` is (N, H, W, 3) uint8 RGB; what lies outside a picture is taken to have the colour of its first pixel.
    Returns for each picture the boxes (k, 5) float64, x0, y0, x1, y1, probability, and the landmarks (k, 5, 2) float64,
    all as distances in pixels from the picture's outer corner (the centre of the first pixel is at 0.5, 0.5).
    Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks (2016).
    """
    images = torch.as_tensor(np.ascontiguousarray(pixels), device=mtcnn.device).permute(0, 3, 1, 2)
    images = (images.float() - 127.5) / 128
    nothing = [(np.zeros((0, 5)), np.zeros((0, 5, 2)))] * len(pixels)
    boxes, owner = _propose(mtcnn, images, min_face)
    if len(boxes) == 0:  # the two other networks refuse an empty batch
        return nothing

    regression, probability = mtcnn.rnet(_crop(images, boxes, owner, 24))
    passed = probability[:, 1] > mtcnn.thresholds[1]
    boxes, owner, regression = _scored(boxes, probability)[passed], owner[passed], regression[passed]
    kept = batched_nms(boxes[:, :4], boxes[:, 4], owner, 0.7)
    boxes, owner = rerec(bbreg(boxes[kept], regression[kept])), owner[kept]
    if len(boxes) == 0:
        return nothing

    regression, points, probability = mtcnn.onet(_crop(images, boxes, owner, 48))
    passed = probability[:, 1] > mtcnn.thresholds[2]
    boxes, owner, regression = _scored(boxes, probability)[passed], owner[passed], regression[passed]
    x, y = points[passed].view(-1, 2, 5).unbind(1)
    corner, side = boxes[:, None, :2] - 1, boxes[:, None, 2:4] - boxes[:, None, :2] + 1
    points = corner + side * torch.stack([x, y], dim=-1)
    boxes = bbreg(boxes, regression)
    kept = batched_nms_numpy(boxes[:, :4], boxes[:, 4], owner, 0.7, "Min")
    boxes, points, owner = (t[kept].cpu().numpy() for t in (boxes, points, owner))
    boxes = boxes.astype(np.float64)
    boxes[:, :2] -= 1
    return [(boxes[owner == i], points[owner == i].astype(np.float64)) for i in range(len(pixels))]


def _propose(mtcnn: MTCNN, images: torch.Tensor, min_face: float) -> tuple[torch.Tensor, torch.Tensor]:
    """First stage: P-Net over an image pyramid; square boxes (M, 5) and the picture that each belongs to (M,)."""
    height, width = images.shape[2:]
    steps = int(math.log(min_face / min(height, width)) / math.log(mtcnn.factor)) + 1
    proposals, owners = [], []
    for scale in (_CELL / min_face * mtcnn.factor**step for step in range(steps)):
        level = interpolate(images, size=(int(height * scale + 1), int(width * scale + 1)), mode="area")
        regression, probability = mtcnn.pnet(level)
        boxes, owner = generateBoundingBox(regression, probability[:, 1], scale, mtcnn.thresholds[0])
        kept = batched_nms(boxes[:, :4], boxes[:, 4], owner, 0.5)
        proposals.append(boxes[kept])
        owners.append(owner[kept])
    boxes, owner = torch.cat(proposals), torch.cat(owners)
    kept = batched_nms(boxes[:, :4], boxes[:, 4], owner, 0.7)
    boxes, owner = boxes[kept], owner[kept]
    sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
    return rerec(torch.cat([boxes[:, :4] + boxes[:, 5:9] * sides, boxes[:, 4:5]], dim=1)), owner


def _crop(images: torch.Tensor, boxes: torch.Tensor, owner: torch.Tensor, size: int) -> torch.Tensor:
    # Boxes count pixels from 1 and include the last one. roi_align puts zeros outside, hence the shift by the border.
    border = images[:, :, :1, :1]
    regions = torch.cat([owner[:, None].to(boxes), boxes[:, :2] - 1, boxes[:, 2:4]], dim=1)
    return roi_align((images - border).contiguous(), regions, size, aligned=True) + border[owner]


def _scored(boxes: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    return torch.cat([boxes[:, :4], probability[:, 1:]], dim=1)
