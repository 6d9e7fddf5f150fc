"""Speed of detection beside facenet-pytorch's own ``MTCNN.detect``."""

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN

from transfer.faces.detect import Canvas, DetectorPool, place, smallest_face

OURS = "transfer"
THEIRS = {"facenet-pytorch, image by image": 1, **{f"facenet-pytorch, batches of {n}": n for n in (8, 32, 128)}}
"""Batch sizes in which facenet-pytorch is fed; the fastest of its batches counts."""


def compare(
    images: Sequence[np.ndarray],
    *,
    min_side: int,
    border: float,
    min_face: float,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 3,
) -> pd.DataFrame:
    """Search the same pictures with facenet-pytorch, image by image and in batches, and as ``transfer detect`` does.

    ``images`` are (H, W, 3) uint8; what is searched are the canvases that detection makes of them. A round runs every
    way once, on the same ``attrs["cores"]``, and the order is turned from round to round; a round before them warms up
    and does not count. Returns by way the images/s (median of the rounds), the ratio to facenet-pytorch's fastest
    batches (median of the rounds' ratios), and the share of canvases in which a face was found.
    """
    canvases = [place(row, image, min_side, border) for row, image in enumerate(images)]
    mtcnn = MTCNN(keep_all=True, device=torch.device(device))
    ways = [OURS, *THEIRS]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with DetectorPool(threads, device) as pool:

        def search(way: str) -> int:
            """Number of canvases with a face."""
            if way == OURS:
                results = [future.result() for _, future in pool.start(canvases, min_face, border)]
                return sum(len(faces.boxes) > 0 for batch in results for faces, _ in batch)
            torch.set_num_threads(pool.workers)
            return _search(mtcnn, canvases, THEIRS[way], min_face, border)

        found = {way: search(way) / len(canvases) for way in ways}
        for turn in range(rounds):
            for way in np.roll(ways, -turn).tolist():
                start = time.perf_counter()
                search(way)
                seconds[way].append(time.perf_counter() - start)
    taken = pd.DataFrame(seconds)
    fastest = taken[list(THEIRS)[1:]].median().idxmin()
    ratio = taken.rdiv(taken[fastest], axis=0).median()
    table = pd.DataFrame({"images/s": len(canvases) / taken.median(), "of own batches": ratio, "with a face": found})
    table.attrs = {"cores": pool.workers}
    return table


def _search(mtcnn: MTCNN, canvases: Sequence[Canvas], size: int, min_face: float, border: float) -> int:
    """facenet-pytorch on batches of ``size``, which it wants equally large: the number of canvases with a face."""
    groups: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    for canvas in canvases:
        groups[canvas.pixels.shape].append(canvas.pixels)
    found = 0
    for group in groups.values():
        mtcnn.min_face_size = smallest_face(group[0], min_face, border)
        for start in range(0, len(group), size):
            boxes, _, _ = mtcnn.detect(np.stack(group[start : start + size]), landmarks=True)
            found += sum(of_one is not None for of_one in boxes)
    return found
