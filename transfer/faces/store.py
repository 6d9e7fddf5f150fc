"""The aligned store: one uint8 array on disk, its manifest, and the digests of the faces that are evaluated on."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from transfer.utils.errors import UserError

EVALUATION_COLUMNS = ["sample", "split", "label", "class_name", "sha256", "source_sha256"]


@contextmanager
def store_writer(path: Path, rows: int, size: int) -> Iterator["StoreWriter"]:
    """Open ``path`` as a (rows, size, size, 3) uint8 .npy file; rows that are not written are zeros.

    Plain writes: pages written through a memory map count as the process's own memory until the kernel has put them
    onto the disk, 10 GB for AffectNet.
    """
    shape = (rows, size, size, 3)
    with open(path, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        offset = handle.tell()
        handle.truncate(offset + int(np.prod(shape)))
        yield StoreWriter(handle, offset, shape[1:])


@dataclass
class StoreWriter:
    """Rows of a .npy file, written where they belong; see :func:`store_writer`."""

    handle: BinaryIO
    offset: int
    row_shape: tuple[int, ...]

    def __setitem__(self, row: int, face: np.ndarray) -> None:
        """Write one face; ValueError for another shape or type."""
        if face.shape != self.row_shape or face.dtype != np.uint8:
            raise ValueError(f"a row of the store is uint8 {self.row_shape}, not {face.dtype} {face.shape}")
        self.handle.seek(self.offset + int(row) * face.nbytes)
        self.handle.write(np.ascontiguousarray(face).data)


def check_store(path: Path, aligned: pd.DataFrame, faces: int | None = None) -> None:
    """Check the shape of the store ``path`` and the hash of every test face; UserError with the first that differs.

    ``aligned`` is indexed by the rows of the store, and may be a subset of the manifest; ``faces`` is the number of
    rows of the whole manifest.
    """
    faces = len(aligned) if faces is None else faces
    again = "make it again with transfer align, or delete it and run snakemake"
    absent = [name for name in EVALUATION_COLUMNS if name not in aligned.columns]
    if absent:
        raise UserError(f"{path.with_suffix('.parquet')}: no column {absent[0]}; {again}")
    try:
        pixels = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not an aligned store ({error}); {again}") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != faces:
        raise UserError(f"{path}: holds {pixels.dtype} {pixels.shape}, but its manifest lists {faces} faces; {again}")
    test = aligned[aligned["split"] == "test"]
    for row, sample, expected in zip(test.index, test["sample"], test["sha256"], strict=True):
        if hashlib.sha256(np.ascontiguousarray(pixels[row]).data).hexdigest() != expected:
            raise UserError(f"{path}, row {row} ({sample}): not the face that was aligned; {again}")


def evaluation_faces(aligned: pd.DataFrame) -> pd.DataFrame:
    """The rows of the manifest that are never trained on, ``EVALUATION_COLUMNS``, sorted by split and sample."""
    rows = aligned.loc[aligned["split"] != "train", EVALUATION_COLUMNS]
    return rows.sort_values(["split", "sample"], ignore_index=True)


def digest_test_faces(aligned: pd.DataFrame) -> dict[str, Any]:
    """The number of test faces (images) and two digests of them (sha256 and source_sha256).

    A digest is the SHA-256 of the lines "sample label hash", sorted by sample, each ended by a newline: ``sha256``
    over the aligned pixels, ``source_sha256`` over the files, which is the same whatever the alignment.
    """
    test = aligned[aligned["split"] == "test"].sort_values("sample")
    digests: dict[str, Any] = {"images": len(test)}
    for name in ("sha256", "source_sha256"):
        rows = zip(test["sample"], test["label"], test[name], strict=True)
        lines = "".join(f"{sample} {label} {value}\n" for sample, label, value in rows)
        digests[name] = hashlib.sha256(lines.encode()).hexdigest()
    return digests
