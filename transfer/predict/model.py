"""A trained network with detection and alignment: from pictures to expressions."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from transfer.evaluation.network import load_model
from transfer.explain.diversity import lanet_maps, resized, transfer_only
from transfer.explain.relevance import relevance_maps
from transfer.faces.align import BOX_COLUMNS, placements, warp
from transfer.faces.detect import Canvas, DetectorPool, place
from transfer.faces.mtcnn import Faces
from transfer.params import FaceParams, TrainParams
from transfer.predict.pictures import FPS, Picture, pictures
from transfer.predict.results import Face, Photo, Results
from transfer.predict.tracks import tracked
from transfer.training.batches import normalize
from transfer.training.batches import resized as of_side
from transfer.training.device import choose_device, choose_precision
from transfer.training.loop import predict
from transfer.utils.environment import cores
from transfer.utils.errors import UserError

SMALLEST = 0.08
"""Side of the smallest face that is looked for, as a fraction of a picture's short side,"""
PIXELS = 24
"""but not below this many pixels of the canvas that is searched."""
SURE = 0.9
"""Least probability of a face; MTCNN's own threshold is 0.7."""
_CHUNK, _CHUNK_PIXELS, _BATCH = 64, 60_000_000, 256


class Found(NamedTuple):
    """The faces of a picture: boxes (k, 4), their probabilities (k,) and landmarks (k, 5, 2)."""

    boxes: np.ndarray
    probability: np.ndarray
    points: np.ndarray


class _Crop(NamedTuple):
    pixels: np.ndarray
    box: tuple[float, float, float, float]
    detection: float | None = None
    landmarks: np.ndarray | None = None


