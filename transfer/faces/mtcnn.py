"""MTCNN's cascade of three networks, with the weights of facenet-pytorch, on a batch of equally large images.

The boxes are those of facenet-pytorch's ``detect_face``: its pyramid, its whole-pixel crops, its arithmetic. The
landmarks are not. facenet-pytorch places them as if a crop ended where its box ends, but a crop ends at whole pixels
and at the border of the image: its landmarks come out half a pixel too far right and down, and distorted where a box
leaves the image, which is common in FER images. Here they are placed in the crop that the network saw.
"""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import conv2d, linear, max_pool2d, pad, prelu

SCALE_FACTOR = 0.709  # from one level of the image pyramid to the next, as in facenet-pytorch
THRESHOLDS = (0.6, 0.7, 0.7)  # probabilities that a face must reach in the three networks, as in facenet-pytorch
CHANNELS = 4  # three colours and a zero: a pixel's four sums are then moved as one value of 16 bytes

_CELL, _STRIDE = 12, 2  # side of the smallest face that P-Net sees, and the distance of its cells
_MAP_BYTES = {"cpu": 4_000_000, "cuda": 400_000_000}  # of a network's largest map: on a CPU it then stays in the cache


class Faces(NamedTuple):
    """The faces of one image, the most probable first."""

    boxes: np.ndarray
    """(k, 5) float64: x0, y0, x1, y1, probability; pixels are counted from 1, and x1, y1 are the last ones inside."""
    points: np.ndarray  # (k, 5, 2) float64: x and y of the landmarks, in pixels from the outer corner of the image


class Cascade:
    """P-Net proposes, R-Net refines, O-Net decides and finds the landmarks (Zhang et al. 2016, arXiv:1604.02878)."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.pnet = Network("pnet", (2, 1, 1), ("conv4_1", "conv4_2"), self.device)
        self.rnet = Network("rnet", (3, 3, 1), ("dense5_1", "dense5_2"), self.device)
        self.onet = Network("onet", (3, 3, 2, 1), ("dense6_1", "dense6_2", "dense6_3"), self.device)
        [library] = _package("torchvision").glob("_C*")
        torch.ops.load_library(str(library))  # registers torch.ops.torchvision.nms

    @torch.inference_mode()
    def find(self, pixels: np.ndarray, min_face: float) -> list[Faces]:
        """The faces of at least ``min_face`` pixels in each of the images (N, H, W, 3), uint8 RGB."""
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if self.device.type == "cuda" else None
        with exact or nullcontext():
            return self._find(torch.as_tensor(np.ascontiguousarray(pixels), device=self.device), min_face)

    def _find(self, pixels: torch.Tensor, min_face: float) -> list[Faces]:
        areas = Areas(pixels)
        boxes, owner = self._propose(areas, min_face)
        boxes, owner, _, shift = _confirmed(self.rnet, areas, boxes, owner, 24, THRESHOLDS[1])
        kept = _suppress(boxes, owner, 0.7)
        boxes, owner = _squared(_shifted(boxes[kept], shift[kept])), owner[kept]
        boxes, owner, cut, said = _confirmed(self.onet, areas, boxes, owner, 48, THRESHOLDS[2])
        points = said[:, 4:].view(-1, 2, 5).transpose(1, 2)
        points = cut[:, None, :2] + points * (cut[:, 2:] - cut[:, :2])[:, None]
        boxes = _shifted(boxes, said[:, :4])
        kept = _suppress_inside(boxes, owner, 0.7)
        found, marks, image = (values[kept].cpu().numpy() for values in (boxes.double(), points.double(), owner))
        return [Faces(found[image == i], marks[image == i]) for i in range(len(areas))]

    def _propose(self, areas: "Areas", min_face: float) -> tuple[torch.Tensor, torch.Tensor]:
        """P-Net over an image pyramid: square boxes (M, 5) and the image that each belongs to (M,)."""
        # Multiplied step by step as facenet-pytorch does: boxes are rounded down after a division by the scale.
        scale = _CELL / min_face
        side = min(areas.height, areas.width) * scale
        proposals, owners = [], []
        while side >= _CELL:
            shape = int(areas.height * scale + 1), int(areas.width * scale + 1)
            step = max(1, _MAP_BYTES[self.device.type] // (4 * shape[0] * shape[1] * self.pnet.width))
            parts = [slice(start, start + step) for start in range(0, len(areas), step)]
            boxes, owner = _cells_above(torch.cat([self.pnet(areas.level(*shape, part)) for part in parts]), scale)
            kept = _suppress(boxes, owner, 0.5)
            proposals.append(boxes[kept])
            owners.append(owner[kept])
            scale, side = scale * SCALE_FACTOR, side * SCALE_FACTOR
        boxes, owner = torch.cat(proposals), torch.cat(owners)
        kept = _suppress(boxes, owner, 0.7)
        boxes, owner = boxes[kept], owner[kept]
        sides = (boxes[:, 2:4] - boxes[:, :2]).repeat(1, 2)
        return _squared(torch.cat([boxes[:, :4] + boxes[:, 5:9] * sides, boxes[:, 4:5]], dim=1)), owner


class Network:
    """One stage of the cascade: convolutions, each with a PReLU and perhaps a pooling, then the heads side by side.

    Source of the weights: facenet-pytorch.
    """

    def __init__(
        self, name: str, pools: tuple[int, ...], heads: tuple[str, ...], device: torch.device | str = "cpu"
    ) -> None:
        """``name`` is a weight file of facenet-pytorch, ``pools`` the pooling after each convolution (1: none)."""
        weights = torch.load(_package("facenet_pytorch") / "data" / f"{name}.pt", weights_only=True)
        self.convolutions = []
        for i, pool in enumerate(pools, 1):
            weight, bias, slope = (weights[key] for key in (f"conv{i}.weight", f"conv{i}.bias", f"prelu{i}.weight"))
            if i == 1:  # the networks were trained on (x - 127.5) / 128
                weight = pad(weight / 128, (0, 0, 0, 0, 0, CHANNELS - 3))
                bias = bias - 127.5 * weight.sum(dim=(1, 2, 3))
            weight = weight.contiguous(memory_format=torch.channels_last)
            self.convolutions.append((weight.to(device), bias.to(device), slope.to(device), pool))
        self.width = len(self.convolutions[0][1])
        """Channels of the first and largest map."""
        last = len(pools) + 1
        self.dense = None
        if f"dense{last}.weight" in weights:
            # facenet-pytorch flattens (width, height, channel); here the map lies as (height, width, channel).
            weight, channels = weights[f"dense{last}.weight"], len(bias)
            side = round((weight.shape[1] / channels) ** 0.5)
            weight = weight.view(-1, side, side, channels).transpose(1, 2).flatten(1)
            rest = weights[f"dense{last}.bias"], weights[f"prelu{last}.weight"]
            self.dense = tuple(value.to(device) for value in (weight, *rest))
        heads_weight = torch.cat([weights[f"{head}.weight"].flatten(1) for head in heads])
        self.heads = heads_weight.to(device), torch.cat([weights[f"{head}.bias"] for head in heads]).to(device)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The outputs of the heads, the two logits first.

        ``pixels`` is (N, H, W, 4) float32 from 0 to 255. Returns (N, outputs), of P-Net (N, outputs, h, w).
        """
        x = pixels.permute(0, 3, 1, 2)
        for weight, bias, slope, pool in self.convolutions:
            x = prelu(conv2d(x, weight, bias), slope)
            if pool > 1:
                x = max_pool2d(x, pool, 2, ceil_mode=True)
        if self.dense is None:
            return conv2d(x, self.heads[0][:, :, None, None], self.heads[1])
        weight, bias, slope = self.dense
        return linear(prelu(linear(x.permute(0, 2, 3, 1).flatten(1), weight, bias), slope), *self.heads)


