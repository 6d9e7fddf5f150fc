"""MTCNN in batches: one box and five landmarks for every image, or the reason why there are none."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from transfer.faces.cascade import detect_faces
from transfer.faces.template import LANDMARK_COLUMNS

BOX_COLUMNS = ["box_x0", "box_y0", "box_x1", "box_y1"]

_BATCH_PIXELS = 16_000_000  # a batch of large pictures is shorter, so that its float copy stays near 200 MB
_HELD_PIXELS = 64_000_000  # pictures of rare sizes wait for company at most up to this many pixels
_CANVAS_STEP = 16  # canvases grow in steps, so that pictures of almost equal sizes share a batch
_MIRRORED = [1, 0, 2, 4, 3]  # a mirrored left eye is a right eye


class _Canvas(NamedTuple):
    """A picture as MTCNN sees it: scaled, and surrounded by its mean colour."""

    row: int
    pixels: np.ndarray  # (H, W, 3) uint8
    offset: np.ndarray  # x and y of the scaled picture inside the canvas
    scale: np.ndarray  # canvas pixels per original pixel, in x and in y
    size: np.ndarray  # width and height of the original


def detect(
    images: Iterable[tuple[int, np.ndarray | None, str]],
    samples: Sequence[str],
    *,
    min_side: int = 96,
    max_side: int = 320,
    margin: float = 0.25,
    min_face: float = 0.25,
    batch_size: int = 32,
    threads: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Find the face of every image with MTCNN (facenet-pytorch, its default thresholds) in batches.

    ``images`` yields (position in ``samples``, RGB uint8 (H, W, 3) or None, error text) in any order, each position
    once; images of all sizes may be mixed, and memory stays bounded. The short side of an image is enlarged to
    ``min_side`` pixels or reduced to ``max_side``; then ``margin`` (fraction of the short side) of the image's mean
    colour is put around it, since MTCNN misses faces that fill the frame. Faces below ``min_face`` (fraction of the
    short side) are not looked for. Where nothing is found, the mirrored image is tried. ``progress`` is called with
    the number of images done so far.

    Returns one row per sample, in the order of ``samples``: sample, status ("found", "none", "broken"), n_faces, box,
    probability, five landmarks (pixels of the original image, pixel centres at integers), width, height, error. Of
    several faces the one chosen by :func:`choose` is returned; ``n_faces`` counts them all.
    Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks (2016).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # Convolutions and poolings of these narrow networks run 1.5 times as fast in this layout on CPUs.
    mtcnn = MTCNN(device=device).to(memory_format=torch.channels_last)
    table = _empty_table(samples)
    waiting: dict[tuple[int, ...], list[_Canvas]] = defaultdict(list)
    held = done = 0

    def flush(shape: tuple[int, ...]) -> None:
        nonlocal held, done
        canvases = waiting.pop(shape)
        held -= len(canvases) * shape[0] * shape[1]
        minimum = min_face * min(shape[:2]) / (1 + 2 * margin)
        for canvas, (boxes, points) in zip(canvases, _detect_batch(mtcnn, canvases, minimum), strict=True):
            _fill(table, canvas, boxes, points)
        done += len(canvases)
        if progress:
            progress(done)

    for row, image, error in images:
        if image is None:
            table["status"][row], table["error"][row] = "broken", error
            done += 1
            continue
        canvas = _canvas(row, image, min_side, max_side, margin)
        shape = canvas.pixels.shape
        waiting[shape].append(canvas)
        held += shape[0] * shape[1]
        if len(waiting[shape]) >= min(batch_size, _BATCH_PIXELS // (shape[0] * shape[1])):
            flush(shape)
        elif held > _HELD_PIXELS:
            flush(max(waiting, key=lambda shape: len(waiting[shape]) * shape[0] * shape[1]))
    while waiting:
        flush(next(iter(waiting)))
    return pd.DataFrame(table)


def choose(boxes: np.ndarray, width: float, height: float) -> int:
    """Number of the face nearest the centre by area: the largest area minus twice the squared distance to the centre.

    ``boxes`` is (N, >=4) with x0, y0, x1, y1 in pixels of a ``width`` x ``height`` image.
    Source: facenet-pytorch, ``select_boxes(method="center_weighted_size")``.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    offset = (boxes[:, :2] + boxes[:, 2:4]) / 2 - np.array([width, height]) / 2
    return int(np.argmax(area - 2 * (offset**2).sum(axis=1)))


