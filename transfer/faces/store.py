"""Writing the aligned store: one uint8 array on disk, row by row, in any order."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


class StoreWriter:
    """Rows (size, size, 3) uint8 of a .npy file, written where they belong; see :func:`store_writer`."""

    def __init__(self, handle, offset: int, shape: tuple[int, ...]) -> None:
        self.handle, self.offset, self.row_shape = handle, offset, shape[1:]
        self.row_bytes = int(np.prod(self.row_shape))

    def __setitem__(self, row: int, face: np.ndarray) -> None:
        """Write one face. Raises ValueError for another shape or type."""
        if face.shape != self.row_shape or face.dtype != np.uint8:
            raise ValueError(f"a row of the store is uint8 {self.row_shape}, not {face.dtype} {face.shape}")
        self.handle.seek(self.offset + int(row) * self.row_bytes)
        self.handle.write(np.ascontiguousarray(face).data)


@contextmanager
def store_writer(path: Path, rows: int, size: int) -> Iterator[StoreWriter]:
    """Open ``path`` as a (rows, size, size, 3) uint8 .npy file; rows that are not written are zeros.

    Plain writes: what is written through a memory map counts as the process's own memory until the kernel has put it
    onto the disk, 10 GB for AffectNet.
    """
    shape = (rows, size, size, 3)
    with open(path, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        offset = handle.tell()
        handle.truncate(offset + int(np.prod(shape)))
        yield StoreWriter(handle, offset, shape)