class Areas:
    """Images from which levels of a pyramid and crops are taken, each cell the mean of the pixels that it meets.

    The cells are those of torch's ``interpolate(mode="area")``, which facenet-pytorch calls for every crop by itself;
    here all crops of a batch are taken at once, from a summed-area table.
    """

    def __init__(self, pixels: torch.Tensor) -> None:
        """``pixels`` is (N, H, W, 3) uint8; 255 H W must fit into 31 bits: at most 8.4 megapixels."""
        n, self.height, self.width, _ = pixels.shape
        sums = torch.zeros(n, self.height + 1, self.width + 1, CHANNELS, dtype=torch.int32, device=pixels.device)
        sums[:, 1:, 1:, :3] = pixels
        self._sums = _pack(sums.cumsum_(1).cumsum_(2))  # in place: new memory would cost more than the sums

    def __len__(self) -> int:
        return len(self._sums)

    def level(self, height: int, width: int, part: slice) -> torch.Tensor:
        """The images ``part`` at another size: (n, height, width, 4) float32 from 0 to 255."""
        sums = self._sums[part]
        top, bottom = _cells(0, self.height, height, sums.device)
        left, right = _cells(0, self.width, width, sums.device)
        rows = _pack(_unpack(sums.index_select(1, bottom)).sub_(_unpack(sums.index_select(1, top))))
        total = _unpack(rows.index_select(2, right)).sub_(_unpack(rows.index_select(2, left)))
        return total * (1 / ((bottom - top)[:, None] * (right - left)))[..., None]

    def crops(self, owner: torch.Tensor, cut: torch.Tensor, side: int) -> torch.Tensor:
        """Rectangles ``cut`` (M, 4) of the images ``owner`` (M,) as squares: (M, side, side, 4) float32."""
        x0, y0, x1, y1 = cut[:, :, None].unbind(1)
        left, right = _cells(x0, x1 - x0, side, cut.device)
        top, bottom = _cells(y0, y1 - y0, side, cut.device)
        size = (bottom - top)[:, :, None] * (right - left)[:, None]
        begin = owner[:, None] * (self.height + 1)
        top, bottom = (((begin + row) * (self.width + 1))[:, :, None] for row in (top, bottom))
        left, right = left[:, None], right[:, None]
        total = self._at(bottom + right).sub_(self._at(bottom + left))
        total.sub_(self._at(top + right)).add_(self._at(top + left))
        return total * (1 / size)[..., None]

    def _at(self, index: torch.Tensor) -> torch.Tensor:
        return _unpack(self._sums.view(-1).index_select(0, index.flatten())).view(*index.shape, CHANNELS)


