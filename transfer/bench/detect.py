"""Speed of detection beside facenet-pytorch's own ``MTCNN.detect``."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN

from transfer.faces.detect import Canvas, DetectorPool, place, smallest_face

BATCHES = (8, 32, 128)
"""Batch sizes in which facenet-pytorch is fed; the fastest counts."""
OURS, SINGLE = "transfer", "facenet-pytorch, image by image"


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
    way once, on the same number of cores, and the order is turned from round to round; a round before them warms up and
    does not count. Returns images/s (the median), the ratio to facenet-pytorch's fastest batches (the median of the
    rounds' ratios), and the share of canvases in which a face was found.
    """
    canvases = [place(row, image, min_side, border) for row, image in enumerate(images)]
    mtcnn = MTCNN(keep_all=True, device=torch.device(device))
    sizes = {SINGLE: 1, **{f"facenet-pytorch, batches of {size}": size for size in BATCHES}}
    ways = [OURS, *sizes]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with DetectorPool(threads, device) as pool:

        def search(way: str) -> int:
            """Number of canvases with a face."""
            if way == OURS:
                results = [future.result() for _, future in pool.start(canvases, min_face, border)]
                return sum(len(faces.boxes) > 0 for batch in results for faces, _ in batch)
            torch.set_num_threads(pool.workers)
            return _search(mtcnn, canvases, sizes[way], min_face, border)

        found = {way: search(way) / len(canvases) for way in ways}
        for turn in range(rounds):
            for way in np.roll(ways, -turn).tolist():
                start = time.perf_counter()
                search(way)
                seconds[way].append(time.perf_counter() - start)
        workers = pool.workers
    own = min(list(sizes)[1:], key=lambda way: np.median(seconds[way]))
    return {
        "images": len(canvases),
        "rounds": rounds,
        "cores": workers,
        "device": device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "images_per_second": {way: len(canvases) / float(np.median(taken)) for way, taken in seconds.items()},
        "ratio_to_own_batches": {
            way: float(np.median(np.divide(seconds[own], taken))) for way, taken in seconds.items()
        },
        "own_batches": own,
        "found": found,
    }


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
