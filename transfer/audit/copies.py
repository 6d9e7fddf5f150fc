"""Copies of a picture: exact ones by digest, near and mirrored ones by perceptual hash and then by similarity."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import fft
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from transfer.params import SPLITS
from transfer.utils.environment import cores
from transfer.utils.files import atomic

SIDE = 96
"""Every image is compared at this size, squeezed to a square."""
THUMBNAIL = 32
# Hashed are the whole image and its four corners, each without a rim on two sides. Two crops of one photograph that lie
# up to two rims apart show the same in opposite corners. Each window is its columns and its rows.
_RIM = SIDE // 24
_WHOLE, _NEAR, _FAR = (0, SIDE), (0, SIDE - _RIM), (_RIM, SIDE)
_WINDOWS = [(_WHOLE, _WHOLE), (_NEAR, _NEAR), (_FAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR)]
_MIRROR = [0, 2, 1, 4, 3]
OPPOSITE = [0, 4, 3, 2, 1]
"""For each window of an image the window of its copy that it is compared with."""
HASHES = [f"hash_{window}" for window in range(len(_WINDOWS))]
MIRRORED = [f"mirrored_{window}" for window in range(len(_WINDOWS))]
_LOW = 8  # cosine coefficients per side of a hash

MAX_DISTANCE = 12
"""Pairs whose hashes differ in more of the 64 bits are not compared further."""
SIMILARITY = {"near": 0.75, "mirrored": 0.80}
"""Least similarity of a copy; higher for mirrored pairs, of which fewer are true."""
SIGMA = 2.0
"""Width of the blur that is subtracted, in pixels of the thumbnail: light, hair and skin make all faces alike."""
SHIFT = 3
"""Largest shift of a thumbnail against the other, in pixels."""
COLUMNS = ["sample_a", "split_a", "label_a", "sample_b", "split_b", "label_b"]
COLUMNS += ["kind", "distance", "similarity", "same_label"]
KINDS = {"drop_exact": ["exact"], "drop_near": ["exact", "near", "mirrored"]}
"""The kinds of copies that each value of `sampling.duplicates` removes."""
_ROWS, _OTHERS, _PAIRS = 16, 4096, 512  # sizes of the blocks: 16 x 4096 hashes and their counts stay in the cache
_AHEAD = 256  # blocks of rows that may be compared before their pairs are asked for
_NONE = np.empty((3, 0), np.int64)


def hash_images(
    images: Iterable[tuple[int, np.ndarray | None, str]],
    index: pd.DataFrame,
    thumbnails: str | Path,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Hash every image; return a row per row of ``index``, and write its thumbnail to the array file ``thumbnails``.

    ``images`` yields (row of ``index``, RGB uint8 (H, W, 3) or None, error text) in any order. Columns: sample, split,
    class_name; sha256 of the decoded pixels, empty for a broken image, with the reason in error; ``HASHES`` and
    ``MIRRORED``, perceptual hashes (uint64, 0 for a broken image) of the windows of the image and of its mirror image.
    Thumbnails, (N, 32, 32) uint8, are written one by one, to keep memory small.
    """
    table = index[["sample", "split", "class_name"]].reset_index(drop=True)
    digests, errors = [""] * len(table), [""] * len(table)
    hashes = np.zeros((len(table), 2 * len(_WINDOWS)), np.uint64)
    with atomic(thumbnails) as part:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(table), THUMBNAIL, THUMBNAIL))
        with open(part, "r+b") as handle:  # else a full disk would end the process in a write to the map (SIGBUS)
            os.posix_fallocate(handle.fileno(), 0, max(1, os.fstat(handle.fileno()).st_size))
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
    """Return the 64-bit hashes of the five windows of a picture (96, 96), and of its mirror image; (5,) uint64 each.

    As in pHash a bit says whether one of the 8 x 8 lowest cosine coefficients is above their median; pHash's reduction
    to 32 x 32 is left out, since it hardly changes these coefficients and takes most of the time.
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
    """Return the cosines of the lowest frequencies between two places of a side, as (8, 96); 0 outside."""
    place = np.arange(SIDE)
    phase = np.pi * (place - start + 0.5) / (stop - start)
    return np.where((place >= start) & (place < stop), np.cos(phase * np.arange(_LOW)[:, None]), 0).astype(np.float32)


_ROW_BASIS = np.stack([_cosines(*rows) for _, rows in _WINDOWS])
_COLUMN_BASIS = np.stack([_cosines(*columns).T for columns, _ in _WINDOWS])


def duplicates(
    hashes: pd.DataFrame,
    thumbnails: np.ndarray,
    others: pd.DataFrame | None = None,
    other_thumbnails: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Return the pairs of copies within one dataset, or between two; one row per pair, with the columns ``COLUMNS``.

    ``hashes`` and ``thumbnails`` are those of `hash_images`. kind is exact (the same pixels), near or mirrored; labels
    are class names. Within a dataset the first image of a pair comes first in train, val, test, and then in the index.
    Broken images have no copies.
    """
    within = others is None or other_thumbnails is None
    if others is None or other_thumbnails is None:
        others, other_thumbnails = hashes, thumbnails
    usable, other_usable = (np.flatnonzero(table["sha256"] != "") for table in (hashes, others))
    codes = pd.factorize(pd.concat([hashes["sha256"], others["sha256"]]))[0]
    first_code, second_code = codes[: len(hashes)][usable], codes[len(hashes) :][other_usable]

    found = [_exact(first_code, second_code, within)]
    own = hashes[HASHES].to_numpy(np.uint64)[usable]
    for kind, columns in (("near", HASHES), ("mirrored", MIRRORED)):
        theirs = others[[columns[window] for window in OPPOSITE]].to_numpy(np.uint64)[other_usable]
        offset = len(own) * (kind == "mirrored")
        for done, a, b, distance in close_pairs(own, theirs, MAX_DISTANCE, within):
            different = first_code[a] != second_code[b]
            a, b, distance = a[different], b[different], distance[different]
            second = other_thumbnails[other_usable[b]]
            some, of = np.unique(a, return_inverse=True)  # the pairs of a block share few first images
            alike = similarity(thumbnails[usable[some]], second[:, :, ::-1] if kind == "mirrored" else second, of)
            copies = alike >= SIMILARITY[kind]
            found.append(_pairs(a[copies], b[copies], kind, distance[copies], alike[copies]))
            progress(offset + done)
    # A symmetric face is alike both ways: the better one counts.
    pairs = pd.concat(found).sort_values(["a", "b", "similarity"], ascending=[True, True, False], kind="stable")
    pairs = pairs.drop_duplicates(["a", "b"], ignore_index=True)
    a, b = usable[pairs["a"]], other_usable[pairs["b"]]
    if within:
        rank = hashes["split"].map(SPLITS.index).to_numpy()
        swap = rank[a] > rank[b]
        a, b = np.where(swap, b, a), np.where(swap, a, b)
    for end, rows in (("a", hashes.iloc[a]), ("b", others.iloc[b])):
        names = [f"sample_{end}", f"split_{end}", f"label_{end}"]
        pairs[names] = rows[["sample", "split", "class_name"]].to_numpy(dtype=object)
    pairs["similarity"] = pairs["similarity"].round(3)
    pairs["same_label"] = pairs["label_a"] == pairs["label_b"]
    return pairs[COLUMNS]


