"""What copies are found by: a digest of the pixels, perceptual hashes, and a grey thumbnail of every image."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from transfer.files import atomic

SIDE = 96
"""Every image is compared at this size, squeezed to a square."""
THUMBNAIL = 32
_RIM = SIDE // 24
_LOW = 8
# Hashed are the whole image and its four corners, without a rim on the two other sides. Two cuts of one photograph that
# lie up to two rims apart show the same in opposite corners. Each window is its columns and its rows.
_WHOLE, _NEAR, _FAR = (0, SIDE), (0, SIDE - _RIM), (_RIM, SIDE)
_WINDOWS = [(_WHOLE, _WHOLE), (_NEAR, _NEAR), (_FAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR)]
_MIRROR = [0, 2, 1, 4, 3]
OPPOSITE = [0, 4, 3, 2, 1]
"""For each window of an image the window of its copy that is compared with it."""
HASHES = [f"hash_{window}" for window in range(len(_WINDOWS))]
MIRRORED = [f"mirrored_{window}" for window in range(len(_WINDOWS))]


def hash_images(
    images: Iterable[tuple[int, np.ndarray | None, str]],
    index: pd.DataFrame,
    thumbnails: str | Path,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Hash every image; one row per row of ``index``, and its thumbnail in the array file ``thumbnails``.

    ``images`` yields (row of ``index``, RGB uint8 (H, W, 3) or None, error text) in any order. Returns the columns
    sample, split, class_name; sha256 of the decoded pixels, empty for a broken image, with the reason in error;
    and ``HASHES`` and ``MIRRORED``, 64-bit perceptual hashes (uint64, 0 for a broken image) of the windows of the
    image and of its mirror image. Writes (N, 32, 32) uint8 row by row, so that memory stays small.
    """
    table = index[["sample", "split", "class_name"]].reset_index(drop=True)
    digests, errors = [""] * len(table), [""] * len(table)
    hashes = np.zeros((len(table), 2 * len(_WINDOWS)), np.uint64)
    with atomic(thumbnails) as part:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(table), THUMBNAIL, THUMBNAIL))
        for done, (row, image, error) in enumerate(images, 1):
            if image is None:
                errors[row] = error
            else:
                digests[row] = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
                grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                array[row] = np.asarray(grey.reduce(SIDE // THUMBNAIL))
                hashes[row] = np.concatenate(perceptual_hashes(np.asarray(grey)))
            progress(done)
        array.flush()
        del array
    table["sha256"], table["error"] = digests, errors
    table[HASHES + MIRRORED] = hashes
    return table


def perceptual_hashes(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 64-bit hashes of the five windows of a picture, and of its mirror image; (5,) uint64 each.

    ``grey`` is (96, 96). A bit says whether one of the 8 x 8 lowest coefficients of the window's cosine transform is
    above their median, as in the hash that is known as pHash; there the window is first reduced to 32 x 32, which is
    left out here, since the lowest coefficients hardly see it and it takes most of the time.
    """
    coefficients = _ROW_BASIS @ grey.astype(np.float32) @ _COLUMN_BASIS
    # In a mirror image the cosines of odd frequency change their sign, and left and right windows change places.
    mirrored = coefficients[_MIRROR] * np.where(np.arange(_LOW) % 2, -1, 1)
    return _bits(coefficients), _bits(mirrored)


def _bits(coefficients: np.ndarray) -> np.ndarray:
    flat = coefficients.reshape(len(coefficients), _LOW**2)
    above = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(above, axis=1).view(np.uint64)[:, 0]


def _cosines(start: int, stop: int) -> np.ndarray:
    """The cosines of the lowest frequencies between two places of a side, as (8, 96); 0 outside."""
    place = np.arange(SIDE)
    phase = np.pi * (place - start + 0.5) / (stop - start)
    return np.where((place >= start) & (place < stop), np.cos(phase * np.arange(_LOW)[:, None]), 0).astype(np.float32)


_ROW_BASIS = np.stack([_cosines(*rows) for _, rows in _WINDOWS])
_COLUMN_BASIS = np.stack([_cosines(*columns).T for columns, _ in _WINDOWS])
