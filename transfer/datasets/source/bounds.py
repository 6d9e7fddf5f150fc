"""How much an archive may hold, so that a small file cannot fill memory or disk."""

from dataclasses import dataclass
from pathlib import Path

from transfer.utils.errors import UserError

MAX_FILES = 10_000_000
"""AffectNet's reduced release has 1.4 million files."""
MAX_TOTAL = 1 << 40
"""Unpacked bytes: AffectNet in full is a tenth of it."""
MAX_RATIO = 100
"""Unpacked to packed bytes. Images do not shrink, csv files shrink to a third, bombs a thousandfold and more."""
FREE = 64 << 20
"""Unpacked bytes that are never too many: the ratio of a small text says nothing."""
MAX_FILE = 4 << 30
"""Bytes of one file that is read into memory; fer2013.csv has 0.3 GB."""


@dataclass
class Bounds:
    """Running sums over an archive's members; ``packed`` is the size of the archive itself in bytes."""

    path: Path
    packed: int
    files: int = 0
    unpacked: int = 0

    def add(self, size: int) -> None:
        """Count one member of ``size`` bytes; UserError if the archive now holds more than is plausible."""
        self.files += 1
        self.unpacked += size
        self.check(self.unpacked)

    def check(self, unpacked: int) -> None:
        """Raise UserError if ``unpacked`` bytes, or the members so far, are more than is plausible."""
        if self.files > MAX_FILES:
            raise UserError(f"{self.path}: more than {MAX_FILES:,} members; refused as a zip bomb")
        if unpacked > MAX_TOTAL:
            raise UserError(f"{self.path}: unpacks to more than {MAX_TOTAL >> 30} GiB; refused as a zip bomb")
        if unpacked > MAX_RATIO * self.packed + FREE:
            raise UserError(
                f"{self.path}: {self.packed:,} bytes unpack to {unpacked:,} or more, over {MAX_RATIO} times as many; "
                "refused as a zip bomb"
            )


def check_file(path: Path, name: str, size: int) -> None:
    """Raise UserError for a file that is too large to be read into memory."""
    if size > MAX_FILE:
        raise UserError(f"{path}: {name!r} has {size:,} bytes; at most {MAX_FILE >> 30} GiB of one file are read")