def _exact(first: np.ndarray, second: np.ndarray, within: bool) -> pd.DataFrame:
    left = pd.DataFrame({"code": first, "a": np.arange(len(first))})
    right = pd.DataFrame({"code": second, "b": np.arange(len(second))})
    pairs = left.merge(right, on="code")
    if within:
        pairs = pairs[pairs["a"] < pairs["b"]]
    return _pairs(pairs["a"].to_numpy(), pairs["b"].to_numpy(), "exact", np.zeros(len(pairs)), np.ones(len(pairs)))


def _pairs(a: np.ndarray, b: np.ndarray, kind: str, distance: np.ndarray, alike: np.ndarray) -> pd.DataFrame:
    numbers = {"distance": distance.astype(np.int64), "similarity": alike.astype(np.float64)}
    return pd.DataFrame({"a": a.astype(np.int64), "b": b.astype(np.int64), "kind": kind, **numbers})


def close_pairs(
    first: np.ndarray, second: np.ndarray, limit: int, within: bool = False
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rows of ``first`` done, rows a, rows b, distances) of pairs that differ in at most ``limit`` bits.

    ``first`` (N, K) and ``second`` (M, K) are uint64, compared column by column; the least distance counts. ``within``:
    both are the same images, and only pairs with a < b are wanted. Memory is that of a block for each core.
    """
    columns = [np.ascontiguousarray(column) for column in second.T]

    def compare(start: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        rows = first[start : start + _ROWS]
        shape, found = (len(rows), _OTHERS), []
        differ, bits, least = np.empty(shape, np.uint64), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        for left in range(start + 1 if within else 0, len(second), _OTHERS):
            width = min(_OTHERS, len(second) - left)
            x, count, distance = differ[:, :width], bits[:, :width], least[:, :width]
            distance.fill(64)
            for own, column in zip(rows.T, columns, strict=True):
                np.bitwise_xor(own[:, None], column[left : left + width], out=x)
                np.bitwise_count(x, out=count)
                np.minimum(distance, count, out=distance)
            a, b = np.divmod(np.flatnonzero(distance <= limit), width)
            later = a + start < b + left if within else slice(None)
            found.append((a[later] + start, b[later] + left, distance[a[later], b[later]]))
        return found

    starts = range(0, len(first), _ROWS)
    with ThreadPoolExecutor(cores()) as pool:
        for ahead in range(0, len(starts), _AHEAD):
            part = starts[ahead : ahead + _AHEAD]
            for start, found in zip(part, pool.map(compare, part), strict=True):
                a, b, distance = (np.concatenate(arrays) for arrays in zip(*found, strict=True)) if found else _NONE
                for cut in range(0, max(len(a), 1), _PAIRS):
                    yield start, a[cut : cut + _PAIRS], b[cut : cut + _PAIRS], distance[cut : cut + _PAIRS]
    yield len(first), *_NONE


def similarity(first: np.ndarray, second: np.ndarray, of: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Return the normalised cross-correlation of pairs of thumbnails, the best over small shifts; 1 if the same.

    (N, 32, 32) uint8 each to (N,) float32; ``of`` says which of ``first`` each of ``second`` is compared with. What
    remains after subtracting a Gaussian blur counts, under a window that fades towards the edge. 0 for a single grey.
    """
    spectrum = _spectrum(first)[of] * _spectrum(second).conj()
    correlation = fft.irfft2(spectrum, s=(THUMBNAIL, THUMBNAIL))
    near = np.r_[0 : SHIFT + 1, -SHIFT:0]
    return correlation[:, near[:, None], near].max(axis=(1, 2), initial=0)


