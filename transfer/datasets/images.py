"""Image decoding: image files, and the pixel rows of fer2013.csv."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from transfer.datasets.archives import Source
from transfer.datasets.text import csv_rows, split_path
from transfer.utils.errors import UserError
from transfer.utils.filetype import HEAD, looks_like

MAX_PIXELS = 50_000_000
FER2013_SIZE = 48


class BrokenImage(ValueError):
    """An image that cannot be decoded, with the reason."""


def decode(content: bytes) -> np.ndarray:
    """Decode an image file to RGB, uint8 (height, width, 3), upright by its EXIF orientation; or raise BrokenImage."""
    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height <= MAX_PIXELS:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged data
        kind = looks_like(content[:HEAD])
        if kind and not kind.endswith(" image"):
            raise BrokenImage(f"is {kind}, not an image") from error
        raise BrokenImage(" ".join(f"{type(error).__name__}: {error}".split())) from error
    raise BrokenImage(f"{image.width}x{image.height} pixels; the limit is {MAX_PIXELS:,}")


def decode_pixels(text: str) -> np.ndarray:
    """Decode a pixel row of fer2013.csv, 2304 grey values separated by spaces, to RGB, uint8 (48, 48, 3)."""
    values = text.split()
    if len(values) != FER2013_SIZE**2:
        raise BrokenImage(f"{len(values)} pixels; expected {FER2013_SIZE**2}")
    try:
        grey = np.array(values, dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise BrokenImage("pixels are not whole numbers") from error
    if grey.min() < 0 or grey.max() > 255:
        raise BrokenImage("pixels are not from 0 to 255")
    return np.repeat(grey.astype(np.uint8).reshape(FER2013_SIZE, FER2013_SIZE, 1), 3, axis=2)


def stream_images(source: Source, paths: Sequence[str]) -> Iterator[tuple[int, np.ndarray | None, str]]:
    """Yield (position in ``paths``, image or None, error text) for every path, in the order of the storage.

    Images are RGB, uint8 (height, width, 3). ``paths`` are those of an index: names in ``source``, or
    ``<csv>#<0-based data row>``. A broken image is None, with the reason; a damaged archive raises UserError.
    """
    wanted: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position, path in enumerate(paths):
        name, row = split_path(path)
        wanted[name][-1 if row is None else row].append(position)
    for name, content in source.stream(wanted):
        rows = wanted[name]
        images: Iterable[tuple[int, Any]] = [(-1, content)]
        if -1 not in rows:
            images = _pixel_rows(f"{source.path}: {name}", content, max(rows))
        for row, encoded in images:
            if row in rows:
                image, error = None, ""
                try:
                    image = decode(encoded) if row < 0 else decode_pixels(encoded)
                except BrokenImage as broken:
                    error = str(broken)
                yield from ((position, image, error) for position in rows[row])


def _pixel_rows(where: str, content: bytes, last: int) -> Iterator[tuple[int, str]]:
    lines = csv_rows(where, content)
    header = next(lines, (0, []))[1]
    if "pixels" not in header:
        raise UserError(f"{where}, line 1: expected a header with the column pixels")
    column, row = header.index("pixels"), -1
    for row, (_, fields) in enumerate(lines):
        yield row, fields[column] if column < len(fields) else ""
    if last > row:
        raise UserError(f"{where}: has {row + 1} rows, row {last} is required; index the archive again if it changed")


class HashedSource:
    """A source that records the SHA-256 of every file it streams: ``sha256``, by name."""

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self.sha256: dict[str, str] = {}
        self._source = source

    def stream(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """As ``Source.stream``."""
        for name, content in self._source.stream(names):
            self.sha256[name] = hashlib.sha256(content).hexdigest()
            yield name, content