def _empty_table(samples: Sequence[str]) -> dict[str, np.ndarray | list[str]]:
    n = len(samples)
    numbers = {name: np.full(n, np.nan) for name in [*BOX_COLUMNS, "probability", *LANDMARK_COLUMNS]}
    sizes = {name: np.zeros(n, np.int64) for name in ("width", "height")}
    return {
        "sample": list(samples),
        "status": ["none"] * n,
        "n_faces": np.zeros(n, np.int64),
        **numbers,
        **sizes,
        "error": [""] * n,
    }


def _canvas(row: int, image: np.ndarray, min_side: int, max_side: int, margin: float) -> _Canvas:
    size = np.array([image.shape[1], image.shape[0]])
    scale = np.clip(size.min(), min_side, max_side) / size.min()
    scale = min(scale, 4 * max_side / size.max())  # a ribbon of 10 x 5000 pixels must not become a giant
    scaled = np.maximum(np.rint(size * scale), 1).astype(int)
    pixels = np.asarray(Image.fromarray(image).resize(tuple(scaled.tolist()), Image.Resampling.BICUBIC))
    border = round(margin * scaled.min())
    width, height = -(-(scaled + 2 * border) // _CANVAS_STEP) * _CANVAS_STEP
    offset = (np.array([width, height]) - scaled) // 2
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.rint(pixels.mean(axis=(0, 1)))
    canvas[offset[1] : offset[1] + scaled[1], offset[0] : offset[0] + scaled[0]] = pixels
    return _Canvas(row, canvas, offset, scaled / size, size)


def _detect_batch(mtcnn: MTCNN, canvases: list[_Canvas], min_face: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes (k, 5) and landmarks (k, 5, 2) of each canvas; the mirrored canvas where the plain one shows no face."""
    pixels = np.stack([canvas.pixels for canvas in canvases])
    found = detect_faces(mtcnn, pixels, min_face)
    missed = [i for i, (boxes, _) in enumerate(found) if len(boxes) == 0]
    if missed:
        width = pixels.shape[2]
        for i, (boxes, points) in zip(missed, detect_faces(mtcnn, pixels[missed, :, ::-1], min_face), strict=True):
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            points = points[:, _MIRRORED]
            points[..., 0] = width - points[..., 0]
            found[i] = boxes, points
    return found


def _fill(table: dict, canvas: _Canvas, boxes: np.ndarray, points: np.ndarray) -> None:
    """Write the chosen face, in pixels of the original image, into its row of the table."""
    row = canvas.row
    table["width"][row], table["height"][row] = canvas.size
    table["n_faces"][row] = len(boxes)
    if len(boxes) == 0:
        return
    # Both count from the outer corner of the first pixel, whose centre lies at 0.5.
    corners = (boxes[:, :4].reshape(-1, 2, 2) - canvas.offset) / canvas.scale - 0.5
    points = (points - canvas.offset) / canvas.scale - 0.5
    k = choose(corners.reshape(-1, 4), *canvas.size)
    table["status"][row] = "found"
    table["probability"][row] = boxes[k, 4]
    for name, value in zip(BOX_COLUMNS, corners[k].ravel(), strict=True):
        table[name][row] = value
    for name, value in zip(LANDMARK_COLUMNS, points[k].ravel(), strict=True):
        table[name][row] = value