_BLUR = gaussian_filter1d(np.eye(THUMBNAIL), SIGMA, axis=0, mode="nearest", truncate=16).astype(np.float32)
"""The Gaussian blur along one side as a matrix; outside, the edge continues."""
_FADE = np.sqrt(np.hanning(THUMBNAIL + 2)[1:-1]).astype(np.float32)


def _spectrum(thumbnails: np.ndarray) -> np.ndarray:
    pictures = thumbnails.astype(np.float32)
    fine = (pictures - _BLUR @ pictures @ _BLUR.T) * np.outer(_FADE, _FADE)
    fine -= fine.mean(axis=(1, 2), keepdims=True)
    norm = np.linalg.norm(fine, axis=(1, 2), keepdims=True)
    return fft.rfft2(np.divide(fine, norm, out=np.zeros_like(fine), where=norm > 1))


def copy_groups(samples: Sequence[str] | pd.Series, pairs: pd.DataFrame, kinds: Sequence[str]) -> np.ndarray:
    """Return a group number (N,) int64 per sample, equal for all that ``pairs`` of these ``kinds`` link as copies."""
    pairs = pairs[pairs["kind"].isin(kinds)]
    names = pd.Index(pd.unique(pd.concat([pd.Series(samples), pairs["sample_a"], pairs["sample_b"]])))
    ends = names.get_indexer(pairs["sample_a"]), names.get_indexer(pairs["sample_b"])
    links = coo_array((np.ones(len(pairs), bool), ends), shape=(len(names), len(names)))
    return connected_components(links, directed=False)[1][names.get_indexer(samples)].astype(np.int64)
