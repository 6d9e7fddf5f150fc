"""All pairs of copies: exact ones by digest, near and mirrored ones by hash and then by similarity."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from transfer.audit.hashes import HASHES, MIRRORED, OPPOSITE
from transfer.audit.similarity import similarity
from transfer.params import SPLITS

MAX_DISTANCE = 12
"""Pairs whose hashes differ in more of the 64 bits are not looked at."""
SIMILARITY = {"near": 0.75, "mirrored": 0.80}
"""What the similarity has to reach. Mirrored copies are rare, so that chance has the larger part in what is alike."""
COLUMNS = ["sample_a", "split_a", "label_a", "sample_b", "split_b", "label_b"]
COLUMNS += ["kind", "distance", "similarity", "same_label"]
_ROWS, _OTHERS, _PAIRS = 128, 4096, 512


def duplicates(
    hashes: pd.DataFrame,
    thumbnails: np.ndarray,
    others: pd.DataFrame | None = None,
    other_thumbnails: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """The pairs of copies within one dataset, or between two; one row per pair, with the columns ``COLUMNS``.

    ``hashes`` and ``thumbnails`` are those of `hash_images`. kind is exact (the same pixels), near or mirrored;
    distance is the number of differing bits (0 for exact), similarity that of `transfer.audit.similarity` (1 for
    exact); labels are class names. Within a dataset the pair's first part is the one that comes first in train, val,
    test, and then in the index. Broken images have no copies.
    """
    within = others is None
    if within:
        others, other_thumbnails = hashes, thumbnails
    usable, other_usable = (np.flatnonzero(table["sha256"] != "") for table in (hashes, others))
    codes = pd.factorize(pd.concat([hashes["sha256"], others["sha256"]]))[0]
    first_code, second_code = codes[: len(hashes)][usable], codes[len(hashes) :][other_usable]

    found = [_exact(first_code, second_code, within)]
    for kind, columns in (("near", HASHES), ("mirrored", MIRRORED)):
        own = hashes[HASHES].to_numpy(np.uint64)[usable]
        their = others[[columns[window] for window in OPPOSITE]].to_numpy(np.uint64)[other_usable]
        offset = len(own) * (kind == "mirrored")
        for done, a, b, distance in close_pairs(own, their, MAX_DISTANCE, within):
            different = first_code[a] != second_code[b]
            a, b, distance = a[different], b[different], distance[different]
            second = other_thumbnails[other_usable[b]]
            alike = similarity(thumbnails[usable[a]], second[:, :, ::-1] if kind == "mirrored" else second)
            copies = alike >= SIMILARITY[kind]
            found.append(_frame(a[copies], b[copies], kind, distance[copies], alike[copies]))
            progress(offset + done)
    pairs = pd.concat(found, ignore_index=True)
    # A symmetric face is alike both ways: the better way counts.
    pairs = pairs.sort_values(["a", "b", "similarity"], ascending=[True, True, False], kind="stable")
    pairs = pairs.drop_duplicates(["a", "b"], ignore_index=True)
    a, b = usable[pairs["a"]], other_usable[pairs["b"]]
    if within:
        rank = hashes["split"].map(SPLITS.index).to_numpy()
        swap = rank[a] > rank[b]
        a, b = np.where(swap, b, a), np.where(swap, a, b)
    return _named(pairs, hashes.iloc[a], others.iloc[b])


def close_pairs(
    first: np.ndarray, second: np.ndarray, limit: int, within: bool = False
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rows of ``first`` done, rows a, rows b, distances) of all pairs whose hashes differ in at most ``limit``
    bits in one of the columns, block by block.

    ``first`` is (N, K) uint64, ``second`` (M, K); column k is compared with column k, and the least distance counts.
    ``within``: both are the same images, and only pairs with a < b are wanted. Memory is that of a block.
    """
    columns = [np.ascontiguousarray(column) for column in second.T]
    for start in range(0, len(first), _ROWS):
        rows = first[start : start + _ROWS]
        for left in range(start + 1 if within else 0, len(second), _OTHERS):
            distance = np.full((len(rows), len(columns[0][left : left + _OTHERS])), 64, np.uint8)
            for own, column in zip(rows.T, columns, strict=True):
                bits = np.bitwise_count(own[:, None] ^ column[left : left + _OTHERS])
                np.minimum(distance, bits, out=distance)
            a, b = np.divmod(np.flatnonzero(distance <= limit), distance.shape[1])
            if within:
                later = a + start < b + left
                a, b = a[later], b[later]
            for cut in range(0, len(a), _PAIRS):
                part = slice(cut, cut + _PAIRS)
                yield start, a[part] + start, b[part] + left, distance[a[part], b[part]]
    yield len(first), *np.empty((3, 0), np.int64)


def _exact(first: np.ndarray, second: np.ndarray, within: bool) -> pd.DataFrame:
    left = pd.DataFrame({"code": first, "a": np.arange(len(first))})
    right = pd.DataFrame({"code": second, "b": np.arange(len(second))})
    pairs = left.merge(right, on="code")
    if within:
        pairs = pairs[pairs["a"] < pairs["b"]]
    return _frame(pairs["a"].to_numpy(), pairs["b"].to_numpy(), "exact", 0, 1.0)


def _frame(a: np.ndarray, b: np.ndarray, kind: str, distance: np.ndarray | int, alike: np.ndarray | float):
    return pd.DataFrame(
        {
            "a": a.astype(np.int64),
            "b": b.astype(np.int64),
            "kind": kind,
            "distance": np.broadcast_to(distance, a.shape).astype(np.int64),
            "similarity": np.broadcast_to(alike, a.shape).astype(np.float64),
        }
    )


def _named(pairs: pd.DataFrame, first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """``pairs`` with the names, splits and labels of the two images instead of their row numbers."""
    ends = {
        f"{name}_{end}": table[column].to_numpy()
        for end, table in (("a", first), ("b", second))
        for name, column in (("sample", "sample"), ("split", "split"), ("label", "class_name"))
    }
    named = pairs.assign(**ends, similarity=pairs["similarity"].round(3))
    named["same_label"] = named["label_a"] == named["label_b"]
    return named[COLUMNS]
