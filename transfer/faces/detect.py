"""MTCNN in batches: one box and five landmarks for every image, or the reason why there are none."""

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from transfer.datasets.archives import Source
from transfer.datasets.images import stream_images
from transfer.faces.align import BOX_COLUMNS, LANDMARK_COLUMNS
from transfer.faces.mtcnn import Cascade, Faces
from transfer.params import digest
from transfer.utils.code_digest import step_digest
from transfer.utils.environment import cores
from transfer.utils.files import atomic, sha256
from transfer.utils.progress import progress

_MAX_SIDE = 320
_STEP = 16  # canvases grow in steps, so that images of almost equal sizes share a batch


class Canvas(NamedTuple):
    """A scaled image, surrounded by its mean colour."""

    row: int
    """Number of the sample."""
    pixels: np.ndarray
    """(H, W, 3) uint8."""
    offset: np.ndarray
    """x and y of the scaled image inside the canvas."""
    scale: np.ndarray
    """Canvas pixels per image pixel, in x and in y."""
    size: np.ndarray
    """Width and height of the image."""

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """``points`` (..., 2) from the canvas's outer corner, as pixels of the image with centres at integers."""
        return (points - self.offset) / self.scale - 0.5


def place(row: int, image: np.ndarray, min_side: int, border: float) -> Canvas:
    """Put ``image`` (H, W, 3) uint8 onto a canvas.

    Its short side is enlarged to ``min_side`` pixels or reduced to 320; ``border`` is a fraction of it.
    """
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


_COLUMNS = {
    **{"row": "int64", "status": "str", "n_faces": "int64"},
    **dict.fromkeys([*BOX_COLUMNS, "probability", *LANDMARK_COLUMNS], "float64"),
    **{"width": "int64", "height": "int64", "error": "str"},
}

_PIXEL_BYTES = 64  # what a canvas pixel needs while its batch is searched, most of it for the table of sums
_BATCH_BYTES = {"cpu": 48_000_000, "cuda": 2_000_000_000}  # of one worker; larger ones are slower on a CPU
_PART_PIXELS = 32_000_000  # canvases of a part: 100 MB, and some seconds of work
_PART_IMAGES = 4096
_AHEAD = 2  # parts that are read and not yet done
_MIRRORED = [1, 0, 2, 4, 3]  # a mirrored left eye is a right eye


class Searched(NamedTuple):
    """What was found on a canvas."""

    faces: Faces
    mirrored: bool
    """Whether it was found only in the mirror image; ``faces`` are those of the canvas all the same."""


Batches = list[tuple[list[Canvas], Future[list[Searched]]]]


def detect(images: Iterable[tuple[int, np.ndarray | None, str]], samples: Sequence[str], **options) -> pd.DataFrame:
    """Find the face of every image; ``images`` and ``options`` are those of :func:`detect_parts`.

    Returns a table as :func:`assemble` makes it.
    """
    return assemble(list(detect_parts(images, **options)), samples)


def assemble(parts: Sequence[pd.DataFrame], samples: Sequence[str]) -> pd.DataFrame:
    """One table of all parts, a row per sample in the order of ``samples``.

    Its columns: sample, status ("found", "none", "broken"), n_faces, box, probability, five landmarks (pixels of the
    original image, pixel centres at integers), width, height, error. Of several faces it holds the one chosen by
    :func:`choose`; ``n_faces`` counts them all.
    """
    table = pd.concat([_frame([]), *parts], ignore_index=True).sort_values("row", ignore_index=True)
    table.insert(0, "sample", [samples[row] for row in table.pop("row")])
    return table


