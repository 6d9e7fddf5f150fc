"""Image decoding: image files, and the pixel rows of fer2013.csv."""

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from simplejpeg import decode_jpeg

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
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


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
            if image.format in _CHECKS:
                _CHECKS[image.format](content)
            rgb = _rgb(ImageOps.exif_transpose(image))
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


def _check_jpeg(content: bytes) -> None:
    """BrokenImage where the data of a JPEG end before its last pixels, or decode to nothing: Pillow hides both.

    Only the averages of blocks are computed, in a tenth of the time of all pixels.
    """
    _check_scans(content)
    try:
        decode_jpeg(content, "GRAY", min_height=1, min_width=1)
    except ValueError as error:
        raise BrokenImage(f"truncated or damaged ({error})") from error


def _check_scans(content: bytes) -> None:
    """BrokenImage for a JPEG of too many scans, and for a progressive one that lacks some of them."""
    at, components, scans = 2, 0, 0
    complete = set[tuple[int, int]]()  # component and number of a coefficient with its last bit
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
            at, scans = following.start() if following else len(content), scans + 1
    if scans > MAX_SCANS:  # each of them passes over all pixels
        raise BrokenImage(f"a JPEG of {scans} scans; the limit is {MAX_SCANS}")
    if len(complete) < 64 * components:
        raise BrokenImage("truncated: a progressive JPEG without its last scans")


def _check_png(content: bytes) -> None:
    """BrokenImage where the rows of a PNG are not all there, or are not those of their checksum: Pillow asks neither.

    Source: PNG specification, sections 5.3 (chunks), 8.2 (Adam7) and 10.1 (Adler-32).
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    bits = depth * _CHANNELS[colour]
    left = sum(h * (1 + -(-w * bits // 8)) for w, h in sides if w > 0)
    at, rows = 8, zlib.decompressobj()
    while at < len(content) and left >= 0 and not rows.eof:
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        if kind == b"IDAT":
            left -= len(rows.decompress(content[at + 8 : at + 8 + size], left + 1))
        at += size + 12
    if left or not rows.eof:
        raise BrokenImage("truncated or damaged: its data are not those of all its pixels")


_CHECKS = {"JPEG": _check_jpeg, "MPO": _check_jpeg, "PNG": _check_png}


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
