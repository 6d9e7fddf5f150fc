"""MTCNN in batches: one box and five landmarks for every image, or the reason why there are none."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from PIL import Image

from transfer.datasets.archives import Source
from transfer.datasets.images import stream_images
from transfer.faces.align import BOX_COLUMNS, LANDMARK_COLUMNS, Images
from transfer.faces.mtcnn import Cascade, Faces
from transfer.params import digest
from transfer.utils.code_digest import step_digest
from transfer.utils.digests import contents
from transfer.utils.environment import cores
from transfer.utils.files import atomic, sha256
from transfer.utils.progress import progress

PART_PIXELS = 32_000_000  # canvases of a part: 100 MB, and some seconds of work
PART_IMAGES = 4096
BATCH_BYTES = {"cpu": 48_000_000, "cuda": 2_000_000_000}  # of one worker; larger ones are slower on a CPU
_PIXEL_BYTES = 64  # what a canvas pixel needs while its batch is searched, most of it for the summed-area table
_MAX_SIDE = 320
_STEP = 16  # canvases grow in steps, so that images of almost equal sizes share a batch
_MIRRORED = [1, 0, 2, 4, 3]  # a mirrored left eye is a right eye

_NO_SIZE = {"width": 0, "height": 0, "orientation": 1}

Row = dict[str, Any]
Batches = list[tuple[list["Canvas"], Future[list["Detection"]]]]
_COLUMNS = {
    **{"row": "int64", "status": "str", "n_faces": "int64"},
    **dict.fromkeys([*BOX_COLUMNS, "probability", *LANDMARK_COLUMNS], "float64"),
    **{"width": "int64", "height": "int64", "orientation": "int64", "error": "str"},
}


def detect_dataset(archive: Source, index: pd.DataFrame, state: "DetectionState", **options: Any) -> pd.DataFrame:
    """The table of :func:`detect` for the images of ``index``; a run that was killed continues after its last part."""
    parts = state.load()
    done = {row for part in parts for row in part["row"]}
    if done:
        print(f"continuing: {len(done):,} of {len(index):,} images are done", file=sys.stderr, flush=True)
    # Without the images of whole parts the others come in the same order as before, and make the same parts.
    rest = [row for row in range(len(index)) if row not in done]
    orientations: dict[str, int] = {}
    stream = stream_images(archive, index["path"].iloc[rest].tolist(), orientations)
    images = ((rest[position], image, error) for position, image, error in stream)
    with progress("detecting faces", len(rest)) as report:
        for part in detect_parts(images, progress=report, **options):
            part["orientation"] = index["path"].iloc[part["row"]].map(orientations).to_numpy()
            state.save(len(parts), part)
            parts.append(part)
    return _assemble(parts, index["sample"].tolist())


def detect(images: Images, samples: Sequence[str], **options: Any) -> pd.DataFrame:
    """Find the face of every image; ``images`` and ``options`` are those of :func:`detect_parts`.

    Returns a row per sample, in the order of ``samples``: sample, status ("found", "none", "broken"), n_faces, box,
    probability, five landmarks (pixels of the upright image, pixel centres at integers), width, height, error, and
    the EXIF orientation of the stored pixels (1 but from :func:`detect_dataset`). Of several faces it holds the one
    chosen by :func:`choose`; ``n_faces`` counts them all.
    """
    return _assemble(detect_parts(images, **options), samples)


def _assemble(parts: Iterable[pd.DataFrame], samples: Sequence[str]) -> pd.DataFrame:
    none = pd.DataFrame([], columns=list(_COLUMNS)).astype(_COLUMNS)
    table = pd.concat([none, *parts], ignore_index=True).sort_values("row", ignore_index=True)
    table.insert(0, "sample", [samples[row] for row in table.pop("row")])
    return table


def detect_parts(
    images: Images,
    *,
    min_side: int = 96,
    border: float = 0.25,
    min_face: float = 0.25,
    threads: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Find the face of every image with MTCNN; yields a table for every few thousand images, in their order.

    ``images`` yields (row, RGB uint8 (H, W, 3) or None, error text); images of all sizes may be mixed. The short side
    of an image is enlarged to ``min_side`` pixels or reduced to 320; then ``border`` (fraction of the short side) of
    the image's mean colour is put around it, since MTCNN misses faces that fill the frame. Faces below ``min_face``
    (fraction of the short side) are not looked for. Where nothing is found, the mirrored image is tried. ``progress``
    is called with the number of images done so far.

    Parts and batches depend on the images alone: not on the number of ``threads`` (None: one per core), nor on where
    an interrupted run continued. Memory stays bounded.
    """
    done = 0
    with DetectorPool(threads, device) as pool:
        parts = _parts(images, min_side, border)
        started = ((broken, pool.start(canvases, min_face, border)) for canvases, broken in parts)
        # A part is read while the one before it is searched.
        for (rows, batches), _ in pairwise(chain(started, [([], [])])):
            done += len(rows)
            for batch, future in batches:
                rows += [_row(canvas, faces) for canvas, (faces, _) in zip(batch, future.result(), strict=True)]
                done += len(batch)
                if progress:
                    progress(done)
            yield pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


