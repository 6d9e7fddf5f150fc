"""Image decoding: image files, and the pixel rows of fer2013.csv."""

import hashlib
import io
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from transfer.datasets.archives import Source
from transfer.datasets.text import csv_rows, split_path
from transfer.utils.errors import UserError
from transfer.utils.filetype import HEAD, looks_like

MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # of a progressive JPEG, which usually has ten
FER2013_SIZE = 48
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")  # Pillow knows 40 more; for EPS it would start a program
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_NO_RANGE = {"I": "32-bit integers", "F": "floating point numbers"}
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # the end of a JPEG's scan: RST0 to RST7 belong to it
_PROGRESSIVE, _START_OF_SCAN, _END_OF_IMAGE = 0xC2, 0xDA, 0xD9
# What a decoder that still waits for pixels takes for them, behind each of the marks that it may be waiting for.
_MORE = b"".join(bytes(i * 37 % 251 + 1 for i in range(256)) + bytes([0xFF, 0xD0 + k]) for k in range(8))


class BrokenImage(ValueError):
    """An image that cannot be decoded, with the reason."""


def decode(content: bytes) -> np.ndarray:
    """Decode an image file to RGB, uint8 (height, width, 3), upright by its EXIF orientation; or raise BrokenImage.

    docs/data.md has what becomes of each format and pixel mode.
    """
    return decode_oriented(content)[0]


def decode_oriented(content: bytes) -> tuple[np.ndarray, int]:
    """As `decode`, with the EXIF orientation (1 to 8) of the stored pixels."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about tags that decide nothing here, and large images
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise BrokenImage(f"{image.width}x{image.height} pixels; the limit is {MAX_PIXELS:,}")
            if image.mode in _NO_RANGE:
                raise BrokenImage(f"its pixels are {_NO_RANGE[image.mode]} without a known range; convert it to 8 bits")
            orientation = image.getexif().get(ExifTags.Base.Orientation)
            scans = _scans(content) if image.format in ("JPEG", "MPO") else []
            if len(scans) > MAX_SCANS:  # each of them passes over all pixels
                raise BrokenImage(f"a JPEG of {len(scans)} scans; the limit is {MAX_SCANS}")
            rgb = _rgb(ImageOps.exif_transpose(image))
            if scans and _is_cut(content, image, scans):
                raise BrokenImage("truncated: its data end before its last pixels")
            return np.array(rgb), next((k for k in range(2, 9) if k == orientation), 1)
    except BrokenImage:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged data
        kind = looks_like(content[:HEAD])
        if kind and not kind.endswith(" image"):
            raise BrokenImage(f"is {kind}, not an image") from error
        if isinstance(error, UnidentifiedImageError):  # its text has the memory address of the content
            raise BrokenImage("not an image that can be decoded, or damaged at its start") from error
        raise BrokenImage(" ".join(f"{type(error).__name__}: {error}".split())) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(((np.asarray(image) + np.uint32(128)) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")  # colours below transparent pixels are arbitrary
        opaque = Image.new("RGB", image.size, "black")
        opaque.paste(image, mask=image)
        return opaque
    return image.convert("RGB")


def _is_cut(content: bytes, image: Image.Image, scans: list[int]) -> bool:
    """Whether a JPEG (``image``: as decoded) ends before its last pixels, which libjpeg then fills without an error.

    Further data at the end of the last scan change the pixels of such a file, and of no other one. In a file of one
    scan the missing pixels are grey, so that most others need not be decoded again.
    """
    if len(scans) == 1 and image.mode in ("L", "RGB"):
        last = image.crop((image.width - 1, image.height - 1, image.width, image.height)).convert("L")
        if abs(int(np.asarray(last)[0, 0]) - 128) > 2:
            return False
    longer = Image.open(io.BytesIO(content[: scans[-1]] + _MORE + content[scans[-1] :]), formats=FORMATS)
    return longer.tobytes() != image.tobytes()


def _scans(content: bytes) -> list[int]:
    """Where each scan of a JPEG ends, one for most files; BrokenImage where a progressive one lacks some of them."""
    at, components = 2, 0
    ends, complete = list[int](), set[tuple[int, int]]()  # component and number of a coefficient with its last bit
    while (marker := _MARKER.match(content, at)) and marker[0][-1] != _END_OF_IMAGE:
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
        segment = content[marker.end() + 2 : at]
        if marker[0][-1] == _PROGRESSIVE:
            components = segment[5]
        elif marker[0][-1] == _START_OF_SCAN:
            first, last, bits = segment[-3:]
            if bits & 15 == 0:
                complete |= set(product(segment[1:-3:2], range(first, last + 1)))
            following = _MARKER.search(content, at)
            at = following.start() if following else len(content)
            ends.append(at)
    if len(complete) < 64 * components:
        raise BrokenImage("truncated: a progressive JPEG without its last scans")
    return ends


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


def stream_images(
    source: Source, paths: Sequence[str], orientations: dict[str, int] | None = None
) -> Iterator[tuple[int, np.ndarray | None, str]]:
    """Yield (position in ``paths``, image or None, error text) for every path, in the order of the storage.

    Images are RGB, uint8 (height, width, 3). ``paths`` are those of an index: names in ``source``, or
    ``<csv>#<0-based data row>``. A broken image is None, with the reason; a damaged archive raises UserError.
    ``orientations`` gets the EXIF orientation of each image, by its path, before the image is yielded.
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
                image, error, orientation = None, "", 1
                try:
                    image, orientation = decode_oriented(encoded) if row < 0 else (decode_pixels(encoded), 1)
                except BrokenImage as broken:
                    error = str(broken)
                if orientations is not None:
                    orientations[paths[rows[row][0]]] = orientation
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