class Model:
    """A network and all that it needs around it. ``about`` is what its file says of itself.

    Pictures are aligned as its training data were. ``device``: auto (a GPU where there is one), cpu or cuda.
    Raises UserError for a file that is no model of this project.
    """

    def __init__(self, weights: Path, device: str = "auto", threads: int | None = None) -> None:
        self.weights = weights
        self.network, self.about = load_model(weights)
        self.device = choose_device(device)
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classes: list[str] = self.about["classes"]
        self.faces = FaceParams(**self.about["faces"])
        self.precision = choose_precision(TrainParams(), self.device)
        self._pool = DetectorPool(threads, str(self.device))

    def __repr__(self) -> str:
        name, run = self.about["model"]["name"], self.about.get("run") or self.weights.name
        return f"{name} of {run} ({self.about['protocol']}): {', '.join(self.classes)}; on {self.device}"

    def predict(self, images: Any, *, aligned: bool = False, attention: bool = False, fps: float = FPS) -> Results:
        """The faces of ``images`` and their expressions.

        ``images``: a path, folder, pattern, video, ``-`` (standard input), bytes, PIL image, array (H, W, 3) uint8 RGB,
        or a list of these; an array (N, S, S, 3) are aligned faces. ``aligned``: every picture is a face already.
        ``attention``: also where the network looked. Of videos ``fps`` frames per second. Raises UserError for what
        is not there, and for a picture that cannot be read; in a list or a folder that one is kept, with its error.
        """
        found = self.stream(pictures(images, fps), aligned=aligned, attention=attention)
        photos = Results((photo for _, photo in found), self.classes)
        if len(photos) == 1 and photos[0].error:
            raise UserError(f"{photos[0].name}: {photos[0].error}; give another image")
        return photos

    def stream(
        self, found: Iterable[Picture], *, aligned: bool = False, attention: bool = False
    ) -> Iterator[tuple[Picture, Photo]]:
        """Each picture with what is found in it; memory stays bounded. Raises UserError: no attention in this model."""
        if attention:
            transfer_only(self.network, self.weights)
        chunks = _chunks(found)
        pairs = (pair for chunk in chunks for pair in zip(chunk, self._photos(chunk, aligned, attention), strict=True))
        return tracked(pairs)

    def probabilities(self, faces: np.ndarray) -> np.ndarray:
        """Class probabilities (N, C) float32 of aligned faces (N, S, S, 3) uint8 of any side."""
        parts = (faces[start : start + _BATCH] for start in range(0, len(faces), _BATCH))
        return predict(self.network, (self.images(part) for part in parts), self.precision, self.about["hflip_tta"])

    def images(self, faces: np.ndarray) -> Tensor:
        """Aligned faces (N, S, S, 3) uint8 as the network is fed them: (N, 3, side, side), normalised."""
        side, mean, std = (self.about["model"][key] for key in ("img_size", "mean", "std"))
        shown = np.ascontiguousarray(faces if faces.shape[1] == side else of_side(faces, side))
        images = torch.from_numpy(shown).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        return normalize(images, mean, std)

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        """All faces of pictures (H, W, 3) uint8, the largest first."""
        search = self.faces.search()
        border, least = search["border"], search["min_side"]
        groups = defaultdict(list)
        for canvas in self._each(lambda row: place(row, images[row], least, border), range(len(images))):
            groups[min(canvas.size * canvas.scale)].append(canvas)
        found: dict[int, Found] = {}
        with self._pool as pool:
            started = [
                pool.start(group, min(search["min_face"], max(SMALLEST, PIXELS / side)), border)
                for side, group in groups.items()
            ]
            for batch, future in chain.from_iterable(started):
                for canvas, (faces, _) in zip(batch, future.result(), strict=True):
                    found[canvas.row] = _in_picture(canvas, faces)
        return [found[row] for row in range(len(images))]

    def _photos(self, chunk: Sequence[Picture], aligned: bool, attention: bool) -> list[Photo]:
        whole = aligned or self.faces.template == "none"
        searched = [None if whole or picture.aligned else picture.image for picture in chunk]
        found = iter(self.detect([image for image in searched if image is not None]))
        jobs = [
            (picture, None if image is None else next(found)) for picture, image in zip(chunk, searched, strict=True)
        ]
        crops = self._each(lambda job: self._crops(*job), jobs)
        every = [crop for part in crops for crop in part]
        faces = iter(self._faces(every, attention) if every else ())
        photos = []
        for picture, part in zip(chunk, crops, strict=True):
            height, width = (0, 0) if picture.image is None else picture.image.shape[:2]
            own = [next(faces) for _ in part]
            photos.append(Photo(picture.name, width, height, own, picture.error, picture.time))
        return photos

    def _crops(self, picture: Picture, found: Found | None) -> list[_Crop]:
        side, image = self.faces.size, picture.image
        if image is None:
            return []
        if found is None:
            fitted = ImageOps.fit(Image.fromarray(image), (side, side), Image.Resampling.BILINEAR)
            return [_Crop(np.asarray(fitted), (-0.5, -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5))]
        frame = pd.DataFrame(found.boxes, columns=BOX_COLUMNS)
        matrices = placements(found.points, frame, self.faces.template, side, self.faces.margin)
        return [
            _Crop(warp(image, matrix, side), tuple(box.tolist()), float(probability), points)
            for matrix, box, probability, points in zip(matrices, *found, strict=True)
        ]

    def _faces(self, crops: Sequence[_Crop], attention: bool) -> Iterator[Face]:
        pixels = np.stack([crop.pixels for crop in crops])
        probabilities = self.probabilities(pixels)
        best = probabilities.argmax(axis=1)
        maps = self._maps(pixels, best) if attention else repeat((None, None))
        for crop, of_face, k, (relevance, lanets) in zip(crops, probabilities.tolist(), best, maps, strict=False):
            named = dict(zip(self.classes, of_face, strict=True))
            where = crop.box, crop.detection, crop.landmarks
            yield Face(self.classes[k], of_face[k], named, *where, crop.pixels, relevance, lanets)

    def _maps(self, faces: np.ndarray, classes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Relevance for ``classes`` (N,), and the LANets' maps, of each face at its own side."""
        network, side = transfer_only(self.network, self.weights), faces.shape[1]
        for start in range(0, len(faces), 8):  # 0.2 GB per face
            part = slice(start, start + 8)
            images = self.images(faces[part])
            relevance = relevance_maps(network, images, torch.from_numpy(classes[part]), side)
            with torch.inference_mode():
                lanets = resized(lanet_maps(network, images), side)
            yield from zip(relevance.cpu().numpy(), lanets.cpu().numpy(), strict=True)

    def _each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        with ThreadPoolExecutor(cores()) as executor:
            return list(executor.map(function, items))


def _chunks(found: Iterable[Picture]) -> Iterator[list[Picture]]:
    chunk: list[Picture] = []
    size = 0
    for picture in found:
        chunk.append(picture)
        size += 0 if picture.image is None else picture.image.shape[0] * picture.image.shape[1]
        if len(chunk) == _CHUNK or size > _CHUNK_PIXELS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _in_picture(canvas: Canvas, faces: Faces) -> Found:
    """Faces of a canvas in pixels of its picture; the first pixel of a canvas is number 1, a last one ends at x1."""
    sure = faces.boxes[:, 4] >= SURE
    boxes = canvas.to_image(faces.boxes[sure, :4].reshape(-1, 2, 2) - [[1, 1], [0, 0]]).reshape(-1, 4)
    order = np.argsort((boxes[:, :2] - boxes[:, 2:]).prod(axis=1) * -1, kind="stable")
    return Found(boxes[order], faces.boxes[sure, 4][order], canvas.to_image(faces.points[sure])[order])