def _parts(images: Images, min_side: int, border: float) -> Iterator[tuple[list["Canvas"], list[Row]]]:
    """Images that end up in one table: their canvases, and the rows of the broken ones."""
    canvases, broken, pixels = [], [], 0
    for row, image, error in images:
        if image is None:
            broken.append({"row": row, "status": "broken", "error": error, "n_faces": 0, **_NO_SIZE})
        else:
            canvases.append(place(row, image, min_side, border))
            pixels += canvases[-1].pixels[..., 0].size
        if pixels >= PART_PIXELS or len(canvases) + len(broken) >= PART_IMAGES:
            yield canvases, broken
            canvases, broken, pixels = [], [], 0
    if canvases or broken:
        yield canvases, broken


def _row(canvas: "Canvas", faces: Faces) -> Row:
    size = dict(zip(("width", "height"), canvas.size.tolist(), strict=True))
    row = {"row": canvas.row, "status": "none", "n_faces": len(faces.boxes), "error": "", "orientation": 1, **size}
    if len(faces.boxes) == 0:
        return row
    # The first pixel is number 1 and begins at 0 from the outer corner; a last pixel x1 ends at x1.
    corners = canvas.to_image(faces.boxes[:, :4].reshape(-1, 2, 2) - [[1, 1], [0, 0]])
    k = choose(corners.reshape(-1, 4), *canvas.size)
    row |= {"status": "found", "probability": faces.boxes[k, 4]}
    row |= zip(BOX_COLUMNS, corners[k].ravel().tolist(), strict=True)
    row |= zip(LANDMARK_COLUMNS, canvas.to_image(faces.points[k]).ravel().tolist(), strict=True)
    return row


def choose(boxes: np.ndarray, width: float, height: float) -> int:
    """Number of the face nearest the centre by area: the largest area minus twice the squared distance to the centre.

    ``boxes`` is (N, >=4) with x0, y0, x1, y1 in pixels of a ``width`` x ``height`` image.
    Source: facenet-pytorch, ``select_boxes(method="center_weighted_size")``.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    offset = (boxes[:, :2] + boxes[:, 2:4]) / 2 - np.array([width, height]) / 2
    return int(np.argmax(area - 2 * (offset**2).sum(axis=1)))


class Canvas(NamedTuple):
    """A scaled image, surrounded by its mean colour."""

    row: int
    pixels: np.ndarray  # (H, W, 3) uint8
    offset: np.ndarray  # x and y of the scaled image inside the canvas
    scale: np.ndarray  # canvas pixels per image pixel, in x and in y
    size: np.ndarray  # width and height of the image

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """``points`` (..., 2) from the canvas's outer corner, as pixels of the image with centres at integers."""
        return (points - self.offset) / self.scale - 0.5


