"""Speed of detection beside facenet-pytorch's own ``MTCNN.detect``, and whether both find the same faces."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN

from transfer.faces.detect import Canvas, Detection, DetectorPool, place, smallest_face
from transfer.faces.mtcnn import Faces

BATCHES = (8, 32, 128)
"""Batch sizes in which facenet-pytorch is fed; the fastest counts."""
SAME = 0.5
"""Two boxes with at least this IoU are the same face."""
EQUAL = 0.99
"""IoU from which two boxes of a face count as equal."""
OURS, SINGLE = "transfer", "facenet-pytorch, image by image"

_SMALLEST = 20  # facenet-pytorch's own smallest face in pixels


def compare(
    images: Sequence[np.ndarray],
    *,
    min_side: int,
    border: float,
    min_face: float,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 3,
) -> dict[str, Any]:
    """Search the same pictures with facenet-pytorch, image by image and in batches, and as ``transfer detect`` does.

    ``images`` are (H, W, 3) uint8; what is searched are the canvases that detection makes of them. A round runs every
    way once, on the same number of cores, and the order changes from round to round; a round before them warms up and
    does not count. Returns images/s (the median), the ratio to facenet-pytorch's fastest batches (the median of the
    rounds' ratios), the agreement (see :func:`agreement`), and what facenet-pytorch finds in the images as they are.
    """
    canvases = [place(row, image, min_side, border) for row, image in enumerate(images)]
    mtcnn = MTCNN(keep_all=True, device=torch.device(device))
    batched = {f"facenet-pytorch, batches of {size}": size for size in BATCHES}
    with DetectorPool(threads, device) as searching:

        def theirs(size: int) -> list[Faces]:
            torch.set_num_threads(searching.workers)
            return _search(mtcnn, canvases, size, lambda pixels: smallest_face(pixels, min_face, border))

        def ours() -> list[Detection]:
            found = {}
            for batch, future in searching.start(canvases, min_face, border):
                found |= zip((canvas.row for canvas in batch), future.result(), strict=True)
            return [found[row] for row in range(len(canvases))]

        ways = {OURS: ours, SINGLE: lambda: theirs(1)}
        ways |= {name: lambda size=size: theirs(size) for name, size in batched.items()}
        found = {name: way() for name, way in ways.items()}
        seconds = _alternate(ways, rounds)
        workers = searching.workers

    own = min(batched, key=lambda name: np.median(seconds[name]))
    ratios = {name: float(np.median(np.divide(seconds[own], taken))) for name, taken in seconds.items()}
    speeds = {name: len(canvases) / float(np.median(taken)) for name, taken in seconds.items()}
    return {
        "images": len(canvases),
        "rounds": rounds,
        "cores": workers,
        "device": device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "images_per_second": speeds,
        "ratio_to_own_batches": ratios,
        "own_batches": own,
        "agreement": agreement(found[own], found[OURS]),
        "found": {
            OURS: _share(len(faces.boxes) > 0 for faces, _ in found[OURS]),
            "transfer, without the mirror image": _share(len(f.boxes) > 0 and not m for f, m in found[OURS]),
            "facenet-pytorch": _share(len(faces.boxes) > 0 for faces in found[own]),
            "facenet-pytorch, images as they are": _found_in(mtcnn, images),
        },
    }


def agreement(theirs: Sequence[Faces], ours: Sequence[Detection]) -> dict[str, float | int]:
    """How far two searches of the same pictures agree; faces that only a mirror image showed are left out.

    A face of one is that of the other from IoU 0.5 on. ``both`` is the share of all faces that both found, ``equal``
    the share of those with IoU >= 0.99; landmarks differ by pixels of the canvas.
    """
    overlaps, distances, faces = [], [], 0
    for their, (our, mirrored) in zip(theirs, ours, strict=True):
        own = our if not mirrored else Faces(our.boxes[:0], our.points[:0])
        table = iou(their.boxes, own.boxes)
        pairs = [(i, j) for i, row in enumerate(table) for j in [row.argmax()] if row[j] >= SAME] if table.size else []
        overlaps += [table[pair] for pair in pairs]
        distances += [np.linalg.norm(their.points[i] - own.points[j], axis=1).mean() for i, j in pairs]
        faces += len(their.boxes) + len(own.boxes) - len(pairs)
    if not overlaps:
        return {"faces": faces, "both": 0.0}
    return {
        "faces": faces,
        "both": len(overlaps) / faces,
        "equal": _share(overlap >= EQUAL for overlap in overlaps),
        "median_iou": float(np.median(overlaps)),
        "smallest_iou": float(np.min(overlaps)),
        "median_landmark_distance": float(np.median(distances)),
    }


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes x0, y0, x1, y1: (N, >=4) and (M, >=4) give (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def _search(
    mtcnn: MTCNN, canvases: Sequence[Canvas], size: int, smallest: Callable[[np.ndarray], float]
) -> list[Faces]:
    """facenet-pytorch's faces: it wants equally large pictures in a batch."""
    groups: dict[tuple[int, ...], list[Canvas]] = defaultdict(list)
    for canvas in canvases:
        groups[canvas.pixels.shape].append(canvas)
    found = {}
    for group in groups.values():
        mtcnn.min_face_size = smallest(group[0].pixels)
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            result = mtcnn.detect(np.stack([canvas.pixels for canvas in batch]), landmarks=True)
            for canvas, boxes, probabilities, points in zip(batch, *result, strict=True):
                found[canvas.row] = _faces(boxes, probabilities, points)
    return [found[canvas.row] for canvas in canvases]


def _faces(boxes: np.ndarray | None, probabilities: np.ndarray, points: np.ndarray | None) -> Faces:
    if boxes is None:
        return Faces(np.zeros((0, 5)), np.zeros((0, 5, 2)))
    rows = np.concatenate([np.asarray(boxes, float), np.asarray(probabilities, float)[:, None]], axis=1)
    return Faces(rows, np.asarray(points, float))


def _found_in(mtcnn: MTCNN, images: Sequence[np.ndarray]) -> float:
    """Share of the images, not enlarged and without a border, in which facenet-pytorch's defaults find a face."""
    large = [Canvas(row, *[image] * 4) for row, image in enumerate(images) if min(image.shape[:2]) > _SMALLEST]
    found = _search(mtcnn, large, BATCHES[0], lambda _: _SMALLEST) if large else []
    return sum(len(faces.boxes) > 0 for faces in found) / len(images)


def _alternate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in each round; the order is turned from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _share(values: Iterable[bool]) -> float:
    values = list(values)
    return float(sum(values) / len(values)) if values else 0.0
