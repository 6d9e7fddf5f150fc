"""Faces per second from photos to expressions, beside facenet-pytorch's detection and the networks of other tools."""

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from transfer.datasets.synthetic.render import EXPRESSIONS, render_face
from transfer.predict.model import PIXELS, SMALLEST, Model
from transfer.predict.pictures import pictures

SIZE = (640, 480)


def photos(count: int) -> list[bytes]:
    """JPEG files of 640x480 pixels with two drawn faces each."""
    files, names = [], list(EXPRESSIONS)
    for k in range(count):
        rng = np.random.default_rng(k)
        pixels = np.full((SIZE[1], SIZE[0], 3), rng.integers(60, 200, 3), np.uint8)
        for left in (0, SIZE[0] // 2):
            side = int(rng.integers(160, 300))
            y, x = rng.integers(0, SIZE[1] - side), left + rng.integers(0, SIZE[0] // 2 - side)
            pixels[y : y + side, x : x + side] = render_face(rng, names[k % len(names)], 0.8, side).image
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def compare(
    model: Model, files: list[bytes], tools: Mapping[str, Path], *, threads: int, rounds: int = 3
) -> pd.DataFrame:
    """The whole way (decode, detect, align, classify) and facenet-pytorch's ``MTCNN.detect`` on the decoded photos, by
    images of equal size in batches of 32, for faces as small as ours; and on the faces found each network alone.

    A round runs every way once and their order is turned from round to round; one before them warms up. Returns by way
    the faces/s (median of the rounds), and how often it is as fast as facenet-pytorch's detection.
    """
    torch.set_num_threads(threads)
    found = model.predict(files)
    faces = np.stack([face.aligned for face in found.faces if face.aligned is not None])
    images = [picture.image for picture in pictures(files) if picture.image is not None]
    shapes: dict[tuple[int, ...], list[np.ndarray]] = {}
    for image in images:
        shapes.setdefault(image.shape, []).append(image)
    mtcnn = MTCNN(keep_all=True, device=model.device)

    def facenet() -> None:
        for shape, group in shapes.items():
            side = min(shape[:2])
            mtcnn.min_face_size = max(SMALLEST, PIXELS / 320) * side
            for start in range(0, len(group), 32):
                mtcnn.detect(np.stack(group[start : start + 32]), landmarks=True)

    ways: dict[str, Callable[[], object]] = {
        "whole way": lambda: model.predict(files),
        "facenet-pytorch, detection alone": facenet,
        f"network alone, {model.about['model']['name']}": lambda: model.probabilities(faces),
    }
    for name, path in tools.items():
        tool = Model(path, str(model.device), threads)
        ways[f"network alone, {name}"] = lambda tool=tool: tool.probabilities(faces)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(-1, rounds):
        for way in np.roll(list(ways), -turn).tolist():
            start = time.perf_counter()
            ways[way]()
            if turn >= 0:
                seconds[way].append(time.perf_counter() - start)
    taken = pd.DataFrame(seconds)
    of_facenet = taken.rdiv(taken["facenet-pytorch, detection alone"], axis=0).median()
    table = pd.DataFrame({"faces/s": len(faces) / taken.median(), "of facenet-pytorch": of_facenet})
    table.attrs = {"faces": len(faces), "photos": len(images)}
    return table