def _cells(start: torch.Tensor | int, length: torch.Tensor | int, count: int, device: torch.device) -> tuple:
    """First, and one past the last, of the pixels that each of ``count`` cells meets; neighbours may share one."""
    step = torch.arange(count, device=device)
    return start + step * length // count, start - (-(step + 1) * length // count)


def _pack(sums: torch.Tensor) -> torch.Tensor:
    """A pixel's four sums of 4 bytes as one value of 16: it moves at once, which is ten times as fast."""
    return sums.view(torch.complex128).squeeze(-1)


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    return packed.unsqueeze(-1).view(torch.int32)


def _cells_above(outputs: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """P-Net's cells that reach the threshold: boxes with probability and shifts (M, 9), and their images (M,)."""
    probability = outputs[:, :2].softmax(1)[:, 1]
    above = probability >= THRESHOLDS[0]
    owner, row, column = above.nonzero().unbind(1)
    first = torch.stack([column, row], dim=1).to(outputs.dtype) * _STRIDE
    corners = [((first + 1) / scale).floor(), ((first + _CELL) / scale).floor()]
    return torch.cat([*corners, probability[above][:, None], outputs.permute(0, 2, 3, 1)[above][:, 2:]], dim=1), owner


def _confirmed(
    network: Network, areas: Areas, boxes: torch.Tensor, owner: torch.Tensor, side: int, threshold: float
) -> tuple[torch.Tensor, ...]:
    """The boxes (M, 5) that ``network`` accepts in crops of ``side`` pixels, ordered by image.

    Also their owners, the pixels of the crops (M, 4: x0 <= x < x1, from 0), and the other outputs of the network.
    """
    # Beyond its border an image has no pixels; the clamp also keeps boxes that went astray within whole numbers.
    size = boxes.new_tensor([areas.width, areas.height])
    first, last = boxes[:, :2].trunc().maximum(torch.ones_like(size)) - 1, boxes[:, 2:4].trunc().minimum(size)
    order = owner.argsort(stable=True)
    order = order[(last > first).all(dim=1)[order]]
    boxes, owner, cut = boxes[order], owner[order], torch.cat([first, last], dim=1)[order].long()
    step = max(1, _MAP_BYTES[cut.device.type] // (4 * side * side * network.width))
    parts = zip(owner.split(step), cut.split(step), strict=True)
    outputs = torch.cat([network(areas.crops(some, rectangles, side)) for some, rectangles in parts])
    probability = outputs[:, :2].softmax(1)[:, 1]
    passed = probability > threshold
    boxes = torch.cat([boxes[passed, :4], probability[passed, None]], dim=1)
    return boxes, owner[passed], cut[passed], outputs[passed, 2:]


def _shifted(boxes: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Boxes (M, 5) moved by the network's corrections, fractions of their sides (facenet-pytorch: ``bbreg``)."""
    sides = (boxes[:, 2:4] - boxes[:, :2] + 1).repeat(1, 2)
    return torch.cat([boxes[:, :4] + shift * sides, boxes[:, 4:]], dim=1)


def _squared(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (M, 5) as squares of their longer side around the same centre (facenet-pytorch: ``rerec``)."""
    sides = boxes[:, 2:4] - boxes[:, :2]
    longer = sides.amax(dim=1, keepdim=True)
    corner = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return torch.cat([corner, corner + longer, boxes[:, 4:]], dim=1)


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported: facenet-pytorch and torchvision take seconds."""
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _suppress(boxes: torch.Tensor, owner: torch.Tensor, threshold: float) -> torch.Tensor:
    """Numbers of the boxes that non-maximum suppression within each image keeps, the most probable first."""
    if len(boxes) == 0:
        return owner
    # Double precision keeps images exactly apart by large offsets: a batch must not change its members' faces.
    corners = boxes[:, :4].double()
    corners = corners + (owner * (corners.max() + 1))[:, None]
    return torch.ops.torchvision.nms(corners, boxes[:, 4].double(), threshold)


def _suppress_inside(boxes: torch.Tensor, owner: torch.Tensor, threshold: float) -> torch.Tensor:
    """The same, but the shared area is compared with the smaller of two boxes, as in facenet-pytorch's last step."""
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