def detect_parts(
    images: Iterable[tuple[int, np.ndarray | None, str]],
    *,
    min_side: int = 96,
    border: float = 0.25,
    min_face: float = 0.25,
    threads: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Find the face of every image with MTCNN; yields a table for every few thousand images, in their order.

    ``images`` yields (number of the sample, RGB uint8 (H, W, 3) or None, error text); images of all sizes may be mixed.
    The short side of an image is enlarged to ``min_side`` pixels or reduced to 320; then ``border`` (fraction
    of the short side) of the image's mean colour is put around it, since MTCNN misses faces that fill the frame. Faces
    below ``min_face`` (fraction of the short side) are not looked for. Where nothing is found, the mirrored image is
    tried. ``progress`` is called with the number of images done so far.

    The parts, and the batches in them, depend on the images alone: not on the number of ``threads`` (None: one per
    core), and a run that begins after a part makes the same parts as one that began before it. Memory stays bounded.
    """
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        if progress:
            progress(done)

    with Searching(threads, device) as searching:
        ahead: deque[_Part] = deque()
        for part in _parts(images, min_side, border):
            part.batches = searching.start(part.canvases, min_face, border)
            ahead.append(part)
            if len(ahead) == _AHEAD:
                yield _finished(ahead.popleft(), count)
        while ahead:
            yield _finished(ahead.popleft(), count)


class _Part:
    """Images that are read together, searched in batches, and end up in one table."""

    def __init__(self) -> None:
        self.canvases: list[Canvas] = []
        self.pixels = 0  # of the canvases
        self.broken: list[tuple[int, str]] = []  # numbers of samples, and why
        self.batches: Batches = []

    def add(self, canvas: Canvas) -> None:
        self.canvases.append(canvas)
        self.pixels += canvas.pixels.shape[0] * canvas.pixels.shape[1]

    @property
    def full(self) -> bool:
        return self.pixels >= _PART_PIXELS or len(self.canvases) + len(self.broken) >= _PART_IMAGES


def _parts(images: Iterable[tuple[int, np.ndarray | None, str]], min_side: int, border: float) -> Iterator[_Part]:
    part = _Part()
    for row, image, error in images:
        if image is None:
            part.broken.append((row, error))
        else:
            part.add(place(row, image, min_side, border))
        if part.full:
            yield part
            part = _Part()
    if part.canvases or part.broken:
        yield part


def _finished(part: _Part, count: Callable[[int], None]) -> pd.DataFrame:
    """The table of a part, once its batches are searched; ``count`` is told how many images each of them had."""
    broken = {"status": "broken", "n_faces": 0, "width": 0, "height": 0}
    rows = [{"row": row, "error": error} | broken for row, error in part.broken]
    count(len(rows))
    for canvases, future in part.batches:
        rows += [_row(canvas, faces) for canvas, (faces, _) in zip(canvases, future.result(), strict=True)]
        count(len(canvases))
    return _frame(rows)


def _row(canvas: Canvas, faces: Faces) -> dict[str, object]:
    """The row of an image: its chosen face in pixels of the image."""
    size = dict(zip(("width", "height"), canvas.size.tolist(), strict=True))
    row = {"row": canvas.row, "status": "none", "n_faces": len(faces.boxes), "error": "", **size}
    if len(faces.boxes) == 0:
        return row
    # The first pixel is number 1 and begins at 0 from the outer corner; a last pixel x1 ends at x1.
    corners = canvas.to_image(faces.boxes[:, :4].reshape(-1, 2, 2) - [[1, 1], [0, 0]])
    k = choose(corners.reshape(-1, 4), *canvas.size)
    row |= {"status": "found", "probability": faces.boxes[k, 4]}
    row |= zip(BOX_COLUMNS, corners[k].ravel().tolist(), strict=True)
    row |= zip(LANDMARK_COLUMNS, canvas.to_image(faces.points[k]).ravel().tolist(), strict=True)
    return row


def _frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


class Searching:
    """Workers that search batches of canvases: one thread per core with one torch thread each, or a CUDA device.

    Independent batches keep all cores busy, where the threads of one small convolution mostly wait for each other; and
    what a batch gives does not depend on how many cores there are.
    """

    def __init__(self, threads: int | None = None, device: str = "cpu") -> None:
        """``threads`` None: one per core that this process may use."""
        self.cascade = Cascade(device)
        self._batch_pixels = _BATCH_BYTES[self.cascade.device.type] // _PIXEL_BYTES
        self.workers = (threads or cores()) if self.cascade.device.type == "cpu" else 1

    def __enter__(self) -> "Searching":
        """Start the workers."""
        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.workers, initializer=lambda: torch.set_num_threads(1))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them; batches that have not begun are not searched."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads_before)

    def start(self, canvases: Sequence[Canvas], min_face: float, border: float) -> Batches:
        """Begin to search canvases, in batches of equally large ones; returns the batches and what will be found."""
        return [
            (batch, self._pool.submit(search, self.cascade, batch, smallest_face(batch[0].pixels, min_face, border)))
            for batch in _batched(canvases, self._batch_pixels)
        ]


def smallest_face(pixels: np.ndarray, min_face: float, border: float) -> float:
    """The smallest face to look for in canvas pixels, from its fraction of the image's short side."""
    return min_face * min(pixels.shape[:2]) / (1 + 2 * border)


def search(cascade: Cascade, canvases: Sequence[Canvas], min_face: float) -> list[Searched]:
    """Faces of equally large canvases; where a canvas shows none, those of its mirror image, mirrored back."""
    pixels = np.stack([canvas.pixels for canvas in canvases])
    found = [Searched(faces, False) for faces in cascade.find(pixels, min_face)]
    missed = [i for i, (faces, _) in enumerate(found) if len(faces.boxes) == 0]
    if missed:
        width = pixels.shape[2]
        for i, (boxes, points) in zip(missed, cascade.find(pixels[missed, :, ::-1], min_face), strict=True):
            boxes[:, [0, 2]] = width + 1 - boxes[:, [2, 0]]
            points = points[:, _MIRRORED]
            points[..., 0] = width - points[..., 0]
            found[i] = Searched(Faces(boxes, points), len(boxes) > 0)
    return found


def _batched(canvases: Iterable[Canvas], pixels: int) -> Iterator[list[Canvas]]:
    """Batches of equally large canvases with at most this many pixels together, or one canvas."""
    groups: dict[tuple[int, ...], list[Canvas]] = defaultdict(list)
    for canvas in canvases:
        groups[canvas.pixels.shape].append(canvas)
    for (height, width, _), group in groups.items():
        size = max(1, pixels // (height * width))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def choose(boxes: np.ndarray, width: float, height: float) -> int:
    """Number of the face nearest the centre by area: the largest area minus twice the squared distance to the centre.

    ``boxes`` is (N, >=4) with x0, y0, x1, y1 in pixels of a ``width`` x ``height`` image.
    Source: facenet-pytorch, ``select_boxes(method="center_weighted_size")``.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    offset = (boxes[:, :2] + boxes[:, 2:4]) / 2 - np.array([width, height]) / 2
    return int(np.argmax(area - 2 * (offset**2).sum(axis=1)))


def detect_dataset(archive: Source, listed: pd.DataFrame, state: "DetectionState", **options) -> pd.DataFrame:
    """Find the face of every image of an index; a run that was killed goes on after its last whole part.

    ``listed`` is the index (sample, path), ``options`` are those of :func:`transfer.faces.detect.detect_parts`. Returns
    the table of :func:`transfer.faces.detect.assemble`, the same whether or not the run was interrupted.
    """
    parts = state.load()
    done = {row for part in parts for row in part["row"]}
    if done:
        print(f"continuing: {len(done):,} of {len(listed):,} images were searched before", file=sys.stderr, flush=True)
    # Without the images of whole parts the others come in the same order as before, and make the same parts.
    rest = [row for row in range(len(listed)) if row not in done]
    stream = stream_images(archive, listed["path"].iloc[rest].tolist())
    images = ((rest[position], image, error) for position, image, error in stream)
    with progress("detecting faces", len(rest)) as report:
        for part in detect_parts(images, progress=report, **options):
            state.save(len(parts), part)
            parts.append(part)
    return assemble(parts, listed["sample"].tolist())


def state_key(index_file: Path, archive: Path, search: Mapping[str, Any], device: str) -> str:
    """Digest of all that decides what a detection finds: index, archive, parameters, code, torch and device.

    Of the archive (or of the folder) only size and time of change count.
    """
    stat = archive.stat()
    source = [str(archive), stat.st_size, stat.st_mtime_ns]
    return digest(sha256(index_file), source, dict(search), step_digest("detect"), torch.__version__, device)


class DetectionState:
    """The finished parts of a detection, a file for each; ``key`` stands for images, parameters and code."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def load(self) -> list[pd.DataFrame]:
        """The parts before the first that is missing or damaged; all other files, such as those of other keys, go."""
        parts: list[pd.DataFrame] = []
        try:
            while self._file(len(parts)).exists():
                parts.append(pd.read_parquet(self._file(len(parts))))
        except Exception as error:  # pyarrow raises nearly anything on damaged data
            file = self._file(len(parts))
            print(f"{file}: damaged ({type(error).__name__}); detection goes on before it", file=sys.stderr)
        wanted = {self._file(number) for number in range(len(parts))}
        for file in self._files() - wanted:
            file.unlink()
        return parts

    def save(self, number: int, part: pd.DataFrame) -> None:
        """Write a part; after a kill the file is there as a whole or not at all."""
        with atomic(self._file(number)) as unfinished:
            part.to_parquet(unfinished, index=False)

    def remove(self) -> None:
        """Delete all parts: the detection is complete and written."""
        for file in self._files():
            file.unlink()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.key}-{number}.parquet"

    def _files(self) -> set[Path]:
        return set(self.folder.glob("*.parquet"))