def place(row: int, image: np.ndarray, min_side: int, border: float) -> Canvas:
    """Put ``image`` (H, W, 3) uint8 onto a canvas, see :func:`detect_parts`."""
    size = np.array([image.shape[1], image.shape[0]])
    scale = np.clip(size.min(), min_side, _MAX_SIDE) / size.min()
    scale = min(scale, 4 * _MAX_SIDE / size.max())  # a ribbon of 10 x 5000 pixels must not become a giant
    scaled = np.maximum(np.rint(size * scale), 1).astype(int)
    pixels = np.asarray(Image.fromarray(image).resize(tuple(scaled.tolist()), Image.Resampling.BICUBIC))
    around = round(border * scaled.min())
    width, height = -(-(scaled + 2 * around) // _STEP) * _STEP
    offset = (np.array([width, height]) - scaled) // 2
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.rint(pixels.mean(axis=(0, 1)))
    canvas[offset[1] : offset[1] + scaled[1], offset[0] : offset[0] + scaled[0]] = pixels
    return Canvas(row, canvas, offset, scaled / size, size)


class Detection(NamedTuple):
    """The faces of a canvas; ``mirrored``: found only in its mirror image."""

    faces: Faces
    mirrored: bool


class DetectorPool:
    """Workers that search batches of canvases: one thread per core with one torch thread each, or a CUDA device.

    The threads of one small convolution would mostly wait for each other.
    """

    def __init__(self, threads: int | None = None, device: str = "cpu") -> None:
        self.cascade = Cascade(device)
        self.workers = (threads or cores()) if self.cascade.device.type == "cpu" else 1

    def __enter__(self) -> Self:
        self._threads_before = torch.get_num_threads()
        self._executor = ThreadPoolExecutor(self.workers, initializer=lambda: torch.set_num_threads(1))
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads_before)

    def start(self, canvases: Iterable[Canvas], min_face: float, border: float) -> Batches:
        """Begin to search canvases, in batches of equal size that fit into the memory of a worker."""
        groups: dict[tuple[int, ...], list[Canvas]] = defaultdict(list)
        for canvas in canvases:
            groups[canvas.pixels.shape].append(canvas)
        batches: Batches = []
        for (height, width, _), group in groups.items():
            size = max(1, BATCH_BYTES[self.cascade.device.type] // _PIXEL_BYTES // (height * width))
            smallest = smallest_face(group[0].pixels, min_face, border)
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                batches.append((batch, self._executor.submit(search, self.cascade, batch, smallest)))
        return batches


def smallest_face(pixels: np.ndarray, min_face: float, border: float) -> float:
    """``min_face``, a fraction of the image's short side, in pixels of the canvas."""
    return min_face * min(pixels.shape[:2]) / (1 + 2 * border)


def search(cascade: Cascade, canvases: Sequence[Canvas], min_face: float) -> list[Detection]:
    """Faces of equally large canvases; where a canvas shows none, those of its mirror image, mirrored back."""
    pixels = np.stack([canvas.pixels for canvas in canvases])
    found = [Detection(faces, False) for faces in cascade.find(pixels, min_face)]
    missed = [i for i, (faces, _) in enumerate(found) if len(faces.boxes) == 0]
    if missed:
        width = pixels.shape[2]
        for i, (boxes, points) in zip(missed, cascade.find(pixels[missed, :, ::-1], min_face), strict=True):
            boxes[:, [0, 2]] = width + 1 - boxes[:, [2, 0]]
            points = points[:, _MIRRORED]
            points[..., 0] = width - points[..., 0]
            found[i] = Detection(Faces(boxes, points), len(boxes) > 0)
    return found


def state_key(index_file: Path, archive: Path, search: Mapping[str, Any], device: str) -> str:
    """Digest of all that decides what a detection finds; of the archive, what is in it."""
    code = step_digest("detect")
    return digest(sha256(index_file), contents(archive), dict(search), code, torch.__version__, device)


@dataclass
class DetectionState:
    """The finished parts of a detection, one file each; ``key`` is that of :func:`state_key`."""

    folder: Path
    key: str

    def load(self) -> list[pd.DataFrame]:
        """The parts before the first that is missing or damaged; all other files, also those of other keys, go."""
        parts: list[pd.DataFrame] = []
        while (file := self._file(len(parts))).exists():
            try:
                parts.append(pd.read_parquet(file))
            except Exception as error:  # pyarrow raises nearly anything on damaged data
                print(f"{file}: damaged ({type(error).__name__}); detection restarts before it", file=sys.stderr)
                break
        self._clear(keep=len(parts))
        return parts

    def save(self, number: int, part: pd.DataFrame) -> None:
        """Write a part; after a kill the file is there as a whole or not at all."""
        with atomic(self._file(number)) as unfinished:
            part.to_parquet(unfinished, index=False)

    def remove(self) -> None:
        """Delete all parts: the detection is complete and written."""
        self._clear()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.key}-{number}.parquet"

    def _clear(self, keep: int = 0) -> None:
        for file in set(self.folder.glob("*.parquet")) - {self._file(number) for number in range(keep)}:
            file.unlink()
