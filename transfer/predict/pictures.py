"""Pictures from whatever names or holds them: files, folders, patterns, standard input, videos, arrays, PIL images.

Needs no torch, so that a wrong path costs no time.
"""

import glob
import io
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from transfer.datasets.images import BrokenImage, decode
from transfer.utils.environment import cores
from transfer.utils.errors import UserError

IMAGES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"))
VIDEOS = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ogv"))
STDIN = "-"
FPS = 2.0
"""Frames of a video that are looked at, per second."""


class Picture(NamedTuple):
    """An image (H, W, 3) uint8 RGB, upright; None where it cannot be read, with the reason."""

    name: str
    image: np.ndarray | None
    error: str = ""
    time: float | None = None
    """Seconds from the start of a video."""
    aligned: bool = False
    """The whole image is a face already."""


def pictures(inputs: Any, fps: float = FPS) -> Iterator[Picture]:
    """Each picture of ``inputs``: a path, URL-free pattern, folder, ``-``, bytes, array, PIL image, or a list of these.

    Paths are checked at once and files read as the iterator goes on, several at a time. An array (N, H, W, 3) and a
    file .npy of that shape are N aligned faces. Raises UserError: no such file, a URL, a folder without images.
    """
    several = isinstance(inputs, list | tuple)
    found = [one for item in (inputs if several else [inputs]) for one in _named(item)]
    if not found:
        raise UserError("no image is given; name files, folders or patterns")
    return _read(found, fps)


def _named(item: Any) -> list[Any]:
    if not isinstance(item, str | Path) or item == STDIN:
        return [item]
    text, path = str(item), Path(item)
    if "://" in text or text.startswith("data:"):
        raise UserError(f"{text}: a URL, and nothing is downloaded here; save the image and give its path")
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES | VIDEOS and file.is_file())
        if not inside:
            raise UserError(f"{path}: a folder without images; expected files such as .jpg or .png in it")
        return inside
    if path.exists():
        return [path]
    if glob.has_magic(text):
        if matching := sorted(glob.glob(text, recursive=True)):
            return [one for name in matching for one in _named(name)]
        raise UserError(f"{text}: no file matches this pattern; check the path")
    raise UserError(f"{text}: no such file; check the path")


def _read(items: Iterable[Any], fps: float) -> Iterator[Picture]:
    waiting: list[tuple[int, Any]] = []
    with ThreadPoolExecutor(cores()) as executor:
        for number, item in enumerate(items):
            several = _several(item, fps)
            if several is None:
                waiting.append((number, item))
            if waiting and (several is not None or len(waiting) == 2 * cores()):
                yield from executor.map(_one, waiting)
                waiting = []
            yield from several or ()
        yield from executor.map(_one, waiting)


def _several(item: Any, fps: float) -> Iterator[Picture] | None:
    """The pictures of a video or an array of aligned faces; None for what is one picture."""
    if isinstance(item, Path) and item.suffix.lower() in VIDEOS:
        return frames(item, fps)
    name = "faces"
    if isinstance(item, Path) and item.suffix == ".npy":
        name = item.name
        try:
            item = np.load(item, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{name}: not an aligned store ({error})") from None
        if item.dtype != np.uint8 or item.ndim != 4 or item.shape[1:] != (item.shape[1], item.shape[1], 3):
            raise UserError(f"{name}: expected uint8 (faces, size, size, 3), found {item.dtype} {item.shape}")
    if isinstance(item, np.ndarray) and item.ndim == 4:
        return (checked(f"{name}#{row}", face)._replace(aligned=True) for row, face in enumerate(item))
    return None


def _one(numbered: tuple[int, Any]) -> Picture:
    number, item = numbered
    name = "stdin" if isinstance(item, str) else str(item) if isinstance(item, Path) else f"image {number}"
    try:
        content = sys.stdin.buffer.read() if isinstance(item, str) else item
        content = content.read_bytes() if isinstance(content, Path) else content
        return checked(name, content)
    except OSError as error:
        return Picture(name, None, f"cannot be read ({error.strerror or error})")


def checked(name: str, content: Any) -> Picture:
    """A picture of the bytes of a file, a PIL image, or an array (H, W) or (H, W, 3 or 4) uint8."""
    try:
        if isinstance(content, bytes | bytearray | memoryview):
            if not len(content):
                raise BrokenImage("empty: no byte is there")
            return Picture(name, decode(bytes(content)))
        if not isinstance(content, Image.Image):
            content = np.asarray(content)
            if content.dtype != np.uint8 or content.ndim not in (2, 3) or not content.size:
                raise BrokenImage(f"expected uint8 height x width x 3, found {content.dtype} {content.shape}")
            if content.shape[2:] == (3,):
                return Picture(name, np.ascontiguousarray(content))
            content = Image.fromarray(content)
        file = io.BytesIO()  # through the one decoder, which knows every mode
        ImageOps.exif_transpose(content).save(file, "TIFF")
        return Picture(name, decode(file.getvalue()))
    except (BrokenImage, OSError, TypeError, ValueError, KeyError) as error:
        return Picture(name, None, " ".join(str(error).split()))


def frames(path: Path, fps: float) -> Iterator[Picture]:
    """Upright frames of a video, ``fps`` per second. Raises UserError: PyAV is missing, or the file holds none."""
    try:
        import av
    except ImportError:
        raise UserError(f"{path}: a video, which PyAV reads; pip install 'transfer-fer[video]'") from None
    due = 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: a file without pictures, such as a sound; give a video")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                time = frame.time or 0.0
                if time < due:
                    continue
                image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                due = max(due + 1 / fps, time)
                yield Picture(f"{path}@{time:.2f}s", np.ascontiguousarray(image), time=time)
    except av.FFmpegError as error:
        if due == 0:
            raise UserError(f"{path}: not a video that can be read ({error.strerror}); convert it to .mp4") from None
        print(f"{path}: damaged after {due:.1f} s ({error.strerror}); what comes before is used", file=sys.stderr)
    if due == 0:
        raise UserError(f"{path}: a video without frames; record it again, or give another")
